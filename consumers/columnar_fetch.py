"""kafka-python's fetcher, taught to yield one object per RecordBatch instead of one per record.

`Fetcher` builds `self.PartitionRecords(...)` for each partition of a response; a subclass set on the
instance keeps kafka-python's positions, pausing, seeking and transactions, and drops its cost per
record. It is a private class: `pyproject.toml` pins kafka-python below 3.1, and a contract test
compares this, record by record and codec by codec, with what `KafkaConsumer.poll` gives.

Nothing raises inside `poll`: kafka-python's generator would then be dead while its iterator is not, and
every later `poll` would spin without returning. A batch is taken apart after `poll`, one at a time, so
that no more than one is decompressed; what is broken becomes a `Poison`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import IsolationLevel
from kafka.record.legacy_records import LegacyRecordBatch
from kafka.record.util import calc_crc32c

from ..core.columns import Bytes, Ints
from ..core.errors import DecodeError, EventError
from . import network
from .compression import NONE, decompress
from .record_kernel import KEY_START, place_spans, record_spans
from .records import Partition, PlainRecord, Poison, Records

_MILLISECOND: Final = 1_000_000
_LAST_MILLISECOND: Final = (2**63 - 1) // _MILLISECOND  # in 2262; what is later counts as no time
_PIECE_BYTES: Final = 8 << 20  # chosen: so much is joined into one piece of work

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_LENGTH_END, _CRC_BEGIN = 12, 21  # the length counts what follows it, the checksum covers what does
_CODEC_MASK, _LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20


class Header(NamedTuple):
    """The header of a record batch, message format 2.

    Reference: Apache Kafka documentation, "Message format", section "Record Batch".
    """

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    first_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    records: int


class Fetched(NamedTuple):
    """A batch as it was fetched: where it lies in the response; `header` is None if it has none."""

    partition: Partition
    first_offset: int
    next_offset: int
    header: Header | None
    data: Bytes
    begin: int
    end: int

    @property
    def offset(self) -> int:
        """The last offset, by which kafka-python skips what lies before the position."""
        return self.next_offset - 1


def install(consumer: Any) -> None:
    """Make `consumer.poll` return `Fetched` objects in its lists; see `read_batches`.

    Parameters
    ----------
    consumer
        Without deserializers. Its `max_poll_records` now counts batches.

    Raises
    ------
    AttributeError
        This kafka-python is built differently; the caller falls back to single records.
    """
    fetcher = consumer._fetcher
    if not issubclass(fetcher.PartitionRecords, Fetcher.PartitionRecords):
        raise AttributeError("PartitionRecords is another in this kafka-python")  # noqa: TRY004
    fetcher.PartitionRecords = _BatchRecords
    network.install()


_PartitionRecords: Any = Fetcher.PartitionRecords


class _BatchRecords(_PartitionRecords):  # type: ignore[misc]
    next_fetch_offset: int

    def _unpack_records(
        self, tp: Any, records: Any, _key: object, _value: object
    ) -> Iterator[Fetched]:
        partition = Partition(tp.topic, tp.partition)
        raw = records._buffer
        data = np.frombuffer(raw, np.uint8)
        at = 0
        while at + _LENGTH_END <= len(raw):
            header, end = _read_header(raw, at)
            if end > len(raw):
                break  # the broker cuts the last batch where the answer's limit is
            first = self.next_fetch_offset
            next_offset, is_sound = _next_offset(raw, at, header)
            # A broker may begin before what was asked for.
            is_before = is_sound and next_offset <= self.fetch_offset == first
            if not is_before:
                # A header may lie, but never make the position stand still or go back.
                self.next_fetch_offset = max(next_offset, first + 1)
            found = Fetched(partition, first, self.next_fetch_offset, header, data, at, end)
            at = end
            if (header is not None and self._is_hidden(found, header)) or is_before:
                continue
            self.records_read += 1 if header is None else max(header.records, 0)
            self.bytes_read += found.end - found.begin
            yield found
        self.drain()

    def _is_hidden(self, found: Fetched, header: Header) -> bool:
        """Whether a batch is not for consumers: control records, and aborted ones if committed only."""
        self.leader_epoch = header.leader_epoch
        control = bool(header.attributes & _CONTROL)
        if self.isolation_level == IsolationLevel.READ_COMMITTED and header.producer_id >= 0:
            self._consume_aborted_transactions_up_to(header.base_offset + header.last_offset_delta)
            if control and _is_abort_marker(found, header):
                self.aborted_producer_ids.discard(header.producer_id)
            elif (
                header.attributes & _TRANSACTIONAL
                and header.producer_id in self.aborted_producer_ids
            ):
                return True
        return control


def _read_header(raw: Any, at: int) -> tuple[Header | None, int]:
    """Return the header at `at`, None for older formats and damage, and where the batch ends."""
    length = int.from_bytes(raw[at + 8 : at + _LENGTH_END], "big", signed=True)
    if length < 0:
        return None, len(raw)  # nothing after this can be found
    end = at + _LENGTH_END + length
    if at + _HEADER.size > min(end, len(raw)):
        return None, end
    header = Header(*_HEADER.unpack_from(raw, at))
    return (header if header.magic == 2 else None), end


def _next_offset(raw: Any, at: int, header: Header | None) -> tuple[int, bool]:
    """Return the offset after the batch at `at`, and whether the batch is of a known format."""
    if header is not None:
        return header.base_offset + header.last_offset_delta + 1, header.last_offset_delta >= 0
    magic = raw[at + 16] if at + 16 < len(raw) else 255
    return int.from_bytes(raw[at : at + 8], "big", signed=True) + 1, magic <= 1


def _is_abort_marker(found: Fetched, header: Header) -> bool:
    """Whether a control batch ends a transaction that was aborted; a broken one does not say so."""
    spans = np.empty((1, 8), np.int64)
    if header.records != 1:
        return False
    if record_spans(found.data, found.begin + _HEADER.size, found.end, 1, spans) < 0:
        return False
    key = spans[0, KEY_START]
    return bool(key >= 0 and found.data[key : key + 4].tobytes()[2:] == b"\0\0")


def read_batches(
    polled: dict[Any, list[Fetched]], decompressed_bytes: int, check_crcs: bool = True
) -> Iterator[Records | Poison]:
    """Take apart what `poll` returned, batch by batch; batches that follow one another are joined.

    Parameters
    ----------
    polled
        From a consumer with `install`.
    decompressed_bytes
        Most bytes that one compressed batch may become.
    check_crcs
        Whether checksums are verified.
    """
    for found in polled.values():
        piece: list[_Batch | Records] = []
        size = 0
        for fetched in found:
            read = _read_or_poison(fetched, decompressed_bytes, check_crcs)
            grown = fetched.end - fetched.begin
            if isinstance(read, _Batch) and read.data is not fetched.data:
                grown = len(read.data)
            if piece and (isinstance(read, Poison) or size + grown > _PIECE_BYTES):
                yield _joined(piece)
                piece, size = [], 0
            if isinstance(read, Poison):
                yield read
            else:
                piece.append(read)
                size += grown
        if piece:
            yield _joined(piece)


def _joined(piece: Sequence[_Batch | Records]) -> Records:
    """Return batches that follow one another as one; those of one answer share its buffer, and one table of spans."""
    joined: list[Records] = []
    begin = 0
    for end in range(1, len(piece) + 1):
        if end < len(piece) and piece[end].data is piece[begin].data:
            continue
        same = [batch for batch in piece[begin:end] if isinstance(batch, _Batch)]
        if same:
            spans = np.concatenate([batch.spans for batch in same])
            last = same[-1]
            joined.append(Records.of_spans(last.partition, last.next_offset, last.data, spans))
        joined += [one for one in piece[begin:end] if isinstance(one, Records)]
        begin = end
    return Records.concat(joined)


class _Batch(NamedTuple):
    """What of a batch was read: (n, 8) spans over `data`, with offsets, and times in nanoseconds."""

    partition: Partition
    next_offset: int
    data: Bytes
    spans: Ints


def _read_or_poison(fetched: Fetched, limit: int, check_crcs: bool) -> _Batch | Records | Poison:
    try:
        return _read(fetched, limit, check_crcs)
    except EventError as error:
        found = error
    except Exception as error:  # kafka-python's older parser and the codecs raise of all sorts
        found = DecodeError(f"a record batch cannot be read: {type(error).__name__}")
    timestamp = -1 if fetched.header is None else fetched.header.max_timestamp
    return Poison(
        fetched.partition, fetched.first_offset, fetched.next_offset, _nanoseconds(timestamp),
        fetched.data[fetched.begin : fetched.end].tobytes(), found,
    )  # fmt: skip


def _read(fetched: Fetched, limit: int, check_crcs: bool) -> _Batch | Records:
    header = fetched.header
    if header is None:
        return _legacy(fetched, check_crcs)
    data, at, end = fetched.data, fetched.begin + _HEADER.size, fetched.end
    if check_crcs and calc_crc32c(data[fetched.begin + _CRC_BEGIN : end].data) != header.crc:
        raise DecodeError("the checksum of a record batch is wrong")
    codec = header.attributes & _CODEC_MASK
    if codec != NONE:
        data = np.frombuffer(decompress(data[at:end].tobytes(), codec, limit), np.uint8)
        at, end = 0, len(data)
    # A record takes 7 bytes at least; more than fit is a lie that would cost memory.
    if not 0 <= header.records <= (end - at) // 7 or header.last_offset_delta < 0:
        raise DecodeError(f"a record batch claims {header.records} records")
    spans = np.empty((header.records, 8), np.int64)
    if record_spans(data, at, end, header.records, spans) < 0:
        raise DecodeError("the records of a batch do not fill it")
    is_appended = header.attributes & _LOG_APPEND_TIME
    rising = place_spans(
        spans, header.base_offset, header.last_offset_delta, header.first_timestamp,
        header.max_timestamp if is_appended else -1, _LAST_MILLISECOND, _MILLISECOND,
    )  # fmt: skip
    if not rising:
        raise DecodeError("the offsets of a batch's records do not rise")
    return _Batch(fetched.partition, fetched.next_offset, data, spans)


def _nanoseconds(milliseconds: int) -> int:
    return (milliseconds if 0 <= milliseconds <= _LAST_MILLISECOND else -1) * _MILLISECOND


def _legacy(fetched: Fetched, check_crcs: bool) -> Records:
    """Read a message of format 0 or 1, which clients before 0.11 wrote; each is a batch of its own."""
    raw = fetched.data[fetched.begin : fetched.end].tobytes()
    if len(raw) < LegacyRecordBatch.RECORD_OVERHEAD_V0 + _LENGTH_END or raw[16] > 1:
        raise DecodeError("the fetched bytes hold no batch header")
    batch: Any = LegacyRecordBatch(memoryview(raw), raw[16])
    if check_crcs and not batch.validate_crc():
        raise DecodeError("the checksum of a message is wrong")
    if batch.compression_type != NONE:
        raise DecodeError("compressed batches of message format 0 and 1 are not read")
    return Records.of(fetched.partition, [_plain(record) for record in batch])


def _plain(record: Any) -> PlainRecord:
    timestamp = record.timestamp if record.timestamp is not None else -1
    return PlainRecord(
        record.offset, _nanoseconds(timestamp), record.key, record.value, record.headers or ()
    )


def read_single(polled: dict[Any, list[Any]]) -> Iterator[Records]:
    """Turn what a plain `KafkaConsumer.poll` returned into `Records`: the fallback path."""
    for tp, found in polled.items():
        yield Records.of(Partition(tp.topic, tp.partition), [_plain(record) for record in found])
