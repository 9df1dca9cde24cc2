"""Compiled parts of `fingerprints` and `signatures`: keys of rows, looking them up, bits that differ."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false, reportReturnType=false, reportOperatorIssue=false, reportCallIssue=false
# mypy: disable-error-code="arg-type,assignment,return-value,no-any-return,operator"

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Bytes, Floats, Ints
from .compiled import compiled, inlined

Keys = NDArray[np.uint64]
Places = NDArray[np.int32]

DIGITS: Final = 3
"""Significant digits, and decimals, that a near match looks at."""
TIES: Final = 6
"""Columns of a row that may lie halfway between two roundings and are looked up both ways: 64 keys at most."""
_HALFWAY: Final = 2e-7
"""Of a value: so near to halfway is halfway. A float32 is within 6e-8 of what it stands for."""
_NAN: Final = 0x7FF8000000000000
_SMALLEST: Final = -300
_LARGEST: Final = 309  # 1e309, which is infinite, is above all numbers
_POWERS: Final = np.array([float(f"1e{e}") for e in range(_SMALLEST, _LARGEST + 1)])
_FNV_PRIME: Final = 0x100000001B3
_FNV_START: Final = 0xCBF29CE484222325


@inlined
def mixed(z: np.uint64) -> np.uint64:
    """Return 64 well-mixed bits: the finalizer of SplitMix64, as in `tie_break`."""
    z = np.uint64(z) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def _token(x: float, step: int, up: int) -> np.uint64:
    """Return what stands for a number rounded to three digits, or to steps of 10**step where these are coarser.

    `up` is 0 for the number rounded half to even, 1 and 2 for the two between which it lies halfway.
    """
    size = abs(x)
    m, s = _rounded(size, step, up)
    if m == 0:
        return np.uint64(0)
    return (
        (np.uint64(m) << np.uint64(12))
        | (np.uint64(s - _SMALLEST) << np.uint64(1))
        | np.uint64(x < 0)
    ) + np.uint64(1)


@inlined
def _scaled(size: float, step: int) -> tuple[float, int]:
    """Return a size in units of the last digit that is kept, and which power of ten that is."""
    s = step
    if size >= 1e-290:
        e = np.int64(np.floor(np.log10(size)))
        if size < _POWERS[e - _SMALLEST]:
            e -= 1
        elif size >= _POWERS[e + 1 - _SMALLEST]:
            e += 1
        s = max(step, e - (DIGITS - 1))
    if s <= 0:
        return size * _POWERS[-s - _SMALLEST], s
    return size / _POWERS[s - _SMALLEST], s


@compiled
def _rounded(size: float, step: int, up: int) -> tuple[int, int]:
    """Return a size as (m, s), about m times 10**s; each number that has three digits in one way only."""
    scaled, s = _scaled(size, step)
    m = np.int64(np.rint(scaled)) if up == 0 else np.int64(np.floor(scaled)) + up - 1
    if m == 10**DIGITS:
        return 10 ** (DIGITS - 1), s + 1
    return m, s


@compiled
def _is_halfway(size: float, step: int) -> bool:
    scaled, _ = _scaled(size, step)
    return abs(scaled - np.floor(scaled) - 0.5) <= _HALFWAY * max(scaled, 1.0)


@compiled
def row_keys(
    numbers: Floats, columns: Keys, steps: Ints, texts: Keys,
    exact: Keys, near: Keys, ties: Ints, other: Keys,
) -> None:  # fmt: skip
    """Fill the keys of n rows.

    Parameters
    ----------
    numbers
        (n, k) any numbers; NaN for none.
    columns, steps
        (k,) what stands for each column, and the power of ten below which it is not told apart.
    texts
        (n,) the sum over a row's columns of text of what stands for each.
    exact, near
        (n,) become the keys of each row as it is, and with its numbers rounded.
    ties, other
        (n,) and (n, TIES) become how many numbers lie halfway, and what each of these adds to `near` when it is
        rounded the other way.
    """
    for i in range(numbers.shape[0]):
        whole, rough, count = texts[i], texts[i], 0
        for j in range(numbers.shape[1]):
            x = numbers[i, j]
            if not np.isfinite(x):
                token = np.uint64(_NAN) + np.uint64(0 if np.isnan(x) else 1 if x > 0 else 2)
                whole += mixed(columns[j] ^ mixed(token))
                rough += mixed(columns[j] ^ mixed(token))
                continue
            # 0.0 and -0.0 are one number with two patterns of bits.
            bits = np.float64(x + 0.0).view(np.uint64)
            whole += mixed(columns[j] ^ mixed(bits))
            mine = mixed(columns[j] ^ mixed(_token(x, steps[j], 0)))
            rough += mine
            if count < TIES and _is_halfway(abs(x), steps[j]):
                for up in (1, 2):
                    theirs = mixed(columns[j] ^ mixed(_token(x, steps[j], up)))
                    if theirs != mine:
                        other[i, count] = theirs - mine
                count += 1
        exact[i], near[i], ties[i] = whole, rough, count


@compiled
def text_keys(data: Bytes, start: Ints, end: Ints, column: np.uint64, sums: Keys) -> None:
    """Add what stands for a column's texts to the (n,) sums: FNV-1a, mixed (Fowler, Noll and Vo)."""
    for i in range(len(start)):
        value = np.uint64(1)
        if start[i] >= 0:
            value = np.uint64(_FNV_START)
            for at in range(start[i], end[i]):
                value = (value ^ np.uint64(data[at])) * np.uint64(_FNV_PRIME)
        sums[i] += mixed(column ^ mixed(value))


