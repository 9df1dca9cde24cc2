"""The compiled part of the e-detector: one value of one stream after another, up to the next event."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false, reportReturnType=false, reportOperatorIssue=false

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Bytes, Floats, Ints
from .base import HUGE
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
"""Cells kept of each stream."""
RECENT: Final = 128
"""Values kept of each stream."""
BLOCK: Final = 128
"""Values of one block sum, for onsets further back than the ring reaches."""
_LOOK: Final = 50  # values between two looks at whether an open stream has settled
_COARSE: Final = 16  # cells of the bet that learns
_GROWTH: Final = 1 / (1 - 1 / 250)  # what it has learnt fades over so many values
_HEAVIEST: Final = 1e12
_PRIOR: Final = 4.0  # values of prior in each of its cells
_LARGEST: Final = 1e30


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
    learnt
        (k, 18) the p-values of each coarse cell, see `_learn`.
    stake
        (k,) what is staked on each value, over all bets; evidence of 1 is an alarm.
    down
        (k,) share of it that a stream of bits stakes on a falling rate.
    lanes, lane
        (k,) interleaved copies of the bets, and the first of them.
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
    learnt: Floats
    stake: Floats
    down: Floats
    lanes: Ints
    lane: Ints


class Rules(NamedTuple):
    """What does not change with the stream; see `e_detector.EDetector`."""

    table: Floats  # (cells, bets - 1)
    scores: Floats  # (cells,)
    weights: Floats  # (bets,)
    deflation: Floats  # (bets,)
    odds: Floats
    odds_stakes: Floats
    windows: Ints
    unseen: Floats
    fixed: bool
    slack: float  # what a reference that never grows may be wrong by; 0 for one that grows
    gate: (
        float  # values whose stakes an alarm must have won beyond the tolerance; 0 for no tolerance
    )
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
        if edges[k, low + step - 1] < x:
            low += step
    return low


@inlined
def _rank(
    counts: Floats, groups: Floats, size: Floats, k: int, c: int, u: float, fixed: bool
) -> int:
    """Return the cell of the p-value of a value in cell c, and count the value.

    The smoothed conformal p-value of Vovk, Gammerman and Shafer 2005, equation 2.20, the value among the
    reference and itself.
    """
    below = 0.0
    for g in range(c >> 3):
        below += groups[k, g]
    for q in range((c >> 3) << 3, c):
        below += counts[k, q]
    own, n = counts[k, c] + 1.0, size[k] + 1.0
    if not fixed:
        counts[k, c] = own
        groups[k, c >> 3] += 1.0
        size[k] = n
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
    evidence: Floats, lane: int, stake: float, weights: Floats, learnt: Floats, k: int, cell: int
) -> float:
    """Settle the bet on the shares of p-values seen so far, and learn; return what it has won.

    Instead of fading, later values weigh more: columns 16 and 17 of `learnt` are the sum and the weight of
    the next value.
    """
    coarse = cell >> 2
    prior = _PRIOR * learnt[k, _COARSE + 1]
    share = (learnt[k, coarse] + prior) / (learnt[k, _COARSE] + _COARSE * prior)
    won = (evidence[lane, _COARSE] + weights[_COARSE] * stake) * (_COARSE * share)
    evidence[lane, _COARSE] = won
    learnt[k, coarse] += learnt[k, _COARSE + 1]
    learnt[k, _COARSE] += learnt[k, _COARSE + 1]
    learnt[k, _COARSE + 1] *= _GROWTH
    if learnt[k, _COARSE + 1] > _HEAVIEST:
        for q in range(_COARSE + 2):
            learnt[k, q] /= _HEAVIEST
    return won


@compiled
def _bit(
    s: Streams, r: Rules, k: int, c: int, u: float, fixed: bool, evidence: Floats, beyond: Floats,
    lane: int,
) -> float:  # fmt: skip
    """Take a bit in; return what all bets have won together, -1 if none was made."""
    ones, n = s.counts[k, 1], s.size[k]
    theta = (ones + 0.5) / (n + 1.0)
    ones += c
    n += 1.0
    if not fixed:
        s.counts[k, c] += 1.0
        s.size[k] = n
    if n <= r.warm:
        return -1.0
    if fixed:
        is_one = c == 1
    else:
        p = u * ones / n if c == 1 else (ones + u * (n - ones)) / n
        is_one = p < theta
    count = r.odds.shape[0]
    up, down = min(theta + r.slack, 1.0), max(theta - r.slack, 0.0)
    high, low = up + r.rate_tolerance, down - r.rate_tolerance
    total = 0.0
    falling = s.stake[k] * s.down[k]
    rising = s.stake[k] - falling
    for q in range(count):
        odds, stake = r.odds[q], r.odds_stakes[q] * rising
        won = (evidence[lane, q] + stake) * (odds if is_one else 1.0) / (1.0 - up + odds * up)
        evidence[lane, q] = won
        total += won
        odds, stake = 1.0 / odds, r.odds_stakes[q] * falling
        won = (evidence[lane, count + q] + stake) * (odds if is_one else 1.0)
        won /= 1.0 - down + odds * down
        evidence[lane, count + q] = won
        total += won
    if r.gate > 0.0:
        for q in range(count):
            odds, stake = r.odds[q], r.odds_stakes[q] * rising
            won = (beyond[lane, q] + stake) * (odds if is_one else 1.0)
            beyond[lane, q] = won / (1.0 - high + odds * high) if high < 1.0 else 0.0
            odds, stake = 1.0 / odds, r.odds_stakes[q] * falling
            won = (beyond[lane, count + q] + stake) * (odds if is_one else 1.0)
            beyond[lane, count + q] = won / (1.0 - low + odds * low) if low > 0.0 else 0.0
    return total


@compiled
def _category(
    s: Streams, r: Rules, k: int, c: int, u: float, fixed: bool, evidence: Floats, lane: int
) -> float:
    """Take a category in; return what all bets have won together, -1 if none was made."""
    cells = s.counts.shape[1]
    n = s.size[k]
    below = 0.0
    for q in range(c):
        below += s.counts[k, q]
    p = (below + u * (s.counts[k, c] + 1.0)) / (n + 1.0)
    total = -1.0
    if n >= r.warm:
        # The cell of the p-value among the shares before this value; nearly always the value's own.
        prior = 0.5 / cells
        found, upto = cells - 1, 0.0
        for q in range(cells):
            upto += (s.counts[k, q] + prior) / (n + 0.5)
            if p < upto:
                found = q
                break
        if fixed:
            found = c
        theta = (s.counts[k, found] + prior) / (n + 0.5) + r.slack
        unseen = min((s.counts[k, cells - 1] + prior) / (n + 0.5) + r.slack, 0.9)
        stake = s.stake[k] / (r.windows.shape[0] + r.unseen.shape[0])
        available = s.seen[k] - s.begin[k]
        hits, at, total = 0, 0, 0.0
        for w in range(r.windows.shape[0]):
            window = min(r.windows[w], available)
            while at < window:
                at += 1
                hits += s.ring[k, (s.seen[k] - at) % RING] == found
            # Half on the reference's shares, half on those of the window with ten values of prior.
            gain = 0.5 + 0.5 * (hits / theta + 10.0) / (window + 10.0)
            evidence[lane, w] = (evidence[lane, w] + stake) * gain
            total += evidence[lane, w]
        for w in range(r.unseen.shape[0]):
            rate = max(r.unseen[w], min(4.0 * unseen, 0.9))
            gain = rate / unseen if found == cells - 1 else (1.0 - rate) / (1.0 - unseen)
            q = r.windows.shape[0] + w
            evidence[lane, q] = (evidence[lane, q] + stake) * gain
            total += evidence[lane, q]
    if not fixed:
        s.counts[k, c] += 1.0
        s.size[k] = n + 1.0
    return total


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
    blocks, block, learnt, stakes, lanes, lane_of = (
        s.blocks,
        s.block,
        s.learnt,
        s.stake,
        s.lanes,
        s.lane,
    )
    table, weights, scores, warm, gate = r.table, r.weights, r.scores, r.warm, r.gate
    for i in range(at, values.shape[0]):
        for j in range(column, streams.shape[0]):
            k = streams[j]
            x = values[i, j]
            kind = kinds[k]
            if kind == 0 or not abs(x) <= HUGE:
                continue
            u = uniform(keys[k], offsets[i], rows[i])
            seen = seens[k]
            lane = lane_of[k]
            if lanes[k] > 1:
                lane += seen % lanes[k]
            fixed = r.fixed and phase[k] == 0
            score, won = 0.0, -1.0
            if kind == NUMBERS:
                c = _cell(edges, k, x)
                score = scores[c]
                cell = _rank(counts, groups, size, k, c, u, fixed)
                if size[k] > warm:
                    stake = stakes[k]
                    won = _bet(evidence, lane, stake, weights, table, cell)
                    won += _learn(evidence, lane, stake, weights, learnt, k, cell)
                    if gate > 0.0:
                        for q in range(16):
                            sure = (beyond[lane, q] + weights[q] * stake) * table[cell, q]
                            beyond[lane, q] = sure * r.deflation[q]
            elif kind == BITS:
                c = 1 if x != 0.0 else 0
                score = float(c)
                won = _bit(s, r, k, c, u, fixed, evidence, beyond, lane)
            else:
                c = _cell(edges, k, x)
                if c == edges.shape[1] or edges[k, c] != x:
                    c = edges.shape[1]  # not among the known ones
                won = _category(s, r, k, c, u, fixed, evidence, lane)
            ring[k, seen % RING] = c
            recent[k, seen % RECENT] = x
            block[k] += score
            seen += 1
            seens[k] = seen
            if seen % BLOCK == 0:
                blocks[k, (seen // BLOCK - 1) % blocks.shape[1]] = block[k]
                block[k] = 0.0
            what = NOTHING
            wanted = 1.0 if phase[k] == 0 else min(1.0, r.inner * stakes[k])
            if won >= wanted and won > 0.0:
                is_any = gate == 0.0 or kind == CATEGORIES
                if is_any or _is_beyond(evidence, beyond, lane, gate * stakes[k]):
                    what = ALARM
            if what == NOTHING and phase[k] == 1:
                since = seen - still[k] - r.window
                if since >= 0 and since % _LOOK == 0 and size[k] >= warm and _has_settled(s, r, k):
                    what = SETTLED
                elif seen - opened[k] >= r.patience and size[k] >= warm:
                    what = UNSETTLED
            if what != NOTHING:
                event[0], event[1], event[2] = i, j, lane
                return what
        column = 0
    return NOTHING
