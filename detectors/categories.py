"""Streams of categories: which ones are told apart, and how often each came."""

from __future__ import annotations

from typing import Final

import numpy as np

from ..core.columns import Floats, Ints
from .bets import CELLS

KNOWN: Final = CELLS - 1
"""Categories that are told apart; all others are one more."""


def known_categories(values: Floats) -> Floats:
    """Return (63,) the most frequent of (n,) categories, sorted, NaN behind them."""
    codes, counts = np.unique(values, return_counts=True)
    kept = np.sort(codes[np.argsort(-counts, kind="stable")[:KNOWN]])
    return np.append(kept, np.full(KNOWN - len(kept), np.nan))


def cells_of(values: Floats, known: Floats) -> Ints:
    """Return (n,) the cells of categories, the last one where a category is not known."""
    place = np.searchsorted(known[np.isfinite(known)], values)
    return np.where(known[np.minimum(place, KNOWN - 1)] == values, place, KNOWN)


def counted_categories(values: Floats) -> Floats:
    """Return (2, 64) of (n,) values the known categories, NaN behind them, and how often each came, all others last.

    Half of the values, drawn at random, choose them and the others count them. Counted by those that have chosen them,
    the most frequent of many would seem more frequent than they are, and all others together less.
    """
    chooses = np.random.default_rng(0).random(len(values)) < 0.5
    known = known_categories(values[chooses])
    counts = np.bincount(cells_of(values[~chooses], known), minlength=CELLS)
    return np.array([np.append(known, np.nan), counts])
