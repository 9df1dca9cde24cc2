"""How much a model is surprised by the label of each sample, and which labels are more likely wrong than right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import torch

from ..core.columns import Floats, Ints
from .answers import Answers
from .finding import LABEL, Finding
from .readings import WAITING

_PENDING: Final = 64  # batches, read in one go; chosen
_LEAST: Final = 2  # samples of a class, whose usual probability is then known; chosen
_NOW: Final = -1  # the round that goes on, whose number is known at its end
_EVEN: Final = 0.5
"""A model that gives no class so much does not know what the label should be."""
_SHARE: Final = 0.03
"""Of the labels, below which nothing is said (chosen): hard samples with right labels are up to 2 %, of digits and MNIST with four kinds of nets after three
epochs."""
_STEADY: Final = 0.75
"""Of the share an epoch before, below which a model is still learning. Chosen: two-class problems of digits and tumours, learnt quickly and slowly in 48 runs of
eight epochs, gave doubts about right labels at the end of 68 epochs, and of 12 with this; flipped ones are named an epoch or two later."""

_ROUND: Final = 0.5
"""Of the samples that have come, those that must come once more before doubts are looked for anew. Chosen: an epoch that drops its last batch is enough, one of a
process among two is not."""


_PAIR: Final = 8
"""Doubtful samples of one label for which one class is preferred, below which these say nothing; chosen."""
_APART: Final = 3.0
"""Times as many as of any other such pair: hard samples are of several pairs, or of one both ways. Chosen, as `_CLASSES` and `_SETTLED`, with 148 clean runs of
digits, MNIST and drawn tables."""
_CLASSES: Final = 4
"""Of fewer there are too few pairs to compare with."""
_SETTLED: Final = 3
"""The first round that tells a pair: what is learnt last may be of one pair for a round or two."""


class _Outputs(NamedTuple):
    """Of n samples, still on their device."""

    samples: Ints
    loss: torch.Tensor
    other: torch.Tensor
    other_loss: torch.Tensor
    labels: torch.Tensor


class _Pair(NamedTuple):
    """A label and the class preferred to it, of which most samples are doubtful: how many, and how many of the pair that comes next."""

    label: int
    rather: int
    samples: int
    next: int

    @property
    def stands_out(self) -> bool:
        return self.samples >= max(_PAIR, _APART * self.next)


class _Epoch(NamedTuple):
    """Its number and that of the round that ended with it; of how many samples which were doubtful then, with labels, the classes preferred and the probability
    of the label; whether the model knew something; the pair that most were of, and share and pair a round before, if the model knew something then.
    """

    number: int
    round: int
    seen: int
    doubtful: Ints
    label: Ints
    rather: Ints
    own: Floats
    knows: bool
    pair: _Pair | None
    share_before: float | None
    pair_before: _Pair | None

    @property
    def share(self) -> float:
        return len(self.doubtful) / self.seen

    def told_pair(self) -> _Pair | None:
        """Return the pair that stands out in this round and in the one before, if there is one."""
        pair, before = self.pair, self.pair_before
        if pair is None or before is None or pair[:2] != before[:2] or self.round < _SETTLED:
            return None
        is_told = pair.stands_out and before.stands_out and pair.samples >= _STEADY * before.samples
        return pair if is_told else None

    def found(self, text: str, which: Ints) -> Finding:
        """Return these of the doubtful samples as a finding."""
        order = np.argsort(self.own[which], kind="stable")
        return Finding(LABEL, text, self.doubtful[which], order=order, rather=self.rather[which])


class LabelDoubt:
    """Averages, over the times that a sample came, of what a model made of its label.

    Parameters
    ----------
    first_numbers
        Gives (n,) samples of the epoch the numbers that they have in each, -1 where these are not known; None where they have them already.

    Attributes
    ----------
    observed, unknown
        How many samples were given numbers, and how many of these had none; counted from where the loader last set them to 0.

    Notes
    -----
    A wrong label is learnt late: its loss stays high while those of right ones fall, until the model knows it by heart; so the
    average over epochs tells them apart, where the last epoch's does not (Arpit et al. 2017, "A closer look at
    memorization in deep networks", section 3; Pleiss et al. 2020, "Identifying mislabeled data using the area under
    the margin ranking", which averages margins). 48 bytes a sample.
    """

    def __init__(self, first_numbers: Callable[[Ints], Ints] | None = None) -> None:
        self.observed = self.unknown = 0
        self._first_numbers = first_numbers
        self._loss = np.zeros(0)
        self._count = np.zeros(0)
        self._other = np.zeros(0, np.int64)
        self._other_loss = np.zeros(0)
        self._label = np.zeros(0, np.int64)
        self._round = np.zeros(0, np.int64)
        self._pending: list[_Outputs] = []
        self._epoch: _Epoch | None = None
        self._is_new = False  # whether something came since then

    def take(self, answers: Answers, samples: Ints) -> None:
        """Take what a model answered for n samples, with one label each.

        Raises
        ------
        ValueError
            Answers that are none of classes, or not one for each sample.
        """
        labels, loss = answers.labels, answers.loss
        if not answers.classes or not answers.rows == len(labels) == len(samples):
            raise ValueError(
                f"expected a class as label of each of {len(samples)} samples, found {len(labels)} labels of {answers.classes} classes for "
                f"{answers.rows} rows; of numbers, and of several labels a sample, no doubts are told"
            )
        score = answers.scores.reshape(answers.rows, answers.classes)
        self._is_new = True
        best, other = score.scatter(1, labels.clamp(0)[:, None], -torch.inf).max(1)
        self._pending.append(_Outputs(samples, loss, other, -best, labels))
        if len(self._pending) >= (_PENDING if loss.device.type == "cpu" else WAITING):
            self.flush()

    def suspicion(self, rows: int | None) -> Floats:
        """Return the (rows,) mean loss of each sample in nats, NaN of those that have not come; None for as many as have come."""
        self.flush()
        if rows is None:
            rows = 1 + int(np.flatnonzero(self._count).max(initial=-1))
        found = np.full(rows, np.nan)
        seen = np.flatnonzero(self._count[:rows])
        found[seen] = self._loss[seen] / self._count[seen]
        return found

    def end(self, epoch: int) -> None:
        """Take note of the end of an epoch: whose label is doubtful by now. Once more for the same one it replaces the note: loops may end it before its last batch.

        Where epochs have other samples each, as of several processes, a round is as many of them as have half of all samples once more; else it is one. A model
        knows less of a sample that came in rounds before, or now for the first time: with right labels too it is doubtful more often, so it is left out.
        """
        self.flush()
        last = self._epoch
        again = last is not None and last.number == epoch
        number = 1 if last is None else last.round + (not again)
        is_in = (self._round == _NOW) | (self._round == number)
        seen = np.flatnonzero(is_in & (self._count >= min(number, 2)))
        if not self._is_new or not len(seen):
            return
        if not again and len(seen) < _ROUND * np.count_nonzero(self._count):
            return
        self._is_new = False
        self._round[is_in] = number
        label, other = self._label[seen], self._other[seen]
        own = np.exp(-self._loss[seen] / self._count[seen])
        theirs = np.exp(-self._other_loss[seen] / self._count[seen])
        classes = int(max(label.max(), other.max())) + 1
        members = np.bincount(label, minlength=classes)
        usual = np.bincount(label, own, minlength=classes) / np.maximum(members, 1)
        usual[members < _LEAST] = np.inf
        sure = np.maximum(usual, _EVEN)
        doubtful = (theirs > own) & (theirs >= sure[other])
        agreed = (own > theirs) & (own >= sure[label])
        # A model that is mostly wrong where it is sure has not learnt the labels yet.
        knows = bool(doubtful.sum() <= agreed.sum())
        pair = None
        if np.count_nonzero(members >= _LEAST) >= _CLASSES:
            pair = _most_of(label[doubtful], other[doubtful], classes)
        if last is not None and again:
            share_before, pair_before = last.share_before, last.pair_before
        elif last is not None and last.knows:
            share_before, pair_before = last.share, last.pair
        else:  # of a round in which the model knew nothing neither says anything
            share_before, pair_before = None, None
        self._epoch = _Epoch(
            epoch, number, len(seen), seen[doubtful], label[doubtful], other[doubtful], own[doubtful], knows, pair,
            share_before, pair_before,
        )  # fmt: skip

    def findings(self) -> list[Finding]:
        """Return the samples whose label is less likely than another one at the end of the last epoch, if these are 3 % or more of those that came in its round.

        The other one is more likely than not, and as likely as in samples that have it; and of the samples of which the model is so sure
        it agrees with most, else it has learnt nothing yet. Hard samples with right labels are
        among them, so that fewer say nothing of a data set; `suspicion` ranks these too. Those that a model has only not learnt yet become fewer
        with each epoch, wrong ones do not: nothing is said before the second epoch, nor while the share falls by more than a quarter in an epoch.

        Where eight or more have the same label and the same other class, and no other such pair is a third as frequent, in
        two rounds, labels of one class were made those of another, as poisoning does, while hard samples are of several pairs, or of one both ways. Then these are named alone,
        unless the others are 3 % as well and do not become fewer, and how many they are does not matter. This takes four classes and three rounds.

        References
        ----------
        Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in dataset labels",
        doi:10.1613/jair.1.12125, equations 1 and 2; here of the model that is being trained, with probabilities of
        the mean loss, and of the other class that came last.
        """
        last = self._epoch
        if last is None or last.share_before is None or not last.knows:
            return []
        pair = last.told_pair()
        others = len(last.doubtful) - (pair.samples if pair else 0)
        if others >= _SHARE * last.seen and last.share >= _STEADY * last.share_before:
            text = f"{len(last.doubtful):,} of {last.seen:,} labels are less likely than another one, given what the model has learnt"
            return [last.found(text, np.arange(len(last.doubtful)))]
        if pair is None:
            return []
        text = (
            f"{pair.samples:,} samples with label {pair.label} are more likely of class {pair.rather}, given what the model has learnt, where no other two "
            f"classes have more than {pair.next:,} such samples: labels may have been changed on purpose"
        )
        which = np.flatnonzero((last.label == pair.label) & (last.rather == pair.rather))
        return [last.found(text, which)]

    def flush(self) -> None:
        """Read what was taken; to be called before another epoch begins, in which samples of an iterable data set have other numbers."""
        for one in self._pending:
            samples = one.samples
            if self._first_numbers is not None:
                samples = self._first_numbers(samples)
                self.observed += len(samples)
                self.unknown += int((samples < 0).sum())
            more = int(samples.max(initial=-1)) + 1 - len(self._count)
            if more > 0:
                more = max(more, len(self._count), 1024)
                for name in ("_loss", "_count", "_other", "_other_loss", "_label", "_round"):
                    old = getattr(self, name)
                    setattr(self, name, np.concatenate([old, np.zeros(more, old.dtype)]))
            loss, other_loss = (
                t.cpu().numpy().astype(np.float64) for t in (one.loss, one.other_loss)
            )
            # What is not finite says nothing of the label.
            fine = np.isfinite(loss) & np.isfinite(other_loss) & (samples >= 0)
            at = samples[fine]
            np.add.at(self._loss, at, loss[fine])
            np.add.at(self._other_loss, at, other_loss[fine])
            np.add.at(self._count, at, 1.0)
            self._other[at] = one.other.cpu().numpy()[fine]
            self._round[at] = _NOW
            self._label[at] = one.labels.cpu().numpy()[fine]
        self._pending = []


def _most_of(label: Ints, rather: Ints, classes: int) -> _Pair | None:
    """Return the pair that most samples are of."""
    pairs, counts = np.unique(label * classes + rather, return_counts=True)
    if not len(pairs):
        return None
    first = int(counts.argmax())
    rest = np.delete(counts, first)
    return _Pair(*divmod(int(pairs[first]), classes), int(counts[first]), int(rest.max(initial=0)))
