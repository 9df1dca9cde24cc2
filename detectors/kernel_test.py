"""A kernel two-sample test as scalar streams: distances of vectors to a reference in the kernel's space."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false

from __future__ import annotations

from typing import Final

import numpy as np

from ..core.columns import Floats
from .compiled import compiled
from .rowwise import inner, products

BLOCK: Final = 50
"""Vectors in a block; chosen: the noise of MMD^2 falls with it, and what is large waits for its end."""
_PAIRS_OF: Final = 500  # vectors whose distances give the median: 124,750 of them
_SEED: Final = 0x70C51  # of the frequencies; any constant


@compiled
def _sine(turns: float) -> float:
    """Return the sine of an angle in whole turns, within 7e-10.

    Taylor's series about 0, to the 13th power, after folding to a quarter turn on either side: numba makes
    vector instructions of it, which the C library's sine is not.
    """
    t: float = turns - np.rint(turns)
    t = min(max(t, -0.5 - t), 0.5 - t)
    x = t * t
    return t * (
        6.283185307179586
        + x * (-41.341702240399755
        + x * (81.60524927607504
        + x * (-76.70585975306136
        + x * (42.05869394489765
        + x * (-15.094642576822990
        + x * 3.819952584848282)))))
    )  # fmt: skip


@compiled
def waves(turns: Floats) -> Floats:
    """Return (n, 2 m): cosines, then sines, of (n, m) angles in turns, divided by the root of m."""
    n, m = turns.shape
    found = np.empty((n, 2 * m))
    unit = 1.0 / np.sqrt(float(m))
    for i in range(n):
        for j in range(
            m
        ):  # two loops: the compiler makes vector instructions of each, not of both in one
            found[i, j] = unit * _sine(turns[i, j] + 0.25)
        for j in range(m):
            found[i, m + j] = unit * _sine(turns[i, j])
    return found


@compiled
def _blocks(
    features: Floats, mean: Floats, own: float, block: int, sums: Floats, count: int
) -> tuple[Floats, int]:
    """Add features to a block's sums; return (n,) its MMD^2 where one is full, NaN elsewhere; and the count."""
    found = np.full(features.shape[0], np.nan)
    for i in range(features.shape[0]):
        for j in range(sums.shape[0]):
            sums[j] += features[i, j]
        count += 1
        if count == block:
            square, cross = 0.0, 0.0
            for j in range(sums.shape[0]):
                square += sums[j] * sums[j]
                cross += sums[j] * mean[j]
            b = float(block)
            found[i] = (square - b) / (b * (b - 1.0)) - 2.0 * cross / b + own
            sums[:] = 0.0
            count = 0
    return found, count


class KernelMean:
    """A sample as one point of a Gaussian kernel's space: the mean of its random Fourier features.

    The kernel is k(x, y) = exp(-|x - y|^2 / (2 s^2)), and phi its features: m cosines and m sines of
    x . w / s, w standard normal, divided by the root of m. So phi(x) . phi(y) is k(x, y) but for an error of
    about 1 / root(2 m), and phi(x) . phi(x) is 1.

    Parameters
    ----------
    frequencies
        (p, m) w / (2 pi s): turns per unit.
    mean
        (2 m,) mean of the sample's features.
    size
        Vectors in the sample.

    Notes
    -----
    Both scores are functions that are fixed once the sample is: `distance` of one vector, and MMD^2 of one
    block of vectors, each block having its own. If later vectors are exchangeable, so are their scores, and so
    are the blocks'. They are therefore streams like any other for a conformal detector, and share its
    false-alarm budget: nothing is bootstrapped. A test whose windows overlap must find its threshold by
    simulation, with more bootstraps than the events between two false alarms.

    That m is finite costs power but no guarantee: phi is a kernel's feature map in its own right.

    References
    ----------
    Features: Rahimi and Recht 2007, "Random features for large-scale kernel machines", Advances in Neural
    Information Processing Systems 20, algorithm 1. MMD^2 and the median heuristic: Gretton, Borgwardt, Rasch,
    Schoelkopf and Smola 2012, "A kernel two-sample test", Journal of Machine Learning Research 13, 723-773,
    equation 3 and section 8. Blocks against a reference: Li, Xie, Dai and Song 2015, "M-statistic for kernel
    change-point detection", Advances in Neural Information Processing Systems 28 (arXiv 1507.01279); here the
    reference is one mean instead of several blocks.
    """

    def __init__(self, frequencies: Floats, mean: Floats, size: int) -> None:
        self.frequencies, self.mean, self.size = frequencies, mean, size
        square = float(mean @ mean)
        self._square = square
        # Between two different vectors of the sample, on average: the diagonal, of ones, left out.
        self._own = (size * square - 1) / (size - 1)

    @classmethod
    def fit(cls, vectors: Floats, frequencies: int = 128) -> KernelMean:
        """Take the (n, p) vectors as the sample, n 2 or more; s is the median distance of the first 500.

        Raises
        ------
        ValueError
            There are fewer than two vectors, or no frequency.
        """
        if len(vectors) < 2 or frequencies < 1:
            raise ValueError(
                "a kernel mean needs 2 vectors and 1 frequency or more, got "
                f"{len(vectors)} and {frequencies}"
            )
        normal = np.random.default_rng(_SEED).normal(size=(vectors.shape[1], frequencies))
        w = normal / (2 * np.pi * _median_distance(vectors[:_PAIRS_OF]))
        features = waves(products(vectors, w))
        return cls(w, features.mean(axis=0), len(vectors))

    def features(self, vectors: Floats) -> Floats:
        """Return (n, 2 m) features of (n, p) vectors."""
        return waves(products(vectors, self.frequencies))

    def distance(self, features: Floats) -> Floats:
        """Return (n,) squared distances |phi(x) - mean|^2 of (n, 2 m) features: large where the sample is thin."""
        return np.asarray(1.0 - 2.0 * inner(features, self.mean) + self._square)

    def mmd(self, features: Floats, block: int, sums: Floats, count: int) -> tuple[Floats, int]:
        """Add (n, 2 m) features to a block.

        Parameters
        ----------
        features
            Of the next vectors.
        block
            Vectors in a block, 2 or more.
        sums, count
            (2 m,) sums of the features of the block so far, changed in place, and how many there are.

        Returns
        -------
        values, count
            (n,) the unbiased MMD^2 of a block and the sample where the row ends a block, NaN elsewhere;
            and the vectors in the block that has begun.
        """
        return _blocks(features, self.mean, self._own, block, sums, count)


def _median_distance(vectors: Floats) -> float:
    """Return the median distance of two vectors; the mean one if most are alike, 1 if all are."""
    square = (vectors**2).sum(axis=1)
    both = square[:, None] + square
    apart = np.maximum(both - 2 * products(vectors, np.ascontiguousarray(vectors.T)), 0)
    apart[apart < 1e-12 * both] = 0  # within rounding
    pairs = apart[np.triu_indices(len(vectors), 1)]
    return float(np.sqrt(np.median(pairs)) or np.sqrt(pairs.mean()) or 1.0)
