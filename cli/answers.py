"""What is watched of predictions and labels: the errors, or the one of the two that is known alone."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..consumers.class_numbers import ClassNumbers, numbers_only
from ..consumers.model_settings import ModelSettings
from ..consumers.rates import errors_and_labels
from ..consumers.series import Series
from ..core.batch import EventBatch, Origin
from ..core.columns import Floats
from ..core.events import ClassOrNumber, Prediction


class Answers:
    """Collects the values of that stream, as a worker would see them.

    Parameters
    ----------
    stream
        Which, in the worker's names.

    Notes
    -----
    An error is 1 for a wrong class and 0 for a right one, or how far a regression missed. Classes are numbered
    in the order in which they first come, so that of two the mean is a rate.
    """

    def __init__(self, stream: Literal["error", "label", "prediction"]) -> None:
        self.stream = stream
        self._series = Series("", "backtest", 0, ModelSettings())
        self._classes = ClassNumbers()
        self._codes: dict[float, int] = {}
        self._waiting: list[tuple[Origin, Prediction]] = []

    @property
    def is_category(self) -> bool:
        """Whether the values stand for classes."""
        return self.stream != "error" and not self._series.is_regression

    def add(self, event: Prediction) -> None:
        """Take an event in, and keep no more of it than the answer."""
        answer, label = event.prediction, event.label
        if self.stream == "label":  # alone, it is read as a prediction would be
            answer, label = label, None
        bare = Prediction(
            prediction_id="", prediction=_fitting(answer), label=_fitting(label),
            scores=event.scores, logits=event.logits,
        )  # fmt: skip
        self._waiting.append((Origin(len(self._waiting), 0, 0), bare))

    def take(self) -> Floats:
        """Return (n,) values of the events since the last call, one at least; NaN where one has none."""
        found = [self._of(batch) for batch in EventBatch.of("", self._waiting)]
        self._waiting = []
        return np.concatenate(found)

    def _of(self, batch: EventBatch) -> Floats:
        self._series.decide(batch)
        answer = self._classes.numbers(batch.prediction)
        if self.stream == "error":
            label = self._classes.numbers(batch.label)
            of = errors_and_labels(answer, label, is_regression=self._series.is_regression)
            return of[:, 0]
        return self._coded(answer) if self.is_category else numbers_only(answer)

    def _coded(self, classes: Floats) -> Floats:
        known = ~np.isnan(classes)
        distinct, first, place = np.unique(classes[known], return_index=True, return_inverse=True)
        for k in np.argsort(first).tolist():
            self._codes.setdefault(float(distinct[k]), len(self._codes))
        found = np.full(len(classes), np.nan)
        found[known] = np.array([self._codes[value] for value in distinct.tolist()], float)[place]
        return found


def _fitting(answer: ClassOrNumber | None) -> ClassOrNumber | None:
    """Return an answer; an integer that is too large for a number as text."""
    return str(answer) if isinstance(answer, int) and abs(answer) >= 1 << 1023 else answer
