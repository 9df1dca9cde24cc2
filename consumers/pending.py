"""Predictions that wait for their labels, as columns, with what is known of each; bounded."""

# numba decides what is a number and what a row's field:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Bytes, Floats, Ints, Strings
from ..core.errors import StateError
from ..core.events import ENVIRONMENTS
from ..core.snapshot import pack, unpack
from ..detectors.compiled import compiled
from ..detectors.string_index import StringIndex
from .id_keys import marked, unmarked
from .segments import SegmentLog

UNLABELLED: Final = -1
"""The revision of a row that has no label."""
WITH_PREDICTION: Final = -2
"""The revision of a label that came with its prediction alone: as 0, but it is of no other environment's prediction."""

LATE, JOINED, FURTHER = 0, 1, 2
"""What becomes of a label."""

_COLUMNS: Final = {
    "time": np.int64, "environment": np.uint8, "predicted": np.float64, "label": np.float64,
    "revision": np.int64, "observed": np.int64, "place": np.int64, "segments": np.int64,
}  # fmt: skip
_ROW: Final = np.dtype([(name, "f8" if t is np.float64 else "i8") for name, t in _COLUMNS.items()])
"""A row of the table lies in one cache line: a label that comes late reads and writes most of it."""
_SCORES: Final = "scores"
_OUTCOME: Final = ("label", "revision", "observed", "place")

Rows = NDArray[np.void]


class Outcomes(NamedTuple):
    """What is known of (n,) predictions with labels, as `Pairs` has it."""

    place: Ints
    environment: Bytes
    predicted: Floats
    label: Floats
    times: Ints
    lag: Ints
    segments: Ints
    scores: Floats


