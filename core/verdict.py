"""A detector's claim. What a person acts on is an `Alert`; see `alert.py`."""

from __future__ import annotations

from typing import Literal

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
    categories
        Of a stream of categories what all bins but the last one stand for; the last is of all others.
    """

    count: int
    mean: float | None = None
    std: float | None = None
    edges: list[float] = []
    counts: list[int] = []
    categories: list[str] = []


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One claim of one detector about one stream, complete in itself.

    Parameters
    ----------
    detector
        Who claims, in the literature's name: `adwin`, `page_hinkley`, `e_detector`, `adversarial`.
    subject
        The stream: `feature:amount`, `score`, `error`, `client:abc`.
    offset, row
        The event that decided it.
    statistic, threshold, unit
        What was compared with what; `unit` says in words what it is.
    phase
        `opened`: the stream has changed; `moved`: a change that was claimed still goes on; `settled`: it
        has come to rest. Detectors that only ever raise alarms say `opened`.
    lasts
        Whether the detector will say when the stream has settled.
    change
        What kind of change: `location up`, `location down`, `scale up`, `scale down`, `shape`,
        `rate up`, `rate down` (of errors), `missing`, `missing less`, `new category`, `shares`, and of
        ordered streams also `flip rate up`, `flip rate down`, `schema`.
    size, size_sigmas
        After less before, in the stream's own unit and in standard deviations of the reference. Of a scale it is the
        spread, of categories the share of the one whose share has changed most or of what is new; a shape has none.
    newcomers
        Of the change `new category` what has come, the most frequent first; at most 5.
    delay_events
        Estimated number of events since the change began, this one included; of a stream that has a value in some events
        only, as many as its values since then come to by its usual rate.
    delay_low, delay_high
        An interval for it.
    chance_events
        Evidence this strong comes by chance once in so many events, over everything watched.
    advisory
        Whether it joins what others have claimed, and claims nothing by itself: it is outside the budget.
    outcome
        Of a settled stream: `returned`, `new regime`, `unsettled` when it was given up, or `gone` when it had no
        value for long.
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
    phase: Literal["opened", "moved", "settled"] = "opened"
    lasts: bool = False
    change: str = ""
    size: float | None = None
    size_sigmas: float | None = None
    newcomers: list[str] = []
    delay_events: int | None = None
    delay_low: int | None = None
    delay_high: int | None = None
    chance_events: float | None = None
    advisory: bool = False
    outcome: Literal["", "returned", "new regime", "unsettled", "gone"] = ""
    evidence: str = ""
    reference: Summary | None = None
    current: Summary | None = None
    samples: list[str] = []
