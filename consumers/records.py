"""What a source yields: the records of one Kafka batch as spans over its bytes, or one poison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np

from ..core import wire
from ..core.cloudevents import attributes, to_nanoseconds
from ..core.columns import Bytes, Ints, Strings
from ..core.errors import EventError, SchemaError
from ..core.events import UtcTime
from .record_kernel import (
    ASK,
    HEADER_COUNT,
    HEADERS,
    KEY_END,
    KEY_START,
    OFFSET,
    TIMESTAMP,
    VALUE_END,
    VALUE_START,
    header_kinds,
    read_varint,
)
from .time_kernel import NO_TIME

Header = tuple[str, bytes | None]


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Records of one partition, in the order of the log.

    Parameters
    ----------
    partition
        Where they come from.
    next_offset
        The offset to go on from once they are processed: past the batch's last, removed ones too.
    data
        (bytes,) the received buffer, below 2 GiB.
    offsets
        (n,) int64, ascending.
    timestamps
        (n,) int64, Kafka's record time in nanoseconds since 1970; negative where it has none.
    keys, values
        (n,) spans in `data`; missing where null.
    kinds
        (n,) uint8 `wire.Kind`, or ASK where the headers need `wire.kind_of`.
    header_times
        (n,) int64 nanoseconds of `ce_time`, or NO_TIME.
    header_spans
        (n, 2) int64: where a record's headers begin in `data`, and how many there are.
    """

    partition: Partition
    next_offset: int
    data: Bytes
    offsets: Ints
    timestamps: Ints
    keys: Strings
    values: Strings
    kinds: Bytes
    header_times: Ints
    header_spans: Ints
    plain_headers: Sequence[Sequence[Header]] | None = field(default=None)

    def __len__(self) -> int:
        return len(self.offsets)

    def value(self, record: int) -> bytes | None:
        """Return a record's value."""
        return _bytes(self.values, record)

    def key(self, record: int) -> bytes | None:
        """Return a record's key."""
        return _bytes(self.keys, record)

    def headers(self, record: int) -> list[Header]:
        """Return a record's headers; a name that is not UTF-8 is decoded with replacements."""
        if self.plain_headers is not None:
            return list(self.plain_headers[record])
        found: list[Header] = []
        at, count = map(int, self.header_spans[record])
        for _ in range(count):
            size, at = read_varint(self.data, at, len(self.data))
            name = self.data[at : at + size].tobytes().decode("utf-8", "replace")
            size, at = read_varint(self.data, at + size, len(self.data))
            found.append((name, self.data[at : at + size].tobytes() if size >= 0 else None))
            at += max(size, 0)
        return found

    def kind(self, record: int) -> tuple[wire.Kind, int]:
        """Return a record's kind and header time, asking the reference where the kernel did not know.

        Raises
        ------
        EventError
            The headers are none that tocsin reads.
        """
        if self.kinds[record] != ASK:
            return wire.Kind(self.kinds[record]), int(self.header_times[record])
        headers = self.headers(record)
        kind = wire.kind_of(headers)
        time = attributes(headers).get("time")
        if time is None:
            return kind, NO_TIME
        try:
            said = msgspec.convert(time, UtcTime)
        except msgspec.ValidationError:
            raise SchemaError(
                "ce_time must be an RFC 3339 time with a zone", "$headers.ce_time"
            ) from None
        wire.check_time(said, "$headers.ce_time")
        return kind, to_nanoseconds(said)

    @classmethod
    def of_spans(cls, partition: Partition, next_offset: int, data: Bytes, spans: Ints) -> Records:
        """Build from a span table with offsets, and times in nanoseconds."""
        kinds, times = header_kinds(data, spans)
        columns = np.ascontiguousarray(spans.T)
        return cls(
            partition,
            next_offset,
            data,
            columns[OFFSET],
            columns[TIMESTAMP],
            Strings(data, columns[KEY_START], columns[KEY_END]),
            Strings(data, columns[VALUE_START], columns[VALUE_END]),
            kinds,
            times,
            spans[:, [HEADERS, HEADER_COUNT]],
        )

    @classmethod
    def of(cls, partition: Partition, records: Sequence[PlainRecord]) -> Records:
        """Build from single records: the fallback path, and tests."""
        parts = [(record.key, record.value) for record in records]
        joined = b"".join(part for pair in parts for part in pair if part)
        data = np.frombuffer(joined, np.uint8)
        lengths = np.array(
            [[-1 if p is None else len(p) for p in pair] for pair in parts], np.int64
        )
        lengths = lengths.reshape(-1)
        end = np.cumsum(np.maximum(lengths, 0))
        start = np.where(lengths < 0, -1, end - np.maximum(lengths, 0))
        end = np.where(lengths < 0, -1, end)
        count = len(records)
        return cls(
            partition,
            records[-1].offset + 1 if records else 0,
            data,
            np.array([record.offset for record in records], np.int64),
            np.array([record.timestamp for record in records], np.int64),
            Strings(data, start[::2], end[::2]),
            Strings(data, start[1::2], end[1::2]),
            np.full(count, ASK, np.uint8),
            np.full(count, NO_TIME, np.int64),
            np.zeros((count, 2), np.int64),
            [record.headers for record in records],
        )

    def since(self, offset: int) -> Records:
        """Return the records at `offset` and after; a fetch may begin before what was asked for."""
        first = int(np.searchsorted(self.offsets, offset))
        if first == 0:
            return self
        plain = self.plain_headers
        return Records(
            self.partition, self.next_offset, self.data, self.offsets[first:],
            self.timestamps[first:], self.keys.take(slice(first, None)),
            self.values.take(slice(first, None)), self.kinds[first:], self.header_times[first:],
            self.header_spans[first:], None if plain is None else plain[first:],
        )  # fmt: skip

    @classmethod
    def concat(cls, parts: Sequence[Records]) -> Records:
        """Join records of one partition that follow one another."""
        if len(parts) == 1:
            return parts[0]
        data = parts[0].data
        at = np.zeros(len(parts), np.int64)
        if not all(part.data is data for part in parts):  # batches of one answer share its buffer
            data = np.concatenate([part.data for part in parts])
            at = np.cumsum([0] + [len(part.data) for part in parts[:-1]])
        plain = None
        if any(part.plain_headers is not None for part in parts):
            plain = [part.headers(i) for part in parts for i in range(len(part))]
        counts = [len(part) for part in parts]
        shift = np.repeat(at, counts)
        headers = np.concatenate([part.header_spans for part in parts])
        headers[:, 0] += shift
        return cls(
            parts[0].partition,
            parts[-1].next_offset,
            data,
            np.concatenate([part.offsets for part in parts]),
            np.concatenate([part.timestamps for part in parts]),
            _shifted(data, [part.keys for part in parts], shift),
            _shifted(data, [part.values for part in parts], shift),
            np.concatenate([part.kinds for part in parts]),
            np.concatenate([part.header_times for part in parts]),
            headers,
            plain,
        )


