"""Whether features and classes differ between epochs, and between the workers of one."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import numpy as np

from ..core.columns import Floats, Ints
from ..detectors.batch_means import BatchMeans, differences
from .batch import BatchInfo
from .column_sums import ColumnSums
from .finding import BALANCE, DRIFT, Finding

_ALPHA: Final = 1e-5
"""Of all comparisons of an epoch together, Bonferroni: a false one in 1,000 runs of 100 epochs (chosen)."""
_SHIFT: Final = 0.1
"""Standard deviations of a feature from which on a difference matters (chosen)."""
_SHARE: Final = 0.05
"""Of a class's share (chosen)."""
_CLASSES: Final = 1024  # those with greater numbers are not looked at

Features = Literal["columns", "summaries"]
"""What the numbers of a row are: all columns of its table, or what `SUMMARIES` says of all its inputs."""
SUMMARIES: Final = ("the inputs", "the inputs' root mean square")


class _Side(NamedTuple):
    """Sums of features and then of classes, and of parts of the inputs where there are such."""

    sums: BatchMeans
    parts: BatchMeans | None


class Drift:
    """The means of features and shares of classes in the first epoch and the present one, by worker.

    Attributes
    ----------
    parts
        The columns of tables that are too wide to be features row by row, or the channels of pictures; they are features too, and
        added to where the batch is.

    Notes
    -----
    Bounded: sums of two epochs, of the present one by worker. Of a table of 4,096 columns, the widest, that is 0.2 MB for the first epoch
    and as much for each worker.
    """

    def __init__(self) -> None:
        self.parts = ColumnSums()
        self._first: _Side | None = None
        self._now: dict[int | None, BatchMeans] = {}
        self._kind: Features | None = None
        self._origin = np.zeros(0)
        self._classes = 0

    def add(self, info: BatchInfo, features: Features, rows: Floats, labels: Ints | None) -> None:
        """Take a batch: (n, k) finite numbers of its rows, what they are, and the (n,) labels."""
        if not len(rows):
            return
        if self._kind is None:
            self._kind = features
            # A value of the batch: columns of one value are exactly 0 from there, and ones far from 0 keep their digits.
            self._origin = np.sort(rows, axis=0)[(len(rows) - 1) // 2]
        if features != self._kind or rows.shape[1] != len(self._origin):
            return
        left = rows - self._origin
        shares = np.zeros(_CLASSES)
        if labels is not None:
            kept = labels[(labels >= 0) & (labels < _CLASSES)]
            shares = np.bincount(kept, minlength=_CLASSES)[:_CLASSES] / len(labels)
            self._classes = max(self._classes, int(kept.max(initial=-1)) + 1)
        sums = self._now.setdefault(info.worker, BatchMeans(len(self._origin) + _CLASSES))
        mean, square = left.mean(axis=0), (left * left).mean(axis=0)
        sums.add(np.concatenate([mean, shares]), np.concatenate([square, shares]), len(rows))

    def end(self, epoch: int) -> list[Finding]:
        """Return what differs in the epoch that has ended, and begin another one."""
        workers, self._now = self._now, {}
        parts = self.parts.taken()
        if not workers:
            return []
        whole = _side(workers, parts)
        comparisons = len(workers) + (self._first is not None)
        found: list[Finding] = []
        if self._first is not None:
            found += self._compared(
                whole, self._first, "this epoch", "the first one", comparisons, epoch
            )
        else:
            self._first = whole
        if len(workers) > 1:
            for worker, sums in workers.items():
                rest = _side(workers, parts, without=worker)
                own = _Side(sums, parts.get(worker))
                found += self._compared(
                    own, rest, f"worker {worker}", "the others", comparisons, epoch
                )
        return found

    def _compared(
        self, a: _Side, b: _Side, name: str, other: str, comparisons: int, epoch: int
    ) -> list[Finding]:
        k = len(self._origin)
        own = _told_apart(a.sums, b.sums)
        told = [own[:, :k] + _shifted(self._origin)]
        if self.parts.part is not None and a.parts is not None and b.parts is not None:
            told.append(_told_apart(a.parts, b.parts) + _shifted(self.parts.origin))
        p, size, here, there = np.concatenate(told, axis=1)
        limit = _ALPHA / comparisons / (len(p) + max(self._classes, 1))
        found: list[Finding] = []
        moved = np.flatnonzero((p < limit) & (size >= _SHIFT))
        if len(moved):
            j = int(moved[size[moved].argmax()])
            text = (
                f"the mean of {self._name(j)} is {here[j]:.4g} in {name} and {there[j]:.4g} in {other}, "
                f"{size[j]:.2f} standard deviations apart"
            )
            if len(moved) > 1:
                text += f"; so are {len(moved) - 1} other features"
            about = f"{self._name(j)} of {name}, {'up' if here[j] > there[j] else 'down'}"
            found.append(Finding(DRIFT, text, epoch=epoch, about=about))
        p, _, here, there = own[:, k : k + self._classes]
        gap = np.where(p < limit, np.abs(here - there), 0.0)
        if gap.max(initial=0.0) >= _SHARE:
            j = int(gap.argmax())
            text = f"class {j} has a share of {here[j]:.1%} in {name} and {there[j]:.1%} in {other}"
            found.append(
                Finding(
                    BALANCE,
                    text,
                    epoch=epoch,
                    about=f"class {j} of {name}, {'more' if here[j] > there[j] else 'fewer'}",
                )
            )
        return found

    def _name(self, j: int) -> str:
        k = len(self._origin)
        if j >= k:
            return f"{self.parts.part} {j - k}"
        return f"column {j}" if self._kind == "columns" else SUMMARIES[j]


def _told_apart(a: BatchMeans, b: BatchMeans) -> Floats:
    """Return (4, k): p-values, differences in standard deviations, and the means of both."""
    p, difference = differences(a, b, are_alike=True)
    scale = np.maximum(a.deviation, b.deviation)
    size = np.abs(difference) / np.where(scale > 0, scale, 1.0)
    return np.stack([p, size, a.mean, b.mean])


def _shifted(origin: Floats) -> Floats:
    """Return (4, k) of which the means of what `_told_apart` returns are short."""
    return np.stack([np.zeros(len(origin))] * 2 + [origin] * 2)


def _side(
    workers: dict[int | None, BatchMeans],
    parts: dict[int | None, BatchMeans],
    without: int | None = -1,
) -> _Side:
    """Return the sums of all workers but one."""
    of = [[one for k, one in each.items() if k != without] for each in (workers, parts)]
    return _Side(_sum(of[0]), _sum(of[1]) if of[1] else None)


def _sum(parts: list[BatchMeans]) -> BatchMeans:
    found = parts[0]
    for part in parts[1:]:
        found = found.merged(part)
    return found
