"""What the natural-size test says of a change, in words and in the stream's own unit."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from ..core.verdict import Summary, Verdict
from .episodes import Step
from .first_values import CONSTANT_VALUES, Notice
from .natural_kernel import NUMBERS

DAY_SECONDS: Final = 86_400.0
WEEK_SECONDS: Final = 604_800.0
MONTH_SECONDS: Final = 2_629_800.0
YEAR_SECONDS: Final = 31_557_600.0
_UNITS: Final = (
    ("years", YEAR_SECONDS), ("months", MONTH_SECONDS), ("weeks", WEEK_SECONDS),
    ("days", DAY_SECONDS), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0),
)  # fmt: skip


class What(NamedTuple):
    """A statistic in words: what kind of change its changes are, and what the evidence adds."""

    change: str
    note: str = ""


_LEVEL: Final = What("location")
_RATE: Final = What("rate")
_SPREAD: Final = What("scale", " in the spread of its highest values")
_FLIPS: Final = What("flip rate", " in how often it flips")


class Watched(NamedTuple):
    """A statistic of a stream: the stream's name, its kind and scale, and which statistic."""

    name: str
    kind: int
    scale: float
    statistic: int

    @property
    def what(self) -> What:
        """The statistic in words."""
        if self.kind == NUMBERS:
            return _SPREAD if self.statistic else _LEVEL
        return _FLIPS if self.statistic else _RATE

    def size(self, before: float, level: float) -> float | None:
        """Return a change in the stream's own unit, None if it has none there."""
        if self.what is _SPREAD:
            return None
        if self.what is _LEVEL:
            return self.scale * (math.sinh(level) - math.sinh(before))
        return level - before


class Alarm(NamedTuple):
    """A change beyond its threshold.

    Parameters
    ----------
    z, threshold
        Its size in natural sizes, and what that was compared with.
    blocks
        The horizon.
    level, before
        Mean of the latest blocks, and of those that they were compared with.
    rows, rows_before
        Rows in the latest blocks, and in those.
    delay_events, delay_low, delay_high
        Rows since the change began, and between which numbers of them that is.
    chance_events
        By chance once in so many events.
    """

    z: float
    threshold: float
    blocks: int
    level: float
    before: float
    rows: int
    rows_before: int
    delay_events: int
    delay_low: int
    delay_high: int
    chance_events: float


def alarm(stream: Watched, step: Step, found: Alarm, block_seconds: float) -> Verdict:
    """Claim that a stream has changed by more than it does by itself, or still does."""
    what = stream.what
    reference = current = None
    if stream.kind != NUMBERS:  # numbers are in the scale of asinh here
        reference = Summary(count=found.rows_before, mean=found.before)
        current = Summary(count=found.rows, mean=found.level)
    return Verdict(
        detector="natural_size",
        subject=stream.name,
        offset=0,
        row=0,
        statistic=abs(found.z),
        threshold=found.threshold,
        unit="natural sizes",
        phase=step.phase,
        lasts=True,
        change=f"{what.change} {'up' if found.z > 0 else 'down'}",
        size=stream.size(found.before, found.level),
        size_sigmas=found.z,
        delay_events=found.delay_events,
        delay_low=found.delay_low,
        delay_high=found.delay_high,
        chance_events=found.chance_events,
        evidence=f"{found.z:+.1f} natural sizes over {span(found.blocks, block_seconds)}{what.note}",
        reference=reference,
        current=current,
    )


def rest(stream: Watched, step: Step, level: float, limit: int, block_seconds: float) -> Verdict:
    """Claim that a stream has come to rest, or is given up.

    Parameters
    ----------
    level
        Mean of the latest blocks, NaN if there is none.
    limit
        The number of blocks that was to be reached.
    """
    what = stream.what
    done = "open" if step.outcome == "unsettled" else "at rest"
    return Verdict(
        detector="natural_size",
        subject=stream.name,
        offset=0,
        row=0,
        statistic=float(step.blocks),
        threshold=float(limit),
        unit=f"blocks {done}",
        phase="settled",
        lasts=True,
        change=f"{what.change} {'up' if level > step.before else 'down'}",
        size=None if math.isnan(level) else stream.size(step.before, level),
        outcome=step.outcome,
        evidence=f"{done} for {span(step.blocks, block_seconds)}",
    )


def varies(name: str, notice: Notice) -> Verdict:
    """Claim that a stream that was constant has begun to vary."""
    return Verdict(
        detector="natural_size",
        subject=name,
        offset=0,
        row=0,
        statistic=float(notice.equal),
        threshold=float(CONSTANT_VALUES),
        unit="equal values",
        change="schema",
        delay_events=1,
        evidence=f"varies for the first time, after {notice.equal} equal values",
    )


def span(blocks: int, block_seconds: float) -> str:
    """Return how long so many blocks are, in words.

    Examples
    --------
    >>> span(7, 86_400), span(12, 2_629_800), span(7, 1800)
    ('7 days', '12 months', '210 minutes')
    """
    fitting = (unit for unit in _UNITS if unit[1] <= block_seconds * (1 + 1e-6))
    name, seconds = next(fitting, _UNITS[-1])
    return f"{blocks * block_seconds / seconds:.6g} {name}"
