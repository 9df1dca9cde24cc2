"""What the scores of a classifier of several classes are worth, as whole numbers, and the metrics that follow."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

import numpy as np

from ..core.columns import Floats, Ints
from .binary_counts import (
    BRIER,
    BRIER_SQUARES,
    ECE_BINS,
    HISTOGRAM,
    LOG_LOSS,
    LOG_LOSS_SQUARES,
    LOG_UNIT,
    SCORED,
    SCORES,
    SMALLEST,
    UNIT,
)
from .binary_metrics import Metric, average_precision, calibration_error, mean_losses, roc_auc
from .compiled import compiled

_BINS = 1000
_FEWEST_BINS = 50


def bins(classes: int) -> int:
    """Return how many bins each class's scores are counted in: 1,000 for all classes together, but 50 or more."""
    return max(_BINS // classes, _FEWEST_BINS)


def width(classes: int) -> int:
    """Return the columns of a table for so many classes.

    Up to `binary_counts.HISTOGRAM` they are `binary_counts`'. Then pairs by bin of the largest score, of wrong classes and of right
    ones; then for each class its scores by bin, of other labels and of its own.
    """
    return HISTOGRAM + 2 * ECE_BINS + classes * 2 * bins(classes)


@compiled
def count(table: Ints, cells: Ints, label: Ints, scores: Floats, sign: int) -> None:
    """Add n pairs to a table, or take them away.

    Parameters
    ----------
    table
        (cells, width(classes)) what is changed.
    cells
        (n,) which row of the table each pair belongs to; below 0 for none.
    label
        (n,) numbers of classes; a pair with one below 0 is not counted.
    scores
        (n, classes) probabilities as the model has them; a pair of which any is not within [0, 1] is not counted.
    sign
        1, or -1 to take away what was added before.
    """
    classes = scores.shape[1]
    of_class = max(1000 // classes, 50)
    first = HISTOGRAM + 2 * ECE_BINS
    for i in range(len(cells)):
        k, t = cells[i], label[i]
        if k < 0 or t < 0 or t >= classes:
            continue
        squares, top, good = 0.0, 0, True
        for j in range(classes):
            p = scores[i, j]
            good = good and 0.0 <= p <= 1.0
            squares += p * p
            if p > scores[i, top]:
                top = j
        if not good:
            continue
        p, most = scores[i, t], scores[i, top]
        error = max(squares - 2.0 * p + 1.0, 0.0)
        loss = -np.log(min(max(p, SMALLEST), 1.0))
        table[k, SCORED] += sign
        table[k, BRIER] += sign * np.int64(np.rint(error / UNIT))
        table[k, BRIER_SQUARES] += sign * np.int64(np.rint(error * error / UNIT))
        table[k, LOG_LOSS] += sign * np.int64(np.rint(loss / LOG_UNIT))
        table[k, LOG_LOSS_SQUARES] += sign * np.int64(np.rint(loss * loss / LOG_UNIT))
        place = min(int(most * ECE_BINS), ECE_BINS - 1)
        table[k, SCORES + place] += sign * np.int64(np.rint(most / UNIT))
        table[k, HISTOGRAM + place + (ECE_BINS if top == t else 0)] += sign
        for j in range(classes):
            place = min(int(scores[i, j] * of_class), of_class - 1)
            table[k, first + (2 * j + (1 if j == t else 0)) * of_class + place] += sign


def metrics(row: Ints, classes: int) -> dict[str, Metric]:
    """Return what follows from one row of a table; a metric that is not known has no entry.

    `log_loss`; `brier`, the squared distance of the scores from the label's (1, 0, ..); `ece`, of the largest score (Guo, Pleiss,
    Sun and Weinberger 2017, equation 3); `roc_auc` and `average_precision` of each class against all others as `:0`,
    `:1`, .., their mean as `:macro`, and weighed by how often each class is true as `:weighted`. The interval of a mean is
    the mean of the intervals: as wide as if all were wrong together.
    """
    scored = int(row[SCORED])
    if not scored:
        return {}
    found = mean_losses(row)
    by_bin = row[HISTOGRAM : HISTOGRAM + 2 * ECE_BINS].reshape(2, ECE_BINS)
    found["ece"] = calibration_error(by_bin, row[SCORES : SCORES + ECE_BINS], scored)
    histograms = row[HISTOGRAM + 2 * ECE_BINS :].reshape(classes, 2, -1).astype(np.float64)
    true = histograms[:, 1].sum(axis=1)
    for name, of in (("roc_auc", roc_auc), ("average_precision", average_precision)):
        known = [
            j for j in range(classes) if 0 < true[j] < scored or (true[j] and of is not roc_auc)
        ]
        each = [of(histograms[j, 0], histograms[j, 1]) for j in known]
        found |= {f"{name}:{j}": metric for j, metric in zip(known, each, strict=True)}
        if known:
            numbers = np.array(each)
            found[f"{name}:macro"] = Metric(*numbers.mean(axis=0).tolist())
            weights = true[known] / true[known].sum()
            found[f"{name}:weighted"] = Metric(*(weights @ numbers).tolist())
    return found
