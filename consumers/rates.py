"""The streams of pairs: errors and labels, four error rates of a binary classifier, and what estimates are off by."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from ..core.columns import Floats
from ..detectors.compiled import compiled
from .class_numbers import difference, numbers_only
from .estimates import ESTIMATE, ESTIMATED_ERROR
from .join import Pairs
from .score_columns import ScoreColumns

OF_ERRORS: Final = ("error", "label")
"""The streams of all pairs."""
RATES: Final = {
    "false_negative_rate": "recall", "false_positive_rate": "specificity",
    "false_discovery_rate": "precision", "false_omission_rate": "npv",
}  # fmt: skip
"""Each with the metric that it is 1 less of: precision and recall can move while accuracy stays (Wang and Abraham 2015, "Concept
drift detection for streaming data", arXiv 1504.01044, section III)."""


class Rates:
    """Tells pairs of two classes from others, and which error rates each pair is about.

    A pair with one score or two is of two classes, one with more is not. Without scores it is where a class was set, and where both
    prediction and label are 0 or 1; the first pair that is not ends it for good.

    Parameters
    ----------
    columns
        Which class is asked about.
    """

    def __init__(self, columns: ScoreColumns) -> None:
        self._columns = columns
        self.is_binary = True
        """Whether all pairs so far were of two classes, as far as that shows."""
        self.has_begun = 0
        """2 once a pair was about a rate, 1 where one was about an estimate only: from there on they are streams, whatever comes."""

    def pieces(
        self, pairs: Pairs, differences: Floats, *, is_regression: bool | None
    ) -> Iterator[tuple[slice, tuple[str, ...], Floats]]:
        """Yield (n,) pairs in parts: rows, the names of k streams, and their (rows, k) values.

        Errors and labels, and of rates and `differences`, what was estimated less what came, NaN where a pair is not about one.
        Rows before the first that is about any of these are of no such stream.
        """
        if is_regression:
            values = np.column_stack(
                [errors_and_labels(pairs.predicted, pairs.label, is_regression=True), differences]
            )
            begin, begins = _first(differences), 1
        else:
            values = np.empty((len(pairs.label), len(OF_ERRORS) + len(RATES) + 1))
            self.is_binary, of_rates = _fill(
                pairs.predicted, pairs.label, pairs.scores, differences, self._columns.positive,
                len(self._columns) == 1, self._columns.is_set, self.is_binary, values,
            )  # fmt: skip
            # A pair with a difference has prediction and label: of two classes it is about a rate too.
            begin, begins = min(of_rates, _first(differences)), 1 + (of_rates < len(values))
        begin = 0 if self.has_begun else begin
        if begin:
            yield slice(0, begin), OF_ERRORS, values[:begin, :2].copy()
        if begin < len(values):
            self.has_begun = self.has_begun or begins
            names = (*OF_ERRORS, *RATES, ESTIMATE)
            if is_regression:
                names = (*OF_ERRORS, ESTIMATED_ERROR)
            elif self.has_begun == 1:
                names, values = (*OF_ERRORS, ESTIMATE), np.take(values, [0, 1, -1], axis=1)
            yield slice(begin, len(values)), names, values[begin:]


def errors_and_labels(predicted: Floats, label: Floats, *, is_regression: bool | None) -> Floats:
    """Return (n, 2) what is watched of pairs: 1 for a wrong class or the absolute error, and the label."""
    if is_regression:
        return np.column_stack([np.abs(difference(predicted, label)), numbers_only(label)])
    is_missing = np.isnan(predicted) | np.isnan(label)
    return np.column_stack([np.where(is_missing, np.nan, predicted != label), label])


def _first(values: Floats) -> int:
    """Return the place of the first number, or how many values there are."""
    known = ~np.isnan(values)
    return int(known.argmax()) if known.any() else len(values)


@compiled
def _fill(
    predicted: Floats, label: Floats, scores: Floats, more: Floats, positive: float, has_score: bool,
    is_set: bool, is_binary: bool, found: Floats,
) -> tuple[bool, int]:  # fmt: skip
    """Fill (n, 7) `found`; return whether all is of two classes still, and the first row that is about a rate, n for none."""
    first = len(label)
    for i in range(len(label)):
        said, true = predicted[i], label[i]
        found[i, :6] = np.nan
        found[i, 1], found[i, 6] = true, more[i]
        if not (np.isnan(said) or np.isnan(true)):
            found[i, 0] = 1.0 if said != true else 0.0
            scored = False
            for k in range(scores.shape[1]):
                scored = scored or np.isfinite(scores[i, k])
            of_two = said * (1.0 - said) == 0.0 and true * (1.0 - true) == 0.0  # 0 or 1
            is_binary = is_binary and (has_score if scored else of_two or is_set)
            if is_binary:
                wrong = 1.0 if (said == positive) != (true == positive) else 0.0
                found[i, 2 if true == positive else 3] = wrong
                found[i, 4 if said == positive else 5] = wrong
                first = min(first, i)
    return is_binary, first
