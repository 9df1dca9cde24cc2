"""How far a stream depends on its own past: kernels on one window of values and on correlations.

Pure functions of arrays; which windows, and what follows from it, is the guard's. The compiled functions
here are built into those of `guard_kernel`, whose cache on disk does not notice a change in this file.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats
from .compiled import compiled

Shorts = NDArray[np.int16]

WINDOW: Final = 1024
"""Values of one window (chosen): long against the largest lag, and 1 kB of scores."""
BLOCK: Final = 64
BLOCKS: Final = WINDOW // BLOCK
LAGS: Final = 128
"""Correlations are measured at lags 1 to 128, twice the largest lag that is chosen."""
LARGEST_LAG: Final = 64
SMALLEST: Final = 0.02
"""Correlations below this are let pass. Measured at A = 1e4 on 20 streams, where 20 false alarms are
allowed: a conformal e-detector raises 13 to 17 with a lag-1 correlation of 0.02, 28 to 32 with 0.05,
44 to 62 with 0.1."""
DECAY: Final = 0.01
"""What may be left of a correlation at the lag chosen."""
EXPONENT: Final = 15.47
"""ln(524 / 1e-4). One check of one stream makes 2 (2 x 128 + 6) one-sided tests; so at most 1 in 10,000
checks of an exchangeable stream finds something."""
MOVE: Final = 6.5
"""Standard errors by which a level must differ to have moved (chosen): with the 13 degrees of freedom of
16 blocks, 1 in 50,000 windows of noise."""
_MARGIN: Final = 16  # values at both ends of a window in which no step is looked for (chosen)
_STEP_F: Final = 10.0
"""A step is taken out when it explains so many times what a block's mean varies by. Low on purpose:
taking a step out of noise costs next to nothing, leaving one in looks like dependence."""
_ABRUPT: Final = (
    0.75  # of a step's height that must lie between its two nearest 128 values (chosen)
)
_SURE: Final = (
    3.0  # standard errors taken off a correlation before a decay is read from it (chosen)
)
_TINY: Final = 1e-9


class Trend(NamedTuple):
    """What the mean does within a window, in units of the window's values.

    Parameters
    ----------
    begin, begin_error, end, end_error
        The mean at the window's two ends, and standard errors.
    moved
        Whether it is not one mean, beyond doubt.
    removed
        Whether what is left is fit to be correlated: the mean was one, or made one step.
    """

    begin: float
    begin_error: float
    end: float
    end_error: float
    moved: bool
    removed: bool


@compiled
def moments(x: Shorts) -> tuple[float, float, float]:
    """Return mean, variance and skewness; the last two are 0 of a constant."""
    n = x.shape[0]
    sums, squares, cubes = np.int32(0), np.int32(0), np.int64(0)
    for t in range(n):
        v = np.int32(x[t])
        sums = np.int32(sums + v)
        squares = np.int32(squares + v * v)
        cubes = np.int64(cubes + np.int64(v) * v * v)
    mean = sums / n
    variance = squares / n - mean * mean
    if variance < _TINY:
        return mean, 0.0, 0.0
    third = cubes / n - 3.0 * mean * variance - mean**3
    return mean, variance, third / variance**1.5


@compiled
def unevenness(u: Shorts) -> float:
    """Return by how much the variance of the autocorrelations of centred `u` exceeds that of noise.

    Where the size of values changes within a window, fewer of them count: sum of u_t^2 u_s^2 over that of
    like values, as in White 1980 (doi:10.2307/1912934), from the mean squares of blocks of 64, without
    what those of like values differ by.
    """
    total, powers, between = 0.0, 0.0, 0.0
    for b in range(BLOCKS):
        squares, quads = np.int64(0), np.int64(0)
        for t in range(b * BLOCK, (b + 1) * BLOCK):
            square = np.int64(u[t]) * np.int64(u[t])
            squares = np.int64(squares + square)
            quads = np.int64(quads + square * square)
        total += squares
        powers += quads
        between += float(squares) * float(squares)
    mean = total / WINDOW
    kurtosis = powers / WINDOW / (mean * mean)
    by_chance = 1.0 + (kurtosis - 1.0) / BLOCK
    return max(1.0, BLOCKS * between / (total * total) / by_chance)


@compiled
def tail(z: float, skew: float) -> float:
    """Return the negative logarithm of a bound on P(Z >= z), for a standardised sum of skewness `skew`.

    Bennett 1962, "Probability inequalities for the sum of independent random variables", equation 8b
    (doi:10.1080/01621459.1962.10482149), with the jump of the Poisson law of that skewness. For rare
    bits the sum of lagged products is such a count, and a normal law would call two errors a pattern.
    """
    u = skew * z
    if u < 1e-3:
        return z * z / 2.0
    return float(((1.0 + u) * np.log1p(u) - u) / (skew * skew))


@compiled
def _gain(head: float, cut: int, n: int) -> float:
    """Return the sum of squares that a step explains: `head` sums the centred values before it."""
    return head * head * n / (cut * float(n - cut))


@compiled
def _best_step(x: Shorts, mean: float, blocks: Floats) -> tuple[int, float, float]:
    """Return where the best step is, what it explains, and the sum of centred values before it.

    The best of the cuts between blocks, then the best near that one; 0 if the blocks are all alike.
    """
    n = x.shape[0]
    cut, gain, head, before = 0, 0.0, 0.0, 0.0
    for b in range(1, BLOCKS):
        before += blocks[b - 1]
        by_cut = _gain(before, b * BLOCK, n)
        if by_cut > gain:
            cut, gain, head = b * BLOCK, by_cut, before
    if cut == 0:
        return cut, gain, head
    first, last = cut - BLOCK, min(cut + BLOCK, n - _MARGIN)
    before = head
    for t in range(first, cut):
        before -= x[t] - mean
    for t in range(first, last):
        if t >= _MARGIN:
            by_cut = _gain(before, t, n)
            if by_cut > gain:
                cut, gain, head = t, by_cut, before
        before += x[t] - mean
    return cut, gain, head


@compiled
def _is_abrupt(x: Shorts, cut: int, height: float) -> bool:
    """Whether the nearest 128 values on either side of a step differ by most of its height."""
    left, right = max(cut - 2 * BLOCK, 0), min(cut + 2 * BLOCK, x.shape[0])
    before, after = 0.0, 0.0
    for t in range(left, cut):
        before += x[t]
    for t in range(cut, right):
        after += x[t]
    return bool((after / (right - cut) - before / (cut - left)) / height >= _ABRUPT)


@compiled
def detrend(x: Shorts, out: Shorts, blocks: Floats) -> Trend:
    """Write (1024,) `x` without its mean, and without its step if there is one, to `out`.

    A step is abrupt. A slope or a swing is not one, and then nothing is written: what is left of it
    would pass for short-range dependence. Noise is what the means of blocks of 64 values vary by, so
    that short-range dependence is in it, and at least what it would be without any. `blocks` is (16,) to
    work in.
    """
    n = x.shape[0]
    mean, variance, skew = moments(x)
    around = 0.0
    for b in range(BLOCKS):
        block = np.int32(0)
        for t in range(b * BLOCK, (b + 1) * BLOCK):
            block = np.int32(block + x[t])
        blocks[b] = block - BLOCK * mean
        around += blocks[b] ** 2 / BLOCK
    cut, gain, head = _best_step(x, mean, blocks)
    if cut > 0:
        low, high = head / cut, -head / (n - cut)
        rest, lean = 0.0, 0.0
        for b in range(BLOCKS):
            part = min(max(cut - b * BLOCK, 0), BLOCK)
            rest += (blocks[b] - part * low - (BLOCK - part) * high) ** 2 / BLOCK
            lean += (b - (BLOCKS - 1) / 2.0) * blocks[b]
        noise = max(rest / (BLOCKS - 3), variance - gain / n, _TINY)
        z, uneven = np.sqrt(gain / noise), abs(skew) / np.sqrt(min(cut, n - cut))
        moved = tail(z, uneven) > MOVE * MOVE / 2.0
        abrupt = gain >= _STEP_F * noise and _is_abrupt(x, cut, high - low)
        if abrupt:
            for t in range(cut):
                out[t] = np.int16(np.rint(x[t] - mean - low))
            for t in range(cut, n):
                out[t] = np.int16(np.rint(x[t] - mean - high))
        if moved:
            before, after = np.sqrt(noise / cut), np.sqrt(noise / (n - cut))
            return Trend(mean + low, before, mean + high, after, True, abrupt)
        if abrupt:
            error = np.sqrt(noise / n)
            return Trend(mean, error, mean, error, False, True)
        # sum of (b - 7.5)^2 over 16 blocks is 340
        by_slope = lean * lean / (BLOCK * (BLOCKS * (BLOCKS * BLOCKS - 1) / 12.0))
        noise = max((around - by_slope) / (BLOCKS - 2), variance - by_slope / n, _TINY)
        if by_slope > MOVE * MOVE * noise:
            rise = lean / (BLOCK * (BLOCKS * (BLOCKS + 1) / 6.0))
            error = np.sqrt(4.0 * noise / n)
            return Trend(mean - rise, error, mean + rise, error, True, False)
    for t in range(n):
        out[t] = np.int16(np.rint(x[t] - mean))
    error = np.sqrt(max(around / (BLOCKS - 1), variance) / n)
    return Trend(mean, error, mean, error, False, True)


@compiled
def correlate(u: Shorts, r: Floats) -> None:
    """Write the autocorrelations of centred `u`, which varies, at lags 1 to 128 to (128,) `r`.

    They are corrected for the mean that was taken out: Kendall 1954, "Note on bias in the estimation
    of autocorrelation" (doi:10.1093/biomet/41.3-4.403).
    """
    n = u.shape[0]
    squares = np.int32(0)
    for t in range(n):
        squares = np.int32(squares + np.int32(np.int32(u[t]) * np.int32(u[t])))
    for lag in range(1, LAGS + 1):
        # 32-bit integers: exact, and the compiler may sum them in any order, sixteen at a time.
        products = np.int32(0)
        for t in range(n - lag):
            products = np.int32(products + np.int32(np.int32(u[t]) * np.int32(u[t + lag])))
        r[lag - 1] = products / float(squares) * n / (n - lag) + 1.0 / n


@compiled
def beyond(r: Floats, skew: float, values: float, least: int, clearest: Floats) -> bool:
    """Whether correlations at lags `least` and more are larger than noise would make them.

    Looked at are each lag, with both signs, and the sums over lags 3-4, 5-8, ..., 65-128, which see what
    is small and lasts. Noise is wider where shorter lags correlate, as far as they decay below 1 % by lag
    `least`: Bartlett 1946, "On the theoretical specification and sampling properties of autocorrelated
    time-series", equation 7 (doi:10.2307/2983611).

    Parameters
    ----------
    r
        (128,) means over windows.
    skew
        Skewness of one of them: the stream's squared, over the root of `values`.
    values
        How many values they are from.
    clearest
        (4,) becomes the excess of the clearest over its threshold, its first and last lag, its value.
    """
    squares, sums = 1.0, 1.0
    for lag in range(1, least):
        value = min(r[lag - 1], DECAY ** (lag / least))
        squares += 2.0 * value * value
        sums += 2.0 * value
    sums = max(sums, 1.0)
    clearest[0] = -np.inf
    for lag in range(least, LAGS + 1):
        value = r[lag - 1]
        if abs(value) >= SMALLEST:
            z = abs(value) * np.sqrt(values * (1.0 - lag / WINDOW) / squares)
            excess = tail(z, skew if value > 0.0 else 0.0) - EXPONENT
            if excess > clearest[0]:
                clearest[0], clearest[1], clearest[2], clearest[3] = excess, lag, lag, value
    last = 4
    while last <= LAGS:
        first = last // 2 + 1
        if first >= least:
            value = 0.0
            for lag in range(first, last + 1):
                value += r[lag - 1]
            if value >= 2.0 * SMALLEST:
                pairs = values * (1.0 - last / WINDOW)
                z = value / sums * np.sqrt(pairs / (last + 1 - first))
                excess = tail(z, skew) - EXPONENT
                if excess > clearest[0]:
                    clearest[0], clearest[1], clearest[2], clearest[3] = excess, first, last, value
        last *= 2
    return bool(clearest[0] > 0.0)


@compiled
def decay(r: Floats, values: float, least: int) -> float:
    """Return the largest rho for which rho^lag is surely a correlation at a lag below `least`."""
    rate, squares = 0.0, 1.0
    for lag in range(1, least):
        value = abs(r[lag - 1])
        if lag > 1:
            value -= _SURE * np.sqrt(squares / (values * (1.0 - lag / WINDOW)))
        if value > 0.0:
            rate = max(rate, value ** (1.0 / lag))
        squares += 2.0 * r[lag - 1] * r[lag - 1]
    return rate


@compiled
def interleave(r: Floats, skew: float, values: float, clearest: Floats) -> int:
    """Return the lag m such that every m-th value is exchangeable with the others; 0 if none up to 64 is.

    m is 1, or the smallest power of two such that correlations decay below 1 % by lag m and are noise
    from there on. `clearest` becomes what speaks against 1, or, for 0, against 64; the parameters are
    those of `beyond`.
    """
    if not beyond(r, skew, values, 1, clearest):
        return 1
    against = np.empty(4)
    m = 2
    while m <= LARGEST_LAG:
        more = beyond(r, skew, values, m, against)
        if not more and decay(r, values, m) ** m < DECAY:
            return m
        m *= 2
    if against[0] > 0.0:
        for i in range(4):  # numba takes seconds to compile clearest[:] = against
            clearest[i] = against[i]
    return 0
