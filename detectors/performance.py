"""Performance over the latest joined pairs: accuracy, macro averages of precision, recall and F1, or MAE and RMSE."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.columns import Floats, Ints
from ..core.snapshot import pack, unpack
from .base import usable


class PerformanceWindow:
    """A window over the latest pairs of prediction and label.

    Parameters
    ----------
    size
        Pairs kept.

    Notes
    -----
    A correction of a pair that is still in the window replaces its label there. A pair without a
    prediction or label, or with one that is not `usable`, is not counted. Bounded: 32 bytes a pair.
    """

    def __init__(self, size: int = 1000) -> None:
        if size < 1:
            raise ValueError(f"size must be 1 or more, got {size}")
        self.size = size
        self.changes = 0
        """Goes up whenever the state does; a store need not write it again in between."""
        self._place = np.full(size, -1, np.int64)
        self._predicted = np.full(size, np.nan)
        self._label = np.full(size, np.nan)
        self._lag = np.zeros(size, np.int64)

    def add(self, place: Ints, predicted: Floats, label: Floats, lag: Ints) -> None:
        """Take (n,) pairs in; `place` numbers them 0, 1, 2, ... and `lag` is in nanoseconds."""
        self.changes += 1
        kept = slice(max(0, len(place) - self.size), None)
        at = place[kept] % self.size
        self._place[at] = place[kept]
        self._predicted[at] = predicted[kept]
        self._label[at] = label[kept]
        self._lag[at] = lag[kept]

    def correct(self, place: int, label: float) -> None:
        """Replace the label of pair number `place`, if it is still in the window."""
        at = place % self.size
        if self._place[at] == place:
            self.changes += 1
            self._label[at] = label

    def _pairs(self) -> tuple[Floats, Floats]:
        known = usable(self._predicted) & usable(self._label)
        return self._predicted[known], self._label[known]

    def classification(self) -> dict[str, float]:
        """Return accuracy, and precision, recall and F1 as means over classes (`:macro`); empty without pairs.

        A class that was never predicted has no precision, one that was never true no recall: they are not in the mean, as with
        scikit-learn's `zero_division=nan`.
        """
        predicted, label = self._pairs()
        if not len(label):
            return {}
        classes = np.unique(np.concatenate([predicted, label]))
        p, t = np.searchsorted(classes, predicted), np.searchsorted(classes, label)
        hits = np.bincount(t[p == t], minlength=len(classes))
        said = np.bincount(p, minlength=len(classes))
        true = np.bincount(t, minlength=len(classes))
        return {
            "accuracy": float((p == t).mean()),
            "precision:macro": float((hits[said > 0] / said[said > 0]).mean()),
            "recall:macro": float((hits[true > 0] / true[true > 0]).mean()),
            "f1:macro": float((2 * hits / (said + true)).mean()),
            "pairs": float(len(label)),
            "label_lag_seconds": self._median_lag(),
        }

    def regression(self) -> dict[str, float]:
        """Return the mean absolute and the root mean squared error; empty without pairs."""
        predicted, label = self._pairs()
        if not len(label):
            return {}
        error = predicted - label
        return {
            "mae": float(np.abs(error).mean()),
            "rmse": float(np.sqrt((error**2).mean())),
            "pairs": float(len(label)),
            "label_lag_seconds": self._median_lag(),
        }

    def _median_lag(self) -> float:
        lags = self._lag[self._place >= 0]
        middle = (len(lags) - 1) // 2, len(lags) // 2  # `np.median` takes three times as long
        return float(np.partition(lags, middle)[[*middle]].mean()) / 1e9

    def snapshot(self) -> bytes:
        """Return the whole state."""
        filled = self._place >= 0
        arrays: dict[str, Any] = {
            "place": self._place[filled], "predicted": self._predicted[filled],
            "label": self._label[filled], "lag": self._lag[filled],
        }  # fmt: skip
        return pack("performance", 1, {"size": self.size}, arrays)

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot; a window of another size takes what fits."""
        _, a = unpack("performance", 1, state)
        self._place[:] = -1
        self._predicted[:] = np.nan
        order = np.argsort(a["place"])
        self.add(*(a[name][order] for name in ("place", "predicted", "label", "lag")))
