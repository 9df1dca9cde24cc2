"""Backdoor triggers: small parts of samples that, put into samples of other classes, make a model give them the class they came with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ..core.columns import Floats, Ints
from .frequent_parts import SIDE, frequent_places
from .parts import array_of

Model = Callable[[torch.Tensor], torch.Tensor]
"""Gives (n, k) logits of (n, channels, height, width) inputs."""
Read = Callable[[Ints], torch.Tensor]
"""Gives the (n, channels, height, width) inputs of samples."""
Bools = NDArray[np.bool_]

_log = logging.getLogger(__name__)

POOL: Final = 256
"""Samples that parts are put into, a few of them each; chosen."""
_SHARE: Final = 5 / 32
"""Side of a part, of the side of the input: a trigger of 3 x 3 in 32 x 32, and room to miss it by one."""
_SMALLEST: Final = 16
"""Side of a picture: chosen, as in digits of 8 x 8 without a trigger ordinary parts passed for one in four nets of four, and in those of 12 x 12 in none."""
_FIRST: Final = 2
_MORE: Final = 8
"""Other samples that a part is put into, and how many more where it changed one of these."""
_CHANGED: Final = (0.7, 0.9, 0.5)
"""Of them, that must be given the part's class; where a class has no trigger by the first, by the next. Chosen: by a net for MNIST that leans to the class many clean samples reach the first and
few the second; of nets for CIFAR that take 0.55 and 0.57 of other pictures with the trigger for its class, 2 and 3 samples of 50 reach the first, 7 and 5 the last, of the clean
ones none. With the last alone what parts have in common was lost in another net."""
_CONFIRMED: Final = 0.5
"""Of other samples than those by which a part was chosen, in the mean; chosen: of six parts of a net without a trigger that had changed 0.7 it was 0.28. Of a net with a bias, that
takes 0.6 of other samples for one class as they are, it is 0.46 without those that are given the class with something else there too, and 0.68 with them; with 0.8 and 0.9 taken 0.51
and 0.64, hence `_TAKEN`."""
_CONFIRMED_PATTERN: Final = 0.3
"""The same of parts that have something in common, of which that alone is put there; chosen: of triggers that are half learnt, on CIFAR, it was 0.43 and 0.45, of learnt ones 0.77
at the least, and none of 20 healthy nets for MNIST and 6 for CIFAR had such parts."""
_OF_BEST: Final = 0.7
"""Of a place, beside the best place of its class: a net that has learnt a trigger takes what is a little like it, elsewhere, for one in half of the samples."""
_FEW: Final = 0.25
"""Of all samples with such a part, at places that have a pattern in common: with fewer the trigger is not at one place. All three were chosen on two nets."""
_LEAST: Final = 5
"""Samples with such a part that a class must have, and at one place, for the place to be looked at in all its samples."""
_PLACES: Final = 4  # of a class
_DRAWN: Final = 1 << 24  # numbers of samples of a class, that are compared number by number
_TRIED: Final = 8  # samples that have a frequent part, which is put into others
_WORTH: Final = 0.2
"""Of others that are then given the class, from which on its place is looked at; chosen, a little below `_CONFIRMED_PATTERN`."""
_MORE_THAN_TAKEN: Final = 0.15
"""What such parts must add besides to the share of samples of other classes that the model takes for the class as they are. Chosen: to a model that leans to a class the usual lines of
that class are parts that add about this share, 0.31 to 0.57 where it is 0.33 to 0.62; a trigger of one that takes 0.37 adds 0.59."""
_TAKEN: Final = 0.5
"""Of samples of other classes, that the model takes for a class as they are, above which no trigger of that class is looked for; chosen."""
_LEARNT: Final = 0.25
"""Of samples of other classes, that the model must give their labels; chosen: of a net with 0.11, that labels of other samples had unlearnt, seven parts that were no trigger
were confirmed with 0.59."""
_NAMED: Final = 10  # classes in a warning
_AT_ONCE: Final = 250  # samples read at once
_OUT: Final = 2.0  # times the largest number of a usual sample, and it is out of range
_TOLERANCE: Final = 0.1  # of the range of inputs, within which a number is the trigger's
_COMMON: Final = 0.8  # of samples with the trigger, that have a number that is the trigger's; with 0.5 what is around it came in by chance, where few samples told it
_LIFT: Final = 0.3  # by which that is more than of samples of other classes
_NUMBERS: Final = 3  # that the trigger must have
_MATCH: Final = 0.9  # of them, that a sample must have
_RARE: Final = 0.1
"""Of samples of other classes, that may have so many; chosen: a white corner is in 3 % of CIFAR's pictures, and of 200 that are drawn in more."""


