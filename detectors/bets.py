"""The bets that an e-detector makes on p-values: tables of likelihood ratios with mean 1 under uniformity."""

from __future__ import annotations

from functools import cache
from math import erfc, sqrt
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np

from ..core.columns import Floats

CELLS: Final = 64
"""Cells of a numeric stream's histogram and of its p-values. Finer ones gain less than 1 % of delay."""
SHIFTS: Final = (0.1, 0.25, 0.5, 1.0, 2.0)  # in sigmas, up and down
SCALES: Final = (0.3, 0.6, 0.8, 1.25, 1.6, 3.0)  # factors of the standard deviation
ODDS: Final = np.array([1.15, 1.35, 1.7, 2.2, 3.0, 5.0, 8.0, 1.0])
"""Factors, and their inverses, by which a rate's odds may change; the last, on which nothing is staked, makes eight that are settled side by side."""
_SHIFT_STAKES: Final = (0.6, 4.0, 2.2, 1.6, 0.3)
_SCALE_STAKES: Final = (0.3, 0.4, 0.5, 1.2, 2.4, 0.5)
"""Relative stakes. Equal ones find a shift of 0.25 sigma 26 values later and one of 1 sigma 1 sooner; a stake
that is doubled comes ln 2 / KL values sooner, and small shifts have most to gain (chosen on seeds 0-1499)."""
ODDS_STAKES: Final = np.array([0.7, 1.1, 1.6, 3.3, 2.9, 1.3, 0.4, 0.0]) / 11.3
"""Stakes of the bets on odds, upwards and downwards alike. A large change wins so much a value that a
small stake costs it next to nothing, and most chance alarms are short bursts that large odds win."""
COARSE: Final = 16
"""Cells of p-values of the bet that learns."""
_SHAPE_SHARE: Final = 0.02
"""Stake of the bet that learns; it costs the others 2 % of theirs, which is 0.02 nats of delay."""


class Bet(NamedTuple):
    """What a bet is on.

    Parameters
    ----------
    change
        The kind of change, as in `Verdict.change`.
    size
        Of a location bet the shift in sigmas, of a scale bet the factor, of a rate bet the odds ratio.
    """

    change: str
    size: float


BETS: Final = (
    *(Bet("location up", d) for d in SHIFTS),
    *(Bet("location down", -d) for d in SHIFTS),
    *(Bet("scale up" if s > 1 else "scale down", s) for s in SCALES),
    Bet("shape", 0.0),
)
"""The bets on a numeric stream, in the order of the table's columns; the last one learns as it goes."""

LINES: Final = (
    np.array([*SHIFTS, *(-d for d in SHIFTS), *(0.0 for _ in SCALES), 0.0]),
    np.array([*(d * d / 2 for d in (*SHIFTS, *SHIFTS)), *(np.inf for _ in SCALES), np.inf]),
)
"""Of each bet on numbers the slope and toll in a value's score, as a normal shift's likelihood ratio has them; an
infinite toll where there is no such line."""

RATE_BETS: Final = (
    *(Bet("rate up", float(o)) for o in ODDS),
    *(Bet("rate down", float(1 / o)) for o in ODDS),
)
"""The bets on a stream of zeros and ones."""

UNSEEN_RATES: Final = np.array([0.01, 0.05, 0.25])
"""Rates at which values of no known category are bet to come."""
WINDOWS: Final = np.array([32, 128, 512])
"""Latest values whose shares of categories are bet to be the new ones."""
CATEGORY_BETS: Final = (
    *(Bet("shares", float(w)) for w in WINDOWS),
    *(Bet("new category", float(q)) for q in UNSEEN_RATES),
)
"""The bets on a stream of categories."""

MOST_BETS: Final = max(len(BETS), len(RATE_BETS), len(CATEGORY_BETS))


@cache
def table() -> Floats:
    """Return (cells, bets) likelihood ratios of a p-value's cell, without the bet that learns.

    A shift by d of a normal stream makes the cell r, between the normal quantiles z_r and z_(r+1), come
    with probability Phi(z_(r+1) - d) - Phi(z_r - d) instead of 1 / cells; a factor s of its standard
    deviation with Phi(z_(r+1) / s) - Phi(z_r / s). The ranks of any other law are treated alike: normal
    scores are asymptotically never worse than means for a shift (Chernoff and Savage 1958, "Asymptotic
    normality and efficiency of certain nonparametric test statistics", doi:10.1214/aoms/1177706436).
    """
    z = _quantiles(CELLS)
    columns = [CELLS * np.diff(_phi(z - d)) for d in (*SHIFTS, *(-d for d in SHIFTS))]
    columns += [CELLS * np.diff(_phi(z / s)) for s in SCALES]
    return np.ascontiguousarray(np.transpose(columns))


