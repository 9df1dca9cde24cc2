"""Arrow batches to event batches; the only place in the worker that needs pyarrow."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.batch import EventBatch
from ..core.columns import (
    FALSE,
    FLOAT,
    INTEGER,
    NULL,
    TEXT,
    TRUE,
    Floats,
    Ints,
    Strings,
    Values,
    groups,
)
from ..core.errors import DecodeError, EventError, NonFiniteError, SchemaError, SizeError
from ..core.events import ENVIRONMENTS
from ..core.json_scan import dotted
from ..core.limits import Limits
from ..core.names import LENGTHS

COLUMNS: Final = (
    "prediction_id", "model", "version", "time", "features", "prediction", "scores", "logits",
    "embedding", "client", "segments", "environment", "label", "sample_rate",
)  # fmt: skip
"""The fields of `Prediction` that a batch may have; raw inputs are sent as single events."""

_FIRST_TIME, _LAST_TIME = 365 * 86_400_000_000_000, 291 * 365 * 86_400_000_000_000
_UNPACKED: Final = 8  # times `limits.batch_bytes`: what int8 becomes as float64


class ArrowRows(NamedTuple):
    """What a batch held: event batches in the order of its rows, and refused rows.

    A refused row comes as its place, itself as an Arrow stream of one row, and the error. Where those
    streams, each with the schema and all dictionaries, fill `limits.batch_bytes`, the others are left out.
    """

    batches: list[EventBatch]
    refused: list[tuple[int, bytes | None, EventError]]


def read(raw: bytes, offset: int, base_time: int, timestamp: int, limits: Limits) -> ArrowRows:
    """Read one Arrow IPC stream.

    Parameters
    ----------
    raw
        The record's value.
    offset
        The record's offset.
    base_time
        Event time of rows that have none, in nanoseconds.
    timestamp
        The record's own time in nanoseconds, negative where it has none.
    limits
        Bounds.

    Raises
    ------
    EventError
        The batch as a whole cannot be read: not Arrow, too many rows, an unknown or ill-typed column.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise DecodeError(
            "reading Arrow batches needs pyarrow: pip install 'tocsin[batch]' on the worker"
        ) from None
    try:
        _refuse_compressed(pa, raw)
        table = pa.ipc.open_stream(raw).read_all()
        if len(table) > limits.batch_rows:
            raise SizeError(
                f"the batch has {len(table)} rows, more than limits.batch_rows = "
                f"{limits.batch_rows}"
            )
        _refuse_bomb(pa, table, _UNPACKED * limits.batch_bytes)
        table.validate(full=True)
        return _Reader(pa, table.combine_chunks(), limits).read(offset, base_time, timestamp)
    except EventError:
        raise
    except (pa.ArrowException, OSError, struct.error, LookupError, ValueError) as error:
        kind = type(error).__name__  # names and time zones that are not UTF-8 are found late
        raise DecodeError(f"the value is not a sound Arrow IPC stream ({kind})") from None


