"""The compiled part of the e-detector: one value of one stream after another, up to the next event."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false, reportReturnType=false, reportOperatorIssue=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Bytes, Floats, Ints
from .base import HUGE
from .bets import CELLS, COARSE, ODDS
from .category_kernel import category, more, slide, trained_category
from .compiled import compiled, inlined
from .tie_break import uniform

NUMBERS: Final = 1
BITS: Final = 2
CATEGORIES: Final = 3
"""What kind a stream is; 0 while it is new."""

NOTHING: Final = 0
ALARM: Final = 1
SETTLED: Final = 2
UNSETTLED: Final = 3
"""What ends a run of the kernel."""

RING: Final = 1024
"""Cells kept of each stream; a power of two, as the two below."""
RECENT: Final = 128
"""Values kept of each stream."""
BLOCK: Final = 128
"""Values of one block sum, for onsets further back than the ring reaches."""
MOMENTS: Final = RING // BLOCK
"""Blocks whose moments are kept; a power of two."""
_FARTHEST: Final = 1e12  # sigmas beyond which a value counts as so far
_LOOK: Final = 50  # values between two looks at whether an open stream has settled
_GROWTH: Final = 1 / (1 - 1 / 250)  # what it has learnt fades over so many values
_HEAVIEST: Final = 1e12
_PRIOR: Final = 4.0  # values of prior in each of its cells
_LARGEST: Final = 1e30
_ODDS: Final = len(ODDS)
_BEFORE: Final = np.tri(8, k=-1)
"""Row q is 1 in the q places before q: weighed by it, a sum over some of eight needs no loop of unknown length."""


class Streams(NamedTuple):
    """State with one row a stream.

    Parameters
    ----------
    key
        (k,) what ties are broken by.
    kind, phase
        (k,) what it is, and whether a change is open (1) or not (0).
    edges
        (k, 63) upper edges of the cells of numbers; the known categories, sorted, NaN behind them.
    counts, groups, size
        (k, 64), (k, 8) and (k,): the reference by cell, by eight cells, and together.
    ring, recent
        (k, 1024) latest cells and (k, 128) latest values.
    seen, begin, opened, still
        (k,) how many values were taken in: all, before this reference began, before the change opened, before
        it was last seen to move.
    blocks, block
        (k, 64) and (k,): sums of scores over 128 values each, and the one that is being summed.
    center, sigma
        (k,) what values are scaled by for their moments.
    moments, moment
        (k, 8, 2) and (k, 2): sums of scaled values, and of their squares, over the latest blocks and the one that is
        being summed.
    learnt
        (k, 20) the p-values of each coarse cell, see `_learn`.
    stake
        (k,) what is staked on each value, over all bets; evidence of 1 is an alarm.
    down
        (k,) share of it that a stream of bits stakes on a falling rate.
    fixed
        (k,) whether its reference never grows.
    lanes, lane
        (k,) interleaved copies of the bets, and the first of them.
    latest
        (k, windows, 64) how many of a window's latest values lay in each cell, of categories.
    """

    key: NDArray[np.uint64]
    kind: Ints
    phase: Ints
    edges: Floats
    counts: Floats
    groups: Floats
    size: Floats
    ring: Bytes
    recent: Floats
    seen: Ints
    begin: Ints
    opened: Ints
    still: Ints
    blocks: Floats
    block: Floats
    center: Floats
    sigma: Floats
    moments: Floats
    moment: Floats
    learnt: Floats
    stake: Floats
    down: Floats
    fixed: NDArray[np.bool_]
    lanes: Ints
    lane: Ints
    latest: NDArray[np.int16]


class Rules(NamedTuple):
    """What does not change with the stream; see `e_detector.EDetector`."""

    table: Floats  # (2 * cells, bets - 1), of references that grow above those that never do
    scores: Floats  # (cells,)
    weights: Floats  # (bets,)
    deflation: Floats  # (bets - 1,)
    odds: Floats  # (7, rate bets) see `bets.odds`
    slopes: Floats  # (16,), and
    bends: Floats  # (16,) see `bets.slopes_and_bends`
    windows: Ints
    unseen: Floats
    rate: float  # what a rate that never grows may be wrong by: how improbable more is, as a negative logarithm over values,
    step: float  # and what of it is known to the nearest of the order statistics only
    doubt: float  # the same of shares: how improbable more is, as a negative logarithm
    gate: float  # values whose stakes must be won beyond the tolerance; 0 for no tolerance
    tolerance: float
    rate_tolerance: float
    warm: float
    window: int
    errors: float  # standard errors by which the halves of a window at rest may differ
    inner: float
    patience: int


@inlined
def _cell(edges: Floats, k: int, x: float) -> int:
    """Return the first of stream k's 63 upper edges that is x or more; 63 if there is none."""
    low = 0
    for step in (32, 16, 8, 4, 2, 1):
        low += step * (edges[k, low + step - 1] < x)  # no branch, which would be guessed wrong
    return low


