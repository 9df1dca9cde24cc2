"""What is kept for each version of a model and width of its vectors: rows find theirs, the least used makes room."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
import numpy as np

from ..core.columns import Ints, Strings, groups
from ..core.errors import StateError
from ..core.snapshot import reading
from ..detectors.string_index import StringIndex

MOST: Final = 8
"""Versions kept at once."""
FEWEST: Final = 32
"""Rows with which a version comes in where another must make room: one that a sender makes up has one. Chosen."""
_BEYOND: Final = 2
"""A version comes in if it has more than so many times the rows of the one that makes room: of nine that are in equal
use, none pushes another out. Chosen."""
_CANDIDATES: Final = 64
"""Versions whose rows are counted though nothing is kept for them; chosen."""
_EPOCH: Final = 4096
"""Rows after which all counts are halved, so that they are of late: the epoch of `detectors.budget`."""

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

    Notes
    -----
    As long as there is room a version comes in with its first row. Then the least used one makes room for a version
    that has come in 32 rows of late, and in more than twice as many as that one; its rows before are passed over. So
    one pushes another out only by being used more, however many versions a sender makes up.

    Depends on the rows in their order only. Memory is bounded: 8 versions are kept, and of 64 more the rows are counted,
    of which the least used makes room for the next at once.
    """

    def __init__(self, make: Callable[[str, int], T], forget: Callable[[str, T], None]) -> None:
        self.kept: dict[str, T] = {}
        """By key, `VERSION/WIDTH`, in the order in which they came in."""
        self._make = make
        self._forget = forget
        self._used: dict[str, int] = {}  # rows of late, of what is kept
        self._new: dict[str, int] = {}  # and of candidates
        self._rows = 0  # since the counts were halved

    def route(self, versions: Strings, width: int) -> Iterator[tuple[T, Ints | slice]]:
        """Yield what is kept for the (n,) versions, and its rows; use each before the next is asked for."""
        names, codes = _numbered(versions)
        keys = [f"{name}/{width}" for name in names]
        begin = counted = 0
        while begin < len(codes):
            # What makes room takes the rows before first.
            end = self._count(keys, codes, counted)
            if len(keys) == 1 and end > begin and keys[0] in self.kept:
                yield self.kept[keys[0]], slice(begin, end)
            elif len(keys) > 1:
                for code, rows in groups(codes[begin:end]):
                    if keys[code] in self.kept:
                        yield self.kept[keys[code]], begin + rows
            if end < len(codes):
                self._let_in(names[codes[end]], width)
            begin, counted = end, end + 1

    def _count(self, keys: list[str], codes: Ints, begin: int) -> int:
        """Count rows, up to one with which a version comes in; return that row, or how many rows there are."""
        while begin < len(codes):
            if self._rows == _EPOCH:
                self._halve()
            end = min(len(codes), begin + _EPOCH - self._rows)
            row = self._count_some(keys, codes, begin, end)
            self._rows += min(row + 1, end) - begin
            if row < end:
                return row
            begin = end
        return len(codes)

    def _count_some(self, keys: list[str], codes: Ints, begin: int, end: int) -> int:
        """Do the same with rows up to `end`, within which no count is halved."""
        is_kept = np.array([key in self.kept for key in keys])
        for row in (begin + np.flatnonzero(~is_kept[codes[begin:end]])).tolist():
            key = keys[codes[row]]
            rows = self._see(key)
            if len(self.kept) < MOST:
                self._use(keys, codes[begin:row])
                return row
            if rows >= FEWEST:
                self._use(keys, codes[begin:row])
                begin = row
                if rows > _BEYOND * min(self._used.values()):
                    return row
        self._use(keys, codes[begin:end])
        return end

    def _use(self, keys: list[str], codes: Ints) -> None:
        """Count the rows of what is kept."""
        counts = np.bincount(codes, minlength=len(keys))
        for code, key in enumerate(keys):
            if key in self._used:
                self._used[key] += int(counts[code])

    def _see(self, key: str) -> int:
        """Count a row of a candidate; return how many it has."""
        if key not in self._new and len(self._new) == _CANDIDATES:
            del self._new[_least(self._new)]
        self._new[key] = self._new.get(key, 0) + 1
        return self._new[key]

    def _halve(self) -> None:
        self._used = {key: rows // 2 for key, rows in self._used.items()}
        self._new = {key: rows // 2 for key, rows in self._new.items() if rows > 1}
        self._rows = 0

    def _let_in(self, version: str, width: int) -> None:
        if len(self.kept) == MOST:
            least = _least(self._used)
            del self._used[least]
            self._forget(least, self.kept.pop(least))
        key = f"{version}/{width}"
        self._used[key] = self._new.pop(key)
        self.kept[key] = self._make(version, width)

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes: small."""
        return {"kept": dict(self._used), "new": dict(self._new), "rows": self._rows}

    def restore(self, state: Any, read: Callable[[str], T]) -> list[str]:
        """Go on from `state` with what `read` returns for each key.

        Returns the keys for which it could not be read, and why; their versions start clean.

        Raises
        ------
        StateError
            The state is another one than `state` gives; all start clean.
        """
        with reading("versions"):
            counts = msgspec.convert(state, _Counts)
        self._new, self._rows = counts.new, counts.rows
        lost: list[str] = []
        for key, rows in counts.kept.items():
            try:
                with reading(key):
                    self.kept[key] = read(key)
            except StateError as error:
                lost.append(f"{key}: {error}")
            else:
                self._used[key] = rows
        return lost


class _Counts(msgspec.Struct, forbid_unknown_fields=True):
    kept: Annotated[dict[str, int], msgspec.Meta(max_length=MOST)]
    new: Annotated[dict[str, int], msgspec.Meta(max_length=_CANDIDATES)]
    rows: Annotated[int, msgspec.Meta(ge=0, le=_EPOCH)]


def _least(counts: dict[str, int]) -> str:
    """Return the key with the fewest rows, the first of those that have as few."""
    return min(counts, key=counts.__getitem__)


def parts(key: str) -> tuple[str, int]:
    """Return the version and the width of a key."""
    version, _, width = key.rpartition("/")
    return version, int(width)


def check_known(key: str, renewed: Container[str]) -> None:
    """Refuse the state of a version that begins anew; raises StateError."""
    if parts(key)[0] in renewed:
        raise StateError("drift.reference is another one than before")


def escaped(key: str) -> str:
    """Return a key as part of a field's name, in which a bar stands before the model."""
    return key.replace("%", "%25").replace("|", "%7C")


def names_of(versions: Strings) -> list[str]:
    """Return which versions there are, "" for none."""
    names, codes = _numbered(versions)
    return [names[code] for code in np.unique(codes).tolist()]


def _numbered(versions: Strings) -> tuple[list[str], Ints]:
    """Return the versions, "" where there is none, and (n,) which of them each row has."""
    one = np.zeros(len(versions), np.int64)
    if not versions.present.any():
        return [""], one
    if _is_one(versions):
        return [versions[0] or ""], one
    index = StringIndex()
    codes = index.add(versions)
    names = [*(index[code] for code in range(len(index))), ""]
    codes[codes < 0] = len(names) - 1
    return names, codes


def _is_one(texts: Strings) -> bool:
    """Whether all rows hold the same text."""
    length = texts.end - texts.start
    if not texts.present.all() or (length != length[0]).any():
        return False
    first = texts.data[texts.start[0] : texts.end[0]]
    cells = texts.start[:, None] + np.arange(length[0])[None, :]
    return bool((texts.data[cells] == first[None, :]).all())
