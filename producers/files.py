"""Rows of CSV, JSON lines and Parquet files as events."""

from __future__ import annotations

import csv
import gzip
import io
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from ..core.errors import ConfigError, EventError
from ..core.events import ClassOrNumber, Event, Prediction, Scalar
from ..core.limits import Limits
from ..core.wire import Kind, decode

_MISSING: Final = frozenset(["", "na", "n/a", "nan", "null", "none", "?"])
_LARGEST: Final = int(sys.float_info.max)
_MILLISECONDS: Final = 1e11  # a number of seconds beyond this lies after the year 5138


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; all others are features.

    Parameters
    ----------
    label, prediction, id, time
        Names of columns, None for none.
    scores
        Names of columns with scores; a column's name is the class's.
    segments
        Names of columns that are segments, by which performance is compared.
    """

    label: str | None = None
    prediction: str | None = None
    id: str | None = None
    time: str | None = None
    scores: list[str] = field(default_factory=list)
    segments: list[str] = field(default_factory=list)

    @property
    def named(self) -> list[str]:
        """All names."""
        plain = (self.label, self.prediction, self.id, self.time)
        return [name for name in plain if name is not None] + self.scores + self.segments


def rows(file: Path, columns: Columns) -> Iterator[Event]:
    """Yield the rows of a file as events.

    Parameters
    ----------
    file
        Its name ends in .csv, .jsonl, .ndjson (each also with .gz), .parquet or .pq. JSON lines with a
        `prediction_id` are events as they stand, unless `columns` names something.
    columns
        What its columns hold.

    Raises
    ------
    ConfigError
        The file is missing or of another kind, a column is not there, or a row cannot be read; the
        message says which.
    """
    if not file.is_file():
        raise ConfigError(f"no file {file}")
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    reader: Callable[[Path, Columns], Iterator[Event]] | None = {
        ".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines,
        ".parquet": _parquet, ".pq": _parquet,
    }.get(suffixes[-1] if suffixes else "")  # fmt: skip
    if reader is None:
        raise ConfigError(
            f"{file.name} must end in .csv, .jsonl or .parquet (or .csv.gz, .jsonl.gz)"
        )
    try:
        yield from reader(file, columns)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file.name} is not UTF-8 (byte {error.start}); convert it, for example with iconv"
        ) from None


def _csv(file: Path, columns: Columns) -> Iterator[Event]:
    with _open(file) as text:
        reader = csv.DictReader(text)
        names = list(reader.fieldnames or ())
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ConfigError(
                f"{file.name}: more than one column is called {twice[0]!r}; give each a name of its own"
            )
        for number, row in enumerate(reader):
            where = f"{file.name}, row {number + 1}"
            if None in row:
                raise ConfigError(f"{where}: more cells than the header has names")
            if number == 0:
                _check(file, columns, row)
            yield _event(where, number, row, columns, _cell)


def _json_lines(file: Path, columns: Columns) -> Iterator[Event]:
    number = 0
    with _open(file) as text:
        for line_number, line in enumerate(text, 1):
            if not line.strip():
                continue
            where = f"{file.name}, line {line_number}"
            try:
                found = msgspec.json.decode(line, type=dict[str, Any])
                if "prediction_id" in found and not columns.named:
                    yield decode(line.encode(), Kind.BARE, Limits())
                    continue
            except (msgspec.MsgspecError, EventError) as error:
                raise ConfigError(f"{where}: {error}") from None
            if number == 0:
                _check(file, columns, found)
            yield _event(where, number, found, columns, _plain)
            number += 1


def _parquet(file: Path, columns: Columns) -> Iterator[Event]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ConfigError("Parquet files need pyarrow: pip install 'tocsin[batch]'") from None
    try:
        batches = parquet.ParquetFile(file).iter_batches()
    except (ArrowException, OSError) as error:
        raise ConfigError(f"{file.name} is not a Parquet file: {error}") from None
    number = 0
    for batch in batches:
        for found in batch.to_pylist():
            if number == 0:
                _check(file, columns, found)
            yield _event(f"{file.name}, row {number + 1}", number, found, columns, _plain)
            number += 1


def _open(file: Path) -> IO[str]:
    if file.suffix == ".gz":
        return io.TextIOWrapper(gzip.GzipFile(file), encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


def _check(file: Path, columns: Columns, found: dict[str, Any]) -> None:
    missing = [name for name in columns.named if name not in found]
    if missing:
        raise ConfigError(
            f"{file.name} has no column {', '.join(missing)}; it has {', '.join(found)}"
        )


def _event(
    where: str, number: int, found: dict[str, Any], columns: Columns, read: Callable[[Any], Scalar]
) -> Prediction:
    taken = set(columns.named)
    said = f"row-{number}" if columns.id is None else found[columns.id]
    identity = "" if said is None else str(said).strip()
    if not identity:
        raise ConfigError(f"{where}: column {columns.id} is empty, an id was expected")
    return Prediction(
        prediction_id=identity,
        features={name: read(value) for name, value in found.items() if name not in taken},
        prediction=_class(found[columns.prediction], read) if columns.prediction else None,
        scores={name: _number(where, name, v) for name in columns.scores if (v := found[name])}
        or None,
        segments={name: v for name in columns.segments if (v := _text(found[name]))} or None,
        label=_class(found[columns.label], read) if columns.label else None,
        time=_time(where, columns.time, found[columns.time]) if columns.time else None,
    )


def _plain(value: Any) -> Scalar:
    """Return a value as a feature: what JSON has no scalar for becomes text."""
    if isinstance(value, int):
        return _within_floats(value)
    return value if value is None or isinstance(value, (str, float)) else str(value)


def _within_floats(number: int) -> int | float:
    """Return an integer; one that no float can hold is infinite, as it is when it is written with an exponent."""
    return number if abs(number) <= _LARGEST else math.inf if number > 0 else -math.inf


def _cell(cell: str | None) -> Scalar:
    """Return what a cell holds: nothing, an integer, a number, or text."""
    text = (cell or "").strip()
    if text.lower() in _MISSING:
        return None
    if "_" in text:  # Python's int reads 1_000
        return text
    try:
        return _within_floats(int(text))
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _class(value: Any, read: Callable[[Any], Scalar]) -> ClassOrNumber | None:
    """Return a class or number; a class may be called none, or na."""
    if isinstance(value, str) and value.strip().lower() in _MISSING:
        return value.strip() or None
    return read(value)


def _text(value: Any) -> str:
    """Return the value of a segment, as it stands there; empty for none."""
    text = "" if value is None else str(value).strip()
    return "" if text.lower() in _MISSING else text


def _number(where: str, column: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: {column} is {value!r}, a number was expected") from None


def _time(where: str, column: str, value: Any) -> datetime | None:
    """Read ISO 8601, and numbers as seconds or milliseconds since 1970; UTC where no zone is said."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, datetime):
            found = value
        elif isinstance(value, (int, float)) or value.strip().replace(".", "", 1).isdigit():
            seconds = float(value)
            found = datetime.fromtimestamp(
                seconds / 1000 if seconds > _MILLISECONDS else seconds, UTC
            )
        else:
            found = datetime.fromisoformat(value.strip())
    except (AttributeError, OverflowError, ValueError):
        raise ConfigError(
            f"{where}: {column} is {value!r}; a time was expected, as 2026-01-31T12:00:00Z or in "
            "seconds since 1970"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