@inlined
def _before(counts: Floats, k: int, first: int, place: int) -> float:
    """Return the sum of the first `place` of stream k's eight counts from `first` on."""
    a = b = c = d = 0.0
    for q in range(0, 8, 4):
        a += counts[k, first + q] * _BEFORE[place, q]
        b += counts[k, first + q + 1] * _BEFORE[place, q + 1]
        c += counts[k, first + q + 2] * _BEFORE[place, q + 2]
        d += counts[k, first + q + 3] * _BEFORE[place, q + 3]
    return (a + b) + (c + d)


@inlined
def _rank(
    counts: Floats, groups: Floats, size: Floats, k: int, c: int, u: float, weight: float
) -> int:
    """Return the cell of the p-value of a value in cell c, and count the value as so many.

    The smoothed conformal p-value of Vovk, Gammerman and Shafer 2005, equation 2.20, the value among the
    reference and itself.
    """
    group = c >> 3
    below = _before(groups, k, 0, group) + _before(counts, k, group << 3, c & 7)
    own, n = counts[k, c] + 1.0, size[k] + 1.0
    counts[k, c] += weight
    groups[k, group] += weight
    size[k] += weight
    return min(int((below + u * own) / n * 64.0), 63)


@inlined
def _bet(
    evidence: Floats, lane: int, stake: float, weights: Floats, table: Floats, cell: int,
) -> float:  # fmt: skip
    """Settle the bets of the table's 16 columns; return what they have won together.

    In four sums, so that they are added side by side, in the same order on every machine.
    """
    a = b = c = d = 0.0
    for q in range(0, 16, 4):
        w = (evidence[lane, q] + weights[q] * stake) * table[cell, q]
        x = (evidence[lane, q + 1] + weights[q + 1] * stake) * table[cell, q + 1]
        y = (evidence[lane, q + 2] + weights[q + 2] * stake) * table[cell, q + 2]
        z = (evidence[lane, q + 3] + weights[q + 3] * stake) * table[cell, q + 3]
        evidence[lane, q], evidence[lane, q + 1] = w, x
        evidence[lane, q + 2], evidence[lane, q + 3] = y, z
        a, b, c, d = a + w, b + x, c + y, d + z
    return (a + b) + (c + d)


@inlined
def _learn(
    evidence: Floats, beyond: Floats, lane: int, stake: float, learnt: Floats, k: int, cell: int,
    tolerance: float, slopes: Floats, bends: Floats,
) -> float:  # fmt: skip
    """Settle the bet on the shares of p-values seen so far, and learn; return what it has won.

    Instead of fading, later values weigh more. Column 16 of `learnt` is the sum, 17 the weight of the next value, 18
    and 19 the sums of slopes and bends.
    """
    coarse, weight = cell >> 2, learnt[k, COARSE + 1]
    prior = _PRIOR * weight
    total = learnt[k, COARSE] + COARSE * prior
    share = COARSE * (learnt[k, coarse] + prior)
    won = (evidence[lane, COARSE] + stake) * (share / total)
    evidence[lane, COARSE] = won
    # Of the prior's shares, which are equal, slopes cancel and bends are next to nothing.
    worst = total + tolerance * abs(learnt[k, COARSE + 2]) + learnt[k, COARSE + 3]
    beyond[lane, COARSE] = (beyond[lane, COARSE] + stake) * (share / worst)
    learnt[k, COARSE + 2] += weight * slopes[coarse]
    learnt[k, COARSE + 3] += weight * bends[coarse]
    learnt[k, coarse] += weight
    learnt[k, COARSE] += weight
    learnt[k, COARSE + 1] = weight * _GROWTH
    return won


