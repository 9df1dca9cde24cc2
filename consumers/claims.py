"""What a verdict is told with: the event that decided it, when the change began, and what kind of alert it makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..core.alert import Kind
from ..core.batch import EventBatch, LabelBatch
from ..core.columns import Ints, Strings
from ..core.verdict import Verdict
from ..detectors.leak_verdicts import FEATURES, LEAK, SAME_AS_LABEL
from ..detectors.natural_size import SURPRISE
from . import sentences
from .bias import OF_PREDICTIONS
from .environments import EnvironmentGaps
from .estimates import ESTIMATE, ESTIMATED_ERROR
from .incidents import Claim, Moment
from .leakage import STREAM
from .rates import RATES
from .series import Series

ROW_BITS = 20
"""A position is offset * 2**20 + row, one 64-bit number that orders events as the log does."""


class Events(NamedTuple):
    """All events of one update, predictions or labels, (n,) each."""

    position: Ints
    times: Ints
    ids: Strings
    environment: Ints
    version: Strings


class Clocks(NamedTuple):
    """A series' events in one update, and how many there were before: predictions, joined pairs."""

    predictions_before: int
    predictions: Ints
    pairs_before: int
    pairs: Ints


def position_of(offsets: Ints, rows: Ints) -> Ints:
    """Return (n,) positions of events."""
    return (offsets << ROW_BITS) + rows


def events_of(batches: Sequence[EventBatch]) -> Events:
    """Return predictions as claims look them up."""
    if not batches:
        none = np.empty(0, np.int64)
        return Events(none, none, Strings.missing(0), none, Strings.missing(0))
    return Events(
        np.concatenate([position_of(batch.offsets, batch.rows) for batch in batches]),
        np.concatenate([batch.times for batch in batches]),
        Strings.concat([batch.prediction_id for batch in batches]),
        np.concatenate([batch.environment for batch in batches]).astype(np.int64),
        Strings.concat([batch.version for batch in batches]),
    )


def labels_of(labels: Sequence[LabelBatch]) -> Events:
    """Return labels as claims look them up."""
    none = np.empty(0, np.int64)
    if not labels:
        return Events(none, none, Strings.missing(0), none, Strings.missing(0))
    count = sum(map(len, labels))
    return Events(
        np.concatenate([position_of(label.offsets, label.rows) for label in labels]),
        np.concatenate([label.times for label in labels]),
        Strings.concat([label.prediction_id for label in labels]),
        np.zeros(count, np.int64),
        Strings.missing(count),
    )


def claim_of(
    series: Series | EnvironmentGaps,
    verdict: Verdict,
    clocks: Clocks,
    predictions: Events,
    labels: Events,
    label_age: int,
) -> Claim:
    """Put a verdict into its context: the event that decided it, and when the change began."""
    position = (verdict.offset << ROW_BITS) + verdict.row
    row = int(np.searchsorted(predictions.position, position))
    events = predictions
    if row == len(predictions.position) or predictions.position[row] != position:
        events, row = labels, int(np.searchsorted(labels.position, position))
    clock = clocks.predictions_before + count_upto(clocks.predictions, position)
    kind = kind_of(verdict.subject)
    is_of_pairs = kind == "concept drift" or verdict.detector in (FEATURES, SAME_AS_LABEL)
    if is_of_pairs or (kind == "bias" and verdict.subject.split(":")[1] != OF_PREDICTIONS):
        line, number = series.pairs, clocks.pairs_before + count_upto(clocks.pairs, position)
    else:
        line, number = series.events, clock
    return Claim(
        clock=clock,
        verdict=verdict,
        kind=kind,
        summary=sentences.changed(verdict, is_regression=series.is_regression, label_age=label_age),
        time=int(events.times[row]),
        started=line.since(verdict, number, (int(events.times[row]), verdict.offset)),
        prediction_id=events.ids[row],
        version=events.version[row],
    )


def count_upto(positions: Ints, upto: int) -> int:
    """Return how many events stand at `upto` or before."""
    return int(np.searchsorted(positions, upto, side="right"))


def moment_of(events: Events, position: int) -> Moment:
    """Return when and where an event was."""
    row = int(np.searchsorted(events.position, position))
    return Moment(
        position >> ROW_BITS,
        position & ((1 << ROW_BITS) - 1),
        int(events.times[row]),
        events.ids[row],
    )


def kind_of(subject: str) -> Kind:
    """Return what kind of alert a change of a stream makes."""
    what = subject.removeprefix("missing:").partition(":")[0]
    if what in ("feature", "category", "label", "embedding"):
        return "data drift"
    if what in ("score", "prediction", "logits"):
        return "prediction drift"
    if what in ("error", ESTIMATE, ESTIMATED_ERROR) or what in RATES or subject == SURPRISE:
        return "concept drift"
    if what == "gap":
        return "bias"
    if what in (LEAK, STREAM):
        return "leakage"
    return "adversarial input" if what == "client" else "pipeline"
