"""The compiled part of the natural-size test: values into blocks, blocks into changes and their usual size."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from ..core.columns import Floats, Ints
from .base import HUGE
from .compiled import compiled

NUMBERS: Final = 0
BITS: Final = 1
SHARES: Final = 2
"""What kind a stream is: numbers, which are scaled; zeros and ones whose flips are watched; values within
-1 and 1 that are taken as they are."""

Z: Final = 0
CHANGES: Final = 1
LEVEL: Final = 2
CHANGE: Final = 3
SINCE: Final = 4
LATEST: Final = 5
EARLIEST: Final = 6
CLAIM: Final = 7
"""What is told of each block: the change in natural sizes, how many independent past changes that size is
known from, the mean of the last blocks, the change, and for how many blocks it has lasted, at least and at most."""

PAST: Final = 60
"""G: a change is compared with those that ended so many blocks ago. More than a drift that takes seven
weeks of days to come, which would else be its own measure (chosen on Elec2, seed 1)."""
MAXIMA: Final = 7
"""Blocks whose maxima make one spread."""
FEWEST_ROWS: Final = 4
"""Values of a stream in a block that counts."""
_FEWEST_MAXIMA: Final = 4
_FEWEST_REFERENCES: Final = 25  # blocks that a mean of the last ones is compared with
_FEWEST_CHANGES: Final = 30
_SPREAD_FLOOR: Final = 0.02  # in units of the stream's scale: below this a spread is none
_SIZE_FLOOR: Final = 1e-6
_ALIKE: Final = 6.0  # as of blocks that correlate by 0.7: (1 + 0.7) / (1 - 0.7)


class History(NamedTuple):
    """State with one row a stream; s is the statistic, q the horizon, r the ring's length.

    Parameters
    ----------
    kind, center, scale
        (k,) how values are taken.
    at
        (k,) the open block.
    filled, total, highest, flips, latest
        (k,) of the open block: values, their sum and maximum, how often one differed from the one before,
        and the latest.
    maxima
        (k, 7) maxima of the latest blocks, by block number.
    rings
        (k, s, r) statistics of the latest blocks, by block number; NaN for a block without one.
    past
        (k, s, q, 60) squares of the latest changes, by block number, which are not yet in `squares`.
    squares, changes
        (k, s, q) sum and number of the squares of all changes before those.
    """

    kind: Ints
    center: Floats
    scale: Floats
    at: Ints
    filled: Ints
    total: Floats
    highest: Floats
    flips: Ints
    latest: Floats
    maxima: Floats
    rings: Floats
    past: Floats
    squares: Floats
    changes: Ints


@compiled
def run(
    values: Floats, blocks: Ints, columns: Ints, begin: Ints, last: int,
    s: History, recent: Ints, references: Ints, first: int, limits: Floats, claims: Floats,
) -> None:  # fmt: skip
    """Take rows in, and close all blocks before block `last`.

    Parameters
    ----------
    values, blocks
        (n, c) values and (n,) rising block numbers.
    columns, begin
        (k,) the column of each stream, -1 if it has none here, and its first row.
    s
        The streams.
    recent, references
        (q,) blocks of the recent mean and of the one it is compared with.
    first, limits
        Number of the first block that `claims` is about, and (b,) what z must pass for its onset to be
        looked for.
    claims
        (b, k, s, q, 5) becomes what the blocks closed here tell.
    """
    for k in range(columns.shape[0]):
        j = columns[k]
        at = s.at[k]
        if j >= 0:
            kind, center, scale = s.kind[k], s.center[k], s.scale[k]
            # Locals, so that the loop over rows keeps them in registers.
            count, total, highest, flips, latest = (
                s.filled[k], s.total[k], s.highest[k], s.flips[k], s.latest[k]
            )  # fmt: skip
            for i in range(begin[k], values.shape[0]):
                x = values[i, j]
                if not abs(x) <= HUGE:
                    continue
                if blocks[i] > at:
                    s.filled[k], s.total[k], s.highest[k], s.flips[k] = count, total, highest, flips
                    while at < blocks[i]:
                        _close(k, at, s, recent, references, first, limits, claims)
                        at += 1
                    count, total, highest, flips = 0, 0.0, -np.inf, 0
                if kind == NUMBERS:
                    x = math.asinh((x - center) / scale)
                    highest = max(highest, x)
                else:
                    x = min(max(x, -1.0), 1.0)
                    if count > 0 and x != latest:
                        flips += 1
                    latest = x
                count += 1
                total += x
            s.filled[k], s.total[k], s.highest[k], s.flips[k] = count, total, highest, flips
            s.latest[k] = latest
        while at < last:
            _close(k, at, s, recent, references, first, limits, claims)
            at += 1
        s.at[k] = at


@compiled
def _close(
    k: int, block: int, s: History, recent: Ints, references: Ints,
    first: int, limits: Floats, claims: Floats,
) -> None:  # fmt: skip
    """Make the open block of a stream its latest one, and begin an empty one."""
    count = s.filled[k]
    enough = count >= FEWEST_ROWS
    place = block % s.rings.shape[2]
    s.rings[k, 0, place] = s.total[k] / count if enough else np.nan
    s.rings[k, 1, place] = np.nan
    if s.kind[k] == NUMBERS:
        s.maxima[k, block % MAXIMA] = s.highest[k] if enough else np.nan
        if count > 0:
            s.rings[k, 1, place] = _spread(s.maxima[k])
    elif s.kind[k] == BITS and enough:
        s.rings[k, 1, place] = s.flips[k] / (count - 1)
    s.filled[k], s.total[k], s.highest[k], s.flips[k] = 0, 0.0, -np.inf, 0
    b = block - first
    told = 0 <= b < limits.shape[0]
    for which in range(s.rings.shape[1]):
        ring = s.rings[k, which]
        for q in range(recent.shape[0]):
            h = recent[q]
            level, before = _means(ring, place, h, references[q])
            change = level - before
            # The change of PAST blocks ago has ended long enough ago now.
            square = s.past[k, which, q, block % PAST]
            if not math.isnan(square):
                s.squares[k, which, q] += square
                s.changes[k, which, q] += 1
            s.past[k, which, q, block % PAST] = change * change
            if not told:
                continue
            claim = claims[b, k, which, q]
            claim[LEVEL] = level
            n = s.changes[k, which, q]
            if n < _FEWEST_CHANGES or math.isnan(change):
                continue
            claim[Z] = change / (math.sqrt(s.squares[k, which, q] / n) + _SIZE_FLOOR)
            claim[CHANGES] = max(n / h, 1.0)
            claim[CHANGE] = change
            if abs(claim[Z]) > limits[b]:
                _since(ring, place, h + PAST, claim)


@compiled
def _spread(maxima: Floats) -> float:
    """Return the logarithm of the standard deviation of the maxima of the latest blocks."""
    n, total = 0, 0.0
    for x in maxima:
        if not math.isnan(x):
            n += 1
            total += x
    if n < _FEWEST_MAXIMA:
        return np.nan
    squares = 0.0
    for x in maxima:
        if not math.isnan(x):
            squares += (x - total / n) ** 2
    return math.log(math.sqrt(squares / n) + _SPREAD_FLOOR)


@compiled
def _means(ring: Floats, place: int, recent: int, reference: int) -> tuple[float, float]:
    """Return the mean of the latest blocks, and of those before; NaN where too few have one."""
    total = 0.0
    n = 0
    level = np.nan
    for back in range(recent + reference):
        x = ring[place]
        if not math.isnan(x):
            total += x
            n += 1
        if back == recent - 1:
            if n >= max(1, recent // 2):
                level = total / n
            total = 0.0
            n = 0
        place -= 1
        if place < 0:
            place = ring.shape[0] - 1
    return level, total / n if n >= _FEWEST_REFERENCES else np.nan


@compiled
def _since(ring: Floats, place: int, most: int, claim: Floats) -> None:
    """Tell for how many blocks, at most `most`, the level has been another, and between which numbers of them.

    The maximum likelihood estimate for a normal stream of unknown means: Hinkley 1970, "Inference about
    the change-point in a sequence of random variables", Biometrika 57, 1-17, equation 2.4
    (doi:10.1093/biomet/57.1.1). The interval holds 95 % of the likelihood, flattened by how much neighbouring
    blocks are alike.
    """
    total, squares, n = 0.0, 0.0, 0
    for x in ring:
        if not math.isnan(x):
            total += x
            squares += x * x
            n += 1
    won = np.zeros(most)
    after, m, best = 0.0, 0, 0
    for back in range(most):
        x = ring[place - back]  # what lies before the first place wraps around
        if not math.isnan(x):
            after += x
            m += 1
            if m < n:
                gap = after / m - (total - after) / (n - m)
                won[back] = gap * gap * m * (n - m) / n
                if won[back] > won[best]:
                    best = back
    highest = won[best]
    noise = max((squares - total * total / n - highest) / n, 1e-12) * _ALIKE
    whole = 0.0
    for back in range(most):
        won[back] = math.exp((won[back] - highest) / (2.0 * noise)) if won[back] > 0.0 else 0.0
        whole += won[back]
    claim[SINCE] = claim[LATEST] = claim[EARLIEST] = best + 1
    upto = 0.0
    for back in range(most):
        before, upto = upto, upto + won[back]
        if before < 0.025 * whole <= upto:
            claim[LATEST] = min(back, best) + 1
        if before < 0.975 * whole <= upto:
            claim[EARLIEST] = max(back, best) + 1
