"""What looks at the batches of a watched loader: sums and keys while they pass, findings when they are asked for."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from ..detectors.content_keys import content_keys
from .arrivals import Arrivals
from .batch import BatchInfo
from .column_sums import HUGE, WIDEST, channel_means
from .contents import Contents
from .drift import Drift, Features
from .duplicates import Read, is_chance, repeated_shards, within
from .finding import NOT_FINITE, ORDER, OUT_OF_RANGE, Finding, counted
from .parts import COLUMNS, Part, array_of, broken_beside, parts
from .readings import WAITING

_PENDING: Final = 64  # batches, whose numbers are read in one go; chosen
_MOST: Final = 1 << 24
"""Samples of which something is kept, by their index."""
_SINGLE: Final = float(np.finfo(np.float32).max)
_BULK: Final = (0.01, 0.99)
_COMMON: Final = 0.5
"""Of a column's samples that have one value: then the others say how far it reaches (chosen)."""
_REST: Final = 200  # others, of which the bulk is taken then; chosen
_FENCES: Final = {"image": 1.0, "table": 10.0, "vector": 10.0, "other": 10.0}
"""How far outside the bulk of samples an input may be, in widths of the bulk, when no range is given. The extremes of a
picture are those of hundreds of numbers and hardly vary; a column may have a long tail: 1 in a million of a lognormal one is
10 widths out (chosen)."""


class _Look(NamedTuple):
    """Numbers of a batch that are still on its device; `rows` are (n, k), what drift compares."""

    info: BatchInfo
    low: torch.Tensor
    high: torch.Tensor
    features: Features
    rows: torch.Tensor
    labels: torch.Tensor | None
    beside: torch.Tensor | None
    """(n,) which samples have other numbers that are NaN or infinite."""


class _Sample(NamedTuple):
    """A sample that came without a batch, as the only row of its inputs and labels."""

    info: BatchInfo
    inputs: torch.Tensor
    labels: torch.Tensor | None
    beside: torch.Tensor | None