class PendingTable:
    """Rows numbered in order of arrival; the oldest are forgotten.

    Attributes
    ----------
    environments
        Codes of those that rows may be of, in their order.

    Notes
    -----
    A row is of an id and an environment. Beside the columns of one number it has its `scores`: as many columns as the widest
    that came. What is stored does not tell how rows are looked up.
    """

    def __init__(self) -> None:
        self.environments: list[int] = []
        self._home = -1  # the environment that came first, of which ids are keys as they are
        self._keys = StringIndex()  # a row's number is its code
        self._rows: Rows = np.empty(64, _ROW)
        self._scores: Floats = np.empty((64, 0))
        self._base = 0  # row number of the first element of these
        self._written = 0  # rows below this are in a stored segment
        self._changed: list[Ints] = []  # rows with a new outcome since the last write
        self._forgotten = False
        self._rows_log = SegmentLog()
        self._outcomes_log = SegmentLog()

    def __len__(self) -> int:
        """How many rows are kept."""
        return self._keys.live

    @property
    def first(self) -> int:
        """The oldest row."""
        return self._keys.first

    @property
    def count(self) -> int:
        """One past the newest row."""
        return len(self._keys)

    def __getitem__(self, column: str) -> NDArray[Any]:
        """Return a column of the kept rows; element 0 is row `first`. Changes go through `label`."""
        return self._rows[column][self.first - self._base : self.count - self._base]

    def at(self, column: str, rows: Ints | slice) -> NDArray[Any]:
        """Return a copy of (n,) entries of kept rows, or of those from one to another."""
        if isinstance(rows, slice):
            rows = slice(rows.start - self._base, rows.stop - self._base)
        else:
            rows = rows - self._base
        if column == _SCORES:
            return self._scores[rows].copy()
        return self._rows[column][rows].astype(_COLUMNS[column])

    def add(
        self,
        ids: Strings,
        times: Ints,
        environment: Bytes,
        predicted: Floats,
        segments: Ints,
        scores: Floats,
        fresh: NDArray[np.bool_],
    ) -> Ints:
        """Add predictions, of environments that `meet` knows; return (n,) their rows, and fill `fresh`: which are new.

        One with an id that its environment has already keeps that row.
        """
        before = self.count
        several = len(self.environments) > 1
        rows = self._keys.add(marked(ids, environment, self._home) if several else ids)
        self._reserve(self.count)
        width = max(scores.shape[1], self._scores.shape[1])
        self._scores = widened(self._scores, width)
        _append(
            self._rows, self._scores, self._base, before, rows, times, environment, predicted,
            segments, widened(scores, width), fresh,
        )  # fmt: skip
        return rows

    def meet(self, environment: Bytes) -> bool:
        """Take note of the environments of predictions to come; return whether there are several by now."""
        if not len(environment):
            return len(self.environments) > 1
        if self._home < 0:
            self._home = int(environment[0])
            self.environments = [self._home]
        if np.count_nonzero(environment != self._home):
            self.environments = sorted({*self.environments, *np.unique(environment).tolist()})
        return len(self.environments) > 1

    def find(self, ids: Strings, environment: int) -> Ints:
        """Return the (n,) rows of ids in one environment, -1 for none."""
        if environment != self._home:
            ids = marked(ids, np.full(len(ids), environment, np.uint8), self._home)
        return self._keys.find(ids)

    def known_elsewhere(self, ids: Strings, environment: Bytes) -> tuple[Floats, Ints, Ints]:
        """Return (n,) the label, its revision and when it was observed that predictions of these ids have in other environments.

        Of several the greatest (revision, observed). The revision is `UNLABELLED` where there is none; labels that came with
        their prediction are none.
        """
        label, observed = np.full(len(ids), np.nan), np.zeros(len(ids), np.int64)
        revision = np.full(len(ids), UNLABELLED)
        for code in self.environments:
            others = np.flatnonzero(environment != code)
            rows = self.find(ids.take(others), code)
            others, rows = others[rows >= 0], rows[rows >= 0]
            its_revision, its_observed = self.at("revision", rows), self.at("observed", rows)
            is_greater = (its_revision > revision[others]) | (
                (its_revision == revision[others]) & (its_observed > observed[others])
            )
            is_greater &= its_revision >= 0
            others, rows = others[is_greater], rows[is_greater]
            label[others], revision[others] = self.at("label", rows), its_revision[is_greater]
            observed[others] = its_observed[is_greater]
        return label, revision, observed

    def ids(self, begin: int, end: int) -> Strings:
        """Return the ids of kept rows `begin` to `end`, one after another in one buffer."""
        keys = self._keys.texts(begin, end)
        if len(self.environments) < 2:
            return keys
        return unmarked(keys, self.at("environment", slice(begin, end)), self._home)

    def label(
        self, rows: Ints, label: Floats, revision: Ints, observed: Ints, window: int, places: Ints
    ) -> Bytes:
        """Give rows that have none their labels, and number these in each environment by itself, on from `places`.

        Returns what becomes of each of the (n,) labels: `LATE`, by more than `window`, `JOINED` or `FURTHER`.
        """
        found = _label(self._rows, self._base, rows, label, revision, observed, window, places)
        changed = rows[(rows < self._written) & (found == JOINED)]
        if len(changed):
            self._changed.append(changed)
        return found

    def relabel(self, row: int, label: float, revision: int, observed: int) -> None:
        """Replace the label of a row."""
        of = self._rows[row - self._base]
        of["label"], of["revision"], of["observed"] = label, revision, observed
        if row < self._written:
            self._changed.append(np.array([row]))

    def outcomes(self, rows: Ints) -> Outcomes:
        """Return what is known of (n,) rows that have labels."""
        n = len(rows)
        found = Outcomes(
            np.empty(n, np.int64), np.empty(n, np.uint8), np.empty(n), np.empty(n),
            np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64),
            np.empty((n, self._scores.shape[1])),
        )  # fmt: skip
        _outcomes(self._rows, self._scores, self._base, rows, *found)
        return found

    def forget(self, before: int) -> None:
        """Forget the rows below `before`."""
        if before <= self.first:
            return
        self._keys.forget(before)
        self._forgotten = True
        if self.first - self._base > len(self):
            kept = slice(self.first - self._base, None)
            self._rows, self._scores = self._rows[kept].copy(), self._scores[kept].copy()
            self._base = self.first

    def _reserve(self, count: int) -> None:
        need = count - self._base
        if need > len(self._rows):
            self._rows, self._scores = (
                np.concatenate([of, np.empty((2 * need - len(of), *of.shape[1:]), of.dtype)])
                for of in (self._rows, self._scores)
            )

    def dirty(self) -> dict[str, bytes | None]:
        """Return the fields to store since the last call, None for those to delete."""
        fields: dict[str, bytes | None] = {}
        if self._forgotten:
            for log, name in ((self._rows_log, "rows"), (self._outcomes_log, "outcomes")):
                fields.update((f"{name}:{n}", None) for n in log.forget(self.first))
            self._forgotten = False
        changed = np.empty(0, np.int64)
        if self._changed:
            changed = np.unique(np.concatenate(self._changed))
            changed = changed[np.searchsorted(changed, self.first) :]
        new = np.arange(max(self._written, self.first), self.count)
        self._written, self._changed = self.count, []
        for log, name, rows, columns in (
            (self._rows_log, "rows", new, (*_COLUMNS, _SCORES)),
            (self._outcomes_log, "outcomes", changed, _OUTCOME),
        ):
            written, deleted = log.append(rows)
            fields.update((f"{name}:{n}", None) for n in deleted)
            for number, of in written:
                kept = of[of >= self.first]
                fields[f"{name}:{number}"] = self._segment(name, kept, columns)
        return fields

    @property
    def fields(self) -> list[str]:
        """The names of the fields that are stored after `dirty`."""
        logs = (("rows", self._rows_log), ("outcomes", self._outcomes_log))
        return [f"{name}:{number}" for name, log in logs for number in log.numbers]

    def _segment(self, name: str, rows: Ints, columns: tuple[str, ...]) -> bytes:
        if name == "outcomes":
            arrays = {column: self.at(column, rows) for column in columns}
            return pack(f"pending_{name}", 3, {}, arrays | {"row": rows})
        # Rows of such a segment follow one another.
        begin, end = int(rows[0]), int(rows[-1]) + 1
        arrays = {column: self.at(column, slice(begin, end)) for column in columns}
        texts = self.ids(begin, end)
        arrays["observed"] -= arrays["time"]  # 0 of a label that came with its prediction
        arrays["id_length"] = texts.end - texts.start
        arrays = {column: _squeezed(array) for column, array in arrays.items()}
        arrays["id_text"] = texts.data[texts.start[0] : texts.end[-1]]
        return pack(f"pending_{name}", 3, {"rows": (begin, end)}, arrays)

    def restore(self, fields: dict[str, bytes], first: int) -> None:
        """Go on from all stored fields; rows below `first` are forgotten.

        Raises
        ------
        StateError
            A field is damaged.
        """
        segments: dict[str, dict[int, dict[str, NDArray[Any]]]] = {"rows": {}, "outcomes": {}}
        for field, state in fields.items():
            name, _, number = field.partition(":")
            meta, arrays = unpack(f"pending_{name}", 3, state)
            segments[name][int(number)] = arrays if name == "outcomes" else _whole(meta, arrays)
        rows = sorted(segments["rows"].values(), key=lambda arrays: int(arrays["row"][0]))
        self._load(rows, first)
        for _, arrays in sorted(segments["outcomes"].items()):
            live = arrays["row"] >= self.first
            at = arrays["row"][live] - self._base
            for column in _OUTCOME:
                self._rows[column][at] = arrays[column][live]
        self._rows_log.load({n: arrays["row"] for n, arrays in segments["rows"].items()})
        self._outcomes_log.load({n: arrays["row"] for n, arrays in segments["outcomes"].items()})
        self._written, self._changed, self._forgotten = self.count, [], False

    def _load(self, segments: list[dict[str, NDArray[Any]]], first: int) -> None:
        none: dict[str, NDArray[Any]] = {name: np.empty(0, t) for name, t in _COLUMNS.items()}
        width = max((arrays[_SCORES].shape[1] for arrays in segments), default=0)
        none[_SCORES] = np.empty((0, width))
        segments = [arrays | {_SCORES: widened(arrays[_SCORES], width)} for arrays in segments]
        none |= {"row": np.empty(0, np.int64), "id_length": np.empty(0, np.int64)}
        none["id_text"] = np.empty(0, np.uint8)
        whole = {name: np.concatenate([none[name], *(s[name] for s in segments)]) for name in none}
        end = np.cumsum(whole["id_length"])
        ids = Strings(whole["id_text"], end - whole["id_length"], end)
        # Forgotten rows go first: an id among them may be in use again.
        kept = slice(int(np.searchsorted(whole["row"], first)), None)
        environment = whole["environment"][kept]
        if environment.dtype != np.uint8 or (environment >= len(ENVIRONMENTS)).any():
            raise StateError(
                f"pending predictions are of environments 0 to {len(ENVIRONMENTS) - 1}"
            )
        self._home, self.environments, ids = -1, [], ids.take(kept)
        several = self.meet(environment)
        self._keys.restore(marked(ids, environment, self._home) if several else ids, first)
        if len(self._keys) - first != len(ids):
            raise StateError("pending predictions hold an id twice in one environment")
        self._base = first
        self._scores = whole[_SCORES][kept]
        self._rows = np.empty(len(ids), _ROW)
        for name in _COLUMNS:
            self._rows[name] = whole[name][kept]
        self._reserve(self.count)


