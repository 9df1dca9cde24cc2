"""Rows of CSV, JSON lines and Parquet files as predictions."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import msgspec

from ..core.errors import ConfigError
from ..core.events import ClassOrNumber, Prediction, Scalar

_MISSING: Final = frozenset(["", "na", "n/a", "nan", "null", "none", "?"])
_FIELDS: Final = frozenset(Prediction.__struct_fields__)


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; all others are features.

    Parameters
    ----------
    label, prediction, id, time
        Names of columns, None for none.
    scores
        Names of columns with scores; a column's name is the class's.
    """

    label: str | None = None
    prediction: str | None = None
    id: str | None = None
    time: str | None = None
    scores: list[str] = field(default_factory=list)

    @property
    def named(self) -> list[str]:
        """All names."""
        plain = (self.label, self.prediction, self.id, self.time)
        return [name for name in plain if name is not None] + self.scores


class Row(NamedTuple):
    """One row."""

    id: str
    features: dict[str, Scalar]
    prediction: ClassOrNumber | None
    scores: dict[str, float] | None
    label: ClassOrNumber | None
    time: datetime | None


def rows(file: Path, columns: Columns) -> Iterator[Row]:
    """Yield the rows of a file.

    Parameters
    ----------
    file
        Its name ends in .csv, .jsonl, .ndjson (each also with .gz), .parquet or .pq.
    columns
        What its columns hold.

    Raises
    ------
    ConfigError
        The file is missing or of another kind, or a column is not there; the message says which are.
    """
    if not file.is_file():
        raise ConfigError(f"no file {file}")
    suffixes = [suffix.lower() for suffix in file.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else suffixes[-1:]
    kind = kind if isinstance(kind, str) else (kind[0] if kind else "")
    reader = {
        ".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines,
        ".parquet": _parquet, ".pq": _parquet,
    }.get(kind)  # fmt: skip
    if reader is None:
        raise ConfigError(
            f"{file.name} must end in .csv, .jsonl or .parquet (or .csv.gz, .jsonl.gz)"
        )
    for number, found in enumerate(reader(file)):
        if number == 0:
            _check(file, columns, found)
        yield _row(number, found, columns)


def _check(file: Path, columns: Columns, found: dict[str, Any]) -> None:
    missing = [name for name in columns.named if name not in found]
    if missing:
        raise ConfigError(
            f"{file.name} has no column {', '.join(missing)}; it has {', '.join(found)}"
        )


def _row(number: int, found: dict[str, Any], columns: Columns) -> Row:
    if columns.named == [] and "prediction_id" in found and set(found) <= _FIELDS:
        return Row(
            str(found["prediction_id"]),
            found.get("features") or {},
            found.get("prediction"),
            found.get("scores"),
            found.get("label"),
            _time(found.get("time")),
        )
    taken = set(columns.named)
    scores = {name: float(found[name]) for name in columns.scores if found[name] is not None}
    return Row(
        str(found[columns.id]) if columns.id else f"row-{number}",
        {name: _feature(value) for name, value in found.items() if name not in taken},
        found[columns.prediction] if columns.prediction else None,
        scores or None,
        found[columns.label] if columns.label else None,
        _time(found[columns.time]) if columns.time else None,
    )


def _feature(value: Any) -> Scalar:
    """Return a value as a feature: what JSON has no scalar for becomes text."""
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def _time(value: Any) -> datetime | None:
    if value is None:
        return None
    found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _open(file: Path) -> IO[str]:
    if file.suffix == ".gz":
        return io.TextIOWrapper(gzip.GzipFile(file), encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


def _csv(file: Path) -> Iterator[dict[str, Any]]:
    with _open(file) as text:
        for row in csv.DictReader(text):
            if None in row:
                raise ConfigError(f"{file.name}: a row has more cells than the header")
            yield {name: _cell(cell) for name, cell in row.items()}


def _cell(cell: str | None) -> Scalar:
    """Return what a cell holds: nothing, an integer, a number, or text."""
    text = (cell or "").strip()
    if text.lower() in _MISSING:
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    with _open(file) as text:
        for number, line in enumerate(text, 1):
            if not line.strip():
                continue
            try:
                yield msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.MsgspecError as error:
                raise ConfigError(f"{file.name}, line {number}: {error}") from None


def _parquet(file: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ConfigError("Parquet files need pyarrow: pip install 'tocsin[batch]'") from None
    for batch in parquet.ParquetFile(file).iter_batches():
        yield from batch.to_pylist()
