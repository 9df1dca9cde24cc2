"""Whether a model has begun to learn its training data by heart: the loss on other data rises while that of training does not."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from ..core.verdict import Summary, Verdict
from .looks import deviations

NAME: Final = "overfitting"
_IN_A_ROW: Final = 3
"""Epochs of such a loss before it is claimed; chosen: with a high learning rate the loss on other data jumps for one or two."""


class MeanLoss(NamedTuple):
    """A mean loss over rows, its standard error, and how many rows it is of."""

    mean: float
    error: float
    rows: int


class _Best(NamedTuple):
    epoch: int
    other: MeanLoss
    trained: float


class Overfitting:
    """Watches the loss of one other data set beside that of training.

    Parameters
    ----------
    tolerance
        How far the loss may rise above the best epoch's, as a share of that.

    Raises
    ------
    ValueError
        `tolerance` is below 0.

    Notes
    -----
    Claimed is the third epoch in a row whose loss is above the best epoch's by more than `tolerance`, and by more than chance at the level of the look shared
    among the epochs before, each of which might have been the best one, while the loss of training is no higher than it was then. Where that
    is higher too, the model has forgotten, which is another fault. Rows are the same in each epoch, and taken as if they were others, which makes
    chance larger than it is.

    Examples
    --------
    >>> from tocsin.detectors.overfitting import MeanLoss, Overfitting
    >>> rule = Overfitting()
    >>> losses = [(1.0, 1.1), (0.5, 0.8), (0.2, 1.1), (0.1, 1.2), (0.05, 1.4)]
    >>> for epoch, (trained, other) in enumerate(losses):
    ...     verdict = rule.update(epoch, trained, MeanLoss(other, 0.05, 400), 1e-3)
    >>> verdict.change, verdict.evidence
    ('overfitting', '1.4, was 0.8 in epoch 1, while that of training went from 0.5 to 0.05')
    """

    def __init__(self, tolerance: float = 0.1) -> None:
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be 0 or more, got {tolerance}")
        self.tolerance = tolerance
        self._best: _Best | None = None
        self._looks = 0
        self._worse = 0  # epochs in a row

    def update(
        self, epoch: int, trained: float, other: MeanLoss, level: float, *, step: int = 0, subject: str = "val_loss"
    ) -> Verdict | None:  # fmt: skip
        """Take the mean losses of an epoch in; return a claim, at a level of chance."""
        if not (math.isfinite(trained) and math.isfinite(other.mean)):
            return None
        best, looks = self._best, self._looks
        self._looks += 1
        if best is None or other.mean < best.other.mean:
            self._best, self._worse = _Best(epoch, other, trained), 0
            return None
        rise = other.mean - best.other.mean
        chance = deviations(level, looks) * math.hypot(other.error, best.other.error)
        least = max(chance, self.tolerance * best.other.mean)
        self._worse = 0 if rise <= least or trained > best.trained else self._worse + 1
        if self._worse < _IN_A_ROW:
            return None
        return Verdict(
            detector=NAME, subject=subject, offset=step, row=0, statistic=rise, threshold=least,
            unit="rise of the mean loss above the best epoch's", change="overfitting", size=rise,
            evidence=f"{other.mean:.4g}, was {best.other.mean:.4g} in epoch {best.epoch}, while that of training went from "
            f"{best.trained:.4g} to {trained:.4g}",
            reference=Summary(count=best.other.rows, mean=best.other.mean),
            current=Summary(count=other.rows, mean=other.mean),
        )  # fmt: skip