@compiled
def _append(
    table: Rows, scores: Floats, base: int, new: int, rows: Ints, times: Ints, environment: Bytes,
    predicted: Floats, segments: Ints, its_scores: Floats, fresh: NDArray[np.bool_],
) -> None:  # fmt: skip
    """Write the predictions that come for the first time, whose rows are `new` and those after it; fill `fresh` with which these are."""
    for i in range(rows.shape[0]):
        fresh[i] = rows[i] == new
        if fresh[i]:
            row = table[new - base]
            row.time, row.environment, row.predicted = times[i], environment[i], predicted[i]
            row.label, row.revision, row.observed, row.place = np.nan, UNLABELLED, 0, -1
            row.segments = segments[i]
            for k in range(scores.shape[1]):
                scores[new - base, k] = its_scores[i, k]
            new += 1


@compiled
def _label(
    table: Rows, base: int, rows: Ints, label: Floats, revision: Ints, observed: Ints, window: int,
    places: Ints,
) -> Bytes:  # fmt: skip
    """Do what `PendingTable.label` says."""
    found = np.empty(rows.shape[0], np.uint8)
    for i in range(rows.shape[0]):
        row = table[rows[i] - base]
        if observed[i] - row.time > window:
            found[i] = LATE
        elif row.revision != UNLABELLED:
            found[i] = FURTHER
        else:
            found[i] = JOINED
            row.label, row.revision, row.observed = label[i], revision[i], observed[i]
            row.place = places[row.environment]
            places[row.environment] += 1
    return found