@inlined
def _bit(
    counts: Floats, size: Floats, k: int, c: int, u: float, fixed: bool, warm: float, rate: float,
    step: float, tolerance: float, gate: float, rising: float, falling: float, evidence: Floats,
    beyond: Floats, lane: int, odds: Floats,
) -> float:  # fmt: skip
    """Take a bit in; return what all bets have won together, -1 if none was made.

    `rate` is 0 for a reference that grows.
    """
    ones, n = counts[k, 1], size[k]
    if not fixed:
        counts[k, c] += 1.0
        size[k] = n + 1.0
    total = -1.0
    if n + 1.0 > warm:
        is_one = c == 1
        if not fixed:  # whether the p-value among these and itself is below their share
            rank = u * (ones + 1.0) if is_one else ones + u * (n + 1.0 - ones)
            is_one = rank < ones + 0.5
        high = low = (ones + 0.5) / (n + 1.0)
        if rate > 0.0:
            share = ones / max(n, 1.0)
            high = min(share + step + more(share + step, rate), 1.0)
            low = max(share - step - more(1.0 - share + step, rate), 0.0)
        total = _odds(evidence, lane, rising, falling, high, low, is_one, odds)
        if gate > 0.0:
            high, low = min(high + tolerance, 1.0), max(low - tolerance, 0.0)
            _odds(beyond, lane, rising, falling, high, low, is_one, odds)
    return total


@inlined
def _odds(
    evidence: Floats, lane: int, rising: float, falling: float, high: float, low: float, is_one: bool,
    odds: Floats,
) -> float:  # fmt: skip
    """Settle the bets on rates above `high` and below `low`; return what they have won together.

    The loop has neither branches nor sums in it, so that its divisions are done side by side.
    """
    gain = 1 if is_one else 0
    for q in range(odds.shape[1]):
        fair = odds[2, q] + odds[3, q] * high + odds[4, q] * low
        stake = odds[5, q] * rising + odds[6, q] * falling
        evidence[lane, q] = (evidence[lane, q] + stake) * (odds[gain, q] / fair)
    if high >= 1.0:  # no rate is above
        evidence[lane, :_ODDS] = 0.0
    if low <= 0.0:
        evidence[lane, _ODDS : 2 * _ODDS] = 0.0
    a = b = c = d = 0.0
    for q in range(0, 2 * _ODDS, 4):
        a += evidence[lane, q]
        b += evidence[lane, q + 1]
        c += evidence[lane, q + 2]
        d += evidence[lane, q + 3]
    return (a + b) + (c + d)


