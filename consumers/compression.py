"""Decompression of Kafka record batches with a bound on what comes out.

kafka-python's own functions have none: 256 MiB of zeros in one small batch cost 0.8 GB of memory.
"""

from __future__ import annotations

import io
import zlib
from typing import Any, Final

from ..core.errors import DecodeError, SizeError

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
NAMES: Final = ("none", "gzip", "snappy", "lz4", "zstd")

_XERIAL = b"\x82SNAPPY\x00"


def decompress(data: bytes, codec: int, limit: int) -> bytes:
    """Return `data` decompressed.

    Parameters
    ----------
    data
        The compressed records of one batch.
    codec
        The codec's number in a batch's attributes.
    limit
        Most bytes to give back.

    Raises
    ------
    SizeError
        More than `limit` bytes would come out; at most that many were made.
    DecodeError
        The data is damaged, or the codec unknown.
    """
    try:
        if codec == GZIP:
            return _gzip(data, limit)
        if codec == SNAPPY:
            return _snappy(data, limit)
        if codec == LZ4:
            return _lz4(data, limit)
        if codec == ZSTD:
            return _zstd(data, limit)
    except (SizeError, DecodeError):
        raise
    except Exception as error:  # each codec's library has errors of its own
        raise DecodeError(f"the {NAMES[codec]} data of a record batch is damaged") from error
    raise DecodeError(f"compression codec {codec} is unknown")


def _too_large(limit: int) -> SizeError:
    return SizeError(f"a record batch decompresses to more than {limit} bytes")


def _gzip(data: bytes, limit: int) -> bytes:
    out = bytearray()
    while data:  # gzip members may follow one another
        member = zlib.decompressobj(31)
        out += member.decompress(data, limit + 1 - len(out))
        if len(out) > limit:
            raise _too_large(limit)
        if not member.eof:
            raise DecodeError("the gzip data of a record batch is cut short")
        data = member.unused_data
    return bytes(out)


def _snappy(data: bytes, limit: int) -> bytes:
    if not data.startswith(_XERIAL):
        return _unsnappy(_snappy_checked(data, limit))
    out = bytearray()
    at = 16  # magic, version and lowest compatible version
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big", signed=True)
        block = data[at + 4 : at + 4 + size]
        if size <= 0 or len(block) != size:
            raise DecodeError("the snappy data of a record batch is cut short")
        out += _unsnappy(_snappy_checked(block, limit - len(out)))
        at += 4 + size
    return bytes(out)


def _unsnappy(block: bytes) -> bytes:
    import snappy

    found: Any = snappy.decompress(block)
    return bytes(found)


def _snappy_checked(block: bytes, limit: int) -> bytes:
    """Return `block` unless the length that it opens with, a varint, is above `limit`."""
    length = 0
    for i, byte in enumerate(block[:5]):
        length |= (byte & 127) << (7 * i)
        if byte < 128:
            if length > limit:
                raise _too_large(limit)
            return block
    raise DecodeError("the snappy data of a record batch has no length")


def _lz4(data: bytes, limit: int) -> bytes:
    import lz4.frame

    frame = lz4.frame.LZ4FrameDecompressor()
    out: bytes = frame.decompress(data, max_length=limit + 1)
    if len(out) > limit:
        raise _too_large(limit)
    if not frame.eof:
        raise DecodeError("the lz4 data of a record batch is cut short")
    return out


def _zstd(data: bytes, limit: int) -> bytes:
    import zstandard

    reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
        io.BytesIO(data), read_across_frames=True
    )
    with reader:
        out: bytes = reader.read(limit + 1)
    if len(out) > limit:
        raise _too_large(limit)
    return out
