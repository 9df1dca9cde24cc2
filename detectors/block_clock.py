"""Event time in blocks of one length: late events, wrong clocks and gaps included."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from ..core.snapshot import check
from .compiled import compiled

FAR_BLOCKS: Final = 35
"""A time further than this from the open block, either way, is taken for a wrong clock's, if not most events of two
blocks say so. Chosen: five weeks of days, more than a pause of a service takes."""
_SOON: Final = 8
"""Events that agree on a later block within that: as many, at least, or an eighth of a block's usual ones. Chosen."""
_FAR: Final = 32
"""Events that agree on any other time: as many, at least, or what two blocks usually have. Chosen."""
MOST_EMPTY: Final = 300
"""Empty blocks that a believed leap makes at most: by then every window is empty. Chosen."""


class _State(NamedTuple):
    """Where each number stands in the state.

    Parameters
    ----------
    begun, current, origin
        Whether there was an event, the open block, and the block since 1970 that is number 0.
    latest, number
        The block since 1970 that the clock was last set back from, and its number.
    votes, candidate, same
        How many more events say another time than do not, the block since 1970 that they say, and how many of the
        latest votes were for just that one.
    held, rows, usual
        Events of the open block that lie in it, and all; how many the blocks before usually had.
    """

    begun: int = 0
    current: int = 1
    origin: int = 2
    latest: int = 3
    number: int = 4
    votes: int = 5
    candidate: int = 6
    held: int = 7
    rows: int = 8
    usual: int = 9
    same: int = 10


_S: Final = _State()


@compiled
def _place(
    times: Ints, counted: NDArray[np.bool_], length: int, near: int, fewest: int, far: int, most_empty: int,
    s: Ints, blocks: Ints,
) -> None:  # fmt: skip
    """Fill `blocks`; `s` is the state."""
    for i in range(times.shape[0]):
        if counted[i]:
            block = times[i] // length
            if s[_S.begun] == 0:
                s[_S.begun], s[_S.origin], s[_S.latest] = 1, block, block
            ahead = block - s[_S.origin] - s[_S.current]
            if ahead == 0:
                s[_S.held] += 1
            if 0 < ahead <= near and s[_S.held] >= fewest:
                _open(ahead, s)
            elif -near <= ahead <= 0:
                s[_S.votes] = max(s[_S.votes] - 1, 0)
            elif _agree(block, ahead, far, s):
                _leap(block, ahead, far, most_empty, s)
            s[_S.rows] += 1
        blocks[i] = s[_S.current]


@compiled
def _open(ahead: int, s: Ints) -> None:
    """Open the block that is so many after the open one."""
    s[_S.usual] = (s[_S.usual] + s[_S.rows]) // 2 if s[_S.usual] > 0 else s[_S.rows]
    s[_S.current] += ahead
    s[_S.held], s[_S.rows], s[_S.votes] = 1, 0, 0


