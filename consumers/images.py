"""The raw inputs of events that are images, as vectors; and what of those of training is kept, which is no image."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from ..core.errors import StateError
from ..core.events import Tensor
from ..core.snapshot import pack, reading, unpack
from ..detectors.signatures import (
    IMAGE_DISTANCE,
    IMAGE_WIDTH,
    Signatures,
    image_vectors,
    picture_size,
)

Size = tuple[int, int]
Inputs = NDArray[np.object_]

MOST_SIZES: Final = 64
"""Heights and widths of which images are kept: the first that come (chosen)."""
LEAST_SIDE: Final = 8
"""Below a JPEG's block too little is left of a picture; and a table's row may come as a tensor of height 1."""
_DTYPES: Final = {"uint8": "u1", "float16": "<f2", "float32": "<f4", "float64": "<f8"}
_LARGEST: Final = 1e100  # beyond which squares are infinite
_ELEMENTS: Final = 1 << 20  # turned at once: 8 MB a copy


class Images(NamedTuple):
    """What is kept of the images of training.

    Parameters
    ----------
    signatures
        Those of their vectors.
    sizes
        Their heights and widths: images of others are not looked up.
    """

    signatures: Signatures
    sizes: frozenset[Size]

    def snapshot(self) -> bytes:
        """Return it: versioned, checksummed, no pickle."""
        meta = {"sizes": sorted(self.sizes), "signatures": self.signatures.snapshot()}
        return pack("training images", 1, meta, {})

    @classmethod
    def restore(cls, state: bytes) -> Images:
        """Return what a snapshot holds.

        Raises
        ------
        StateError
            The bytes are damaged or of another version.
        """
        meta, _ = unpack("training images", 1, state)
        with reading("training images"):
            sizes = frozenset(msgspec.convert(meta["sizes"], list[Size]))
            found = cls(Signatures.restore(meta["signatures"]), sizes)
        if found.signatures.width != IMAGE_WIDTH or len(sizes) > MOST_SIZES:
            raise StateError(
                f"training images: expected {IMAGE_WIDTH} numbers of each and {MOST_SIZES} sizes at most, found "
                f"{found.signatures.width} and {len(sizes)}"
            )
        return found


class ImageCollector:
    """Takes in the images of training, of which it keeps vectors."""

    def __init__(self) -> None:
        self._sizes: set[Size] = set()
        self._vectors: list[NDArray[np.float32]] = []

    def add(self, inputs: Inputs) -> None:
        """Take (n,) inputs in; those that are no images, or of a size too many, are left out."""
        for image in inputs.tolist():
            size = size_of(image)
            if size is not None and len(self._sizes) < MOST_SIZES:
                self._sizes.add(size)
        vectors = vectors_of(inputs, np.arange(len(inputs)), self._sizes)[1]
        if len(vectors):
            self._vectors.append(vectors.astype(np.float32))

    def images(self) -> Images | None:
        """Return what is kept of them; None where there were none."""
        if not self._vectors:
            return None
        vectors = np.concatenate(self._vectors).astype(np.float64)
        return Images(Signatures.fit(vectors, IMAGE_DISTANCE), frozenset(self._sizes))


def size_of(image: Tensor | None) -> Size | None:
    """Return the height and width of an input that is an image; None for others."""
    if image is None or image.dtype not in _DTYPES:
        return None
    size = picture_size(image.shape)
    return size if size is not None and min(size) >= LEAST_SIDE else None


def vectors_of(inputs: Inputs, places: Ints, sizes: Collection[Size]) -> tuple[Ints, Floats]:
    """Return (m,) which of the inputs at some `places` are images of some sizes, and their (m, 255) vectors.

    An image of one grey, or with a number that is not finite, is none.
    """
    alike: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    every: list[Any] = inputs.tolist()
    for place in places.tolist():
        image = every[place]
        if size_of(image) in sizes:
            alike.setdefault((image.dtype, tuple(image.shape)), []).append(place)
    found = np.zeros((len(inputs) if alike else 0, IMAGE_WIDTH))
    for (dtype, shape), of in alike.items():
        for some in _cut(of, max(1, _ELEMENTS // math.prod(shape))):
            images = np.frombuffer(b"".join(every[k].data for k in some), _DTYPES[dtype])
            found[some] = _vectors(images.reshape(len(some), *shape))
    kept = np.flatnonzero(found.any(axis=1))
    return kept, found[kept]


def _cut(places: list[int], most: int) -> Iterator[list[int]]:
    for begin in range(0, len(places), most):
        yield places[begin : begin + most]


def _vectors(images: NDArray[Any]) -> Floats:
    """Return (n, 255) vectors, 0 of what is no picture."""
    if images.dtype == np.uint8:
        return image_vectors(images)
    with np.errstate(invalid="ignore"):  # a NaN that signals
        numbers = images.astype(np.float64)
        is_sound = (np.abs(numbers) <= _LARGEST).all(axis=tuple(range(1, images.ndim)))
    numbers[~is_sound] = 0
    return image_vectors(numbers)
