"""Alarms and annotated changes, matched one to one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise
from typing import Literal

Outcome = Literal["hit", "late", "false", "ignored"]


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """An annotated change of a stream.

    Parameters
    ----------
    start, end
        Rows, counted from 0: the first of the change and the first after it; equal where the
        change is abrupt.
    optional
        The change is too small to ask for: finding it is no hit, missing it no miss, and the alarm
        that finds it is ignored.

    Raises
    ------
    ValueError
        The rows are negative or the end comes before the start.
    """

    start: int
    end: int
    optional: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(
                f"a change must have 0 <= start <= end, got start {self.start} and end {self.end}"
            )

    @property
    def width(self) -> int:
        """Rows from start to end."""
        return self.end - self.start

    @property
    def opens(self) -> int:
        """The first row at which an alarm can be about this change.

        Half a width early: where a transition is annotated by its steep middle, as the sigmoid of
        MOA's streams is, its foot begins before.
        """
        return self.start - self.width // 2


@dataclass(frozen=True, slots=True)
class Judged:
    """What an alarm is.

    Parameters
    ----------
    row
        Of the alarm.
    outcome
        `hit`: the first to find a change; `late`: false, but a change that was missed came before
        it; `false`: any other, a second alarm on the same change among them; `ignored`: the first to find
        an optional change.
    change
        The one that was hit, found late or ignored; None for a false alarm.
    """

    row: int
    outcome: Outcome
    change: Change | None = None

    @property
    def delay(self) -> int | None:
        """Rows since the start of the change, negative where the alarm came before it."""
        return None if self.change is None else self.row - self.change.start


def judge(alarms: Iterable[int], changes: Iterable[Change], tolerance: int) -> list[Judged]:
    """Match alarms with changes, one to one; return what each alarm is, in the order of the rows.

    An alarm hits a change if it lies in [start - width / 2, end + tolerance] and the change has no
    hit yet. Where two changes wait, the alarm goes to the one that can wait less, which makes as many
    hits as any assignment can (earliest deadline first: Jackson 1955; Glover 1967,
    doi:10.1002/nav.3800140304).

    Parameters
    ----------
    alarms
        Rows, in any order.
    changes
        In any order.
    tolerance
        Rows after the end of a change within which an alarm still is about it.

    Raises
    ------
    ValueError
        The tolerance is negative, or two changes overlap.
    """
    if tolerance < 0:
        raise ValueError(f"the tolerance must be 0 or more rows, got {tolerance}")
    ordered = sorted(changes)
    for one, other in pairwise(ordered):
        if other.start < max(one.end, one.start + 1):
            raise ValueError(
                f"changes must not overlap, got {one.start}-{one.end} and {other.start}-{other.end}"
            )
    to_come = sorted(ordered, key=lambda change: (change.opens, change.start), reverse=True)
    waiting: list[tuple[int, Change]] = []  # a heap by deadline
    latest: Change | None = None  # the last that opened, while it can be found late
    judged: list[Judged] = []
    for row in sorted(alarms):
        while to_come and to_come[-1].opens <= row:
            latest = to_come.pop()
            heappush(waiting, (latest.end + tolerance, latest))
        while waiting and waiting[0][0] < row:
            heappop(waiting)
        if waiting:
            _, found = heappop(waiting)
            judged.append(Judged(row, "ignored" if found.optional else "hit", found))
        elif latest is not None and not latest.optional:
            found = latest
            judged.append(Judged(row, "late", found))
        else:
            judged.append(Judged(row, "false"))
            continue
        if found == latest:
            latest = None
    return judged


def episodes(alarms: Sequence[int], gap: int, longest: int | None = None) -> list[int]:
    """Return which alarms begin an episode, as places in `alarms`.

    A worker's incidents are `merging.Merging`'s, which last until their streams have settled. Most detectors never say
    so, and scores must be the same for all: here every alarm is a moment, and an episode has an end.

    Parameters
    ----------
    alarms
        Rows, none before the one that it follows.
    gap
        An alarm less than so many rows after the one before it goes on with that one's episode;
        with 0 each is its own.
    longest
        Rows after which an episode ends all the same, so that a detector that never rests does not
        raise one alarm for all; None for no end.
    """
    begins: list[int] = []
    for k, row in enumerate(alarms):
        goes_on = (
            k > 0
            and row - alarms[k - 1] < gap
            and (longest is None or row - alarms[begins[-1]] < longest)
        )
        if not goes_on:
            begins.append(k)
    return begins
