"""When a change began: how the evidence for it is spread over the values at which it may have begun."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from ..core.columns import Floats, Ints

_NEAR: Final = {5: 1.0, 35: 0.4}
"""Values within which an onset is meant to be right, mostly and nearly always, and what either counts (chosen)."""
_MIDDLE: Final = 0.8  # of the distribution, in which it is looked for
_PROMPT: Final = 0.5
"""Power of a delay by which it is held to be less likely: most changes are claimed soon (chosen)."""


class Onset(NamedTuple):
    """How many of the latest values lie after the change: an estimate, a 95 % interval, that of one bet alone."""

    delay: int
    low: int
    high: int
    alone: int = 0


def onset(gains: Floats, counts: Ints, weights: Floats, best: int) -> Onset:
    """Return since when a stream has been another: where most is near, in the middle of all possible beginnings.

    Parameters
    ----------
    gains
        (n, bets) logarithms of the likelihood ratios of changed to unchanged for the latest values, the newest
        last; a row may be the sum over several.
    counts
        (n,) over how many values each row is summed; rows of several come before all of one.
    weights
        (bets,) how likely each bet was to be on the change, 0 or more.
    best
        Number of the bet of which `alone` is: up to there lie 80 % of its own beginnings.

    Notes
    -----
    A Shiryaev-Roberts sum adds up one term for each value at which the change may have begun: the product of
    the ratios since. With any beginning as likely as any other, those terms are the posterior distribution of
    the beginning (Shiryaev 1963, "On optimum methods in quickest detection problems", doi:10.1137/1108002).

    Here a delay counts the less the longer it is, by its square root. The median is nearest on average, but seldom near.
    So between the points of 10 and 90 % that beginning is taken which has the most within 5 values, and 0.4 as much counts
    what is within 35.
    """
    since = np.cumsum(gains[::-1], axis=0)
    values = np.cumsum(counts[::-1])
    log_terms = since + np.log(counts[::-1])[:, None]
    weighed = np.logaddexp.reduce(log_terms + np.log(np.maximum(weights, 1e-300)), axis=1)
    upto = _added_up(weighed - _PROMPT * np.log(values))
    edges = (0.025, 0.5 - _MIDDLE / 2, 0.5, 0.5 + _MIDDLE / 2, 0.975)
    low, begin, middle, end, high = np.searchsorted(upto, edges).tolist()
    # Rows that are sums lie before all others, and say where within them as badly as the median does; so does a change
    # that may have begun before all of them.
    singles = np.count_nonzero(counts == 1)
    if end < min(singles, len(upto) - 1):
        places = np.arange(begin, end + 1)
        below = np.append(0.0, upto)
        near = np.zeros(len(places))
        for within, weight in _NEAR.items():
            near += weight * below[np.minimum(places + within + 1, singles)]
            near -= weight * below[np.maximum(places - within, 0)]
        middle = begin + int(near.argmax())
    alone = int(np.searchsorted(_added_up(log_terms[:, best]), 0.8))
    return Onset(*(int(values[place]) for place in (middle, low, high, alone)))


def _added_up(log_terms: Floats) -> Floats:
    """Return (n,) sums up to each of the terms of these logarithms, the last one 1."""
    upto = np.cumsum(np.exp(log_terms - log_terms.max()))
    return np.asarray(upto / upto[-1])


def of_mean(values: Floats, counts: Floats | None = None) -> Onset:
    """Return since when the mean of (n,) values is another one.

    Parameters
    ----------
    values
        The newest last.
    counts
        (n,) of how many values each is the mean; 1 where nothing is said.

    Notes
    -----
    The maximum likelihood estimate for a normal stream of unknown means: Hinkley 1970, "Inference about the
    change-point in a sequence of random variables", Biometrika 57, 1-17, equation 2.4 (doi:10.1093/biomet/57.1.1).
    Ends of fewer than 5 values are not looked at; where there are no others, all is told. The interval holds 95 % of
    the likelihood.
    """
    counts = np.ones(len(values)) if counts is None else counts
    n = counts.sum()
    after = np.cumsum(counts[::-1])
    looked_at = (after >= 5) & (after <= n - 5)
    if not looked_at.any():
        return Onset(int(n), 1, int(n))
    after = after[looked_at]
    total = (values * counts).sum()
    sums = np.cumsum((values * counts)[::-1])[looked_at]
    gap = sums / after - (total - sums) / (n - after)
    won = gap**2 * after * (n - after) / n
    best = int(won.argmax())
    own = np.cumsum(counts[::-1])[::-1] <= after[best]
    means = np.where(own, sums[best] / after[best], (total - sums[best]) / (n - after[best]))
    noise = float(np.mean((values - means)[counts == 1] ** 2)) if (counts == 1).any() else 1.0
    upto = _added_up(won / (2 * max(noise, 1e-9)) + np.log(counts[::-1][looked_at]))
    low, high = np.searchsorted(upto, (0.025, 0.975)).tolist()
    return Onset(*(int(after[place]) for place in (best, min(low, best), max(high, best))))
