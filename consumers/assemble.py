"""Cells read by `json_kernel` to event batches: the scalars of known shapes, checked and put in columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..core.batch import MAX_CELLS, EventBatch, LabelBatch
from ..core.columns import (
    INTEGER,
    NULL,
    TEXT,
    Bytes,
    Floats,
    Ints,
    Strings,
    Values,
    take,
)  # fmt: skip
from ..core.events import ENVIRONMENTS
from ..detectors.string_index import StringIndex
from .column_kernel import Layout, judge, plain_columns
from .json_kernel import Cells, gather
from .shapes import Shape


class Rows(NamedTuple):
    """JSON rows and what was read of them.

    Parameters
    ----------
    data
        The buffer.
    offsets, rows
        (n,) int64 identity.
    times
        (n,) int64 event times in nanoseconds; `check` finds those that rows have of their own.
    cells
        What the kernel read.
    """

    data: Bytes
    offsets: Ints
    rows: Ints
    times: Ints
    cells: Cells


class Columns(NamedTuple):
    """What rows have in common whatever their shapes, (n,) each; see `EventBatch` and `LabelBatch`."""

    offsets: Ints
    rows: Ints
    times: Ints
    environment: Bytes
    prediction_id: Strings
    version: Strings
    client: Strings
    prediction: Values
    label: Values
    sample_rate: Floats
    revision: Ints


_environments = StringIndex()
_environments.add(Strings.of(ENVIRONMENTS))


def check(layout: Layout, rows: Rows) -> tuple[Strings, Bytes]:
    """Take the shape from rows that are not as their types ask: the reference must judge those.

    Returns the (n,) names of models, missing where not said, and environments, production where not said.
    """
    cells = rows.cells
    spans = np.empty((4, len(cells.shape)), np.int64)
    judge(
        rows.data, cells.shape, cells.first, cells.tags, cells.numbers, cells.start, cells.end,
        *layout, rows.times, spans,
    )  # fmt: skip
    environment = np.zeros(len(cells.shape), np.uint8)
    said = np.flatnonzero(spans[2] >= 0)
    if len(said):
        codes = _environments.find(Strings(rows.data, spans[2, said], spans[3, said]))
        cells.shape[said[codes < 0]] = -1
        environment[said] = np.maximum(codes, 0)
    return Strings(rows.data, spans[0], spans[1]), environment


def columns(layout: Layout, rows: Rows, order: Ints, environment: Bytes) -> Columns:
    """Return the plain fields of rows of known shapes, in this order."""
    cells, count = rows.cells, len(order)
    start, end = np.empty((2, 5, count), np.int64)
    tags, numbers = np.empty((4, count), np.uint8), np.empty((4, count))
    plain_columns(
        order, cells.shape, cells.first, cells.tags, cells.numbers, cells.start, cells.end,
        layout.fields, start, end, tags, numbers,
    )  # fmt: skip
    texts = [Strings(rows.data, *spans) for spans in zip(start, end, strict=True)]
    prediction_id, version, client, *of_values = texts
    prediction, label = map(Values, tags[:2], numbers[:2], of_values)
    rate, revision = (np.where(tags[k] == NULL, n, numbers[k]) for k, n in ((2, 1.0), (3, 0.0)))
    return Columns(
        rows.offsets[order], rows.rows[order], rows.times[order], environment[order],
        prediction_id, version, client, prediction, label, rate, revision.astype(np.int64),
    )  # fmt: skip


class Part(NamedTuple):
    """Rows of one shape within a batch: their shape, their indices and their places in the batch."""

    shape: Shape
    of: Ints
    place: Ints


def label_batch(model: str, of: Columns) -> LabelBatch:
    """Build the labels of a model."""
    return LabelBatch(
        model=model, offsets=of.offsets, rows=of.rows, times=of.times,
        prediction_id=of.prediction_id, label=of.label, revision=of.revision,
    )  # fmt: skip


def event_batches(
    model: str, rows: Rows, of: Columns, parts: list[Part], *, features: bool
) -> Iterator[EventBatch]:
    """Build the predictions of a model, which `parts` divide by shape; cut where the width of the logits or embedding changes."""
    count = len(of.offsets)
    cuts: list[int] = []
    if len(parts) > 1:
        widths = np.zeros((count, 2), np.int64)
        for part in parts:
            lists = part.shape.lists
            widths[part.place] = len(lists.get("logits", ())), len(lists.get("embedding", ()))
        cuts = (np.flatnonzero((np.diff(widths, axis=0) != 0).any(axis=1)) + 1).tolist()
    names = {name for part in parts for entries in part.shape.maps.values() for name in entries}
    most = max(1, MAX_CELLS // max(1, len(names)))
    for begin, stop in pairwise([0, *cuts, count]):
        for at in range(begin, stop, most):
            end = min(at + most, stop)
            run = [cut for part in parts if len((cut := _cut(part, at, end)).of)]
            own = of if end - at == count else take(of, slice(at, end))
            yield _event_batch(model, rows, own, run, features=features)


def _cut(part: Part, begin: int, end: int) -> Part:
    if begin == 0 and (len(part.place) == 0 or part.place[-1] < end):
        return part
    low, high = np.searchsorted(part.place, [begin, end])
    return Part(part.shape, part.of[low:high], part.place[low:high] - begin)


def _event_batch(
    model: str, rows: Rows, of: Columns, parts: list[Part], *, features: bool
) -> EventBatch:
    count = len(of.offsets)
    feature_names: tuple[str, ...] = ()
    numbers, texts = np.empty((count, 0)), dict[str, Strings]()
    if features:
        feature_names, numbers, texts = _features(rows, parts, count)
    score_names = _names(part.shape.maps["scores"] for part in parts)
    return EventBatch(
        model=model,
        offsets=of.offsets,
        rows=of.rows,
        times=of.times,
        prediction_id=of.prediction_id,
        environment=of.environment,
        version=of.version,
        client=of.client,
        feature_names=feature_names,
        features=numbers,
        texts=texts,
        prediction=of.prediction,
        label=of.label,
        score_names=score_names,
        scores=_matrix(rows, parts, "scores", score_names, count)[1],
        logits=_lists(rows, parts, "logits", count),
        embedding=_lists(rows, parts, "embedding", count),
        segments={
            name: _text(rows, parts, name, count, "segments")
            for name in _names(part.shape.maps["segments"] for part in parts)
        },
        sample_rate=of.sample_rate,
    )


def _features(
    rows: Rows, parts: list[Part], count: int
) -> tuple[tuple[str, ...], Floats, dict[str, Strings]]:
    """Return the names and (n, k) numbers of numeric features, and those that are text."""
    names = _names(part.shape.maps["features"] for part in parts)
    tags, numbers = _matrix(rows, parts, "features", names, count)
    is_text = (tags == TEXT).any(axis=0)
    if not is_text.any():
        return names, numbers, {}
    texts = {
        names[k]: _text(rows, parts, names[k], count, "features")
        for k in np.flatnonzero(is_text).tolist()
    }
    numeric = (tags >= INTEGER).any(axis=0) | ~is_text
    return (
        tuple(n for n, keep in zip(names, numeric, strict=True) if keep),
        numbers[:, numeric],
        texts,
    )


def _names(maps: Iterable[dict[str, int]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for entries in maps for name in entries))


def _text(rows: Rows, parts: list[Part], name: str, count: int, of: str) -> Strings:
    """Return an entry of the map `of`, missing where a row has none."""
    found = Strings(rows.data, *np.full((2, count), -1, np.int64))
    for part in parts:
        scalar = part.shape.maps[of].get(name)
        if scalar is not None:
            cells = rows.cells.first[part.of] + scalar
            found.start[part.place], found.end[part.place] = (
                rows.cells.start[cells],
                rows.cells.end[cells],
            )
    return found


def _matrix(
    rows: Rows, parts: list[Part], of: str, names: tuple[str, ...], count: int
) -> tuple[Bytes, Floats]:
    """Return (n, k) tags and numbers of a map's entries; booleans are 0 and 1."""
    if len(parts) == 1 and names == tuple(parts[0].shape.maps[of]):
        return _gather(rows, parts[0].of, list(parts[0].shape.maps[of].values()))
    tags = np.full((count, len(names)), NULL, np.uint8)
    numbers = np.full((count, len(names)), np.nan)
    place = {name: column for column, name in enumerate(names)}
    for part in parts:
        entries = part.shape.maps[of]
        columns = np.array([place[name] for name in entries], np.int64)
        found = _gather(rows, part.of, list(entries.values()))
        tags[part.place[:, None], columns], numbers[part.place[:, None], columns] = found
    return tags, numbers


def _gather(rows: Rows, of: Ints, scalars: list[int] | Ints) -> tuple[Bytes, Floats]:
    tags = np.empty((len(of), len(scalars)), np.uint8)
    numbers = np.empty((len(of), len(scalars)))
    gather(
        rows.cells.first[of], np.asarray(scalars, np.int64),
        rows.cells.tags, rows.cells.numbers, tags, numbers,
    )  # fmt: skip
    return tags, numbers


def _lists(rows: Rows, parts: list[Part], name: str, count: int) -> Floats | None:
    width = len(parts[0].shape.lists.get(name, ()))
    if width == 0:
        return None
    found = np.empty((count, width))
    for part in parts:
        found[part.place] = _gather(rows, part.of, part.shape.lists[name])[1]
    return found
