"""How likely the label 1 is at a score: an isotonic map learned on the reference, and how well it is known."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from typing import Final

import numpy as np

from ..core.columns import Floats, Ints
from ..core.snapshot import check, pack, reading, unpack
from .compiled import compiled

ENTRIES: Final = 4096
"""Blocks of the map at most."""
GROUPS: Final = 64
"""Groups of blocks, about as many reference rows in each, whose errors are taken as independent."""
LEAST_ROWS: Final = 300
"""With so few the map is off by 0.05 on average already (uniform scores, 100 samples)."""
_CELLS: Final = 4096  # of equal width, in each of which a score's block is looked for
_VERSION: Final = 1


class Calibration:
    """A map from a score to the probability of the label 1, constant between edges; it never changes.

    Parameters
    ----------
    edges
        (blocks - 1,) rising, within [0, 1]: the score from which on the next block holds.
    values
        (blocks,) rising, within [0, 1]: the probability of 1 in each block.
    weights
        (blocks,) how many rows of the reference each block comes from.

    Attributes
    ----------
    guide
        (4097,) int64: the block of each multiple of 1 / 4096, so that few are left to look through.
    group
        (blocks,) int64: the group of each block, below `GROUPS`.
    spread
        (GROUPS,) variance of a group's mean probability, since the reference is a sample. The fitted sum over whole
        blocks is the number of ones there, so this is that of a rate; each block has one row of each label more, so
        that it is never 0.

    References
    ----------
    Zadrozny and Elkan 2002, "Transforming classifier scores into accurate multiclass probability estimates", section 3
    (doi:10.1145/775047.775151).
    """

    def __init__(self, edges: Floats, values: Floats, weights: Ints) -> None:
        self.edges = edges
        self.values = values
        self.weights = weights
        self.guide: Ints = np.searchsorted(edges, np.arange(_CELLS + 1) / _CELLS, "right")
        total = weights.sum()
        self.group: Ints = ((np.cumsum(weights) - weights / 2) * GROUPS / total).astype(np.int64)
        rows = np.bincount(self.group, weights, GROUPS)
        rate = (values * weights + 1) / (weights + 2)
        doubt = np.bincount(self.group, weights * rate * (1 - rate), GROUPS)
        self.spread: Floats = np.divide(doubt, rows**2, out=np.zeros(GROUPS), where=rows > 0)

    @classmethod
    def fit(cls, score: Floats, label: Floats) -> Calibration:
        """Learn the map by isotonic regression of the label on the score.

        Parameters
        ----------
        score
            (n,) the probability of 1 as the model has it, within [0, 1].
        label
            (n,) 0 or 1. A row of which either is anything else is left out.

        Raises
        ------
        ValueError
            Fewer than 300 rows are left, or all have one label.

        Notes
        -----
        Rows of one score are one block. Where there would be more than 4,096 blocks, neighbours are merged, about as
        many rows in each.
        """
        from scipy.optimize import isotonic_regression  # takes longer to import than all else here

        known = (score >= 0) & (score <= 1) & ((label == 0) | (label == 1))
        score, label = score[known], label[known]
        if len(score) < LEAST_ROWS:
            raise ValueError(
                f"found {len(score)} reference rows with a score within [0, 1] and a label of 0 or 1, expected "
                f"{LEAST_ROWS} or more: give a larger reference"
            )
        ones = int(label.sum())
        if ones in (0, len(label)):
            raise ValueError(
                f"found {len(label)} reference rows that all have the label {int(ones > 0)}, expected both 0 and 1: "
                "give a reference that holds rows of both"
            )
        at, place, count = np.unique(score, return_inverse=True, return_counts=True)
        rate = np.bincount(place, label) / count
        fitted = isotonic_regression(rate, weights=count)
        begin = fitted.blocks[:-1]
        weights = np.add.reduceat(count, begin)
        values = np.clip(fitted.x[begin], 0.0, 1.0)
        if len(begin) > ENTRIES:
            merged = (np.cumsum(weights) - weights) * ENTRIES // weights.sum()
            first = np.flatnonzero(np.diff(merged, prepend=-1))
            values = np.add.reduceat(values * weights, first) / np.add.reduceat(weights, first)
            weights, begin = np.add.reduceat(weights, first), begin[first]
        below, above = at[begin[1:] - 1], at[begin[1:]]
        middle = below + (above - below) / 2
        return cls(np.where(middle > below, middle, above), values, weights)

    def apply(self, score: Floats) -> Floats:
        """Return the (n,) probabilities of 1 at (n,) scores; NaN where a score is not within [0, 1]."""
        found = np.empty(len(score))
        _apply(score, self.edges, self.values, self.guide, found)
        return found

    def differences(
        self, score: Floats, predicted: Floats, label: Floats, positive: float
    ) -> Floats:
        """Return (n,) how likely each prediction was right less whether it was, NaN where that is not known.

        `predicted` and `label` are (n,) classes, of which `positive` is the one that scores are about.
        """
        found = np.empty(len(score))
        _differences(score, predicted, label, positive, self.edges, self.values, self.guide, found)
        return found

    def group_of(self, score: Floats) -> Ints:
        """Return the (n,) groups of (n,) scores within [0, 1]."""
        return np.asarray(self.group[np.searchsorted(self.edges, score, "right")])

    def snapshot(self) -> bytes:
        """Return the map as bytes: 24 a block, 98 kB at most."""
        arrays = {"edges": self.edges, "values": self.values, "weights": self.weights}
        return pack("calibration", _VERSION, {}, arrays)

    @classmethod
    def restored(cls, state: bytes) -> Calibration:
        """Return the map of which these bytes are the snapshot.

        Raises
        ------
        StateError
            The bytes are damaged, from another version, or hold no such map.
        """
        _, arrays = unpack("calibration", _VERSION, state)
        with reading("calibration"):
            edges, values, weights = (arrays[name] for name in ("edges", "values", "weights"))
            blocks = len(values)
            check(edges, "calibration edges", (blocks - 1,), np.dtype(np.float64))
            check(values, "calibration values", (blocks,), np.dtype(np.float64))
            check(weights, "calibration weights", (blocks,), np.dtype(np.int64))
            if not (weights > 0).all() or not ((values >= 0) & (values <= 1)).all():
                raise ValueError("weights must be above 0 and values within [0, 1]")
            return cls(edges, values, weights)


@compiled
def block_of(edges: Floats, guide: Ints, score: float) -> int:
    """Return the block of a score within [0, 1]."""
    cell = min(int(score * _CELLS), _CELLS - 1)
    low, high = guide[cell], guide[cell + 1]
    while low < high:
        middle = (low + high) >> 1
        if edges[middle] <= score:
            low = middle + 1
        else:
            high = middle
    return int(low)


@compiled
def _apply(score: Floats, edges: Floats, values: Floats, guide: Ints, found: Floats) -> None:
    for i in range(len(score)):
        s = score[i]
        found[i] = values[block_of(edges, guide, s)] if 0.0 <= s <= 1.0 else np.nan


@compiled
def _differences(
    score: Floats, predicted: Floats, label: Floats, positive: float, edges: Floats, values: Floats,
    guide: Ints, found: Floats,
) -> None:  # fmt: skip
    for i in range(len(score)):
        found[i] = np.nan
        s, is_known = score[i], not (np.isnan(label[i]) or np.isnan(predicted[i]))
        if is_known and 0.0 <= s <= 1.0:
            chance, said = values[block_of(edges, guide, s)], predicted[i] == positive
            right = said == (label[i] == positive)
            found[i] = (chance if said else 1.0 - chance) - (1.0 if right else 0.0)
