"""Whether streams have a cycle of an hour and none of a day or a week: then blocks of an hour will do."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from .base import HUGE
from .block_clock import BlockClock
from .compiled import compiled
from .natural_kernel import NUMBERS, History
from .streams import StreamTable

HOUR_SECONDS: Final = 3600.0
NEVER: Final = 1 << 62
TRIAL_BLOCKS: Final = 21  # three weeks of days
_SLOT_SECONDS: Final = 300.0
_SLOTS: Final = 12  # of an hour
_HOURS: Final = 168  # of a week
_WEEK_SLOTS: Final = _SLOTS * _HOURS
# Quarters of an hour, in slots, then those of a day and a week, in hours.
_LAGS: Final = np.array([3, 6, 9, 12, 6, 12, 18, 24, 42, 84, 126, 168])
_OF_SLOTS: Final = 4  # lags of slots
_FEWEST_PAIRS: Final = 100
_STANDS_OUT: Final = 0.1
"""How much more a stream must resemble itself one cycle ago than a part of a cycle ago. Of independent
means the difference is 0.02 by chance for an hour, 0.06 for a day (one standard deviation)."""


@compiled
def _add(
    values: Floats, slots: Ints, columns: Ints, begin: Ints, s: History,
    at: Ints, count: Ints, total: Floats, hour_count: Ints, hour_total: Floats,
    slot_ring: Floats, hour_ring: Floats, sums: Floats, lags: Ints,
) -> None:  # fmt: skip
    for k in range(columns.shape[0]):
        j = columns[k]
        if j < 0:
            continue
        for i in range(begin[k], values.shape[0]):
            x = values[i, j]
            if not abs(x) <= HUGE:
                continue
            if at[k] < 0:
                at[k] = slots[i]
            while at[k] < slots[i]:
                mean = total[k] / count[k] if count[k] > 0 else np.nan
                _pair(mean, at[k], slot_ring[k], sums[k, :_OF_SLOTS], lags[:_OF_SLOTS])
                hour_count[k] += count[k]
                hour_total[k] += total[k]
                count[k], total[k] = 0, 0.0
                at[k] += 1
                if at[k] % _SLOTS == 0:
                    mean = hour_total[k] / hour_count[k] if hour_count[k] > 0 else np.nan
                    hour = at[k] // _SLOTS
                    _pair(mean, hour, hour_ring[k], sums[k, _OF_SLOTS:], lags[_OF_SLOTS:])
                    hour_count[k], hour_total[k] = 0, 0.0
            if s.kind[k] == NUMBERS:
                x = math.asinh((x - s.center[k]) / s.scale[k])
            count[k] += 1
            total[k] += x


@compiled
def _pair(mean: float, number: int, ring: Floats, sums: Floats, lags: Ints) -> None:
    """Add a mean with the one of each lag ago to the sums of a correlation, and keep it."""
    size = ring.shape[0]
    if not math.isnan(mean):
        for a in range(lags.shape[0]):
            y = ring[(number - lags[a]) % size]
            if not math.isnan(y):
                sums[a, 0] += 1.0
                sums[a, 1] += mean
                sums[a, 2] += y
                sums[a, 3] += mean * mean
                sums[a, 4] += y * y
                sums[a, 5] += mean * y
    ring[number % size] = mean


class SeasonFinder:
    """Correlates five-minute means over an hour and hourly means over a day and a week.

    A cycle is there if a stream resembles itself one cycle ago more than it does a quarter, a half or
    three quarters of a cycle ago, each by a correlation of 0.1: a stream that only wanders resembles
    itself less the longer ago. It looks at 21 blocks from when the first stream's scale is known.
    """

    def __init__(self) -> None:
        self._slots = BlockClock(_SLOT_SECONDS, far=_WEEK_SLOTS, most_empty=4 * _WEEK_SLOTS)
        self.decides_at = NEVER
        """The block at which it has seen enough."""
        self._table = self._empty()

    def _empty(self) -> StreamTable:
        return StreamTable(
            {
                "at": -1, "count": 0, "total": 0.0, "hour_count": 0, "hour_total": 0.0,
                "slot_ring": np.full(_SLOTS, np.nan), "hour_ring": np.full(_HOURS, np.nan),
                "sums": np.zeros((len(_LAGS), 6)),
            }
        )  # fmt: skip

    def start(self, block: int) -> None:
        """Decide `TRIAL_BLOCKS` after this block, if it is the first that this is said of."""
        if self.decides_at == NEVER:
            self.decides_at = block + TRIAL_BLOCKS

    def add(
        self, values: Floats, times: Ints, counted: NDArray[np.bool_],
        names: list[str], columns: Ints, begin: Ints, history: History,
    ) -> None:  # fmt: skip
        """Take rows in; see `natural_kernel.run`."""
        slots = self._slots.place(times, counted)
        t = self._table
        t.numbers(tuple(names))  # the streams have the same numbers here and there
        _add(
            values, slots, columns, begin, history, t["at"], t["count"], t["total"], t["hour_count"],
            t["hour_total"], t["slot_ring"], t["hour_ring"], t["sums"], _LAGS,
        )  # fmt: skip

    def block_seconds(self) -> float | None:
        """Return the length that blocks should have, None to leave them as they are."""
        hour, day, week = (self._stands_out(first) for first in (0, 4, 8))
        return HOUR_SECONDS if hour and not day and not week else None

    def _stands_out(self, first: int) -> bool:
        """Return whether any stream has the cycle whose quarters are the four lags from `first` on."""
        sums = self._table["sums"][: len(self._table), first : first + 4]
        n, x, y, xx, yy, xy = np.moveaxis(sums, 2, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            r = (xy - x * y / n) / np.sqrt((xx - x * x / n) * (yy - y * y / n))
        known = (n >= _FEWEST_PAIRS).all(axis=1) & np.isfinite(r).all(axis=1)
        return bool((known & (r[:, 3] - r[:, :3].min(axis=1) > _STANDS_OUT)).any())

    def state(self) -> dict[str, NDArray[Any]]:
        """Return arrays, for a snapshot."""
        arrays = self._table.state()[1]
        return {**arrays, "clock": self._slots.state(), "decides_at": np.array([self.decides_at])}

    def load(self, names: list[str], arrays: dict[str, NDArray[Any]]) -> None:
        """Replace everything by what `state` gave, of as many of the streams as it had."""
        self._slots.load(arrays.pop("clock"))
        self.decides_at = int(arrays.pop("decides_at")[0])
        table = self._empty()
        table.load(names[: len(arrays["at"])], arrays)
        self._table = table
