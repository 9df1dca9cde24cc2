"""A detector that does not look at the values: what a real one must be better than."""

from __future__ import annotations

import numpy as np

from ..core.snapshot import pack, unpack
from ..core.verdict import Verdict
from .base import Observations, usable


class Dummy:
    """Raises alarms by counting rows, so whatever score it reaches is owed to the scoring.

    Parameters
    ----------
    every
        An alarm at every so many rows; 0 for none.
    at
        One alarm at this row, counted from 0; below 0 for none. With neither it never raises any.

    Raises
    ------
    ValueError
        `every` is negative.

    Notes
    -----
    Rows without a single usable value are not counted. Verdicts are about the first stream.

    Examples
    --------
    >>> import numpy as np
    >>> from tocsin.detectors.base import Observations
    >>> from tocsin.detectors.dummy import Dummy
    >>> [verdict.offset for verdict in Dummy(every=4, at=5).update(Observations.of(np.zeros(10)))]
    [3, 5, 7]
    """

    def __init__(self, every: int = 0, at: int = -1) -> None:
        if every < 0:
            raise ValueError(f"every must be 0 or more rows, got {every}")
        self.every = every
        self.at = at
        self._seen = 0

    def update(self, batch: Observations) -> list[Verdict]:
        """Count the rows; return the alarms that are due."""
        rows = np.flatnonzero(usable(batch.values).any(axis=1))
        numbers = np.arange(self._seen, self._seen + len(rows))
        self._seen += len(rows)
        due = numbers == self.at
        if self.every:
            due |= (numbers + 1) % self.every == 0
        return [
            Verdict(
                detector="dummy",
                subject=batch.names[0],
                offset=int(batch.offsets[row]),
                row=int(batch.rows[row]),
                statistic=float(number + 1),
                threshold=float(self.every or self.at + 1),
                unit="rows",
            )
            for row, number in zip(rows[due].tolist(), numbers[due].tolist(), strict=True)
        ]

    def snapshot(self) -> bytes:
        """Return the number of rows."""
        return pack("dummy", 1, {"seen": self._seen}, {})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot."""
        meta, _ = unpack("dummy", 1, state)
        self._seen = int(meta["seen"])
