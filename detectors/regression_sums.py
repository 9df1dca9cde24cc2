"""What a regression's metrics follow from, as exact sums: order, corrections and merges change nothing."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from fractions import Fraction
from typing import Final

import numpy as np
from scipy.special import stdtrit

from ..core.columns import Floats, Ints
from .binary_metrics import Metric
from .compiled import compiled
from .exact_sum import LIMBS, add, exact

_SUMS: Final = 10
_ERROR, _ABSOLUTE, _SQUARE, _QUARTIC, _LABEL, _LABEL2, _LABEL3, _LABEL4, _CROSS, _CROSS2 = range(
    _SUMS
)
WIDTH: Final = 1 + _SUMS * LIMBS
"""Columns: how many pairs, then the sums of the error, its size, square and fourth power, of the label and its powers,
and of the error's square times the label and its square."""
_LARGEST: Final = 1e70  # of labels and predictions; the fourth power of a larger one is no float
_SPLIT: Final = 134217729.0  # 2^27 + 1
_ROUNDED: Final = 1e-12
"""A spread so small beside what it is a difference of is one of rounded fourth powers."""


@compiled
def count(table: Ints, cells: Ints, predicted: Floats, label: Floats, sign: int) -> None:
    """Add n pairs to a table, or take them away.

    Parameters
    ----------
    table
        (cells, WIDTH) what is changed.
    cells
        (n,) which row of the table each pair belongs to; below 0 for none.
    predicted, label
        (n,) numbers; a pair of which either is missing, or beyond 1e70, is not counted.
    sign
        1, or -1 to take away what was added before.
    """
    for i in range(len(cells)):
        k, y = cells[i], label[i]
        if k < 0 or not (abs(y) <= _LARGEST and abs(predicted[i]) <= _LARGEST):
            continue
        error = y - predicted[i]
        square, label2 = error * error, y * y
        table[k, 0] += sign
        sums = table[k, 1:]
        add(_sum(sums, _ERROR), error, sign)
        add(_sum(sums, _ABSOLUTE), abs(error), sign)
        # R2 is a difference of these two: both halves of their products.
        add(_sum(sums, _SQUARE), square, sign)
        add(_sum(sums, _SQUARE), _rest(error, square), sign)
        add(_sum(sums, _LABEL), y, sign)
        add(_sum(sums, _LABEL2), label2, sign)
        add(_sum(sums, _LABEL2), _rest(y, label2), sign)
        add(_sum(sums, _QUARTIC), square * square, sign)
        add(_sum(sums, _LABEL3), label2 * y, sign)
        add(_sum(sums, _LABEL4), label2 * label2, sign)
        add(_sum(sums, _CROSS), square * y, sign)
        add(_sum(sums, _CROSS2), square * label2, sign)


@compiled
def _sum(sums: Ints, which: int) -> Ints:
    return sums[which * LIMBS : (which + 1) * LIMBS]


@compiled
def _rest(x: float, square: float) -> float:
    """Return x^2 less its rounded square (Dekker 1971, doi:10.1007/BF01397083)."""
    high = _SPLIT * x
    high -= high - x
    low = x - high
    return ((high * high - square) + 2.0 * high * low) + low * low


def metrics(row: Ints) -> dict[str, Metric]:
    """Return what follows from one row of a table: `mae`, `mse`, `rmse`, `mean_error` and `r2`; none without pairs.

    Intervals are Student's (1908, doi:10.1093/biomet/6.1.1) of a mean; that of R2 by the delta method, for the ratio of the
    mean square error and the label's variance. R2 is unknown where all labels are the same, the interval of what is alike in
    all pairs, as in one: nothing tells how much it varies.
    """
    n = int(row[0])
    if not n:
        return {}
    sums = [exact(limbs) for limbs in row[1:].reshape(_SUMS, LIMBS)]
    mean = [total / n for total in sums]
    square = mean[_SQUARE]
    of_size = square - mean[_ABSOLUTE] ** 2
    # The squares are alike where the sizes are, whose variance is exact.
    low, high = _interval(square, mean[_QUARTIC] - square**2 if of_size > 0 else Fraction(), n)
    found = {
        "mean_error": Metric(
            float(-mean[_ERROR]), *_interval(-mean[_ERROR], square - mean[_ERROR] ** 2, n)
        ),
        "mae": _above_0(mean[_ABSOLUTE], *_interval(mean[_ABSOLUTE], of_size, n)),
        "mse": _above_0(square, low, high),
        "rmse": Metric(*np.sqrt([float(square), np.maximum(low, 0.0), high]).tolist()),
    }
    variance = mean[_LABEL2] - mean[_LABEL] ** 2
    if variance > 0:
        lost, m = square / variance, mean[_LABEL]
        # Of (error^2 - lost (label - m)^2) / variance, whose mean is 0, the mean square.
        cross = mean[_CROSS2] - 2 * m * mean[_CROSS] + m * m * square
        fourth = mean[_LABEL4] - 4 * m * mean[_LABEL3] + 6 * m * m * mean[_LABEL2] - 3 * m**4
        of_both = mean[_QUARTIC] + lost * lost * fourth
        spread = of_both - 2 * lost * cross
        spread = spread / variance**2 if spread > _ROUNDED * of_both else Fraction()
        found["r2"] = Metric(float(1 - lost), *_interval(1 - lost, spread, n))
    return found


def _interval(mean: Fraction, variance: Fraction, n: int) -> tuple[float, float]:
    if n < 2 or variance <= 0:
        return np.nan, np.nan
    half = float(stdtrit(n - 1, 0.975) * np.sqrt(float(variance) / (n - 1)))
    return float(mean) - half, float(mean) + half


def _above_0(value: Fraction, low: float, high: float) -> Metric:
    return Metric(float(value), float(np.maximum(low, 0.0)), high)
