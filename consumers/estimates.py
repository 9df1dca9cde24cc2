"""What is known of a model's performance before labels come: learned from the first labels that did, or given from training."""

from __future__ import annotations

import logging
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints, take
from ..core.errors import StateError
from ..detectors.calibration import Calibration
from ..detectors.loss_estimate import LossModel
from .estimate_learning import UNNAMED, are_enough, learned, reference_rows
from .estimators import Estimator, Learned, OfNumbers, estimator, restored, snapshot
from .join import Pairs
from .score_columns import ScoreColumns
from .trained_estimates import Given

_log = logging.getLogger(__name__)

ESTIMATE: Final = "estimated_accuracy"
"""The stream of how likely each prediction was right, as estimated, less whether it was."""
ESTIMATED_ERROR: Final = "estimated_error"
"""The stream of a regression's expected absolute error, less the absolute error."""
_MOST_NUMBERS: Final = 100_000
"""Kept of pairs while enough are looked for, and written with each commit; a class that is rarer has no estimates."""


class Estimates:
    """What estimates one model's performance in one environment.

    Parameters
    ----------
    columns
        Which classes the scores are about.
    pairs
        The first so many pairs with scores, or with numbers, are the reference; more, until enough of each class are among them.
    given
        What was learned with training: used instead, from the first event on, where it is about these classes.

    Notes
    -----
    State, which depends on the pairs in the order of the log. Bounded: 100,000 numbers of pairs, then what was learned.
    """

    def __init__(self, columns: ScoreColumns, pairs: int, given: Given | None = None) -> None:
        self._columns = columns
        self._wanted = pairs
        self._given = given
        self._checksum = given and given.checksum
        self._estimator: Estimator | None = None
        self._stored: bytes | None = None  # what was learned, as bytes
        self._begin = (-1, -1)  # offset and row of the pair that completed the reference
        self._kept = np.empty((0, 0))  # pairs of the reference, as `reference_rows` has them
        self._unnamed = 0
        self._is_over = False

    def known(self, *, is_regression: bool | None) -> Estimator | None:
        """Return what estimates are made with; None where that is not known, or not yet."""
        if self._estimator is None and self._given is not None and is_regression is not None:
            if self._given.is_for(self._columns, is_regression=is_regression):
                self._estimator = estimator(self._given.learned, self._columns)
            elif is_regression or len(self._columns):
                found = "numbers" if is_regression else ", ".join(self._columns.names)
                _log.warning(
                    "estimates of drift.reference are not of this model's scores; they are learned from labels",
                    extra={"expected": ", ".join(self._given.names), "found": found},
                )
                self._given = None
        known = self._estimator
        return known if known and isinstance(known, OfNumbers) == is_regression else None

    def learn(self, pairs: Pairs, *, is_regression: bool | None) -> Floats:
        """Take pairs in, in the order of the log; return (n,) what was expected of each less what came.

        NaN while it is learned, and where nothing was expected.
        """
        known = self.known(is_regression=is_regression)
        if known is not None:
            return known.differences(pairs)
        found = np.full(len(pairs.label), np.nan)
        if is_regression is None:
            return found
        taken = self._collect(pairs, is_regression=is_regression)
        known = self.known(is_regression=is_regression)
        if known is not None and taken < len(found):
            found[taken:] = known.differences(take(pairs, slice(taken, None)))
        return found

    def _collect(self, pairs: Pairs, *, is_regression: bool) -> int:
        """Take pairs into the reference until it is complete; return how many were looked at."""
        count = len(pairs.label)
        if self._is_over or self._given is not None:
            return count
        rows, whole = reference_rows(
            self._columns, pairs.predicted, pairs.scores, pairs.label, is_regression=is_regression
        )
        if not rows.shape[1]:
            return count
        kept = self._kept if self._kept.shape[1] == rows.shape[1] else rows[:0]
        before, room = len(kept), _MOST_NUMBERS // rows.shape[1]
        every = np.concatenate([kept, rows[whole]])[:room]
        is_enough = np.arange(1, len(every) + 1) >= min(self._wanted, room)
        if not is_regression:
            is_enough &= are_enough(every[:, -1], self._columns)
        done = np.flatnonzero(is_enough[before:])
        every = every[: before + int(done[0]) + 1] if len(done) else every
        is_over = bool(len(done)) or len(every) == room
        end = int(whole[len(every) - before - 1]) + 1 if is_over else count
        if not is_regression:
            self._unnamed += int((~np.isnan(pairs.label[:end]) & (rows[:end, -1] < 0)).sum())
        self._kept = every
        if is_over:
            self._is_over, self._kept = True, np.empty((0, 0))
        if len(done) and self._unnamed <= UNNAMED * len(every):
            found = learned(every, is_regression=is_regression)
            self._stored, self._estimator = snapshot(found), estimator(found, self._columns)
            self._begin = int(pairs.offsets[end - 1]), int(pairs.rows[end - 1])
        return end

    def before(self, offsets: Ints, rows: Ints) -> int:
        """Return how many of (n,) predictions, in the order of the log, came before the reference was complete."""
        offset, row = self._begin
        begin, end = offsets.searchsorted((offset, offset + 1)).tolist()
        return int(begin + rows[begin:end].searchsorted(row, "right"))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the state, as `pack` takes it."""
        meta = {
            "learned": self._stored, "begin": self._begin, "is_over": self._is_over, "unnamed": self._unnamed,
            "given": self._checksum,
        }  # fmt: skip
        return meta, {"kept": self._kept}

    def load(self, meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> bool:
        """Go on from a state; return False, and begin anew, if another reference of training was given then.

        Raises
        ------
        StateError
            It was learned from other scores than there are.
        """
        if meta["given"] != self._checksum:
            return False
        kept = arrays["kept"]
        if kept.ndim != 2 or kept.dtype != np.float64 or kept.size > _MOST_NUMBERS:
            raise StateError(f"estimates: found {kept.dtype} of shape {kept.shape} for their pairs")
        if len(kept) and kept.shape[1] not in (2, len(self._columns) + 1):
            raise StateError(f"estimates: found pairs of {kept.shape[1] - 1} scores")
        self._kept = kept
        self._begin = (int(meta["begin"][0]), int(meta["begin"][1]))
        self._is_over, self._unnamed = bool(meta["is_over"]), int(meta["unnamed"])
        if meta["learned"] is not None:
            found = restored(meta["learned"])
            if self._takes(found):
                self._stored, self._estimator = snapshot(found), estimator(found, self._columns)
            else:
                raise StateError("estimates: they were learned from other scores")
        return True

    def _takes(self, found: Learned) -> bool:
        if isinstance(found, LossModel):
            return found.features == 0
        return len(self._columns) == (1 if isinstance(found, Calibration) else len(found))
