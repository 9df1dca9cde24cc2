"""Whether two sets of batches differ in the mean of a quantity, given that rows of one batch may be alike."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.special import stdtr

from ..core.columns import Floats

LEAST_BATCHES: Final = 5
"""Of each side; with fewer the deviation of batches is not known (chosen)."""


class BatchMeans:
    """Sums over batches of the means of k quantities.

    Batches, not rows, are the sample: in an ordered data set the rows of a batch are alike, and a test that took
    them for independent would find differences in every epoch.

    Parameters
    ----------
    quantities
        How many there are.
    """

    def __init__(self, quantities: int) -> None:
        self.batches = 0
        self.rows = 0
        self._sum = np.zeros(quantities)
        self._squares = np.zeros(quantities)
        self._row_squares = np.zeros(quantities)
        self._row_sum = np.zeros(quantities)

    @classmethod
    def of(
        cls,
        batches: int,
        rows: int,
        total: Floats,
        squares: Floats,
        row_total: Floats,
        row_squares: Floats,
    ) -> BatchMeans:
        """Return what so many calls of `add` come to, whose sums were made elsewhere.

        Parameters
        ----------
        batches, rows
            How many.
        total, squares
            (k,) sums over batches of their means, and of the squares of these.
        row_total, row_squares
            (k,) sums over rows of their values, and of the squares of these.
        """
        found = cls(len(total))
        found.batches, found.rows = batches, rows
        found._sum, found._squares = total, squares
        found._row_sum, found._row_squares = row_total, row_squares
        return found

    def add(self, mean: Floats, square: Floats, rows: int) -> None:
        """Take a batch: (k,) means of its rows, and of their squares."""
        self.batches += 1
        self.rows += rows
        self._sum += mean
        self._squares += mean * mean
        self._row_sum += rows * mean
        self._row_squares += rows * square

    def merged(self, other: BatchMeans) -> BatchMeans:
        """Return the sums of both."""
        found = BatchMeans(len(self._sum))
        for name, value in vars(self).items():
            setattr(found, name, value + getattr(other, name))
        return found

    @property
    def mean(self) -> Floats:
        """(k,) means of the rows."""
        found: Floats = self._row_sum / max(self.rows, 1)
        return found

    @property
    def deviation(self) -> Floats:
        """(k,) standard deviations of the rows."""
        with np.errstate(invalid="ignore", over="ignore"):  # of sums beyond all numbers
            return np.sqrt(np.maximum(self._row_squares / max(self.rows, 1) - self.mean**2, 0.0))

    @property
    def _mean_and_variance(self) -> tuple[Floats, Floats]:
        """Of a batch's mean: no less than what independent rows would have."""
        n = self.batches
        mean = self._sum / n
        with np.errstate(invalid="ignore", over="ignore"):
            between = np.maximum(self._squares / n - mean**2, 0.0) * n / (n - 1)
            return mean, np.maximum(between, self.deviation**2 * n / self.rows)


def differences(a: BatchMeans, b: BatchMeans, *, are_alike: bool = False) -> tuple[Floats, Floats]:
    """Return (k,) p-values of Welch's test of the means of batches, and how far a is above b, in their own units.

    1 where a side has fewer than `LEAST_BATCHES`.

    Parameters
    ----------
    a, b
        The sums of two sets of batches.
    are_alike
        Whether rows of both vary alike where nothing is wrong: then the variance within both together is the least that each side
        is taken to have. A side that a rare value has not come to has none of its own, and is no less uncertain for it.

    References
    ----------
    Welch 1947, "The generalization of 'Student's' problem when several different population variances are involved",
    Biometrika 34, 28-35 (doi:10.1093/biomet/34.1-2.28).
    """
    difference = a.mean - b.mean
    if min(a.batches, b.batches) < LEAST_BATCHES:
        return np.ones(len(difference)), difference
    (m, v), (w, u) = a._mean_and_variance, b._mean_and_variance
    if are_alike:
        within = ((a.batches - 1) * v + (b.batches - 1) * u) / (a.batches + b.batches - 2)
        v, u = np.maximum(v, within), np.maximum(u, within)
    v, u = v / a.batches, u / b.batches
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(v + u > 0, (m - w) / np.sqrt(v + u), np.where(m == w, 0.0, np.inf))
        freedom = (v + u) ** 2 / (v**2 / (a.batches - 1) + u**2 / (b.batches - 1))
    freedom = np.where(np.isfinite(freedom), freedom, a.batches + b.batches - 2)
    p: Floats = 2 * stdtr(freedom, -np.abs(t))
    return np.where(np.isfinite(p), p, 0.0), difference