def _shifted(data: Bytes, columns: list[Strings], shift: Ints) -> Strings:
    """Return the columns as one over `data`, each row's text moved by its `shift`."""
    start = np.concatenate([column.start for column in columns])
    end = np.concatenate([column.end for column in columns])
    moved = np.where(start < 0, 0, shift)
    return Strings(data, start + moved, end + moved)


class PlainRecord(NamedTuple):
    """One record, as any Kafka client has it."""

    offset: int
    timestamp: int  # nanoseconds since 1970, negative where there is none
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header] = ()


@dataclass(frozen=True, slots=True)
class Poison:
    """A record batch that cannot be taken apart: one object instead of an exception inside `poll`.

    Parameters
    ----------
    partition
        Where it lies.
    first_offset, next_offset
        The offsets that are lost with it, the second one exclusive.
    timestamp
        Kafka's time of its last record in nanoseconds, negative where it has none.
    raw
        The batch as fetched, still compressed.
    error
        Why; its `reason` goes to the dead letters.
    """

    partition: Partition
    first_offset: int
    next_offset: int
    timestamp: int
    raw: bytes
    error: EventError


def _bytes(column: Strings, record: int) -> bytes | None:
    if column.start[record] < 0:
        return None
    return column.data[column.start[record] : column.end[record]].tobytes()
