"""Embeddings as scalar streams, for detectors that watch numbers and categories.

No detectors live here: whatever watches the streams decides, with one false-alarm budget for all of them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from ..core.columns import Floats, Ints
from ..core.snapshot import check, pack, unpack
from .base import Observations
from .kernel_test import BLOCK, KernelMean, waves
from .rowwise import distances, products
from .vector_reference import CELLS, DIRECTIONS, MOST_DIMENSIONS, VectorReference, nearest
from .vector_warm_up import WIDEST, WarmUp, check_lengths, direction_names, narrowed

CELL: Final = "embedding:cell"
"""The stream that is a category."""
_TILE: Final = 256  # rows worked on at a time, so that they stay in the cache from step to step
_NEAR_FREQUENCIES: Final = 64  # of one vector's kernel distance; 256 find little sooner
_BLOCK_FREQUENCIES: Final = 128  # of a block's; 256 find small shifts a sixth sooner


_KERNELS: Final[tuple[str, ...]] = ("near", "near_mean", "block", "block_mean")
_FLOATS: Final = np.dtype(np.float64)


class _Map(NamedTuple):
    """The fixed map of one vector to its scores.

    Parameters
    ----------
    reference
        What was learnt from the warm-up.
    near, block
        Its means in the spaces of two kernels: of vectors as they are, and of whitened ones.
    matrix
        (p, q): whitening, directions, frequencies of the two kernels and cells, side by side.
    ends
        Columns at which the first four parts of the matrix end.
    middle
        (k,) the warm-up's mean along the directions.
    centroids
        (c + 1, p) whitened.
    """

    reference: VectorReference
    near: KernelMean
    block: KernelMean
    matrix: Floats
    ends: tuple[int, int, int, int]
    middle: Floats
    centroids: Floats

    @classmethod
    def fit(cls, reference: VectorReference, sample: Floats) -> _Map:
        standard = reference.standard(sample)
        # Distance in the vectors' own space finds shifts that few directions share, MMD^2 in the whitened
        # one those of the directions with little variance.
        near = KernelMean.fit(standard, _NEAR_FREQUENCIES)
        block = KernelMean.fit(products(standard, reference.whitening), _BLOCK_FREQUENCIES)
        return cls.of(reference, near, block)

    @classmethod
    def of(cls, reference: VectorReference, near: KernelMean, block: KernelMean) -> _Map:
        parts = (
            reference.whitening,
            reference.directions,
            near.frequencies,
            products(reference.whitening, block.frequencies),
            reference.cells.T,
        )
        a, b, c, d, _ = np.cumsum([part.shape[1] for part in parts]).tolist()
        return cls(
            reference,
            near,
            block,
            np.ascontiguousarray(np.hstack(parts)),
            (a, b, c, d),
            products(reference.arrays["middle"][None, :], reference.directions)[0],
            products(reference.arrays["centroids"], reference.whitening),
        )

    def scores(self, vectors: Floats, classes: Floats | None, found: Floats) -> Floats:
        """Fill the (n, k) scores of mixed vectors, but the block's; return (n, 2 m) features for that."""
        reference = self.reference
        a, b, c, d = self.ends
        parts = products(reference.standard(vectors), self.matrix)
        places = reference.class_places(classes, len(vectors))
        along = parts[:, a:b] - self.middle
        along[:, ~reference.directions.any(axis=0)] = np.nan
        found[:, 0] = distances(parts[:, :a], self.centroids, places)
        found[:, 1:-3] = along
        found[:, -3] = self.near.distance(waves(np.ascontiguousarray(parts[:, b:c])))
        found[:, -1] = nearest(parts[:, d:], reference.cells)
        return waves(np.ascontiguousarray(parts[:, c:d]))


