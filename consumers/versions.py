"""What is kept for each version of a model and width of its vectors: rows find theirs, the oldest makes room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

import numpy as np

from ..core.columns import Ints, Strings, groups
from ..detectors.string_index import StringIndex

MOST: Final = 8
"""Versions kept at once; the oldest makes room."""

T = TypeVar("T")


class Versions(Generic[T]):
    """Routes rows to what is kept for their version.

    A new version of a model has other vectors, so it gets something of its own; two versions that serve side by
    side do not disturb one another.

    Parameters
    ----------
    make
        Makes what is kept, for a version ("" where events have none) and a width.
    forget
        Is told the key of what makes room, and what it was.
    """

    def __init__(self, make: Callable[[str, int], T], forget: Callable[[str, T], None]) -> None:
        self.kept: dict[str, T] = {}
        """By key, `VERSION/WIDTH`, the oldest first."""
        self._make = make
        self._forget = forget

    def route(self, versions: Strings, width: int) -> Iterator[tuple[T, Ints | slice]]:
        """Yield what is kept for the (n,) versions, and its rows; use each before the next is asked for."""
        names, codes = _numbered(versions)
        keys = [f"{name}/{width}" for name in names]
        if codes is None:
            yield self._of(names[0], width), slice(0, len(versions))
            return
        begin = 0
        while begin < len(codes):
            self._of(names[codes[begin]], width)
            # A version that has nothing yet may make another one go: not before its turn.
            is_known = np.array([key in self.kept for key in keys])
            unknown = np.flatnonzero(~is_known[codes[begin:]])
            end = begin + int(unknown[0]) if len(unknown) else len(codes)
            for code, rows in groups(codes[begin:end]):
                yield self.kept[keys[code]], begin + rows
            begin = end

    def _of(self, version: str, width: int) -> T:
        key = f"{version}/{width}"
        if key not in self.kept:
            if len(self.kept) == MOST:
                oldest = next(iter(self.kept))
                self._forget(oldest, self.kept.pop(oldest))
            self.kept[key] = self._make(version, width)
        return self.kept[key]


def parts(key: str) -> tuple[str, int]:
    """Return the version and the width of a key."""
    version, _, width = key.rpartition("/")
    return version, int(width)


def escaped(key: str) -> str:
    """Return a key as part of a field's name, in which a bar stands before the model."""
    return key.replace("%", "%25").replace("|", "%7C")


def _numbered(versions: Strings) -> tuple[list[str], Ints | None]:
    """Return the versions, "" where there is none, and (n,) which of them each row has; None if all have one."""
    if not versions.present.any():
        return [""], None
    if _is_one(versions):
        return [versions[0] or ""], None
    index = StringIndex()
    codes = index.add(versions)
    names = [*(index[code] for code in range(len(index))), ""]
    codes[codes < 0] = names.index("")
    return names, codes


def _is_one(texts: Strings) -> bool:
    """Whether all rows hold the same text."""
    length = texts.end - texts.start
    if not texts.present.all() or (length != length[0]).any():
        return False
    first = texts.data[texts.start[0] : texts.end[0]]
    cells = texts.start[:, None] + np.arange(length[0])[None, :]
    return bool((texts.data[cells] == first[None, :]).all())
