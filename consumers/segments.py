"""Which rows of a growing table lie in which stored field, so that a commit writes little of it."""

from __future__ import annotations

from typing import Final

import numpy as np

from ..core.columns import Ints

_FAN_OUT: Final = 8  # chosen: a row is written again each time its segment grows eightfold
_LARGEST: Final = 1 << 16  # rows; larger segments are not merged further


class SegmentLog:
    """Segments of rows: new rows make a new one, which takes in smaller ones before it, and eight alike become one.

    Segments are alike in size when log8 of it has one integer part. A row is written again only when that
    grows, so at most log8(rows) times, and there are at most seven segments alike, but for the largest.
    The log holds row numbers only; their content is the table's, as it is when a segment is written.
    """

    def __init__(self) -> None:
        self._segments: dict[int, Ints] = {}
        self._next = 0

    @property
    def numbers(self) -> list[int]:
        """The segments that are stored."""
        return list(self._segments)

    def append(self, rows: Ints) -> tuple[list[tuple[int, Ints]], list[int]]:
        """Add (n,) rows as a segment; return the segments to write and the numbers to delete."""
        if not len(rows):
            return [], []
        number, self._next = self._next, self._next + 1
        self._segments[number] = rows
        deleted: list[int] = []
        while len(last := self._to_merge()) > 1:
            merged = np.concatenate([self._segments.pop(n) for n in last])
            if not (np.diff(merged) > 0).all():
                merged = np.unique(merged)
            deleted += last
            number, self._next = self._next, self._next + 1
            self._segments[number] = merged
        return [(number, self._segments[number])], deleted

    def _to_merge(self) -> list[int]:
        """Return the numbers of the last segments that should be one."""
        numbers = list(self._segments)
        levels = [_level(rows) for rows in self._segments.values()]
        begin = len(numbers) - 1
        while begin > 0 and levels[begin - 1] < levels[-1]:
            begin -= 1
        if begin < len(numbers) - 1:
            return numbers[begin:]
        alike = numbers[-_FAN_OUT:] if levels[-_FAN_OUT:] == [levels[-1]] * _FAN_OUT else []
        return alike if sum(len(self._segments[n]) for n in alike) <= _LARGEST else []

    def forget(self, before: int) -> list[int]:
        """Forget segments whose rows all lie below `before`; return their numbers."""
        gone = [n for n, rows in self._segments.items() if rows.max() < before]
        for number in gone:
            del self._segments[number]
        return gone

    def load(self, segments: dict[int, Ints]) -> None:
        """Replace everything by stored segments."""
        self._segments = dict(sorted(segments.items()))
        self._next = max(segments, default=-1) + 1


def _level(rows: Ints) -> int:
    return (len(rows).bit_length() - 1) // 3
