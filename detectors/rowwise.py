"""Matrix products whose rows do not depend on the batch: each row is worked out alone, in one order."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false

from __future__ import annotations

import numpy as np

from ..core.columns import Floats, Ints
from .compiled import compiled


@compiled
def products(vectors: Floats, matrix: Floats) -> Floats:
    """Return (n, q), the product of (n, p) vectors and a (p, q) matrix, both in C order.

    BLAS sums in another order for another number of rows, so that the last bits of a row depend on its
    neighbours. Here each element is the sum over p from the first to the last, whatever the batch.
    """
    p, q = matrix.shape
    found = np.zeros((vectors.shape[0], q))
    for i in range(vectors.shape[0]):
        x, z = vectors[i], found[i]
        k = 0
        # Four terms at a time, still one after another: z is read and written a quarter as often.
        while k + 4 <= p:
            a, b, c, d = x[k], x[k + 1], x[k + 2], x[k + 3]
            for j in range(q):
                z[j] = (
                    ((z[j] + a * matrix[k, j]) + b * matrix[k + 1, j]) + c * matrix[k + 2, j]
                ) + d * matrix[k + 3, j]
            k += 4
        while k < p:
            for j in range(q):
                z[j] += x[k] * matrix[k, j]
            k += 1
    return found


@compiled
def inner(vectors: Floats, other: Floats) -> Floats:
    """Return (n,), the inner products of (n, p) vectors with one (p,) vector."""
    found = np.empty(vectors.shape[0])
    for i in range(vectors.shape[0]):
        total = 0.0
        for k in range(vectors.shape[1]):
            total += vectors[i, k] * other[k]
        found[i] = total
    return found


@compiled
def distances(vectors: Floats, points: Floats, which: Ints) -> Floats:
    """Return (n,), the distance of each of (n, p) vectors to its own one of (c, p) points."""
    found = np.empty(vectors.shape[0])
    for i in range(vectors.shape[0]):
        total = 0.0
        for k in range(vectors.shape[1]):
            gap = vectors[i, k] - points[which[i], k]
            total += gap * gap
        found[i] = np.sqrt(total)
    return found


@compiled
def signed_sums(vectors: Floats, places: Ints, signs: Floats) -> Floats:
    """Return (n, q) sums of some coordinates of (n, p) vectors, each with a sign.

    Parameters
    ----------
    vectors
        (n, p) vectors.
    places, signs
        (terms, q): which coordinate each term of each sum is, and its sign, 0 for none.
    """
    terms, q = places.shape
    found = np.zeros((vectors.shape[0], q))
    for i in range(vectors.shape[0]):
        z = found[i]
        for t in range(terms):
            for j in range(q):
                z[j] += signs[t, j] * vectors[i, places[t, j]]
    return found