class _Reader:
    """One batch on its way into columns; `bad` collects the rows that must be refused."""

    def __init__(self, pa: Any, table: Any, limits: Limits) -> None:
        self._pa = pa
        self._table = table
        self._limits = limits
        self._count = len(table)
        self._bad: dict[int, EventError] = {}

    def read(self, offset: int, base_time: int, timestamp: int) -> ArrowRows:
        for name in self._table.column_names:
            if name not in COLUMNS:
                near = get_close_matches(name, COLUMNS, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise SchemaError(f"the batch has an unknown column {name!r}{hint}", f"$.{name}")
        if len(set(self._table.column_names)) < len(self._table.column_names):
            raise SchemaError("the batch has two columns of one name")
        if "prediction_id" not in self._table.column_names:
            raise SchemaError("the batch has no column prediction_id", "$.prediction_id")
        text = {name: self._text_field(name) for name in LENGTHS}
        model = self._models(text["model"])
        features, texts = self._features()
        scores = self._struct("scores", self._floats)
        logits, embedding = self._lists("logits"), self._lists("embedding")
        times = self._times(base_time, timestamp)
        sample_rate = self._sample_rate()
        names = tuple(features)
        whole = EventBatch(
            model="",
            offsets=np.full(self._count, offset, np.int64),
            rows=np.arange(self._count),
            times=times,
            prediction_id=text["prediction_id"],
            environment=self._environments(),
            version=text["version"],
            client=text["client"],
            feature_names=names,
            features=_stacked(list(features.values()), self._count),
            texts=texts,
            prediction=self._values("prediction"),
            label=self._values("label"),
            score_names=tuple(scores),
            scores=_stacked(list(scores.values()), self._count),
            logits=None,
            embedding=None,
            segments=self._struct("segments", self._strings),
            sample_rate=sample_rate,
        )
        return ArrowRows(list(self._divide(whole, model, logits, embedding)), list(self._refused()))

    def _divide(
        self, whole: EventBatch, model: list[str], logits: _Lists, embedding: _Lists
    ) -> Iterator[EventBatch]:
        """Divide the good rows by model, and cut where the width of a list changes."""
        numbers: dict[str, int] = {}
        codes = np.array([numbers.setdefault(name, len(numbers)) for name in model], np.int64)
        codes[list(self._bad)] = -1
        names = list(numbers)
        for code, of in groups(codes):
            widths = np.stack([logits.width[of], embedding.width[of]], axis=1)
            cuts = np.flatnonzero((np.diff(widths, axis=0) != 0).any(axis=1)) + 1
            for run in np.split(of, cuts):
                if len(run):
                    cut = whole.take(run)
                    yield EventBatch(
                        **{
                            field: getattr(cut, field)
                            for field in EventBatch.__dataclass_fields__
                            if field not in ("model", "logits", "embedding")
                        },
                        model=names[code],
                        logits=logits.matrix(run),
                        embedding=embedding.matrix(run),
                    )

    def _refused(self) -> Iterator[tuple[int, bytes | None, EventError]]:
        room = self._limits.batch_bytes
        for row, error in sorted(self._bad.items()):
            raw = self._alone(row) if room > 0 else None
            room -= len(raw or b"")
            yield row, raw, error

    def _alone(self, row: int) -> bytes:
        """Return a row as an Arrow stream of its own."""
        sink = self._pa.BufferOutputStream()
        with self._pa.ipc.new_stream(sink, self._table.schema) as writer:
            writer.write_table(self._table.slice(row, 1))
        return bytes(sink.getvalue())

    def _refuse(self, rows: NDArray[np.bool_], error: EventError) -> None:
        for row in np.flatnonzero(rows).tolist():
            self._bad.setdefault(row, error)

    def _column(self, name: str) -> Any:
        if name not in self._table.column_names:
            return None
        column = self._table.column(name)
        array = column.chunk(0) if column.num_chunks else self._pa.array([], column.type)
        if self._pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        return None if self._pa.types.is_null(array.type) else array

    def _ill_typed(self, where: str, found: Any, expected: str) -> SchemaError:
        return SchemaError(f"{where} must be {expected}, got Arrow type {found}", where)

    def _strings(self, where: str, array: Any) -> Strings:
        types = self._pa.types
        if types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if types.is_null(array.type):
            return Strings.missing(self._count)
        if not (types.is_string(array.type) or types.is_large_string(array.type)):
            raise self._ill_typed(where, array.type, "text")
        array = array.cast(self._pa.large_string())
        _, bounds, data = array.buffers()
        if bounds is None:
            return Strings.missing(self._count)
        at = np.frombuffer(bounds, np.int64)[array.offset : array.offset + self._count + 1]
        null = array.is_null().to_numpy(zero_copy_only=False)
        return Strings(
            np.frombuffer(data or b"", np.uint8),
            np.where(null, -1, at[:-1]),
            np.where(null, -1, at[1:]),
        )

    def _floats(self, where: str, array: Any, *, required: bool = False) -> Floats:
        """Return (n,) float64, NaN for null; refuse rows that are not finite."""
        types = self._pa.types
        if types.is_null(array.type):
            return np.full(self._count, np.nan)
        if types.is_boolean(array.type):
            array = array.cast(self._pa.uint8())
        if not (types.is_integer(array.type) or types.is_floating(array.type)):
            raise self._ill_typed(where, array.type, "a number")
        found = np.asarray(array.cast(self._pa.float64(), safe=False).fill_null(0.0))
        null = array.is_null().to_numpy(zero_copy_only=False)
        self._refuse(
            ~np.isfinite(found) & ~null, NonFiniteError(f"{where} is not a finite number", where)
        )
        if required:
            self._refuse(null, SchemaError(f"{where} is null", where))
        return np.where(null, np.nan, found)

    def _text_field(self, name: str) -> Strings:
        array = self._column(name)
        if array is None:
            found = Strings.missing(self._count)
        else:
            found = self._strings(f"$.{name}", array)
            low, high = LENGTHS[name]
            length = self._pa.compute.utf8_length(array).fill_null(low)
            length = np.asarray(length.to_numpy(zero_copy_only=False))
            self._refuse(
                (length < low) | (length > high),
                SchemaError(f"$.{name} must have {low} to {high} characters", f"$.{name}"),
            )
        if name == "prediction_id":
            self._refuse(
                ~found.present, SchemaError("$.prediction_id is missing", "$.prediction_id")
            )
        return found

    def _models(self, column: Strings) -> list[str]:
        names = [name or "default" for name in column.to_list()]
        bad = np.array([any(c.isspace() or ord(c) < 32 or ord(c) == 127 for c in n) for n in names])
        if len(bad):
            self._refuse(bad, SchemaError("$.model must not hold blanks or controls", "$.model"))
        return names

    def _environments(self) -> NDArray[np.uint8]:
        array = self._column("environment")
        if array is None:
            return np.zeros(self._count, np.uint8)
        found = self._strings("$.environment", array).to_list()
        codes = np.array([0 if t is None else _index(t) for t in found], np.int64)
        self._refuse(
            codes < 0,
            SchemaError(f"$.environment must be one of {', '.join(ENVIRONMENTS)}", "$.environment"),
        )
        return np.maximum(codes, 0).astype(np.uint8)

    def _times(self, base_time: int, timestamp: int) -> Ints:
        array = self._column("time")
        found = np.full(self._count, base_time, np.int64)
        if array is not None:
            if not self._pa.types.is_timestamp(array.type) or array.type.tz is None:
                raise self._ill_typed("$.time", array.type, "a timestamp with a time zone")
            try:
                exact = array.cast(self._pa.timestamp("ns", "UTC")).cast(self._pa.int64())
            except self._pa.ArrowInvalid:
                raise SchemaError("$.time must lie between 1971 and 2261", "$.time") from None
            found = np.asarray(exact.fill_null(base_time)).astype(np.int64)
            self._refuse(
                (found < _FIRST_TIME) | (found > _LAST_TIME),
                SchemaError("$.time must lie between 1971 and 2261", "$.time"),
            )
        self._refuse(
            found - timestamp > self._limits.future_seconds * 1e9,
            SchemaError(
                f"the event's time lies more than limits.future_seconds = "
                f"{self._limits.future_seconds:g} ahead of its record's, or that has none",
                "$.time",
            ),
        )
        return found

    def _sample_rate(self) -> Floats:
        array = self._column("sample_rate")
        if array is None:
            return np.ones(self._count)
        found = self._floats("$.sample_rate", array)
        found = np.where(np.isnan(found), 1.0, found)
        self._refuse(
            ~((found > 0) & (found <= 1)),
            SchemaError("$.sample_rate must be above 0 and at most 1", "$.sample_rate"),
        )
        return found

    def _values(self, name: str) -> Values:
        array = self._column(name)
        if array is None:
            return Values.missing(self._count)
        types, where = self._pa.types, f"$.{name}"
        null = array.is_null().to_numpy(zero_copy_only=False)
        if types.is_string(array.type) or types.is_large_string(array.type):
            tags = np.where(null, NULL, TEXT).astype(np.uint8)
            return Values(tags, np.full(self._count, np.nan), self._strings(where, array))
        numbers = self._floats(where, array)
        if types.is_boolean(array.type):
            tag = np.where(numbers > 0, TRUE, FALSE)
            numbers = np.full(self._count, np.nan)
        else:
            tag = np.full(self._count, INTEGER if types.is_integer(array.type) else FLOAT)
        tags = np.where(null, NULL, tag).astype(np.uint8)
        return Values(tags, numbers, Strings.missing(self._count))

    def _struct(self, name: str, read: Callable[..., Any]) -> dict[str, Any]:
        return {child: read(dotted((name, child)), array) for child, array in self._children(name)}

    def _children(self, name: str) -> list[tuple[str, Any]]:
        array = self._column(name)
        if array is None:
            return []
        if not self._pa.types.is_struct(array.type):
            raise self._ill_typed(f"$.{name}", array.type, "a struct")
        names = [field.name for field in array.type]
        if len(names) > self._limits.features:
            raise SizeError(
                f"{name} has {len(names)} entries, more than limits.features = "
                f"{self._limits.features}"
            )
        if len(set(names)) < len(names):
            raise SchemaError(f"$.{name} has two fields of one name", f"$.{name}")
        return list(zip(names, array.flatten(), strict=True))

    def _features(self) -> tuple[dict[str, Floats], dict[str, Strings]]:
        numeric: dict[str, Floats] = {}
        texts: dict[str, Strings] = {}
        types = self._pa.types
        for name, array in self._children("features"):
            where = dotted(("features", name))
            kind = array.type.value_type if types.is_dictionary(array.type) else array.type
            if types.is_string(kind) or types.is_large_string(kind):
                texts[name] = self._strings(where, array)
            else:
                numeric[name] = self._floats(where, array)
        return numeric, texts

    def _lists(self, name: str) -> _Lists:
        array = self._column(name)
        if array is None:
            return _Lists(np.zeros(self._count, np.int64), np.zeros(self._count, np.int64), None)
        types, where = self._pa.types, f"$.{name}"
        if types.is_fixed_size_list(array.type):
            array = array.cast(self._pa.list_(array.type.value_type))
        if not (types.is_list(array.type) or types.is_large_list(array.type)):
            raise self._ill_typed(where, array.type, "a list of numbers")
        if not types.is_floating(array.type.value_type) and not types.is_integer(
            array.type.value_type
        ):
            raise self._ill_typed(where, array.type, "a list of numbers")
        start = np.asarray(array.offsets).astype(np.int64)
        null = array.is_null().to_numpy(zero_copy_only=False)
        width = np.where(null, 0, np.diff(start))
        if (width > self._limits.features).any():
            raise SizeError(
                f"{name} has more entries than limits.features = {self._limits.features}"
            )
        cells = np.asarray(
            array.values.cast(self._pa.float64(), safe=False).fill_null(float("nan"))
        )
        broken = np.concatenate([[0], np.cumsum(~np.isfinite(cells))])
        bad = (broken[start[1:]] - broken[start[:-1]] > 0) & ~null
        self._refuse(bad, NonFiniteError(f"{where} holds a number that is not finite", where))
        return _Lists(start[:-1], width, cells)


class _Lists(NamedTuple):
    start: Ints
    width: Ints
    cells: Floats | None

    def matrix(self, rows: Ints) -> Floats | None:
        """Return (rows, width) of rows that have one width."""
        if self.cells is None or self.width[rows[0]] == 0:
            return None
        at = self.start[rows][:, None] + np.arange(int(self.width[rows[0]]))[None, :]
        return np.asarray(self.cells[at])


def _index(environment: str) -> int:
    return ENVIRONMENTS.index(environment) if environment in ENVIRONMENTS else -1


def _stacked(columns: list[Floats], rows: int) -> Floats:
    return np.stack(columns, axis=1) if columns else np.empty((rows, 0))


def _refuse_bomb(pa: Any, table: Any, most: int) -> None:
    """Raise for a batch whose columns are larger than its bytes let expect.

    Columns may share their bytes, a dictionary may hold one long text for all rows, and columns of type
    null take no bytes at all.
    """
    table.validate()
    size = table.nbytes
    for column in table.columns:
        for chunk in column.chunks:
            children = chunk.type.num_fields if pa.types.is_struct(chunk.type) else 0
            arrays = [chunk.field(k) for k in range(children)] or [chunk]
            size += 8 * len(chunk) * len(arrays)
            if size <= most:
                size += sum(_dictionary_bytes(pa, array) for array in arrays)
            if size > most:
                raise SizeError(
                    f"the batch unpacks to more than {_UNPACKED} times limits.batch_bytes"
                )


def _dictionary_bytes(pa: Any, array: Any) -> int:
    """Return how many bytes of text an array has once its dictionary is put in place."""
    import pyarrow.compute

    compute: Any = pyarrow.compute
    if not pa.types.is_dictionary(array.type):
        return 0
    kind = array.type.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return 0
    array.validate(full=True)
    return int(
        compute.sum(compute.binary_length(array.dictionary).take(array.indices)).as_py() or 0
    )


def _refuse_compressed(pa: Any, raw: bytes) -> None:
    """Raise for a batch with compressed buffers: they would unpack without a bound.

    Reference: Apache Arrow format, Message.fbs: field 3 of RecordBatch is its compression, field 1 of
    DictionaryBatch a RecordBatch; header types 2 and 3 are dictionary and record batch.
    """
    for message in pa.ipc.MessageReader.open_stream(raw):
        data = bytes(message.metadata)
        root = struct.unpack_from("<I", data)[0]
        kind = data[at] if (at := _field(data, root, 1)) else 0
        header = _field(data, root, 2)
        if kind not in (2, 3) or not header:
            continue
        batch = _follow(data, header)
        if kind == 2:
            batch = _follow(data, _field(data, batch, 1))
        if _field(data, batch, 3):
            raise SchemaError(
                "the Arrow stream is compressed inside; send it plain and let Kafka compress"
            )


def _field(data: bytes, table: int, number: int) -> int:
    """Return where field `number` of a flatbuffer table lies, 0 if it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, vtable)[0]
    slot = 4 + 2 * number
    if slot + 2 > size:
        return 0
    offset = int(struct.unpack_from("<H", data, vtable + slot)[0])
    return table + offset if offset else 0


def _follow(data: bytes, at: int) -> int:
    return at + int(struct.unpack_from("<I", data, at)[0])
