"""Whether features and classes differ between epochs, and between the workers of one."""

from __future__ import annotations

from typing import Final

import numpy as np

from ..core.columns import Floats, Ints
from ..detectors.batch_means import BatchMeans, differences
from .batch import BatchInfo
from .finding import BALANCE, DRIFT, Finding

_ALPHA: Final = 1e-5
"""Of all comparisons of an epoch together, Bonferroni: a false one in 1,000 runs of 100 epochs (chosen)."""
_SHIFT: Final = 0.1
"""Standard deviations of a feature from which on a difference matters (chosen)."""
_SHARE: Final = 0.05
"""Of a class's share (chosen)."""
_CLASSES: Final = 1024  # those with greater numbers are not looked at


class Drift:
    """The means of features and shares of classes in the first epoch and the present one, by worker.

    Notes
    -----
    Bounded: sums of two epochs.
    """

    def __init__(self) -> None:
        self._first: BatchMeans | None = None
        self._now: dict[int | None, BatchMeans] = {}
        self._features = 0
        self._classes = 0

    def add(self, info: BatchInfo, mean: Floats, square: Floats, labels: Ints | None) -> None:
        """Take a batch: (k,) means of its features and of their squares, and its labels."""
        if self._first is None and not self._now:
            self._features = len(mean)
        if len(mean) != self._features:
            return
        shares = np.zeros(0)
        if labels is not None and len(labels):
            kept = labels[(labels >= 0) & (labels < _CLASSES)]
            shares = np.bincount(kept, minlength=_CLASSES)[:_CLASSES] / len(labels)
            self._classes = max(self._classes, int(kept.max(initial=-1)) + 1)
        else:
            shares = np.zeros(_CLASSES)
        sums = self._now.setdefault(info.worker, BatchMeans(self._features + _CLASSES))
        sums.add(
            np.concatenate([mean, shares]), np.concatenate([square, shares]), len(info.samples)
        )

    def end(self, epoch: int) -> list[Finding]:
        """Return what differs in the epoch that has ended, and begin another one."""
        workers, self._now = self._now, {}
        if not workers:
            return []
        whole = _sum(list(workers.values()))
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
                rest = _sum([other for k, other in workers.items() if k != worker])
                found += self._compared(
                    sums, rest, f"worker {worker}", "the others", comparisons, epoch
                )
        return found

    def _compared(
        self, a: BatchMeans, b: BatchMeans, name: str, other: str, comparisons: int, epoch: int
    ) -> list[Finding]:
        p, difference = differences(a, b)
        is_sure = p < _ALPHA / comparisons / (self._features + max(self._classes, 1))
        scale = np.maximum(a.deviation, b.deviation)
        size = np.abs(difference) / np.where(scale > 0, scale, 1.0)
        found: list[Finding] = []
        moved = np.flatnonzero((is_sure & (size >= _SHIFT))[: self._features])
        if len(moved):
            k = int(moved[size[moved].argmax()])
            text = (
                f"the mean of {self._name(k)} is {a.mean[k]:.4g} in {name} and {b.mean[k]:.4g} in {other}, "
                f"{size[k]:.2f} standard deviations apart"
            )
            if len(moved) > 1:
                text += f"; so are {len(moved) - 1} other features"
            found.append(Finding(DRIFT, text, epoch=epoch))
        classes = slice(self._features, self._features + self._classes)
        moved = np.flatnonzero((is_sure & (np.abs(difference) >= _SHARE))[classes])
        if len(moved):
            k = int(moved[np.abs(difference[classes])[moved].argmax()])
            at = self._features + k
            text = f"class {k} has a share of {a.mean[at]:.1%} in {name} and {b.mean[at]:.1%} in {other}"
            found.append(Finding(BALANCE, text, epoch=epoch))
        return found

    def _name(self, k: int) -> str:
        if self._features == 2:
            return ("the inputs", "the inputs' root mean square")[k]
        return f"column {k}"


def _sum(parts: list[BatchMeans]) -> BatchMeans:
    found = parts[0]
    for part in parts[1:]:
        found = found.merged(part)
    return found
