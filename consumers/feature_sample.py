"""Features of predictions that wait for their labels: a sample of rows, bounded, the same however the log is cut."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints, Singles
from ..core.errors import StateError
from ..core.snapshot import check, pack, unpack
from ..detectors import tie_break
from ..detectors.compiled import compiled
from .segments import SegmentLog

COLUMNS: Final = 64
"""Features that are kept: the first ones that had a value."""
_LEFT: Final = (
    0.75  # of the rows, at most, when all that is too old has gone; else every other row goes
)
_NONE: Final = np.empty(0, np.int64)
_SPARE: Final = 4
"""Room that is so many times what was needed lately is given back."""
_ROOM: Final = 1024  # rows that have left and may lie in stored segments, beside as many as wait


class Part(NamedTuple):
    """New rows, (n,) each but the values: their numbers, ascending, where in the log they are, and their times.

    Of the (n, c) `values` the columns `source` become the features `target`.
    """

    pending: Ints
    positions: Ints
    times: Ints
    values: Floats
    source: Ints
    target: Ints


@compiled
def _put(kept: Singles, begin: int, values: Floats, source: Ints, target: Ints) -> None:
    for i in range(len(values)):
        kept[begin + i, :] = np.nan
        for c in range(len(source)):
            kept[begin + i, target[c]] = values[i, source[c]]


@compiled
def _get(kept: Singles, slots: Ints, found: Singles) -> None:
    for i in range(len(slots)):
        for c in range(kept.shape[1]):
            found[c, i] = kept[slots[i], c]


@compiled
def _step(
    pending: Ints,
    time: Ints,
    waits: NDArray[np.bool_],
    figures: Ints,
    key: np.uint64,
    begin: int,
    positions: Ints,
    taken: Ints,
    taken_at: Ints,
    slots: Ints,
) -> None:
    """Let rows from `begin` on come and others go, in the order of the log; see `FeatureSample`."""
    rows, reach, window = figures[3], figures[4], figures[5]
    i, j = 0, 0
    while i < len(positions) or j < len(taken):
        end = begin + i
        if i < len(positions) and (j == len(taken) or positions[i] <= taken_at[j]):
            i += 1
            figures[2] = max(figures[2], time[end])
            if tie_break.uniform(key, pending[end], 0) >= 0.5 ** figures[1]:
                continue
            waits[end] = True
            figures[0] += 1
            if figures[0] > rows:
                for slot in range(end + 1):
                    if waits[slot] and (
                        pending[slot] <= pending[end] - reach or figures[2] - time[slot] > window
                    ):
                        waits[slot] = False
                        figures[0] -= 1
                while figures[0] > _LEFT * rows:
                    figures[1] += 1
                    for slot in range(end + 1):
                        if (
                            waits[slot]
                            and tie_break.uniform(key, pending[slot], 0) >= 0.5 ** figures[1]
                        ):
                            waits[slot] = False
                            figures[0] -= 1
            continue
        of = taken[j]
        slots[j] = -1
        if end:
            slot = end - 1 - (pending[end - 1] - of)  # where it is if none between has been let go
            if slot < 0 or slot >= end or pending[slot] != of:
                slot = np.searchsorted(pending[:end], of)
            if slot < end and pending[slot] == of and waits[slot]:
                waits[slot] = False
                figures[0] -= 1
                slots[j] = slot
                if figures[1] and figures[0] < rows // 4:
                    figures[1] -= 1
        j += 1


class FeatureSample:
    """Rows of features, each kept until its label comes.

    Parameters
    ----------
    rows
        How many may wait. Beyond, those that are too old go; if hardly any is, every other row, and half of those to come.
    max_pending, window
        Predictions, and nanoseconds, after which no label can join.
    name
        Whose they are; which rows are kept depends on it.

    Notes
    -----
    Which rows are kept is a function of their numbers in the log, not of their features. Bounded: twice `rows` and an
    update's rows of 64 single-precision numbers; room that is not needed any more is given back with the next commit. What is stored is new rows, and a bit for each that is stored.
    """

    def __init__(self, rows: int, max_pending: int, window: int, name: str = "") -> None:
        self._rows = rows
        self._figures = np.array([0, 0, 0, rows, max_pending, window], np.int64)
        self._key = np.uint64(tie_break.key(f"features of {name}"))
        self._pending, self._time = np.empty(64, np.int64), np.empty(64, np.int64)
        self._waits = np.zeros(64, np.bool_)
        self._values: Singles = np.empty((64, 0), np.float32)
        self._end = 0
        self._needed = 0  # rows at once since the last commit
        self._log = SegmentLog()
        self._lies: dict[int, Ints] = {}  # rows by the stored segment that holds them
        self._written = -1  # the last row that was stored, or had gone before it could be
        self.changes = 0
        """Goes up whenever the state does; a store need not write it again in between."""
        self._changes_stored = 0

    @property
    def waiting(self) -> int:
        """How many rows wait."""
        return int(self._figures[0])

    @property
    def share(self) -> float:
        """Which share of the rows that come now is kept."""
        return float(0.5 ** self._figures[1])

    def update(
        self, parts: Sequence[Part], taken: Ints, taken_at: Ints
    ) -> tuple[Singles, NDArray[np.bool_]]:
        """Take new rows in and let others go; return the (k, m) features of those, as far as they were kept, and which.

        Parameters
        ----------
        parts
            New rows, one part after another.
        taken, taken_at
            (m,) numbers of the rows whose label has come, and where in the log that is, ascending.
        """
        count = sum(len(part.pending) for part in parts)
        if not count and not len(taken):
            return self._values[:0].T, np.empty(0, np.bool_)
        self.changes += 1
        width = max((int(p.target.max(initial=-1)) + 1 for p in parts), default=0)
        self._reserve(count, width)
        begin = self._end
        for part in parts:
            end = self._end + len(part.pending)
            self._pending[self._end : end], self._time[self._end : end] = part.pending, part.times
            _put(self._values, self._end, part.values, part.source, part.target)
            self._end = end
        self._waits[begin : self._end] = False
        positions = [part.positions for part in parts] or [_NONE]
        slots = np.empty(len(taken), np.int64)
        _step(
            self._pending, self._time, self._waits, self._figures, self._key, begin,
            positions[0] if len(positions) == 1 else np.concatenate(positions), taken, taken_at, slots,
        )  # fmt: skip
        kept = slots >= 0
        if not kept.all():
            slots = slots[kept]
        found = np.empty((self._values.shape[1], len(slots)), np.float32)
        _get(self._values, slots, found)
        return found, kept

    def _reserve(self, count: int, width: int) -> None:
        """Make room for rows and columns; what has gone makes room first."""
        if width > self._values.shape[1]:
            self._values = _widened(self._values, width)
        self._needed = max(self._needed, self.waiting + count)
        if self._end + count > len(self._pending):
            self._compact(count)

    def _compact(self, count: int = 0) -> None:
        """Leave out what has gone, with room for so many more rows and for what was needed lately; give back what is far more."""
        kept = np.flatnonzero(self._waits[: self._end])
        room = max(_ROOM, 2 * max(len(kept) + count, self._needed))
        if room <= len(self._pending) <= _SPARE * room:
            room = len(self._pending)
        for name in _ARRAYS:
            array: NDArray[Any] = getattr(self, name)
            rows = array[kept]
            if room != len(array):
                array = np.empty((room, *array.shape[1:]), array.dtype)
                setattr(self, name, array)
            array[: len(kept)] = rows
        self._end = len(kept)

    def kept(self) -> tuple[Ints, Ints, Singles]:
        """Return the numbers, the times and the features of all rows that wait."""
        of = np.flatnonzero(self._waits[: self._end])
        return self._pending[of], self._time[of], self._values[of]

    def dirty(self) -> dict[str, bytes | None]:
        """Return the fields to store since the last call, None for those to delete."""
        if self._changes_stored == self.changes:
            return {}
        self._changes_stored = self.changes
        fields: dict[str, bytes | None] = {}
        pending, time, values = self.kept()
        new = pending[pending > self._written]
        if self._end:
            self._written = max(self._written, int(self._pending[self._end - 1]))
        if len(self._pending) > _SPARE * max(_ROOM, 2 * self._needed):
            self._compact()
        self._needed = 0
        if sum(map(len, self._lies.values())) > 2 * len(pending) + _ROOM:
            fields |= {f"{_WAITING}:{number}": None for number in self._lies}
            self._log, self._lies, new = SegmentLog(), {}, pending
        written, deleted = self._log.append(new)
        for number in deleted:
            self._lies.pop(number, None)
            fields[f"{_WAITING}:{number}"] = None
        for number, rows in written:
            at = np.flatnonzero(np.isin(pending, rows))
            arrays: dict[str, NDArray[Any]] = {
                "pending": pending[at], "time": time[at], "values": values[at],
            }  # fmt: skip
            fields[f"{_WAITING}:{number}"] = pack(_WAITING, 1, {}, arrays)
            self._lies[number] = pending[at]
        stored = np.sort(np.concatenate([*self._lies.values(), pending[:0]]))
        meta = {
            "figures": self._figures[:3].tolist(), "written": self._written, "segments": list(self._lies),
        }  # fmt: skip
        waits = np.packbits(np.isin(stored, pending, assume_unique=True))
        fields[_SAMPLE] = pack(_SAMPLE, 1, meta, {"waits": waits})
        return fields

    def restore(self, fields: dict[str, bytes]) -> None:
        """Go on from stored fields, of an object that is new.

        Raises
        ------
        StateError
            A field is damaged or missing; this object is to be thrown away then.
        """
        meta, arrays = unpack(_SAMPLE, 1, fields[_SAMPLE])
        segments: dict[int, tuple[Ints, Ints, Singles]] = {}
        for number in meta["segments"]:
            of = unpack(_WAITING, 1, fields[f"{_WAITING}:{number}"])[1]
            n, width = of["values"].shape
            check(of["pending"], "pending", (n,), np.dtype(np.int64))
            check(of["time"], "time", (n,), np.dtype(np.int64))
            check(of["values"], "values", (n, min(width, COLUMNS)), np.dtype(np.float32))
            segments[int(number)] = of["pending"], of["time"], of["values"]
        width = max((values.shape[1] for *_, values in segments.values()), default=0)
        pending = np.concatenate([*(s[0] for s in segments.values()), np.empty(0, np.int64)])
        order = np.argsort(pending)
        check(arrays["waits"], "waits", ((len(order) + 7) // 8,), np.dtype(np.uint8))
        waits = np.unpackbits(arrays["waits"], count=len(order)).astype(np.bool_)
        figures = np.array(meta["figures"], np.int64)
        if figures.shape != (3,) or figures[0] != waits.sum() or not 0 <= figures[1] < 1000:
            raise StateError(f"{waits.sum()} rows wait, but the figures are {meta['figures']}")
        kept = order[waits]
        self._figures[:3] = figures
        self._reserve(len(kept), width)
        self._end = len(kept)
        time = np.concatenate([*(s[1] for s in segments.values()), np.empty(0, np.int64)])
        values = [_widened(s[2], width) for s in segments.values()]
        self._pending[: self._end], self._time[: self._end] = pending[kept], time[kept]
        if values:
            self._values[: self._end] = np.concatenate(values)[kept]
        self._waits[: self._end] = True
        self._lies = {number: of[0] for number, of in segments.items()}
        self._log.load(dict(self._lies))
        self._written = int(meta["written"])


_SAMPLE: Final = "leakage_sample"
_WAITING: Final = "leakage_waiting"
_ARRAYS: Final = ("_pending", "_time", "_waits", "_values")


def _widened(values: Singles, width: int) -> Singles:
    if values.shape[1] >= width:
        return values
    wider = np.full((len(values), width), np.nan, np.float32)
    wider[:, : values.shape[1]] = values
    return wider
