"""What a binary classifier's metrics follow from, as whole numbers: order, corrections and merges change nothing."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from typing import Final

import numpy as np

from ..core.columns import Floats, Ints
from .compiled import compiled, inlined

BINS: Final = 1000
"""Bins of the score, of one width each."""
ECE_BINS: Final = 10
"""Bins of the calibration error."""
TN, FN, FP, TP = range(4)
"""Columns: pairs by prediction and label."""
SCORED: Final = 4
"""Pairs that have a score."""
BRIER, BRIER_SQUARES, LOG_LOSS, LOG_LOSS_SQUARES = range(5, 9)
"""Sums over these, in units of `UNIT` or `LOG_UNIT`."""
SCORES: Final = 9
"""The first of the sums of scores in a bin of the calibration error, in units of `UNIT`."""
HISTOGRAM: Final = SCORES + ECE_BINS
"""The first of the counts of scores by bin: those with label 0, then those with label 1."""
WIDTH: Final = HISTOGRAM + 2 * BINS
UNIT: Final = 2.0**-40
"""9e-13: a mean is off by half of it at most; 8 million pairs fit."""
LOG_UNIT: Final = 2.0**-30
"""9e-10 for the losses, the squares of which reach 1,300: 6 million pairs fit."""
SMALLEST: Final = float(np.finfo(np.float64).eps)
"""A score is at least so far from 0 and 1 for its logarithm, as in scikit-learn's `log_loss`."""


@compiled
def count(
    table: Ints, cells: Ints, predicted: Floats, label: Floats, score: Floats, sign: int
) -> None:
    """Add n pairs to a table, or take them away.

    Parameters
    ----------
    table
        (cells, WIDTH) what is changed.
    cells
        (n,) which row of the table each pair belongs to; below 0 for none.
    predicted, label
        (n,) 0 or 1; a pair of which either is anything else is not counted.
    score
        (n,) the probability of 1 as the model has it, within [0, 1]; NaN, or anything else, for none.
    sign
        1, or -1 to take away what was added before.
    """
    for i in range(len(cells)):
        k, is_one = cells[i], label[i] == 1.0
        if k < 0 or not (is_one or label[i] == 0.0):
            continue
        if predicted[i] == 1.0:
            table[k, TP if is_one else FP] += sign
        elif predicted[i] == 0.0:
            table[k, FN if is_one else TN] += sign
        count_score(table, k, is_one, score[i], sign)


@inlined
def count_score(table: Ints, k: int, is_one: bool, p: float, sign: int) -> None:
    """Add one score, and whether the label is 1, to a row of the table of `count`."""
    if 0.0 <= p <= 1.0:
        error = (1.0 - p if is_one else p) ** 2
        loss = -np.log(min(max(p if is_one else 1.0 - p, SMALLEST), 1.0))
        table[k, SCORED] += sign
        table[k, BRIER] += sign * np.int64(np.rint(error / UNIT))
        table[k, BRIER_SQUARES] += sign * np.int64(np.rint(error * error / UNIT))
        table[k, LOG_LOSS] += sign * np.int64(np.rint(loss / LOG_UNIT))
        table[k, LOG_LOSS_SQUARES] += sign * np.int64(np.rint(loss * loss / LOG_UNIT))
        place = SCORES + min(int(p * ECE_BINS), ECE_BINS - 1)
        table[k, place] += sign * np.int64(np.rint(p / UNIT))
        place = HISTOGRAM + min(int(p * BINS), BINS - 1)
        table[k, place + (BINS if is_one else 0)] += sign
