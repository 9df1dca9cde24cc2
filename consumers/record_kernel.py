"""Compiled readers of Kafka's record format (magic 2): spans of keys, values and headers, no objects."""

# numba decides what is an integer and what an array's element:
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from typing import Final

import numpy as np

from ..core import cloudevents as ce
from ..core.columns import Bytes, Ints
from ..core.wire import Kind
from ..detectors.compiled import compiled
from .time_kernel import NO_TIME, parse_time

# Columns of the span table that `record_spans` fills.
OFFSET, TIMESTAMP, KEY_START, KEY_END, VALUE_START, VALUE_END, HEADERS, HEADER_COUNT = range(8)
ASK: Final = 255
"""A kind that the kernel leaves to `wire.kind_of`."""


@compiled
def read_varint(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """Return the zigzag varint at `at` and the position after it; that position is -1 if broken."""
    value = np.uint64(0)
    shift = np.uint64(0)
    for _ in range(10):
        if at >= end:
            return 0, -1
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(127)) << shift
        if byte < 128:
            return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), at
        shift += np.uint64(7)
    return 0, -1


@compiled
def record_spans(data: Bytes, at: int, end: int, records: int, spans: Ints) -> int:
    """Fill `spans` (records, 8) from the records in data[at:end]; return `records`, or -1 if broken.

    References
    ----------
    Apache Kafka documentation, "Message format", sections "Record Batch" and "Record".
    """
    for i in range(records):
        length, at = read_varint(data, at, end)
        if at < 0 or length < 1 or length > end - at:  # a sum could overflow
            return -1
        stop = at + length
        at += 1  # attributes, unused by Kafka
        spans[i, TIMESTAMP], at = read_varint(data, at, stop)
        if at < 0:
            return -1
        spans[i, OFFSET], at = read_varint(data, at, stop)
        if at < 0:
            return -1
        for column in (KEY_START, VALUE_START):
            size, at = read_varint(data, at, stop)
            if at < 0 or size > stop - at:
                return -1
            spans[i, column] = at if size >= 0 else -1
            spans[i, column + 1] = at + size if size >= 0 else -1
            at += max(size, 0)
        count, at = read_varint(data, at, stop)
        if at < 0 or count < 0:
            return -1
        spans[i, HEADERS] = at
        spans[i, HEADER_COUNT] = count
        for _ in range(count):
            size, at = read_varint(data, at, stop)
            if at < 0 or size < 0 or size > stop - at:
                return -1
            size, at = read_varint(data, at + size, stop)
            if at < 0 or size > stop - at:
                return -1
            at += max(size, 0)
        if at != stop:
            return -1
    return records if at == end else -1


@compiled
def place_spans(
    spans: Ints, base_offset: int, last_delta: int, first: int, appended: int, last: int, unit: int
) -> bool:
    """Make a batch's deltas offsets, and times in units of `unit`; False if its offsets do not rise to `last_delta` at most.

    A time is `first` and the record's delta, or `appended` where that is not negative; beyond 0 to `last`
    it is none, -1 `unit`.
    """
    before = -1
    for i in range(spans.shape[0]):
        delta = spans[i, OFFSET]  # the producer's word, in a batch that the broker has not unpacked
        if delta <= before or delta > last_delta:
            return False
        before = delta
        spans[i, OFFSET] = base_offset + delta
        time = appended if appended >= 0 else first + spans[i, TIMESTAMP]
        spans[i, TIMESTAMP] = (time if 0 <= time <= last else -1) * unit
    return True


def _table(texts: list[str]) -> tuple[Bytes, Ints]:
    """Return texts as one (bytes,) buffer and their (n + 1,) bounds."""
    encoded = [text.encode() for text in texts]
    bounds = np.cumsum([0] + [len(text) for text in encoded])
    return np.frombuffer(b"".join(encoded), np.uint8), bounds.astype(np.int64)


_KEYS = _table(["ce_type", "content-type", "ce_specversion", "ce_time"])
_TYPES = _table([ce.PREDICTION, ce.LABEL, ce.EVENTS, ce.PREDICTIONS])
_CONTENT = _table([ce.JSON, ce.LINES, ce.ARROW])
_VERSIONS = _table(["1.0"])
# The kind of each content type, and the content type that each CloudEvents type must have.
_BARE = np.array([Kind.BARE, Kind.LINES, Kind.ARROW], np.int64)
_TYPE_KIND = np.array([Kind.PREDICTION, Kind.LABEL, Kind.LINES, Kind.ARROW], np.int64)
_TYPE_CONTENT = np.array([0, 0, 1, 2], np.int64)


