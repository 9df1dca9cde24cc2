"""A compiled reader of JSON events whose shape is known; it answers only where it is sure.

A shape is an event's text with its scalars cut out: the literals between them must match byte for
byte. Whatever differs (another key order, an escape, an odd number) is left to `core.wire`, which
says what is right. `shapes.py` learns shapes; what the scalars mean is decided there too.
"""

# numba decides what is an integer and what an array's element:
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.columns import FALSE, FLOAT, INTEGER, NULL, TEXT, TRUE, Bytes, Floats, Ints
from ..detectors.compiled import compiled
from .float_kernel import POWERS_OF_FIVE, POWERS_OF_TEN, float_bits
from .word_kernel import (
    before,
    digits_of,
    eight_digits,
    not_digits,
    not_plain,
    short_number,
    word_at,
)

Int32s = NDArray[np.int32]

_EXACT: Final = 1 << 53
_MAX_DIGITS: Final = 19  # 10**19 - 1 fits 64 bits
HINTS: Final = 2
"""Shapes remembered for each slot of Kafka keys: usually the predictions' and the labels' of a model."""
SLOTS: Final = 1 << 14
"""Slots that keys are divided among; keys that share one are read slower, and as well."""


class Shapes(NamedTuple):
    """Known shapes, packed.

    Parameters
    ----------
    text
        (bytes,) all literals.
    literal_start, literal_end
        (literals,) their spans; a shape with m scalars has m + 1 literals.
    first_literal, scalars, kind
        (shapes,) where a shape's literals begin, how many scalars it has, and the `Kind` of record
        it was learned from.
    """

    text: Bytes
    literal_start: Ints
    literal_end: Ints
    first_literal: Ints
    scalars: Ints
    kind: Ints


class Cells(NamedTuple):
    """The scalars of all rows, one after another; row i's begin at `first[i]`.

    Parameters
    ----------
    shape
        (n,) the row's shape, -1 where none matched.
    first
        (n,) index of the row's first cell.
    tags, numbers, start, end
        (cells,) what a scalar is, its value if a number, its span without quotes if text.
    """

    shape: Ints
    first: Ints
    tags: Bytes
    numbers: Floats
    start: Int32s
    end: Int32s


@compiled
def _string_end(data: Bytes, at: int, end: int) -> int:
    """Return the position of the quote that ends the text at `at`; -1 for escapes and broken text.

    Checks UTF-8 as RFC 3629, section 4 has it.
    """
    plain = 8
    while plain == 8 and at < end:
        plain = int(before(not_plain(word_at(data, np.uint64(at)))))
        at += plain
    while at < end:
        byte = data[at]
        if byte == 34:
            return at
        if byte == 92 or byte < 32:
            return -1
        if byte < 0x80:
            at += 1
            continue
        if 0xC2 <= byte <= 0xDF:
            more, low, high = 1, 0x80, 0xBF
        elif 0xE0 <= byte <= 0xEF:
            more = 2
            low = 0xA0 if byte == 0xE0 else 0x80
            high = 0x9F if byte == 0xED else 0xBF
        elif 0xF0 <= byte <= 0xF4:
            more = 3
            low = 0x90 if byte == 0xF0 else 0x80
            high = 0x8F if byte == 0xF4 else 0xBF
        else:
            return -1
        if at + more >= end:
            return -1
        for i in range(1, more + 1):
            if data[at + i] < low or data[at + i] > high:
                return -1
            low, high = 0x80, 0xBF
        at += more + 1
    return -1


