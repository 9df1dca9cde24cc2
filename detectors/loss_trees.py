"""Boosted trees that learn two numbers at once, each with one question a level: fitted, and asked, here."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from ..core.columns import Floats, Ints
from .compiled import compiled

MOST_TREES: Final = 64
DEPTH: Final = 5
OF_ONE: Final = 3
"""Questions of a tree, and of one of a single column, which has 63 answers in all. Chosen on the data that docs/estimation.md names."""
_BINS: Final = 64  # of a feature, about as many rows in each
_RATE: Final = 0.2  # chosen: with 0.1, 128 trees do no better
_PRIOR_ROWS: Final = 20.0  # that say 0 in each leaf, so that few rows say little


class Trees(NamedTuple):
    """What was learned; a sum over trees.

    Parameters
    ----------
    feature
        (trees, depth) int64: the column that each level asks about.
    threshold
        (trees, depth): whether its value is larger than this; a missing one is not.
    leaf
        (trees, 2^depth, 2): what a tree adds to both numbers; the first question decides the highest bit of the place.
    base
        (2,) the numbers without a tree.
    """

    feature: Ints
    threshold: Floats
    leaf: Floats
    base: Floats

    def apply(self, values: Floats) -> Floats:
        """Return the (n, 2) numbers of (n, columns) values."""
        found = np.empty((len(values), 2))
        _apply(values, *self, found)
        return found


def learn(values: Floats, wanted: Floats) -> Trees:
    """Learn trees one by one, each of what those before have left.

    Parameters
    ----------
    values
        (n, columns); NaN where a value is missing.
    wanted
        (n, 2) what they stand for. The first number decides what is asked: where the second is the square of the first
        it varies more than it tells.

    Notes
    -----
    Nothing is held out to stop earlier: what is asked for are means over many rows, which what is learned too closely
    leaves as they are, and what is learned too little pulls to the mean of all.

    References
    ----------
    Friedman 2001, "Greedy function approximation: a gradient boosting machine", algorithm 2
    (doi:10.1214/aos/1013203451); the trees are oblivious ones, as in Prokhorenkova, Gusev, Vorobev, Dorogush and Gulin
    2018, "CatBoost: unbiased boosting with categorical features" (arXiv 1706.09516).
    """
    cuts = [_cuts(column) for column in values.T]
    binned = np.empty(values.shape, np.int64)
    for j, column in enumerate(values.T):
        binned[:, j] = np.where(np.isnan(column), 0, np.searchsorted(cuts[j], column, "left"))
    cut_count = np.array([len(of) for of in cuts])
    base = wanted.mean(axis=0)
    rest = wanted - base
    depth = OF_ONE if values.shape[1] == 1 else DEPTH
    feature, place = np.zeros((2, MOST_TREES, depth), np.int64)
    threshold, leaf = np.zeros((MOST_TREES, depth)), np.zeros((MOST_TREES, 1 << depth, 2))
    kept = 0
    while kept < MOST_TREES and _grow(
        binned, cut_count, rest, feature[kept], place[kept], leaf[kept]
    ):
        both = zip(feature[kept], place[kept], strict=True)
        threshold[kept] = [cuts[j][b] for j, b in both]
        kept += 1
    return Trees(feature[:kept], threshold[:kept], leaf[:kept], base)


def _cuts(column: Floats) -> Floats:
    """Return values of a column, at most 63, that part it into bins of about as many rows."""
    known = np.sort(column[~np.isnan(column)])
    if not len(known):
        return known
    found = np.unique(known[np.arange(1, _BINS) * len(known) // _BINS])
    return np.asarray(found[found < known[-1]])  # none is larger than the largest


@compiled
def _grow(
    binned: Ints, cut_count: Ints, rest: Floats, feature: Ints, place: Ints, leaf: Floats
) -> bool:
    """Fill in one tree and take what it says off `rest` (n, 2); False where there is nothing to ask.

    The question of a level is the one after which the squared error of the first column of `rest` is least.
    """
    rows, columns = binned.shape
    at = np.zeros(rows, np.int64)
    for level in range(len(feature)):
        parts = 1 << level
        sums = np.zeros((columns, parts, _BINS, 2))
        for i in range(rows):
            for j in range(columns):
                of = sums[j, at[i], binned[i, j]]
                of[0] += 1.0
                of[1] += rest[i, 0]
        most, feature[level] = 0.0, -1
        for j in range(columns):
            for b in range(1, _BINS):
                sums[j, :, b] += sums[j, :, b - 1]
            for b in range(cut_count[j]):
                gain = 0.0
                for part in range(parts):
                    low, both = sums[j, part, b], sums[j, part, _BINS - 1]
                    gain += low[1] ** 2 / (low[0] + _PRIOR_ROWS)
                    gain += (both[1] - low[1]) ** 2 / (both[0] - low[0] + _PRIOR_ROWS)
                if gain > most:
                    most, feature[level], place[level] = gain, j, b
        if feature[level] < 0:
            return False
        for i in range(rows):
            at[i] = 2 * at[i] + (1 if binned[i, feature[level]] > place[level] else 0)
    count = np.full(len(leaf), _PRIOR_ROWS)
    for i in range(rows):
        count[at[i]] += 1.0
        leaf[at[i], 0] += rest[i, 0]
        leaf[at[i], 1] += rest[i, 1]
    for k in range(len(leaf)):
        leaf[k, 0], leaf[k, 1] = leaf[k, 0] * _RATE / count[k], leaf[k, 1] * _RATE / count[k]
    for i in range(rows):
        rest[i, 0] -= leaf[at[i], 0]
        rest[i, 1] -= leaf[at[i], 1]
    return True


@compiled
def _apply(
    values: Floats, feature: Ints, threshold: Floats, leaf: Floats, base: Floats, found: Floats
) -> None:
    for i in range(len(values)):
        first, second = base[0], base[1]
        for t in range(len(feature)):
            place = 0
            for level in range(feature.shape[1]):
                larger = values[i, feature[t, level]] > threshold[t, level]
                place = 2 * place + (1 if larger else 0)
            first += leaf[t, place, 0]
            second += leaf[t, place, 1]
        found[i, 0], found[i, 1] = first, second
