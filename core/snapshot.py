"""State to bytes and back: versioned, checksummed arrays. No pickle: a store may be shared."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import StateError

_MAGIC = b"TCSN"
_DTYPES = frozenset(
    ["bool", "uint8", "int8", "int16", "int32", "int64", "uint64", "float32", "float64"]
)


class _Layout(NamedTuple):
    dtype: str
    shape: list[int]


class _Head(msgspec.Struct, frozen=True):
    kind: str
    version: int
    meta: dict[str, Any]
    layout: dict[str, _Layout]


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
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    layout = {name: _Layout(array.dtype.name, list(array.shape)) for name, array in whole.items()}
    head = _encode_head(_Head(kind, version, meta, layout))
    parts: list[Any] = [
        len(head).to_bytes(4, "little"),
        head,
        *(array.data for array in whole.values()),
    ]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return b"".join([_MAGIC, checksum.to_bytes(4, "little"), *parts])


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
    except msgspec.MsgspecError as error:
        raise StateError(f"the snapshot of {kind} has no readable head: {error}") from None
    if (head.kind, head.version) != (kind, version):
        raise StateError(
            f"expected a snapshot of {kind} version {version}, found {head.kind} version "
            f"{head.version}"
        )
    arrays = {}
    for name, (dtype, shape) in head.layout.items():
        if dtype not in _DTYPES:
            raise StateError(f"the snapshot of {kind} holds an array of type {dtype}")
        count = int(np.prod(shape, dtype=np.int64))
        size = count * np.dtype(dtype).itemsize
        if len(body) < at + size:
            raise StateError(f"the snapshot of {kind} is cut short at {name}")
        arrays[name] = np.frombuffer(body, dtype, count, at).reshape(shape).copy()
        at += size
    return head.meta, arrays