@cache
def scores() -> Floats:
    """Return (cells,) the mean normal score of each cell."""
    z = _quantiles(CELLS)
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.asarray(CELLS * (density[:-1] - density[1:]))


@cache
def weights() -> Floats:
    """Return (bets,) the stakes of the bets on a numeric stream, 1 together."""
    relative = np.array([*_SHIFT_STAKES, *_SHIFT_STAKES, *_SCALE_STAKES])
    return np.append(relative / relative.sum() * (1 - _SHAPE_SHARE), _SHAPE_SHARE)


@cache
def deflation(tolerance: float) -> Floats:
    """Return (bets - 1,) factors that keep each bet's mean at most 1 under shifts of up to `tolerance` sigmas.

    The worst mean is looked for over shifts of a normal stream; for a location bet of d it is about
    exp(tolerance * |d|). Of the bet that learns see `slopes_and_bends`.
    """
    return np.asarray(1 / (_shifted(tolerance, CELLS) @ table()).max(axis=0))


@cache
def slopes_and_bends(tolerance: float) -> tuple[Floats, Floats]:
    """Return (16,) slopes s and (16,) bends b, from which the worst mean of the bet that learns follows.

    Under a shift by d a coarse cell comes 1 + d s + r(d) times as often, with |r| at most b while |d| is at most
    `tolerance`. Shares q of what was learnt then have a mean of at most 1 + tolerance |sum q s| + sum q b.
    """
    slopes = scores().reshape(COARSE, -1).mean(axis=1)
    shifts = np.linspace(-tolerance, tolerance, 41)[:, None]
    rest = COARSE * _shifted(tolerance, COARSE) - 1 - shifts * slopes
    return slopes, np.asarray(np.abs(rest).max(axis=0))


@cache
def odds() -> Floats:
    """Return (7, rate bets) how bets on zeros and ones are settled.

    Rows 0 and 1 are what a zero and a one multiply the stake by, before that is divided by its mean under a rate up to `high`, and
    from `low` up: row 2, and rows 3 and 4 times these. Rows 5 and 6 are the shares of what is staked on a rising and a falling rate.
    """
    ones, none = np.ones_like(ODDS), np.zeros_like(ODDS)
    up = [ones, ODDS, ones, ODDS - 1, none, ODDS_STAKES, none]
    down = [ODDS, ones, ODDS, none, 1 - ODDS, none, ODDS_STAKES]
    return np.hstack([up, down])


def _shifted(tolerance: float, cells: int) -> Floats:
    """Return (41, cells) how often each cell comes under shifts of up to `tolerance` sigmas."""
    z = _quantiles(cells)
    shifts = np.linspace(-tolerance, tolerance, 41)[:, None]
    return np.asarray(_phi(z[1:] - shifts) - _phi(z[:-1] - shifts))


def fixed_reference(eps: float) -> Floats:
    """Return (bets - 1,) factors that keep bets fair against a reference that never grows.

    Its distribution function is within eps of the true one, see `distance_bound`, and a bet's mean is then
    at most 1 + eps V, where V is the total variation of its column. The bet that learns is not made.
    """
    variation = np.abs(np.diff(table(), axis=0)).sum(axis=0)
    return np.asarray(1 / (1 + eps * variation))


def distance_bound(size: int, confidence: float = 0.05) -> float:
    """Return how far the distribution function of `size` values may be from the true one.

    sqrt(ln(2 / confidence) / (2 size)), exceeded with probability `confidence` (Massart 1990, "The tight
    constant in the Dvoretzky-Kiefer-Wolfowitz inequality", doi:10.1214/aop/1176990746).
    """
    return float(np.sqrt(np.log(2 / confidence) / (2 * size)))


def _quantiles(cells: int) -> Floats:
    """Return (cells + 1,) the normal quantiles that bound cells of equal probability."""
    inner = (NormalDist().inv_cdf(cell / cells) for cell in range(1, cells))
    return np.array([-np.inf, *inner, np.inf])


def _phi(z: Floats) -> Floats:
    """Return the probability of a normal value below each of z; importing scipy's takes longer than all else here."""
    return np.asarray(np.vectorize(erfc)(z * -sqrt(0.5)) / 2)
