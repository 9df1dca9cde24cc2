"""What was learned of one model's scores, or of its errors, and how performance without labels follows from it.

Three kinds with one face: of two classes, of several, of numbers. When and from what they are learned stands in `estimates.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

import numpy as np

from ..core.columns import Floats, Ints
from ..core.errors import StateError
from ..core.snapshot import pack, reading, unpack
from ..detectors import cbpe, class_cbpe, gaps, loss_estimate
from ..detectors.binary_metrics import Metric
from ..detectors.calibration import Calibration
from ..detectors.loss_estimate import LossModel
from .class_numbers import numbers_only
from .join import Pairs
from .pair_metrics import named
from .score_columns import MOST_CLASSES, ScoreColumns

_VERSION: Final = 1


class Seen(NamedTuple):
    """Predictions, (n,) each, in the order of the log; `scores` (n, k) as `Performance.columns` has them, `met` as `TrainingRows`."""

    offsets: Ints
    rows: Ints
    times: Ints
    segments: Ints
    predicted: Floats
    scores: Floats
    met: Ints


class Estimator(Protocol):
    """What an estimate is made with; it never changes."""

    @property
    def width(self) -> int:
        """Whole numbers of a row that estimates follow from."""
        ...

    def count(self, counts: Ints, rows: Ints, seen: Seen) -> None:
        """Add (n,) predictions to the (n, k) rows of a table of `width` columns."""
        ...

    def estimates(self, row: Ints, name: Callable[[float], str]) -> dict[str, Metric]:
        """Return what metrics are expected to be, by the names of the realised ones."""
        ...

    def gaps(self, a: Ints, b: Ints) -> dict[str, Metric]:
        """Return what gaps of two rows are expected to be, those that need labels: of several classes the one asked about against all others."""
        ...

    def differences(self, pairs: Pairs) -> Floats:
        """Return (n,) what was expected of each pair less what came, NaN where either is not known."""
        ...


class OfTwo:
    """A binary model: how likely its one score is right. The difference is that of being right.

    Parameters
    ----------
    calibration
        What the score means.
    columns
        The model's, of one score.
    """

    width = cbpe.WIDTH

    def __init__(self, calibration: Calibration, columns: ScoreColumns) -> None:
        self.calibration = calibration
        self._columns = columns

    def count(self, counts: Ints, rows: Ints, seen: Seen) -> None:
        """As `Estimator` says."""
        missing = np.isnan(seen.predicted)
        said = np.where(missing, np.nan, seen.predicted == self._columns.positive)
        score = np.ascontiguousarray(seen.scores[:, 0])
        for k in range(rows.shape[1]):
            cells = np.ascontiguousarray(rows[:, k])
            cbpe.count(counts, cells, said, score, self.calibration, 1)

    def estimates(self, row: Ints, name: Callable[[float], str]) -> dict[str, Metric]:  # noqa: ARG002
        """As `Estimator` says."""
        return cbpe.estimates(row, self.calibration)

    def gaps(self, a: Ints, b: Ints) -> dict[str, Metric]:
        """As `Estimator` says."""
        return gaps.estimated(a, b, self.calibration)

    def differences(self, pairs: Pairs) -> Floats:
        """As `Estimator` says."""
        if pairs.scores.shape[1] != 1:
            return np.full(len(pairs.label), np.nan)
        score, positive = np.ascontiguousarray(pairs.scores[:, 0]), self._columns.positive
        return self.calibration.differences(score, pairs.predicted, pairs.label, positive)


class OfSeveral:
    """A model of several classes: how likely each is the label. The difference is that of being right.

    Parameters
    ----------
    calibrations
        What each score means, one a column.
    columns
        The model's, of three scores or more.
    """

    def __init__(self, calibrations: Sequence[Calibration], columns: ScoreColumns) -> None:
        self.calibrations = calibrations
        self._columns = columns
        self._classes = len(calibrations)
        self.width = (self._classes + 1) * self._classes

    def count(self, counts: Ints, rows: Ints, seen: Seen) -> None:
        """As `Estimator` says."""
        of = counts[:, : self.width].reshape(len(counts), self._classes + 1, self._classes)
        said = self._columns.numbers(seen.predicted)
        chances = class_cbpe.chances(seen.scores, self.calibrations)
        for k in range(rows.shape[1]):
            class_cbpe.count(of, np.ascontiguousarray(rows[:, k]), said, chances, 1)

    def estimates(self, row: Ints, name: Callable[[float], str]) -> dict[str, Metric]:
        """As `Estimator` says."""
        found = class_cbpe.estimates(row[: self.width].reshape(self._classes + 1, self._classes))
        names = [name(number) for number in self._columns.classes.tolist()]
        return {named(key, names): metric for key, metric in found.items()}

    def gaps(self, a: Ints, b: Ints) -> dict[str, Metric]:
        """As `Estimator` says; none where the class has no score."""
        (number,) = self._columns.numbers(np.array([self._columns.positive])).tolist()
        if number < 0:
            return {}
        shape = self._classes + 1, self._classes
        one, other = (row[: self.width].reshape(shape) for row in (a, b))
        return gaps.estimated_of_several(one, other, number)

    def differences(self, pairs: Pairs) -> Floats:
        """As `Estimator` says."""
        found = np.full(len(pairs.label), np.nan)
        said = self._columns.numbers(pairs.predicted)
        known = np.flatnonzero(~np.isnan(pairs.label) & (said >= 0))
        if pairs.scores.shape[1] == self._classes and len(known):
            said = said[known]
            chance = class_cbpe.chances(pairs.scores[known], self.calibrations)
            right = pairs.predicted[known] == pairs.label[known]
            found[known] = chance[np.arange(len(known)), said] - right
        return found


class OfNumbers:
    """A regression: how large its error is expected to be. The difference is that of the absolute error.

    Parameters
    ----------
    model
        What losses follow from: the prediction alone, or features as well. These are there with the prediction only, so that
        `scores` are then the losses as `LossModel.losses` has them.
    """

    width = loss_estimate.WIDTH

    def __init__(self, model: LossModel) -> None:
        self.model = model

    def _losses(self, predicted: Floats, scores: Floats) -> Floats:
        if not self.model.features:
            return self.model.losses(predicted, np.empty((len(predicted), 0)))
        has_losses = scores.shape[1] == LOSSES
        return (
            np.ascontiguousarray(scores)
            if has_losses
            else np.full((len(predicted), LOSSES), np.nan)
        )

    def count(self, counts: Ints, rows: Ints, seen: Seen) -> None:
        """As `Estimator` says."""
        predicted = numbers_only(seen.predicted)
        losses = self._losses(predicted, seen.scores)
        for k in range(rows.shape[1]):
            cells = np.ascontiguousarray(rows[:, k])
            loss_estimate.count_losses(counts, cells, predicted, losses, self.model, 1)

    def estimates(self, row: Ints, name: Callable[[float], str]) -> dict[str, Metric]:  # noqa: ARG002
        """As `Estimator` says."""
        return loss_estimate.estimates(row, self.model)

    def gaps(self, a: Ints, b: Ints) -> dict[str, Metric]:
        """As `Estimator` says."""
        return loss_estimate.differences(a, b, self.model)

    def differences(self, pairs: Pairs) -> Floats:
        """As `Estimator` says."""
        predicted, label = numbers_only(pairs.predicted), numbers_only(pairs.label)
        found = self.model.expected(self._losses(predicted, pairs.scores))[:, 0]
        found[~(np.abs(predicted) <= loss_estimate.LARGEST)] = np.nan
        return found - np.abs(predicted - label)


LOSSES: Final = 2
"""Columns of `scores` that hold losses."""
Learned: TypeAlias = Calibration | list[Calibration] | LossModel
"""What an estimator is made of."""


def estimator(learned: Learned, columns: ScoreColumns) -> Estimator:
    """Return the estimator of what was learned."""
    if isinstance(learned, Calibration):
        return OfTwo(learned, columns)
    return OfNumbers(learned) if isinstance(learned, LossModel) else OfSeveral(learned, columns)


def snapshot(learned: Learned) -> bytes:
    """Return what was learned as bytes."""
    parts = learned if isinstance(learned, list) else [learned]
    kind = "several" if isinstance(learned, list) else _KINDS[type(learned)]
    return pack("learned", _VERSION, {"kind": kind, "parts": [p.snapshot() for p in parts]}, {})


_KINDS: Final[dict[type, str]] = {Calibration: "two", LossModel: "numbers"}


def restored(state: bytes) -> Learned:
    """Return what was learned, of which these bytes are the snapshot.

    Raises
    ------
    StateError
        The bytes are damaged, from another version, or hold nothing of the kind.
    """
    meta, _ = unpack("learned", _VERSION, state)
    with reading("learned"):
        kind, parts = meta["kind"], meta["parts"]
        if kind == "several" and 2 < len(parts) <= MOST_CLASSES:
            return [Calibration.restored(part) for part in parts]
        if kind in ("two", "numbers") and len(parts) == 1:
            read = Calibration.restored if kind == "two" else LossModel.restored
            return read(parts[0])
    raise StateError(f"learned: expected two, several or numbers, found {kind} of {len(parts)}")
