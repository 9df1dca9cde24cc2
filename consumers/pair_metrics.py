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
    said, true = index(predicted, classes), index(label, classes)
    confusion = counts[:, :CONFUSION].reshape(len(counts), MOST_CLASSES, MOST_CLASSES)
    of_scores = counts[:, CONFUSION:]
    each = [np.ascontiguousarray(rows[:, k]) for k in range(rows.shape[1])]
    for cells in each:
        class_counts.count(confusion, cells, said, true, sign)
    if len(columns) == 1:
        positive, score = columns.classes[0], np.ascontiguousarray(scores[:, 0])
        is_true = np.where(np.isnan(label), np.nan, label == positive)
        is_said = np.full(len(label), np.nan)  # what was said is in the confusion matrix
        for cells in each:
            binary_counts.count(of_scores, cells, is_said, is_true, score, sign)
    elif len(columns):
        own = columns.numbers(label)
        for cells in each:
            class_scores.count(of_scores, cells, own, scores, sign)


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
        place = int(index(np.array([positive]), classes)[0])
        of_scores = of_scores.copy()
        of_scores[: binary_counts.SCORED] = two_by_two(confusion, place)
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


def index(numbers: Floats, classes: list[float]) -> Ints:
    """Return (n,) places of classes, the last for one that has none, -1 where a row has no class."""
    found = np.full(len(numbers), MOST_CLASSES - 1)
    for k, number in enumerate(classes):
        found[numbers == number] = k
    found[np.isnan(numbers)] = -1
    return found
