"""The four error rates of a binary classifier as streams of bits, each over the pairs that it is about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from ..core.columns import Floats
from .join import Pairs
from .score_columns import ScoreColumns

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
        self.has_begun = False
        """Whether a pair was about a rate: from there on they are streams, whatever comes."""

    def pieces(self, pairs: Pairs, more: Floats) -> Iterator[tuple[slice, Floats]]:
        """Yield (n,) pairs in parts: rows, and whether each is an error of each kind, NaN where it is not about one, and `more`.

        (rows, 5), but (rows, 0) of rows before the first that has any of these.
        """
        found = np.column_stack([self._bits(pairs), more])
        about = np.flatnonzero(~np.isnan(found).all(axis=1))
        begin = 0 if self.has_begun else int(about[0]) if len(about) else len(found)
        if begin:
            yield slice(0, begin), found[:begin, :0]
        if begin < len(found):
            self.has_begun = True
            yield slice(begin, len(found)), found[begin:]

    def _bits(self, pairs: Pairs) -> Floats:
        found = np.full((len(pairs.label), len(RATES)), np.nan)
        known = ~(np.isnan(pairs.predicted) | np.isnan(pairs.label))
        scored = np.isfinite(pairs.scores).any(axis=1)
        of_two = np.isin(pairs.predicted, (0, 1)) & np.isin(pairs.label, (0, 1))
        fits = np.where(scored, len(self._columns) == 1, of_two | self._columns.is_set)
        odd = np.flatnonzero(known & ~fits)
        end = 0 if not self.is_binary else int(odd[0]) if len(odd) else len(known)
        self.is_binary = self.is_binary and not len(odd)
        inside = known & (np.arange(len(known)) < end)
        positive = self._columns.positive
        said, true = pairs.predicted == positive, pairs.label == positive
        for k, about in enumerate((true, ~true, said, ~said)):
            rows = inside & about
            found[rows, k] = (said != true)[rows]
        return found
