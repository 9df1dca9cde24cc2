"""A detector's claim. What a person acts on is an `Alert`; see `alert.py`."""

from __future__ import annotations

import msgspec


class Summary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Some values of one stream.

    Parameters
    ----------
    count
        How many values.
    mean, std
        Of the values, in the stream's own unit.
    edges
        (bins + 1,) edges of the histogram; values beyond the outer edges count in the outer bins.
    counts
        (bins,) how many values fell into each bin; the reference and the current values of one
        verdict share their edges.
    """

    count: int
    mean: float | None = None
    std: float | None = None
    edges: list[float] = []
    counts: list[int] = []


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One claim of one detector about one stream, complete in itself.

    Parameters
    ----------
    detector
        Who claims, in the literature's name: `adwin`, `page_hinkley`, `adversarial`.
    subject
        The stream: `feature:amount`, `score`, `error`, `client:abc`.
    offset, row
        The observation at which the claim was made.
    statistic, threshold
        What was compared with what.
    unit
        What the statistic counts, in words.
    delay_events
        Estimated number of the stream's values since the change began, this one included.
    evidence
        How sure, in words.
    reference, current
        The stream before and after the change.
    samples
        Prediction ids that show it, the latest last; at most 10.
    """

    detector: str
    subject: str
    offset: int
    row: int
    statistic: float
    threshold: float
    unit: str = ""
    delay_events: int | None = None
    evidence: str = ""
    reference: Summary | None = None
    current: Summary | None = None
    samples: list[str] = []
