"""Features that are the label or a copy of it, rather than tell it well: whether one follows from the other in some rows."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats

FEWEST: Final = 500
"""Rows without which nothing is said: fewer do not tell 1 % (chosen)."""
FOLLOWS: Final = 0.99
"""A coefficient from which on one is taken to follow from the other: a normal label and one with noise of a hundredth of its
spread have 0.986, one that a score tells with an area of 0.99 has 0.85 (chosen)."""


def copies(
    values: Floats, labels: Floats, *, is_regression: bool, seed: int = 0
) -> NDArray[np.bool_]:
    """Return (k,) which features are the label: equal, renamed, scaled, rounded, or else so that one follows from the other.

    Parameters
    ----------
    values
        (n, k) features, NaN for none; a category is its number.
    labels
        (n,) numbers, or numbers of classes; NaN for none.
    is_regression
        Whether labels are numbers.
    seed
        Rows with equal values are taken in an order drawn by it, so that the order of the file says nothing.

    Notes
    -----
    Of numbers the larger of two of Chatterjee's coefficients (2021, "A new coefficient of correlation", equation 1,
    doi:10.1080/01621459.2020.1758115), of the label by the feature and of the feature by the label: 1 if and only if one is
    a function of the other, 0 if they are independent. Of classes 1 less how often the label changes from a
    value to the next, beyond the changes that so many classes need, over how often it would by chance; of two classes that is
    the same coefficient.
    """
    if values.ndim != 2 or len(values) != len(labels):
        raise ValueError(f"expected (n, k) values of {len(labels)} labels, got {values.shape}")
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[~np.isnan(labels[order])]
    x, y = values[order], labels[order]
    of = _of_numbers if is_regression else _of_classes
    return np.array([of(column, y) >= FOLLOWS for column in x.T], np.bool_)


def _of_classes(x: Floats, y: Floats) -> float:
    _, counts = np.unique(y, return_counts=True)
    n = len(y)
    if n < FEWEST or len(counts) < 2:
        return 0.0
    by_value = y[np.argsort(x, kind="stable")]  # missing ones last: a value like others
    changes = int((by_value[1:] != by_value[:-1]).sum()) - (len(counts) - 1)
    return float(1 - changes / ((n - 1) * (1 - ((counts / n) ** 2).sum())))


def _of_numbers(x: Floats, y: Floats) -> float:
    known = ~np.isnan(x)
    x, y = x[known], y[known]
    if len(x) < FEWEST:
        return 0.0
    return max(_chatterjee(x, y), _chatterjee(y, x))


def _chatterjee(x: Floats, y: Floats) -> float:
    """Return how far y is a function of x."""
    n, ascending = len(y), np.sort(y)
    by_value = y[np.argsort(x, kind="stable")]
    upto = np.searchsorted(ascending, by_value, side="right")
    least = n - np.searchsorted(ascending, by_value, side="left")
    spread = 2 * float((least * (n - least)).sum())
    return 1 - n * float(np.abs(np.diff(upto)).sum()) / spread if spread else 0.0
