"""What the bets on each stream have won: a row a lane, of which a stream has one or more."""

from __future__ import annotations

import numpy as np

from ..core.columns import Floats
from ..core.errors import StateError
from ..core.snapshot import check
from . import bets
from .streams import StreamTable


class Lanes:
    """The evidence of an e-detector, in the order in which its streams began.

    Parameters
    ----------
    table
        The streams; its columns `lane` and `lanes` say which rows are whose.
    """

    def __init__(self, table: StreamTable) -> None:
        self._table = table
        self.won = np.zeros((0, bets.MOST_BETS))
        """(lanes, bets) against each stream's own reference."""
        self.beyond = np.zeros((0, bets.MOST_BETS))
        """(lanes, bets) against all within the tolerance."""

    def add(self, k: int) -> None:
        """Give a new stream its lane."""
        self._table["lane"][k] = len(self.won)
        self._put(len(self.won), 0, 1)

    def resize(self, k: int, lanes: int) -> None:
        """Give a stream so many lanes, with nothing won on them."""
        first, old = int(self._table["lane"][k]), int(self._table["lanes"][k])
        self._put(first, old, lanes)
        lane = self._table["lane"][: len(self._table)]
        lane += (lanes - old) * (lane > first)
        self._table["lanes"][k] = lanes

    def drop(self, k: int) -> None:
        """Drop what was won on a stream."""
        first = int(self._table["lane"][k])
        lanes = slice(first, first + int(self._table["lanes"][k]))
        self.won[lanes] = self.beyond[lanes] = 0.0

    def load(self, won: Floats, beyond: Floats) -> None:
        """Go on from stored evidence, of the streams in the table.

        Raises
        ------
        StateError
            It is not of these streams.
        """
        count = len(self._table)
        started = self._table["kind"][:count] != 0
        first, lanes = (self._table[name][:count][started] for name in ("lane", "lanes"))
        order = np.argsort(first)
        ends = np.cumsum(lanes[order])
        if (lanes < 1).any() or (first[order] != ends - lanes[order]).any():
            raise StateError("e_detector: expected lanes one beside the other, found others")
        shape = (int(lanes.sum()), bets.MOST_BETS)
        check(won, "evidence", shape, np.dtype(np.float64))
        check(beyond, "beyond", shape, np.dtype(np.float64))
        self.won, self.beyond = won, beyond

    def _put(self, first: int, old: int, new: int) -> None:
        nothing = np.zeros((new, bets.MOST_BETS))
        self.won = np.concatenate([self.won[:first], nothing, self.won[first + old :]])
        self.beyond = np.concatenate([self.beyond[:first], nothing, self.beyond[first + old :]])
