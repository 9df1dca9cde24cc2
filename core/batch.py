"""Events as columns: the rows of one model from one partition, as numpy arrays. No decoding lives here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .cloudevents import to_nanoseconds
from .columns import Bytes, Floats, Ints, Strings, Values
from .events import ENVIRONMENTS, Label, Prediction

MAX_CELLS: Final = 1 << 20
"""Rows times names of a batch, at most: some 8 MB."""


class Origin(NamedTuple):
    """Where a decoded event came from: its identity within the partition, and Kafka's own time."""

    offset: int
    row: int
    timestamp: int  # the record's, integer nanoseconds since 1970


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EventBatch:
    """Predictions of one model, in the order of the log.

    Parameters
    ----------
    model
        The model's name.
    offsets, rows
        (n,) int64: the record's offset and the event's place inside the record.
    times
        (n,) int64: event time, nanoseconds since 1970 UTC.
    environment
        (n,) uint8 index into `events.ENVIRONMENTS`.
    prediction_id, client, version
        (n,) text.
    features
        (n, k) float64, one column a name of `feature_names`: numbers, booleans as 0 and 1; NaN
        where the row has no number.
    texts
        Text features, name to (n,) text.
    prediction, label
        (n,) classes or numbers.
    scores
        (n, c) float64, one column a name of `score_names`; NaN where absent.
    logits, embedding
        (n, classes) and (n, dimensions) float64, or None; every row of a batch has the same
        width, a row without one is a batch of its own.
    segments
        Name to (n,) text.
    sample_rate
        (n,) float64 in (0, 1].
    inputs
        (n,) raw inputs, `Tensor` or None; None where no row has one.
    """

    model: str
    offsets: Ints
    rows: Ints
    times: Ints
    prediction_id: Strings
    environment: Bytes
    version: Strings
    client: Strings
    feature_names: tuple[str, ...]
    features: Floats
    texts: dict[str, Strings]
    prediction: Values
    label: Values
    score_names: tuple[str, ...]
    scores: Floats
    logits: Floats | None
    embedding: Floats | None
    segments: dict[str, Strings]
    sample_rate: Floats
    inputs: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    def take(self, rows: Ints | slice) -> EventBatch:
        """Return the batch of `rows` only."""
        return EventBatch(**_taken(self, rows))

    @classmethod
    def of(cls, model: str, events: Sequence[tuple[Origin, Prediction]]) -> Iterator[EventBatch]:
        """Yield batches of `events`, cut where the width of the logits or embedding changes.

        And where rows times names would pass `MAX_CELLS`: a few events may bring many names.
        """
        for _, run in groupby(events, key=lambda pair: _widths(pair[1])):
            found: list[tuple[Origin, Prediction]] = []
            names: set[str] = set()
            for pair in run:
                event = pair[1]
                own = names.union(event.features, event.scores or (), event.segments or ())
                if found and len(own) * (len(found) + 1) > MAX_CELLS:
                    yield cls._of_one_width(model, found)
                    found = []
                    own = {*event.features, *(event.scores or ()), *(event.segments or ())}
                found.append(pair)
                names = own
            yield cls._of_one_width(model, found)

    @classmethod
    def _of_one_width(cls, model: str, events: list[tuple[Origin, Prediction]]) -> EventBatch:
        origins = [origin for origin, _ in events]
        found = [event for _, event in events]
        numeric, texts = _split_features(found)
        score_names = tuple(dict.fromkeys(name for e in found for name in e.scores or ()))
        segment_names = dict.fromkeys(name for e in found for name in e.segments or ())
        return cls(
            model=model,
            offsets=np.array([o.offset for o in origins], np.int64),
            rows=np.array([o.row for o in origins], np.int64),
            times=np.array(
                [o.timestamp if e.time is None else to_nanoseconds(e.time) for o, e in events],
                np.int64,
            ),
            prediction_id=Strings.of(e.prediction_id for e in found),
            environment=np.array([ENVIRONMENTS.index(e.environment) for e in found], np.uint8),
            version=Strings.of(e.version for e in found),
            client=Strings.of(e.client for e in found),
            feature_names=tuple(numeric),
            features=_matrix(found, numeric, "features"),
            texts={
                name: Strings.of(
                    value if isinstance(value := e.features.get(name), str) else None for e in found
                )
                for name in texts
            },
            prediction=Values.of([e.prediction for e in found]),
            label=Values.of([e.label for e in found]),
            score_names=score_names,
            scores=_matrix(found, score_names, "scores"),
            logits=_stack([e.logits for e in found]),
            embedding=_stack([e.embedding for e in found]),
            segments={
                name: Strings.of((e.segments or {}).get(name) for e in found)
                for name in segment_names
            },
            sample_rate=np.array([e.sample_rate for e in found]),
            inputs=_inputs(found),
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LabelBatch:
    """Labels of one model, in the order of the log.

    Parameters
    ----------
    model
        The model's name.
    offsets, rows
        (n,) int64: the record's offset and the event's place inside the record.
    times
        (n,) int64: when the truth became known, nanoseconds since 1970 UTC.
    prediction_id
        (n,) text.
    label
        (n,) classes or numbers, none missing.
    revision
        (n,) int64, 0 for a first label.
    """

    model: str
    offsets: Ints
    rows: Ints
    times: Ints
    prediction_id: Strings
    label: Values
    revision: Ints

    def __len__(self) -> int:
        return len(self.offsets)

    def take(self, rows: Ints | slice) -> LabelBatch:
        """Return the batch of `rows` only."""
        return LabelBatch(**_taken(self, rows))

    @classmethod
    def of(cls, model: str, events: Sequence[tuple[Origin, Label]]) -> LabelBatch:
        """Build a batch from decoded labels."""
        return cls(
            model=model,
            offsets=np.array([o.offset for o, _ in events], np.int64),
            rows=np.array([o.row for o, _ in events], np.int64),
            times=np.array(
                [
                    o.timestamp if e.observed_at is None else to_nanoseconds(e.observed_at)
                    for o, e in events
                ],
                np.int64,
            ),
            prediction_id=Strings.of(e.prediction_id for _, e in events),
            label=Values.of([e.label for _, e in events]),
            revision=np.array([e.revision for _, e in events], np.int64),
        )


def _taken(batch: EventBatch | LabelBatch, rows: Ints | slice) -> dict[str, Any]:
    cut: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, np.ndarray):
            cut[field.name] = value[rows]
        elif isinstance(value, (Strings, Values)):
            cut[field.name] = value.take(rows)
        elif isinstance(value, dict):
            cut[field.name] = {name: column.take(rows) for name, column in value.items()}
        else:
            cut[field.name] = value
    return cut