@compiled
def _outcomes(
    table: Rows, scores: Floats, base: int, rows: Ints, place: Ints, environment: Bytes,
    predicted: Floats, label: Floats, times: Ints, lag: Ints, segments: Ints, its_scores: Floats,
) -> None:  # fmt: skip
    """Fill the (n,) columns of `Outcomes`."""
    for i in range(rows.shape[0]):
        row = table[rows[i] - base]
        place[i], environment[i], segments[i] = row.place, row.environment, row.segments
        predicted[i], label[i] = row.predicted, row.label
        times[i], lag[i] = row.observed, row.observed - row.time
        for k in range(scores.shape[1]):
            its_scores[i, k] = scores[rows[i] - base, k]


def _squeezed(column: NDArray[Any]) -> NDArray[Any]:
    """Return a column as its first entry where all are alike, and as its first two where they rise by one."""
    if column.ndim > 1 or len(column) < 3:
        return column
    if column.dtype == np.float64:
        return column[: _told(column.view(np.int64), False)]  # bits: a NaN is like itself
    return column[: _told(column, column.dtype == np.int64)]


@compiled
def _told(column: Ints, may_rise: bool) -> int:
    """Return how many of the first entries tell the others."""
    step = column[1] - column[0]
    if step != 0 and not (may_rise and step == 1):
        return len(column)
    for i in range(2, len(column)):
        if column[i] - column[i - 1] != step:
            return len(column)
    return 2 if step else 1


def _whole(meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the columns that `_squeezed` has made smaller, with the numbers of their rows."""
    begin, end = meta["rows"]
    if not 0 <= begin < end <= begin + len(arrays["id_text"]):
        raise StateError(f"pending predictions {begin} to {end} cannot be: each has an id")
    place = np.arange(end - begin)
    found = {"row": begin + place}
    for name, column in arrays.items():
        is_short = name != "id_text" and len(column) < len(place)
        if is_short and len(column) == 2:
            found[name] = column[0] + place
        else:
            found[name] = np.repeat(column, len(place)) if is_short else column
    found["observed"] = found["observed"] + found["time"]
    return found


def widened(scores: Floats, width: int) -> Floats:
    """Return (n, width or more) scores, NaN in columns that they lack."""
    if scores.shape[1] >= width:
        return scores
    wider = np.full((len(scores), width), np.nan)
    wider[:, : scores.shape[1]] = scores
    return wider
