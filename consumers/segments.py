"""Which rows of a growing table lie in which stored field, so that a commit writes little of it."""

from __future__ import annotations

from typing import Final

import numpy as np

from ..core.columns import Ints

_FAN_OUT: Final = 8  # chosen: a row is written again each time its segment grows eightfold
_LARGEST: Final = 1 << 16  # rows; larger segments are not merged further


class SegmentLog:
    """Segments of rows: new rows make a new one, and eight of one size become one.

    A row is written log8(rows / rows a commit) times, and there are at most eight segments of a size.
    The log holds row numbers only; their content is the table's, as it is when a segment is written.
    """

    def __init__(self) -> None:
        self._segments: dict[int, Ints] = {}
        self._next = 0

    def append(self, rows: Ints) -> tuple[list[tuple[int, Ints]], list[int]]:
        """Add (n,) rows as a segment; return the segments to write and the numbers to delete."""
        if not len(rows):
            return [], []
        number, self._next = self._next, self._next + 1
        self._segments[number] = rows
        deleted: list[int] = []
        while True:
            last = list(self._segments)[-_FAN_OUT:]
            sizes = [len(self._segments[n]) for n in last]
            full = len(last) == _FAN_OUT and max(sizes) < _FAN_OUT * min(sizes)
            if not full or sum(sizes) > _LARGEST:
                break
            merged = np.concatenate([self._segments.pop(n) for n in last])
            deleted += last
            number, self._next = self._next, self._next + 1
            self._segments[number] = merged
        return [(number, self._segments[number])], deleted

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
