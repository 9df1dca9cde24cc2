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
_WEIGHT: Final = 50.0
"""Served rows that meet a common pattern until they outweigh the belief that rows coincide as often as in training
(chosen)."""
_LEAST: Final = 0.05
"""So much more of the reference must be unique than coincides by chance; else nothing is known (chosen)."""


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
        Share of the served rows that are rows of the reference, beyond chance, with its interval at 95 %: the
        data-leakage rate. 0 where the interval holds 0: what is not surely there is not said to be.
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

    Notes
    -----
    A row that meets a common pattern is no evidence; one that meets a unique row may do so by chance. Chance is what
    the reference says of itself, each row taken out in turn: a share p1 of them meets a row that is unique without
    it, and p2 a common pattern. So p1 is twice the patterns that came twice over the rows (Good 1953, "The population
    frequencies of species", equation 2, doi:10.1093/biomet/40.3-4.237). Where the order of the reference matters,
    as for rows that resemble their neighbours in time, only rows of its last fourth are taken out, and only partners
    before that count, times 4 / 3 for those that are passed over.

    Where a share l of what is served has leaked, and rows in service coincide c times as often as those of training,
    the shares that meet a unique row and a common pattern are, with q the share of unique rows in the reference::

        a1 = l q + (1 - l) c p1        a2 = l (1 - q) + (1 - l) c p2

    These are solved for l. To the second, `_WEIGHT` matches are added that say c = 1: where common patterns are rare,
    that is what remains.

    The interval adds up what a1, a2 and p1 may be off by, each side by itself (Zou and Donner 2008,
    doi:10.1002/sim.3095). A row that is served again and again counts in a1 as often, but is one witness: the
    effective number of rows is smaller by the mean of its meetings (Kish 1965, "Survey sampling", section 8.2).
    """
    if not rows or not law.late:
        return None
    if law.has_order:
        met_of, count, part = (
            law.late_common / law.late,
            law.late_pairs,
            _LATE / (_LATE - 1) / law.late,
        )
    else:
        met_of, count, part = law.common / law.rows, law.pairs, 2 / law.rows
    q, p1 = law.unique / law.rows, count * part
    weight, met = _WEIGHT / rows, int(hits.sum())
    p2 = met_of + weight
    a1, a2 = met / rows, common / rows + weight
    divisor = q * p2 - (1 - q + weight) * p1
    if divisor < _LEAST * p2:
        return None
    share = (a1 * p2 - a2 * p1) / divisor
    again = float((hits.astype(np.float64) ** 2).sum() / met) if met else 1.0
    chance = a1 - share * q
    below = above = 0.0
    for slope, value, (low, high) in (
        (p2, a1, wilson(met / again, rows / again)),
        (-p1, a2, tuple(bound + weight for bound in wilson(common, rows))),
        (share * (1 - q + weight) - a2, p1, tuple(part * k for k in _poisson(count))),
    ):
        down, up = (value - low, high - value) if slope > 0 else (high - value, value - low)
        below += (slope / divisor * down) ** 2
        above += (slope / divisor * up) ** 2
    low = max(min(share - float(np.sqrt(below)), 1.0), 0.0) * every
    high = (max(share, 0.0) + float(np.sqrt(above))) * every
    rate = min(share * every, 1.0) if low > 0 else 0.0
    metric = Metric(rate, min(low, rate), min(max(high, rate), 1.0))
    return Leak(rows, a1, max(chance, 0.0), len(hits), metric)


def _poisson(count: int) -> tuple[float, float]:
    """Return the interval at 95 % of a count's expectation (Byar's approximation to the exact one).

    Breslow and Day 1987, "Statistical methods in cancer research" II, section 2.3.
    """
    more = count + 1
    high = more * (1 - 1 / (9 * more) + Z / (3 * np.sqrt(more))) ** 3
    low = count * (1 - 1 / (9 * count) - Z / (3 * np.sqrt(count))) ** 3 if count else 0.0
    return float(low), float(high)
