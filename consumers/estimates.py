"""What a binary model's scores say of its performance before labels come: learned from the first labels that did."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from ..detectors.calibration import Calibration
from .join import Pairs
from .score_columns import ScoreColumns

ESTIMATE: Final = "estimated_accuracy"
"""The stream of how likely each prediction was right, as estimated, less whether it was."""
_OF_EACH: Final = 50  # labels of each class that a calibration is learned from, at least
_MOST: Final = 50_000  # pairs among which these must be; a class that is rarer has no estimates


class Estimates:
    """The calibration of one model in one environment.

    Parameters
    ----------
    columns
        Which class the score is about.
    pairs
        The first so many pairs with a score are the reference; more, until 50 of each class are among them.
    """

    def __init__(self, columns: ScoreColumns, pairs: int) -> None:
        self._columns = columns
        self._wanted = pairs
        self.calibration: Calibration | None = None
        self._begin = (0, 0)  # offset and row of the pair that completed the reference
        self._score, self._label = np.empty(0), np.empty(0)
        self._is_over = False

    def learn(self, pairs: Pairs) -> Floats:
        """Take pairs in, in the order of the log; return (n,) what `ESTIMATE` holds, NaN while it is learned and without a score."""
        found = np.full(len(pairs.label), np.nan)
        if len(self._columns) != 1 or pairs.scores.shape[1] != 1:
            return found
        score, positive = pairs.scores[:, 0], self._columns.positive
        known = np.flatnonzero(~np.isnan(pairs.label) & (score >= 0) & (score <= 1))
        label = (pairs.label == positive).astype(np.float64)
        if self.calibration is None and not self._is_over:
            known = known[self._collect(pairs, known, score, label) :]
        if self.calibration is not None and len(known):
            known = known[~np.isnan(pairs.predicted[known])]
            said = pairs.predicted[known] == positive
            chance = self.calibration.apply(score[known])
            right = said == (label[known] == 1.0)
            found[known] = np.where(said, chance, 1 - chance) - right
        return found

    def _collect(self, pairs: Pairs, known: Ints, score: Floats, label: Floats) -> int:
        """Take pairs into the reference until it is complete; return how many it took."""
        every = np.concatenate([self._label, label[known]])
        ones = np.cumsum(every)
        count = np.arange(1, len(every) + 1)
        is_enough = (count >= self._wanted) & (np.minimum(ones, count - ones) >= _OF_EACH)
        done = np.flatnonzero(is_enough[len(self._label) :])
        end = min(int(done[0]) + 1 if len(done) else len(known), _MOST - len(self._label))
        taken = known[:end]
        self._score = np.concatenate([self._score, score[taken]])
        self._label = np.concatenate([self._label, label[taken]])
        if len(done) and end == done[0] + 1:
            self.calibration = Calibration.fit(self._score, self._label)
            self._begin = int(pairs.offsets[taken[-1]]), int(pairs.rows[taken[-1]])
        if self.calibration is not None or len(self._label) >= _MOST:
            self._is_over = True
            self._score, self._label = np.empty(0), np.empty(0)
        return end

    def follows(self, offsets: Ints, rows: Ints) -> NDArray[np.bool_]:
        """Return whether each of (n,) predictions came after the reference was complete."""
        offset, row = self._begin
        return np.asarray((offsets > offset) | ((offsets == offset) & (rows > row)))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the state, as `pack` takes it."""
        calibration = self.calibration and self.calibration.snapshot()
        meta = {"calibration": calibration, "begin": self._begin, "is_over": self._is_over}
        return meta, {"score": self._score, "label": self._label}

    def load(self, meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Go on from a state."""
        state = meta["calibration"]
        self.calibration = None if state is None else Calibration.restored(state)
        self._begin = (int(meta["begin"][0]), int(meta["begin"][1]))
        self._is_over = bool(meta["is_over"])
        self._score, self._label = arrays["score"], arrays["label"]
