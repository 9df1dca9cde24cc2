"""The compiled bets on categories: of a reference that grows, and of one that never does."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false, reportReturnType=false, reportOperatorIssue=false

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Bytes, Floats, Ints
from .compiled import compiled, inlined

_PRIOR: Final = 10.0
"""Values of prior in a window's shares: as many as are like the reference's."""


@inlined
def category(
    counts: Floats, size: Floats, k: int, c: int, u: float, warm: float, stake: float, windows: Ints,
    latest: NDArray[np.int16], values: int, rates: Floats, evidence: Floats, lane: int,
) -> float:  # fmt: skip
    """Take a category in; return what all bets have won together, -1 if none was made.

    `values` is how many have come since the reference began.
    """
    cells = counts.shape[1]
    n, last = size[k], cells - 1
    total = -1.0
    if n >= warm:
        below = 0.0
        for q in range(c):
            below += counts[k, q]
        rank = below + u * (counts[k, c] + 1.0)
        # The cell of the p-value among the shares before this value; nearly always the value's own. Half
        # a value of prior is for what was never seen, half for all known categories together.
        prior = 0.5 / last
        found, upto = last, 0.0
        for q in range(last):
            upto += counts[k, q] + prior
            if rank < upto:
                found = q
                break
        unseen = (counts[k, last] + 0.5) / (n + 1.0)
        theta = (counts[k, found] + prior) / (n + 1.0) if found < last else unseen
        total, prior = 0.0, _PRIOR * theta
        for w in range(windows.shape[0]):
            window, hits = min(windows[w], values), latest[k, w, found]
            # Half on the reference's shares, half on those of the window.
            gain = 0.5 + 0.5 * (hits + prior) / (theta * (window + _PRIOR))
            evidence[lane, w] = (evidence[lane, w] + stake) * gain
            total += evidence[lane, w]
        total += _unseen(found == last, unseen, stake, rates, evidence, lane, windows.shape[0])
    counts[k, c] += 1.0
    size[k] = n + 1.0
    return total


@compiled
def trained_category(
    edges: Floats, counts: Floats, size: Floats, k: int, c: int, doubt: float, tolerance: float,
    stake: float, windows: Ints, latest: NDArray[np.int16], values: int, rates: Floats,
    evidence: Floats, lane: int,
) -> float:  # fmt: skip
    """Do the same against shares that were counted once; the value is not counted.

    Every gain is divided by the most that it may be on average under shares that are `more` at most each, differ
    from those counted by `_distance` together at most, and by `tolerance` more. The first alone allow a mean of 1; with
    both distances as one, what moves goes from the category that gains least to the one that gains most. Categories
    that are fewer than what moves are counted as moving whole, whatever they gain less than `common`.
    """
    n, last, known = size[k], counts.shape[1] - 1, 0
    if n == 0.0:
        return -1.0
    while known < last and np.isfinite(edges[k, known]):
        known += 1
    own, rate = min(c, known), doubt / n
    shares, most, gains = np.empty(known + 1), np.empty(known + 1), np.empty(known + 1)
    for q in range(known + 1):
        shares[q] = counts[k, q if q < known else last] / n
        most[q] = shares[q] + more(shares[q], rate)
    distance, total = _distance(known, n, doubt) + tolerance, 0.0
    for w in range(windows.shape[0]):
        window = min(windows[w], values) + _PRIOR
        mean, high, low, common = 0.0, 0.0, np.inf, np.inf
        for q in range(known + 1):
            hits = latest[k, w, q if q < known else last]
            gain = 0.5 + 0.5 * (hits / most[q] + _PRIOR) / window
            gains[q] = gain
            mean += shares[q] * gain
            high, low = max(high, gain), min(low, gain)
            if shares[q] >= distance:
                common = min(common, gain)
        common = low if common == np.inf else common
        counted, at_most = 0.0, 0.0
        for q in range(known + 1):
            less = max(common - gains[q], 0.0)
            counted += shares[q] * less
            at_most += most[q] * less
        fair = min(
            1.0 + tolerance * (high - common) + at_most,
            mean + distance * (high - common) + counted,
        )
        evidence[lane, w] = (evidence[lane, w] + stake) * gains[own] / fair
        total += evidence[lane, w]
    unseen = min(most[known] + tolerance, 1.0)
    return total + _unseen(c == last, unseen, stake, rates, evidence, lane, windows.shape[0])


@inlined
def more(share: float, rate: float) -> float:
    """Return how much more a share that n values were counted for is in truth at most, with probability 1 - exp(-n * rate).

    The least of Hoeffding's bound (1963, doi:10.1080/01621459.1963.10500830), for middling shares, and of Chernoff's solved for the
    share, by the lower tail for small ones and by the upper tail of what is left for large ones (Mitzenmacher and Upfal 2005,
    "Probability and computing", theorems 4.4 and 4.5). All follow from Chernoff's bound by the relative entropy, so that their
    minimum holds as they do.
    """
    small = rate + np.sqrt(rate * (rate + 2.0 * share))
    large = np.sqrt(2.0 * rate * max(1.0 - share, 0.0))
    return float(min(np.sqrt(rate / 2.0), small, large))


@inlined
def _distance(known: int, n: float, doubt: float) -> float:
    """Return how much of all values may fall elsewhere than the n that were counted say, with probability 1 - exp(-doubt).

    At most sqrt(known / n) / 2 on average, by Cauchy and Schwarz, and more by McDiarmid's inequality (1989,
    doi:10.1017/CBO9781107359949.008).
    """
    return float(np.sqrt(known / n) / 2.0 + np.sqrt(doubt / (2.0 * n)))


@inlined
def _unseen(
    is_unseen: bool, unseen: float, stake: float, rates: Floats, evidence: Floats, lane: int, first: int
) -> float:  # fmt: skip
    """Settle the bets that a share of all values is of new categories; return what they have won together."""
    total = 0.0
    for w in range(rates.shape[0]):
        gain = 1.0 - rates[w] + (rates[w] / unseen if is_unseen else 0.0)
        evidence[lane, first + w] = (evidence[lane, first + w] + stake) * gain
        total += evidence[lane, first + w]
    return total


@inlined
def slide(
    ring: Bytes, k: int, c: int, seen: int, values: int, windows: Ints, latest: NDArray[np.int16]
) -> None:
    """Take a category into the latest windows."""
    for w in range(windows.shape[0]):
        latest[k, w, c] += 1
        if values >= windows[w]:
            latest[k, w, ring[k, (seen - windows[w]) & (ring.shape[1] - 1)]] -= 1
