"""A row of a model's series of metrics: what workers write into Redis and what lookers-on read."""

from __future__ import annotations

from math import isfinite
from typing import Final, TypeAlias

import msgspec

Value: TypeAlias = tuple[float, float | None, float | None, float]
"""A metric: itself, the lower and the upper end of its interval at 95 %, None where that is not known, and what bins of scores
may cost."""

GAP: Final = "gap:"
"""Before the names of metrics that two groups have between them."""


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
        Name to value, lower and upper end of its interval at 95 %, None both where one event tells nothing of how much they vary,
        and what the value itself may be off by since scores are counted in bins. What is not known has no entry.
    estimated
        The same as expected from scores, or of a regression from predictions, labels or not, as far as these mean what they meant
        for the first labels that came, or in training: blind to concept drift. Empty where that is not known.
    corrected
        The same for labels that are still to come, or never will, as `performance.maturity` and `unlabelled` say: what the
        metrics will be if labels come as those of mature cohorts did. Empty where that is not known.
    training
        The same of rows of training with labels, as `drift.reference` has them. Empty where that is not known.
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
    training: dict[str, Value] = {}
    too_small: list[str] = []
    window: bool = False
    counts: bytes = b""

    @property
    def is_gap(self) -> bool:
        """Whether it is about two groups, as `sex=F|M`, and what lies between them."""
        told = (*self.metrics, *self.estimated, *self.too_small)
        return all(name.startswith(GAP) for name in told) and (bool(told) or "|" in self.group)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(MetricRow)


def encode(row: MetricRow) -> bytes:
    """Return a row as JSON, without what is no finite number: readers could make nothing of the whole row."""
    return _encoder.encode(finite(row))


def finite(row: MetricRow) -> MetricRow:
    """Return a row without metrics that are no finite number; of an interval that is none both ends are None."""
    of = {
        kind: {
            name: told
            for name, value in getattr(row, kind).items()
            if (told := _finite(value)) is not None
        }
        for kind in ("metrics", "estimated", "corrected")
    }
    return msgspec.structs.replace(row, **of)


def _finite(found: Value) -> Value | None:
    value, low, high, error = found
    if not (isfinite(value) and isfinite(error)):
        return None
    if low is None or high is None or not (isfinite(low) and isfinite(high)):
        return value, None, None, error
    return found


def decode(text: bytes) -> MetricRow:
    """Return a row from JSON.

    Raises
    ------
    msgspec.MsgspecError
        It is none; fields that are not known are passed over.
    """
    return _decoder.decode(text)
