"""One model in one partition: its classes, its join, and a series for each environment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..core.alert import Alert, Kind
from ..core.batch import EventBatch, LabelBatch
from ..core.columns import Floats, Ints, Strings, Values, groups, stack, take
from ..core.errors import StateError
from ..core.events import ENVIRONMENTS
from ..core.snapshot import reading
from ..core.verdict import Verdict
from ..detectors.leak_verdicts import FEATURES, LEAK, SAME_AS_LABEL
from ..detectors.natural_size import SURPRISE
from . import sentences
from .class_names import EARLY_LABEL, LABEL, PREDICTION, ClassNames
from .class_numbers import ClassNumbers, is_text
from .cohorts import FIELDS, Seen
from .estimates import ESTIMATE
from .incidents import Claim, Moment
from .join import Join, Labels, Predictions
from .feature_leaks import FeatureLeaks
from .model_settings import ModelSettings
from .performance import Performance
from .rates import RATES
from .series import Fields, Series

ROW_BITS = 20
"""A position is offset * 2**20 + row, one 64-bit number that orders events as the log does."""


class _Events(NamedTuple):
    """All events of one update, predictions or labels, (n,) each."""

    position: Ints
    times: Ints
    ids: Strings
    environment: Ints
    version: Strings


class _Clocks(NamedTuple):
    """A series' events in one update, and how many there were before: predictions, joined pairs."""

    predictions_before: int
    predictions: Ints
    pairs_before: int
    pairs: Ints


