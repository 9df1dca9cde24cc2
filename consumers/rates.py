"""The streams of pairs beside errors and labels: four error rates of a binary classifier, and what estimates are off by."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from ..core.columns import Floats
from ..detectors.compiled import compiled
from .estimates import ESTIMATE, ESTIMATED_ERROR
from .join import Pairs
from .score_columns import ScoreColumns

RATES: Final = {
    "false_negative_rate": "recall", "false_positive_rate": "specificity",
    "false_discovery_rate": "precision", "false_omission_rate": "npv",
}  # fmt: skip
"""Each with the metric that it is 1 less of: precision and recall can move while accuracy stays (Wang and Abraham 2015, "Concept
drift detection for streaming data", arXiv 1504.01044, section III)."""


_NONE: Final[tuple[str, ...]] = ()


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

        Whether each pair is an error of each kind, NaN where it is not about one, and `differences`, what was estimated less what
        came. Rows before the first that has any of these are of no stream.
        """
        if is_regression:
            begin, begins = _first(differences), 1
            found = differences[:, None]
        else:
            found = np.empty((len(pairs.label), len(RATES) + 1))
            self.is_binary, of_rates = _fill(
                pairs.predicted, pairs.label, pairs.scores, differences, self._columns.positive,
                len(self._columns) == 1, self._columns.is_set, self.is_binary, found,
            )  # fmt: skip
            # A pair with a difference has prediction and label: of two classes it is about a rate too.
            begin, begins = min(of_rates, _first(differences)), 1 + (of_rates < len(found))
        begin = 0 if self.has_begun else begin
        if begin:
            yield slice(0, begin), _NONE, found[:begin, :0]
        if begin < len(found):
            self.has_begun = self.has_begun or begins
            names = (
                (ESTIMATED_ERROR,)
                if is_regression
                else (*RATES, ESTIMATE)[-5 if self.has_begun > 1 else -1 :]
            )
            yield slice(begin, len(found)), names, found[begin:, -len(names) :]


def _first(values: Floats) -> int:
    """Return the place of the first number, or how many values there are."""
    known = ~np.isnan(values)
    return int(known.argmax()) if known.any() else len(values)


@compiled
def _fill(
    predicted: Floats, label: Floats, scores: Floats, more: Floats, positive: float, has_score: bool,
    is_set: bool, is_binary: bool, found: Floats,
) -> tuple[bool, int]:  # fmt: skip
    """Fill (n, 5) `found`; return whether all is of two classes still, and the first row that is about a rate, n for none."""
    first = len(label)
    for i in range(len(label)):
        said, true = predicted[i], label[i]
        for k in range(4):
            found[i, k] = np.nan
        found[i, 4] = more[i]
        if not (np.isnan(said) or np.isnan(true)):
            scored = False
            for k in range(scores.shape[1]):
                scored = scored or np.isfinite(scores[i, k])
            of_two = said * (1.0 - said) == 0.0 and true * (1.0 - true) == 0.0  # 0 or 1
            is_binary = is_binary and (has_score if scored else of_two or is_set)
            if is_binary:
                wrong = 1.0 if (said == positive) != (true == positive) else 0.0
                found[i, 0 if true == positive else 1] = wrong
                found[i, 2 if said == positive else 3] = wrong
                first = min(first, i)
    return is_binary, first