@compiled
def find(wanted: Keys, keys: Keys, buckets: Places, shift: int, places: Ints) -> None:
    """Fill the (n,) places of keys among sorted ones, -1 where there is none.

    `buckets` bounds the keys whose upper bits, those above `shift`, are 0, 1, 2, ...: about one key each.
    """
    for i in range(len(wanted)):
        places[i] = _place(wanted[i], keys, buckets, shift)


@inlined
def _place(wanted: np.uint64, keys: Keys, buckets: Places, shift: int) -> int:
    bucket = np.int64(wanted >> np.uint64(shift))
    found = -1
    for at in range(buckets[bucket], buckets[bucket + 1]):
        if keys[at] == wanted:
            found = at
    return found


@compiled
def find_near(
    near: Keys, ties: Ints, other: Keys, keys: Keys, buckets: Places, shift: int, places: Ints
) -> None:
    """Fill the (n,) places of rows among sorted keys, each with its halfway numbers rounded in every way."""
    for i in range(len(near)):
        places[i] = -1
        for way in range(1 << ties[i]):
            key = near[i]
            for k in range(ties[i]):
                if (way >> k) & 1:
                    key += other[i, k]
            at = _place(key, keys, buckets, shift)
            if at >= 0:
                places[i] = at
                break


BANDS: Final = 16
"""Parts of a signature of 256 bits, of 16 bits each; two rows are compared where they agree in one of them."""
WORDS: Final = 4
BITS: Final = 64 * WORDS
SKETCH: Final = 32
"""Projections of a row that are kept as bytes."""
UNIT: Final = 1 / 32
"""Of a byte; projections of a unit vector are about normal, and 4 is their end."""
_CANDIDATES: Final = 256
"""Rows compared a band: a reference of equal rows must not cost a look at each (chosen)."""


@compiled
def signatures(projected: Floats, bits: Keys, sketch: NDArray[np.int8]) -> None:
    """Fill (n, WORDS) and (n, SKETCH) from (n, BITS) projections of unit vectors: their signs, and some of them."""
    for i in range(len(projected)):
        for w in range(WORDS):
            word = np.uint64(0)
            for k in range(64):
                if projected[i, 64 * w + k] > 0:
                    word |= np.uint64(1) << np.uint64(k)
            bits[i, w] = word
        for k in range(SKETCH):
            sketch[i, k] = np.int8(min(max(np.rint(projected[i, k] / UNIT), -127), 127))


@inlined
def _band(bits: Keys, i: int, band: int) -> int:
    return np.int64(
        (bits[i, band >> 2] >> (np.uint64(16) * np.uint64(band & 3))) & np.uint64(0xFFFF)
    )


@inlined
def _differ(a: Keys, i: int, b: Keys, j: int) -> int:
    """Return how many bits differ (Warren 2012, "Hacker's delight", figure 5-2)."""
    count = np.uint64(0)
    for w in range(WORDS):
        x = a[i, w] ^ b[j, w]
        x -= (x >> np.uint64(1)) & np.uint64(0x5555555555555555)
        x = (x & np.uint64(0x3333333333333333)) + (
            (x >> np.uint64(2)) & np.uint64(0x3333333333333333)
        )
        x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
        count += (x * np.uint64(0x0101010101010101)) >> np.uint64(56)
    return np.int64(count)


@compiled
def bands(bits: Keys, order: Places, starts: Places) -> None:
    """Fill (BANDS, m) rows sorted by each band of (m, WORDS) signatures, and (BANDS, 65537) where each value begins."""
    m = len(bits)
    for band in range(BANDS):
        for i in range(m):
            starts[band, _band(bits, i, band) + 1] += 1
        for value in range(1 << 16):
            starts[band, value + 1] += starts[band, value]
        at = starts[band].copy()
        for i in range(m):
            value = _band(bits, i, band)
            order[band, at[value]] = i
            at[value] += 1


@compiled
def neighbours(
    bits: Keys, sketch: NDArray[np.int8], itself: bool,
    known: Keys, sketches: NDArray[np.int8], order: Places, starts: Places,
    most_bits: int, most: float, nearest: Ints, count: Ints,
) -> None:  # fmt: skip
    """Fill the nearest of the known rows to each of n, -1 for none, and how many are near.

    Near is: at most so many bits and such a squared distance of sketches (in units of a byte) apart, and a band alike.
    `itself` says that the n rows are the known ones; a row is not its own neighbour.
    """
    for i in range(len(bits)):
        nearest[i], count[i], best = -1, 0, most
        for band in range(BANDS):
            value = _band(bits, i, band)
            begin = starts[band, value]
            for at in range(begin, min(starts[band, value + 1], begin + _CANDIDATES)):
                j = order[band, at]
                if itself and j == i:
                    continue
                seen = False
                for earlier in range(band):
                    seen |= _band(known, j, earlier) == _band(bits, i, earlier)
                if seen or _differ(bits, i, known, j) > most_bits:
                    continue
                apart = 0.0
                for k in range(SKETCH):
                    apart += (float(sketch[i, k]) - float(sketches[j, k])) ** 2
                if apart <= most:
                    count[i] += 1
                    if apart < best or nearest[i] < 0:
                        nearest[i], best = j, apart
