"""What inputs are known by: keys of their bytes, and of what is nearly the same; no input is kept."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from ..detectors.content_keys import content_keys
from ..detectors.fingerprint_kernel import Keys
from ..detectors.fingerprints import KeyIndex, RowKeys, Scheme
from ..detectors.signatures import (
    EMBEDDING_DISTANCE,
    IMAGE_DISTANCE,
    MOST,
    SLACK,
    Projections,
    Signatures,
    image_vectors,
    picture_size,
)
from .parts import COLUMNS

Form = Literal["image", "table", "vector", "other"]
_FIRST: Final = 1024
"""Rows by which the others are scaled (chosen)."""
_WIDEST: Final = 4096  # numbers of a vector; chosen
_SMALLEST: Final = 8  # pixels of a picture's side; chosen
_SURE: Final = -1.0
"""In place of `SLACK` where nothing can be worked out. Chosen: of 7,000 MNIST digits one is then called nearly equal to another one, with `SLACK` 43, of 6,000 pictures of CIFAR
none, and all of 100 that were encoded again are found, as with -2."""


def form_of(x: NDArray[Any]) -> Form:
    """Return how (n, ...) inputs are compared for being nearly the same; `other` for not at all."""
    shape = x.shape[1:]
    size = picture_size(shape) if len(shape) in (2, 3) else None
    if size is not None and min(size) >= _SMALLEST:
        return "image"
    if not x[:1].size:
        return "other"
    if len(shape) < 2 and int(np.prod(shape)) <= COLUMNS:
        return "table"
    if x.dtype.kind != "f":
        return "other"
    return "vector" if int(np.prod(shape)) <= _WIDEST else "other"


class Near(NamedTuple):
    """What n rows are known by besides their bytes; of a form that has it, and which rows have it."""

    known: NDArray[np.bool_]
    bits: NDArray[np.uint64] | None = None
    sketch: NDArray[np.int8] | None = None
    keys: RowKeys | None = None
    halves: NDArray[np.uint64] | None = None


class Contents:
    """The inputs of a data set, each known by some bytes.

    Notes
    -----
    72 bytes a picture or vector, 112 a row of a table, of the first 131,072; 16 bytes of each one after these, 32 of a table. While pairs are looked for, and after it, some 130 more
    each, which are not copied to files.
    """

    def __init__(self) -> None:
        self.form: Form | None = None
        self.dtype: np.dtype[Any] | None = None
        self.shape: tuple[int, ...] = ()
        self._samples: list[Ints] = []
        self._exact: list[Keys] = []
        self._halves: list[NDArray[np.uint64]] = []
        self._near: list[Near] = []
        self._near_rows = 0
        self._waiting: list[Floats] = []
        self._can_fit = False
        self._index: KeyIndex | None = None  # of what has come; None where more has since
        self._signed: Signatures | None = None
        self._projections: Projections | None = None
        self._scheme: Scheme | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_index": None, "_signed": None}

    def add(self, samples: Ints, x: NDArray[Any]) -> Keys:
        """Take n inputs in, and return their (n,) exact keys."""
        if self.form is None:
            self.form, self.dtype, self.shape = form_of(x), x.dtype, x.shape[1:]
        exact = content_keys(x)
        self._samples.append(samples)
        self._exact.append(exact)
        if self.form == "table":
            flat = x.reshape(len(x), -1)
            self._halves.append(np.stack([content_keys(flat[:, k::2]) for k in (0, 1)]))
        if self.form == "table" and x.dtype.kind != "f":
            return exact  # of whole numbers another one is another value
        if self.form != "other" and x.shape[1:] == self.shape and self._near_rows < MOST:
            vectors = self._vectors(x)
            self._waiting.append(vectors)
            self._near_rows += len(x)
            self._can_fit = self._can_fit or self.form == "table" or bool(_is_known(vectors).any())
            if self._is_fitted or (self._can_fit and self._near_rows >= _FIRST):
                self._flush()
        elif self.form != "other" and self._near_rows < MOST:
            self._near_rows = (
                MOST  # sizes that differ: nothing can be said of rows that are nearly the same
            )
        return exact

    @property
    def count(self) -> int:
        """How many samples have come."""
        return sum(map(len, self._samples))

    @property
    def samples(self) -> Ints:
        """(m,) the samples, in the order in which they came."""
        return np.concatenate([np.empty(0, np.int64), *self._samples])

    @property
    def exact(self) -> Keys:
        """(m,) their keys."""
        return np.concatenate([np.empty(0, np.uint64), *self._exact])

    def chance(self, *, near: bool = False) -> float:
        """Return how likely two rows of a table are equal, or nearly, by chance: as if its even columns knew nothing of the odd ones; 0 else."""
        self._flush()
        parts = [one.halves for one in self._near if one.halves is not None]
        parts = parts if near else self._halves
        if not parts:
            return 0.0
        found = 1.0
        for keys in np.concatenate(parts, axis=1):
            _, counts = np.unique(keys, return_counts=True)
            found *= float((counts * (counts - 1.0)).sum()) / max(len(keys) * (len(keys) - 1), 1)
        return found

    def near(self, *, sure: bool = False) -> Ints:
        """Return of each of the first rows the place of an earlier one that it is nearly equal to, itself included; -1 for none.

        Of pictures and vectors they may be so, which `is_near` tells of the inputs; `sure` where those are not there any more.
        """
        self._flush()
        if not self._near:
            return np.empty(0, np.int64)
        if self.form == "table":
            keys, index = self._keys()
            places = index.find_near(keys)
            found = np.where(places >= 0, index.first[places].astype(np.int64), -1)
        else:
            found = self._signatures().pairs(_SURE if sure else SLACK)[0]
        known = np.concatenate([one.known for one in self._near])
        found = np.where(known & known[found], found, -1)
        return np.where(found < np.arange(len(found)), found, -1)

    def matches(self, x: NDArray[Any], *, sure: bool = False) -> tuple[Keys, Ints]:
        """Return of (n, ...) inputs of another split their exact keys, and the (n,) places here that they are nearly equal to, or may be, as in `near`; -1 for none."""
        x = x.astype(self.dtype or x.dtype, copy=False)
        none = np.full(len(x), -1, np.int64)
        self._flush()
        if not self._near or x.shape[1:] != self.shape:
            return content_keys(x), none
        vectors = self._vectors(x)
        if self.form == "table" and self._scheme is not None:
            index = self._keys()[1]
            places = index.find_near(self._scheme.keys(vectors))
            return content_keys(x), np.where(places >= 0, index.first[places].astype(np.int64), -1)
        assert self._projections is not None
        is_known = _is_known(vectors)
        made = self._projections(vectors[is_known])
        found = self._signatures().near(*made, _SURE if sure else SLACK)
        known = np.concatenate([one.known for one in self._near])
        none[is_known] = np.where(known[found], found, -1)
        return content_keys(x), none

    def is_near(self, x: NDArray[Any], z: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which of n inputs are nearly equal to n others, of which signatures have said that they may be.

        Signatures estimate the distance; here it is worked out, of what they stand for and, so that pictures of one
        kind (two ones of one hand) are not taken for copies, of the pixels less their mean.
        """
        if self._projections is None or not len(x):
            return np.ones(len(x), np.bool_)
        limit = IMAGE_DISTANCE if self.form == "image" else EMBEDDING_DISTANCE
        scaled = [
            (self._vectors(y) - self._projections.mean) / self._projections.scale for y in (x, z)
        ]
        found: NDArray[np.bool_] = _distance(*scaled) <= limit
        if self.form == "image":
            flat = [y.reshape(len(y), -1).astype(np.float64) for y in (x, z)]
            found &= _distance(*(y - y.mean(axis=1, keepdims=True) for y in flat)) <= limit
        return found

    @property
    def _is_fitted(self) -> bool:
        return self._projections is not None or self._scheme is not None

    def _vectors(self, x: NDArray[Any]) -> Floats:
        if self.form == "image":
            with np.errstate(invalid="ignore"):
                return image_vectors(x)
        return x.reshape(len(x), -1).astype(np.float64)

    def _flush(self) -> None:
        if not self._waiting:
            return
        self._index = self._signed = None
        rows = np.concatenate(self._waiting)
        self._waiting.clear()
        if self.form == "table":
            if self._scheme is None:
                self._scheme = Scheme.fit(rows, [str(k) for k in range(rows.shape[1])])
            every = np.ones(len(rows), np.bool_)
            halves = np.stack([_half(self._scheme, rows, k) for k in (0, 1)])
            self._near.append(Near(every, keys=self._scheme.keys(rows), halves=halves))
            return
        is_known = _is_known(rows)
        if self._projections is None:
            self._projections = Projections.fit(rows[is_known]) if is_known.any() else None
        if self._projections is None:
            self._waiting.append(rows)
            return
        made = self._projections(np.where(is_known[:, None], rows, 0.0))
        self._near.append(Near(is_known, *made))

    def _keys(self) -> tuple[RowKeys, KeyIndex]:
        parts = [one.keys for one in self._near if one.keys is not None]
        keys = RowKeys(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        self._index = self._index or KeyIndex.of_near(keys)
        return keys, self._index

    def _signatures(self) -> Signatures:
        if self._signed is None:
            assert self._projections is not None
            distance = IMAGE_DISTANCE if self.form == "image" else EMBEDDING_DISTANCE
            bits = np.concatenate([one.bits for one in self._near if one.bits is not None])
            sketch = np.concatenate([one.sketch for one in self._near if one.sketch is not None])
            self._signed = Signatures.of(self._projections, bits, sketch, distance)
        return self._signed


def _is_known(rows: Floats) -> NDArray[np.bool_]:
    """Return which of (n, p) vectors are such; one grey is no picture."""
    found: NDArray[np.bool_] = np.isfinite(rows).all(axis=1) & (rows != 0).any(axis=1)
    return found


def _half(scheme: Scheme, rows: Floats, first: int) -> Keys:
    """Return the (n,) near keys of every other column."""
    part = Scheme(scheme.numbers[first::2], (), scheme.steps[first::2])
    return part.keys(rows[:, first::2]).near


def _distance(x: Floats, z: Floats) -> Floats:
    """Return the (n,) distances of (n, p) vectors to others, as unit vectors."""
    units = [y / np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-300) for y in (x, z)]
    found: Floats = np.linalg.norm(units[0] - units[1], axis=1)
    return found