def _widths(event: Prediction) -> tuple[int, int]:
    return len(event.logits or ()), len(event.embedding or ())


def _split_features(events: list[Prediction]) -> tuple[dict[str, None], dict[str, None]]:
    """Return the names that hold a number in some row, or nothing in all, and those that hold text."""
    numeric: dict[str, None] = {}
    texts: dict[str, None] = {}
    nulls: dict[str, None] = {}
    for event in events:
        for name, value in event.features.items():
            (nulls if value is None else texts if isinstance(value, str) else numeric)[name] = None
    numeric.update((name, None) for name in nulls if name not in texts)
    return numeric, texts


def _matrix(events: list[Prediction], names: Sequence[str] | dict[str, None], of: str) -> Floats:
    place = {name: column for column, name in enumerate(names)}
    cells = np.full((len(events), len(place)), np.nan)
    for row, event in enumerate(events):
        for name, value in (getattr(event, of) or {}).items():
            column = place.get(name)
            if column is not None:
                cells[row, column] = _number(value)
    return cells


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _inputs(events: list[Prediction]) -> NDArray[np.object_] | None:
    if all(event.input is None for event in events):
        return None
    found = np.empty(len(events), np.object_)
    found[:] = [event.input for event in events]
    return found


def _stack(vectors: list[list[float] | None]) -> Floats | None:
    if not vectors or not vectors[0]:
        return None
    return np.array(vectors, np.float64)
