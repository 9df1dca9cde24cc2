"""How many served rows are rows of the training reference, beyond those that equal one by chance."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from ..core.columns import Ints
from .binary_metrics import Metric, Z, wilson

_LATE: Final = 4
"""The last fourth of the reference stands for what is served after it."""
_SURE: Final = 3.0
"""Standard deviations from which on the order of a reference is believed to matter (chosen)."""
_ALIKE: Final = 0.1
"""Rows in service are believed to coincide as often as those of training, give or take so much of it (chosen). Cut in
the order of time, it was 0.87 to 1.2 times as often in a census and in Harvard's tree; 0 to 0.15 in Elec2 and 1.2 to 3 in
NSL-KDD, of which few coincide."""
_LEAST: Final = 0.05
"""So much more of the reference must be unique than coincides by chance; else nothing is known (chosen)."""
_FINE: Final = 0.01
"""A rate is known where chance leaves it no more uncertain than by a point ..."""
_TIMES: Final = 2.0
"""... or than by so many times what it would be if no row coincided ..."""
_PART: Final = 0.25
"""... or than by such a part of itself (chosen)."""
_SURELY: Final = 3.5
"""Standard deviations above 0 from which on a rate is said to be: by chance once in 4,000 looks (chosen)."""


class Law(NamedTuple):
    """What the rows of a reference tell about chance, as whole numbers.

    Parameters
    ----------
    rows
        Rows of the reference.
    unique, common
        Those whose pattern came once, and those whose pattern came three times or more.
    pairs
        Patterns that came twice.
    late, late_common
        Rows in the last fourth of the reference, and those of them whose pattern came three times or more in all.
    late_pairs
        Patterns that came twice, once in the last fourth and once before.
    """

    rows: int
    unique: int
    common: int
    pairs: int
    late: int
    late_common: int
    late_pairs: int

    @classmethod
    def of(cls, counts: Ints, recent: Ints) -> Law:
        """Return it from how often each pattern came, and how often in the last fourth of the rows."""
        return cls(
            int(counts.sum()), int((counts == 1).sum()), int(counts[counts > 2].sum()),
            int((counts == 2).sum()), int(recent.sum()), int(recent[counts > 2].sum()),
            int(((recent == 1) & (counts == 2)).sum()),
        )  # fmt: skip

    @property
    def has_order(self) -> bool:
        """Whether pairs across the border of the last fourth are fewer, or more, than in any order of the rows."""
        part = 2 * (_LATE - 1) / _LATE**2
        spread = np.sqrt(self.pairs * part * (1 - part))
        return bool(abs(self.late_pairs - part * self.pairs) > _SURE * spread)

    @property
    def by_chance(self) -> float:
        """The share of rows that meet a unique row by chance, as `leaked` takes it before it has seen any."""
        if not self.late:
            return 0.0
        if self.has_order:
            return self.late_pairs * _LATE / (_LATE - 1) / self.late
        return 2 * self.pairs / self.rows


class Leak(NamedTuple):
    """What is known of the rows that were served.

    Parameters
    ----------
    rows
        Rows that were looked up.
    matched
        Share of them that equal a unique row of the reference.
    by_chance
        Share that would if none had leaked.
    distinct
        How many unique rows of the reference were met.
    rate
        Share of the served rows that are rows of the reference, beyond chance, with its interval at 95 %. 0 where it is
        not surely more: 0 is then in the interval.
    """

    rows: int
    matched: float
    by_chance: float
    distinct: int
    rate: Metric


def late(rows: int) -> Ints:
    """Return (rows,) 1 for the last fourth of a reference, 0 for what came before."""
    return (np.arange(rows) * _LATE >= rows * (_LATE - 1)).astype(np.int64)


def leaked(law: Law, rows: int, hits: Ints, common: int, every: int = 1) -> Leak | None:
    """Return what share of served rows has leaked; None where it cannot be known.

    Parameters
    ----------
    law
        Of the reference.
    rows
        Served rows.
    hits
        Above 0: how often each unique row of the reference was met that was met at all.
    common
        Served rows that met a pattern that came more than once in the reference.
    every
        Rows of the reference for one that was kept: as many more rows have leaked as were met.
    """
    met = int(hits.sum())
    again = float((hits.astype(np.float64) ** 2).sum() / met) if met else 1.0
    return leaked_of(law, rows, met, again, len(hits), common, every)


def leaked_of(
    law: Law, rows: int, met: int, again: float, distinct: int, common: int, every: int = 1
) -> Leak | None:
    """Return the same as `leaked`, of less.

    Parameters
    ----------
    met
        Served rows that met a unique row of the reference.
    again
        The mean over these of how often their row was met, 1 or more.
    distinct
        How many unique rows were met.

    Notes
    -----
    A row that meets a common pattern is no evidence; one that meets a unique row may do so by chance. Chance is what
    the reference says of itself, each row taken out in turn: a share p1 of them meets a row that is unique without
    it, and p2 a common pattern. So p1 is twice the patterns that came twice over the rows (Good 1953, "The population
    frequencies of species", equation 2, doi:10.1093/biomet/40.3-4.237). Where the order of the reference matters,
    as for rows that resemble their neighbours in time, only rows of its last fourth are taken out, and only partners
    before that count, times 4 / 3 for those that are passed over.

    Where a share l of what is served has leaked, and rows in service coincide c times as often as those of training,
    the shares that meet a unique row and a common pattern are, with q the share of unique rows in the reference and
    m = (1 - l) c::

        a1 = l q + m p1        a2 = l (1 - q) + m p2        1 = l + m

    Three equations, linear in l and m, which are solved by least squares, each by its own variance: where common
    patterns are rare the second says little, and where they are many the third. The third is believed to `_ALIKE`, and p1
    in the first as well, since c need not be one number.

    The interval adds up what a1, a2, p1, p2 and c may be off by, each side by itself (Zou and Donner 2008,
    doi:10.1002/sim.3095). A row that is served again and again counts in a1 as often, but is one witness: the
    effective number of rows is smaller by the mean of its meetings (Kish 1965, "Survey sampling", section 8.2).

    It is not known where coincidences make it uncertain: by more than a point, by more than twice what it would be
    without them, and by more than a fourth of itself.
    """
    if not rows or not law.late:
        return None
    if law.has_order:
        of, count, part = law.late, law.late_pairs, _LATE / (_LATE - 1) / law.late
        alike = law.late_common
    else:
        of, count, part, alike = law.rows, law.pairs, 2 / law.rows, law.common
    q, p1, p2 = law.unique / law.rows, count * part, alike / of
    if q - p1 < _LEAST:
        return None
    a1, a2 = met / rows, common / rows
    # With one more of each, so that what was not seen may still be there.
    variances = np.array(
        [
            (met + 1) * again / rows**2 + (count + 1) * part**2 + (_ALIKE * p1) ** 2,
            (common + 1) / rows**2 + (alike + 1) / of**2,
            _ALIKE**2,
        ]
    )
    design = np.array([[q, p1], [1 - q, p2], [1.0, 1.0]])
    weighted = design.T / variances
    solve = np.linalg.solve(weighted @ design, weighted)
    share, m = (solve @ np.array([a1, a2, 1.0])).tolist()
    slopes = solve[0].tolist()

    def off(z: float) -> tuple[float, float]:
        below = above = 0.0
        for slope, value, (low, high) in (
            (slopes[0], a1, wilson(met / again, rows / again, z)),
            (slopes[1], a2, wilson(common, rows, z)),
            (-slopes[0] * m, p1, tuple(part * k for k in _poisson(count, z))),
            (-slopes[1] * m, p2, wilson(alike, of, z)),
            (slopes[0] * m * p1, 0.0, (-z * _ALIKE, z * _ALIKE)),
            (slopes[2] * m, 0.0, (-z * _ALIKE, z * _ALIKE)),
        ):
            down, up = (value - low, high - value) if slope > 0 else (high - value, value - low)
            below += (slope * down) ** 2
            above += (slope * up) ** 2
        return float(np.sqrt(below)), float(np.sqrt(above))

    below, above = off(Z)
    near = min(max(share, 0.0), 1.0)
    low, high = wilson(near * rows / again, rows / again)
    most = max(_FINE, _TIMES * every * max(high - near, near - low), _PART * every * share)
    if max(below, above) * every > most:
        return None
    is_there = share - off(_SURELY)[0] > 0
    rate = min(share * every, 1.0) if is_there else 0.0
    metric = Metric(
        rate,
        min(max(share - below, 0.0) * every, rate),
        min(max((max(share, 0.0) + above) * every, rate), 1.0),
    )
    return Leak(rows, a1, max(a1 - share * q, 0.0), distinct, metric)


def _poisson(count: int, z: float) -> tuple[float, float]:
    """Return the interval of a count's expectation, z standard deviations wide (Byar's approximation to the exact one).

    Breslow and Day 1987, "Statistical methods in cancer research" II, section 2.3.
    """
    more = count + 1
    high = more * (1 - 1 / (9 * more) + z / (3 * np.sqrt(more))) ** 3
    if not count:
        return 0.0, float(high)
    return float(count * max(1 - 1 / (9 * count) - z / (3 * np.sqrt(count)), 0.0) ** 3), float(high)
