"""The streams a bank of detectors watches: a name for each row of its state arrays, growing as needed."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Ints
from ..core.errors import StateError
from ..core.snapshot import check

_ASKED: Final = 4
"""Lists of names whose numbers are remembered: whoever has a table asks for a few in turn."""

T = TypeVar("T", bound=tuple[Any, ...])


class StreamTable:
    """Arrays with one row a stream; streams are numbered in order of first appearance.

    Parameters
    ----------
    columns
        Array name to the value that a new stream begins with, one number or one row of them.
    """

    def __init__(self, columns: dict[str, Any]) -> None:
        self._new = {name: np.asarray(value) for name, value in columns.items()}
        self._index: dict[str, int] = {}
        self._asked: dict[tuple[str, ...], Ints] = {}  # what was asked for lately, and the answers
        self._tuples: dict[type, Any] = {}
        self.arrays: dict[str, NDArray[Any]] = {
            name: np.empty((0, *value.shape), value.dtype) for name, value in self._new.items()
        }

    def __len__(self) -> int:
        return len(self._index)

    @property
    def names(self) -> list[str]:
        """The streams, by number."""
        return list(self._index)

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self.arrays[column]

    def number(self, name: str) -> int | None:
        """Return a stream's number, None if it was never seen."""
        return self._index.get(name)

    def numbers(self, names: tuple[str, ...]) -> Ints:
        """Return (k,) numbers, making rows for new streams; not to be changed, and as a rule the same array as last time."""
        numbers = self._asked.get(names)
        if numbers is None:
            found = [self._index.get(name, -1) for name in names]
            if -1 in found:
                self._add([name for name, number in zip(names, found, strict=True) if number < 0])
                found = [self._index[name] for name in names]
            if len(self._asked) == _ASKED:
                self._asked.clear()
            numbers = self._asked[names] = np.array(found, np.int64)
        return numbers

    def _add(self, names: list[str]) -> None:
        for name in names:
            self._index.setdefault(name, len(self._index))
        count = len(self._index)
        self._tuples = {}
        for name, array in self.arrays.items():
            if len(array) < count:
                room = max(count, 2 * len(array))
                grown = np.empty((room, *array.shape[1:]), array.dtype)
                grown[: len(array)] = array
                grown[len(array) :] = self._new[name]
                self.arrays[name] = grown

    def as_tuple(self, kind: type[T]) -> T:
        """Return the columns that a named tuple names; the same one as long as no stream is added."""
        found = self._tuples.get(kind)
        if found is None:
            fields: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
            found = self._tuples[kind] = kind(*(self.arrays[name] for name in fields))
        return found

    def state(self) -> tuple[list[str], dict[str, NDArray[Any]]]:
        """Return names and arrays, for a snapshot."""
        count = len(self._index)
        return self.names, {name: array[:count] for name, array in self.arrays.items()}

    def load(self, names: list[Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Replace everything by what `state` gave.

        Raises
        ------
        StateError
            Names are not texts or come twice, or an array is missing or of another shape or type.
        """
        if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise StateError("the names of streams: expected texts, each once")
        for name, new in self._new.items():
            if name not in arrays:
                raise StateError(
                    f"an array of streams is missing: expected {name}, found {', '.join(arrays)}"
                )
            check(arrays[name], f"{name} of streams", (len(names), *new.shape), new.dtype)
        self._index = {name: number for number, name in enumerate(names)}
        self._asked.clear()
        self._tuples = {}
        self.arrays = {name: arrays[name] for name in self._new}
