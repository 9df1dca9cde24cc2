"""Records to columns: every record of a partition becomes rows of batches, or a refusal with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core import wire
from ..core.batch import EventBatch, LabelBatch, Origin
from ..core.cloudevents import to_nanoseconds
from ..core.columns import Bytes, Ints, Strings, groups, stack, take
from ..core.errors import DecodeError, EventError, SchemaError, SizeError
from ..core.events import Event, Label, Prediction
from ..core.limits import Limits
from ..core.merge import in_log_order
from ..core.names import MODEL
from ..core.wire import Kind
from ..detectors.string_index import StringIndex
from . import arrow_reader, assemble
from .assemble import Part, Rows
from .column_kernel import sort_rows
from .json_kernel import Cells, Workspace, key_slots, read_rows
from .record_kernel import ASK, count_lines, split_lines
from .records import Records
from .shapes import ShapeBook
from .time_kernel import NO_TIME

_LEARN_ROUNDS: Final = 8  # chosen: new shapes looked for in one call; more come with the next
_MAX_PATIENCE: Final = 63  # calls without a look for new shapes, once looking has been in vain
_MAX_MODELS: Final = 1 << 16  # remembered; beyond, that memory starts anew

Single = list[tuple[Origin, Event]]


class Refused(NamedTuple):
    """What could not be decoded.

    Parameters
    ----------
    record
        Its index in the `Records` decoded.
    row
        The event's place inside the record, or -1 for the whole record.
    raw
        The refused bytes: the record's value, or the one event in it; None for a null value, and for
        rows of an Arrow batch once those before fill `limits.batch_bytes`.
    error
        Why.
    events
        How many events it is, as far as that is known.
    """

    record: int
    row: int
    raw: bytes | None
    error: EventError
    events: int = 1


@dataclass(slots=True)
class Decoded:
    """The rows of some records.

    Parameters
    ----------
    predictions, labels
        Batches of single models; those of one model are in the order of the log.
    refused
        What was refused, in no particular order.
    """

    predictions: list[EventBatch] = field(default_factory=list)
    labels: list[LabelBatch] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


class _Texts(NamedTuple):
    """JSON texts, (n,) each: the record one stands in, its place there, its span, its kind."""

    record: Ints
    row: Ints
    start: Ints
    end: Ints
    kind: Bytes
    is_line: Bytes


class Decoder:
    """Decodes records; what it remembers makes it faster, never different.

    Parameters
    ----------
    limits
        Bounds on events.
    compiled
        Whether known shapes are read by the compiled reader, or every event by the reference.
    """

    def __init__(self, limits: Limits | None = None, *, compiled: bool = True) -> None:
        self._limits = limits or Limits()
        self._compiled = compiled
        self._book = ShapeBook()
        self._models = _Models()
        self._workspace = Workspace()
        self._patience = 0
        self._skipped = 0

    def decode(
        self, records: Records, reads_features: Callable[[str], bool] = lambda _: True
    ) -> Decoded:
        """Decode `records`; raises nothing that a sender can cause.

        Features need not be in the batches of models of which `reads_features` is not true.
        """
        out = Decoded()
        kinds, times = self._kinds(records, out)
        if len(self._models) > _MAX_MODELS:
            self._models = _Models()
        begin = 0
        for record in [*np.flatnonzero(kinds == Kind.ARROW).tolist(), len(records)]:
            if begin < record:
                self._json(records, np.arange(begin, record), kinds, times, reads_features, out)
            if record < len(records):
                self._arrow(records, record, int(times[record]), out)
            begin = record + 1
        return out

    def _kinds(self, records: Records, out: Decoded) -> tuple[Bytes, Ints]:
        """Return (n,) kinds, ASK where refused, and (n,) times for events that have none."""
        kinds, times = records.kinds.copy(), records.header_times.copy()
        for record in np.flatnonzero(kinds == ASK).tolist():
            try:
                kinds[record], times[record] = records.kind(record)
            except EventError as error:
                out.refused.append(Refused(record, -1, records.value(record), error))
        size = records.values.end - records.values.start
        single = kinds <= Kind.LABEL
        bound = np.where(single, self._limits.json_bytes, self._limits.batch_bytes)
        bad = (kinds != ASK) & (~records.values.present | (size > bound))
        for record in np.flatnonzero(bad).tolist():
            kinds[record] = ASK
            raw = records.value(record)
            why: EventError = DecodeError("the record has no value")
            if raw is not None:
                name = "json_bytes" if single[record] else "batch_bytes"
                why = SizeError(
                    f"the value has {len(raw)} bytes, more than limits.{name} = {bound[record]}"
                )
            out.refused.append(Refused(record, -1, raw, why))
        return kinds, np.where(times == NO_TIME, np.maximum(records.timestamps, 0), times)

    def _json(
        self, records: Records, of: Ints, kinds: Bytes, base_times: Ints,
        reads_features: Callable[[str], bool], out: Decoded,
    ) -> None:  # fmt: skip
        texts = self._texts(records, of, kinds, out)
        times = base_times[texts.record]
        cells = self._cells(records, texts)
        offsets = records.offsets[texts.record]
        rows = Rows(records.data, offsets, texts.row, times.copy(), cells)
        models, environment = self._check(rows, records.timestamps[texts.record])
        single = self._reference(records, texts, np.flatnonzero(cells.shape < 0), times, out)
        predictions, labels = self._assemble(rows, models, environment, reads_features)
        _add_single(single, predictions, labels)
        out.predictions += chain.from_iterable(predictions.values())
        out.labels += chain.from_iterable(labels.values())

    def _texts(self, records: Records, of: Ints, kinds: Bytes, out: Decoded) -> _Texts:
        """Return the JSON texts of records: single events, and the lines of packed ones."""
        kind = kinds[of]
        values = records.values
        singles = of[kind <= Kind.LABEL]
        texts = _Texts(
            singles, np.zeros(len(singles), np.int64), values.start[singles], values.end[singles],
            kinds[singles], np.zeros(len(singles), np.uint8),
        )  # fmt: skip
        packed = of[kind == Kind.LINES]
        if not len(packed):
            return texts
        lines = count_lines(records.data, values.start[packed], values.end[packed])
        if lines > self._limits.batch_rows:
            packed = self._few_enough(records, packed, out)
            lines = count_lines(records.data, values.start[packed], values.end[packed])
        at, row, start, end = np.empty((4, lines), np.int64)
        split_lines(records.data, values.start[packed], values.end[packed], at, row, start, end)
        bare = np.full(lines, Kind.BARE, np.uint8)
        found = _Texts(packed[at], row, start, end, bare, np.ones(lines, np.uint8))
        if not len(singles):
            return found
        order = np.argsort(np.concatenate([texts.record, found.record]), kind="stable")
        return take(stack([texts, found]), order)

    def _few_enough(self, records: Records, packed: Ints, out: Decoded) -> Ints:
        """Return the packed records that keep to the limit on rows, and refuse the others."""
        kept = []
        for record in packed.tolist():
            one = records.values.take(slice(record, record + 1))
            lines = count_lines(records.data, one.start, one.end)
            if lines <= self._limits.batch_rows:
                kept.append(record)
                continue
            error = SizeError(
                f"the record packs {lines} events, more than limits.batch_rows = "
                f"{self._limits.batch_rows}"
            )
            out.refused.append(Refused(record, -1, records.value(record), error, lines))
        return np.array(kept, np.int64)

    def _cells(self, records: Records, texts: _Texts) -> Cells:
        """Read the texts by known shapes, learning new ones on the way; shape -1 where none fits."""
        if not self._compiled:
            return _no_cells(len(texts.record))
        slots = np.empty(len(records), np.int64)
        key_slots(records.data, records.keys.start, records.keys.end, slots)
        keys = slots[texts.record]
        cells = self._match(records.data, texts, keys)
        fits = texts.end - texts.start <= self._limits.json_bytes
        cells.shape[~fits] = -1
        if self._skipped < self._patience:
            self._skipped += 1
            return cells
        learned = tried = 0
        while tried < _LEARN_ROUNDS:
            unknown = np.flatnonzero((cells.shape < 0) & fits)
            if tried - learned >= len(unknown):
                break
            # One that taught nothing stays unknown: go on to those after it.
            if self._learn(records.data, texts, int(unknown[tried - learned])):
                learned += 1
                cells = self._match(records.data, texts, keys)
                cells.shape[~fits] = -1
            tried += 1
        if tried:
            self._skipped = 0
            self._patience = 0 if learned else min(2 * self._patience + 1, _MAX_PATIENCE)
        return cells

    def _match(self, data: Bytes, texts: _Texts, keys: Ints) -> Cells:
        return read_rows(
            data, texts.start, texts.end, texts.kind, keys, self._book.hints, self._book.packed,
            self._workspace,
        )  # fmt: skip

    def _learn(self, data: Bytes, texts: _Texts, text: int) -> bool:
        raw = data[texts.start[text] : texts.end[text]].tobytes()
        kind = Kind(texts.kind[text])
        try:
            return self._book.learn(raw, kind, wire.decode(raw, kind, self._limits))
        except EventError:
            return False  # it is refused when the reference reads it

    def _check(self, rows: Rows, timestamps: Ints) -> tuple[Ints, Bytes]:
        """Take the shape from rows that the reference must judge; return (n,) codes of models and environments."""
        names, environment = assemble.check(self._book.layout, rows)
        models = self._models.add(names)
        models[models < 0] = self._models.default
        ahead = rows.times - timestamps
        good = self._models.valid(models) & (ahead <= self._limits.future_seconds * 1e9)
        rows.cells.shape[~good] = -1
        models[rows.cells.shape < 0] = -1
        return models, environment

    def _reference(
        self, records: Records, texts: _Texts, of: Ints, times: Ints, out: Decoded
    ) -> Single:
        """Decode the texts `of` one by one."""
        found: Single = []
        for text in of.tolist():
            raw = records.data[texts.start[text] : texts.end[text]].tobytes()
            record, row = int(texts.record[text]), int(texts.row[text])
            try:
                event = wire.decode(raw, Kind(texts.kind[text]), self._limits)
                time = event.time if isinstance(event, Prediction) else event.observed_at
                at = int(times[text]) if time is None else to_nanoseconds(time)
                _refuse_future(at, int(records.timestamps[record]), self._limits)
                found.append((Origin(int(records.offsets[record]), row, at), event))
            except EventError as error:
                place = row if texts.is_line[text] else -1
                out.refused.append(Refused(record, place, raw, error))
        return found

    def _assemble(
        self, rows: Rows, models: Ints, environment: Bytes, reads_features: Callable[[str], bool]
    ) -> tuple[dict[str, list[EventBatch]], dict[str, list[LabelBatch]]]:
        """Put rows of known shapes into batches by model."""
        predictions: dict[str, list[EventBatch]] = {}
        labels: dict[str, list[LabelBatch]] = {}
        known = np.flatnonzero(models >= 0)
        if not len(known):
            return predictions, labels
        codes = np.full(len(models), -1)
        codes[known] = 2 * models[known] + self._book.is_label[rows.cells.shape[known]]
        order, bounds = np.empty_like(known), np.zeros(2 * len(self._models) + 1, np.int64)
        sort_rows(codes, order, bounds)
        columns = assemble.columns(self._book.layout, rows, order, environment)
        for code in np.flatnonzero(bounds[1:] > bounds[:-1]).tolist():
            model, of = self._models[code // 2], slice(*bounds[code : code + 2].tolist())
            own = take(columns, of)
            if code % 2:
                labels[model] = [assemble.label_batch(model, own)]
                continue
            parts = self._parts(rows, order[of])
            found = assemble.event_batches(model, rows, own, parts, features=reads_features(model))
            predictions[model] = list(found)
        return predictions, labels

    def _parts(self, rows: Rows, of: Ints) -> list[Part]:
        return [
            Part(self._book.shapes[code], of[place], place)
            for code, place in groups(rows.cells.shape[of])
        ]

    def _arrow(self, records: Records, record: int, base_time: int, out: Decoded) -> None:
        raw = records.value(record) or b""
        try:
            found = arrow_reader.read(
                raw, int(records.offsets[record]), base_time, int(records.timestamps[record]),
                self._limits,
            )  # fmt: skip
        except EventError as error:
            out.refused.append(Refused(record, -1, raw, error))
            return
        out.predictions += found.batches
        out.refused += [Refused(record, row, one, error) for row, one, error in found.refused]


class _Models:
    """Names of models as codes, each judged once."""

    def __init__(self) -> None:
        self._index = StringIndex()
        self._valid = np.zeros(0, np.bool_)
        self.default = int(self.add(Strings.of(["default"]))[0])

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, code: int) -> str:
        return self._index[code]

    def add(self, names: Strings) -> Ints:
        """Return (n,) codes."""
        before = len(self._index)
        codes = self._index.add(names)
        new = [bool(MODEL.fullmatch(self._index[c])) for c in range(before, len(self._index))]
        if new:
            self._valid = np.concatenate([self._valid, np.array(new, np.bool_)])
        return codes

    def valid(self, codes: Ints) -> NDArray[np.bool_]:
        """Return (n,) whether each is a name that `events.ModelName` allows."""
        return np.asarray((codes >= 0) & self._valid[codes])


def _add_single(
    single: Single, predictions: dict[str, list[EventBatch]], labels: dict[str, list[LabelBatch]]
) -> None:
    """Put events that were read one by one among those of their models, in the log's order."""
    read: dict[str, tuple[list[tuple[Origin, Prediction]], list[tuple[Origin, Label]]]] = {}
    for origin, event in single:
        of = read.setdefault(event.model, ([], []))
        if isinstance(event, Prediction):
            of[0].append((origin, event))
        else:
            of[1].append((origin, event))
    for model, (own, told) in read.items():
        if own:
            batches = [*predictions.get(model, ()), *EventBatch.of(model, own)]
            predictions[model] = list(in_log_order(batches))
        if told:
            known = [*labels.get(model, ()), LabelBatch.of(model, told)]
            labels[model] = list(in_log_order(known))


def _no_cells(rows: int) -> Cells:
    spans = np.zeros(0, np.int32)
    return Cells(
        np.full(rows, -1, np.int64), np.zeros(rows, np.int64), np.zeros(0, np.uint8), np.zeros(0),
        spans, spans,
    )  # fmt: skip


def _refuse_future(time: int, timestamp: int, limits: Limits) -> None:
    # A record without a time of its own lies at the beginning of 1970: its events have none either.
    if time - timestamp > limits.future_seconds * 1e9:
        raise SchemaError(
            f"the event's time lies more than limits.future_seconds = "
            f"{limits.future_seconds:g} ahead of its record's, or that has none",
            "$.time",
        )
