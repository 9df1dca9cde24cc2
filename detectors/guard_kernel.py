"""The guard's state and what it does with each value, compiled: scores, windows, moves, regimes."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from .autocorrelation import (
    LAGS,
    LARGEST_LAG,
    MOVE,
    WINDOW,
    Shorts,
    Trend,
    correlate,
    detrend,
    interleave,
    moments,
    unevenness,
)
from .base import HUGE
from .compiled import compiled

Bits = NDArray[np.uint64]
Scores = NDArray[np.int8]

SAMPLE: Final = 32
"""The first values of a stream: their median and spread are the first unit of its scores."""
LONGEST: Final = 64
"""Windows of one check at most: 65,536 values see a correlation of 0.022, and 0.02 is small enough."""
_SETTLED: Final = (
    16  # windows, after which every other one is looked at, which halves the time (chosen)
)
_TOP: Final = 127
SPREADS: Final = 2 * _TOP + 1
_SIGMA: Final = 4.0  # scores are steps of a quarter sigma, so that they reach to 32 sigmas
_UNIT: Final = 192.0
"""One sigma in the integers that correlations are summed in: sums stay below 2^31."""
_CUT: Final = 672  # 3.5 sigmas: what is farther away from the centre counts as this far
_FINE: Final = 400.0
"""Correlations are summed over windows in 1 / 400, in 16 bits: the rounding is a fortieth of their noise."""
_MAD_TO_SIGMA: Final = 1.482602218505602  # 1 / Phi^-1(3/4)
_RECENT: Final = 8  # windows: if the level moved in more than half of them, the stream is restless
_SWINGS: Final = 3  # moves each way in 64 windows (chosen): a drift goes one way, a season both
_PATIENCE: Final = 4  # times as much evidence takes a finding back as made it (chosen)

UNKNOWN: Final = 0
EXCHANGEABLE: Final = 1
AUTOCORRELATED: Final = 2
ORDERED: Final = 3

OF_VALUES: Final = 0  # reasons: correlations of values,
OF_SPREAD: Final = 1  # and of their distances from the mean;
OF_LEVEL_MOVES: Final = 2  # moves of the mean,
OF_SPREAD_MOVES: Final = 3  # and of the mean distance from it;
OF_CONSTANT: Final = 4  # it never varied


class State(NamedTuple):
    """One row a stream; of (k, 2) the first is of values, the second of distances from their mean."""

    sample: Floats  # (k, 32)
    fitted: NDArray[np.bool_]  # whether the sample was full and gave the unit
    unit: Floats  # (k, 3) centre; step, 0 while all values are one; see `_fill`
    scores: Scores  # (k, 1024) of the window so far
    filled: Ints  # values in the window; in the sample, while that is not full
    skipped: Ints  # rows still to be skipped
    level: Floats  # (k, 2) at the end of the last window
    level_error: Floats  # (k, 2) NaN: no level to compare with
    rises: Bits  # (k, 2) bit b: in the window before b others
    falls: Bits  # (k, 2)
    seen: Ints  # windows in all
    windows: Ints  # since the last decision
    used: Ints  # (k, 2) of those, in the sums
    correlations: Shorts  # (k, 2, 128) sums over windows, in 1 / 400
    skews: Floats  # (k, 2) sums over windows of squared skewness
    uneven: Floats  # (k, 2) sums over windows: what the variance of a correlation is, times 1024
    varied: NDArray[np.bool_]  # whether there were different values since the last decision
    target: Ints  # windows after which the regime may become a better one
    kind: Ints
    lag: Ints
    reason: Ints
    clearest: Floats  # (k, 4) see `autocorrelation.beyond`; for moves -, rises, falls, windows
    judged: Ints  # windows that the regime rests on


class Room(NamedTuple):
    """Arrays for the kernels to work in."""

    x: Shorts  # (1024,)
    out: Shorts  # (1024,)
    blocks: Floats  # (16,)
    counts: Ints  # (2, 255)
    r: Floats  # (128,)


class Fit(NamedTuple):
    """How a window's scores became centred and cut integers."""

    center: float  # what is 0, in the stream's unit
    size: float  # what is 1, in the stream's unit
    many: bool  # whether they take more than two values
    lasts: bool  # whether the next window's levels will compare


