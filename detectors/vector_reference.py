"""What a sample of vectors looked like: its centre and scale, principal directions, classes, metric and cells."""

from __future__ import annotations

from hashlib import shake_128
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from .rowwise import products, signed_sums

MOST_DIMENSIONS: Final = 128
"""Wider vectors are mixed down to so many. On a network's 4,096 activations, 256 found four of five planted
shifts no sooner, and cost three times as much."""
DIRECTIONS: Final = 8
CELLS: Final = 16
"""Ten find a shift of all vectors later than 16 do, and with 32 a class that goes missing is found later."""
_MIXED: Final = (
    4  # sums that each coordinate goes into; shifts are found as fast as with a dense projection
)
_CUT: Final = 5.0  # median distances from the centre: of one normal coordinate, 3.4 sigmas
_FARTHEST: Final = 1e6  # scales from the centre, a coordinate; beyond, a vector is as far as that
_FEWEST_OF_CLASS: Final = 10  # vectors that give a class a centroid of its own
_RIDGE: Final = (
    1e-3  # least share of the sphere in the metric: directions without variance must not rule it
)
_ROUNDS: Final = 20  # of k-means; it settles in about ten
_SEED: Final = 0x70C51  # of k-means; any constant


class Mixing:
    """A random projection to `MOST_DIMENSIONS` sums of signed coordinates, the same one for ever.

    Each coordinate is a term of four sums, and each sum has equally many terms, give or take one. Lengths
    and angles are kept but for an error of some 1 / root(128) (Kane and Nelson 2014, "Sparser
    Johnson-Lindenstrauss transforms", Journal of the ACM 61, doi:10.1145/2559902); one coordinate of a huge
    scale spoils four sums, not all.
    """

    def __init__(self, width: int) -> None:
        terms = -(-width * _MIXED // MOST_DIMENSIONS)
        # A hash, not a generator: it is drawn again at every start, and must never come out differently.
        bits = shake_128(b"tocsin mixing %d" % width).digest(8 * width * _MIXED)
        drawn = np.frombuffer(bits, "<u8").reshape(_MIXED, width)
        order = np.argsort(drawn, axis=1, kind="stable")
        places = np.zeros(terms * MOST_DIMENSIONS, np.int64)
        signs = np.zeros(terms * MOST_DIMENSIONS)
        places[: order.size] = order.ravel()
        signs[: order.size] = np.where(np.sort(drawn, axis=1).ravel() & np.uint64(1), 0.5, -0.5)
        self._places = places.reshape(terms, MOST_DIMENSIONS)
        self._signs = signs.reshape(terms, MOST_DIMENSIONS)

    def __call__(self, vectors: Floats) -> Floats:
        """Return (n, 128) sums of (n, width) vectors; halved signs keep the lengths."""
        return signed_sums(vectors, self._places, self._signs)


class VectorReference:
    """A sample of vectors, as a map of later ones that is fixed from then on.

    Parameters
    ----------
    arrays
        By name, what `fit` found: `center` (p,) and `scale` (1,); `middle` (p,) and `directions`
        (p, k <= 8); `whitening` (p, p); `classes` (c,) sorted, and `centroids` (c + 1, p), the last one
        of all vectors; `cells` (16 or fewer, p). All but the first two are in units of the scale.
    """

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.arrays = arrays
        self.whitening, self.directions, self.cells = (
            arrays[name] for name in ("whitening", "directions", "cells")
        )
        self._center, self._scale = arrays["center"], float(arrays["scale"][0])
        self._classes = arrays["classes"]

    @classmethod
    def fit(cls, vectors: Floats, classes: Floats | None = None) -> VectorReference:
        """Fit to (n, p) vectors and, if there are any, their (n,) classes, NaN where one is not known.

        The centre is the median of each coordinate, the scale the median distance from it over root(p). For
        all else, vectors farther away than five such distances are left out, so that a few wild ones do not
        become the directions.
        """
        center = np.median(vectors, axis=0)
        away = vectors - center
        distance = _norms(away)
        usual = float(np.median(distance)) or float(distance.mean()) or 1.0
        scale = float(usual / np.sqrt(vectors.shape[1])) or usual
        is_near = distance <= _CUT * usual
        near = away[is_near] / scale
        if classes is not None:
            classes = classes[is_near]
        middle = near.mean(axis=0)
        known, centroids, place = _centroids(near, classes)
        return cls(
            {
                "center": center,
                "scale": np.array([scale]),
                "middle": middle,
                "directions": _directions(near - middle),
                "whitening": _whitening(near - centroids[place]),
                "classes": known,
                "centroids": centroids,
                "cells": _cells(near),
            }
        )

    def standard(self, vectors: Floats) -> Floats:
        """Return (n, p) vectors from the centre in units of the scale, none of whose coordinates passes 1e6."""
        with np.errstate(over="ignore"):  # beyond all numbers is far enough
            found = (vectors - self._center) / self._scale
        return np.asarray(np.clip(found, -_FARTHEST, _FARTHEST))

    def class_places(self, classes: Floats | None, count: int) -> Ints:
        """Return (count,) rows of `centroids`: the class's own, the last one where it is not known."""
        return _places(self._classes, classes, count)


def _norms(vectors: Floats) -> Floats:
    """Return (n,) lengths, whatever the size of the numbers."""
    largest = np.abs(vectors).max(axis=1, initial=0)
    unit = np.where(largest > 0, largest, 1.0)
    return np.asarray(unit * np.sqrt(((vectors / unit[:, None]) ** 2).sum(axis=1)))


def _places(known: Floats, classes: Floats | None, count: int) -> Ints:
    if classes is None or not len(known):
        return np.full(count, len(known))
    place = np.minimum(np.searchsorted(known, classes), len(known) - 1)
    return np.where(known[place] == classes, place, len(known))


def _centroids(vectors: Floats, classes: Floats | None) -> tuple[Floats, Floats, Ints]:
    """Return the (c,) classes that are frequent enough, (c + 1, p) centroids, and (n,) rows of them."""
    known = np.empty(0)
    if classes is not None:
        found, counts = np.unique(classes[~np.isnan(classes)], return_counts=True)
        known = found[counts >= _FEWEST_OF_CLASS].astype(np.float64)
    place = _places(known, classes, len(vectors))
    own = [vectors[place == k].mean(axis=0) for k in range(len(known))]
    return known, np.array([*own, vectors.mean(axis=0)]), place


def _gram(vectors: Floats) -> Floats:
    """Return (p, p), the mean product of two coordinates; not by BLAS, whose threads change the last bits."""
    return products(np.ascontiguousarray(vectors.T), np.ascontiguousarray(vectors)) / len(vectors)


def _directions(vectors: Floats) -> Floats:
    """Return (p, k) principal directions of centred vectors, over the standard deviation along each.

    Signs are such that the largest part of a direction is positive. A direction without variance is 0.
    """
    variances, directions = np.linalg.eigh(_gram(vectors))
    variances, directions = variances[::-1][:DIRECTIONS], directions[:, ::-1][:, :DIRECTIONS]
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])]
    is_varied = variances > 1e-12 * max(variances[0], 1e-300)
    deviation = np.sqrt(np.where(is_varied, variances, 1.0))
    return np.ascontiguousarray(directions * np.sign(largest) / deviation * is_varied)


