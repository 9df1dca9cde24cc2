"""Labels to predictions: late, out of order, twice, corrected or never; the result depends on the log only.

Between two multiples of 1,024 predictions nothing is forgotten, but for labels that wait, at multiples of
1,024 labels; so what joins with what does not depend on how the log was cut into batches. A joined pair
takes its place at the later of its two events. An id is one prediction in each environment, and a label, which
names none, is of all of these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Bytes, Floats, Ints, Strings, stack, take
from ..core.errors import StateError
from ..core.events import ENVIRONMENTS
from ..core.snapshot import check, pack, unpack
from .early_labels import EarlyLabels
from .label_watch import LabelWatch, Looked
from .pending import FURTHER, JOINED, LATE, UNLABELLED, WITH_PREDICTION, PendingTable
from .same_ids import cuts

T = TypeVar("T", "Predictions", "Labels")

BLOCK: Final = 1024
"""Predictions, or labels, between two looks at what is too old or too much."""


class Predictions(NamedTuple):
    """Predictions of one model, (n,) each, in the order of the log.

    `predicted` and `label`, for a label that came with its prediction, are NaN where there is none; `segments` as
    `Groups` has them, (n, k) `scores` as `ScoreColumns` has them, `met` what of training each has met, as `TrainingRows`.
    """

    ids: Strings
    offsets: Ints
    rows: Ints
    times: Ints
    environment: Bytes
    predicted: Floats
    label: Floats
    segments: Ints
    scores: Floats
    met: Ints


class Labels(NamedTuple):
    """Labels of one model, (n,) each, in the order of the log; `times` is when they were observed."""

    ids: Strings
    offsets: Ints
    rows: Ints
    times: Ints
    label: Floats
    revision: Ints


class Pairs(NamedTuple):
    """Joined pairs, (n,) each, in the order in which they came to be.

    `offsets` and `rows` say at which event; `place` numbers the pairs of an environment; `times` is
    when the label was observed, `lag` how long after the prediction, in nanoseconds; `segments` and (n, k) `scores`
    are the prediction's.
    """

    place: Ints
    offsets: Ints
    rows: Ints
    environment: Bytes
    predicted: Floats
    label: Floats
    times: Ints
    lag: Ints
    segments: Ints
    scores: Floats


class Correction(NamedTuple):
    """A label that replaced another: the pair, one row, as it was, what its label and lag are now, and its row of the table."""

    pair: Pairs
    label: float
    lag: int
    row: int = 0


@dataclass(slots=True)
class Counts:
    """What became of the events; the worker publishes these.

    Notes
    -----
    `labels`, `labels_early` and `labels_unmatched` count labels, once each. Joined, repeated, corrected and late is what a
    label is to a prediction: it is counted for each one that it reaches, in several environments or at several times.
    """

    predictions: int = 0
    predictions_repeated: int = 0
    predictions_expired: int = 0
    labels: int = 0
    labels_joined: int = 0
    labels_repeated: int = 0
    labels_corrected: int = 0
    labels_early: int = 0
    labels_late: int = 0
    labels_unmatched: int = 0


@dataclass(slots=True)
class _Outcome:
    pairs: list[Pairs] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)


class Join:
    """Joins the labels of one model to its predictions.

    Parameters
    ----------
    max_pending
        Predictions kept, of all environments together, up to 1,023 more for a while; beyond, the oldest goes.
    window_seconds
        A label observed more than this after its prediction is late: counted, not joined.
    early_seconds
        How long a label waits for its prediction, in event time.
    max_early
        Labels that may wait so, up to 1,023 more for a while; beyond, the first of them goes.

    Notes
    -----
    A label goes to the predictions that its id has by then, in whichever environments; it waits only if there is none.
    A prediction that comes later takes the label that its id has in another environment, as long as that prediction is
    kept: the greatest (revision, observed) by then, as it counts there. A label that came with a prediction is that one's alone.
    """

    def __init__(
        self,
        max_pending: int = 100_000,
        window_seconds: float = 14 * 86_400.0,
        early_seconds: float = 300.0,
        max_early: int = 10_000,
    ) -> None:
        if min(max_pending, window_seconds, early_seconds, max_early) <= 0:
            raise ValueError(
                "max_pending, window_seconds, early_seconds and max_early must be above 0"
            )
        self.max_pending = max_pending
        self.window = int(window_seconds * 1e9)
        self.table = PendingTable()
        self.counts = Counts()
        self._labels = 0  # that came by themselves
        self._watermark = 0
        self._early = EarlyLabels(early_seconds, max_early)
        self._places = np.zeros(len(ENVIRONMENTS), np.int64)
        self.fresh = np.empty(0, np.bool_)
        """Of the predictions of the last update, which came for the first time."""
        self.begins = 0
        """The row of the table that the first of these has; the others have those after it."""
        self.paired: list[Ints] = []
        """The rows of the table of the pairs of the last update, as these."""
        self.watch = LabelWatch(self.window)
        self.looked: list[Looked] = []
        """What was seen in the last update of predictions that have come to the age at which labels are looked for."""

    @property
    def watermark(self) -> int:
        """The time of the latest prediction, ns since 1970."""
        return self._watermark

    def update(
        self, predictions: Predictions, labels: Labels
    ) -> tuple[list[Pairs], list[Correction]]:
        """Take events in; return new pairs, and corrections of pairs that this or an earlier call gave."""
        out = _Outcome()
        self.fresh = np.zeros(len(predictions.offsets), np.bool_)
        self.looked, self.paired, self.begins = [], [], self.table.count
        begin = label_begin = 0
        while begin < len(predictions.offsets) or label_begin < len(labels.offsets):
            end, label_end = self._end(predictions, begin, labels, label_begin)
            block, its_labels = (
                _part(predictions, begin, end),
                _part(labels, label_begin, label_end),
            )
            fresh = self.fresh[begin:end]
            if self.table.meet(block.environment):
                self._cut_block(block, its_labels, fresh, out)
            else:
                self._block(block, its_labels, fresh, out)
            begin, label_begin = end, label_end
        if len(out.pairs) > 1:
            self.paired, out.pairs = [np.concatenate(self.paired)], [stack(out.pairs)]
        return out.pairs, out.corrections

    def _end(
        self, predictions: Predictions, begin: int, labels: Labels, label_begin: int
    ) -> tuple[int, int]:
        """Return where a block ends: with the prediction or the label that makes BLOCK of them."""
        end = begin + BLOCK - self.counts.predictions % BLOCK
        label_end = label_begin + BLOCK - self._labels % BLOCK
        if end <= len(predictions.offsets):
            before = _before(labels, predictions.offsets[end - 1], predictions.rows[end - 1])
            if before < label_end:
                return end, before
        if label_end <= len(labels.offsets):
            last = label_end - 1
            return _before(predictions, labels.offsets[last], labels.rows[last]), label_end
        return len(predictions.offsets), len(labels.offsets)

    def _cut_block(
        self, predictions: Predictions, labels: Labels, fresh: NDArray[np.bool_], out: _Outcome
    ) -> None:
        """Take a block in parts, so that what a prediction takes from another environment was there before its part."""
        begin = label_begin = 0
        for end in cuts(predictions, labels, self.table, self._early.ids):
            label_end = _before(labels, predictions.offsets[end], predictions.rows[end])
            self._block(
                _part(predictions, begin, end), _part(labels, label_begin, label_end),
                fresh[begin:end], out,
            )  # fmt: skip
            begin, label_begin = end, label_end
        self._block(
            _part(predictions, begin, len(fresh)), _part(labels, label_begin, len(labels.offsets)),
            fresh[begin:], out,
        )  # fmt: skip

    def _block(
        self, predictions: Predictions, labels: Labels, fresh: NDArray[np.bool_], out: _Outcome
    ) -> None:
        before = self.table.count
        rows = self.table.add(
            predictions.ids, predictions.times, predictions.environment, predictions.predicted,
            predictions.segments, predictions.scores, fresh,
        )  # fmt: skip
        new = len(rows)
        self.counts.predictions += new
        self._labels += len(labels.offsets)
        self.counts.predictions_repeated += new - (self.table.count - before)
        if new:
            self._watermark = max(self._watermark, int(predictions.times.max()))
        found = self._candidates(predictions, rows, fresh, before, labels)
        if found is not None:
            self._label(found, out)
        if new and self.counts.predictions % BLOCK == 0:
            at = int(predictions.offsets[-1]), int(predictions.rows[-1])
            looked = self.watch.look(
                self.table, self.counts.labels_joined, self._watermark, at,
                self.counts.predictions // BLOCK,
            )  # fmt: skip
            self.looked += [] if looked is None else [looked]
            self._expire()
        if len(labels.offsets) and self._labels % BLOCK == 0:
            self.counts.labels_unmatched += self._early.expire(self._watermark)

    def _candidates(
        self,
        predictions: Predictions,
        rows: Ints,
        fresh: NDArray[np.bool_],
        before: int,
        labels: Labels,
    ) -> _Candidates | None:
        """Return labels with the row each belongs to, in the order in which the pairs come to be."""
        with_label = np.flatnonzero(predictions.label == predictions.label)  # not NaN
        came = len(with_label)
        self.counts.labels += len(labels.offsets) + came
        parts = self._known(predictions, fresh, before, labels) if len(labels.offsets) else []
        if came:
            own = slice(None) if came == len(rows) else with_label  # so that nothing is copied
            parts.append(
                _Candidates(
                    rows[own], predictions.offsets[own], predictions.rows[own],
                    predictions.label[own], np.full(came, WITH_PREDICTION), predictions.times[own],
                )
            )  # fmt: skip
        if self._early.ids.live and self.table.count > before:
            parts.append(self._arrived(predictions, rows, np.flatnonzero(fresh)))
        if len(self.table.environments) > 1 and self.table.count > before:
            parts.append(self._taken_over(predictions, rows, np.flatnonzero(fresh)))
        parts = [part for part in parts if len(part.pending)]
        if len(parts) < 2:
            return parts[0] if parts else None
        joined = stack(parts)
        return take(joined, np.lexsort((joined.rows, joined.offsets)))

    def _known(
        self, predictions: Predictions, fresh: NDArray[np.bool_], before: int, labels: Labels
    ) -> list[_Candidates]:
        """Return the labels whose predictions stand before them, by environment; let the others wait."""
        parts: list[_Candidates] = []
        waits: NDArray[np.bool_] | None = None  # in all environments
        for code in self.table.environments:
            pending = self.table.find(labels.ids, code)
            early = pending < 0
            near = np.flatnonzero(pending >= before)
            if len(near):  # the prediction may stand after its label within this very block
                at = np.flatnonzero(fresh)[pending[near] - before]
                offset, row = predictions.offsets[at], predictions.rows[at]
                early[near] = (labels.offsets[near] < offset) | (
                    (labels.offsets[near] == offset) & (labels.rows[near] < row)
                )
            waits = early if waits is None else waits & early
            known = np.flatnonzero(~early)
            parts.append(
                _Candidates(
                    pending[known], labels.offsets[known], labels.rows[known], labels.label[known],
                    labels.revision[known], labels.times[known],
                )
            )  # fmt: skip
        of = np.arange(len(labels.offsets)) if waits is None else np.flatnonzero(waits)
        if len(of):
            self.counts.labels_early += len(of)
            self.counts.labels_repeated += self._early.add(
                labels.ids.take(of), labels.label[of], labels.revision[of], labels.times[of]
            )
        return parts

    def _taken_over(self, predictions: Predictions, rows: Ints, fresh: Ints) -> _Candidates:
        """Return the labels that new predictions take from those of their ids in other environments."""
        label, revision, observed = self.table.known_elsewhere(
            predictions.ids.take(fresh), predictions.environment[fresh]
        )
        there = np.flatnonzero(revision != UNLABELLED)
        at = fresh[there]
        return _Candidates(
            rows[at], predictions.offsets[at], predictions.rows[at], label[there], revision[there],
            observed[there],
        )  # fmt: skip

    def _arrived(self, predictions: Predictions, rows: Ints, fresh: Ints) -> _Candidates:
        """Return the waiting labels whose predictions came with this block."""
        found, labels = self._early.take(predictions.ids.take(fresh))
        at = fresh[found]
        return _Candidates(
            rows[at], predictions.offsets[at], predictions.rows[at],
            np.array([early.label for early in labels]),
            np.array([early.revision for early in labels], np.int64),
            np.array([early.observed for early in labels], np.int64),
        )  # fmt: skip

    def _label(self, found: _Candidates, out: _Outcome) -> None:
        becomes = self.table.label(
            found.pending, found.label, found.revision, found.observed, self.window, self._places
        )
        is_new = becomes == JOINED
        joined = int(np.count_nonzero(is_new))
        if joined:
            self.counts.labels_joined += joined
            new = found if joined == len(becomes) else take(found, is_new)
            out.pairs.append(self._pairs(new))
            self.paired.append(new.pending)
        if joined < len(becomes):
            self.counts.labels_late += int(np.count_nonzero(becomes == LATE))
            for i in np.flatnonzero(becomes == FURTHER).tolist():
                self._again(take(found, slice(i, i + 1)), out)

    def _pairs(self, of: _Candidates) -> Pairs:
        """Return pairs of predictions and the labels that they have."""
        known = self.table.outcomes(of.pending)
        return Pairs(known.place, of.offsets, of.rows, *known[1:])

    def _again(self, one: _Candidates, out: _Outcome) -> None:
        """Take a further label of one prediction: it counts if its (revision, time) is greater."""
        pair, row, label = self._pairs(one), int(one.pending[0]), float(one.label[0])
        revision = int(self.table.at("revision", one.pending)[0])
        new_revision = int(one.revision[0])
        known = max(revision, 0), int(pair.times[0])
        new = max(new_revision, 0), int(one.observed[0])
        if pair.label[0] == label:
            self.counts.labels_repeated += 1
            kept = max(known, new)
            if revision == new_revision == WITH_PREDICTION:  # else it has come by itself too
                kept = WITH_PREDICTION, kept[1]
            if kept != (revision, known[1]):
                self.table.relabel(row, label, *kept)
        elif new <= known:
            self.counts.labels_repeated += 1
        else:
            self.counts.labels_corrected += 1
            lag = new[1] - int(pair.times[0] - pair.lag[0])
            out.corrections.append(Correction(pair, label, lag, row))
            self.table.relabel(row, label, new_revision, new[1])

    def _expire(self) -> None:
        """Forget what is too much or too old; called at multiples of BLOCK predictions only."""
        table = self.table
        keep_from = max(table.first, table.count - self.max_pending)
        keep_from = max(keep_from, table.first + self._old())
        if keep_from > table.first:
            gone = table["revision"][: keep_from - table.first]
            self.counts.predictions_expired += int((gone == UNLABELLED).sum())
            table.forget(keep_from)
        self.counts.labels_unmatched += self._early.expire(self._watermark)

    def _old(self) -> int:
        """Return how many of the first rows are too old: a few at a time, since mostly there are few."""
        times, begin = self.table["time"], 0
        while begin < len(times):
            alive = times[begin : begin + BLOCK] + self.window >= self._watermark
            if alive.any():
                return begin + int(alive.argmax())
            begin += BLOCK
        return len(times)

    def volatile(self) -> bytes:
        """Return the state beside the table, after the table's own `dirty`."""
        meta: dict[str, Any] = {
            "counts": {name: getattr(self.counts, name) for name in Counts.__slots__},
            "labels": self._labels,
            "watermark": self._watermark,
            **self._early.state(),
            "places": self._places.tolist(),
            "watch": self.watch.state(),
            "first_row": self.table.first,
            "fields": self.table.fields,
        }
        return pack("join", 1, meta, {})

    def restore(self, state: bytes, fields: dict[str, bytes]) -> None:
        """Go on from `volatile` and the table's fields; others among `fields` are passed over.

        Raises
        ------
        StateError
            A part is damaged or missing; the join is as before.
        """
        meta, _ = unpack("join", 1, state)
        missing = sorted(set(meta["fields"]) - set(fields))
        if missing:
            raise StateError(f"of the pending predictions {', '.join(missing)} are missing")
        self.table.restore({name: fields[name] for name in meta["fields"]}, meta["first_row"])
        self.counts = Counts(**meta["counts"])
        self._labels = meta["labels"]
        self._watermark = meta["watermark"]
        self._early.load(meta)
        self._places = np.array(meta["places"], np.int64)
        check(self._places, "pairs counted", (len(ENVIRONMENTS),), np.dtype(np.int64))
        if "watch" in meta:  # since there is one
            self.watch.load(meta["watch"])


class _Candidates(NamedTuple):
    """Labels, (n,) each: the row one belongs to, where the pair comes to be, and what it says."""

    pending: Ints
    offsets: Ints
    rows: Ints
    label: Floats
    revision: Ints
    observed: Ints


def _part(events: T, begin: int, end: int) -> T:
    return events if end - begin == len(events[0]) else take(events, slice(begin, end))


def _before(events: Predictions | Labels, offset: int, row: int) -> int:
    """Return how many events stand before another."""
    if not len(events.offsets):
        return 0
    low = int(np.searchsorted(events.offsets, offset))
    high = int(np.searchsorted(events.offsets, offset, side="right"))
    return low + int(np.searchsorted(events.rows[low:high], row))
