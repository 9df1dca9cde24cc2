"""Sums of floats that are exact: the same in any order, merged or taken apart, rounded once when they are read."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

import numpy as np

from ..core.columns import Ints
from .compiled import compiled

_BITS: Final = 32
_LEAST: Final = -1074  # exponent of the smallest float's bit
LIMBS: Final = (1024 - _LEAST) // _BITS + 2
"""Whole numbers that hold a sum, each worth 2^32 of the one before; they take 2^31 values before one overflows."""


@compiled
def add(limbs: Ints, value: float, sign: int) -> None:
    """Add a finite value to a sum, or take it away.

    As Kulisch's long accumulator (2002, "Advanced arithmetic for the digital computer", chapter 1), but that carries are
    kept for later: every limb has 31 bits to spare.
    """
    mantissa, exponent = math.frexp(value)
    whole = np.int64(mantissa * 9007199254740992.0)  # 53 bits
    place = exponent - 53 - _LEAST
    if place < 0:  # a subnormal one: its last bits are zeros
        whole >>= -place
        place = 0
    if whole < 0:
        whole, sign = -whole, -sign
    limb, shift = place >> 5, place & 31
    low = np.int64(whole & 0xFFFFFFFF) << shift
    high = np.int64(whole >> 32) << shift
    limbs[limb] += sign * (low & 0xFFFFFFFF)
    middle = (low >> 32) + high
    limbs[limb + 1] += sign * (middle & 0xFFFFFFFF)
    limbs[limb + 2] += sign * (middle >> 32)


def exact(limbs: Ints) -> Fraction:
    """Return a sum as it is."""
    whole = sum(int(limb) << (_BITS * k) for k, limb in enumerate(limbs.tolist()))
    return Fraction(whole, 1 << -_LEAST)


def total(limbs: Ints) -> float:
    """Return the float next to a sum, infinite beyond the largest one."""
    found = exact(limbs)
    try:
        return float(found)
    except OverflowError:
        return math.inf if found > 0 else -math.inf
