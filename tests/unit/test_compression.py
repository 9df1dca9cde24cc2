"""Decompression is bounded: what was compressed comes out, and not a byte more than the limit."""

from __future__ import annotations

from contextlib import suppress

import kafka.codec
import numpy as np
import pytest
import snappy

from tocsin.consumers.compression import GZIP, NAMES, SNAPPY, ZSTD, decompress
from tocsin.core.errors import DecodeError, SizeError

CODECS = range(len(NAMES))


def compressed(body: bytes, codec: int) -> bytes:
    return bytes(getattr(kafka.codec, f"{NAMES[codec]}_encode")(body))


@pytest.mark.parametrize("size", [0, 1, 1000, 40_000, 100_000])
@pytest.mark.parametrize("codec", CODECS[1:], ids=NAMES[1:])
def test_decompression_gives_what_was_compressed_up_to_its_limit_and_not_a_byte_more(
    codec: int, size: int
) -> None:
    body = np.random.default_rng(size).integers(0, 4, size).astype(np.uint8).tobytes()
    forms = [compressed(body, codec)]
    if codec == SNAPPY:
        forms.append(snappy.compress(body))  # without the frames that Java's library writes
    if codec == GZIP:
        forms.append(compressed(body[: size // 2], codec) + compressed(body[size // 2 :], codec))
    for form in forms:
        assert decompress(form, codec, max(size, 1)) == body
        if size:
            with pytest.raises(SizeError):
                decompress(form, codec, size - 1)
            if codec != ZSTD:  # which gives what there is: too little for the batch's records
                with pytest.raises(DecodeError):
                    decompress(form[:-5], codec, size)


@pytest.mark.parametrize("codec", CODECS[1:], ids=NAMES[1:])
def test_damage_is_a_decode_error_or_bytes_within_the_limit(codec: int) -> None:
    rng = np.random.default_rng(codec)
    whole = compressed(b"abc" * 2000, codec)
    for _ in range(300):
        raw = bytearray(whole)
        raw[int(rng.integers(len(raw)))] = int(rng.integers(256))
        with suppress(DecodeError, SizeError):
            assert len(decompress(bytes(raw), codec, 7000)) <= 7000


def test_a_codec_that_kafka_does_not_have_is_refused() -> None:
    with pytest.raises(DecodeError, match="compression codec 5 is unknown"):
        decompress(b"", 5, 1)