def _whitening(residuals: Floats) -> Floats:
    """Return (p, p), what makes the shrunk covariance of residuals the unit matrix: the metric.

    Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", Journal of
    Multivariate Analysis 88, 365-411, section 3.3 (doi:10.1016/S0047-259X(03)00096-4).
    """
    n, p = residuals.shape
    sample = _gram(residuals)
    mean_variance = float(np.trace(sample)) / p
    if mean_variance < 1e-12:  # rounding: all is as its centroid
        return np.eye(p)
    sphere = mean_variance * np.eye(p)
    spread = float(((sample - sphere) ** 2).sum())
    noise = float(((residuals**2).sum(axis=1) ** 2).sum() / n - (sample**2).sum()) / n
    share = min(max(noise / spread, _RIDGE), 1.0) if spread > 0 else 1.0
    lower = np.linalg.cholesky(share * sphere + (1 - share) * sample)
    return np.ascontiguousarray(np.linalg.inv(lower).T)


def _cells(vectors: Floats) -> Floats:
    """Return the centres of 16 cells, or of fewer where there are not so many different vectors.

    k-means++ (Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding", SODA) and then
    Lloyd's algorithm (1982, doi:10.1109/TIT.1982.1056489).
    """
    rng = np.random.default_rng(_SEED)
    centres = vectors[[rng.integers(len(vectors))]]
    apart = ((vectors - centres[0]) ** 2).sum(axis=1)
    while len(centres) < CELLS and apart.max() > 1e-12:
        at = int(np.searchsorted(np.cumsum(apart), rng.random() * apart.sum()))
        centres = np.vstack([centres, vectors[min(at, len(vectors) - 1)]])
        apart = np.minimum(apart, ((vectors - centres[-1]) ** 2).sum(axis=1))
    for _ in range(_ROUNDS):
        cell = nearest(products(vectors, np.ascontiguousarray(centres.T)), centres)
        centres = np.array(
            [
                vectors[cell == k].mean(axis=0) if (cell == k).any() else centres[k]
                for k in range(len(centres))
            ]
        )
    return centres


def nearest(inner: Floats, centres: Floats) -> Ints:
    """Return (n,) which of (c, p) centres is nearest, from the (n, c) inner products with them."""
    return np.asarray((inner - (centres**2).sum(axis=1) / 2).argmax(axis=1))