@compiled
def _has_settled(s: Streams, r: Rules, k: int) -> bool:
    """Return whether the two halves of the latest window are alike: in mean, and numbers in spread too."""
    half = r.window // 2
    seen = s.seen[k]
    if s.kind[k] == CATEGORIES:
        older, newer = np.zeros(64), np.zeros(64)
        for i in range(half):
            newer[s.ring[k, (seen - 1 - i) % RING]] += 1.0
            older[s.ring[k, (seen - 1 - half - i) % RING]] += 1.0
        distance, cells = 0.0, -1.0
        for q in range(64):
            both = older[q] + newer[q]
            if both > 0.0:
                distance += (older[q] - newer[q]) ** 2 / both
                cells += 1.0
        return distance <= cells + 2.0 * np.sqrt(2.0 * cells) + 1.0
    sums = np.zeros((2, 4))
    for h in range(2):
        for i in range(half):
            c = s.ring[k, (seen - 1 - h * half - i) % RING]
            z = float(c) if s.kind[k] == BITS else r.scores[c]
            sums[h, 0] += z
            sums[h, 1] += z * z
            sums[h, 2] += z * z * z
            sums[h, 3] += z * z * z * z
    sums /= half
    inflation = r.errors * np.sqrt(2.0 / half * s.lanes[k])
    mean = (sums[0, 0] + sums[1, 0]) / 2.0
    second = (sums[0, 1] + sums[1, 1]) / 2.0
    fourth = (sums[0, 3] + sums[1, 3]) / 2.0
    allowed = r.rate_tolerance if s.kind[k] == BITS else r.tolerance
    error = inflation * np.sqrt(max(second - mean * mean, 0.0))
    if abs(sums[0, 0] - sums[1, 0]) > max(allowed, error):
        return False
    if s.kind[k] == BITS:
        return True
    error = inflation * np.sqrt(max(fourth - second * second, 0.0))
    return abs(sums[0, 1] - sums[1, 1]) <= max(allowed, error)


@compiled
def _is_beyond(evidence: Floats, beyond: Floats, lane: int, gate: float) -> bool:
    """Return whether the change is larger than the tolerance; keep what goes on for long from overflow."""
    total = 0.0
    for q in range(beyond.shape[1]):
        total += beyond[lane, q]
        evidence[lane, q] = min(evidence[lane, q], _LARGEST)
    return total >= gate


