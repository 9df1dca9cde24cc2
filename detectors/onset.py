"""When a change began: how the evidence for it is spread over the values at which it may have begun."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..core.columns import Floats, Ints


class Onset(NamedTuple):
    """How many of the latest values lie after the change: an estimate, a 95 % interval, that of one bet alone."""

    delay: int
    low: int
    high: int
    alone: int


def onset(gains: Floats, counts: Ints, speeds: Floats, best: int) -> Onset:
    """Return since when a stream has been another, as the median over all possible beginnings.

    Parameters
    ----------
    gains
        (n, bets) logarithms of the likelihood ratios of changed to unchanged for the latest values, the newest
        last; a row may be the sum over several.
    counts
        (n,) over how many values each row is summed.
    speeds
        (bets,) nats a value that each bet wins after the change it is on. A change of speed D may as well have
        begun at any of about 1 / D values: weighed by D, each bet counts the same. Unweighed, slow bets
        make onsets too early.

    best
        Number of the bet of which `alone` is: up to there lie 80 % of its own beginnings.

    Notes
    -----
    A Shiryaev-Roberts sum adds up one term for each value at which the change may have begun: the product of
    the ratios since. With any beginning as likely as any other, those terms are the posterior distribution of
    the beginning (Shiryaev 1963, "On optimum methods in quickest detection problems", doi:10.1137/1108002).
    """
    since = np.cumsum(gains[::-1], axis=0)
    values = np.cumsum(counts[::-1])
    log_terms = since + np.log(np.maximum(speeds, 1e-12)) + np.log(counts[::-1])[:, None]
    low, middle, high = _points(np.logaddexp.reduce(log_terms, axis=1), values, (0.025, 0.5, 0.975))
    (alone,) = _points(log_terms[:, best], values, (0.8,))
    return Onset(middle, low, high, alone)


def _points(log_terms: Floats, values: Ints, levels: tuple[float, ...]) -> list[int]:
    """Return at which of (n,) values the terms of these logarithms have added up to each level."""
    upto = np.cumsum(np.exp(log_terms - log_terms.max()))
    places = np.searchsorted(upto, np.array(levels) * upto[-1])
    return [int(values[min(place, len(values) - 1)]) for place in places.tolist()]
