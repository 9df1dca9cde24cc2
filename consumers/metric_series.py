"""The series of metrics of a model as workers have written them: for the command line, a page, Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec
import redis
from msgspec.structs import replace

from ..core.errors import TransportError
from ..core.keys import Keys
from ..core.metric_row import MetricRow, decode
from ..core.snapshot import reading
from .merged_rows import Part, aligned, merged
from .redis_store import TRANSIENT
from .refusals import UNKNOWN


class Point(NamedTuple):
    """A metric at one time.

    Parameters
    ----------
    time
        The begin of the cohort, UTC; of a window its end.
    value, low, high
        The metric and its interval at 95 %, None where that is not known.
    """

    time: datetime
    value: float
    low: float | None
    high: float | None


class Figures(NamedTuple):
    """The latest figures of all models.

    Parameters
    ----------
    of_models
        By `model|partition`, or `model@environment|partition`.
    refused
        How many events were refused so far, by model, under the empty name those of none that is known.
    """

    of_models: dict[str, dict[str, Any]]
    refused: dict[str, int]

    @property
    def models(self) -> list[str]:
        """Names of models, with `@environment` behind where it is not production."""
        return sorted({name.rpartition("|")[0] for name in self.of_models})


def figures(client: redis.Redis, keys: Keys) -> Figures:
    """Return the latest figures of all models.

    Raises
    ------
    TransportError
        Redis does not answer.
    """
    of_models: dict[str, dict[str, Any]] = {}
    refused: Counter[str] = Counter()
    for field, packed in sorted(_hash(client, keys.metrics).items()):
        name, found = field.decode(), _figures.decode(packed)
        if name.rpartition("|")[0] == UNKNOWN:
            refused.update({model: int(count) for model, count in found.items()})
        else:
            of_models[name] = found
    return Figures(of_models, dict(sorted(refused.items())))


def _hash(client: redis.Redis, key: str) -> dict[bytes, bytes]:
    try:
        found: Any = client.hgetall(key)
    except (*TRANSIENT, redis.ResponseError) as error:
        raise TransportError(f"Redis does not answer, is it running? {error}") from None
    return dict(found)


_figures = msgspec.json.Decoder(dict[str, Any])


def read(
    client: redis.Redis,
    keys: Keys,
    model: str,
    *,
    environment: str | None = None,
    group: str | None = None,
    window: bool = False,
) -> list[MetricRow]:
    """Return the rows of a model's cohorts, by environment, group and time; empty for a model that has none.

    Parameters
    ----------
    client, keys
        Where they are, and the tenant's names there.
    model
        The model.
    environment, group
        Only these; all where not given. The group of all predictions is the empty one.
    window
        The window that ends with the newest cohort, one row a group, instead of cohorts.

    Notes
    -----
    Rows of a model whose events come in several partitions are merged into one of each cohort and group, see
    `merged_rows.merged`; rows that cannot be, since a worker of another version wrote them, stand side by side.

    Raises
    ------
    TransportError
        Redis does not answer.
    StateError
        A row is damaged.
    """
    found = _hash(client, keys.series(model))
    parts = (part for part in parts_of(found) if environment in (None, part.row.environment))
    rows = rows_of(parts, window=window)
    return [row for row in rows if group in (None, row.group)]


def parts_of(fields: Mapping[bytes, bytes]) -> Iterator[Part]:
    """Yield the rows as they are stored, in the order of their partitions; raises StateError for one that is damaged."""
    with reading("the series"):
        numbered = sorted((int(field.partition(b"|")[0]), field) for field in fields)
    for partition, field in numbered:
        with reading(f"the series at {field.decode(errors='replace')}"):
            row = decode(fields[field])
            for time in (row.begin, row.end):
                datetime.fromisoformat(time)
        yield Part(partition, row)


def rows_of(parts: Iterable[Part], *, window: bool = False) -> list[MetricRow]:
    """Return one row of each cohort, or of the latest window, and group."""
    cohorts: dict[tuple[str, str, str], list[Part]] = {}
    windows: dict[tuple[str, str], list[Part]] = {}
    written = list(parts)
    if len({part.partition for part in written}) > 1:
        with reading("rows of the series"):
            written = list(aligned(written))
    for part in written:
        row = part.row
        if row.window:
            windows.setdefault((row.environment, row.group), []).append(part)
        else:
            cohorts.setdefault((row.environment, row.group, row.begin), []).append(part)
    found = (
        [row for of in windows.values() for row in _window(of, cohorts)]
        if window
        else [row for of in cohorts.values() for row in _one(of)]
    )
    return sorted(found, key=lambda row: (row.environment, row.group, row.begin))


def _one(parts: list[Part]) -> list[MetricRow]:
    """Return the row of several partitions; a single one is as it was written."""
    whole = merged(parts) if len(parts) > 1 else None
    return [replace(part.row, counts=b"") for part in parts] if whole is None else [whole]


def _window(
    windows: list[Part], cohorts: dict[tuple[str, str, str], list[Part]]
) -> list[MetricRow]:
    """Return the latest window of a group: where partitions have got to different ones, of the cohorts that are in it."""
    last = max((part.row for part in windows), key=lambda row: row.end)
    if all(part.row.end == last.end for part in windows):
        return _one(windows)
    own = [
        part
        for (environment, group, begin), of in cohorts.items()
        if (environment, group) == (last.environment, last.group) and begin >= last.begin
        for part in of
    ]
    whole = merged(own)
    if whole is None:
        return _one([part for part in windows if part.row.end == last.end])
    return [replace(whole, begin=last.begin, end=last.end, window=True)]


def over_time(
    rows: Iterable[MetricRow],
    metric: str,
    kind: Literal["metrics", "corrected", "estimated", "training"] = "metrics",
) -> list[Point]:
    """Return a metric by time, of rows of one environment and group; where it is not known there is no point.

    Parameters
    ----------
    rows
        From `read`.
    metric
        Its name, as `recall`.
    kind
        As it is, as it will be once late labels are there, as scores say, or as it was in training.
    """
    told = ((row, getattr(row, kind).get(metric)) for row in rows)
    return [
        Point(datetime.fromisoformat(row.end if row.window else row.begin), *value[:3])
        for row, value in told
        if value is not None
    ]