@compiled
def run(
    values: Floats, streams: Ints, offsets: Ints, rows: Ints, at: int, column: int,
    s: Streams, r: Rules, evidence: Floats, beyond: Floats, event: Ints,
) -> int:  # fmt: skip
    """Go on at row `at`, column `column`, up to the next event; return what it is.

    `event` becomes its row, its column and the lane that decided it. `evidence` and `beyond` (lanes, bets)
    hold what has been won by each bet against the stream's own reference, and against all within the
    tolerance.
    """
    # Locals, so that the loops below need not take the arrays out of their tuple.
    kinds, phase, edges, counts, groups, size = s.kind, s.phase, s.edges, s.counts, s.groups, s.size
    keys, ring, recent, seens, still, opened = s.key, s.ring, s.recent, s.seen, s.still, s.opened
    blocks, block, learnt, stakes = s.blocks, s.block, s.learnt, s.stake
    moments, moment, centers, sigmas = s.moments, s.moment, s.center, s.sigma
    lanes, lane_of = s.lanes, s.lane
    table, weights, scores, deflation = r.table, r.weights, r.scores, r.deflation
    slopes, bends = r.slopes, r.bends
    gate, downs, fixeds = r.gate, s.down, s.fixed
    cells, ties = np.empty(streams.shape[0], np.int64), np.empty(streams.shape[0])
    found = np.empty(streams.shape[0], np.int64)
    for i in range(at, values.shape[0]):
        # What follows from the row alone comes first, so that the waits of many streams overlap.
        # Unsigned numbers, here and below: of a signed one it is asked whether it counts from the end.
        for j in range(column, streams.shape[0]):
            k = np.uint64(streams[j])
            kind = kinds[k] if abs(values[i, j]) <= HUGE else 0
            found[j] = kind
            if kind > 0 and kind != BITS:
                cells[j] = _cell(edges, k, values[i, j])
        for j in range(column, streams.shape[0]):
            if found[j] != 0:
                ties[j] = uniform(keys[np.uint64(streams[j])], offsets[i], rows[i])
        for j in range(column, streams.shape[0]):
            kind = found[j]
            if kind == 0:
                continue
            k = np.uint64(streams[j])
            x = values[i, j]
            c, u, stake, seen = cells[j], ties[j], stakes[k], seens[k]
            lane = np.uint64(lane_of[k])
            if lanes[k] > 1:
                lane += np.uint64(seen % lanes[k])
            # A reference that never grows needs no warm-up, and has a table of its own.
            fixed = fixeds[k] and phase[k] == 0
            warm, rate, row = (0.0, r.rate, CELLS) if fixeds[k] else (r.warm, 0.0, 0)
            score, won = 0.0, -1.0
            if kind == NUMBERS:
                score = scores[c]
                cell = _rank(counts, groups, size, k, c, u, 0.0 if fixed else 1.0)
                if size[k] > warm:
                    won = _bet(evidence, lane, stake, weights, table, row + cell)
                    # Of several lanes it would learn from what the next value depends on.
                    if lanes[k] == 1 and not row:
                        won += _learn(
                            evidence, beyond, lane, weights[COARSE] * stake, learnt, k, cell,
                            r.tolerance, slopes, bends,
                        )  # fmt: skip
                        if learnt[k, COARSE + 1] > _HEAVIEST:
                            for q in range(learnt.shape[1]):
                                learnt[k, q] /= _HEAVIEST
                    if gate > 0.0:
                        for q in range(table.shape[1]):
                            sure = (beyond[lane, q] + weights[q] * stake) * table[row + cell, q]
                            beyond[lane, q] = sure * deflation[q]
            elif kind == BITS:
                c = 1 if x != 0.0 else 0
                score = float(c)
                falling = stake * downs[k]
                won = _bit(
                    counts, size, k, c, u, fixed, warm, rate, r.step, r.rate_tolerance, gate,
                    stake - falling, falling, evidence, beyond, lane, r.odds,
                )  # fmt: skip
            else:
                if c == edges.shape[1] or edges[k, c] != x:
                    c = edges.shape[1]  # not among the known ones
                since, part = seen - s.begin[k], stake / (r.windows.shape[0] + r.unseen.shape[0])
                if row:
                    won = trained_category(
                        edges, counts, size, k, c, r.doubt, r.rate_tolerance, part, r.windows,
                        s.latest, since, r.unseen, evidence, lane,
                    )  # fmt: skip
                    if not fixed:
                        counts[k, c] += 1.0
                        size[k] += 1.0
                else:
                    won = category(
                        counts, size, k, c, u, warm, part, r.windows, s.latest, since, r.unseen,
                        evidence, lane,
                    )  # fmt: skip
                slide(ring, k, c, seen, since, r.windows, s.latest)
            ring[k, seen & (RING - 1)] = c
            recent[k, seen & (RECENT - 1)] = x
            block[k] += score
            if kind == NUMBERS:
                z = min(max((x - centers[k]) / sigmas[k], -_FARTHEST), _FARTHEST)
                moment[k, 0] += z
                moment[k, 1] += z * z
            seen += 1
            seens[k] = seen
            if seen & (BLOCK - 1) == 0:
                blocks[k, (seen // BLOCK - 1) % blocks.shape[1]] = block[k]
                block[k] = 0.0
                place = (seen // BLOCK - 1) & (MOMENTS - 1)
                moments[k, place, 0], moments[k, place, 1] = moment[k, 0], moment[k, 1]
                moment[k, 0] = moment[k, 1] = 0.0
            what = NOTHING
            wanted = 1.0 if phase[k] == 0 else min(1.0, r.inner * stake)
            if won >= wanted and won > 0.0:
                is_any = gate == 0.0 or kind == CATEGORIES
                # A growing reference absorbs what is tolerated; one that does not needs full evidence against it.
                limit = wanted if row else gate * stake
                if is_any or _is_beyond(evidence, beyond, lane, limit):
                    what = ALARM
            if what == NOTHING and phase[k] == 1:
                since = seen - still[k] - r.window
                if since >= 0 and since % _LOOK == 0 and size[k] >= warm and _has_settled(s, r, k):
                    what = SETTLED
                age = seen - opened[k]
                is_due = age >= r.patience and age % _LOOK == 0 and size[k] >= warm
                if what == NOTHING and is_due:
                    what = UNSETTLED
            if what != NOTHING:
                event[0], event[1], event[2] = i, j, lane
                return what
        column = 0
    return NOTHING
