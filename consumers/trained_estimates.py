"""Estimates that were learned with training, in its reference file: `tocsin reference` writes that part, workers read it."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from ..core.batch import EventBatch
from ..core.columns import Floats
from ..core.errors import StateError
from ..core.snapshot import pack, reading, unpack
from ..detectors.calibration import Calibration
from ..detectors.loss_estimate import LossModel
from . import training_reference
from .class_numbers import ClassNumbers, is_text
from .estimate_learning import OF_SEVERAL, OF_TWO, UNNAMED, are_enough, learned, reference_rows
from .estimators import Learned, restored, snapshot
from .model_settings import ModelSettings
from .score_columns import ScoreColumns

_log = logging.getLogger(__name__)

PART: Final = "estimates"
"""The name of the part."""
FEATURES: Final = 32
"""Features at most that losses are learned from: the first by name."""
TEXTS: Final = 63
"""Texts of a feature at most that are told apart: the most frequent ones."""
_PRIOR_ROWS: Final = 20.0  # as in the leaves of trees
_VERSION: Final = 2


class Codes(NamedTuple):
    """What the texts of one feature count as: how large errors are with each.

    In that order the best split of texts in two is one of numbers (Fisher 1958, doi:10.1080/01621459.1958.10501479).

    Parameters
    ----------
    numbers
        (k,) rising, texts as `ClassNumbers` has them.
    means
        (k,) the mean size of the error with each, as if `_PRIOR_ROWS` rows more had that of all.
    other
        That of all, which any other text counts as.
    """

    numbers: Floats
    means: Floats
    other: float

    @classmethod
    def learn(cls, numbers: Floats, size: Floats) -> Codes:
        """Learn from (n,) texts, NaN for none, and sizes of errors, one at least."""
        known, mean = ~np.isnan(numbers), float(size.mean())
        every, code, count = np.unique(numbers[known], return_inverse=True, return_counts=True)
        total = np.bincount(code, size[known], len(every))
        often = np.sort(np.argsort(-count, kind="stable")[:TEXTS])
        means = (total + _PRIOR_ROWS * mean) / (count + _PRIOR_ROWS)
        return cls(every[often], means[often], mean)

    def of(self, numbers: Floats) -> Floats:
        """Return (n,) what texts count as; NaN where a row has none."""
        found = np.where(np.isnan(numbers), np.nan, self.other)
        if len(self.numbers):
            place = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
            found = np.where(self.numbers[place] == numbers, self.means[place], found)
        return found

    @classmethod
    def restored(cls, numbers: list[float], means: list[float], other: float) -> Codes:
        """Return what was written.

        Raises
        ------
        ValueError
            It is no such thing.
        """
        found = cls(np.array(numbers, np.float64), np.array(means, np.float64), float(other))
        if found.numbers.ndim != 1 or found.numbers.shape != found.means.shape:
            raise ValueError("texts that have no error each")
        if len(found.numbers) > TEXTS or not (np.diff(found.numbers) > 0).all():
            raise ValueError("texts that are too many, or in no order")
        return found


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
    texts
        What the texts of a feature count as, of those that are text.
    """

    learned: Learned
    names: tuple[str, ...]
    checksum: int
    texts: dict[str, Codes]

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
        found = np.full((len(batch), len(self.names)), np.nan)
        for k, name in enumerate(self.names):
            if (codes := self.texts.get(name)) is None:
                if name in batch.feature_names:
                    found[:, k] = batch.features[:, batch.feature_names.index(name)]
            elif name in batch.texts:
                found[:, k] = codes.of(_classes_of.of_text(batch.texts[name]))
        return self.learned.losses(predicted, found)


_classes_of: Final = ClassNumbers()  # remembers texts, and is no state


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
        self._features: list[tuple[tuple[str, ...], Floats]] = []  # texts as `ClassNumbers`
        self._numeric: set[str] = set()  # names that had a number

    def add(self, batch: EventBatch, predicted: Floats, label: Floats, features: list[str]) -> None:
        """Take rows in; `features` are those that the model is watched with."""
        self._rows.append((predicted, self._columns.of(batch), label))
        there = {*batch.feature_names, *batch.texts} & set(features)
        names = tuple(sorted(there))[:FEATURES]
        columns = []
        for name in names:
            if name in batch.feature_names:
                columns.append(batch.features[:, batch.feature_names.index(name)])
                self._numeric.add(name)
            else:
                columns.append(_classes_of.of_text(batch.texts[name]))
        self._features.append((names, np.array(columns).reshape(len(names), len(batch)).T))

    def learn(self, *, is_regression: bool | None) -> bytes:
        """Return the part of a reference file.

        Raises
        ------
        ValueError
            There is nothing to learn from, or too little.
        """
        if is_regression is None or not any((~np.isnan(label)).any() for *_, label in self._rows):
            raise ValueError(
                "they are learned from labels and predictions (of a file, --label and --prediction name the columns)"
            )
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
            raise ValueError(
                "there are no scores (of a file, --score names the columns with scores)"
            )
        names, features = self._columns.names, None
        texts: dict[str, Codes] = {}
        if is_regression:
            names, features = self._known_features()
            features, size = features[whole], np.abs(rows[whole, 1] - rows[whole, 0])
            for k, name in enumerate(names):
                if name in self._numeric:
                    features[is_text(features[:, k]), k] = np.nan  # text in some rows
                elif len(whole):
                    texts[name] = Codes.learn(features[:, k], size)
                    features[:, k] = texts[name].of(features[:, k])
        else:
            self._check(rows[whole, -1], int((~np.isnan(label) & (rows[:, -1] < 0)).sum()))
        found = learned(rows[whole], is_regression=is_regression, features=features)
        told = {
            name: [of.numbers.tolist(), of.means.tolist(), of.other] for name, of in texts.items()
        }
        meta = {"names": list(names), "learned": snapshot(found), "texts": told}
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


@training_reference.remembered
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
    with training_reference.reading_part(file, "estimates"), reading("trained_estimates"):
        meta, _ = unpack("trained_estimates", _VERSION, part)
        names, found = tuple(map(str, meta["names"])), restored(meta["learned"])
        wanted = found.features if isinstance(found, LossModel) else _classes(found)
        if len(names) != wanted or len(set(names)) != wanted:
            raise StateError(f"expected names for {wanted}, found {len(names)}")
        texts = {str(name): Codes.restored(*of) for name, of in meta["texts"].items()}
    return Given(found, names, zlib.crc32(part), texts)


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
