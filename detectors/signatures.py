"""Bounded fingerprints of images and embeddings of a training reference, and how many served ones are among them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from ..core.snapshot import check, pack, reading, unpack
from .coincidence import Law, Leak, late, leaked
from .fingerprint_kernel import BANDS, BITS, SKETCH, UNIT, WORDS, bands, neighbours, signatures
from .rowwise import products
from .vector_reference import MOST_DIMENSIONS, Mixing

MOST: Final = 1 << 17
"""Rows of which signatures are kept; of a larger reference every second one, or third, and so on."""
IMAGE_DISTANCE: Final = 0.25
"""Between unit vectors of two images: a JPEG of quality 75 is within 0.13 of its image (CIFAR-10, MNIST)."""
SLACK: Final = 3.0
"""Standard deviations that both estimates, of bits and of distance, may be above what is expected of vectors as far apart as allowed: nearly all that are nearer are found, and
some others, which the vectors themselves tell."""
EMBEDDING_DISTANCE: Final = 0.05
"""Between unit vectors of two embeddings: three digits, or a float16, are within 0.01."""
_KIND: Final = "signatures"
_SERVED: Final = "served signatures"
_VERSION: Final = 1
_WIDEST: Final = 256
_SEED: Final = 0x51697  # of the projections; any constant
_SIDE: Final = 32
_FREQUENCIES: Final = 16
IMAGE_WIDTH: Final = _FREQUENCIES**2 - 1
"""How many numbers the vector of an image has."""
_CHANNELS: Final = (1, 3, 4)
_LUMA: Final = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in JPEG
_LEAST_SPREAD: Final = 0.05
"""Of the largest standard deviation: a coordinate that varies less is as if it did, or noise would rule in it."""


def picture_size(shape: Sequence[int]) -> tuple[int, int] | None:
    """Return the height and width of images of a shape: (height, width), with 1, 3 or 4 channels last or first; None for others."""
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) == 3 and shape[2] in _CHANNELS:
        return shape[0], shape[1]
    return (shape[1], shape[2]) if len(shape) == 3 and shape[0] in _CHANNELS else None


def image_vectors(images: NDArray[Any]) -> Floats:
    """Return (n, 255) of images: what a perceptual hash looks at, which a JPEG hardly changes.

    Grey, averaged over areas to 32 by 32, and of that the cosine transform's 16 by 16 lowest frequencies without the
    mean (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", section 3.2.1), as a unit
    vector, so that neither brightness nor contrast matters; an image of one grey is 0.

    Parameters
    ----------
    images
        (n, height, width), (n, height, width, c) or (n, c, height, width) with c = 1, 3 or 4, of which the fourth is
        not looked at; of any scale.

    Raises
    ------
    ValueError
        Another shape.
    """
    x = np.asarray(images)
    if x.ndim not in (3, 4) or picture_size(x.shape[1:]) is None or 0 in x.shape[1:]:
        raise ValueError(
            "expected images of shape (n, height, width), with 1, 3 or 4 channels last or second, got "
            f"{images.shape}"
        )
    if x.ndim == 4 and x.shape[3] not in _CHANNELS:
        x = np.moveaxis(x, 1, 3)
    x = np.asarray(x, np.float64)
    if x.ndim == 4 and x.shape[3] == 1:
        x = x[..., 0]
    elif x.ndim == 4:
        red, green, blue = (weight * x[..., k] for k, weight in enumerate(_LUMA))
        x = red + green + blue
    n, height, width = x.shape
    # Not by BLAS, whose threads change the last bits.
    across = products(np.ascontiguousarray(x).reshape(-1, width), _transform(width))
    turned = np.ascontiguousarray(across.reshape(n, height, _FREQUENCIES).transpose(0, 2, 1))
    down = products(turned.reshape(-1, height), _transform(height))
    square = down.reshape(n, _FREQUENCIES, _FREQUENCIES).transpose(0, 2, 1)
    found: Floats = square.reshape(n, -1)[:, 1:]
    length = np.sqrt((found**2).sum(axis=1, keepdims=True))
    # What rounding leaves of an image of one grey is no picture.
    least = 1e-9 * np.abs(x).max(axis=(1, 2), initial=0)[:, None] * _SIDE
    return np.where(length > least, found / np.maximum(length, 1e-300), 0.0)


@lru_cache(maxsize=16)
def _transform(side: int) -> Floats:
    """Return (side, 16): averages over 32 parts of a side, and of these the lowest frequencies."""
    edges = np.arange(_SIDE + 1) * side / _SIDE
    pixel = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    areas = np.clip(overlap, 0, None) * _SIDE / side
    k = np.arange(_FREQUENCIES)[:, None]
    cosines = np.cos(np.pi * (2 * np.arange(_SIDE) + 1) * k / (2 * _SIDE))
    return products(np.ascontiguousarray(areas.T), np.ascontiguousarray(cosines.T))


class Signatures:
    """The vectors of a training reference, of which nothing is kept but signs and a sketch; it does not change.

    A vector is standardised by each coordinate's mean and standard deviation in the reference and made a unit vector.
    The signs of its products with 256 random directions are its signature, in which a bit differs with the
    probability of the angle over pi (Charikar 2002, "Similarity estimation techniques from rounding algorithms",
    doi:10.1145/509907.509965); 32 of the products, as bytes, tell the distance (Johnson and Lindenstrauss 1984).
    Compared are vectors that agree in one of 16 bands of 16 bits (Norouzi, Punjani and Fleet 2012, "Fast search in
    Hamming space with multi-index hashing", doi:10.1109/CVPR.2012.6248043).

    Parameters
    ----------
    arrays
        By name: `mean` and `scale` (p,), `bits` (m, 4) and `sketch` (m, 32), `unique` (m,) whether no other row of the
        reference is near.
    law
        What they tell about chance.
    every
        Rows of the reference for one that is kept.
    distance
        Between unit vectors that are near, in (0, 1).

    Notes
    -----
    65 bytes a row in a snapshot, 130 in memory, `MOST` rows at the most: 17 MB.
    """

    def __init__(
        self, arrays: dict[str, NDArray[Any]], law: Law, every: int, distance: float
    ) -> None:
        self.arrays = arrays
        self.law = law
        self.every = every
        self.distance = distance
        self.unique: NDArray[np.bool_] = arrays["unique"]
        self._projections = Projections(arrays["mean"], arrays["scale"])
        self._order = np.empty((BANDS, len(self)), np.int32)
        self._starts = np.zeros((BANDS, (1 << 16) + 1), np.int32)
        bands(arrays["bits"], self._order, self._starts)

    def __len__(self) -> int:
        return len(self.arrays["bits"])

    @property
    def width(self) -> int:
        """How many numbers a vector has."""
        return len(self.arrays["mean"])

    @classmethod
    def fit(
        cls, vectors: Floats, distance: float = EMBEDDING_DISTANCE, most: int = MOST
    ) -> Signatures:
        """Take (n, p) vectors of a reference, in their order in time where they have one.

        Raises
        ------
        ValueError
            No vectors, a number that is not finite, or a distance outside (0, 1).
        """
        if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
            raise ValueError(f"expected (n, p) finite numbers, n > 0, got {vectors.shape}")
        if not 0 < distance < 1 or most < 1:
            raise ValueError(
                f"expected a distance within (0, 1) and most 1 or more, got {distance} and {most}"
            )
        every = -(-len(vectors) // most)
        kept = np.ascontiguousarray(vectors[::every], np.float64)
        project = Projections.fit(kept)
        bits, sketch = project(kept)
        found = cls.of(project, bits, sketch, distance, every)
        nearest, count = found.pairs()
        found.unique[:] = count == 0
        is_late = late(len(kept)) > 0
        of_pair = count == 1
        found.law = Law(
            len(kept), int((count == 0).sum()), int((count > 1).sum()), int(of_pair.sum()) // 2,
            int(is_late.sum()), int((is_late & (count > 1)).sum()),
            int((is_late & of_pair & ~is_late[nearest]).sum()),
        )  # fmt: skip
        return found

    @classmethod
    def of(
        cls,
        project: Projections,
        bits: NDArray[np.uint64],
        sketch: NDArray[np.int8],
        distance: float = EMBEDDING_DISTANCE,
        every: int = 1,
    ) -> Signatures:
        """Take what `project` made of the vectors of a reference, of which nothing is known about chance."""
        arrays: dict[str, NDArray[Any]] = {
            "mean": project.mean, "scale": project.scale, "bits": bits, "sketch": sketch,
            "unique": np.zeros(len(bits), np.bool_),
        }  # fmt: skip
        return cls(arrays, Law(0, 0, 0, 0, 0, 0, 0), every, distance)

    def pairs(self, slack: float = SLACK) -> tuple[Ints, Ints]:
        """Return of each row of the reference the (m,) nearest other row, -1 for none near, and how many are near; see `SLACK`."""
        return self._near(self.arrays["bits"], self.arrays["sketch"], itself=True, slack=slack)

    def near(
        self, bits: NDArray[np.uint64], sketch: NDArray[np.int8], slack: float = SLACK
    ) -> Ints:
        """Return the (n,) nearest rows of the reference to what `Projections` made of n vectors, -1 for none near."""
        return self._near(bits, sketch, itself=False, slack=slack)[0]

    def find(self, vectors: Floats) -> Ints:
        """Return the (n,) rows of the reference that (n, p) vectors are near to, -1 for none."""
        if vectors.ndim != 2 or vectors.shape[1] != len(self.arrays["mean"]):
            raise ValueError(
                f"expected vectors of shape (n, {len(self.arrays['mean'])}), got {vectors.shape}"
            )
        is_known = np.isfinite(vectors).all(axis=1)
        found = np.full(len(vectors), -1)
        found[is_known] = self._near(*self._projections(vectors[is_known]), itself=False)[0]
        return found

    def _near(
        self,
        bits: NDArray[np.uint64],
        sketch: NDArray[np.int8],
        *,
        itself: bool,
        slack: float = SLACK,
    ) -> tuple[Ints, Ints]:
        nearest, count = np.empty(len(bits), np.int64), np.empty(len(bits), np.int64)
        share = np.arcsin(self.distance / 2) * 2 / np.pi
        most_bits = int(np.ceil(BITS * share + slack * np.sqrt(BITS * share)))
        most = SKETCH * (self.distance / UNIT) ** 2 * (1 + slack * np.sqrt(2 / SKETCH)) + SKETCH / 6
        neighbours(
            bits, sketch, itself, self.arrays["bits"], self.arrays["sketch"], self._order,
            self._starts, most_bits, most, nearest, count,
        )  # fmt: skip
        return nearest, count

    def snapshot(self) -> bytes:
        """Return the reference: versioned, checksummed, no pickle."""
        meta = {"law": [*self.law], "every": self.every, "distance": self.distance}
        return pack(_KIND, _VERSION, meta, self.arrays)

    @classmethod
    def restore(cls, state: bytes) -> Signatures:
        """Return the reference of a snapshot.

        Raises
        ------
        StateError
            The bytes are damaged or of another version.
        """
        meta, arrays = unpack(_KIND, _VERSION, state)
        with reading(_KIND):
            width, rows = arrays["mean"].shape[0], len(arrays["bits"])
            for name, shape, dtype in (
                ("mean", (width,), np.float64), ("scale", (width,), np.float64),
                ("bits", (rows, WORDS), np.uint64), ("sketch", (rows, SKETCH), np.int8),
                ("unique", (rows,), np.bool_),
            ):  # fmt: skip
                check(arrays[name], name, shape, np.dtype(dtype))
            law = Law(*map(int, meta["law"]))
            return cls(arrays, law, int(meta["every"]), float(meta["distance"]))


class Projections:
    """From vectors to signatures and sketches, the same ones for ever.

    Parameters
    ----------
    mean, scale
        (p,) of the vectors' coordinates.
    """

    def __init__(self, mean: Floats, scale: Floats) -> None:
        self.mean, self.scale = mean, scale
        self._mix = Mixing(len(mean)) if len(mean) > _WIDEST else None
        width = MOST_DIMENSIONS if self._mix else len(mean)
        self._directions = np.random.default_rng(_SEED).standard_normal((width, BITS))

    @classmethod
    def fit(cls, vectors: Floats) -> Projections:
        """Return those that standardise by (n, p) vectors."""
        spread = vectors.std(axis=0)
        scale = np.maximum(spread, max(_LEAST_SPREAD * float(spread.max()), 1e-300))
        return cls(vectors.mean(axis=0), scale)

    def __call__(self, vectors: Floats) -> tuple[NDArray[np.uint64], NDArray[np.int8]]:
        """Return (n, WORDS) signatures and (n, SKETCH) sketches of (n, p) vectors."""
        with np.errstate(over="ignore"):
            unit = np.clip((vectors - self.mean) / self.scale, -1e100, 1e100)
        if self._mix:
            unit = self._mix(unit)
        unit /= np.maximum(np.sqrt((unit**2).sum(axis=1, keepdims=True)), 1e-300)
        bits = np.empty((len(unit), WORDS), np.uint64)
        sketch = np.empty((len(unit), SKETCH), np.int8)
        # Not by BLAS, whose threads change the last bits.
        signatures(products(np.ascontiguousarray(unit), self._directions), bits, sketch)
        return bits, sketch


class ServedVectors:
    """How often served vectors were near to those of a reference, as whole numbers: order and merges change nothing.

    Parameters
    ----------
    reference
        What they are looked up in.

    Notes
    -----
    Bounded: 4 bytes a row of the reference.
    """

    def __init__(self, reference: Signatures) -> None:
        self._reference = reference
        self._rows = np.zeros(1, np.int64)
        self._hits = np.zeros(len(reference), np.int32)

    def add(self, vectors: Floats) -> Ints:
        """Take (n, p) served vectors in; return the (n,) rows of the reference that each is near to, or -1.

        A vector with a number that is not finite is near to none.
        """
        places = self._reference.find(vectors)
        self._rows += len(vectors)
        np.add.at(self._hits, places[places >= 0], 1)
        return np.where(places >= 0, places * self._reference.every, -1)

    def merge(self, other: ServedVectors) -> None:
        """Add what another has counted of the same reference."""
        if len(self._hits) != len(other._hits):
            raise ValueError("expected counts of the same reference, found those of another one")
        self._rows = self._rows + other._rows
        self._hits = self._hits + other._hits

    def leak(self) -> Leak | None:
        """Return what is known; None if nothing is."""
        unique = self._reference.unique
        met = self._hits[unique & (self._hits > 0)].astype(np.int64)
        common = int(self._hits[~unique].sum())
        return leaked(
            self._reference.law, int(self._rows[0]), met, common, self._reference.every
        )  # fmt: skip

    def snapshot(self) -> bytes:
        """Return the counts; the reference has a snapshot of its own."""
        return pack(_SERVED, _VERSION, {}, {"rows": self._rows, "hits": self._hits})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot of counts against the same reference.

        Raises
        ------
        StateError
            The bytes are damaged, of another version or of another reference; the counts are as before.
        """
        _, arrays = unpack(_SERVED, _VERSION, state)
        with reading(_SERVED):
            check(arrays["rows"], "rows", self._rows.shape, self._rows.dtype)
            check(arrays["hits"], "hits", self._hits.shape, self._hits.dtype)
            self._rows, self._hits = arrays["rows"], arrays["hits"]