@compiled
def _which(data: Bytes, at: int, end: int, texts: Bytes, bounds: Ints, fold: bool) -> int:
    """Return which text equals data[at:end], or -1; `fold` compares ASCII letters without case."""
    for k in range(bounds.shape[0] - 1):
        if end - at != bounds[k + 1] - bounds[k]:
            continue
        same = True
        for i in range(end - at):
            byte = data[at + i]
            if fold and 65 <= byte <= 90:
                byte += np.uint8(32)
            if byte != texts[bounds[k] + i]:
                same = False
                break
        if same:
            return k
    return -1


@compiled
def _header_kinds(
    data: Bytes, spans: Ints, kinds: Bytes, times: Ints,
    keys: Bytes, key_bounds: Ints, types: Bytes, type_bounds: Ints, content: Bytes,
    content_bounds: Ints, versions: Bytes, version_bounds: Ints,
    bare: Ints, type_kind: Ints, type_content: Ints,
) -> None:  # fmt: skip
    end = data.shape[0]
    for i in range(spans.shape[0]):
        kind = found_type = found_content = found_version = -2  # -2: no such header, -1: unknown
        times[i] = NO_TIME
        ask = False
        at = spans[i, HEADERS]
        for _ in range(spans[i, HEADER_COUNT]):
            size, at = read_varint(data, at, end)
            key = _which(data, at, at + size, keys, key_bounds, True)
            size, at = read_varint(data, at + size, end)
            if size < 0:
                continue
            if key == 0:
                found_type = _which(data, at, at + size, types, type_bounds, False)
            elif key == 1:
                found_content = _which(data, at, at + size, content, content_bounds, False)
            elif key == 2:
                found_version = _which(data, at, at + size, versions, version_bounds, False)
            elif key == 3:
                times[i] = parse_time(data, at, at + size)
                ask = ask or times[i] == NO_TIME
            at += size
        if found_type == -2:
            kind = bare[found_content] if found_content >= 0 else 0
            ask = ask or found_content == -1
        elif found_type >= 0 and found_version == 0:
            kind = type_kind[found_type]
            ask = ask or (found_content != -2 and found_content != type_content[found_type])
        else:
            ask = True
        kinds[i] = ASK if ask else kind


def header_kinds(data: Bytes, spans: Ints) -> tuple[Bytes, Ints]:
    """Return each record's (n,) `Kind`, or ASK, and (n,) header time in nanoseconds, or NO_TIME."""
    kinds = np.empty(len(spans), np.uint8)
    times = np.empty(len(spans), np.int64)
    _header_kinds(
        data, spans, kinds, times, *_KEYS, *_TYPES, *_CONTENT, *_VERSIONS,
        _BARE, _TYPE_KIND, _TYPE_CONTENT,
    )  # fmt: skip
    return kinds, times


@compiled
def count_lines(data: Bytes, start: Ints, end: Ints) -> int:
    """Return how many lines that hold more than blanks the spans have together."""
    lines = 0
    for i in range(start.shape[0]):
        text = False
        for at in range(start[i], end[i]):
            if data[at] == 10:
                lines += text
                text = False
            elif data[at] > 32:
                text = True
        lines += text
    return lines


@compiled
def split_lines(
    data: Bytes, start: Ints, end: Ints, of: Ints, row: Ints, line_start: Ints, line_end: Ints
) -> None:
    """Fill, for each line: the span it lies in, its place there, and its own span.

    Lines that hold nothing but blanks have no place; a JSON text never holds a raw newline.
    """
    k = 0
    for i in range(start.shape[0]):
        place = 0
        begin = start[i]
        text = False
        for at in range(start[i], end[i] + 1):
            if at == end[i] or data[at] == 10:
                if text:
                    of[k] = i
                    row[k] = place
                    line_start[k] = begin
                    line_end[k] = at
                    place += 1
                    k += 1
                begin = at + 1
                text = False
            elif data[at] > 32:
                text = True
