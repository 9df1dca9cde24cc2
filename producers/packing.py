"""Columns to pieces that fit a record: an Arrow stream each, or JSON events where pyarrow is missing."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from ..core.events import Prediction
from ..core.names import check_segment, check_source
from ..core.wire import encode
from .delivery import Item, Table

_MAPS: Final = ("features", "scores", "segments")
_MATRICES: Final = ("logits", "embedding")
_COLUMNS: Final = (
    "prediction_id", "model", "version", "time", "features", "prediction", "scores", "logits",
    "embedding", "client", "segments", "environment", "label", "sample_rate",
)  # fmt: skip
_HEADROOM: Final = 4096  # of a record, for the schema and the padding of an Arrow stream


def pack_table(
    batch: Any, defaults: Mapping[str, str | None], record_bytes: int, threshold: int
) -> Iterator[tuple[str, Item]]:
    """Yield a batch as models and what to publish of each, below `record_bytes` a piece.

    Parameters
    ----------
    batch
        A mapping of columns, or an Arrow table or record batch.
    defaults
        Model, version and environment of rows that have none.
    record_bytes
        Largest piece.
    threshold
        Rows whose id's CRC-32 is at or above this are left out by sampling; 2**32 keeps all.

    Raises
    ------
    ValueError
        A column is unknown, missing, or of another length; workers would refuse the name of a model or segment.
    """
    try:
        import pyarrow as _  # noqa: F401, ICN001
    except ImportError:
        yield from _lines(_columns(batch), defaults, threshold)
    else:
        yield from _arrow(batch, defaults, record_bytes, threshold)


def _columns(batch: Any) -> dict[str, Any]:
    columns = dict(batch)
    unknown = [name for name in columns if name not in _COLUMNS]
    if unknown or "prediction_id" not in columns:
        raise ValueError(
            f"a batch needs prediction_id and may have {', '.join(_COLUMNS)}; got "
            f"{', '.join(map(str, columns))}"
        )
    count = len(columns["prediction_id"])
    for name, column in columns.items():
        for part, values in column.items() if name in _MAPS else [("", column)]:
            if values is not None and len(values) != count:
                raise ValueError(f"{name} {part} has {len(values)} rows, prediction_id has {count}")
    return columns


def _kept(ids: Any, threshold: int) -> list[int] | None:
    """Return the rows that sampling keeps; None for all."""
    if threshold >= 2**32:
        return None
    return [i for i, text in enumerate(ids) if zlib.crc32(str(text).encode()) < threshold]


def _lines(
    columns: dict[str, Any], defaults: Mapping[str, str | None], threshold: int
) -> Iterator[tuple[str, Item]]:
    _check_segments(columns.get("segments") or ())
    for model in {_scalar(model) for model in columns.get("model", ())}:
        check_source(model, None, "production")
    now = datetime.now(UTC)
    rate = threshold / 2**32
    kept = _kept(columns["prediction_id"], threshold)
    for i in range(len(columns["prediction_id"])) if kept is None else kept:
        row: dict[str, Any] = {"time": now, "sample_rate": min(rate, 1.0), **defaults}
        for name, column in columns.items():
            if name in _MAPS:
                row[name] = {part: _scalar(values[i]) for part, values in column.items()}
            elif name in _MATRICES:
                row[name] = np.asarray(column[i], np.float64).tolist()
            else:
                row[name] = _scalar(column[i])
        if isinstance(row["time"], datetime) and row["time"].tzinfo is None:
            row["time"] = row["time"].replace(tzinfo=UTC)
        yield str(row["model"]), encode(Prediction(**row))


def _check_segments(names: Iterable[object]) -> None:
    for name in names:
        check_segment(name)


def _scalar(value: Any) -> Any:
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]")
    return value.item() if isinstance(value, np.generic) else value


def _arrow(
    batch: Any, defaults: Mapping[str, str | None], record_bytes: int, threshold: int
) -> Iterator[tuple[str, Item]]:
    import pyarrow as pa

    if isinstance(batch, pa.RecordBatch):
        batch = pa.Table.from_batches([batch])
    table = batch if isinstance(batch, pa.Table) else _table(_columns(batch))
    count = len(table)
    for name, value in defaults.items():
        if name not in table.column_names and value is not None:
            table = table.append_column(name, pa.array([value]).take(pa.array([0] * count)))
    if "time" not in table.column_names:
        now = pa.array([datetime.now(UTC)], pa.timestamp("us", "UTC"))
        table = table.append_column("time", now.take(pa.array([0] * count)))
    kept = _kept(table.column("prediction_id").to_pylist(), threshold)
    if kept is not None:
        table = table.take(kept).append_column(
            "sample_rate", pa.array([threshold / 2**32] * len(kept), pa.float64())
        )
    if "segments" in table.column_names:
        _check_segments(field.name for field in table.schema.field("segments").type)
    for model, part in _by_model(table, str(defaults["model"])):
        for piece in _pieces(part, record_bytes - _HEADROOM):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, piece.schema) as writer:
                writer.write_table(piece)
            yield model, Table(bytes(sink.getvalue()), len(piece))


def _by_model(table: Any, default: str) -> Iterator[tuple[str, Any]]:
    """Divide a table by model: the record's key, so that labels find their predictions."""
    import pyarrow.compute as pc

    compute: Any = pc
    models = compute.fill_null(table.column("model"), default)
    names = compute.unique(models).to_pylist()
    for model in names:
        check_source(model, None, "production")
    for model in names:
        yield model, table.filter(compute.equal(models, model))


def _pieces(table: Any, size: int) -> Iterator[Any]:
    """Cut a table into runs of rows below `size` bytes each."""
    if not len(table):
        return
    if table.nbytes <= size or len(table) == 1:
        yield table.combine_chunks()
        return
    rows = max(1, int(len(table) * size / table.nbytes * 0.9))
    if rows >= len(table):
        rows = len(table) // 2
    for begin in range(0, len(table), rows):
        yield from _pieces(table.slice(begin, rows).combine_chunks(), size)


def _table(columns: dict[str, Any]) -> Any:
    import pyarrow as pa

    arrays, names = [], []
    for name, column in columns.items():
        if name in _MAPS:
            parts = {part: _array(values) for part, values in column.items()}
            array = pa.StructArray.from_arrays(list(parts.values()), list(parts))
        elif name in _MATRICES:
            matrix = np.ascontiguousarray(column)
            flat = pa.array(matrix.reshape(-1))
            array = pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])
        else:
            array = _array(column)
        arrays.append(array)
        names.append(name)
    return pa.table(arrays, names)


def _array(values: Any) -> Any:
    """Return an Arrow array; numbers that are not finite become null, which means missing."""
    import pyarrow as pa

    if isinstance(values, np.ndarray) and values.dtype.kind == "M":  # numpy's times are UTC
        return pa.array(values.astype("datetime64[us]"), pa.timestamp("us", "UTC"))
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return pa.array(values, mask=~np.isfinite(values))
    return pa.array(values)
