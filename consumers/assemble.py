"""Cells read by `json_kernel` to event batches: the scalars of known shapes, checked and put in columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.batch import MAX_CELLS, EventBatch, LabelBatch
from ..core.columns import FLOAT, INTEGER, NULL, TAGS, TEXT, Bytes, Floats, Ints, Strings, Values
from ..core.events import ENVIRONMENTS
from ..core.names import LENGTHS
from ..detectors.string_index import StringIndex
from .json_kernel import Cells, gather
from .shapes import Shape
from .time_kernel import NO_TIME, times_of

Mask = NDArray[np.bool_]

_FIELD_TAGS: Final[dict[str, tuple[int, ...]]] = {
    "prediction_id": (TEXT,), "model": (TEXT,), "environment": (TEXT,),
    "version": (TEXT, NULL), "client": (TEXT, NULL), "time": (TEXT, NULL),
    "observed_at": (TEXT, NULL), "prediction": TAGS, "label": TAGS,
    "sample_rate": (INTEGER, FLOAT), "revision": (INTEGER,),
    "scores": (NULL,), "logits": (NULL,), "embedding": (NULL,), "segments": (NULL,),
    "input": (NULL,),
}  # fmt: skip
"""What a plain field may hold; the containers here stand for `"logits": null` and the like."""
_MAP_TAGS: Final = {"features": TAGS, "scores": (INTEGER, FLOAT), "segments": (TEXT,)}


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
        if name in LENGTHS:
            low, high = LENGTHS[name]
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
    table = np.zeros(len(TAGS), np.bool_)
    table[list(tags)] = True
    return table


def _all_allowed(rows: Rows, of: Ints, tags: tuple[int, ...], scalars: list[int] | Ints) -> Mask:
    if tags is TAGS or not len(scalars):
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
        prediction_id=_text(rows, parts, "prediction_id", len(of)),
        label=_values(rows, parts, "label", len(of)),
        revision=revision,
    )


def event_batches(model: str, rows: Rows, of: Ints, parts: list[Part]) -> Iterator[EventBatch]:
    """Build the predictions of rows `of`, cut where the width of the logits or embedding changes."""
    widths = np.zeros((len(of), 2), np.int64)
    for part in parts:
        lists = part.shape.lists
        widths[part.place] = len(lists.get("logits", ())), len(lists.get("embedding", ()))
    cuts = np.flatnonzero((np.diff(widths, axis=0) != 0).any(axis=1)) + 1
    bounds = [0, *cuts.tolist(), len(of)]
    names = {name for part in parts for entries in part.shape.maps.values() for name in entries}
    most = max(1, MAX_CELLS // max(1, len(names)))
    for begin, stop in pairwise(bounds):
        for at in range(begin, stop, most):
            end = min(at + most, stop)
            run = [cut for part in parts if len((cut := _cut(part, at, end)).of)]
            yield _event_batch(model, rows, of[at:end], run)


def _cut(part: Part, begin: int, end: int) -> Part:
    if begin == 0 and (len(part.place) == 0 or part.place[-1] < end):
        return part
    low, high = np.searchsorted(part.place, [begin, end])
    return Part(part.shape, part.of[low:high], part.place[low:high] - begin)


def _event_batch(model: str, rows: Rows, of: Ints, parts: list[Part]) -> EventBatch:
    count = len(of)

    feature_names = _names(part.shape.maps["features"] for part in parts)
    score_names = _names(part.shape.maps["scores"] for part in parts)
    tags, features = _matrix(rows, parts, "features", feature_names, count)
    texts: dict[str, Strings] = {}
    if (tags == TEXT).any():
        numeric = (tags >= INTEGER).any(axis=0) | ~(tags == TEXT).any(axis=0)
        for column in np.flatnonzero((tags == TEXT).any(axis=0)):
            name = feature_names[column]
            texts[name] = _text(rows, parts, name, count, "features")
        feature_names = tuple(n for n, keep in zip(feature_names, numeric, strict=True) if keep)
        features = features[:, numeric]
    environment = np.zeros(count, np.uint8)  # production where not said
    rate = np.ones(count)
    for part in parts:
        fields = part.shape.fields
        if "environment" in fields:
            said = rows.text(rows.column(part.of, fields["environment"]))
            environment[part.place] = _environments.find(said)
        if "sample_rate" in fields:
            rate[part.place] = rows.cells.numbers[rows.column(part.of, fields["sample_rate"])]
    return EventBatch(
        model=model,
        offsets=rows.offsets[of],
        rows=rows.rows[of],
        times=rows.times[of],
        prediction_id=_text(rows, parts, "prediction_id", count),
        environment=environment,
        version=_text(rows, parts, "version", count),
        client=_text(rows, parts, "client", count),
        feature_names=feature_names,
        features=features,
        texts=texts,
        prediction=_values(rows, parts, "prediction", count),
        label=_values(rows, parts, "label", count),
        score_names=score_names,
        scores=_matrix(rows, parts, "scores", score_names, count)[1],
        logits=_lists(rows, parts, "logits", count),
        embedding=_lists(rows, parts, "embedding", count),
        segments={
            name: _text(rows, parts, name, count, "segments")
            for name in _names(part.shape.maps["segments"] for part in parts)
        },
        sample_rate=rate,
    )


def _names(maps: Iterable[dict[str, int]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for entries in maps for name in entries))


def _cells(rows: Rows, parts: list[Part], name: str, count: int, of: str | None) -> Ints | None:
    """Return (n,) cells of a plain field, or of an entry of the map `of`.

    -1 where a row has none, None where no row has one.
    """
    found: Ints | None = None
    for part in parts:
        scalar = (part.shape.fields if of is None else part.shape.maps[of]).get(name)
        if scalar is None:
            continue
        cells = rows.column(part.of, scalar)
        if len(parts) == 1:
            return cells
        if found is None:
            found = np.full(count, -1, np.int64)
        found[part.place] = cells
    return found


def _text(rows: Rows, parts: list[Part], name: str, count: int, of: str | None = None) -> Strings:
    cells = _cells(rows, parts, name, count, of)
    if cells is None:
        return Strings.missing(count)
    found = rows.text(cells)
    absent = cells < 0
    if absent.any():
        found.start[absent] = found.end[absent] = -1
    return found


def _values(rows: Rows, parts: list[Part], name: str, count: int) -> Values:
    cells = _cells(rows, parts, name, count, None)
    if cells is None:
        return Values.missing(count)
    found = rows.values(cells)
    absent = cells < 0
    if absent.any():
        found.tags[absent] = NULL
        found.numbers[absent] = np.nan
        found.strings.start[absent] = found.strings.end[absent] = -1
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