class ModelMonitor:
    """Everything that is known about one model in one partition.

    Parameters
    ----------
    model, partition
        What is watched.
    settings
        How.

    Notes
    -----
    State depends on the settings and on the events in the order of the log, not on how they were cut
    into updates.
    """

    def __init__(self, model: str, partition: int, settings: ModelSettings) -> None:
        self.model = model
        self.partition = partition
        self.settings = settings
        self.join = self._new_join()
        self._classes = ClassNumbers()
        self._names = ClassNames()
        self._names_stored = -1
        self._series: dict[int, Series] = {}
        self.performance = self._new_performance()
        self._leaks = FeatureLeaks(model, settings)

    def _new_join(self) -> Join:
        labels = self.settings.labels
        return Join(labels.max_pending, labels.window, labels.early, labels.max_early)

    def _new_performance(self) -> Performance:
        of = self.settings
        return Performance(of.performance, of.labels.window, of.bias.segments)

    def update(self, batches: Sequence[EventBatch], labels: Sequence[LabelBatch]) -> list[Alert]:
        """Take events in, in the order of the log; return the alerts that they raise."""
        verdicts: dict[int, list[Verdict]] = {}
        for series in self._series.values():
            series.events.trim()
            series.pairs.trim()
        before = {code: series.events.count for code, series in self._series.items()}
        pairs_before = {code: series.pairs.count for code, series in self._series.items()}
        classes = [self._classes.numbers(batch.prediction) for batch in batches]
        for batch, predicted in zip(batches, classes, strict=True):
            self._names.add(PREDICTION, predicted, batch.prediction.strings)
        segments, scores = self.performance.columns(batches)
        begin = 0
        for batch, predicted in zip(batches, classes, strict=True):
            for code, rows in groups(batch.environment):
                part, series = (
                    batch if len(rows) == len(batch) else batch.take(rows),
                    self._of(code),
                )
                verdicts.setdefault(code, []).extend(series.observe(part, predicted[rows]))
                self._leaks.observe(code, part, series, begin + rows)
            begin += len(batch)
        pairs: dict[int, list[Ints]] = {}
        new = self._join_predictions(batches, classes, segments, scores)
        for code, place, found in self._judge(new, labels):
            verdicts.setdefault(code, []).extend(found)
            pairs.setdefault(code, []).append(place)
        if not any(verdicts.values()) and not any(s.incidents.open for s in self._series.values()):
            return []
        predictions, known = _predictions(batches), _labels(labels)
        alerts: list[Alert] = []
        for code, series in self._series.items():
            of = predictions.position[predictions.environment == code]
            clocks = _Clocks(
                before.get(code, 0), of, pairs_before.get(code, 0),
                np.concatenate([*pairs.get(code, ()), of[:0]]),
            )  # fmt: skip
            alerts += self._alerts(series, clocks, verdicts.get(code, []), predictions, known)
        return alerts

    def _of(self, environment: int) -> Series:
        if environment not in self._series:
            self._series[environment] = Series(
                self.model, ENVIRONMENTS[environment], self.partition, self.settings, self._names,
                self.performance.score_columns, self.performance.groups,
            )  # fmt: skip
        return self._series[environment]

    def _judge(
        self,
        predictions: Predictions,
        labels: Sequence[LabelBatch],
    ) -> Iterator[tuple[int, Ints, list[Verdict]]]:
        """Join labels to predictions, and run what watches errors.

        Yields an environment, the positions of new pairs and what is claimed about them.
        """
        pairs, corrections = self.join.update(predictions, self._join_labels(labels))
        self.performance.add(predictions, self.join.fresh, pairs, corrections)
        for code, found in self._leaks.update(self.join, pairs, self._of):
            yield code, np.empty(0, np.int64), found
        for pair in pairs:
            for code, of in groups(pair.environment):
                part = pair if len(of) == len(pair.place) else take(pair, of)
                series = self._of(code)
                found = series.judge(part, self.performance.differences(code, part))
                yield code, _position(part.offsets, part.rows), found + series.compare(part)
        for correction in corrections:
            self._of(int(correction.pair.environment[0])).correct(correction)
        if self.settings.bias.segments:
            for code, of in groups(np.where(self.join.fresh, predictions.environment, 255)):
                if code < len(ENVIRONMENTS):
                    events = Seen(*(getattr(predictions, name)[of] for name in Seen._fields))
                    yield code, np.empty(0, np.int64), self._of(code).compare(events)
        if self.performance.is_full:
            self._count()

    def _count(self) -> None:
        """Count performance, as far as it waits."""
        self.performance.flush(
            {code: series.is_regression for code, series in self._series.items()}
        )

    def _join_predictions(
        self,
        batches: Sequence[EventBatch],
        classes: list[Floats],
        segments: list[Ints],
        scores: list[Floats],
    ) -> Predictions:
        if not batches:
            none = np.empty(0, np.int64)
            nan = np.empty(0)
            return Predictions(
                Strings.missing(0), none, none, none, np.empty(0, np.uint8), nan, nan,
                none, np.empty((0, 0)),
            )  # fmt: skip
        return Predictions(
            Strings.concat([batch.prediction_id for batch in batches]),
            np.concatenate([batch.offsets for batch in batches]),
            np.concatenate([batch.rows for batch in batches]),
            np.concatenate([batch.times for batch in batches]),
            np.concatenate([batch.environment for batch in batches]),
            np.concatenate(classes),
            np.concatenate([self._label_numbers(EARLY_LABEL, batch.label) for batch in batches]),
            np.concatenate(segments),
            np.concatenate(scores),
        )

    def _label_numbers(self, column: str, labels: Values) -> Floats:
        numbers = self._classes.numbers(labels)
        self._names.add(column, numbers, labels.strings)
        return numbers

    def _join_labels(self, labels: Sequence[LabelBatch]) -> Labels:
        if not labels:
            none = np.empty(0, np.int64)
            return Labels(Strings.missing(0), none, none, none, np.empty(0), none)
        return stack(
            [
                Labels(
                    label.prediction_id, label.offsets, label.rows, label.times,
                    self._label_numbers(LABEL, label.label), label.revision,
                )
                for label in labels
            ]
        )  # fmt: skip

    def _alerts(
        self,
        series: Series,
        clocks: _Clocks,
        verdicts: list[Verdict],
        predictions: _Events,
        labels: _Events,
    ) -> list[Alert]:
        """Feed verdicts, and the ends of incidents between them, to the incidents in their order."""
        alerts: list[Alert] = []

        def end(upto: int) -> None:
            before = clocks.predictions_before
            while upto > before and (due := series.incidents.due(upto)) is not None:
                # What was due earlier, by settings that changed meanwhile, ends with the next prediction.
                position = int(clocks.predictions[max(due - before, 1) - 1])
                alerts.extend(series.incidents.end(due, _moment(predictions, position)))

        for verdict in sorted(verdicts, key=lambda v: (v.offset, v.row, v.subject, v.detector)):
            claim = _claim(
                series, self._names.tell(series.environment, verdict), clocks, predictions, labels
            )
            end(claim.clock)
            opened = series.incidents.claim(claim)
            if opened is not None:
                alerts.append(opened)
        end(clocks.predictions_before + len(clocks.predictions))
        return alerts

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return the latest figures by environment."""
        counts = {name: float(getattr(self.join.counts, name)) for name in _COUNTS}
        counts["pending"] = float(len(self.join.table))
        seen = counts["predictions"] - counts["predictions_repeated"]
        counts["label_coverage_ratio"] = counts["labels_joined"] / seen if seen else 0.0
        return {
            ENVIRONMENTS[code]: counts | series.metrics() for code, series in self._series.items()
        }

    def dirty(self) -> Fields:
        """Return the fields that changed since the last call, None for those to delete."""
        pending = self.join.table.dirty()
        fields: Fields = {f"pending/{name}": state for name, state in pending.items()}
        fields["join"] = self.join.volatile()
        if self._names.changes != self._names_stored:
            self._names_stored = self._names.changes
            fields["names"] = self._names.snapshot()
        self._count()
        fields |= self.performance.dirty() | self._leaks.dirty()
        for code, series in self._series.items():
            fields.update((f"{code}/{name}", state) for name, state in series.dirty().items())
        return fields

    def restore(self, fields: dict[str, bytes]) -> list[str]:
        """Go on from stored fields; return what could not be read and starts clean."""
        groups: dict[str, dict[str, bytes]] = {}
        for name, state in fields.items():
            group, slash, rest = name.partition("/")
            groups.setdefault(group if slash else "", {})[rest or name] = state
        lost: list[str] = []
        is_joined = True
        try:
            with reading("join"):
                join = self._new_join()
                join.restore(groups[""]["join"], groups.get("pending", {}))
                self.join = join
        except StateError as error:
            lost.append(f"join: {error}")
            is_joined = False
        try:
            with reading("names"):
                self._names.restore(fields["names"])
            self._names_stored = self._names.changes
        except StateError as error:
            lost.append(f"names: {error}")
        own = {code: groups[str(code)] for code in range(len(ENVIRONMENTS)) if str(code) in groups}
        counted = {
            code: {name: state for name, state in of.items() if name.startswith(FIELDS)}
            for code, of in own.items()
        }
        try:
            performance = self._new_performance()
            performance.restore(groups.get("", {}), counted)
            self.performance = performance
        except StateError as error:
            lost.append(f"performance: {error}")
            self.performance.replace(counted)
        for code, of in own.items():
            lost += self._of(code).restore(of)
            if leaks := self._leaks.restore(code, of, is_joined=is_joined):
                self._of(code).incidents.let_go("leakage")
                lost += leaks
        return lost

    def series(self) -> dict[str, bytes | None]:
        """Return what has changed of performance by cohort; to be called after `dirty`."""
        names = self._names.of(ENVIRONMENTS[0], LABEL)  # those of all environments

        def name(number: float) -> str:
            return names.get(number) or (
                "?" if is_text(np.array([number]))[0] else f"{number:.15g}"
            )

        return self.performance.series(name, self.join.watermark, self._leaks.told)


_COUNTS = (
    "predictions", "predictions_repeated", "predictions_expired", "labels", "labels_joined",
    "labels_repeated", "labels_corrected", "labels_early", "labels_late", "labels_unmatched",
)  # fmt: skip


def _position(offsets: Ints, rows: Ints) -> Ints:
    return (offsets << ROW_BITS) + rows


def _predictions(batches: Sequence[EventBatch]) -> _Events:
    if not batches:
        none = np.empty(0, np.int64)
        return _Events(none, none, Strings.missing(0), none, Strings.missing(0))
    return _Events(
        np.concatenate([_position(batch.offsets, batch.rows) for batch in batches]),
        np.concatenate([batch.times for batch in batches]),
        Strings.concat([batch.prediction_id for batch in batches]),
        np.concatenate([batch.environment for batch in batches]).astype(np.int64),
        Strings.concat([batch.version for batch in batches]),
    )


def _labels(labels: Sequence[LabelBatch]) -> _Events:
    none = np.empty(0, np.int64)
    if not labels:
        return _Events(none, none, Strings.missing(0), none, Strings.missing(0))
    count = sum(map(len, labels))
    return _Events(
        np.concatenate([_position(label.offsets, label.rows) for label in labels]),
        np.concatenate([label.times for label in labels]),
        Strings.concat([label.prediction_id for label in labels]),
        np.zeros(count, np.int64),
        Strings.missing(count),
    )


def _claim(
    series: Series, verdict: Verdict, clocks: _Clocks, predictions: _Events, labels: _Events
) -> Claim:
    """Put a verdict into its context: the event that decided it, and when the change began."""
    position = (verdict.offset << ROW_BITS) + verdict.row
    row = int(np.searchsorted(predictions.position, position))
    events = predictions
    if row == len(predictions.position) or predictions.position[row] != position:
        events, row = labels, int(np.searchsorted(labels.position, position))
    clock = clocks.predictions_before + _count(clocks.predictions, position)
    kind = _kind(verdict.subject)
    if kind == "concept drift" or verdict.detector in (FEATURES, SAME_AS_LABEL):
        line, number = series.pairs, clocks.pairs_before + _count(clocks.pairs, position)
    else:
        line, number = series.events, clock
    return Claim(
        clock=clock,
        verdict=verdict,
        kind=kind,
        summary=sentences.changed(verdict, is_regression=series.is_regression),
        time=int(events.times[row]),
        started=line.since(verdict, number, (int(events.times[row]), verdict.offset)),
        prediction_id=events.ids[row],
        version=events.version[row],
    )


def _count(positions: Ints, upto: int) -> int:
    """Return how many events stand at `upto` or before."""
    return int(np.searchsorted(positions, upto, side="right"))


def _moment(events: _Events, position: int) -> Moment:
    row = int(np.searchsorted(events.position, position))
    return Moment(
        position >> ROW_BITS,
        position & ((1 << ROW_BITS) - 1),
        int(events.times[row]),
        events.ids[row],
    )


def _kind(subject: str) -> Kind:
    what = subject.removeprefix("missing:").partition(":")[0]
    if what in ("feature", "category", "label", "embedding"):
        return "data drift"
    if what in ("score", "prediction", "logits"):
        return "prediction drift"
    if what in ("error", ESTIMATE) or what in RATES or subject == SURPRISE:
        return "concept drift"
    if what == LEAK:
        return "leakage"
    if what == "gap":
        return "bias"
    return "adversarial input" if what == "client" else "pipeline"
