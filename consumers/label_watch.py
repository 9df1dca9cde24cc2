"""What has become of predictions once they are of an age: how long their labels took, and whether they have none."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from ..core.columns import Bytes, Floats, Ints
from ..detectors.base import Observations
from .pending import UNLABELLED, PendingTable

LAG: Final = "label_lag"
"""The stream of how long labels took that came within the age, as the logarithm of seconds."""
MISSING: Final = "label_missing"
"""The stream of whether predictions of that age have no label, 1 or 0."""
OF_LABELS: Final = (LAG, MISSING)
_LEAST: Final = 1000
"""Labels that the age is learned from, at least: its share of labels is known within 0.02."""
_SHARE: Final = 0.95
_BEYOND: Final = 1.25
"""Times the delay within which 95 % came: where labels come once a week the slowest lie side by side, and each week they would be news."""
_ELAPSED: Final = 2.0
"""Times the age since the first prediction: before, labels that take longer cannot have come, and it would be too young."""
_MORE: Final = 1.25  # times as many labels before it is tried again
_A_DAY: Final = 8192
"""Predictions a day of which each is looked at; of more every second, every third, and so on up to every 16th, and as much more
seldom: a quarter of a day makes a reference then, and an event costs little."""
_WIDEST: Final = 16
_MOST: Final = 4096  # looked through at a time; of 1,024 that have come meanwhile
_DAY: Final = 86_400 * 10**9
_SHORTEST: Final = 1e-3  # s: what comes with its prediction took no time


class Looked(NamedTuple):
    """Predictions that have come to the age, (n,) each, in the order of the log.

    `offset` and `row` are of the event at which they were looked at, `numbers` theirs in the table; `times` of when each was due;
    `values` are (n, 2), of `OF_LABELS`.
    """

    offset: int
    row: int
    environment: Bytes
    numbers: Ints
    times: Ints
    values: Floats

    def observations(self) -> Observations:
        """Return them as detectors take them: with a row of its own for each, since ties are broken by it."""
        return Observations(
            names=OF_LABELS,
            values=self.values,
            offsets=np.full_like(self.numbers, self.offset),
            rows=self.numbers,
            times=self.times,
        )

    def take(self, rows: Ints) -> Looked:
        """Return some rows."""
        return self._replace(
            environment=self.environment[rows], numbers=self.numbers[rows], times=self.times[rows],
            values=self.values[rows],
        )  # fmt: skip


class LabelWatch:
    """Learns at which age nearly all labels that come are there, and looks at predictions when they are that old.

    Parameters
    ----------
    window
        Nanoseconds for which labels are joined.

    Attributes
    ----------
    age
        Nanoseconds; 0 while it is not known, which is for good where no labels come.

    Notes
    -----
    By prediction and not by label: of the labels that came so far the quick ones are too many as long as a log is young, and
    whenever it grows. State: five numbers. Rows that the table has forgotten before are passed over.
    """

    def __init__(self, window: int) -> None:
        self.age = 0
        self._window = window
        self._begun = -1  # time of the first prediction
        self._next = 0  # row
        self._try_at = _LEAST
        self._stride = 1

    def look(
        self, table: PendingTable, joined: int, watermark: int, at: tuple[int, int], turn: int
    ) -> Looked | None:
        """Return what has become of the predictions that have come to the age since the last call; None if there are none.

        Parameters
        ----------
        table
            The predictions kept.
        joined
            Labels joined so far.
        watermark
            The time of the latest prediction.
        at
            Offset and row of the event at which this is called.
        turn
            The number of this call.
        """
        if self._begun < 0 and len(table):
            self._begun = int(table["time"].min())
        if not self.age and joined >= self._try_at:
            self._try_at = int(joined * _MORE)
            self._learn(table, watermark)
        if not self.age or turn % self._stride:
            return None
        begin = max(self._next, table.first)
        times = table["time"][begin - table.first :][: _MOST * self._stride]
        young = np.flatnonzero(times + self.age > watermark)
        end = int(young[0]) if len(young) else len(times)
        self._next = begin + end
        numbers = np.arange(begin + -begin % self._stride, begin + end, self._stride)
        if not len(numbers):
            return None
        times = table.at("time", numbers)
        lag = table.at("observed", numbers) - times
        there = (table.at("revision", numbers) != UNLABELLED) & (lag <= self.age)
        values = np.empty((len(numbers), 2))
        values[:, 0] = np.where(there, np.log(np.maximum(lag / 1e9, _SHORTEST)), np.nan)
        values[:, 1] = ~there
        return Looked(*at, table.at("environment", numbers), numbers, times + self.age, values)

    def _learn(self, table: PendingTable, watermark: int) -> None:
        labelled = table["revision"] != UNLABELLED
        lags = (table["observed"] - table["time"])[labelled]
        if len(lags) < _LEAST:
            return
        age = int(_BEYOND * max(float(np.quantile(lags, _SHARE)), 1.0))
        elapsed = watermark - self._begun
        if elapsed >= _ELAPSED * age:
            self.age = min(age, self._window)
            self._stride = min(max(int(table.count / elapsed * _DAY / _A_DAY), 1), _WIDEST)

    def state(self) -> tuple[int, ...]:
        """Return the whole state."""
        return self.age, self._begun, self._next, self._try_at, self._stride

    def load(self, state: Any) -> None:
        """Go on from a state; a window that is shorter now than the age begins anew."""
        age, begun, at, try_at, stride = (int(number) for number in state)
        if not (0 <= age <= self._window and 1 <= stride <= _WIDEST):
            return
        self.age, self._begun, self._next, self._try_at, self._stride = (
            age,
            begun,
            at,
            try_at,
            stride,
        )
