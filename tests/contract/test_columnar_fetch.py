"""One object per Kafka batch gives what kafka-python gives record by record, and nothing in a batch raises."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

import kafka.codec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import IsolationLevel
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.legacy_records import LegacyRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords
from kafka.record.util import calc_crc32c, encode_varint
from kafka.structs import TopicPartition

from tocsin.consumers.columnar_fetch import _BatchRecords, read_batches, read_single
from tocsin.consumers.compression import GZIP, LZ4, NAMES, NONE, SNAPPY, ZSTD
from tocsin.consumers.records import Partition, Poison, Records
from tocsin.core.errors import DecodeError, EventError, SizeError

TP = TopicPartition("t", 3)
LIMIT = 1 << 20
COMMITTED, UNCOMMITTED = IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED
CHECKED = settings(derandomize=True, deadline=None, database=None, max_examples=400)
CODECS = range(len(NAMES))
TIME = 1_767_225_600_000


class Aborted:
    def __init__(self, producer_id: int, first_offset: int) -> None:
        self.producer_id, self.first_offset = producer_id, first_offset


def batch(
    records: Sequence[tuple[int, int, bytes | None, bytes | None, list[Any]]],
    *,
    base: int = 0,
    codec: int = NONE,
    producer: int = -1,
    attributes: int = 0,
    last: int | None = None,
) -> bytearray:
    """A batch of format 2; a record is (offset delta, milliseconds, key, value, headers)."""
    builder = DefaultRecordBatchBuilder(2, codec, producer >= 0, producer, 0, 0, 1 << 30)
    for record in records:
        builder.append(*record)
    raw = bytearray(builder.build())
    struct.pack_into(">q", raw, 0, base)
    struct.pack_into(">h", raw, 21, struct.unpack_from(">h", raw, 21)[0] | attributes)
    if last is not None:
        struct.pack_into(">i", raw, 23, last)
    return sealed(raw)


def sealed(raw: bytearray) -> bytearray:
    struct.pack_into(">I", raw, 17, calc_crc32c(memoryview(raw)[21:]))
    return raw


def marker(base: int, producer: int, *, commit: bool) -> bytearray:
    key, value = struct.pack(">hh", 0, commit), struct.pack(">hi", 0, 0)
    return batch([(0, TIME, key, value, [])], base=base, producer=producer, attributes=0x20)


def legacy(magic: int, base: int, values: Iterable[bytes | None], codec: int = NONE) -> bytearray:
    builder = LegacyRecordBatchBuilder(magic, codec, 1 << 30)
    for i, value in enumerate(values):
        builder.append(base + i, TIME + i, b"k" if i % 2 else None, value)
    return bytearray(builder.build())


def some(random: Random, count: int, gaps: bool = False) -> list[Any]:
    """Records of all sorts: null and empty parts, long ones, times in any order."""
    found, delta = [], 0
    for _ in range(count):
        parts = [None, b"", b"a" * random.randrange(300), random.randbytes(random.randrange(5))]
        names = ["", "x", "ce_type", "é" * random.randrange(80)]
        headers = [(random.choice(names), random.choice(parts)) for _ in range(random.randrange(3))]
        time = TIME + random.randrange(-(10**6), 10**6)
        found.append((delta, time, random.choice(parts), random.choice(parts), headers))
        delta += random.randrange(1, 4) if gaps else 1
    return found


def partition_records(of: Any, log: bytes, position: int, level: Any, aborted: Any) -> Any:
    return of(
        position, TP, MemoryRecords(log), check_crcs=True, isolation_level=level,
        aborted_transactions=aborted,
    )  # fmt: skip


def theirs(
    log: bytes, position: int = 0, level: Any = COMMITTED, aborted: Any = ()
) -> tuple[list[Any], int]:
    read = partition_records(Fetcher.PartitionRecords, log, position, level, aborted)
    found = read.take()
    return listed(read_single({TP: found}), position), read.next_fetch_offset


def ours(
    log: bytes, position: int = 0, level: Any = COMMITTED, aborted: Any = ()
) -> tuple[list[Any], int]:
    read = partition_records(_BatchRecords, log, position, level, aborted)
    found = read.take()
    return listed(read_batches({TP: found}, LIMIT), position), read.next_fetch_offset


def listed(parts: Iterable[Records | Poison], position: int = 0) -> list[Any]:
    found: list[Any] = []
    for part in parts:
        if isinstance(part, Poison):
            found.append(part)
            continue
        records = part.since(position)
        assert records.partition == Partition("t", 3)
        found += [
            (
                int(records.offsets[i]),
                int(records.timestamps[i]),
                records.key(i),
                records.value(i),
                records.headers(i),
            )
            for i in range(len(records))
        ]
    return found


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
@pytest.mark.parametrize("gaps", [False, True], ids=["dense", "compacted"])
def test_every_codec_gives_the_same_records_from_every_position(codec: int, gaps: bool) -> None:
    random = Random(codec)
    log, base = b"", 5
    for count in (1, 40, 0, 7):
        records = some(random, count, gaps)
        last = records[-1][0] + 2 * gaps if records else 3
        log += batch(records, base=base, codec=codec, last=last)
        base += last + 1
    if codec != NONE:
        assert {batch(some(random, 40), codec=codec)[22] & 7} == {codec}  # compressed indeed
    for position in range(5, base + 1):
        assert ours(log, position) == theirs(log, position), position
    assert ours(log, 5)[1] == base
    assert len(ours(log, 5)[0]) == 48


@pytest.mark.parametrize("magic", [0, 1])
def test_messages_of_older_formats_are_the_same(magic: int) -> None:
    log = legacy(magic, 10, [b"a", None, b"", b"b" * 300]) + batch(some(Random(0), 3), base=14)
    for position in range(10, 18):
        assert ours(log, position) == theirs(log, position)
    assert [record[0] for record in ours(log, 10)[0]] == list(range(10, 17))


@pytest.mark.parametrize("level", [COMMITTED, UNCOMMITTED])
def test_control_batches_and_aborted_transactions_are_passed_over(level: Any) -> None:
    def events(base: int, producer: int) -> bytearray:
        return batch([(0, TIME, b"%d" % producer, b"%d" % base, [])], base=base, producer=producer)

    log = b"".join(
        [
            events(0, 1), events(1, 2), marker(2, 1, commit=False), events(3, 1), events(4, -1),
            marker(5, 2, commit=True), events(6, 2), marker(7, 1, commit=True), events(8, 1),
            marker(9, 2, commit=False), marker(10, 1, commit=False), events(11, 1),
        ]
    )  # fmt: skip
    aborted = [Aborted(2, 6), Aborted(1, 0), Aborted(1, 8)]
    for position in range(13):
        live = [abort for abort in aborted if position <= 10]
        assert ours(log, position, level, live) == theirs(log, position, level, live)
    seen = [record[0] for record in ours(log, 0, level, aborted)[0]]
    assert seen == ([1, 3, 4, 11] if level == COMMITTED else [0, 1, 3, 4, 6, 8, 11])
    assert ours(log, 0, level, aborted)[1] == 12


@pytest.mark.parametrize("attributes", [0, 0x08], ids=["create time", "append time"])
@pytest.mark.parametrize("time", [TIME, 0, -1, -5, 2**62, 2**63 - 1, 9_223_372_036_854])
def test_times_that_nanoseconds_cannot_hold_are_no_times(time: int, attributes: int) -> None:
    log = batch([(0, 5, None, b"a", []), (1, time, None, b"b", [])], attributes=attributes)
    found, _ = ours(log)
    assert (found, 2) == theirs(log)
    said = max(time, 5) if attributes else time
    assert found[1][1] == (said * 10**6 if 0 <= said <= 9_223_372_036_854 else -(10**6))


def test_a_batch_that_the_answer_cuts_is_left_for_the_next_answer() -> None:
    whole = batch(some(Random(1), 5), base=0)
    log = whole + batch(some(Random(2), 5), base=5)
    for end in range(len(log)):
        assert ours(log[:end]) == theirs(log[:end]) if end >= 12 else ours(log[:end]) == ([], 0)


# ---- what cannot be read is one poison ----

GOOD = batch(some(Random(3), 4), base=10)
BAD = batch(some(Random(4), 4), base=14)
AFTER = batch(some(Random(5), 4), base=18)


def changed(at: int, new: bytes, *, resealed: bool = True) -> bytearray:
    raw = bytearray(BAD)
    raw[at : at + len(new)] = new
    return sealed(raw) if resealed else raw


def packed(body: bytes, codec: int, records: int = 4) -> bytearray:
    """A batch whose records are `body`, as they stand."""
    raw = bytearray(BAD[:61]) + body
    struct.pack_into(">i", raw, 8, len(raw) - 12)
    struct.pack_into(">h", raw, 21, codec)
    struct.pack_into(">i", raw, 57, records)
    return sealed(raw)


def varint(value: int) -> bytes:
    found = bytearray()
    encode_varint(value, found.append)
    return bytes(found)


def record(*numbers: int, rest: bytes = b"") -> bytes:
    body = b"\0" + b"".join(map(varint, numbers)) + rest
    return varint(len(body)) + body


def compressed(body: bytes, codec: int) -> bytes:
    encode = [bytes, *(getattr(kafka.codec, f"{name}_encode") for name in NAMES[1:])]
    return bytes(encode[codec](body))


HUGE = 2**63 - 1
ONE = record(0, 0, -1, -1, 0)
BROKEN = {
    "checksum": (changed(70, b"\xff\xff", resealed=False), DecodeError),
    "compressed format 1": (b"\0\0\0\0\0\0\0\x11" + legacy(1, 17, [b"a" * 500], GZIP)[8:], DecodeError),
    "codec 7": (changed(21, b"\0\7"), DecodeError),
    "records -1": (changed(57, b"\xff\xff\xff\xff"), DecodeError),
    "records 2**31 - 1": (changed(57, b"\x7f\xff\xff\xff"), DecodeError),
    "one record too many": (packed(ONE * 4, NONE, 5), DecodeError),
    "one record too few": (packed(ONE * 4, NONE, 3), DecodeError),
    "offsets that do not rise": (packed(ONE * 4, NONE), DecodeError),
    "an offset beyond the last": (packed(record(0, 99, -1, -1, 0), NONE, 1), DecodeError),
    "an offset before the first": (packed(record(0, -1, -1, -1, 0), NONE, 1), DecodeError),
    "no records": (packed(b"", NONE), DecodeError),
    "endless varint": (packed(b"\xff" * 100, NONE), DecodeError),
    "length 2**63 - 1": (packed(varint(HUGE) + bytes(50), NONE, 1), DecodeError),
    "length -1": (packed(varint(-1) + bytes(50), NONE, 1), DecodeError),
    "key 2**63 - 1": (packed(record(0, 0, HUGE, rest=bytes(50)), NONE, 1), DecodeError),
    "value 2**63 - 1": (packed(record(0, 0, -1, HUGE, rest=bytes(50)), NONE, 1), DecodeError),
    "headers 2**63 - 1": (packed(record(0, 0, -1, -1, HUGE), NONE, 1), DecodeError),
    "header 2**63 - 1": (packed(record(0, 0, -1, -1, 1, HUGE, rest=bytes(9)), NONE, 1), DecodeError),
    "header -1": (packed(record(0, 0, -1, -1, 1, -1, rest=bytes(9)), NONE, 1), DecodeError),
    "header value": (packed(record(0, 0, -1, -1, 1, 0, HUGE, rest=bytes(9)), NONE, 1), DecodeError),
    "bytes after a record": (packed(record(0, 0, -1, -1, 0, rest=b"x"), NONE, 1), DecodeError),
    **{f"garbage as {NAMES[c]}": (packed(b"garbage" * 9, c), DecodeError) for c in CODECS},
    **{f"nothing as {NAMES[c]}": (packed(b"", c), DecodeError) for c in CODECS},
    **{
        f"cut {NAMES[c]}": (packed(compressed(ONE * 4000, c)[:-9], c, 4000), DecodeError)
        for c in CODECS
    },
    **{f"bomb of {NAMES[c]}": (packed(compressed(bytes(LIMIT + 1), c), c), SizeError) for c in CODECS[1:]},
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_batch_is_one_poison_with_its_offsets_between_what_is_whole(name: str) -> None:
    raw, error = BROKEN[name]
    found, position = ours(GOOD + raw + AFTER, 10)
    (poison,) = [part for part in found if isinstance(part, Poison)]
    assert (poison.first_offset, poison.next_offset, poison.raw) == (14, 18, bytes(raw))
    assert type(poison.error) is error, poison.error
    assert [record[0] for record in found if record is not poison] == [
        10,
        11,
        12,
        13,
        18,
        19,
        20,
        21,
    ]
    assert position == 22


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (16, b"\3"),
        (16, b"\xff"),
        (8, b"\x80\0\0\0"),
        (8, bytes(4)),
        (8, b"\0\0\0\4"),
        (23, b"\x80\0\0\0"),
    ],
)
def test_a_header_that_lies_never_makes_the_position_stand_still(at: int, new: bytes) -> None:
    found, position = ours(GOOD + changed(at, new), 10)
    assert position > 14
    poisons = [part for part in found if isinstance(part, Poison)]
    assert poisons
    assert all(part.first_offset < part.next_offset <= position for part in poisons)


@CHECKED
@given(st.data())
def test_no_damage_raises_or_reads_outside_its_bytes(data) -> None:
    codec = data.draw(st.sampled_from([NONE, NONE, NONE, GZIP, SNAPPY, LZ4, ZSTD]))
    body = bytearray(BAD[61:])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        cut = data.draw(st.sampled_from([0, 1, 1, 5]))
        body[at : at + cut] = data.draw(
            st.binary(max_size=3) | st.integers(-HUGE, HUGE).map(varint)
        )
    raw = packed(compressed(bytes(body), codec), codec)
    if data.draw(st.booleans()):
        at = data.draw(st.integers(12, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
        sealed(raw)
    if data.draw(st.booleans()):
        raw = legacy(data.draw(st.sampled_from([0, 1])), 14, [b"a"])
        raw[data.draw(st.integers(12, len(raw) - 1))] = data.draw(st.integers(0, 255))
    read = partition_records(_BatchRecords, bytes(raw), 14, COMMITTED, ())
    for part in read_batches({TP: read.take()}, LIMIT, check_crcs=False):
        if isinstance(part, Poison):
            assert isinstance(part.error, EventError)
            continue
        for column in (part.keys, part.values):
            assert ((column.start == -1) | (column.start <= column.end)).all()
            assert (column.end <= len(part.data)).all()
        listed([part])
        for i in range(len(part)):
            kind_of(part, i)


# ---- headers, whose compiled reader must equal the plain one ----


NAMES_OF_HEADERS = [
    "ce_type",
    "CE_Type",
    "content-type",
    "Content-Type",
    "ce_specversion",
    "ce_time",
    "ce_id",
]
VALUES_OF_HEADERS = [
    b"tocsin.prediction.v1", b"tocsin.label.v1", b"tocsin.events.v1", b"tocsin.predictions.v1", b"1.0", b"0.3",
    b"application/json", b"application/json; charset=utf-8", b"application/x-ndjson", b"APPLICATION/JSON",
    b"application/vnd.apache.arrow.stream", b"application/cloudevents+json", b"2026-01-01T00:00:00Z",
    b"2026-01-01T00:00:00.1234567+01:00", b"2300-01-01T00:00:00Z", b"soon", b"", b"\xff", None,
]  # fmt: skip


def kind_of(records: Records, i: int) -> Any:
    try:
        return records.kind(i)
    except EventError as error:
        return repr(error)


@CHECKED
@given(st.data())
def test_headers_are_understood_as_the_reference_does(data) -> None:
    pair = st.tuples(st.sampled_from(NAMES_OF_HEADERS), st.sampled_from(VALUES_OF_HEADERS))
    fitting = st.sampled_from(
        [[("ce_specversion", b"1.0"), ("ce_type", kind)] for kind in VALUES_OF_HEADERS[:4]]
    )
    headers = st.builds(lambda a, b: [*a, *b], st.just([]) | fitting, st.lists(pair, max_size=3))
    found = data.draw(st.lists(headers, min_size=1, max_size=8))
    log = bytes(batch([(i, TIME, None, b"v", h) for i, h in enumerate(found)]))
    (compiled,) = read_batches(
        {TP: partition_records(_BatchRecords, log, 0, COMMITTED, ()).take()}, LIMIT
    )
    (plain,) = read_single(
        {TP: partition_records(Fetcher.PartitionRecords, log, 0, COMMITTED, ()).take()}
    )
    for i in range(len(found)):
        assert kind_of(compiled, i) == kind_of(plain, i), found[i]


def test_pieces_join_into_the_same_records() -> None:
    random = Random(6)
    log = b"".join(bytes(batch(some(random, 5), base=5 * i, codec=i % 5)) for i in range(10))
    found = partition_records(_BatchRecords, log, 0, COMMITTED, ()).take()
    pieces = [part for one in found for part in read_batches({TP: [one]}, LIMIT)]
    (joined,) = read_batches({TP: found}, LIMIT)
    assert listed([joined]) == listed(pieces) == theirs(log)[0]
    assert joined.next_offset == 50