@compiled
def _number(data: Bytes, at: int, end: int) -> tuple[int, np.uint64, int, bool]:
    """Read the number at `at`, after its sign.

    Returns the position after it (-1 for what JSON or 64 bits cannot hold), its digits as one
    integer, the power of ten to multiply that by, and whether it is written as an integer.
    """
    one, eight, ten = np.uint64(1), np.uint64(8), np.uint64(10)
    zero, nine = np.uint8(48), np.uint8(9)
    p, stop = np.uint64(at), np.uint64(end)  # unsigned: no test for an index below 0
    begin = p
    mantissa = np.uint64(0)
    while p < stop:
        digit = np.uint8(data[p] - zero)
        if digit > nine:
            break
        mantissa = mantissa * ten + np.uint64(digit)
        p += one
    digits = np.int64(p - begin)
    integer = True
    exponent = 0
    if digits == 0 or (digits > 1 and data[begin] == zero):
        return -1, mantissa, 0, integer
    if p < stop and data[p] == 46:
        integer = False
        p += one
        begin = p
        while p + eight <= stop:
            several = digits_of(word_at(data, p))
            if not_digits(several) != 0:
                break
            mantissa = mantissa * np.uint64(10**8) + eight_digits(several)
            p += eight
        while p < stop:
            digit = np.uint8(data[p] - zero)
            if digit > nine:
                break
            mantissa = mantissa * ten + np.uint64(digit)
            p += one
        exponent = -np.int64(p - begin)
        digits -= exponent
        if exponent == 0:
            return -1, mantissa, 0, integer
    if p < stop and (data[p] == 101 or data[p] == 69):
        integer = False
        p += one
        down = False
        if p < stop and (data[p] == 43 or data[p] == 45):
            down = data[p] == 45
            p += one
        begin = p
        power = 0
        while p < stop and 48 <= data[p] <= 57:
            power = power * 10 + np.int64(data[p] - zero)
            p += one
        if p == begin or p - begin > np.uint64(4):
            return -1, mantissa, 0, integer
        exponent += -power if down else power
    if digits > _MAX_DIGITS:  # zeros in front are no digits: 0.0012345678901234567 has 17
        begin = np.uint64(at)
        while begin < stop and (data[begin] == zero or data[begin] == 46):
            digits -= np.int64(data[begin] == zero)
            begin += one
    return np.int64(p) if digits <= _MAX_DIGITS else -1, mantissa, exponent, integer


