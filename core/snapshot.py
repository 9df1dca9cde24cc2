"""State to bytes and back: versioned, checksummed arrays. No pickle: a store may be shared."""

from __future__ import annotations

import math
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import StateError

_MAGIC = b"TCSN"
_DTYPES = frozenset(["|b1", "|u1", "|i1", "<i2", "<i4", "<i8", "<u8", "<f4", "<f8"])
_NAMES: Final = {np.dtype(name): name for name in sorted(_DTYPES)}
_COPIED: Final = 1 << 14  # bytes of an array that are copied sooner than looked at in place


class _Layout(NamedTuple):
    name: str
    dtype: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]


class _Head(NamedTuple):
    kind: str
    version: int
    meta: dict[str, Any]
    layout: list[_Layout]


_encode_head = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(_Head).decode


def pack(kind: str, version: int, meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> bytes:
    """Return state as bytes.

    Parameters
    ----------
    kind
        Whose state it is.
    version
        Version of the layout; `unpack` refuses another.
    meta
        Small plain values: numbers, text, bytes, lists, maps.
    arrays
        Numpy arrays of booleans, integers or floats.
    """
    # Plain tuples, and names of types looked up: a commit packs a dozen states of each model.
    layout: Any = [(name, _NAMES[array.dtype], array.shape) for name, array in arrays.items()]
    head = _encode_head((kind, version, meta, layout))
    contents = [
        array.tobytes() if array.nbytes < _COPIED else np.ascontiguousarray(array).data
        for array in arrays.values()
    ]
    body = b"".join([len(head).to_bytes(4, "little"), head, *contents])
    return b"".join([_MAGIC, zlib.crc32(body).to_bytes(4, "little"), body])


def unpack(kind: str, version: int, state: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return what `pack` was given; the arrays are fresh and writable.

    Raises
    ------
    StateError
        The bytes are damaged, or of another kind or version.
    """
    if len(state) < 12 or not state.startswith(_MAGIC):
        raise StateError(f"the snapshot of {kind} is not one of tocsin's, or is cut short")
    body = state[8:]
    if zlib.crc32(body) != int.from_bytes(state[4:8], "little"):
        raise StateError(f"the snapshot of {kind} is damaged: its checksum is wrong")
    at = 4 + int.from_bytes(body[:4], "little")
    try:
        head = _decode_head(body[4:at])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise StateError(f"the snapshot of {kind} has no readable head: {error}") from None
    if (head.kind, head.version) != (kind, version):
        raise StateError(
            f"expected a snapshot of {kind} version {version}, found {head.kind} version "
            f"{head.version}"
        )
    arrays = {}
    for name, dtype, shape in head.layout:
        if dtype not in _DTYPES:
            raise StateError(f"the snapshot of {kind} holds an array of type {dtype}")
        count = math.prod(shape)
        size = count * np.dtype(dtype).itemsize
        if len(body) < at + size:
            raise StateError(f"the snapshot of {kind} is cut short at {name}")
        try:
            arrays[name] = np.frombuffer(body, dtype, count, at).reshape(shape).copy()
        except ValueError as error:
            raise StateError(
                f"the snapshot of {kind} holds no such array {name}: {error}"
            ) from None
        at += size
    return head.meta, arrays


@contextmanager
def reading(what: str) -> Generator[None]:
    """Make a `StateError` of whatever a state does to its reader that nobody has written so.

    A checksum is no signature: what is stored may lack a key, or hold a text where a number belongs. What was
    read into is to be thrown away then.
    """
    try:
        yield
    except StateError:
        raise
    except _OF_READING as error:
        raise StateError(
            f"the snapshot of {what} is not as it was written: {type(error).__name__}: {error}"
        ) from error


_OF_READING: Final = (
    ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError,
    msgspec.MsgspecError,
)  # fmt: skip


def check(array: NDArray[Any], what: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an array of a snapshot that compiled code could not take.

    Raises
    ------
    StateError
        It has another shape or type.
    """
    if array.shape != shape or array.dtype != dtype:
        raise StateError(
            f"{what}: expected {dtype} of shape {shape}, found {array.dtype} of shape {array.shape}"
        )
