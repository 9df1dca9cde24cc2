"""Scores of predictions: as columns of one order, so that a pair still has them when its label comes, and as one number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from ..core.batch import EventBatch
from ..core.columns import FLOAT, Floats, Ints, Strings
from ..core.snapshot import pack, unpack
from ..detectors.compiled import compiled
from .class_numbers import ClassNumbers

MOST_CLASSES: Final = 16
"""Classes of which each is told apart; pairs of others count as one class."""


class ScoreColumns:
    """The classes of a model's scores, as its first prediction with scores has them.

    Of one or two scores one column is kept, of the class that is asked about: `positive`, or the one whose name sorts last (`1` of
    `0` and `1`). Of more, one of each of 16 classes at most. Logits stand for scores where there are none: class k is
    the integer k, the score its softmax.

    Parameters
    ----------
    positive
        The name of the class that is asked about; None for the last.
    """

    def __init__(self, positive: str | None = None) -> None:
        self._positive = positive
        self.names: tuple[str, ...] = ()
        self.classes: Floats = np.empty(0)
        """(k,) their numbers, as `ClassNumbers` has them."""
        self.positive = math.nan
        """The number of the class that is asked about: that of the score if the first prediction has one, else as set, or 1."""
        self.changes = 0

    @classmethod
    def known(cls, names: Sequence[str], positive: float, asked: str | None) -> ScoreColumns:
        """Return those of a model of which it is known what they are."""
        columns = cls(asked)
        if names:
            columns._take(tuple(names))
        columns.positive = positive
        return columns

    @property
    def asked(self) -> str | None:
        """The class that is asked about, as somebody has said."""
        return self._positive

    @property
    def is_set(self) -> bool:
        """Whether somebody has said which class is asked about."""
        return self._positive is not None

    def __len__(self) -> int:
        return len(self.names)

    def of(self, batch: EventBatch) -> Floats:
        """Return (n, k) scores of predictions, NaN where a row has none."""
        if batch.score_names:
            names, scores = batch.score_names, batch.scores
        elif batch.logits is not None:
            names, scores = tuple(map(str, range(batch.logits.shape[1]))), softmax(batch.logits)
        else:
            names, scores = (), np.empty((len(batch), 0))
        if not len(self):
            self._decide(names, scores)
        if math.isnan(self.positive):
            self._ask(batch, scores)
        if len(self) == 1 and self.names[0] in names:
            at = names.index(self.names[0])
            return scores[:, at : at + 1]
        found = np.full((len(batch), len(self)), np.nan)
        for k, name in enumerate(self.names):
            if name in names:
                found[:, k] = scores[:, names.index(name)]
        return found

    def _decide(self, names: tuple[str, ...], scores: Floats) -> None:
        """Decide by the first row with scores, so that it does not matter what else came with it."""
        rows = np.flatnonzero(np.isfinite(scores).any(axis=1))
        if not len(rows):
            return
        there = np.isfinite(scores[rows[0]])
        known = sorted(name for name, is_there in zip(names, there, strict=True) if is_there)
        if len(known) > 2:
            self._take(tuple(known[:MOST_CLASSES]))
        else:
            positive = self._positive
            self._take((positive if positive is not None and positive in known else known[-1],))

    def _ask(self, batch: EventBatch, scores: Floats) -> None:
        """Decide which class is asked about, by the first row with a prediction or scores."""
        has_scores = np.asarray(np.isfinite(scores).any(axis=1))
        answered = np.flatnonzero(batch.prediction.present | has_scores)
        if len(answered):
            name = Strings.of(["1" if self._positive is None else self._positive])
            is_scored = has_scores[answered[0]] and len(self) == 1
            self.positive = float(self.classes[0] if is_scored else ClassNumbers().of_text(name)[0])
            self.changes += 1

    def _take(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.classes = ClassNumbers().of_text(Strings.of(names))
        self.changes += 1

    def numbers(self, classes: Floats) -> Ints:
        """Return (n,) which of the columns is of each class, -1 for none."""
        found = np.full(len(classes), -1)
        for k, number in enumerate(self.classes.tolist()):
            found[classes == number] = k
        return found

    def snapshot(self) -> bytes:
        """Return the whole state."""
        meta = {"names": list(self.names), "positive": self.positive}
        return pack("score_columns", 1, meta, {})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot."""
        meta, _ = unpack("score_columns", 1, state)
        self._take(tuple(str(name) for name in meta["names"][:MOST_CLASSES]))
        self.positive = float(meta["positive"])


def softmax(logits: Floats) -> Floats:
    """Return (n, classes) probabilities of logits; NaN in a row with a value that is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def score(scores: Floats, names: tuple[str, ...]) -> Floats:
    """Return (n,) one number for the scores of each row.

    Of one score, that score; of two, the one whose name sorts last (`1` of `0` and `1`); of more, the
    largest. By row, so that it does not depend on which rows come in one batch.
    """
    if len(names) == 1:
        return np.ascontiguousarray(scores[:, 0])
    found = np.empty(len(scores))
    _score(scores, np.array(sorted(range(len(names)), key=names.__getitem__), np.int64), found)
    return found


@compiled
def _score(scores: Floats, order: Ints, found: Floats) -> None:
    for i in range(len(found)):
        last, largest, present = np.nan, -np.inf, 0
        for j in order:
            x = scores[i, j]
            if not np.isnan(x):
                last, largest, present = x, max(largest, x), present + 1
        found[i] = largest if present > 2 else last


def is_regression(batch: EventBatch) -> bool | None:
    """Decide by the first row with a prediction, scores or logits; None while there is none."""
    has_scores = np.asarray(np.isfinite(batch.scores).any(axis=1))
    if batch.logits is not None:
        has_scores = np.ones(len(batch), np.bool_)
    answered = np.flatnonzero(batch.prediction.present | has_scores)
    if not len(answered):
        return None
    first = int(answered[0])
    return bool(batch.prediction.tags[first] == FLOAT and not has_scores[first])
