"""Rows of whole numbers by the time of predictions and by group: bounded, stored row by row, never mixed up by a late event."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Ints
from ..core.errors import StateError
from ..core.snapshot import pack, unpack
from ..detectors.compiled import compiled

MOST_GROUPS: Final = 64
"""Groups that have rows, that of all predictions among them: the first ones."""
_NONE: Final = np.empty(0, np.int64)


class Cohort(NamedTuple):
    """Where a row belongs: the number of its span since 1970, and its group."""

    span: int
    group: int


@compiled
def _place(times: Ints, spans: Ints, length: int) -> tuple[Ints, int]:
    """Return (n,) where the spans of times are among those of `spans`, -1 for nowhere, and how many are nowhere."""
    found, missing = np.empty(len(times), np.int64), 0
    begin, place = np.int64(0), -1
    for i in range(len(times)):
        if i == 0 or not 0 <= times[i] - begin < length:  # most are of one span
            span = times[i] // length
            begin, place = span * length, np.searchsorted(spans, span)
            if place == len(spans) or spans[place] != span:
                place = -1
        found[i] = place
        missing += place < 0
    return found, missing


@compiled
def _find(
    table: Ints, touched: NDArray[np.bool_], known: Ints, places: Ints, groups: Ints
) -> tuple[Ints, bool]:
    """Return the (n, k) rows of places and groups, -1 for none, which are `touched`, and whether one could be made."""
    found, is_missing = np.full(groups.shape, -1), False
    for j in range(groups.shape[1]):
        group, column = -1, -1
        for i in range(groups.shape[0]):
            if groups[i, j] < 0:
                continue
            if groups[i, j] != group:
                group, column = groups[i, j], len(known) - 1
                while column >= 0 and known[column] != group:
                    column -= 1
            if column < 0:  # also of what belongs to no cohort now: it may have when it came
                is_missing |= len(known) < MOST_GROUPS
            elif places[i] >= 0:
                found[i, j] = row = table[places[i], column]
                if row < 0:
                    is_missing = True
                else:
                    touched[row] = True
    return found, is_missing


class CohortTable:
    """Counts of the latest spans of time.

    Parameters
    ----------
    width
        Whole numbers in a row.
    span_seconds
        Length of a cohort; cohorts begin at its multiples since 1970.
    most
        Cohorts kept. A new one beyond takes the place of the earliest; what is earlier than all is not counted.

    Attributes
    ----------
    counts
        (rows, width) int64, changed in place by whoever counts, in what `rows` has returned.
    beyond
        Predictions that belong to no cohort since theirs was given up, or was never one of the latest.

    Notes
    -----
    Only predictions make cohorts and groups. So which there are depends on the predictions in their order alone, however the labels
    came in between. One event of the far future takes one cohort's place, not that of all.
    """

    def __init__(self, width: int, span_seconds: float, most: int) -> None:
        if span_seconds <= 0 or most < 1:
            raise ValueError("span_seconds must be above 0 and most 1 or more")
        self.span = int(span_seconds * 1e9)
        self.most = most
        self.counts = np.zeros((0, width), np.int64)
        self.beyond = 0
        self._given_up = -1  # the latest span that made room for another
        self._spans = _NONE  # sorted
        self._groups: dict[int, int] = {}  # to columns of `_rows`
        self._rows = np.empty((0, MOST_GROUPS), np.int64)  # of each span and group, -1 for none
        self._free: list[int] = []
        self._of: dict[int, Cohort] = {}  # of each row
        self._stored: set[Cohort] = set()
        self._touched = np.zeros(0, np.bool_)  # (rows,)
        self._gone: set[Cohort] = set()

    @property
    def groups(self) -> list[int]:
        """The groups that have rows, in the order in which they came."""
        return list(self._groups)

    @property
    def spans(self) -> Ints:
        """The spans that are kept, in the order of time."""
        return self._spans

    def of_group(self, group: int) -> tuple[Ints, Ints]:
        """Return the spans in which a group has a row, in the order of time, and these rows."""
        column = self._groups.get(group)
        if column is None:
            return _NONE, _NONE
        rows = self._rows[:, column]
        return self._spans[rows >= 0], rows[rows >= 0]

    def __len__(self) -> int:
        """How many rows are kept."""
        return len(self._of)

    def open(self, times: Ints) -> Ints:
        """Make cohorts for predictions at (n,) times, ns since 1970; return (n,) places of these for `rows`, -1 beyond."""
        found, missing = _place(times, self._spans, self.span)
        if missing:
            spans = times // self.span
            new, first = np.unique(np.where(found < 0, spans, -1), return_index=True)
            counted = 0  # before their cohort was given up
            for at in np.sort(first[new >= 0]).tolist():
                gone = self._admit(int(spans[at]))
                counted += 0 if gone is None else int((spans[:at] == gone).sum())
            found, missing = _place(times, self._spans, self.span)
            self.beyond += missing - counted
        return found

    def place(self, times: Ints) -> Ints:
        """Return (n,) places of the cohorts of (n,) times, -1 where there is none."""
        return _place(times, self._spans, self.span)[0]

    def _admit(self, span: int) -> int | None:
        """Make a cohort; return the one that was given up for it."""
        gone = None
        if (
            span <= self._given_up
        ):  # its predictions are not counted any more, so nothing may be taken from them
            return None
        if len(self._spans) >= self.most:
            if span < self._spans[0]:
                return None
            gone = self._given_up = int(self._spans[0])
            for row in self._rows[0][self._rows[0] >= 0].tolist():
                self._drop(row)
            self._spans, self._rows = self._spans[1:], self._rows[1:]
        at = int(np.searchsorted(self._spans, span))
        self._spans = np.insert(self._spans, at, span)
        self._rows = np.insert(self._rows, at, -1, axis=0)
        return gone

    def _drop(self, row: int) -> None:
        cohort = self._of.pop(row)
        self.counts[row] = 0
        self._free.append(row)
        self._touched[row] = False
        self._gone.add(cohort)

    def drop_groups(self, is_wanted: Callable[[int], bool]) -> None:
        """Give up the rows of all groups but some, and the room that they have."""
        kept = [group for group in self._groups if is_wanted(group)]
        if len(kept) == len(self._groups):
            return
        for row, cohort in list(self._of.items()):
            if not is_wanted(cohort.group):
                self._drop(row)
        rows = np.full_like(self._rows, -1)
        rows[:, : len(kept)] = self._rows[:, [self._groups[group] for group in kept]]
        self._groups, self._rows = {group: k for k, group in enumerate(kept)}, rows

    def rows(self, places: Ints, groups: Ints, *, make: bool) -> Ints:
        """Return the (n, k) rows of (n,) cohorts and (n, k) groups, -1 where there is none; `make` those that are missing.

        They are to be changed now, and are noted as such.
        """
        found, is_missing = self._found(places, groups)
        if not (make and is_missing):
            return found
        missing = (found < 0) & (groups >= 0)
        at = np.broadcast_to(places[:, None], groups.shape)[missing].tolist()
        cohorts = dict.fromkeys(zip(at, groups[missing].tolist(), strict=True))
        for place, group in cohorts:
            if len(self._groups) < MOST_GROUPS:
                self._groups.setdefault(group, len(self._groups))
            if place >= 0 and group in self._groups:
                row = self._new(Cohort(int(self._spans[place]), group))
                self._rows[place, self._groups[group]] = row
        return self._found(places, groups)[0]

    def _found(self, places: Ints, groups: Ints) -> tuple[Ints, bool]:
        known = np.array(list(self._groups), np.int64)
        return _find(self._rows, self._touched, known, places, groups)

    def _new(self, cohort: Cohort) -> int:
        if not self._free:
            size = len(self.counts)
            grown = np.zeros((max(4, 2 * size), self.counts.shape[1]), np.int64)
            grown[:size] = self.counts
            self.counts = grown
            self._touched = np.append(self._touched, np.zeros(len(grown) - size, np.bool_))
            self._free = list(range(len(grown) - 1, size - 1, -1))
        row = self._free.pop()
        self._of[row] = cohort
        self._gone.discard(cohort)
        return row

    def widen(self, width: int) -> None:
        """Give each row more columns, 0 in them."""
        wider = np.zeros((len(self.counts), width), np.int64)
        wider[:, : self.counts.shape[1]] = self.counts
        self.counts = wider

    def touch_all(self) -> None:
        """Note that each row has changed."""
        self._touched[list(self._of)] = True

    def cohorts(self) -> Iterator[tuple[Cohort, Ints]]:
        """Yield each cohort and group with its row, in the order of time."""
        for row, cohort in sorted(self._of.items(), key=lambda one: one[1]):
            yield cohort, self.counts[row]

    def get(self, cohort: Cohort) -> Ints | None:
        """Return the row of a cohort and group."""
        at = int(np.searchsorted(self._spans, cohort.span))
        column = self._groups.get(cohort.group)
        if column is None or at == len(self._spans) or self._spans[at] != cohort.span:
            return None
        row = int(self._rows[at, column])
        return None if row < 0 else self.counts[row]

    @property
    def newest(self) -> int:
        """The number of the latest span; -1 for none."""
        return int(self._spans[-1]) if len(self._spans) else -1

    def changed(self) -> tuple[list[Cohort], list[Cohort]]:
        """Return what has changed since the last call, and what is gone; they are to be stored, and deleted."""
        changed = sorted(self._of[row] for row in np.flatnonzero(self._touched).tolist())
        gone = sorted(self._gone & self._stored)
        self._touched[:] = False
        self._gone.clear()
        self._stored.update(changed)
        self._stored.difference_update(gone)
        return changed, gone

    def snapshot(self, cohort: Cohort) -> bytes:
        """Return one row; only what is not 0 in it."""
        row = self.get(cohort)
        assert row is not None, "only rows that are kept are stored"
        columns = np.flatnonzero(row)
        return pack(
            "cohort", 1, {"span": cohort.span, "group": cohort.group},
            {"columns": columns.astype(np.int32), "counts": row[columns]},
        )  # fmt: skip

    def state(self) -> bytes:
        """Return what is beside the rows."""
        return pack(
            "cohorts",
            1,
            {
                "span": self.span,
                "groups": list(self._groups),
                "beyond": self.beyond,
                "given_up": self._given_up,
            },
            {},
        )

    def restore(self, state: bytes, rows: list[bytes]) -> None:
        """Go on from a state and rows, of an object that has none yet.

        Raises
        ------
        StateError
            A part is damaged, or a row has more columns than the table.
        """
        meta, _ = unpack("cohorts", 1, state)
        if meta["span"] != self.span:
            raise StateError("cohorts had another length before")
        self._groups = {int(group): k for k, group in enumerate(meta["groups"])}
        self.beyond = int(meta["beyond"])
        self._given_up = int(meta["given_up"])
        found = [unpack("cohort", 1, row) for row in rows]
        cohorts = [Cohort(int(meta["span"]), int(meta["group"])) for meta, _ in found]
        self._spans = np.unique(np.array([cohort.span for cohort in cohorts], np.int64))
        self._rows = np.full((len(self._spans), MOST_GROUPS), -1)
        for cohort, (_, arrays) in zip(cohorts, found, strict=True):
            columns = arrays["columns"]
            if cohort.group not in self._groups or len(self._groups) > MOST_GROUPS:
                raise StateError("a cohort is of a group that is not known")
            if len(columns) and not 0 <= columns.min() <= columns.max() < self.counts.shape[1]:
                raise StateError("a cohort has other columns than this table")
            row = self._new(cohort)
            at = int(np.searchsorted(self._spans, cohort.span))
            self._rows[at, self._groups[cohort.group]] = row
            self.counts[row, columns] = arrays["counts"]
        self._stored = set(cohorts)
        while len(self._spans) > self.most:  # kept by settings that allowed more
            self._given_up = int(self._spans[0])
            for row in self._rows[0][self._rows[0] >= 0].tolist():
                self._drop(row)
            self._spans, self._rows = self._spans[1:], self._rows[1:]
