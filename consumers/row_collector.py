"""Collects the rows of training for a training reference, which keeps nothing of them but `TrainingRows`."""

from __future__ import annotations

import numpy as np

from ..core.batch import EventBatch
from ..core.columns import Floats, Strings
from ..detectors.fingerprints import Fingerprints
from ..detectors.signatures import Signatures
from .class_numbers import ClassNumbers
from .images import ImageCollector
from .model_settings import ModelSettings
from .score_columns import ScoreColumns, is_regression
from .training_rows import MemberLosses, RowsOfTables, TrainingRows, loss_of


class RowCollector:
    """Takes in the rows that a model was trained on, in their order in time where they have one.

    Parameters
    ----------
    settings
        Those of the model: its task and its features.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._is_regression = settings.is_regression
        self._columns = ScoreColumns(settings.performance.positive)
        self._classes = ClassNumbers()
        self._rows = 0
        self._numbers: dict[str, list[tuple[int, Floats]]] = {}  # with the row at which each begins
        self._texts: dict[str, list[tuple[int, Strings]]] = {}
        self._embeddings: list[Floats] = []
        self._images = ImageCollector()
        self._answers: list[tuple[Floats, Floats, Floats]] = []  # predictions, labels and scores

    def add(self, batch: EventBatch) -> None:
        """Take rows in."""
        for k, name in enumerate(batch.feature_names):
            if self._settings.wants(name):
                self._numbers.setdefault(name, []).append((self._rows, batch.features[:, k]))
        for name, texts in batch.texts.items():
            if self._settings.wants(name):
                self._texts.setdefault(name, []).append((self._rows, texts))
        if batch.embedding is not None:
            self._embeddings.append(batch.embedding)
        if batch.inputs is not None:
            self._images.add(batch.inputs)
        if self._is_regression is None:
            self._is_regression = is_regression(batch)
        predicted, label = map(self._classes.numbers, (batch.prediction, batch.label))
        self._answers.append((predicted, label, self._columns.of(batch)))
        self._rows += len(batch)

    def rows(self, *, fingerprints: bool = True) -> TrainingRows:
        """Return what is kept of them; without `fingerprints` their losses alone, by which no row can be told."""
        if not fingerprints:
            return TrainingRows(losses=self._losses())
        return TrainingRows(
            self._tables(), self._signatures(), self._images.images(), self._losses()
        )

    def _tables(self) -> RowsOfTables | None:
        numbers, texts = {}, {}
        for name, parts in self._numbers.items():
            column = np.full(self._rows, np.nan)
            for begin, values in parts:
                column[begin : begin + len(values)] = values
            if not np.isnan(column).all():  # a text that is missing for long has no numbers
                numbers[name] = column
        for name, columns in self._texts.items():
            at, pieces = 0, []
            for begin, piece in columns:
                pieces += [Strings.missing(begin - at), piece]
                at = begin + len(piece)
            texts[name] = Strings.concat([*pieces, Strings.missing(self._rows - at)])
        if not numbers and not texts:
            return None
        there = {name: ~np.isnan(column) for name, column in numbers.items()}
        for name, text in texts.items():
            there[name] = text.present | there.get(name, np.zeros(self._rows, np.bool_))
        values = np.column_stack([*numbers.values(), np.empty((self._rows, 0))])
        prints = Fingerprints.fit(values, list(numbers), list(texts.values()), list(texts))
        return RowsOfTables(prints, frozenset(name for name, rows in there.items() if rows.all()))

    def _signatures(self) -> Signatures | None:
        """Return those of embeddings of the width that comes first."""
        width = self._embeddings[0].shape[1] if self._embeddings else 0
        found = [vectors for vectors in self._embeddings if vectors.shape[1] == width]
        vectors = np.concatenate([*found, np.empty((0, width))])
        vectors = vectors[np.isfinite(vectors).all(axis=1)]
        return Signatures.fit(vectors) if vectors.size else None

    def _losses(self) -> MemberLosses | None:
        width = len(self._columns)
        has_scores = any(np.isfinite(scores).any() for _, _, scores in self._answers)
        kind = "square" if self._is_regression else "log" if has_scores else "zero_one"
        found = [
            loss_of(kind, predicted, label, scores, self._columns)
            for predicted, label, scores in self._answers
            if kind != "log" or scores.shape[1] == width
        ]
        return MemberLosses.of(kind, np.concatenate([*found, np.empty(0)]))
