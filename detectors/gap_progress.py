"""How far a test of a gap has come: which side is ahead by how much, or how many more events it takes to say."""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

import numpy as np

from ..core.columns import Floats
from .confidence_sequence import events_for, half_width
from .gap_kernel import COUNT_A, COUNT_B, GAPS, PRIOR_PAIRS, SUM_A, SUM_B

Decision = Literal["gap", "within", "open"]
_SURE: Final = 0.95
"""Part of a width that is left for what the gap may still move by."""


class Progress(NamedTuple):
    """A gap as all pairs so far show it.

    Parameters
    ----------
    gap, low, high
        The first group's mean less the second's, and an interval that holds the truth at all times together with 95 %
        (`confidence_sequence`): one may look at it as often as one likes, and stop when one has seen enough.
    a, b
        Events of either group that have been paired.
    decision
        `gap`: the test has claimed one, beyond epsilon. `within`: the interval lies within epsilon of 0. `open`: neither.
    is_up
        Whether the gap that was claimed last, or else the one that is seen, is above 0.
    more
        About how many more events of both groups it takes to decide, if the gap is what it looks like; 0 where that is
        done, None where it is too near epsilon to say.
    """

    gap: float
    low: float
    high: float
    a: int
    b: int
    decision: Decision
    is_up: bool
    more: float | None


def of(
    totals: Floats, pairs: float, squares: float, evidence: Floats, epsilon: float, scale: float, claimed: int
) -> Progress:  # fmt: skip
    """Return the progress of a test from one row of its state, see `gap_kernel.Tests`; `claimed` is 1, -1 or 0 for none."""
    a, b = float(totals[COUNT_A]), float(totals[COUNT_B])
    size = float(totals[SUM_A]) / a - float(totals[SUM_B]) / b
    variance = (0.25 * PRIOR_PAIRS + float(squares)) / (PRIOR_PAIRS + float(pairs))
    events = a * b / (a + b)  # of a mean that is as well known as the difference
    half = half_width(events, variance)
    low, high = max(size - half, -1.0), min(size + half, 1.0)
    decision: Decision = "open"
    more: float | None = 0.0
    if claimed:
        decision = "gap"
    elif -epsilon < low and high < epsilon:
        decision = "within"
    else:
        more = _more(abs(size) - epsilon, events, variance, pairs, evidence)
        more = None if more is None else float(more * (a + b))
    is_up = claimed > 0 if claimed else size > 0
    return Progress(
        scale * size, scale * low, scale * high, int(a), int(b), decision, is_up, more
    )  # fmt: skip


def _more(
    beyond: float, events: float, variance: float, pairs: float, evidence: Floats
) -> float | None:
    """Return how many times the events so far it takes to decide of a gap that is so far beyond epsilon."""
    if beyond <= 0:
        room = -beyond * _SURE
        return max(events_for(room, variance) / events - 1.0, 0.0) if room > 1e-3 else None
    spread = variance * pairs / events
    stakes = GAPS / (spread + GAPS * GAPS)
    # The mean logarithm of a bet's factor, to second order.
    growth = float((stakes * beyond - stakes * stakes * (spread + beyond * beyond) / 2).max())
    won = float(np.sum(evidence))
    if growth <= 1e-9 or not 0 < won < math.inf:
        return None
    return max(-math.log(won), 0.0) / growth / pairs
