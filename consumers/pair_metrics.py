"""What pairs of prediction and label are counted as in one row of whole numbers, and the metrics that follow from it."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from ..core.columns import Floats, Ints
from ..detectors import binary_counts, binary_metrics, class_counts, class_scores, regression_sums
from ..detectors.binary_metrics import Metric
from ..detectors.compiled import compiled
from .class_numbers import numbers_only
from .join import Pairs
from .score_columns import MOST_CLASSES, ScoreColumns

CONFUSION: Final = MOST_CLASSES * MOST_CLASSES
"""Columns of the confusion matrix, the first ones of a classifier's row."""
OTHER: Final = "other classes"


def width_of(columns: int, *, is_regression: bool) -> int:
    """Return how many whole numbers all metrics of a model with so many columns of scores follow from."""
    if is_regression:
        return regression_sums.WIDTH
    scored = binary_counts.WIDTH if columns < 3 else class_scores.width(columns)
    return CONFUSION + scored


def count_pairs(
    counts: Ints,
    rows: Ints,
    pairs: Pairs,
    sign: int,
    classes: list[float],
    columns: ScoreColumns,
    *,
    is_regression: bool,
) -> None:
    """Add (n,) pairs to the (n, k) rows of a table of `width_of` columns, or take them away with a sign of -1."""
    predicted, label, scores = pairs.predicted, pairs.label, pairs.scores
    if is_regression:
        predicted, label = numbers_only(predicted), numbers_only(label)
        for k in range(rows.shape[1]):
            regression_sums.count(counts, rows[:, k], predicted, label, sign)
        return
    is_one = len(columns) == 1
    score = np.ascontiguousarray(scores[:, 0]) if is_one else np.empty(0)
    asked = columns.classes[0] if is_one else np.nan
    _count_classes(counts, rows, predicted, label, score, np.array(classes), asked, sign)
    if len(columns) > 1:
        own = columns.numbers(label)
        for k in range(rows.shape[1]):
            cells = np.ascontiguousarray(rows[:, k])
            class_scores.count(counts[:, CONFUSION:], cells, own, scores, sign)


@compiled
def _count_classes(
    table: Ints, rows: Ints, predicted: Floats, label: Floats, score: Floats, classes: Floats,
    asked: float, sign: int,
) -> None:  # fmt: skip
    """Add pairs to the confusion matrix, and where there is one score, of the class `asked`, to what follows from it."""
    of_scores = table[:, CONFUSION:]
    for i in range(rows.shape[0]):
        said, true = index(predicted[i], classes), index(label[i], classes)
        for j in range(rows.shape[1]):
            row = rows[i, j]
            if row < 0 or true < 0:
                continue
            if said >= 0:
                table[row, true * MOST_CLASSES + said] += sign
            if len(score):
                binary_counts.count_score(of_scores, row, label[i] == asked, score[i], sign)


def metrics_of(
    row: Ints,
    hits: int,
    classes: list[float],
    columns: ScoreColumns,
    name: Callable[[float], str],
    *,
    is_regression: bool,
) -> dict[str, Metric]:
    """Return the metrics that follow from one row of `width_of` whole numbers, and pairs that are equal.

    Of two classes those of `binary_metrics`, for the class that is asked about: that of the score, or the one whose name sorts
    last. Of more those of `class_counts` and `class_scores`, with names of classes for their numbers. The order of classes
    changes nothing.
    """
    if is_regression:
        return regression_sums.metrics(row)
    confusion = row[:CONFUSION].reshape(MOST_CLASSES, MOST_CLASSES)
    of_scores = row[CONFUSION:]
    if len(classes) <= 2 and len(columns) <= 1:
        positive = asked_about(classes, columns, name)
        of_scores = of_scores.copy()
        of_scores[: binary_counts.SCORED] = two_by_two(
            confusion, index(positive, np.array(classes))
        )
        return binary_metrics.metrics(of_scores)
    order = [*np.argsort(classes).tolist(), *range(len(classes), MOST_CLASSES)]
    found = class_counts.metrics(confusion[np.ix_(order, order)])
    if found and len(classes) == MOST_CLASSES - 1:  # among other classes a pair is not always right
        found |= class_counts.micro(hits, int(confusion.sum()))
    names = [name(number) for number in sorted(classes)]
    names += [OTHER] * (MOST_CLASSES - len(names))
    shown = {named(key, names): metric for key, metric in found.items()}
    if len(columns) > 1:
        of_columns = [name(number) for number in columns.classes.tolist()]
        scored = class_scores.metrics(of_scores, len(columns))
        shown |= {named(key, of_columns): metric for key, metric in scored.items()}
    elif len(columns):
        scored = binary_metrics.metrics(of_scores)
        shown |= {key: scored[key] for key in _OF_SCORES if key in scored}
    return shown


def asked_about(classes: list[float], columns: ScoreColumns, name: Callable[[float], str]) -> float:
    """Return the number of the class that metrics of two classes are about: of the score, as set, or the one whose name sorts last."""
    if len(columns) == 1 or columns.is_set:
        return columns.positive
    return max(classes, key=name, default=np.nan)


_OF_SCORES: Final = ("brier", "log_loss", "ece", "roc_auc", "average_precision")


def named(key: str, names: list[str]) -> str:
    """Return a metric's name with the name of a class for its number: `recall:cat` for `recall:2`."""
    metric, colon, index = key.partition(":")
    return f"{metric}:{names[int(index)]}" if colon and index.isdigit() else key


def two_by_two(confusion: Ints, positive: int) -> Ints:
    """Return (..., 4) true negatives, false negatives, false positives and true positives, as `binary_counts` has them."""
    tp = confusion[..., positive, positive]
    fn = confusion[..., positive, :].sum(axis=-1) - tp
    fp = confusion[..., positive].sum(axis=-1) - tp
    return np.stack([confusion.sum(axis=(-2, -1)) - tp - fn - fp, fn, fp, tp], axis=-1)


@compiled
def index(number: float, classes: Floats) -> int:
    """Return the place of a class, the last for one that has none, -1 for NaN."""
    for k in range(len(classes)):
        if classes[k] == number:
            return k
    return -1 if np.isnan(number) else MOST_CLASSES - 1


@compiled
def are_known(predicted: Floats, label: Floats, classes: Floats) -> bool:
    """Whether all (n,) predictions and labels are of some classes, or NaN."""
    for i in range(len(label)):
        for number in (predicted[i], label[i]):
            if index(number, classes) == MOST_CLASSES - 1:
                return False
    return True
