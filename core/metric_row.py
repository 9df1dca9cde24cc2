"""A row of a model's series of metrics: what workers write into Redis and what lookers-on read."""

from __future__ import annotations

from math import isfinite
from typing import TypeAlias

import msgspec

Value: TypeAlias = tuple[float, float, float, float]
"""A metric: itself, the lower and the upper end of its interval at 95 %, and what bins of scores may cost."""


class MetricRow(msgspec.Struct, frozen=True, kw_only=True):
    """Performance of a group's predictions of one span of time.

    Parameters
    ----------
    environment
        Of the predictions.
    group
        `sex=F` or `sex=F race=2`; empty for all predictions.
    begin, end
        The span, ISO 8601, UTC; `end` is not part of it.
    window
        Whether the span is the window that ends with the newest cohort; else it is a cohort.
    predictions, labels
        Predictions in the span, and how many of them have a label now.
    label_coverage_ratio
        Labels over predictions.
    closed
        Whether so many labels are there, or so much time has passed, that nothing much is expected to change.
    revised
        Labels that came, or changed, so long after the span that it had been closed.
    positive
        The class that precision, recall, F1 and the score are about; empty for more than two classes, and for numbers.
    metrics
        Name to value, lower and upper end of its interval at 95 %, and what the value itself may be off by since scores
        are counted in bins. What is not known has no entry.
    estimated
        The same as expected from scores, or of a regression from predictions, labels or not, as far as these mean what they meant
        for the first labels that came, or in training: blind to concept drift. Empty where that is not known.
    corrected
        The same for labels that are still to come, or never will, as `performance.maturity` and `unlabelled` say: what the
        metrics will be if labels come as those of mature cohorts did. Empty where that is not known.
    too_small
        Of gaps between groups those that cannot be judged, since a group has too few events that the metric is about:
        its rate is not known within `bias.epsilon`, or 0.05 where that is less.
    counts
        What all this follows from, for whoever adds rows up; see `consumers/row_counts.py`.
    """

    environment: str
    group: str
    begin: str
    end: str
    predictions: int
    labels: int
    label_coverage_ratio: float
    closed: bool
    revised: int
    positive: str = ""
    metrics: dict[str, Value]
    estimated: dict[str, Value] = {}
    corrected: dict[str, Value] = {}
    too_small: list[str] = []
    window: bool = False
    counts: bytes = b""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(MetricRow)


def encode(row: MetricRow) -> bytes:
    """Return a row as JSON, without what is no finite number: readers could make nothing of the whole row."""
    found = msgspec.structs.asdict(row)
    for kind in ("metrics", "estimated", "corrected"):
        of: dict[str, Value] = found[kind]
        found[kind] = {name: value for name, value in of.items() if all(map(isfinite, value))}
    return _encoder.encode(found)


def decode(text: bytes) -> MetricRow:
    """Return a row from JSON.

    Raises
    ------
    msgspec.MsgspecError
        It is none; fields that are not known are passed over.
    """
    return _decoder.decode(text)