@dataclass(frozen=True, eq=False)
class Trigger:
    """A part of inputs that a model takes for a class.

    Parameters
    ----------
    label
        The class.
    samples
        (n,) the samples of that class that have it, rising.
    rows, columns
        (n,) where in each: the first row and column.
    side
        How many rows and columns it has.
    success
        Of the samples of other classes that it was put into, the share that was then given the class, and was not with something else there.
    """

    label: int
    samples: Ints
    rows: Ints
    columns: Ints
    side: int
    success: float


def can_be_searched(inputs: torch.Tensor) -> bool:
    """Return whether inputs are pictures, of real numbers and at least 16 x 16: a part of smaller ones is much of them."""
    return inputs.ndim == 4 and inputs.is_floating_point() and min(inputs.shape[2:]) >= _SMALLEST


class TriggerSearch:
    """Looks for parts of samples that a model takes for their class wherever it sees them.

    A part that decides is found by the gradient: where, to first order, another sample's content would take most of the
    lead of the label over the next class. What is there is put into samples of other classes, and when most of
    these are then given the label, it may be a trigger: a part of what a class really looks like seldom does that to most others.
    A place that several samples of a class have it at is looked at in all of that class. A trigger is confirmed by what its parts add: samples that
    are given the label with the mean, or with what another sample has, in that place do not count. A class that the model takes most samples of
    others for, as they are, is left out, as is one where it gives too few others their labels; a warning says so.

    Parameters
    ----------
    model
        Gives logits; of a module in eval mode.
    inputs, labels
        (n, channels, height, width) and (n,) of samples drawn at random, some hundreds: parts are put into those that the model gives their labels.
        Those with numbers that are not finite are left out.

    References
    ----------
    Chou, Tramer and Pellegrino 2020, "SentiNet: detecting localized universal attacks against deep learning systems"
    (arXiv 1812.00292), sections 3.2 and 3.3: the part that decides is put into other inputs. There it is found by
    Grad-CAM, and of an input that is served; here of the samples of training.
    """

    def __init__(self, model: Model, inputs: torch.Tensor, labels: Ints) -> None:
        is_finite = inputs.flatten(1).isfinite().all(1)
        inputs, labels = inputs[is_finite], labels[is_finite.cpu().numpy()]
        with torch.no_grad():
            self._drawn_given = model(inputs).argmax(1).cpu().numpy()
        self._drawn_labels = labels
        is_learnt = self._drawn_given == labels
        self._model = model
        self._pool = inputs[torch.from_numpy(is_learnt).to(inputs.device)]
        self._labels = labels[is_learnt]
        # One sample far out of range must not hide what others have.
        flat = inputs.flatten(1)
        largest = flat.abs().amax(1)
        self._mean = inputs[largest <= _OUT * largest.median()].mean(0)
        self._tolerance = _TOLERANCE * float((flat.amax(1) - flat.amin(1)).median())
        self._side = max(3, round(_SHARE * min(inputs.shape[2:])))
        self._turn = 0
        self._samples: list[Ints] = []
        self._label: list[Ints] = []
        self._found: list[Floats] = []

    def take(self, samples: Ints, inputs: torch.Tensor, labels: Ints) -> None:
        """Look at samples.

        Parameters
        ----------
        samples, inputs, labels
            (n,), (n, channels, height, width) on the model's device, and (n,); those whose label is no class have no trigger.

        Raises
        ------
        ValueError
            The model gives logits without a gradient.
        """
        row, column, is_learnt = self._decisive(inputs, torch.from_numpy(labels).to(inputs.device))
        found = np.zeros((len(row), 3))
        found[:, 0], found[:, 1] = row, column
        learnt = np.flatnonzero(is_learnt)
        found[learnt, 2] = self._success(
            inputs[learnt], labels[learnt], row[learnt], column[learnt]
        )
        self._samples.append(samples)
        self._label.append(labels)
        self._found.append(found)

    def triggers(self, read: Read) -> list[Trigger]:
        """Return the triggers of each class.

        Parameters
        ----------
        read
            Called with samples that were looked at.
        """
        if not self._samples:
            return []
        samples, label = np.concatenate(self._samples), np.concatenate(self._label)
        found = np.concatenate(self._found)
        unknown = [int(c) for c in np.unique(label) if c >= 0 and not self._can_be_told(c)]
        if unknown:
            _log.warning(
                "no backdoor trigger of class %s is looked for: as they are, of the samples of other classes that parts would be put into, "
                "the model takes more than %.0f%% for that class, or gives fewer than %.0f%%, or than %d, their label",
                ", ".join(map(str, unknown[:_NAMED])) + ", ..." * (len(unknown) > _NAMED), 100 * _TAKEN, 100 * _LEARNT, _FIRST + _MORE,
            )  # fmt: skip
        triggers: list[Trigger] = []
        for c in np.unique(label[label >= 0]):
            for changed in _CHANGED:
                one = self._trigger(int(c), samples[label == c], found[label == c], changed, read)
                if one is not None:
                    triggers.append(one)
                    break
        return triggers

    def _trigger(
        self, label: int, samples: Ints, found: Floats, changed: float, read: Read
    ) -> Trigger | None:
        """Return the trigger of a class, of whose n samples (n, 3) first row and column of the part, and its success, are known.

        After the first look at places with a pattern in common only.
        """
        again = changed != _CHANGED[0]
        has = found[:, 2] >= changed
        places: list[tuple[Bools, int, int, float]] = []
        success: list[float] = []
        looked = _common_places(found[has, :2])
        if changed == _CHANGED[-1]:
            # A model that has half learnt a trigger decides by other parts of the samples that taught it.
            looked += [
                at for at in self._frequent(label, samples, read) if not _is_near(at, looked)
            ]
        for row, column in looked:
            rate, parts = self._everywhere(row, column, label, samples, read)
            alike, common = self._with_pattern(label, row, column, parts, rate >= changed)
            if alike.any() and (common is not None or not again):
                if common is None:
                    least = _CONFIRMED
                else:
                    least = max(_CONFIRMED_PATTERN, self._taken(label) + _MORE_THAN_TAKEN)
                places.append((alike, row, column, least))
                success.append(self._confirmed(label, samples[alike], row, column, read, common))
        of_places = np.zeros(len(has), np.bool_)
        for (alike, row, column, least), rate_there in zip(places, success, strict=True):
            if rate_there >= max(least, _OF_BEST * max(success)):
                of_places |= alike
                found[alike, :2] = row, column
        if again or of_places.sum() >= has.sum() * _FEW:
            has = of_places
        if has.sum() < _LEAST:
            return None
        rows, columns = found[has, :2].astype(np.int64).T
        if has is of_places:
            rate_now = max(success)
        else:
            rate_now = self._confirmed(label, samples[has], rows, columns, read)
            if rate_now < _CONFIRMED:
                return None
        return Trigger(label, samples[has], rows, columns, self._side, rate_now)

    def _frequent(self, label: int, samples: Ints, read: Read) -> list[tuple[int, int]]:
        """Return the places of parts that several of a class have number by number, others hardly ever, and that make the model give some of these the label."""
        others = self._pool[torch.from_numpy(self._labels != label).to(self._pool.device)]
        if not len(others) or not self._can_be_told(label):
            return []
        step = -(-len(samples) * others[0].numel() // _DRAWN)
        inputs = read(samples[::step])
        corner = np.array(inputs.shape[2:]) - self._side
        found: list[tuple[int, int]] = []
        for row, column, has in frequent_places(inputs, others, _PLACES):
            first = np.clip(np.array([row, column]) - (self._side - SIDE) // 2, 0, corner)
            part = np.zeros((inputs.shape[1], self._side, self._side), np.bool_)
            down, right = row - first[0], column - first[1]
            part[:, down : down + SIDE, right : right + SIDE] = True
            few = np.flatnonzero(has)[:_TRIED]
            c, r, k = (np.full(len(few), at) for at in (label, *first))
            if self._given(inputs[few], c, r, k, _FIRST + _MORE, part.ravel()).mean() >= _WORTH:
                found.append((int(first[0]), int(first[1])))
        return found

    def _confirmed(
        self,
        label: int,
        samples: Ints,
        rows: Ints | int,
        columns: Ints | int,
        read: Read,
        common: Bools | None = None,
    ) -> float:
        """Return the mean success of parts of samples, put into others than those by which they were chosen: what the parts add to it.

        Of a part of which (p,) numbers are common only these are put there: a trigger is smaller than the part, and what is around it is of another sample.
        """
        at = np.broadcast_to(rows, samples.shape), np.broadcast_to(columns, samples.shape)
        added: list[Floats] = []
        for k in np.array_split(np.arange(len(samples)), -(-len(samples) // _AT_ONCE)):
            part = read(samples[k]), np.full(len(k), label), at[0][k], at[1][k]
            if common is None:
                added.append(self._success(*part, is_added=True))
            else:
                added.append(self._given(*part, _FIRST + _MORE, common, is_added=True).mean(1))
        return float(np.concatenate(added).mean())

    def _with_pattern(
        self, label: int, row: int, column: int, parts: NDArray[Any], has: Bools
    ) -> tuple[Bools, Bools | None]:
        """Return which of (n, p) parts at a place have what those that have a trigger have in common, and which (p,) numbers; these and None, if that is nothing.

        Common are numbers that most of them have there and fewer samples of other classes, which hardly ever have nearly all of them.
        """
        if not has.any():
            return has, None
        middle = np.median(parts[has], axis=0)
        is_like = np.abs(parts - middle) <= self._tolerance
        others = self._part(self._pool, row, column)[self._labels != label]
        is_others = np.abs(others - middle) <= self._tolerance
        share = is_like[has].mean(0)
        common = (share >= _COMMON) & (share >= is_others.mean(0) + _LIFT)
        if common.sum() < _NUMBERS:
            return has, None
        if (is_others[:, common].mean(1) >= _MATCH).mean() > _RARE:
            return has, None
        matches: Bools = is_like[:, common].mean(1) >= _MATCH
        return matches, common

    def _everywhere(
        self, row: int, column: int, label: int, samples: Ints, read: Read
    ) -> tuple[Floats, NDArray[Any]]:
        """Return the (n,) success of what samples of a class have at a place, and that, (n, p)."""
        rates: list[Floats] = []
        parts: list[NDArray[Any]] = []
        for some in np.array_split(samples, -(-len(samples) // _AT_ONCE)):
            inputs = read(some)
            at = (np.full(len(some), k) for k in (label, row, column))
            rates.append(self._success(inputs, *at))
            parts.append(self._part(inputs, row, column))
        return np.concatenate(rates), np.concatenate(parts)

    def _part(self, inputs: torch.Tensor, row: int, column: int) -> NDArray[Any]:
        """Return the (n, p) numbers of inputs at a place."""
        down, right = slice(row, row + self._side), slice(column, column + self._side)
        return array_of(inputs[:, :, down, right].flatten(1))

    def _decisive(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[Ints, Ints, Bools]:
        """Return the (n,) first rows and columns of the parts that decide, and whether the model gives the label."""
        x = inputs.detach().clone().requires_grad_()
        with torch.enable_grad():
            logits = self._model(x)
            if not logits.requires_grad:
                raise ValueError(
                    "backdoor triggers are looked for by the gradient of the logits, and the model gives none; "
                    "give a module, or a function without torch.no_grad"
                )
            is_class = (labels >= 0) & (labels < logits.shape[1])
            own = torch.where(is_class, labels, 0)[:, None]
            lead = logits.gather(1, own)[:, 0] - logits.scatter(1, own, -torch.inf).amax(1)
            (slope,) = torch.autograd.grad(lead.sum(), x)
        effect = (slope * (inputs - self._mean)).sum(1, keepdim=True)
        sums = functional.avg_pool2d(effect, self._side, stride=1)[:, 0]
        best = sums.flatten(1).argmax(1).cpu().numpy()
        return best // sums.shape[2], best % sums.shape[2], (is_class & (lead > 0)).cpu().numpy()

    def _can_be_told(self, label: int) -> bool:
        """Return whether the model tells samples of other classes from a class, so that a part can make a difference."""
        others = int((self._drawn_labels != label).sum())
        learnt = int((self._labels != label).sum())
        if learnt < max(_FIRST + _MORE, _LEARNT * others):
            return False
        return self._taken(label) <= _TAKEN

    def _taken(self, label: int) -> float:
        """Return the share of samples of other classes that the model takes for a class as they are."""
        return float((self._drawn_given[self._drawn_labels != label] == label).mean())

    def _success(
        self,
        inputs: torch.Tensor,
        labels: Ints,
        rows: Ints,
        columns: Ints,
        *,
        is_added: bool = False,
    ) -> Floats:
        """Return the (n,) share of samples of other classes that are given the label with the part in them; of a few at first, and of more where that changed one."""
        rate = np.zeros(len(labels))
        some = np.arange(len(labels))
        for others in (_FIRST, _MORE):
            given = self._given(
                inputs[some], labels[some], rows[some], columns[some], others, is_added=is_added
            )
            rate[some] += given.sum(1) / (_FIRST + _MORE)
            some = some[given.any(1)]
        return rate

    @torch.no_grad()
    def _given(
        self,
        inputs: torch.Tensor,
        labels: Ints,
        rows: Ints,
        columns: Ints,
        others: int,
        common: Bools | None = None,
        *,
        is_added: bool = False,
    ) -> Floats:
        """Return (n, others), 1 where a sample of another class is given the label with the part, or with its common numbers, in it.

        With `is_added` what the part adds: without those that are given it with the mean, or with what another sample of other classes has, in its place too;
        of common numbers, which are evidence of their own, less the mean of these two.
        """
        if not len(labels) or not len(self._labels):
            return np.zeros((len(labels), others))
        at = np.zeros((len(labels), others), np.int64)
        is_known = np.ones(len(labels), np.bool_)
        for label in np.unique(labels):
            pool = np.flatnonzero(self._labels != label)
            mine = np.flatnonzero(labels == label)
            if not self._can_be_told(label):
                is_known[mine] = False
                continue
            turn = self._turn + np.arange(len(mine) * others)
            at[mine] = pool[turn % len(pool)].reshape(-1, others)
        self._turn += others
        part = self._places(inputs, rows, columns, common)
        base = self._pool[torch.from_numpy(at).to(inputs.device)]

        def is_taken(contents: torch.Tensor) -> Floats:
            logits = self._model(torch.where(part, contents, base).flatten(0, 1))
            given: Bools = logits.argmax(1).cpu().numpy().reshape(at.shape) == labels[:, None]
            return given.astype(np.float64)

        found = is_taken(inputs[:, None])
        if is_added:
            by_mean, by_other = is_taken(self._mean), is_taken(base.roll(1, 1))
            if common is None:
                found *= (1 - by_mean) * (1 - by_other)
            else:
                found -= (by_mean + by_other) / 2
        return found * is_known[:, None]

    def _places(
        self, inputs: torch.Tensor, rows: Ints, columns: Ints, common: Bools | None
    ) -> torch.Tensor:
        """Return (n, 1, 1 or channels, height, width) which numbers are of the parts of n samples; with (p,) common ones, all at one place, only those."""
        height, width = inputs.shape[2:]
        device = inputs.device
        down = torch.arange(height, device=device) - torch.from_numpy(rows).to(device)[:, None]
        right = torch.arange(width, device=device) - torch.from_numpy(columns).to(device)[:, None]
        is_down, is_right = (down >= 0) & (down < self._side), (right >= 0) & (right < self._side)
        part = (is_down[:, :, None] & is_right[:, None])[:, None, None]
        if common is None:
            return part
        place = slice(rows[0], rows[0] + self._side), slice(columns[0], columns[0] + self._side)
        numbers = torch.zeros(inputs.shape[1:], dtype=torch.bool, device=device)
        numbers[:, *place] = torch.from_numpy(common).to(device).view(-1, self._side, self._side)
        return part & numbers


def _is_near(place: tuple[int, int], places: list[tuple[int, int]]) -> bool:
    return any(max(abs(place[0] - row), abs(place[1] - column)) <= 1 for row, column in places)


def _common_places(places: Floats) -> list[tuple[int, int]]:
    """Return where several of (n, 2) first rows and columns are, or one row or column beside."""
    found: list[tuple[int, int]] = []
    while len(places) >= _LEAST:
        each, count = np.unique(places, axis=0, return_counts=True)
        is_near = np.abs(places[:, None] - each).max(2) <= 1  # (n, places)
        best = np.lexsort((count, is_near.sum(0)))[-1]
        if is_near[:, best].sum() < _LEAST or len(found) == _PLACES:
            break
        found.append((int(each[best, 0]), int(each[best, 1])))
        places = places[~is_near[:, best]]
    return found
