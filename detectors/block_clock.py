"""Event time in blocks of one length: late events, wrong clocks and gaps included."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from .compiled import compiled

FAR_BLOCKS: Final = 35
"""A time further than this from the open block, either way, is not believed at once. Chosen: five weeks
of days, more than a pause of a service takes."""
_IN_A_ROW: Final = 32  # such times one after another are believed; chosen
MOST_EMPTY: Final = 300
"""Empty blocks that a believed leap makes at most: by then every window is empty. Chosen."""


@compiled
def _place(
    times: Ints, counted: NDArray[np.bool_], length: int, believed: int, most_empty: int,
    state: Ints, blocks: Ints,
) -> None:  # fmt: skip
    """Fill `blocks`; `state` is (begun, open block, first block since 1970, far times in a row)."""
    begun, current, origin, far = state[0], state[1], state[2], state[3]
    for i in range(times.shape[0]):
        if counted[i]:
            block = times[i] // length
            if begun == 0:
                begun, origin = 1, block
            ahead = block - origin - current
            if abs(ahead) <= believed:
                far = 0
                current += max(ahead, 0)
            else:
                far += 1
                if far >= _IN_A_ROW:
                    far = 0
                    current += min(ahead, most_empty) if ahead > 0 else 1
                    origin = block - current
        blocks[i] = current
    state[0], state[1], state[2], state[3] = begun, current, origin, far


class BlockClock:
    """Numbers the blocks of event time 0, 1, 2, ... as events come.

    Parameters
    ----------
    length_seconds
        Length of a block; blocks begin at multiples of it since 1970, so days are those of UTC.
    far
        A time more than so many blocks from the open one, before or after, is not believed at once.
    most_empty
        Empty blocks that a leap which is believed makes at most.

    Raises
    ------
    ValueError
        The length is less than a millisecond or more than a hundred years.

    Notes
    -----
    Numbers never fall: an event whose time lies before the open block counts into the open block. A time
    far from it is taken for a wrong clock and counts into the open block too, until 32 such events come
    one after another: then the numbers go on from there. So one event dated 2262 does not stop the clock.
    """

    def __init__(
        self, length_seconds: float, far: int = FAR_BLOCKS, most_empty: int = MOST_EMPTY
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
        self._state = np.zeros(4, np.int64)

    @property
    def block(self) -> int:
        """The open block."""
        return int(self._state[1])

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
        _place(times, counted, self.length, self._far, self._most_empty, self._state, blocks)
        return blocks

    def state(self) -> NDArray[Any]:
        """Return what `load` takes."""
        return self._state

    def load(self, state: NDArray[Any]) -> None:
        """Go on from `state`."""
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
        """Go on from `state`."""
        self.block, self._open_rows = int(state[0]), int(state[1])
        self._rates, self._rows = state[2:3], state[3:]
