"""Intervals of a mean that hold at all times together, however often one looks."""

from __future__ import annotations

import math
from typing import Final

_ALPHA: Final = 0.05
_BEST_AT: Final = 1000.0
"""Events at which the interval is tightest; chosen: a gap of 0.05 is found at about as many."""


def half_width(events: float, variance: float, alpha: float = _ALPHA) -> float:
    """Return how far the mean of so many independent events is from the truth at most, at all times together.

    Parameters
    ----------
    events
        How many, above 0; of a difference of two means the 1 / (1 / a + 1 / b) of their numbers.
    variance
        Of one event.
    alpha
        The probability that the mean is ever further off, as events become many.

    Notes
    -----
    The asymptotic confidence sequence of a mixture of normal laws, tightest at 1,000 events: Waudby-Smith, Arbour, Sinha,
    Kennedy and Ramdas 2024, "Time-uniform central limit theory and asymptotic confidence sequences", Theorem 2.2
    (arXiv 2103.06476). At 1,000 events it is 1.5 times as wide as an interval
    for one look.

    Examples
    --------
    >>> [round(half_width(events, 0.25), 3) for events in (100, 1_000, 10_000)]
    [0.193, 0.048, 0.016]
    """
    spread = -2 * math.log(alpha)
    rho_squared = (spread + math.log(spread + 1)) / _BEST_AT
    scaled = events * rho_squared + 1
    width = 2 * scaled / (events * events * rho_squared) * math.log(math.sqrt(scaled) / alpha)
    return math.sqrt(variance * width)


def events_for(width: float, variance: float, alpha: float = _ALPHA) -> float:
    """Return about how many events it takes until `half_width` is at most `width`, above 0; at least 1."""
    events = 1.0
    while half_width(events, variance, alpha) > width:
        events *= 1.05
    return events
