"""How well a model's losses tell its training rows from others: counts of losses, and the advantage of an attack."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from typing import Final

import numpy as np

from ..core.columns import Floats, Ints
from .binary_metrics import Metric, wilson
from .compiled import compiled

BINS: Final = 2048
"""Of the logarithm of the loss, each 2.4 % wide, and one for 0."""
LEAST: Final = 1e-12
"""Losses from 0 to this are alike ..."""
MOST: Final = 1e9
"""... and those from this on."""
UNIT: Final = 2.0**-20
"""1e-6: a mean is off by half of it at most; 9e12 in total fits."""
COUNT, SUM = range(2)
"""Columns: losses, and their sum in units of `UNIT`."""
HISTOGRAM: Final = 2
WIDTH: Final = HISTOGRAM + BINS
MEMBER, OTHER = range(2)
_SMALLEST: Final = float(np.finfo(np.float64).eps)


def table() -> Ints:
    """Return empty counts: (2, 2, WIDTH), by half of the sample, and by whether a row was trained on."""
    return np.zeros((2, 2, WIDTH), np.int64)


def losses(confidence: Floats) -> Floats:
    """Return the log losses of the probabilities that a model gave to the true classes; NaN outside [0, 1]."""
    known = (confidence >= 0) & (confidence <= 1)
    return np.where(known, -np.log(np.clip(confidence, _SMALLEST, 1.0)), np.nan)


@compiled
def count(table: Ints, loss: Floats, member: Ints, place: Ints, sign: int) -> None:
    """Add n losses to a table, or take them away.

    Parameters
    ----------
    table
        (2, 2, WIDTH) what is changed; tables of parts of the rows may be added up.
    loss
        (n,) 0 or more; NaN, an infinity or anything below 0 is not counted.
    member
        (n,) 0 for rows that were trained on, 1 for those that were held out.
    place
        (n,) numbers the rows; odd and even ones are the two halves.
    sign
        1, or -1 to take away what was added before.
    """
    scale = (BINS - 1) / np.log(MOST / LEAST)
    for i in range(len(loss)):
        x = loss[i]
        if not 0.0 <= x < np.inf or not 0 <= member[i] <= 1:
            continue
        cell = table[place[i] & 1, member[i]]
        cell[COUNT] += sign
        cell[SUM] += sign * np.int64(np.rint(min(x, MOST) / UNIT))
        at = 0 if x <= LEAST else 1 + min(int(np.log(x / LEAST) * scale), BINS - 2)
        cell[HISTOGRAM + at] += sign


def exposure(counts: Ints) -> dict[str, Metric]:
    """Return the advantage of attackers who know losses; empty where there are no members, or no others.

    An attacker who says "member" where the loss is at most a threshold has the advantage Pr(says so | member) -
    Pr(says so | other) (Yeom, Giacomelli, Fredrikson and Jha 2018, "Privacy risk in machine learning", definition 4,
    arXiv 1709.01604): 0 for who guesses, 1 for who knows.

    `advantage` is that of their attack with the members' mean loss as threshold; the mean falls within a bin, so that
    the value may be off by the shares in it. `best` is that of the threshold that did best on one half of the rows,
    measured on the other half, both ways: not better than it is for having been chosen. Below 0 is chance.

    Intervals are those of a difference of two rates at 95 % (Newcombe 1998, method 10,
    doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I).
    """
    both = counts.sum(axis=0)
    if both[MEMBER, COUNT] < 1 or both[OTHER, COUNT] < 1:
        return {}
    mean = int(both[MEMBER, SUM]) * UNIT / int(both[MEMBER, COUNT])
    at = _bin(mean)
    histogram = both[:, HISTOGRAM:]
    below, inside = histogram[:, :at].sum(axis=1), histogram[:, at]
    # Of what lies in the mean's own bin, the part that is below it if losses are even there.
    part = _part(mean, at)
    said = below + part * inside
    total = both[:, COUNT]
    error = float((np.maximum(part, 1 - part) * inside / total).max())
    found = {"advantage": advantage(said, total)._replace(error=error)}
    halves = counts[:, :, COUNT]
    if (halves > 0).all():
        said = np.zeros(2)
        for half in (0, 1):
            share = np.cumsum(counts[1 - half, :, HISTOGRAM:], axis=1) / halves[1 - half][:, None]
            at = int((share[MEMBER] - share[OTHER]).argmax())
            said += counts[half, :, HISTOGRAM : HISTOGRAM + at + 1].sum(axis=1)
        found["best"] = advantage(said, total)
    return found


def _bin(loss: float) -> int:
    if loss <= LEAST:
        return 0
    return 1 + min(int(np.log(loss / LEAST) * (BINS - 1) / np.log(MOST / LEAST)), BINS - 2)


def _part(loss: float, at: int) -> float:
    """Return which part of its bin lies below a loss."""
    if at == 0:
        return 1.0
    return float(np.clip(np.log(loss / LEAST) * (BINS - 1) / np.log(MOST / LEAST) - (at - 1), 0, 1))


def advantage(said: Floats | Ints, total: Ints) -> Metric:
    """Return the advantage of an attacker who says "member" of so many.

    Parameters
    ----------
    said, total
        (2,) rows that he says it of, and rows: of members, and of others.
    """
    rates = said / total
    value = float(rates[MEMBER] - rates[OTHER])
    (low, high), (least, most) = (wilson(float(said[k]), float(total[k])) for k in (MEMBER, OTHER))
    down = np.hypot(rates[MEMBER] - low, most - rates[OTHER])
    up = np.hypot(high - rates[MEMBER], rates[OTHER] - least)
    return Metric(value, max(value - float(down), -1.0), min(value + float(up), 1.0))
