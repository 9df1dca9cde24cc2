"""Cells read by `json_kernel` to event batches: the scalars of known shapes, checked and put in columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.batch import EventBatch, LabelBatch
from ..core.columns import Bytes, Floats, Ints, Strings, Tag, Values
from ..core.events import ENVIRONMENTS
from ..detectors.string_index import StringIndex
from .json_kernel import FALSE, FLOAT, INTEGER, NULL, TEXT, TRUE, Cells, gather
from .shapes import Shape
from .time_kernel import NO_TIME, times_of

Mask = NDArray[np.bool_]

_ANY: Final = (NULL, TEXT, INTEGER, FLOAT, FALSE, TRUE)
_FIELD_TAGS: Final[dict[str, tuple[int, ...]]] = {
    "prediction_id": (TEXT,), "model": (TEXT,), "environment": (TEXT,),
    "version": (TEXT, NULL), "client": (TEXT, NULL), "time": (TEXT, NULL),
    "observed_at": (TEXT, NULL), "prediction": _ANY, "label": _ANY,
    "sample_rate": (INTEGER, FLOAT), "revision": (INTEGER,),
    "scores": (NULL,), "logits": (NULL,), "embedding": (NULL,), "segments": (NULL,),
    "input": (NULL,),
}  # fmt: skip
"""What a plain field may hold; the containers here stand for `"logits": null` and the like."""
_MAP_TAGS: Final = {"features": _ANY, "scores": (INTEGER, FLOAT), "segments": (TEXT,)}
_LENGTHS: Final = {
    "prediction_id": (1, 256),
    "model": (1, 200),
    "version": (0, 200),
    "client": (0, 256),
}


class Rows(NamedTuple):
    """JSON rows and what was read of them.

    Parameters
    ----------
    data
        The buffer.
    offsets, rows
        (n,) int64 identity.
    times
        (n,) int64 event times in nanoseconds; `event_times` finds those that rows have of their own.
    cells
        What the kernel read.
    """

    data: Bytes
    offsets: Ints
    rows: Ints
    times: Ints
    cells: Cells

    def column(self, of: Ints, scalar: int) -> Ints:
        """Return the (n,) cells of one scalar in rows of one shape."""
        return self.cells.first[of] + scalar

    def text(self, at: Ints) -> Strings:
        """Return the text in cells; missing where a cell holds none."""
        return Strings(
            self.data, self.cells.start[at].astype(np.int64), self.cells.end[at].astype(np.int64)
        )

    def values(self, at: Ints) -> Values:
        """Return cells as classes or numbers."""
        return Values(self.cells.tags[at], self.cells.numbers[at], self.text(at))


_environments = StringIndex()
_environments.add(Strings.of(ENVIRONMENTS))


def sound(shape: Shape, rows: Rows, of: Ints) -> Mask:
    """Return (n,) whether each of the rows `of` is as its types ask; others need the reference."""
    tags = rows.cells.tags
    good = np.ones(len(of), np.bool_)
    for name, scalar in shape.fields.items():
        at = rows.column(of, scalar)
        good &= _allowed(_FIELD_TAGS[name])[tags[at]]
        if name in _LENGTHS:
            low, high = _LENGTHS[name]
            length = rows.cells.end[at] - rows.cells.start[at]
            # The bounds are in characters: within them in bytes is within them in characters.
            good &= (rows.cells.start[at] < 0) | ((length >= low) & (length <= high))
        elif name == "environment":
            good &= _environments.find(rows.text(at)) >= 0
        elif name == "sample_rate":
            good &= (rows.cells.numbers[at] > 0) & (rows.cells.numbers[at] <= 1)
        elif name == "revision":
            good &= (rows.cells.numbers[at] >= 0) & (rows.cells.numbers[at] < 2**31)
        elif name == "label" and shape.is_label:
            good &= tags[at] != NULL
    for name, entries in shape.maps.items():
        good &= _all_allowed(rows, of, _MAP_TAGS[name], list(entries.values()))
    for scalars in shape.lists.values():
        good &= _all_allowed(rows, of, (INTEGER, FLOAT), scalars)
    return good


def _allowed(tags: tuple[int, ...]) -> Mask:
    table = np.zeros(len(Tag), np.bool_)
    table[list(tags)] = True
    return table


def _all_allowed(rows: Rows, of: Ints, tags: tuple[int, ...], scalars: list[int] | Ints) -> Mask:
    if tags is _ANY or not len(scalars):
        return np.ones(len(of), np.bool_)
    found = rows.cells.tags[rows.cells.first[of][:, None] + np.asarray(scalars)[None, :]]
    return np.asarray(_allowed(tags)[found].all(axis=1))


def event_times(shape: Shape, rows: Rows, of: Ints) -> Mask:
    """Set the times of rows of one shape that say theirs; return (n,) whether all was readable."""
    name = "observed_at" if shape.is_label else "time"
    if name not in shape.fields:
        return np.ones(len(of), np.bool_)
    text = rows.text(rows.column(of, shape.fields[name]))
    own = times_of(text.data, text.start, text.end)
    rows.times[of[own != NO_TIME]] = own[own != NO_TIME]
    return np.asarray((own != NO_TIME) | ~text.present)


class Part(NamedTuple):
    """Rows of one shape within a batch: their shape, their indices and their places in the batch."""

    shape: Shape
    of: Ints
    place: Ints


def label_batch(model: str, rows: Rows, of: Ints, parts: list[Part]) -> LabelBatch:
    """Build the labels of rows `of`, which `parts` divide by shape."""
    at = {name: _cells(rows, parts, name, len(of)) for name in ("prediction_id", "label")}
    revision = np.zeros(len(of), np.int64)
    for part in parts:
        if "revision" in part.shape.fields:
            cells = rows.column(part.of, part.shape.fields["revision"])
            revision[part.place] = rows.cells.numbers[cells].astype(np.int64)
    return LabelBatch(
        model=model,
        offsets=rows.offsets[of],
        rows=rows.rows[of],
        times=rows.times[of],
        prediction_id=_text(rows, at["prediction_id"]),
        label=_values(rows, at["label"]),
        revision=revision,
    )


def event_batches(model: str, rows: Rows, of: Ints, parts: list[Part]) -> Iterator[EventBatch]:
    """Build the predictions of rows `of`, cut where the width of the logits or embedding changes."""
    widths = np.zeros((len(of), 2), np.int64)
    for part in parts:
        for column, name in enumerate(("logits", "embedding")):
            widths[part.place, column] = len(part.shape.lists.get(name, ()))
    cuts = np.flatnonzero((np.diff(widths, axis=0) != 0).any(axis=1)) + 1
    bounds = [0, *cuts.tolist(), len(of)]
    for begin, end in pairwise(bounds):
        run = [cut for part in parts if len((cut := _cut(part, begin, end)).of)]
        yield _event_batch(model, rows, of[begin:end], run)


def _cut(part: Part, begin: int, end: int) -> Part:
    if begin == 0 and (len(part.place) == 0 or part.place[-1] < end):
        return part
    low, high = np.searchsorted(part.place, [begin, end])
    return Part(part.shape, part.of[low:high], part.place[low:high] - begin)


def _event_batch(model: str, rows: Rows, of: Ints, parts: list[Part]) -> EventBatch:
    count = len(of)

    def text(name: str) -> Strings:
        return _text(rows, _cells(rows, parts, name, count))

    environment = _environments.find(text("environment"))
    feature_names = _names(part.shape.maps["features"] for part in parts)
    score_names = _names(part.shape.maps["scores"] for part in parts)
    tags, features = _matrix(rows, parts, "features", feature_names, count)
    texts: dict[str, Strings] = {}
    if (tags == TEXT).any():
        numeric = (tags >= INTEGER).any(axis=0) | ~(tags == TEXT).any(axis=0)
        for column in np.flatnonzero((tags == TEXT).any(axis=0)):
            name = feature_names[column]
            texts[name] = _text(rows, _cells(rows, parts, name, count, "features"))
        feature_names = tuple(n for n, keep in zip(feature_names, numeric, strict=True) if keep)
        features = features[:, numeric]
    rates = _cells(rows, parts, "sample_rate", count)
    return EventBatch(
        model=model,
        offsets=rows.offsets[of],
        rows=rows.rows[of],
        times=rows.times[of],
        prediction_id=text("prediction_id"),
        environment=np.maximum(environment, 0).astype(np.uint8),  # production where not said
        version=text("version"),
        client=text("client"),
        feature_names=feature_names,
        features=features,
        texts=texts,
        prediction=_values(rows, _cells(rows, parts, "prediction", count)),
        label=_values(rows, _cells(rows, parts, "label", count)),
        score_names=score_names,
        scores=_matrix(rows, parts, "scores", score_names, count)[1],
        logits=_lists(rows, parts, "logits", count),
        embedding=_lists(rows, parts, "embedding", count),
        segments={
            name: _text(rows, _cells(rows, parts, name, count, "segments"))
            for name in _names(part.shape.maps["segments"] for part in parts)
        },
        sample_rate=np.where(rates < 0, 1.0, rows.cells.numbers[np.maximum(rates, 0)]),
    )


def _names(maps: Iterable[dict[str, int]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for entries in maps for name in entries))


def _cells(rows: Rows, parts: list[Part], name: str, count: int, of: str | None = None) -> Ints:
    """Return (n,) cells of a plain field, or of an entry of the map `of`; -1 where a row has none."""
    found = np.full(count, -1, np.int64)
    for part in parts:
        scalar = (part.shape.fields if of is None else part.shape.maps[of]).get(name)
        if scalar is not None:
            found[part.place] = rows.column(part.of, scalar)
    return found


def _text(rows: Rows, at: Ints) -> Strings:
    if len(at) and at.min() >= 0:
        return rows.text(at)
    found = rows.text(np.maximum(at, 0)) if len(rows.cells.tags) else Strings.missing(len(at))
    return Strings(rows.data, np.where(at < 0, -1, found.start), np.where(at < 0, -1, found.end))


def _values(rows: Rows, at: Ints) -> Values:
    if len(at) and at.min() >= 0:
        return rows.values(at)
    if (at < 0).all():
        return Values.missing(len(at))
    found = rows.values(np.maximum(at, 0))
    absent = at < 0
    return Values(
        np.where(absent, np.uint8(NULL), found.tags),
        np.where(absent, np.nan, found.numbers),
        _text(rows, at),
    )


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