@compiled
def _agree(block: int, ahead: int, far: int, s: Ints) -> bool:
    """Count the vote of an event for another time; return whether that has enough.

    The majority vote of Boyer and Moore 1991, "MJRTY: a fast majority vote algorithm".
    """
    if s[_S.votes] > 0 and abs(block - s[_S.candidate]) > far:
        s[_S.votes] -= 1
        return False
    s[_S.same] = s[_S.same] + 1 if s[_S.votes] > 0 and block == s[_S.candidate] else 1
    s[_S.votes] += 1
    s[_S.candidate] = block
    now = s[_S.origin] + s[_S.current]
    wanted: int = max(_FAR, s[_S.usual] * 2)
    if 0 < ahead <= far or now < s[_S.latest] <= block <= s[_S.latest] + far:
        wanted = max(_SOON, s[_S.usual] // 8)  # also where it was before it was set back
    return bool(s[_S.votes] >= wanted)


@compiled
def _leap(block: int, ahead: int, far: int, most_empty: int, s: Ints) -> None:
    """Go to another time, by an event that lies so many blocks ahead."""
    now = s[_S.origin] + s[_S.current]
    if ahead < 0:
        if now >= s[_S.latest]:
            s[_S.latest], s[_S.number] = now, s[_S.current]
        ahead = 0
    elif now < s[_S.latest] <= block:  # back to where it was: what was then has its number
        ahead = s[_S.number] + block - s[_S.latest] - s[_S.current]
    # Before a block has ended a leap far ahead is from a wrong time, and no pause.
    if ahead > 0 and (s[_S.current] > 0 or ahead <= far):
        _open(min(ahead, most_empty), s)
    s[_S.origin] = block - s[_S.current]
    s[_S.held], s[_S.votes] = s[_S.same], 0


class BlockClock:
    """Numbers the blocks of event time 0, 1, 2, ... as events come.

    Parameters
    ----------
    length_seconds
        Length of a block; blocks begin at multiples of it since 1970, so days are those of UTC.
    far
        How far from the open block times may be that say the same.
    most_empty
        Empty blocks that a leap which is believed makes at most.
    near
        A time within so many blocks of the open one, before or after, is believed at once; `far` if None.
    fewest
        How many events must lie in the open block before a later one is opened at once.

    Raises
    ------
    ValueError
        The length is less than a millisecond or more than a hundred years.

    Notes
    -----
    Numbers never fall: an event whose time lies before the open block counts into the open block. So does, at first,
    one that lies further ahead than `near`: the clock goes there once events that say so outnumber the others, by an
    eighth of what a block usually has (8 at least) up to `far` blocks ahead, else by what two have (32 at least).
    Where most say an earlier time it is set back in the same way, and the open block stays open; where they then
    return to the time before, numbers go on as if nothing had been. So times that are wrong move nothing as
    long as most are not, and an event dated 2262 does not stop the clock.

    The first block ends by an event of the next `near` blocks, once `fewest` lie in it, or by votes for one of the next
    `far`; other votes move it, and do not end it. Where no block has `fewest` events, votes end one block in
    several: 3 events a day say nothing of a day, where 4 are wanted.
    """

    def __init__(
        self,
        length_seconds: float,
        far: int = FAR_BLOCKS,
        most_empty: int = MOST_EMPTY,
        *,
        near: int | None = None,
        fewest: int = 0,
    ) -> None:
        if not 1e-3 <= length_seconds <= 3.2e9:
            raise ValueError(
                "a block must be 0.001 to 3.2e9 seconds long (a millisecond to a hundred years), got "
                f"{length_seconds}"
            )
        self.length = round(length_seconds * 1e9)
        """Nanoseconds."""
        self._far = far
        self._most_empty = most_empty
        self._near = far if near is None else near
        self._fewest = fewest
        self._state = np.zeros(len(_S), np.int64)

    @property
    def block(self) -> int:
        """The open block."""
        return int(self._state[_S.current])

    def place(self, times: Ints, counted: NDArray[np.bool_]) -> Ints:
        """Return the block of each of (n,) rows, rising; rows that are not counted move nothing.

        Parameters
        ----------
        times
            (n,) int64 event times, nanoseconds since 1970.
        counted
            (n,) which rows there is anything in.
        """
        blocks = np.empty(len(times), np.int64)
        _place(
            times, counted, self.length, self._near, self._fewest, self._far, self._most_empty, self._state,
            blocks,
        )  # fmt: skip
        return blocks

    def state(self) -> NDArray[Any]:
        """Return what `load` takes."""
        return self._state

    def load(self, state: NDArray[Any]) -> None:
        """Go on from `state`.

        Raises
        ------
        StateError
            It is another number of numbers.
        """
        check(state, "the state of a clock", (len(_S),), np.dtype(np.int64))
        self._state = state


class BlockRows:
    """How many rows the latest blocks have.

    Parameters
    ----------
    ring
        How many complete blocks are kept.
    """

    def __init__(self, ring: int) -> None:
        self._ring = ring
        self._rows: Floats = np.zeros(0)  # of the latest complete blocks
        self._open_rows = 0
        self._rates: Floats = np.zeros(1)
        self.block = 0
        """The open block."""

    def count(self, blocks: Ints, counted: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Count (n,) rows into their rising blocks, of which the last is open then.

        Returns
        -------
        Rows of the kept blocks, then of those that are complete now, summed up to the end of each, 0 first;
        and the mean rows of a complete block, of those kept, as known when each block from the open one to
        the last begins; 0 before one is complete. The sums are empty where no block was completed.
        """
        first, last = self.block, int(blocks[-1])
        if last == first:  # the usual case, kept short
            self._open_rows += int(np.count_nonzero(counted))
            return self._rows[:0], self._rates
        rows: Floats = np.bincount(blocks - first, counted, last - first + 1).astype(np.float64)
        rows[0] += self._open_rows
        history: Floats = np.concatenate([self._rows, rows[:-1]])
        sums = np.concatenate([[0.0], np.cumsum(history)])
        until = np.arange(len(self._rows), len(sums))
        since = np.maximum(until - self._ring, 0)
        rates = np.asarray((sums[until] - sums[since]) / np.maximum(until - since, 1))
        self._rows, self._open_rows = history[-self._ring :], int(rows[-1])
        self._rates, self.block = rates[-1:].copy(), last
        return sums, rates

    def state(self) -> Floats:
        """Return what `load` takes."""
        return np.concatenate([[self.block, self._open_rows, self._rates[0]], self._rows])

    def load(self, state: Floats) -> None:
        """Go on from `state`.

        Raises
        ------
        StateError
            It is not (3,) numbers and one a kept block.
        """
        kept = max(min(len(state) - 3, self._ring), 0) if state.ndim == 1 else 0
        check(state, "rows of blocks", (3 + kept,), np.dtype(np.float64))
        self.block, self._open_rows = int(state[0]), int(state[1])
        self._rates, self._rows = state[2:3], state[3:]