class Inspection:
    """Looks at batches, and keeps of each sample some bytes.

    Parameters
    ----------
    inputs, labels
        How they are found in a batch, see `parts`.
    value_range
        (low, high) that inputs must be within; None to learn it.
    is_iterable
        Whether samples are numbers of the order of arrival.
    """

    def __init__(
        self,
        inputs: Part = None,
        labels: Part = None,
        value_range: tuple[float, float] | None = None,
        *,
        is_iterable: bool = False,
    ) -> None:
        self.inputs, self.labels = inputs, labels
        self.contents = Contents()
        self.unread = 0
        """Batches whose rows could not be told apart: without inputs, or of another number of rows than samples."""
        self.is_readable = True
        """Whether samples may be read once more, outside of the loader's workers: until that has failed."""
        self.label_of = np.empty(0, np.int64)
        """(m,) the label of each sample, -1 for an unknown one."""
        self._range = value_range
        self._is_iterable = is_iterable
        self._arrivals = Arrivals(self.contents)
        self._low, self._high = np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)
        self._bad = np.empty(0, np.int32)
        self._is_beside = False  # any of them by what is beside the inputs
        self._is_seen = np.empty(0, np.bool_)
        self._pending: list[_Look] = []
        self._alone: list[_Sample] = []
        self._epoch_keys: list[tuple[int | None, NDArray[np.uint64]]] = []
        self._drift = Drift()
        self._order: Any = None
        self._is_sorted, self._last, self._count = True, -1, 0
        self._digest = b""  # of the order of the epoch before; empty for a sorted one
        self._kept: list[Finding] = []
        """Of what was found epoch by epoch, and lasts, the first."""
        self._lasting: set[tuple[str, str]] = set()
        """What the epoch before had, by kind and what it is about."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_order": None}  # hashes cannot be copied to a file

    def take(self, batch: Any, info: BatchInfo, *, is_sample: bool = False) -> None:
        """Look at a batch, or at a sample that came without one; nothing waits for its device."""
        x, y = parts(batch, self.inputs, self.labels, is_sample=is_sample)
        beside = None if x is None else broken_beside(batch, x, is_sample=is_sample)
        self._arrivals.goes_on()
        self._ordered(info.samples)
        if not is_sample or x is None:
            self._take(x, y, beside, info)
            return
        self._alone.append(_Sample(info, x.clone(), y, beside))
        if len(self._alone) >= _PENDING:
            self._join()

    def _join(self) -> None:
        """Look at samples that came without a batch, at those of one worker and shape in one go."""
        groups: dict[Any, list[_Sample]] = {}
        for one in self._alone:
            kind = (
                one.info.worker, one.inputs.shape, one.inputs.dtype, one.labels is None, one.beside is None,
            )  # fmt: skip
            groups.setdefault(kind, []).append(one)
        self._alone = []
        for group in groups.values():
            samples = np.concatenate([one.info.samples for one in group])
            labels = [one.labels for one in group if one.labels is not None]
            beside = [one.beside for one in group if one.beside is not None]
            self._take(
                torch.cat([one.inputs for one in group]), torch.cat(labels) if labels else None,
                torch.cat(beside) if beside else None, replace(group[0].info, samples=samples),
            )  # fmt: skip

    def _take(
        self,
        x: torch.Tensor | None,
        y: torch.Tensor | None,
        beside: torch.Tensor | None,
        info: BatchInfo,
    ) -> None:
        samples = info.samples
        if (
            x is None
            or not x.numel()
            or x.is_meta
            or x.is_quantized
            or len(x) != len(samples)
            or samples.min() < 0
            or samples.max() >= _MOST
        ):
            self.unread += 1
            return
        flat = x.reshape(len(x), -1)
        if flat.dtype not in (torch.float32, torch.float64):
            flat = flat.float()
        features: Features = "summaries"
        if x.ndim < 3 and flat.shape[1] <= COLUMNS:
            # Each column is looked at for itself; the loop may change its batch in place before the numbers are read.
            features = "columns"
            low = high = rows = flat.clone() if flat.data_ptr() == x.data_ptr() else flat
        else:
            low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
            size = torch.linalg.vector_norm(flat, dim=1, keepdim=True) / flat.shape[1] ** 0.5
            is_fine = (low > -HUGE) & (high < HUGE)
            channels = channel_means(x, flat)
            if channels is not None:
                self._drift.parts.add("channel", channels, is_fine, info.worker)
                mean = channels.mean(1, keepdim=True)
            else:
                mean = flat.mean(1, keepdim=True)
                if x.ndim < 3 and flat.shape[1] <= WIDEST:
                    self._drift.parts.add("column", flat, is_fine, info.worker)
            rows = torch.cat([mean, size], 1)
        labels = None if y is None else y.clone()
        self._pending.append(_Look(info, low, high, features, rows, labels, beside))
        is_here = x.device.type == "cpu"
        if is_here:
            self._content(x, info)
        if len(self._pending) >= (_PENDING if is_here else WAITING):
            self._flush()

    def end(self, epoch: int) -> None:
        """Take note of the end of an epoch, or of its having been left."""
        self._flush()
        self._arrivals.end()
        found: list[Finding] = []
        if self._is_iterable:
            found += self._repeated(epoch)
            self._epoch_keys = []
        found += self._drift.end(epoch)
        if self._order is not None:
            before, self._digest = (
                self._digest,
                b"" if self._is_sorted else self._order.digest(),
            )
            if self._digest and self._digest == before and self._count > 8:
                text = f"epoch {epoch} has its samples in the order of the one before; call set_epoch, or shuffle anew"
                found.append(Finding(ORDER, text, epoch=epoch))
        self._keep(found)
        self._order, self._is_sorted, self._last, self._count = None, True, -1, 0

    def first_numbers(self, samples: Ints) -> Ints:
        """Return the (n,) numbers that samples of this epoch have in the data set; of an iterable one those of the epoch in which they came first, -1 for unknown."""
        if not self._is_iterable:
            return samples
        self._join()
        return self._arrivals.numbers(samples)

    def findings(self, read: Read | None = None) -> list[Finding]:
        """Return what was found up to now; `read` gives inputs by sample, see `within`."""
        self._flush()
        twice = within(self.contents, self.label_of, read)
        return [*self._ranges(), *twice, *self._kept]

    def _repeated(self, epoch: int) -> list[Finding]:
        found = repeated_shards(self._epoch_keys, epoch)
        pairs = sum(len(one.samples) for one in found)
        count = self.contents.count
        if found and is_chance(self.contents.chance() * count * (count - 1) / 2, pairs):
            return []
        return found

    def _keep(self, found: list[Finding]) -> None:
        """Keep what the epoch before had not."""
        now = {(one.kind, one.about): one for one in found}
        self._kept += [one for about, one in now.items() if about not in self._lasting]
        self._lasting = set(now)

    def _ordered(self, samples: Ints) -> None:
        self._order = self._order or hashlib.blake2b(digest_size=8)
        self._order.update(samples.tobytes())
        if len(samples):
            self._is_sorted &= bool(samples[0] >= self._last and (np.diff(samples) >= 0).all())
            self._last = int(samples[-1])
        self._count += len(samples)

    def _content(self, x: torch.Tensor, info: BatchInfo) -> None:
        """Make keys of samples that come for the first time; of iterable data sets in each epoch."""
        samples = info.samples
        self._grow(int(samples.max()) + 1)
        new = ~self._is_seen[samples]
        if new.any():  # a sample that a sampler draws twice for a batch is no duplicate of itself
            is_first = np.zeros(len(samples), np.bool_)
            is_first[np.unique(samples, return_index=True)[1]] = True
            new &= is_first
        if not self._arrivals.is_first and self._is_iterable:
            new[:] = False  # a first epoch that was left: these have other numbers there, or none
        if not new.any() and not self._is_iterable:
            return
        array = array_of(x.contiguous())
        if new.any():
            self._is_seen[samples[new]] = True
            keys = self.contents.add(samples[new], array if new.all() else array[new])
        else:
            keys = None
        if self._is_iterable:
            if keys is None or not new.all():
                keys = content_keys(array)
            self._epoch_keys.append((info.worker, keys))
            self._arrivals.take(samples, keys)

    def _grow(self, size: int, columns: int = 0) -> None:
        """Have room for samples; in steps, so that few copies are made."""
        if size > len(self._is_seen):
            more = max(size, 2 * len(self._is_seen), 1024) - len(self._is_seen)
            self._is_seen = np.concatenate([self._is_seen, np.zeros(more, np.bool_)])
            self._bad = np.concatenate([self._bad, np.full(more, -1, np.int32)])
            self.label_of = np.concatenate([self.label_of, np.full(more, -1, np.int64)])
        if columns and (len(self._low) < len(self._is_seen) or not self._low.shape[1]):
            more = len(self._is_seen) - len(self._low)
            if not self._low.shape[1]:
                self._low = np.empty((0, columns), np.float32)
                self._high, more = self._low, len(self._is_seen)
            width = self._low.shape[1]
            self._low = np.concatenate([self._low, np.full((more, width), np.inf, np.float32)])
            self._high = np.concatenate([self._high, np.full((more, width), -np.inf, np.float32)])

    def _flush(self) -> None:
        """Read what was worked out of the latest batches."""
        self._join()
        for look in self._pending:
            samples, epoch = look.info.samples, look.info.epoch
            low, high = look.low.cpu().numpy(), look.high.cpu().numpy()
            self._grow(int(samples.max()) + 1, low.shape[1])
            bad = ~(np.isfinite(low) & np.isfinite(high)).all(axis=1)
            low, high = (np.clip(x, -_SINGLE, _SINGLE).astype(np.float32) for x in (low, high))
            broken = bad
            if look.beside is not None:
                beside = look.beside.cpu().numpy()
                self._is_beside |= bool(beside.any())
                broken = bad | beside
            self._bad[samples[broken & (self._bad[samples] < 0)]] = epoch
            if low.shape[1] == self._low.shape[1]:
                fine = samples if not bad.any() else samples[~bad]
                low, high = low[~bad], high[~bad]
                self._low[fine] = np.minimum(self._low[fine], low)
                self._high[fine] = np.maximum(self._high[fine], high)
            labels = None if look.labels is None else look.labels.cpu().numpy().astype(np.int64)
            if labels is not None:
                # What comes later under a number of an iterable data set is another sample than is known by its content.
                unknown = self.label_of[samples] < 0
                self.label_of[samples[unknown]] = labels[unknown]
            rows = look.rows.cpu().numpy().astype(np.float64)
            is_fine = (np.abs(rows) < HUGE).all(axis=1) & ~bad
            labels = None if labels is None else labels[is_fine]
            self._drift.add(look.info, look.features, rows[is_fine], labels)
        self._pending = []

    def _ranges(self) -> list[Finding]:
        found: list[Finding] = []
        bad = np.flatnonzero(self._bad >= 0)
        if len(bad):
            which = "inputs, or other numbers," if self._is_beside else "inputs"
            text = f"{counted(len(bad))} with {which} that are NaN or infinite"
            found.append(Finding(NOT_FINITE, text, bad, epoch=int(self._bad[bad].min())))
        seen = np.flatnonzero((self._low <= self._high).all(axis=1)) if self._low.size else bad[:0]
        if not len(seen):
            return found
        low, high = self._low[seen].astype(np.float64), self._high[seen].astype(np.float64)
        least, most = self._limits(low, high)
        out = (low < least) | (high > most)
        rows = out.any(axis=1)
        if rows.any():
            columns = np.flatnonzero(out.any(axis=0))
            where = f" in columns {', '.join(map(str, columns[:8]))}" if low.shape[1] > 1 else ""
            k = columns[0]
            text = (
                f"{counted(int(rows.sum()))} with inputs outside [{least[k]:.4g}, {most[k]:.4g}]{where}: "
                f"{low[rows].min():.4g} to {high[rows].max():.4g}"
            )
            found.append(Finding(OUT_OF_RANGE, text, seen[rows]))
        return found

    def _limits(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """Return the (k,) least and greatest that inputs may be."""
        if self._range is not None:
            width = low.shape[1]
            return np.full(width, self._range[0]), np.full(width, self._range[1])
        least, most = np.quantile(low, _BULK[0], axis=0), np.quantile(high, _BULK[1], axis=0)
        if low.shape[1] > 1:
            self._widen(least, most, low)
        width = most - least
        fence = _FENCES[self.contents.form or "other"] * width
        # A column that is constant for 98 % of samples is a rare feature, not one with a range.
        fence = np.where(width > 0, fence, np.inf)
        return least - fence, most + fence

    def _widen(self, least: Floats, most: Floats, x: Floats) -> None:
        """Take the bulk of columns that are mostly one value, of a picture's edge say, from what is not."""
        middle = np.median(x, axis=0)
        for k in np.flatnonzero((x == middle).mean(axis=0) >= _COMMON):
            rest = x[x[:, k] != middle[k], k]
            if len(rest) < _REST:
                least[k] = most[k] = middle[k]  # no range
            else:
                low, high = np.quantile(rest, _BULK)
                least[k], most[k] = min(low, middle[k]), max(high, middle[k])
