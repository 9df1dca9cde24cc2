"""What an estimator is learned from: which pairs can teach one, how many are enough, and the learning itself."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from ..detectors.calibration import Calibration
from ..detectors.loss_estimate import LARGEST, LossModel
from .class_numbers import numbers_only
from .estimators import Learned
from .score_columns import ScoreColumns

OF_TWO, OF_SEVERAL = 50, 20
"""Labels of each class that a calibration is learned from at least, where there are two and where there are more. Chosen."""
UNNAMED: Final = 0.01
"""Share of labels of no class that has a score, at most: the probabilities of an event are taken to sum to 1."""


def reference_rows(
    columns: ScoreColumns, predicted: Floats, scores: Floats, label: Floats, *, is_regression: bool
) -> tuple[Floats, Ints]:
    """Return what n pairs can teach: (n, k) numbers, the label the last of them, and which rows are whole.

    Of a regression prediction and label, of two classes score and label, 1 for the class of the score, of more all scores and
    the column of the label, -1 for none. k is 0 where there is nothing to learn from.
    """
    if is_regression:
        rows = np.stack([numbers_only(predicted), numbers_only(label)], axis=1)
        return rows, np.flatnonzero((np.abs(rows) <= LARGEST).all(axis=1))
    width = len(columns)
    if not width or scores.shape[1] != width:
        return np.empty((len(label), 0)), np.empty(0, np.int64)
    if width == 1:
        own = np.where(np.isnan(label), -1.0, label == columns.positive)
    else:
        own = columns.numbers(label).astype(np.float64)
    is_whole = ((scores >= 0) & (scores <= 1)).all(axis=1) & (own >= 0)
    return np.column_stack([scores, own]), np.flatnonzero(is_whole)


def are_enough(label: Floats, columns: ScoreColumns) -> NDArray[np.bool_]:
    """Return whether the first 1, 2, ... of n labels, as `reference_rows` has them, hold enough of each class."""
    classes, least = (2, OF_TWO) if len(columns) == 1 else (len(columns), OF_SEVERAL)
    counts = np.cumsum(label[:, None] == np.arange(classes), axis=0)
    return np.asarray(counts.min(axis=1) >= least)


def learned(rows: Floats, *, is_regression: bool, features: Floats | None = None) -> Learned:
    """Learn from (n, k) rows that are whole, and of a regression from (n, f) features as well.

    Raises
    ------
    ValueError
        They are too few.
    """
    label = rows[:, -1]
    if is_regression:
        none = np.empty((len(rows), 0))
        return LossModel.fit(rows[:, 0].copy(), none if features is None else features, label)
    if rows.shape[1] == 2:
        return Calibration.fit(rows[:, 0], label)
    return [
        Calibration.fit(rows[:, k], (label == k).astype(np.float64))
        for k in range(rows.shape[1] - 1)
    ]
