"""How often served rows met those of a training reference, in one row of whole numbers, and what follows from it."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from typing import Final

import numpy as np

from ..core.columns import Ints
from .coincidence import Law, Leak, leaked_of
from .compiled import compiled
from .fingerprint_kernel import mixed

ROWS, UNIQUE, COMMON = range(3)
"""Columns: rows that were looked up, that met a unique row of the reference, and that met a pattern it has more than once."""
_PARTS: Final = 3
SKETCH: Final = 32
"""Sums that tell how often each unique row was met: to within a quarter (chosen)."""
WIDTH: Final = _PARTS + SKETCH
UNKNOWN: Final = -2
"""The code of a row that was not looked up ..."""
NONE: Final = -1
"""... and of one that met none. Others are twice the place of what was met, and 1 more where that is unique."""


@compiled
def count(counts: Ints, rows: Ints, codes: Ints) -> None:
    """Add n served rows.

    Parameters
    ----------
    counts
        (m, WIDTH) what is changed; rows of parts may be added up.
    rows
        (n, g) rows of `counts` that each belongs to, -1 for none.
    codes
        (n,) what each has met.

    Notes
    -----
    What is met goes to one of `SKETCH` sums, as 1 or as -1, both by its place. The sum of their squares has as
    expectation the sum of squares of how often each was met, whatever else was, with a standard deviation of
    sqrt(2 / SKETCH) of it (Alon, Matias and Szegedy 1996, doi:10.1145/237814.237823; in buckets Thorup and Zhang 2004,
    "Tabulation based 4-universal hashing with applications to second moment estimation", section 2).
    """
    for i in range(rows.shape[0]):
        code = codes[i]
        if code == UNKNOWN:
            continue
        bits = mixed(np.uint64(code >> 1))
        at = _PARTS + np.int64(bits & np.uint64(SKETCH - 1))
        sign = 1 if bits >> np.uint64(63) else -1
        for j in range(rows.shape[1]):
            row = rows[i, j]
            if row < 0:
                continue
            counts[row, ROWS] += 1
            if code >= 0:
                if code & 1:
                    counts[row, UNIQUE] += 1
                    counts[row, at] += sign
                else:
                    counts[row, COMMON] += 1


def leak(row: Ints, law: Law, every: int = 1) -> Leak | None:
    """Return what is known of served rows; see `coincidence.leaked`. `distinct` is about how many unique rows were met."""
    met = int(row[UNIQUE])
    squares = float((row[_PARTS:WIDTH].astype(np.float64) ** 2).sum())
    again = max(squares / met, 1.0) if met else 1.0
    return leaked_of(law, int(row[ROWS]), met, again, round(met / again), int(row[COMMON]), every)
