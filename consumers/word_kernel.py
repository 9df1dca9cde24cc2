"""Eight bytes of text at once, as one number whose lowest byte comes first. What the text is of is decided elsewhere."""

# numba decides what is an integer and what an array's element:
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
from numba import types
from numba.extending import intrinsic

from ..core.columns import Bytes
from ..detectors.compiled import inlined

_ONES: Final = 0x0101010101010101
_TOPS: Final = 0x80 * _ONES


def _zeros(instruction: str) -> Callable[[np.uint64], np.uint64]:
    """Return what is one instruction of the processor: the count of zeros at one end of a word, 64 for 0."""

    def count(_: Any, word: Any) -> Any:
        def build(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(
                arguments[0], context.get_constant(types.boolean, 0)
            )

        return types.uint64(word), build

    return cast(Callable[[np.uint64], np.uint64], intrinsic(count))


zeros_below, zeros_above = _zeros("cttz"), _zeros("ctlz")
"""How many bits of a word are below its lowest 1, and above its highest."""


@inlined
def word_at(data: Bytes, at: np.uint64) -> np.uint64:
    """Return the eight bytes at `at`, zeros for those past the end; there must be eight in all."""
    last = np.uint64(data.shape[0] - 8)
    begin = min(last, at)
    word = np.uint64(0)
    for i in range(np.uint64(8)):  # compiled to one load
        word |= np.uint64(data[begin + i]) << np.uint64(np.uint64(8) * i)
    return word >> (np.uint64(8) * (at - begin))


@inlined
def before(marks: np.uint64) -> np.uint64:
    """Return how many of eight bytes come before the first one whose top bit is set."""
    return zeros_below(marks) >> np.uint64(3)


@inlined
def not_digits(digits: np.uint64) -> np.uint64:
    """Mark, at its top bit, each byte that is no digit; `digits` are less 48. Exact up to the first that is no ASCII."""
    return ((digits + np.uint64(0x76 * _ONES)) | digits) & np.uint64(_TOPS)


@inlined
def not_plain(word: np.uint64) -> np.uint64:
    """Mark quotes, backslashes, control characters and what is no ASCII; exact up to the first of them."""
    quote, escape = word ^ np.uint64(34 * _ONES), word ^ np.uint64(92 * _ONES)
    marks = (quote - np.uint64(_ONES)) & ~quote
    marks |= (escape - np.uint64(_ONES)) & ~escape
    return (marks | ((word - np.uint64(32 * _ONES)) & ~word) | word) & np.uint64(_TOPS)


@inlined
def eight_digits(digits: np.uint64) -> np.uint64:
    """Return the number that eight digits make, by pairs, and pairs of these."""
    pairs = digits * np.uint64(10) + (digits >> np.uint64(8))
    even = (pairs & np.uint64(0xFF000000FF)) * np.uint64(100 + (1_000_000 << 32))
    odd = ((pairs >> np.uint64(16)) & np.uint64(0xFF000000FF)) * np.uint64(1 + (10_000 << 32))
    return (even + odd) >> np.uint64(32)


@inlined
def digits_of(word: np.uint64) -> np.uint64:
    """Return characters less 48: digits, where they are some."""
    return word ^ np.uint64(48 * _ONES)


@inlined
def short_number(word: np.uint64) -> tuple[np.uint64, np.uint64, np.uint64]:
    """Read the number that a word begins with, where something follows it there.

    Returns its length, 0 where it is another number than `12` or `3.45`; its digits as one integer; and
    how many of them are a fraction.
    """
    one, eight = np.uint64(1), np.uint64(8)
    digits = digits_of(word)
    marks = not_digits(digits)
    whole = before(marks) & np.uint64(7)
    size, count = whole, whole
    if (word >> (eight * whole)) & np.uint64(0xFF) == np.uint64(46):
        size = before(marks & (marks - one)) & np.uint64(7)
        count = size - one
        below = (one << (eight * whole)) - one
        digits = (digits & below) | ((digits >> eight) & ~below)
    after = (word >> (eight * size)) & np.uint64(0xDF)  # e and E are one
    if (
        whole == np.uint64(0)
        or (whole > one and digits & np.uint64(0xFF) == np.uint64(0))
        or size == whole + one
        or size < whole
        or after == np.uint64(69)
    ):
        return np.uint64(0), np.uint64(0), np.uint64(0)
    return size, eight_digits(digits << (np.uint64(64) - eight * count)), count - whole
