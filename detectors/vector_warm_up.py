"""The first vectors of a stream of them: kept until there are enough to learn from."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from .base import usable
from .vector_reference import DIRECTIONS, MOST_DIMENSIONS, Mixing, VectorReference

WIDEST: Final = 4096
"""Vectors of more coordinates are not looked at."""
MOST_CELLS: Final = 1 << 20
"""Numbers that a warm-up keeps, at most: 8 MB."""
_LARGEST: Final = 1e38  # a number of 32 bits ends at 3.4e38
_FEWEST: Final = 50  # vectors of a warm-up; fewer say nothing of a covariance


class WarmUp:
    """The first vectors of one width, and what has been learnt from them.

    Parameters
    ----------
    vectors
        How many usable vectors are learnt from, 50 to 8192. Wide ones are kept as 128 numbers each.
    fewest, widest
        Coordinates that a vector may have. The first usable vector decides on the width.

    Raises
    ------
    ValueError
        `vectors` is out of range.
    """

    def __init__(self, vectors: int, fewest: int, widest: int) -> None:
        if not _FEWEST <= vectors <= MOST_CELLS // MOST_DIMENSIONS:
            raise ValueError(
                f"warmup_vectors must be {_FEWEST} to {MOST_CELLS // MOST_DIMENSIONS}, got {vectors}"
            )
        self.vectors = vectors
        self.width: int | None = None
        self.junk = 0
        """Vectors with a value that is not usable."""
        self.wrong_width = 0
        """Vectors of another width than the first one, or of none that is looked at."""
        self.changes = 0
        """Goes up whenever what `steady` returns does."""
        self.reference: VectorReference | None = None
        self.sample: list[Floats] = []
        self.classes: list[Floats] = []
        self._widths = range(fewest, widest + 1)
        self._mixing: Mixing | None = None

    def usable(self, vectors: Floats) -> Ints:
        """Return the rows of (n, d) vectors that can be used, and count the others."""
        width = vectors.shape[1]
        if width not in self._widths or self.width not in (None, width):
            self.wrong_width += len(vectors)
            return np.empty(0, np.int64)
        rows = np.flatnonzero(usable(vectors).all(axis=1))
        self.junk += len(vectors) - len(rows)
        if self.width is None and len(rows):
            self._set_width(width)
        return rows

    def _set_width(self, width: int) -> None:
        self.width = width
        self._mixing = Mixing(width) if width > MOST_DIMENSIONS else None

    def mixed(self, vectors: Floats) -> Floats:
        """Return (n, p) vectors in C order, mixed down where they are wide."""
        found = np.ascontiguousarray(vectors, np.float64)
        return self._mixing(found) if self._mixing is not None else found

    def learn(self, vectors: Floats, classes: Floats | None, rows: Ints) -> Ints:
        """Take rows into the sample while it is not full; return the rows after those."""
        if self.reference is not None or not len(rows):
            return rows
        missing = self.vectors - sum(map(len, self.sample))
        taken = rows[:missing]
        self.sample.append(self.mixed(vectors[taken]))
        self.classes.append(np.full(len(taken), np.nan) if classes is None else classes[taken])
        self.changes += 1
        if len(taken) == missing:
            self.reference = VectorReference.fit(*self.collected())
        return rows[missing:]

    def collected(self) -> tuple[Floats, Floats]:
        """Return the (n, p) sample and its (n,) classes."""
        return np.concatenate(self.sample), np.concatenate(self.classes)

    def forget_sample(self) -> None:
        """Drop the sample: all has been learnt from it."""
        self.sample, self.classes = [], []

    def meta(self) -> dict[str, int]:
        """Return what changes with every vector."""
        return {"junk": self.junk, "wrong_width": self.wrong_width}

    def load_meta(self, meta: dict[str, Any]) -> None:
        """Go on from `meta`."""
        self.junk, self.wrong_width = int(meta["junk"]), int(meta["wrong_width"])

    def steady(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the sample or what was learnt from it, for a snapshot."""
        meta = {"width": self.width, "vectors": self.vectors}
        if self.reference is not None:
            return meta, self.reference.arrays
        if not self.sample:
            return meta, {}
        sample, classes = self.collected()
        return meta, {"sample": sample, "sample_classes": classes}

    def load(self, meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Go on from `steady`; a warm-up keeps the size that it was begun with."""
        self.vectors = int(meta["vectors"])
        self.width = None
        if meta["width"] is not None:
            self._set_width(int(meta["width"]))
        self.reference = VectorReference(arrays) if "whitening" in arrays else None
        self.forget_sample()
        if "sample" in arrays:
            self.sample, self.classes = [arrays["sample"]], [arrays["sample_classes"]]


def direction_names(prefix: str, width: int) -> tuple[str, ...]:
    """Return the names of the streams along the principal directions of vectors of a width."""
    return tuple(f"{prefix}:pc{k + 1}" for k in range(min(DIRECTIONS, width)))


def narrowed(scores: Floats) -> Floats:
    """Return scores as numbers of 32 bits, none of them beyond 1e38."""
    return np.clip(scores, -_LARGEST, _LARGEST).astype(np.float32).astype(np.float64)


def check_lengths(
    vectors: Floats, offsets: Ints, rows: Ints, classes: Floats | Ints | None = None
) -> None:
    """Refuse arrays that do not belong together.

    Raises
    ------
    ValueError
        `vectors` is not (n, d), or the others are not (n,).
    """
    lengths = [len(array) for array in (vectors, offsets, rows, classes) if array is not None]
    if vectors.ndim != 2 or len(set(lengths)) != 1:
        raise ValueError(
            f"expected (n, d) vectors and as many offsets, rows and classes, got shape {vectors.shape} "
            f"and lengths {lengths}"
        )
