"""Columns of text and of mixed scalars over numpy arrays, so that no row becomes a Python object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from .events import ClassOrNumber

Bytes: TypeAlias = NDArray[np.uint8]
Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Singles: TypeAlias = NDArray[np.float32]

T = TypeVar("T", bound=tuple[Any, ...])

_LARGEST: Final = float(np.finfo(np.float32).max)


NULL: Final = 0
TEXT: Final = 1
INTEGER: Final = 2
FLOAT: Final = 3
FALSE: Final = 4
TRUE: Final = 5
TAGS: Final = (NULL, TEXT, INTEGER, FLOAT, FALSE, TRUE)
"""What a mixed column holds in a row; plain integers, because compiled functions take no enum."""


class Strings:
    """A column of UTF-8 text: spans into one buffer.

    Parameters
    ----------
    data
        (bytes,) uint8; usually the received buffer itself, never changed.
    start, end
        (n,) int64 spans; `start` is -1 where the row has no text.
    """

    __slots__ = ("data", "end", "start")

    def __init__(self, data: Bytes, start: Ints, end: Ints) -> None:
        self.data = data
        self.start = start
        self.end = end

    @classmethod
    def of(cls, texts: Iterable[str | None]) -> Strings:
        """Build a column from Python text."""
        encoded = [None if text is None else text.encode() for text in texts]
        lengths = np.fromiter((len(text or b"") for text in encoded), np.int64, len(encoded))
        end = np.cumsum(lengths)
        start = end - lengths
        missing = np.fromiter((text is None for text in encoded), np.bool_, len(encoded))
        start[missing] = end[missing] = -1
        data = np.frombuffer(b"".join(text for text in encoded if text), np.uint8)
        return cls(data, start, end)

    @classmethod
    def missing(cls, rows: int) -> Strings:
        """A column of `rows` rows without text."""
        nowhere = np.full(rows, -1, np.int64)
        return cls(np.zeros(0, np.uint8), nowhere, nowhere)

    @classmethod
    def concat(cls, columns: Sequence[Strings]) -> Strings:
        """Stack columns; those over one buffer share it."""
        if len(columns) == 1:
            return columns[0]
        data = columns[0].data
        if not all(column.data is data for column in columns):
            columns = [column.compact() for column in columns]
            data = np.concatenate([column.data for column in columns])
            at = np.cumsum([0] + [len(column.data) for column in columns[:-1]])
            columns = [column._moved(data, int(by)) for column, by in zip(columns, at, strict=True)]
        return cls(
            data,
            np.concatenate([column.start for column in columns]),
            np.concatenate([column.end for column in columns]),
        )

    def _moved(self, data: Bytes, by: int) -> Strings:
        """Return the same spans further on in another buffer."""
        present = self.present
        start, end = np.where(present, self.start + by, -1), np.where(present, self.end + by, -1)
        return Strings(data, start, end)

    def compact(self) -> Strings:
        """Return the column over a buffer that holds its text and nothing else."""
        length = np.where(self.present, self.end - self.start, 0)
        end = np.cumsum(length)
        total = int(end[-1]) if len(end) else 0
        if total == len(self.data):
            return self
        at = np.repeat(self.start - (end - length), length) + np.arange(total)
        start = np.where(self.present, end - length, -1)
        return Strings(self.data[at], start, np.where(self.present, end, -1))

    def __len__(self) -> int:
        return len(self.start)

    def take(self, rows: Ints | slice | NDArray[np.bool_]) -> Strings:
        """Return the column of `rows` only, over the same buffer."""
        return Strings(self.data, self.start[rows], self.end[rows])

    @property
    def present(self) -> NDArray[np.bool_]:
        """(n,) where there is text."""
        return np.asarray(self.start >= 0)

    def __getitem__(self, row: int) -> str | None:
        if self.start[row] < 0:
            return None
        return self.data[self.start[row] : self.end[row]].tobytes().decode()

    def to_list(self) -> list[str | None]:
        """Return Python text, for few rows or for tests."""
        return [self[row] for row in range(len(self))]


class Values:
    """A column of classes or numbers, as `prediction` and `label` are.

    Parameters
    ----------
    tags
        (n,) uint8 of `TAGS`.
    numbers
        (n,) float64; meaningful where the tag is INTEGER or FLOAT.
    strings
        (n,) text; present where the tag is TEXT.
    """

    __slots__ = ("numbers", "strings", "tags")

    def __init__(self, tags: Bytes, numbers: Floats, strings: Strings) -> None:
        self.tags = tags
        self.numbers = numbers
        self.strings = strings

    @classmethod
    def of(cls, values: Sequence[ClassOrNumber | None]) -> Values:
        """Build a column from Python values."""
        numbers = [
            float(v) if isinstance(v, (int, float)) and not isinstance(v, bool) else np.nan
            for v in values
        ]
        return cls(
            np.array([_tag(value) for value in values], np.uint8),
            np.array(numbers, np.float64),
            Strings.of(v if isinstance(v, str) else None for v in values),
        )

    @classmethod
    def missing(cls, rows: int) -> Values:
        """A column of `rows` rows without a value."""
        return cls(np.zeros(rows, np.uint8), np.full(rows, np.nan), Strings.missing(rows))

    @classmethod
    def concat(cls, columns: Sequence[Values]) -> Values:
        """Stack columns."""
        if len(columns) == 1:
            return columns[0]
        return cls(
            np.concatenate([column.tags for column in columns]),
            np.concatenate([column.numbers for column in columns]),
            Strings.concat([column.strings for column in columns]),
        )

    def __len__(self) -> int:
        return len(self.tags)

    def take(self, rows: Ints | slice | NDArray[np.bool_]) -> Values:
        """Return the column of `rows` only."""
        return Values(self.tags[rows], self.numbers[rows], self.strings.take(rows))

    @property
    def present(self) -> NDArray[np.bool_]:
        """(n,) where there is a value."""
        return np.asarray(self.tags != NULL)

    def to_list(self) -> list[ClassOrNumber | None]:
        """Return Python values, for few rows or for tests."""
        found: list[ClassOrNumber | None] = []
        for row, tag in enumerate(self.tags):
            if tag == NULL:
                found.append(None)
            elif tag == TEXT:
                found.append(self.strings[row])
            elif tag in (FALSE, TRUE):
                found.append(bool(tag == TRUE))
            else:
                number = float(self.numbers[row])
                found.append(int(number) if tag == INTEGER else number)
        return found


_TAG_OF_TYPE = {type(None): 0, str: 1, int: 2, float: 3}


def _tag(value: ClassOrNumber | None) -> int:
    if isinstance(value, bool):
        return TRUE if value else FALSE
    return _TAG_OF_TYPE[type(value)]


def take(table: T, rows: Ints | slice | NDArray[np.bool_]) -> T:
    """Return the rows of a named tuple of columns: numpy arrays, `Strings`, `Values`."""
    return type(table)(*(_take(column, rows) for column in table))


def stack(tables: Sequence[T]) -> T:
    """Stack named tuples of columns; of one it is that one."""
    if len(tables) == 1:
        return tables[0]
    return type(tables[0])(*(_stack(columns) for columns in zip(*tables, strict=True)))


def _take(column: Any, rows: Any) -> Any:
    return column[rows] if isinstance(column, np.ndarray) else column.take(rows)


def _stack(columns: Sequence[Any]) -> Any:
    first = columns[0]
    return np.concatenate(columns) if isinstance(first, np.ndarray) else type(first).concat(columns)


def groups(codes: NDArray[np.integer[Any]]) -> Iterator[tuple[int, Ints]]:
    """Yield each of the (n,) codes that occurs and the rows that have it; what is below 0 has no group."""
    if not len(codes):
        return
    if not np.count_nonzero(codes != codes[0]):  # takes half as long as `any`
        if codes[0] >= 0:
            yield int(codes[0]), np.arange(len(codes))
        return
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    for begin, end in pairwise([0, *cuts.tolist(), len(codes)]):
        if ordered[begin] >= 0:
            yield int(ordered[begin]), order[begin:end]


def singles(values: Floats) -> Singles:
    """Return numbers in single precision; those beyond it are infinite.

    Examples
    --------
    >>> singles(np.array([0.5, -1e300])).tolist()
    [0.5, -inf]
    """
    is_large = np.abs(values) > _LARGEST
    return np.where(is_large, np.copysign(np.inf, values), values).astype(np.float32)


def middle(values: Floats) -> float:
    """Return the median of (n,) numbers, of the two in the middle the lower: one of them, so that no sum is too large.

    Examples
    --------
    >>> middle(np.array([np.inf, 3.0, 1e308, -np.inf]))
    3.0
    """
    at = (len(values) - 1) // 2
    return float(np.partition(values, at)[at])