@compiled
def _fit(sample: Floats, unit: Floats) -> None:
    """Set the centre and the step from a sample, which is replaced by its distances from the centre."""
    sample.sort()
    center = (sample[SAMPLE // 2 - 1] + sample[SAMPLE // 2]) / 2.0
    equal = 0
    for i in range(SAMPLE):
        sample[i] = abs(sample[i] - center)
        equal += sample[i] == 0.0
    sample.sort()
    sigma = _MAD_TO_SIGMA * (sample[SAMPLE // 2 - 1] + sample[SAMPLE // 2]) / 2.0
    if sigma == 0.0 and equal < SAMPLE:
        # More than half are one value: what the others are away from it.
        sigma = sample[(SAMPLE + equal) // 2]
    unit[0], unit[1], unit[2] = center, sigma / _SIGMA, 0.0


@compiled
def _fill(values: Floats, scores: Scores, at: int, unit: Floats) -> tuple[int, int]:
    """Write scores of values until the window is full; return how many were read, and where it ends.

    `unit` is the centre, the step, and how many values of this window differ from the centre and score 0.
    """
    center, step, blurred = unit[0], unit[1], unit[2]
    read = values.shape[0]
    for i in range(values.shape[0]):
        x = values[i]
        if not abs(x) <= HUGE:
            continue
        away = x - center
        if step == 0.0 and away != 0.0:
            step = abs(away) / _SIGMA
        score = 0
        if away != 0.0 and step > 0.0:
            score = int(min(max(away / step, -_TOP), _TOP) + (_TOP + 1.5)) - (_TOP + 1)
            blurred += score == 0
        scores[at] = score
        at += 1
        if at == WINDOW:
            read = i + 1
            break
    unit[1], unit[2] = step, blurred
    return read, at


@compiled
def _begin(values: Floats, s: State, k: int) -> int:
    """Take values into the sample; where it is full, score them. Return how many were read."""
    for i in range(values.shape[0]):
        if abs(values[i]) <= HUGE:
            at = s.filled[k]
            s.sample[k, at] = values[i]
            s.filled[k] = at + 1
            if at + 1 == SAMPLE:
                s.fitted[k] = True
                _fit(s.sample[k].copy(), s.unit[k])
                _fill(s.sample[k], s.scores[k], 0, s.unit[k])
                return i + 1
    return len(values)


@compiled
def _middle(counts: Ints, half: int) -> tuple[int, float]:
    """Return the place of the `half`-th of what is counted, and where in it that is, from -0.5 to 0.5."""
    place, below = 0, 0
    while below + counts[place] < half:
        below += counts[place]
        place += 1
    return place, (half - below) / counts[place] - 0.5


@compiled
def _measure(scores: Scores, counts: Ints) -> tuple[int, float, int]:
    """Return the median of (1024,) scores, their sigma, and how many different ones there are.

    Sigma is the median absolute deviation times 1.4826; where that is 0, the median distance of those
    that are not the median; 0 if all are.
    """
    counts[:] = 0
    for t in range(WINDOW):
        counts[0, scores[t] + _TOP] += 1
    middle, _ = _middle(counts[0], WINDOW // 2)
    different = 0
    for place in range(SPREADS):
        different += counts[0, place] > 0
        counts[1, abs(place - middle)] += counts[0, place]
    distance, within = _middle(counts[1], WINDOW // 2)
    sigma = _MAD_TO_SIGMA * (distance + within) if distance > 0 else 0.0
    others = WINDOW - counts[1, 0]
    if distance == 0 and others > 0:
        counts[1, 0] = 0
        distance, within = _middle(counts[1], (others + 1) // 2)
        sigma = distance + within
    return middle - _TOP, sigma, different


@compiled
def _adapt(s: State, k: int, room: Room) -> Fit:
    """Write the window's scores in sigmas, cut, to `room.x`; return how that was done.

    Centre and sigma are the same from window to window, so that levels can be compared, unless they do
    not fit.
    """
    median, sigma, different = _measure(s.scores[k], room.counts)
    center, step = s.unit[k, 0], s.unit[k, 1]
    fits = abs(median) <= _SIGMA and (sigma == 0.0 or _SIGMA / 2.0 <= sigma <= 2.0 * _SIGMA)
    shift, lasts = 0.0, True
    if s.seen[k] > 0 and fits:
        sigma = _SIGMA
    else:
        shift = float(median)
        s.level_error[k, 0] = s.level_error[k, 1] = np.nan
        s.unit[k, 0] = center + step * shift
        if sigma > 0.0:
            s.unit[k, 1] = step * sigma / _SIGMA
        else:
            sigma = _SIGMA
        # Scores ended within the cut, or were too few: the next window's will not compare.
        lasts = sigma >= _SIGMA / 2.0 and sigma * _CUT / _UNIT + abs(shift) <= _TOP
    if abs(median) == _TOP or s.unit[k, 2] > WINDOW // 2:
        # Most values were beyond the last score, or between two: the unit is of another time.
        s.fitted[k], lasts = False, False
    s.unit[k, 2] = 0.0
    scale = _UNIT / sigma
    for t in range(WINDOW):
        room.x[t] = np.int16(np.rint(min(max((s.scores[k, t] - shift) * scale, -_CUT), _CUT)))
    return Fit(center + step * shift, step / scale, different > 2, lasts)


@compiled
def _close(s: State, k: int, room: Room) -> bool:
    """Take a full window in; return whether the stream's regime changed."""
    fit = _adapt(s, k, room)
    for channel in range(2):
        s.rises[k, channel] <<= np.uint64(1)
        s.falls[k, channel] <<= np.uint64(1)
    spread = 0.0
    for channel in range(2):
        # Of two values, or nearly so, the distances from the mean tell nothing new.
        if channel == 1 and (not fit.many or moments(room.x)[1] <= 0.1 * spread):
            break
        trend = detrend(room.x, room.out, room.blocks)
        _compare(s, k, channel, trend, fit.center if channel == 0 else 0.0, fit.size)
        if not trend.removed:
            break
        s.used[k, channel] += 1
        _, spread, skew = moments(room.out)
        if spread == 0.0:
            s.uneven[k, channel] += 1.0
            break
        s.varied[k] = True
        s.skews[k, channel] += skew * skew
        s.uneven[k, channel] += unevenness(room.out)
        correlate(room.out, room.r)
        for lag in range(LAGS):
            s.correlations[k, channel, lag] += np.int16(np.rint(_FINE * room.r[lag]))
        for t in range(WINDOW):
            room.x[t] = abs(room.out[t])
    if not fit.lasts:
        s.level_error[k, 0] = s.level_error[k, 1] = np.nan
    s.filled[k] = 0
    s.windows[k] += 1
    s.seen[k] += 1
    if s.seen[k] >= _SETTLED:
        s.skipped[k] = WINDOW
    c = s.windows[k]
    due = c >= s.target[k]
    if not due and (s.kind[k] == UNKNOWN or c < 2 or c & (c - 1)):
        return False
    return _judge(s, k, due, room.r)


@compiled
def _compare(s: State, k: int, channel: int, trend: Trend, base: float, size: float) -> None:
    """Note whether the level moved, since the last window or within this one."""
    begin, end = base + trend.begin * size, base + trend.end * size
    rise = trend.moved and end > begin
    fall = trend.moved and end < begin
    if not np.isnan(s.level_error[k, channel]):
        gap = begin - s.level[k, channel]
        # One unit more, for scores were rounded to it.
        noise = size + MOVE * np.hypot(trend.begin_error * size, s.level_error[k, channel])
        rise, fall = rise or gap > noise, fall or -gap > noise
    s.rises[k, channel] |= np.uint64(rise)
    s.falls[k, channel] |= np.uint64(fall)
    s.level[k, channel], s.level_error[k, channel] = end, trend.end_error * size


@compiled
def _ones(bits: np.uint64, places: int) -> int:
    count = 0
    for b in range(places):
        count += int((bits >> np.uint64(b)) & np.uint64(1))
    return count


@compiled
def _judge(s: State, k: int, due: bool, r: Floats) -> bool:
    """Find the regime that the windows summed up speak for; return whether it is a new one.

    What is worse than the present regime is believed at once, what is better when four times as much
    evidence speaks for it as spoke for the present one. Then evidence is collected anew.
    """
    c = s.windows[k]
    kind, lag, reason = EXCHANGEABLE, 1, OF_VALUES if s.varied[k] else OF_CONSTANT
    clearest, best = np.empty(4), np.zeros(4)
    for channel in range(2):
        rises, falls = s.rises[k, channel], s.falls[k, channel]
        recent = min(s.seen[k], _RECENT)
        moves = _ones(rises | falls, recent)
        ups, downs = _ones(rises, 64), _ones(falls, 64)
        restless = moves >= 2 and 2 * moves > recent
        if kind != ORDERED and (restless or (ups >= _SWINGS and downs >= _SWINGS)):
            kind, lag, reason = ORDERED, LARGEST_LAG, OF_LEVEL_MOVES + channel
            best[1], best[2], best[3] = ups, downs, min(s.seen[k], 64)
    for channel in range(2):
        used = s.used[k, channel]
        if kind == ORDERED or used == 0:
            continue
        for at in range(LAGS):
            r[at] = s.correlations[k, channel, at] / (_FINE * used)
        values = WINDOW * float(used * used) / s.uneven[k, channel]
        m = interleave(r, s.skews[k, channel] / used / np.sqrt(values), values, clearest)
        if m == 0 or m > lag:
            kind, lag = (ORDERED, LARGEST_LAG) if m == 0 else (AUTOCORRELATED, m)
            reason = OF_VALUES + channel
            for i in range(4):  # numba takes seconds to compile best[:] = clearest
                best[i] = clearest[i]
    if kind == EXCHANGEABLE and s.used[k, 0] == 0:
        return False  # nothing but slopes: the next window will tell
    worse = kind > s.kind[k] or (kind == s.kind[k] and lag > s.lag[k])
    # A lag that is half of the old one is no news: estimates of one rate differ by as much.
    better = due and (kind < s.kind[k] or 4 * lag <= s.lag[k])
    if not due and not worse:
        return False
    if worse or better:
        s.kind[k], s.lag[k] = kind, lag
        s.target[k] = min(_PATIENCE * c, LONGEST)
    else:
        s.target[k] = min(2 * s.target[k], LONGEST)
    s.reason[k], s.judged[k] = reason, c
    for i in range(4):
        s.clearest[k, i] = best[i]
    s.windows[k], s.varied[k] = 0, False
    for channel in range(2):
        s.used[k, channel] = 0
        s.skews[k, channel] = s.uneven[k, channel] = 0.0
        for at in range(LAGS):
            s.correlations[k, channel, at] = 0
    return worse or better


@compiled
def update(values: Floats, streams: Ints, s: State, room: Room, changed: Ints) -> int:
    """Take all columns in; fill (row, column, kind, lag) of changed regimes and return how many."""
    hits = 0
    rows = values.shape[0]
    for j in range(streams.shape[0]):
        k = streams[j]
        i = 0
        while i < rows:
            passed = min(int(s.skipped[k]), rows - i)
            s.skipped[k] -= passed
            i += passed
            if not s.fitted[k]:
                i += _begin(values[i:, j], s, k)
                continue
            read, at = _fill(values[i:, j], s.scores[k], int(s.filled[k]), s.unit[k])
            s.filled[k] = at
            i += read
            if at == WINDOW and _close(s, k, room):
                changed[hits, 0], changed[hits, 1] = i - 1, j
                changed[hits, 2], changed[hits, 3] = s.kind[k], s.lag[k]
                hits += 1
    return hits
