"""Snapshots: what goes in comes out, and bytes that are anything else are refused as such."""

from __future__ import annotations

import contextlib
import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.core.errors import StateError
from tocsin.core.snapshot import check, pack, reading, unpack

META = {"names": ["a", "☃"], "count": 3, "rate": 0.5, "part": b"\x00\xff", "none": None}
ARRAYS = {
    "floats": np.array([[0.1, -0.0, np.nan], [np.inf, 5e-324, 1e308]]),
    "empty": np.empty((0, 7)),
    "flag": np.array([True, False]),
    "scalar": np.array(3, np.int64),
    "narrow": np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
    "wide": np.array([2**64 - 1], np.uint64),
    "strided": np.arange(10)[::3],
}
STATE = pack("test", 2, META, ARRAYS)


def test_meta_and_arrays_come_back_bit_for_bit_and_writable() -> None:
    meta, arrays = unpack("test", 2, STATE)
    assert meta == META
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        found = arrays[name]
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()
        assert found.flags.writeable
    assert pack("test", 2, meta, arrays) == STATE


@pytest.mark.parametrize(("kind", "version"), [("test", 1), ("test", 3), ("other", 2)])
def test_another_kind_or_version_is_refused_by_name(kind: str, version: int) -> None:
    with pytest.raises(StateError, match=f"{kind} version {version}, found test version 2"):
        unpack(kind, version, STATE)


def test_any_flipped_bit_and_any_cut_is_refused() -> None:
    for at in range(len(STATE)):
        with pytest.raises(StateError):
            unpack("test", 2, STATE[:at])
        for bit in (1, 128):
            damaged = bytearray(STATE)
            damaged[at] ^= bit
            with pytest.raises(StateError):
                unpack("test", 2, bytes(damaged))


def forged(body: bytes) -> bytes:
    return b"TCSN" + zlib.crc32(body).to_bytes(4, "little") + body


def with_layout(*layout: tuple) -> bytes:
    head = msgspec.msgpack.encode(["test", 2, {}, layout])
    return forged(len(head).to_bytes(4, "little") + head + bytes(64))


@pytest.mark.parametrize(
    "layout",
    [
        ("a", "|O", [1]), ("a", "<U4", [1]), ("a", "<M8[ns]", [1]), ("a", ">f8", [1]), ("a", "x", [1]),
        ("a", "<f8", [9]), ("a", "<f8", [2**40, 2**40]), ("a", "<f8", [2**62]), ("a", "<f8", [-1]),
        ("a", "<f8", [-2]), ("a", "<f8", [-2, -2]),
        ("a", "<f8", [0, 2**62]), ("a", "<f8", [0, 2**40, 2**40]), ("a", "<f8", [2**64 - 1]), ("a", "<f8", ["1"]),
        ("a", "|u1", [1] * 100), ("a", "<f8"), (1, "<f8", [1]),
    ],
    ids=str,
)  # fmt: skip
def test_a_layout_that_no_snapshot_has_is_refused_though_its_checksum_is_right(layout) -> None:
    """The store may be shared: whoever writes to it must not run code here, or end the worker."""
    with pytest.raises(StateError):
        unpack("test", 2, with_layout(layout))


@settings(derandomize=True, deadline=None, database=None, max_examples=500)
@given(st.integers(8, len(STATE) - 1), st.binary(min_size=1, max_size=4))
def test_bytes_under_a_right_checksum_are_read_or_refused(at: int, junk: bytes) -> None:
    body = bytearray(STATE[8:])
    body[at - 8 : at - 8 + len(junk)] = junk
    with contextlib.suppress(StateError):
        unpack("test", 2, forged(bytes(body)))


@pytest.mark.parametrize(
    "read",
    [
        lambda: {}["gone"], lambda: np.zeros(2)[3], lambda: int("text"), lambda: float(None), lambda: 1 / 0,
        lambda: None.load, lambda: np.zeros(1 << 60), lambda: msgspec.convert("3", int),
    ],
)  # fmt: skip
def test_what_no_state_of_ours_does_to_its_reader_is_a_damaged_state(read) -> None:
    with (
        pytest.raises(StateError, match="the snapshot of a test is not as it was written: "),
        reading("a test"),
    ):
        read()


def test_what_a_reader_says_itself_stays_so_and_what_ends_a_process_passes() -> None:
    with pytest.raises(StateError, match=r"^cut short$"), reading("a test"):
        raise StateError("cut short")
    with pytest.raises(KeyboardInterrupt), reading("a test"):
        raise KeyboardInterrupt


def test_an_array_that_compiled_code_could_not_take_is_refused() -> None:
    floats = np.dtype(np.float64)
    check(np.zeros((2, 3)), "it", (2, 3), floats)
    for array in (np.zeros((3, 2)), np.zeros(6), np.zeros((2, 3), np.float32)):
        with pytest.raises(
            StateError, match=r"it: expected float64 of shape \(2, 3\), found float"
        ):
            check(array, "it", (2, 3), floats)


def test_a_head_of_many_floors_is_refused() -> None:
    head = b"\x94\xa4test\x02\x81\xa1a" + b"\x91" * 100_000 + b"\x90\x90"
    with pytest.raises(StateError, match="no readable head"):
        unpack("test", 2, forged(len(head).to_bytes(4, "little") + head))
