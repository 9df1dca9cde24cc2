"""The first values of streams, block by block, and what they tell: a scale, or that nothing varies yet."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from .base import HUGE
from .compiled import compiled
from .streams import StreamTable

CONSTANT_VALUES: Final = 500
"""A stream that was one and the same value so often is constant: when it varies, that is news (chosen)."""
MOST_BLOCKS: Final = 120
"""Blocks within which a sample is full, or taken as it is (chosen: a slow stream must begin some time)."""
FEWEST: Final = 100
"""Values of which a scale is made where no more came in `MOST_BLOCKS`."""
_LARGEST: Final = 3e38  # of a float32
_PRECISION: Final = 1e-7
_SMALLEST: Final = 1e-40
_IQR_TO_SIGMA: Final = 1.35  # between the quartiles of a normal law


class Notice(NamedTuple):
    """A stream that was constant varies for the first time: where, and how many equal values there were."""

    row: int
    column: int
    equal: int


class Sample(NamedTuple):
    """The first values of a stream, in order, and the block of each."""

    values: Floats
    blocks: Ints
    born: int  # the block of its very first value
    grown: int  # the block in which there were enough


@compiled
def _collect(
    values: Floats, blocks: Ints, columns: Ints, streams: Ints,
    sample: NDArray[np.float32], ends: NDArray[np.int16], taken: Ints, first: Floats, equal: Ints,
    start: Ints, born: Ints, begin: Ints, grown: Ints, notices: Ints,
) -> int:  # fmt: skip
    """Fill samples; where one is full, `begin` becomes the first row not in it and `grown` the block, else -1.

    Fills (row, column, equal values) of notices and returns how many there are.
    """
    size, most = sample.shape[1], ends.shape[1]
    found = 0
    for c in range(columns.shape[0]):
        j, k = columns[c], streams[c]
        begin[c], grown[c] = values.shape[0], -1
        for i in range(values.shape[0]):
            x = values[i, j]
            if not abs(x) <= HUGE:
                continue
            block = blocks[i]
            if born[k] < 0:
                born[k], start[k], first[k] = block, block, x
            if equal[k] >= 0:  # it has not varied yet
                if x == first[k]:
                    equal[k] += 1
                    if equal[k] >= CONSTANT_VALUES:
                        continue
                elif equal[k] >= CONSTANT_VALUES:
                    notices[found, 0], notices[found, 1], notices[found, 2] = i, j, equal[k]
                    found += 1
                    equal[k], first[k], taken[k], start[k] = 1, x, 0, block
                    ends[k, :] = 0
                else:
                    equal[k] = -1
            if block - start[k] >= most:
                if taken[k] >= FEWEST and equal[k] < 0:
                    begin[c], grown[c] = i, block
                    break
                taken[k], start[k] = 0, block
                ends[k, :] = 0
            sample[k, taken[k]] = min(max(x, -_LARGEST), _LARGEST)
            taken[k] += 1
            ends[k, block - start[k]] = taken[k]
            if taken[k] == size and equal[k] < 0:
                begin[c], grown[c] = i + 1, block
                break
            if taken[k] == size:  # constant, so what is forgotten is known
                taken[k] = size - 1
    return found


class FirstValues:
    """Keeps the values of streams until there are enough for a scale; then it forgets the stream.

    Parameters
    ----------
    size
        How many values make a sample, 100 to 32,000; fewer, where a stream has not brought so many in
        120 blocks, but never fewer than 100.

    Notes
    -----
    A stream costs 4 bytes a value, and some 300. Values are kept in single precision, cut at 3e38.
    """

    def __init__(self, size: int) -> None:
        if not FEWEST <= size <= 32_000:
            raise ValueError(f"a sample must have {FEWEST} to 32000 values, got {size}")
        self.size = size
        self._table = self._empty()

    def _empty(self) -> StreamTable:
        return StreamTable(
            {
                "sample": np.zeros(self.size, np.float32), "ends": np.zeros(MOST_BLOCKS, np.int16),
                "taken": 0, "first": np.nan, "equal": 0, "start": 0, "born": -1,
            }
        )  # fmt: skip

    @property
    def born(self) -> Ints:
        """Return (k,) the block of each stream's first value; -1 where there was none."""
        return np.asarray(self._table["born"][: len(self._table)])

    def collect(
        self, values: Floats, blocks: Ints, names: dict[str, int]
    ) -> tuple[dict[str, int], list[Notice], dict[str, Sample]]:
        """Take rows in.

        Parameters
        ----------
        values, blocks
            (n, c) values and (n,) the block of each row.
        names
            New streams and the column of each.

        Returns
        -------
        Stream to the row at which its sample was full, the first that is not in it; notices in the order
        of rows; samples of those streams, which are forgotten here.
        """
        streams = self._table.numbers(tuple(names))
        columns = np.fromiter(names.values(), np.int64, len(names))
        begin, grown = np.empty((2, len(names)), np.int64)
        notices = np.empty((len(names) * (len(values) // CONSTANT_VALUES + 1), 3), np.int64)
        s = self._table
        found = _collect(
            values, blocks, columns, streams, s["sample"], s["ends"], s["taken"], s["first"],
            s["equal"], s["start"], s["born"], begin, grown, notices,
        )  # fmt: skip
        begins = dict(zip(names, begin.tolist(), strict=True))
        told = sorted(Notice(*row) for row in notices[:found].tolist())
        samples = {
            name: self._sample(int(k), int(block))
            for name, k, block in zip(names, streams, grown, strict=True)
            if block >= 0
        }
        if samples:
            self._forget(samples.keys())
        return begins, told, samples

    def _sample(self, k: int, grown: int) -> Sample:
        s = self._table
        taken = int(s["taken"][k])
        counts = np.diff(np.maximum.accumulate(s["ends"][k]), prepend=0)
        blocks = int(s["start"][k]) + np.repeat(np.arange(MOST_BLOCKS), counts)
        values = s["sample"][k, :taken].astype(np.float64)
        return Sample(values, blocks, int(s["born"][k]), grown)

    def _forget(self, gone: Any) -> None:
        names, arrays = self._table.state()
        kept = [k for k, name in enumerate(names) if name not in gone]
        table = self._empty()
        if kept:
            table.load([names[k] for k in kept], {key: a[kept] for key, a in arrays.items()})
        self._table = table

    def state(self) -> tuple[list[str], dict[str, NDArray[Any]]]:
        """Return names and arrays, for a snapshot."""
        return self._table.state()

    def load(self, names: list[str], arrays: dict[str, NDArray[Any]]) -> None:
        """Replace everything by what `state` gave."""
        table = self._empty()
        table.load(names, arrays)
        self._table = table


def center_and_scale(sample: Floats) -> tuple[float, float]:
    """Return the median of a sample, and its distance between the quartiles over 1.35.

    Where half of the values or more are one and the same, the median distance of the others from it.
    """
    low, median, high = np.quantile(sample, (0.25, 0.5, 0.75))
    scale = (high - low) / _IQR_TO_SIGMA
    if not scale > 0:
        distance = np.abs(sample - median)
        distance = distance[distance > 0]
        # Values that differ by less than single precision tells apart: its precision is the scale.
        scale = np.median(distance) if len(distance) else max(abs(median) * _PRECISION, _SMALLEST)
    return float(median), float(scale)
