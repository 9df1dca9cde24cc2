"""Decimal text to the nearest 64-bit float, compiled; equal to Python's float() wherever it answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..detectors.compiled import compiled
from .word_kernel import zeros_above

MIN_EXPONENT, MAX_EXPONENT = -342, 308
"""Powers of ten outside this range give 0 or infinity for every 64-bit mantissa."""


def _powers_of_five() -> NDArray[np.uint64]:
    """Return (651, 2) words, high and low: the top 128 bits of 5**q, cut for q >= 0, up for q < 0.

    Reference: Lemire 2021, "Number parsing at a gigabyte per second", section 5 and Table 1
    (doi:10.1002/spe.2984).
    """
    rows = []
    for q in range(MIN_EXPONENT, MAX_EXPONENT + 1):
        if q >= 0:
            power = 5**q
            shift = power.bit_length() - 128
            top = power >> shift if shift > 0 else power << -shift
        else:
            power = 5**-q
            bits = power.bit_length() + 127
            top = (1 << bits) // power + 1
            while top >= 1 << 128:
                top >>= 1
        rows.append((top >> 64, top & (2**64 - 1)))
    return np.array(rows, np.uint64)


POWERS_OF_FIVE = _powers_of_five()
POWERS_OF_TEN = np.array([10.0**e for e in range(23)])
"""10**0 to 10**22, the powers of ten that 64-bit floats hold exactly."""


@compiled
def _multiply(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return the 128-bit product of two 64-bit words, high and low."""
    mask = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    a_low, a_high, b_low, b_high = a & mask, a >> half, b & mask, b >> half
    low = a_low * b_low
    middle = a_high * b_low + (low >> half)
    cross = a_low * b_high + (middle & mask)
    return a_high * b_high + (middle >> half) + (cross >> half), (cross << half) | (low & mask)


@compiled
def float_bits(mantissa: np.uint64, exponent: int, powers: NDArray[np.uint64]) -> np.uint64:
    """Return the bits of the float nearest to mantissa * 10**exponent, or all ones if undecided.

    Undecided are halfway cases, subnormal and overflowing results: rare, left to a slower path.

    References
    ----------
    Lemire 2021 (doi:10.1002/spe.2984), Algorithm 1; Mushtak and Lemire 2023, "Fast number parsing
    without fallback" (doi:10.1002/spe.3198), for why the 128-bit product decides.
    """
    undecided = np.uint64(0xFFFFFFFFFFFFFFFF)
    one = np.uint64(1)
    if mantissa == 0:
        return np.uint64(0)
    if exponent < MIN_EXPONENT or exponent > MAX_EXPONENT:
        return undecided
    zeros = zeros_above(mantissa)
    mantissa <<= zeros
    high, low = _multiply(mantissa, powers[exponent - MIN_EXPONENT, 0])
    if high & np.uint64(0x1FF) == np.uint64(0x1FF):
        carry, _ = _multiply(mantissa, powers[exponent - MIN_EXPONENT, 1])
        before = low
        low += carry
        if low < before:
            high += one
        if high & np.uint64(0x1FF) == np.uint64(0x1FF) and low == undecided:
            return undecided
    top = high >> np.uint64(63)
    significand = high >> (top + np.uint64(9))  # 54 bits, the last one rounds
    # floor(exponent * log2(10)) by a multiplication, exact in this range (Lemire 2021, section 6)
    binary = ((217706 * exponent) >> 16) + 64 + 1023 - np.int64(zeros) - (1 - int(top))
    if low == 0 and high & np.uint64(0x1FF) == 0 and significand & np.uint64(3) == one:
        return undecided
    significand += significand & one
    significand >>= one
    if significand >> np.uint64(53) != 0:
        significand >>= one
        binary += 1
    if binary <= 0 or binary >= 0x7FF:
        return undecided
    return (np.uint64(binary) << np.uint64(52)) | (significand & np.uint64(0xFFFFFFFFFFFFF))