class EmbeddingStreams:
    """Embeddings as scalar streams: the first vectors are learnt from, each later one is mapped by itself.

    Streams of a row, all NaN during the warm-up and where the vector cannot be used:

    `embedding:distance`
        To the centroid of its predicted class, or to that of all vectors where the class is not known or was
        rare in the warm-up, in the metric of the warm-up's covariance within classes (Mahalanobis 1936).
    `embedding:pc1` to `pc8`
        Along the warm-up's principal directions, in standard deviations; fewer of narrower vectors, and
        NaN along a direction that had no variance.
    `embedding:kernel`
        Squared distance to the warm-up in the space of a Gaussian kernel: large where the warm-up is thin.
    `embedding:mmd`
        MMD^2 of each block of vectors against the warm-up, where the row ends a block; NaN elsewhere.
    `embedding:cell`
        The nearest of 16 centres of the warm-up, a category: shares change when a class goes missing.

    Parameters
    ----------
    warmup_vectors
        How many usable vectors are learnt from, 50 to 8192.
    block
        Vectors in a block of `embedding:mmd`, 2 or more.

    Raises
    ------
    ValueError
        A parameter is out of range.

    Notes
    -----
    Guarantees: vectors that are exchangeable after the warm-up have scores that are, since the map is fixed
    by then (and blocks of them too; see `KernelMean`), so that all streams can share the budget of a
    conformal detector. State and scores are the same bits at any batch cut, since no product is left to
    BLAS; scores are numbers of 32 bits, because what was learnt may differ in the last of 64 bits where it is
    learnt again on another machine. Memory is bounded: vectors of more than 128 coordinates, up to 4,096, are
    mixed down to 128 sums (`Mixing`), and the warm-up is dropped once learnt from.

    `embedding:mmd` comes once in a block: a detector that waits for some 500 values of a stream begins with
    it after 25,000 vectors. Give it one that waits for fewer.

    A vector with a value that is not usable, or of another width than the first usable one, changes no
    state but a counter. Each width of a version should have streams of its own, as detectors of logits do.

    Examples
    --------
    >>> import numpy as np
    >>> from tocsin.detectors.embedding import EmbeddingStreams
    >>> rng, place = np.random.default_rng(0), np.arange(600)
    >>> streams = EmbeddingStreams(warmup_vectors=500).update(
    ...     rng.normal(size=(600, 3)), None, place, np.zeros_like(place)
    ... )
    >>> streams.names[:4]
    ('embedding:distance', 'embedding:pc1', 'embedding:pc2', 'embedding:pc3')
    >>> np.flatnonzero(~np.isnan(streams.values[:, 0]))[0].item()
    500
    """

    def __init__(self, warmup_vectors: int = 1000, block: int = BLOCK) -> None:
        if block < 2:
            raise ValueError(f"block must be 2 or more, got {block}")
        self.block = block
        self.warm_up = WarmUp(warmup_vectors, 1, WIDEST)
        self._map: _Map | None = None
        self._sums = np.zeros(2 * _BLOCK_FREQUENCIES)
        self._count = 0

    @property
    def is_fitted(self) -> bool:
        """Whether the warm-up is over."""
        return self._map is not None

    def update(
        self, vectors: Floats, classes: Floats | Ints | None, offsets: Ints, rows: Ints
    ) -> Observations:
        """Take vectors in; return their streams.

        Parameters
        ----------
        vectors
            (n, d) embeddings.
        classes
            (n,) numbers that stand for the predicted classes, NaN where there is none; None for no class
            at all.
        offsets, rows
            (n,) which event each vector is of.

        Returns
        -------
        Observations
            (n, 4 + min(8, d)) values.

        Raises
        ------
        ValueError
            The arrays are not of one length; the state is as it was.
        """
        check_lengths(vectors, offsets, rows, classes)
        codes = None if classes is None else np.asarray(classes, np.float64)
        along = direction_names("embedding", self.warm_up.width or vectors.shape[1])
        names = ("embedding:distance", *along, "embedding:kernel", "embedding:mmd", CELL)
        values = np.full((len(vectors), len(names)), np.nan)
        wanted = self.warm_up.learn(vectors, codes, self.warm_up.usable(vectors))
        if self._map is None and self.warm_up.reference is not None:
            self._map = _Map.fit(self.warm_up.reference, self.warm_up.collected()[0])
            self.warm_up.forget_sample()
        for begin in range(0, len(wanted), _TILE):
            some = wanted[begin : begin + _TILE]
            values[some] = self._scores(vectors[some], None if codes is None else codes[some])
        return Observations(
            names=names,
            values=narrowed(values),
            offsets=offsets,
            rows=rows,
            categories=frozenset([CELL]),
        )

    def _scores(self, vectors: Floats, classes: Floats | None) -> Floats:
        """Return (n, k) scores of usable vectors after the warm-up."""
        assert self._map is not None
        found = np.empty((len(vectors), self._map.ends[1] - self._map.ends[0] + 4))
        features = self._map.scores(self.warm_up.mixed(vectors), classes, found)
        found[:, -2], self._count = self._map.block.mmd(
            features, self.block, self._sums, self._count
        )
        return found

    def steady(self) -> bytes:
        """Return what is waited for or was learnt: large, and unchanged once learnt."""
        meta, arrays = self.warm_up.steady()
        if self._map is not None:
            near, block = self._map.near, self._map.block
            meta["size"] = near.size
            arrays = arrays | {
                "near": near.frequencies, "near_mean": near.mean,
                "block": block.frequencies, "block_mean": block.mean,
            }  # fmt: skip
        return pack("embedding_steady", 1, meta, arrays)

    def restore_steady(self, state: bytes) -> None:
        """Go on from `steady`.

        Raises
        ------
        StateError
            The bytes are damaged, or an array is missing or of another shape.
        """
        meta, arrays = unpack("embedding_steady", 1, state)
        kernels = {name: arrays.pop(name) for name in _KERNELS if name in arrays}
        self.warm_up.load(meta, arrays)
        check_learnt(self.warm_up)
        self._map = None
        if self.warm_up.reference is not None:
            p = len(self.warm_up.reference.whitening)
            near, block = 2 * _NEAR_FREQUENCIES, 2 * _BLOCK_FREQUENCIES
            shapes = ((p, near // 2), (near,), (p, block // 2), (block,))
            for name, shape in zip(_KERNELS, shapes, strict=True):
                check(kernels[name], name, shape, _FLOATS)
            self._map = _Map.of(
                self.warm_up.reference,
                KernelMean(kernels["near"], kernels["near_mean"], meta["size"]),
                KernelMean(kernels["block"], kernels["block_mean"], meta["size"]),
            )

    def volatile(self) -> bytes:
        """Return the state that changes with every vector."""
        meta = {"count": self._count, "block": self.block, **self.warm_up.meta()}
        return pack("embedding", 1, meta, {"sums": self._sums})

    def restore_volatile(self, state: bytes) -> None:
        """Go on from `volatile`; blocks keep the size that they were begun with."""
        meta, arrays = unpack("embedding", 1, state)
        check(arrays["sums"], "the sums of a block", self._sums.shape, _FLOATS)
        self.warm_up.load_meta(meta)
        self._sums, self._count, self.block = arrays["sums"], int(meta["count"]), int(meta["block"])

    def snapshot(self) -> bytes:
        """Return the whole state."""
        return pack(
            "embedding_whole", 1, {"steady": self.steady(), "volatile": self.volatile()}, {}
        )

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot."""
        parts, _ = unpack("embedding_whole", 1, state)
        self.restore_steady(parts["steady"])
        self.restore_volatile(parts["volatile"])


def check_learnt(warm_up: WarmUp) -> None:
    """Refuse what a warm-up that was loaded cannot have kept or learnt.

    Raises
    ------
    StateError
        An array is of another shape or type; see `VectorReference`.
    """
    p = min(warm_up.width or 0, MOST_DIMENSIONS)
    for sample, classes in zip(warm_up.sample, warm_up.classes, strict=True):
        check(sample, "sample", (len(classes), p), _FLOATS)
        check(classes, "classes of the sample", (len(classes),), _FLOATS)
    if warm_up.reference is None:
        return
    arrays = warm_up.reference.arrays
    known, cells = arrays["classes"].size, min(len(arrays["cells"]), CELLS)
    shapes: dict[str, tuple[int, ...]] = {
        "center": (p,), "scale": (1,), "middle": (p,), "directions": (p, min(p, DIRECTIONS)),
        "whitening": (p, p), "classes": (known,), "centroids": (known + 1, p), "cells": (cells, p),
    }  # fmt: skip
    for name, shape in shapes.items():
        check(arrays[name], name, shape, _FLOATS)