@compiled
def _word(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """Read true, false or null at `at`: the position after it, or -1, and its tag."""
    if end - at >= 4 and data[at] == 116:
        if data[at + 1] == 114 and data[at + 2] == 117 and data[at + 3] == 101:
            return at + 4, TRUE
    elif end - at >= 4 and data[at] == 110:
        if data[at + 1] == 117 and data[at + 2] == 108 and data[at + 3] == 108:
            return at + 4, NULL
    elif end - at >= 5 and data[at] == 102 and data[at + 1] == 97 and data[at + 2] == 108:
        if data[at + 3] == 115 and data[at + 4] == 101:
            return at + 5, FALSE
    return -1, NULL


@compiled
def _same(data: Bytes, at: np.uint64, text: Bytes, begin: np.uint64, size: np.uint64) -> bool:
    eight = np.uint64(8)
    while size > eight:
        if word_at(data, at) != word_at(text, begin):
            return False
        at += eight
        begin += eight
        size -= eight
    different = word_at(data, at) ^ word_at(text, begin)
    return different << (np.uint64(64) - eight * size) == 0


@compiled
def _read_rows(
    data: Bytes, row_start: Ints, row_end: Ints, kinds: Bytes, keys: Ints, hints: Ints,
    text: Bytes, literal_start: Ints, literal_end: Ints, first_literal: Ints, scalars: Ints,
    shape_kind: Ints, shape_of: Ints, first: Ints,
    tags: Bytes, numbers: Floats, start: Int32s, stop: Int32s,
    bits: NDArray[np.uint64], fives: NDArray[np.uint64], tens: Floats,
) -> None:  # fmt: skip
    one = np.uint64(1)
    free = 0
    for i in range(row_start.shape[0]):
        first[i] = free
        shape_of[i] = -1
        end = row_end[i]
        if end - row_start[i] < 8:  # no event is as short
            continue
        for attempt in range(HINTS + shape_kind.shape[0]):
            shape = hints[keys[i], attempt] if attempt < HINTS else attempt - HINTS
            if shape < 0 or shape_kind[shape] != kinds[i] or free + scalars[shape] > tags.shape[0]:
                continue
            at = row_start[i]
            cell = np.uint64(free)  # unsigned: no test for an index below 0
            literal = np.uint64(first_literal[shape])
            for k in range(scalars[shape] + 1):
                begin = np.uint64(literal_start[literal])
                size = np.uint64(literal_end[literal]) - begin
                literal += one
                if at + np.int64(size) > end or not _same(data, np.uint64(at), text, begin, size):
                    at = -1
                    break
                at += np.int64(size)
                if k == scalars[shape]:
                    break
                if at == end:
                    at = -1
                    break
                start[cell] = stop[cell] = -1
                numbers[cell] = np.nan
                byte = data[np.uint64(at)]
                if byte == 34:
                    close = _string_end(data, at + 1, end)
                    tags[cell] = TEXT
                    start[cell] = at + 1
                    stop[cell] = close
                    at = close + 1 if close >= 0 else -1
                elif (byte == 45) | (48 <= byte <= 57):  # the sign of a number is anyone's guess
                    at += byte == 45
                    width, mantissa, fraction = short_number(word_at(data, np.uint64(at)))
                    if width > 0:
                        at += np.int64(width)
                        numbers[cell] = np.float64(mantissa) / tens[fraction]
                        tags[cell] = FLOAT if fraction > 0 else INTEGER
                    else:
                        at, mantissa, exponent, integer = _number(data, at, end)
                        # Exact where mantissa and power of ten are (Clinger 1990, "How to read
                        # floating point numbers accurately", section 5), else by 128-bit product.
                        if mantissa <= np.uint64(_EXACT) and -22 <= exponent <= 22:
                            value = np.float64(mantissa)
                            value = (
                                value / tens[-exponent] if exponent < 0 else value * tens[exponent]
                            )
                            numbers[cell] = value
                        else:
                            bits[cell] = float_bits(mantissa, exponent, fives)
                            if bits[cell] == np.uint64(0xFFFFFFFFFFFFFFFF):
                                at = -1
                        tags[cell] = INTEGER if integer else FLOAT
                    numbers[cell] *= 1.0 - 2.0 * (byte == 45)
                else:
                    at, tags[cell] = _word(data, at, end)
                if at < 0:
                    break
                cell += one
            if at == end:
                shape_of[i] = shape
                free = np.int64(cell)
                if attempt >= HINTS:
                    for h in range(HINTS - 1, 0, -1):
                        hints[keys[i], h] = hints[keys[i], h - 1]
                    hints[keys[i], 0] = shape
                break


@compiled
def key_slots(data: Bytes, start: Ints, end: Ints, slots: Ints) -> None:
    """Fill (n,) the slots of keys, by FNV-1a (Fowler, Noll and Vo)."""
    for i in range(start.shape[0]):
        value = np.uint64(0xCBF29CE484222325)
        if start[i] >= 0:
            for at in range(np.uint64(start[i]), np.uint64(end[i])):
                value = (value ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
        slots[i] = (value ^ (value >> np.uint64(32))) & np.uint64(SLOTS - 1)


class Workspace:
    """Memory for the cells of one call, used again by the next: fresh pages cost more than reading."""

    def __init__(self) -> None:
        self._room = -1

    def cells(self, rows: int, room: int) -> Cells:
        """Return cells for `rows` rows and `room` scalars; those of the call before are overwritten."""
        if room > self._room:
            self._room = room
            self._tags = np.empty(room, np.uint8)
            self._numbers = np.empty(room)
            self._start = np.empty(room, np.int32)
            self._end = np.empty(room, np.int32)
        return Cells(
            np.empty(rows, np.int64), np.empty(rows, np.int64),
            self._tags, self._numbers, self._start, self._end,
        )  # fmt: skip


def read_rows(
    data: Bytes, start: Ints, end: Ints, kinds: Bytes, keys: Ints, hints: Ints, shapes: Shapes,
    workspace: Workspace,
) -> Cells:  # fmt: skip
    """Read JSON rows by the known shapes.

    Parameters
    ----------
    data, start, end
        The buffer (below 2 GiB) and the rows' (n,) spans in it.
    kinds
        (n,) `Kind` of each row; a shape answers only for the kind that it was learned from.
    keys
        (n,) the slot of each row's Kafka key, an index into `hints`.
    hints
        (SLOTS, HINTS) shapes to try first, -1 for none; kept up to date here.
    shapes
        The known shapes.
    workspace
        Where the cells lie, until the next call with it.
    """
    rows = len(start)
    # A scalar takes a byte and a separator at least.
    room = min(int((end - start).sum()) // 2 + rows, rows * int(shapes.scalars.max(initial=0)))
    cells = workspace.cells(rows, room)
    _read_rows(
        data, start, end, kinds, keys, hints, *shapes, cells.shape, cells.first,
        cells.tags, cells.numbers, cells.start, cells.end,
        cells.numbers.view(np.uint64), POWERS_OF_FIVE, POWERS_OF_TEN,
    )  # fmt: skip
    return cells


@compiled
def gather(
    first: Ints, scalars: Ints, tags: Bytes, numbers: Floats, out_tags: Bytes, out_numbers: Floats
) -> None:
    """Copy the cells `first[i] + scalars[j]` to (n, k) matrices; booleans become 0 and 1."""
    for i in range(first.shape[0]):
        for j in range(scalars.shape[0]):
            at = first[i] + scalars[j]
            tag = tags[at]
            out_tags[i, j] = tag
            if tag >= FALSE:
                out_numbers[i, j] = 1.0 if tag == TRUE else 0.0
            else:
                out_numbers[i, j] = numbers[at]
