"""Estimates that were learned with training, in its reference file: `tocsin reference` writes that part, workers read it."""

from __future__ import annotations

import logging
import zlib
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from ..core.batch import EventBatch
from ..core.columns import Floats
from ..core.errors import ConfigError, StateError
from ..core.snapshot import pack, reading, unpack
from ..detectors.calibration import Calibration
from ..detectors.loss_estimate import LossModel
from . import training_reference
from .estimate_learning import OF_SEVERAL, OF_TWO, UNNAMED, are_enough, learned, reference_rows
from .estimators import Learned, restored, snapshot
from .model_settings import ModelSettings
from .score_columns import ScoreColumns

_log = logging.getLogger(__name__)

PART: Final = "estimates"
"""The name of the part."""
FEATURES: Final = 32
"""Numeric features at most that losses are learned from: the first by name."""
_VERSION: Final = 1


class Given(NamedTuple):
    """What was learned with training.

    Parameters
    ----------
    learned
        It.
    names
        Of classes, the class of the score or of each score; of a regression the features, in the order of the model.
    checksum
        Of the part: other estimates have another one.
    """

    learned: Learned
    names: tuple[str, ...]
    checksum: int

    @property
    def is_regression(self) -> bool:
        """Whether it is of numbers."""
        return isinstance(self.learned, LossModel)

    def is_for(self, columns: ScoreColumns, *, is_regression: bool) -> bool:
        """Whether it is about these classes, or about numbers as the model is."""
        if is_regression or self.is_regression:
            return is_regression and self.is_regression
        return columns.names == self.names

    def losses(self, batch: EventBatch, predicted: Floats) -> Floats:
        """Return the (n, 2) losses that are expected of predictions with these features."""
        assert isinstance(self.learned, LossModel)
        place = {name: k for k, name in enumerate(batch.feature_names)}
        found = np.full((len(batch), len(self.names)), np.nan)
        for k, name in enumerate(self.names):
            if name in place:
                found[:, k] = batch.features[:, place[name]]
        return self.learned.losses(predicted, found)


class TrainedEstimates:
    """Collects rows with labels, and learns from them.

    Parameters
    ----------
    settings
        The model's.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._columns = ScoreColumns(settings.performance.positive)
        self._rows: list[tuple[Floats, Floats, Floats]] = []  # prediction, scores, label
        self._features: list[tuple[tuple[str, ...], Floats]] = []

    def add(self, batch: EventBatch, predicted: Floats, label: Floats, features: list[str]) -> None:
        """Take rows in; `features` are those that the model is watched with."""
        self._rows.append((predicted, self._columns.of(batch), label))
        names = tuple(sorted(name for name in batch.feature_names if name in features))[:FEATURES]
        place = [batch.feature_names.index(name) for name in names]
        self._features.append((names, batch.features[:, place]))

    def learn(self, *, is_regression: bool | None) -> bytes:
        """Return the part of a reference file.

        Raises
        ------
        ValueError
            There is nothing to learn from, or too little.
        """
        if is_regression is None or not any((~np.isnan(label)).any() for *_, label in self._rows):
            raise ValueError("--label and --prediction name the columns that they are learned from")
        predicted, label = (np.concatenate([row[k] for row in self._rows]) for k in (0, 2))
        width = len(self._columns)
        parts = [scores for _, scores, _ in self._rows]
        scores = np.concatenate(
            [
                part if part.shape[1] == width else np.full((len(part), width), np.nan)
                for part in parts
            ]
        )
        rows, whole = reference_rows(
            self._columns, predicted, scores, label, is_regression=is_regression
        )
        if not rows.shape[1]:
            raise ValueError("--score names the columns with scores")
        names, features = self._columns.names, None
        if is_regression:
            names, features = self._known_features()
            features = features[whole]
        else:
            self._check(rows[whole, -1], int((~np.isnan(label) & (rows[:, -1] < 0)).sum()))
        found = learned(rows[whole], is_regression=is_regression, features=features)
        meta = {"names": list(names), "learned": snapshot(found)}
        return pack("trained_estimates", _VERSION, meta, {})

    def _check(self, label: Floats, unnamed: int) -> None:
        if unnamed > UNNAMED * max(len(label), 1):
            raise ValueError(
                f"{unnamed} labels are of no class that has a score: the columns are {', '.join(self._columns.names)}"
            )
        if not len(label) or not are_enough(label, self._columns)[-1]:
            least = OF_TWO if len(self._columns) == 1 else OF_SEVERAL
            raise ValueError(
                f"each class needs {least} rows with a label and scores within [0, 1]; the columns of scores are "
                f"{', '.join(self._columns.names)}, and must have the names of classes"
            )

    def _known_features(self) -> tuple[tuple[str, ...], Floats]:
        every = sorted({name for names, _ in self._features for name in names})[:FEATURES]
        found = [np.full((len(values), len(every)), np.nan) for _, values in self._features]
        for of, (names, values) in zip(found, self._features, strict=True):
            for k, name in enumerate(every):
                if name in names:
                    of[:, k] = values[:, names.index(name)]
        whole = np.concatenate(found)
        there = ~np.isnan(whole).all(axis=0)
        return tuple(np.array(every)[there].tolist()), whole[:, there]


@cache
def read(file: Path) -> Given | None:
    """Return what a reference file has of estimates; None if it has nothing.

    Raises
    ------
    ConfigError
        The file, or its part, cannot be read.
    """
    part = training_reference.read(file).parts.get(PART)
    if part is None:
        return None
    try:
        meta, _ = unpack("trained_estimates", _VERSION, part)
        with reading("trained_estimates"):
            names, found = tuple(map(str, meta["names"])), restored(meta["learned"])
            wanted = found.features if isinstance(found, LossModel) else _classes(found)
            if len(names) != wanted or len(set(names)) != wanted:
                raise StateError(f"expected names for {wanted}, found {len(names)}")
    except StateError as error:
        raise ConfigError(
            f"drift.reference {file}: what it says of estimates cannot be read ({error}): write it again with "
            "`tocsin reference`"
        ) from None
    return Given(found, names, zlib.crc32(part))


def _classes(found: Calibration | list[Calibration]) -> int:
    return len(found) if isinstance(found, list) else 1


def given(settings: ModelSettings) -> Given | None:
    """Return what a model's reference file has of estimates, where it is of the kind that the model is of.

    Raises
    ------
    ConfigError
        The file, or its part, cannot be read.
    """
    file = settings.drift.reference
    found = None if file is None else read(file)
    if file is None or found is None:
        return None
    is_regression = settings.is_regression
    if is_regression is None:
        is_regression = training_reference.read(file).is_regression
    if is_regression != found.is_regression:
        is_of = ["classes", "numbers"]
        _log.warning(
            "estimates of drift.reference are of another kind than the model; they are learned from labels",
            extra={"expected": is_of[bool(is_regression)], "found": is_of[found.is_regression]},
        )
        return None
    return found
