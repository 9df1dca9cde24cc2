"""What every detector is, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints, Strings
from ..core.verdict import Verdict
from .compiled import compiled

HUGE: Final = 1e100
"""Beyond this a value would overflow a detector's sums of squares; 1e308 blinds ADWIN for ever."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Observations:
    """Rows of some streams, in the order of the log.

    Parameters
    ----------
    names
        (k,) the streams: `feature:amount`, `score`, `error`, `logit:3`.
    values
        (n, k) float64, C order; NaN where a stream has no value in a row.
    offsets, rows
        (n,) int64: which event each row is.
    clients
        (n,) who asked, for detectors that look at clients; None elsewhere.
    ids
        (n,) prediction ids, for detectors that name samples; None elsewhere.
    categories
        Which of the streams are categories: numbers that stand for something and have no order.
    times
        (n,) int64 event times, nanoseconds since 1970, for detectors that know seasons; None elsewhere.
    """

    names: tuple[str, ...]
    values: Floats
    offsets: Ints
    rows: Ints
    clients: Strings | None = None
    ids: Strings | None = None
    categories: frozenset[str] = frozenset()
    times: Ints | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    @classmethod
    def of(cls, values: Floats, names: tuple[str, ...] | None = None) -> Observations:
        """Number the rows of (n, k) or (n,) values 0, 1, 2, ...: for tests and for use by hand."""
        matrix = np.ascontiguousarray(values.reshape(len(values), -1), np.float64)
        named = names or tuple(f"stream:{k}" for k in range(matrix.shape[1]))
        count = np.arange(len(matrix))
        return cls(names=named, values=matrix, offsets=count, rows=np.zeros_like(count))

    def take(self, rows: slice) -> Observations:
        """Return consecutive rows."""
        return Observations(
            names=self.names,
            values=self.values[rows],
            offsets=self.offsets[rows],
            rows=self.rows[rows],
            clients=None if self.clients is None else self.clients.take(rows),
            ids=None if self.ids is None else self.ids.take(rows),
            categories=self.categories,
            times=None if self.times is None else self.times[rows],
        )


@runtime_checkable
class Detector(Protocol):
    """What every detector of tocsin and of a user is; `tocsin.testing.check_detector` checks it.

    A detector is a function of the rows it has seen, in their order: no clock, no randomness but
    from a row's place in the log, no dependence on how the rows were cut into batches.
    """

    def update(self, batch: Observations) -> list[Verdict]:
        """Take the rows in; return what is claimed about them, in their order.

        Values that are not `usable` leave the state as it was.
        """
        ...

    def snapshot(self) -> bytes:
        """Return the whole state: versioned, checksummed, no pickle."""
        ...

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot, bit for bit as the detector that took it.

        Raises
        ------
        StateError
            The bytes are damaged or from another version; the detector is as before.
        """
        ...


def usable(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return where values may enter a detector's arithmetic: present, finite, at most 1e100 in size."""
    return np.abs(values) <= HUGE


@compiled
def all_usable(values: Floats, columns: Ints) -> bool:
    """Return whether all values of some columns are `usable`."""
    for i in range(values.shape[0]):
        for j in columns:
            if not abs(values[i, j]) <= HUGE:
                return False
    return True


@compiled
def first_known(values: Floats, column: int, begin: int) -> int:
    """Return the first row from `begin` on in which a column is not NaN; how many rows there are if there is none."""
    for i in range(begin, values.shape[0]):
        if not np.isnan(values[i, column]):
            return i
    return int(values.shape[0])


def last_words(name: str, error: Exception, offset: int, row: int) -> Verdict:
    """Return what is claimed in place of a detector that has failed at this row."""
    return Verdict(
        detector=name,
        subject=f"detector:{name}",
        offset=offset,
        row=row,
        statistic=1.0,
        threshold=1.0,
        unit="failures",
        evidence=f"{type(error).__name__}; see the worker's log",
    )
