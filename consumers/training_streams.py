"""The streams that a worker would watch of rows with labels: what a training reference is made of."""

from __future__ import annotations

import numpy as np

from ..core.batch import EventBatch
from ..core.columns import Floats
from ..detectors.base import usable
from .class_names import LABEL, PREDICTION, ClassNames
from .class_numbers import ClassNumbers
from .model_settings import ModelSettings
from .rates import OF_ERRORS, errors_and_labels
from .series import Series
from .trained_estimates import TrainedEstimates
from .trained_performance import PerformanceCollector
from .trained_vectors import VectorCollector
from .training_labels import TrainingLabels


class TrainingStreams:
    """Collects the values of streams, as a worker would see them.

    Parameters
    ----------
    settings
        Those of the model: its task and its features.
    """

    def __init__(self, settings: ModelSettings) -> None:
        drift = settings.drift.model_copy(update={"reference": None})
        self._names = ClassNames()
        self._series = Series(
            "", "training", 0, settings.model_copy(update={"drift": drift}), self._names
        )
        self._classes = ClassNumbers()
        self._values: dict[str, list[Floats]] = {}
        self._performance = PerformanceCollector(settings)
        self._vectors = VectorCollector(settings)
        self._labels = TrainingLabels()
        self.rows = 0
        """How many were taken in."""
        self._estimates = TrainedEstimates(settings)

    def add(self, batch: EventBatch) -> None:
        """Take rows in."""
        self.rows += len(batch)
        self._series.decide(batch)
        predicted, label = map(self._classes.numbers, (batch.prediction, batch.label))
        self._names.add(PREDICTION, predicted, batch.prediction.strings)
        self._names.add(LABEL, label, batch.label.strings)
        names, values = self._series.columns(batch, predicted)
        is_regression = self._series.is_regression
        pairs = errors_and_labels(predicted, label, is_regression=is_regression)
        watched = (name.partition(":") for name in names)
        features = [name for kind, _, name in watched if kind in ("feature", "category")]
        self._estimates.add(batch, predicted, label, features)
        self._labels.add(names, values, pairs[:, 1], is_regression=is_regression)
        self._performance.add(batch, predicted, label, is_regression=is_regression)
        self._vectors.add(batch, predicted, is_regression=is_regression)
        for name, column in zip((*names, *OF_ERRORS), [*values.T, *pairs.T], strict=True):
            self._values.setdefault(name, []).append(column[usable(column)])

    def names(self) -> dict[str, dict[float, str]]:
        """Return stream of categories to the text of their numbers, as far as it is kept."""
        found = {name: self._names.of("training", name) for name in self._values}
        return {name: names for name, names in found.items() if names}

    def categories(self) -> frozenset[str]:
        """Return which streams are of categories."""
        return self._series.categories(self._values)

    def parts(self) -> tuple[dict[str, bytes], list[str]]:
        """Return what else is to be known of training, by its name, and in words what is missing."""
        labels = self._labels.part(is_regression=self._series.is_regression)
        vectors, why_not = self._vectors.part()
        return labels | vectors | self._performance.part(self._names.namer()), why_not

    def values(self) -> dict[str, Floats]:
        """Return stream to its (n,) usable values."""
        return {name: np.concatenate(parts) for name, parts in self._values.items()}

    def estimates(self) -> bytes:
        """Return what estimates performance without labels, as a part of the reference file.

        Raises
        ------
        ValueError
            The rows do not tell; the message says what is missing.
        """
        return self._estimates.learn(is_regression=self._series.is_regression)
