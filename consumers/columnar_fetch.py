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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from kafka.consumer.fetcher import Fetcher
from kafka.errors import KafkaError
from kafka.protocol.consumer import IsolationLevel

from ..core.columns import Ints
from ..core.errors import DecodeError, EventError
from .compression import NONE, decompress
from .record_kernel import record_spans
from .records import Partition, PlainRecord, Poison, Records

_MILLISECOND: Final = 1_000_000
_PIECE_BYTES: Final = 8 << 20  # chosen: so much is joined into one piece of work


@dataclass(frozen=True, slots=True)
class Fetched:
    """A batch as it was fetched; `batch` is None where not even a header could be read."""

    partition: Partition
    first_offset: int
    next_offset: int
    batch: Any
    raw: bytes

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


_PartitionRecords: Any = Fetcher.PartitionRecords


class _BatchRecords(_PartitionRecords):  # type: ignore[misc]
    next_fetch_offset: int

    def _unpack_records(
        self, tp: Any, records: Any, _key: object, _value: object
    ) -> Iterator[Fetched]:
        partition = Partition(tp.topic, tp.partition)
        while True:
            at = self.next_fetch_offset
            try:
                batch = records.next_batch()
            except KafkaError:
                # Not even a batch header: the offsets it spans are unknown, so pass one.
                self.next_fetch_offset = at + 1
                yield Fetched(partition, at, at + 1, None, bytes(records._buffer))
                break
            if batch is None:
                break
            next_offset = batch.next_offset if batch.magic == 2 else _after_legacy(batch)
            # A header may lie, but never make the position stand still or go back.
            next_offset = max(next_offset, at + 1)
            self.next_fetch_offset = next_offset
            if self._is_hidden(batch):
                continue
            self.records_read += max(getattr(batch, "records_count", 1), 0)
            self.bytes_read += len(batch._buffer)
            yield Fetched(
                partition, min(batch.base_offset, next_offset - 1), next_offset, batch, b""
            )
        self.drain()

    def _is_hidden(self, batch: Any) -> bool:
        """Whether a batch is not for consumers: control records, and aborted ones if committed only."""
        if batch.magic != 2:
            return False
        self.leader_epoch = batch.leader_epoch
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if _is_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)


def _is_abort_marker(batch: Any) -> bool:
    """Whether a control batch ends a transaction that was aborted; a broken one does not say so."""
    if not batch.is_control_batch:
        return False
    try:
        record = next(iter(batch))
    except (KafkaError, ValueError, IndexError, StopIteration, ArithmeticError):
        return False
    return bool(getattr(record, "abort", False))


def _after_legacy(batch: Any) -> int:
    """Return the offset after a batch of message format 0 or 1, whose header says its last one."""
    return int(batch.base_offset) + 1


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
        piece: list[Records] = []
        size = 0
        for fetched in found:
            read = _read_or_poison(fetched, decompressed_bytes, check_crcs)
            if piece and (isinstance(read, Poison) or size + len(read.data) > _PIECE_BYTES):
                yield Records.concat(piece)
                piece, size = [], 0
            if isinstance(read, Poison):
                yield read
            else:
                piece.append(read)
                size += len(read.data)
        if piece:
            yield Records.concat(piece)


def _read_or_poison(fetched: Fetched, limit: int, check_crcs: bool) -> Records | Poison:
    batch = fetched.batch
    raw = fetched.raw if batch is None else bytes(batch._buffer)
    try:
        if batch is None:
            raise DecodeError("the fetched bytes hold no batch header")
        return _read(fetched, limit, check_crcs)
    except EventError as error:
        found = error
    except Exception as error:  # kafka-python's parser and the codecs raise of all sorts
        found = DecodeError(f"a record batch cannot be read: {type(error).__name__}")
    timestamp = batch.max_timestamp if batch is not None and batch.magic == 2 else -1
    return Poison(
        fetched.partition, fetched.first_offset, fetched.next_offset, timestamp * _MILLISECOND, raw,
        found,
    )  # fmt: skip


def _read(fetched: Fetched, limit: int, check_crcs: bool) -> Records:
    batch = fetched.batch
    if check_crcs and not batch.validate_crc():
        raise DecodeError("the checksum of a record batch is wrong")
    if batch.magic != 2:
        return _legacy(fetched)
    data, at = batch._buffer, batch._pos
    if batch.compression_type != NONE:
        data = decompress(bytes(memoryview(data)[at:]), batch.compression_type, limit)
        at = 0
    count = batch.records_count
    # A record takes 7 bytes at least; more than fit is a lie that would cost memory.
    if not 0 <= count <= (len(data) - at) // 7 or batch.last_offset_delta < 0:
        raise DecodeError(f"a record batch claims {count} records")
    array = np.frombuffer(data, np.uint8)
    spans = np.empty((count, 8), np.int64)
    if record_spans(array, at, count, spans) < 0:
        raise DecodeError("the records of a batch do not fill it")
    return Records.of_spans(
        fetched.partition, fetched.next_offset, array, spans, batch.base_offset,
        _timestamps(batch, spans[:, 1]),
    )  # fmt: skip


def _timestamps(batch: Any, deltas: Ints) -> Ints:
    if batch.timestamp_type == batch.LOG_APPEND_TIME:
        return np.full(len(deltas), batch.max_timestamp * _MILLISECOND, np.int64)
    return np.asarray((batch.first_timestamp + deltas) * _MILLISECOND, np.int64)


def _legacy(fetched: Fetched) -> Records:
    """Read a message of format 0 or 1, which clients before 0.11 wrote; each is a batch of its own."""
    if fetched.batch.compression_type != NONE:
        raise DecodeError("compressed batches of message format 0 and 1 are not read")
    return Records.of(fetched.partition, [_plain(record) for record in fetched.batch])


def _plain(record: Any) -> PlainRecord:
    timestamp = record.timestamp if record.timestamp is not None else -1
    return PlainRecord(
        record.offset, timestamp * _MILLISECOND, record.key, record.value, record.headers or ()
    )


def read_single(polled: dict[Any, list[Any]]) -> Iterator[Records]:
    """Turn what a plain `KafkaConsumer.poll` returned into `Records`: the fallback path."""
    for tp, found in polled.items():
        yield Records.of(Partition(tp.topic, tp.partition), [_plain(record) for record in found])
