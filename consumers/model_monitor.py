"""One model in one partition: its classes, its join, and a series for each environment."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from ..core.alert import Alert
from ..core.batch import EventBatch, LabelBatch
from ..core.columns import Floats, Ints, Strings, Values, groups, stack, take
from ..core.errors import StateError
from ..core.events import ENVIRONMENTS
from ..core.snapshot import reading
from ..core.verdict import Verdict
from . import trained_model, trained_performance
from .claims import (
    ROW_BITS,
    Clocks,
    Events,
    claim_of,
    count_upto,
    events_of,
    labels_of,
    moment_of,
    position_of,
)
from .class_names import EARLY_LABEL, LABEL, PREDICTION, ClassNames
from .class_numbers import ClassNumbers
from .cohorts import FIELDS
from .environments import EnvironmentGaps
from .estimators import Seen
from .feature_leaks import FeatureLeaks
from .join import Join, Labels, Pairs, Predictions
from .label_watch import Looked
from .model_settings import ModelSettings
from .performance import Performance
from .series import Fields, Series
from .trained_estimates import given
from .training_rows import read
from .versions import names_of

_log = logging.getLogger(__name__)

_BETWEEN = -1
"""In the place of an environment's code: what is about several of them."""


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
        reference = settings.drift.reference
        self._training = None if reference is None else read(reference)
        of_model = None if reference is None else trained_model.read(reference)
        self._trained_version = of_model and of_model.version
        self._kinds = 0 if self._training is None else len(self._training.laws)
        self.join = self._new_join()
        self._classes = ClassNumbers()
        self._names = ClassNames()
        self._names_stored = -1
        self.is_told_otherwise = False
        """Whether the series may have rows of cohorts, segments or gaps of other settings than these."""
        self._series: dict[int, Series] = {}
        self.performance = self._new_performance()
        self._between = self._new_between()
        self._leaks = FeatureLeaks(model, settings)

    def _new_join(self) -> Join:
        labels = self.settings.labels
        return Join(labels.max_pending, labels.window, labels.early, labels.max_early)

    def _new_performance(self) -> Performance:
        of, reference = self.settings, self.settings.drift.reference
        expected = {} if reference is None else trained_performance.read(reference)
        return Performance(
            of.performance, of.labels.window, of.bias, self._training, given(of), expected
        )

    def _new_between(self) -> EnvironmentGaps | None:
        """Return what compares environments, where that is asked for."""
        if not self.settings.bias.between:
            return None
        return EnvironmentGaps(
            self.model, self.partition, self.settings, self.performance.score_columns,
            self.performance.groups,
        )  # fmt: skip

    def update(self, batches: Sequence[EventBatch], labels: Sequence[LabelBatch]) -> list[Alert]:
        """Take events in, in the order of the log; return the alerts that they raise."""
        verdicts: dict[int, list[Verdict]] = {}
        for series in self._told():
            series.events.trim()
            series.pairs.trim()
        before = {code: series.events.count for code, series in self._series.items()}
        pairs_before = {code: series.pairs.count for code, series in self._series.items()}
        between = self._between
        if between is not None:
            before[_BETWEEN], pairs_before[_BETWEEN] = between.events.count, between.pairs.count
        classes = [self._classes.numbers(batch.prediction) for batch in batches]
        for batch, predicted in zip(batches, classes, strict=True):
            self._look_at_version(batch)
            self._names.add(PREDICTION, predicted, batch.prediction.strings)
        segments, scores = self.performance.columns(batches, classes)
        met = [self._met(batch) for batch in batches]
        begin = 0
        for batch, predicted, codes in zip(batches, classes, met, strict=True):
            for code, rows in groups(batch.environment):
                part = batch if len(rows) == len(batch) else batch.take(rows)
                series = self._of(code)
                found = series.observe(part, predicted[rows], codes[rows])
                verdicts.setdefault(code, []).extend(found)
                self._leaks.observe(code, part, series, begin + rows)
            begin += len(batch)
        pairs: dict[int, list[Ints]] = {}
        new = self._join_predictions(batches, classes, segments, scores, met)
        for code, place, found in self._judge(new, labels):
            verdicts.setdefault(code, []).extend(found)
            pairs.setdefault(code, []).append(place)
        if not any(verdicts.values()) and not any(s.incidents.open for s in self._told()):
            return []
        predictions, known = events_of(batches), labels_of(labels)
        alerts: list[Alert] = []
        if between is not None:
            all_pairs = np.concatenate([*pairs.get(_BETWEEN, ()), predictions.position[:0]])
            clocks = Clocks(
                before[_BETWEEN], predictions.position, pairs_before[_BETWEEN], all_pairs
            )
            alerts += self._alerts(between, clocks, verdicts.get(_BETWEEN, []), predictions, known)
        for code, series in self._series.items():
            of = predictions.position[predictions.environment == code]
            clocks = Clocks(
                before.get(code, 0), of, pairs_before.get(code, 0),
                np.concatenate([*pairs.get(code, ()), of[:0]]),
            )  # fmt: skip
            alerts += self._alerts(series, clocks, verdicts.get(code, []), predictions, known)
        return alerts

    def _met(self, batch: EventBatch) -> Ints:
        """Return (n, k) what each prediction has met of training; (n, 0) where that is not known."""
        if self._training is None or not self._kinds:
            return np.empty((len(batch), 0), np.int64)
        return self._training.codes(batch)

    def _look_at_version(self, batch: EventBatch) -> None:
        """Say once that events are of another version than training."""
        if self._trained_version is None:
            return
        for version in names_of(batch.version):
            if version != self._trained_version:
                _log.warning(
                    "events are of another version than drift.reference: their embeddings and logits are not compared with it, all else is",
                    extra={"model": self.model, "expected": self._trained_version, "found": version},
                )  # fmt: skip
                self._trained_version = None
                return

    def _told(self) -> list[Series | EnvironmentGaps]:
        """Return all that has incidents."""
        return [*self._series.values(), *([] if self._between is None else [self._between])]

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
        self.performance.add(predictions, self.join.fresh, pairs, corrections, self.join.paired)
        looked: dict[int, list[Looked]] = {}
        for look in self.join.looked:
            for code, of in groups(look.environment):
                every = len(of) == len(look.times)
                looked.setdefault(code, []).append(look if every else look.take(of))
        for code, found in self._leaks.update(self.join, pairs, self._of):
            yield code, np.empty(0, np.int64), found
        for pair in pairs:
            for code, of in groups(pair.environment):
                part = pair if len(of) == len(pair.place) else take(pair, of)
                position = position_of(part.offsets, part.rows)
                found = self._watch(code, part, position, looked.pop(code, []))
                yield code, position, found + self._of(code).compare(part)
        for code, looks in looked.items():
            found = [verdict for look in looks for verdict in self._of(code).follow(look)]
            yield code, np.empty(0, np.int64), found
        for correction in corrections:
            self._of(int(correction.pair.environment[0])).correct(correction)
        if self._between is not None:
            regressions = {code: series.is_regression for code, series in self._series.items()}
            found = self._between.update(predictions, self.join.fresh, pairs, regressions)
            yield from ((_BETWEEN, position_of(pair.offsets, pair.rows), []) for pair in pairs)
            yield _BETWEEN, np.empty(0, np.int64), found
        if self.settings.bias.within:
            for code, of in groups(np.where(self.join.fresh, predictions.environment, 255)):
                if code < len(ENVIRONMENTS):
                    events = Seen(*(getattr(predictions, name)[of] for name in Seen._fields))
                    yield code, np.empty(0, np.int64), self._of(code).compare(events)
        if self.performance.is_full:
            self._count()

    def _watch(self, code: int, pairs: Pairs, position: Ints, looks: list[Looked]) -> list[Verdict]:
        """Run what watches errors over pairs of one environment, and over predictions of an age where these are looked at."""
        series = self._of(code)
        differences = self.performance.differences(code, pairs, is_regression=series.is_regression)
        found: list[Verdict] = []
        begin = 0
        for look in looks:
            end = count_upto(position, (look.offset << ROW_BITS) + look.row)
            if end > begin:
                rows = slice(begin, end)
                found += series.judge(take(pairs, rows), differences[rows])
            found += series.follow(look)
            begin = end
        rest = slice(begin, None)
        if begin < len(position):
            found += series.judge(take(pairs, rest) if begin else pairs, differences[rest])
        return found

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
        met: list[Ints],
    ) -> Predictions:
        if not batches:
            none = np.empty(0, np.int64)
            nan = np.empty(0)
            return Predictions(
                Strings.missing(0), none, none, none, np.empty(0, np.uint8), nan, nan,
                none, np.empty((0, 0)), np.empty((0, self._kinds), np.int64),
            )  # fmt: skip
        return stack(
            [
                Predictions(
                    batch.prediction_id, batch.offsets, batch.rows, batch.times, batch.environment,
                    classes[i], self._label_numbers(EARLY_LABEL, batch.label), segments[i],
                    scores[i], met[i],
                )
                for i, batch in enumerate(batches)
            ]
        )  # fmt: skip

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
        series: Series | EnvironmentGaps,
        clocks: Clocks,
        verdicts: list[Verdict],
        predictions: Events,
        labels: Events,
    ) -> list[Alert]:
        """Feed verdicts, and the ends of incidents between them, to the incidents in their order."""
        alerts: list[Alert] = []

        def end(upto: int) -> None:
            before = clocks.predictions_before
            while upto > before and (due := series.incidents.due(upto)) is not None:
                # What was due earlier, by settings that changed meanwhile, ends with the next prediction.
                position = int(clocks.predictions[max(due - before, 1) - 1])
                alerts.extend(series.incidents.end(due, moment_of(predictions, position)))

        for verdict in sorted(verdicts, key=lambda v: (v.offset, v.row, v.subject, v.detector)):
            claim = claim_of(
                series, self._names.tell(series.environment, verdict), clocks, predictions, labels,
                self.join.watch.age,
            )  # fmt: skip
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
        if self.performance.groups.unusable:
            counts["unusable_segments"] = float(self.performance.groups.unusable)
        counts["label_coverage_ratio"] = counts["labels_joined"] / seen if seen else 0.0
        found = {
            ENVIRONMENTS[code]: counts | series.metrics() for code, series in self._series.items()
        }
        if self._between is not None and found:  # told of production, as its alerts are
            first = found.get(self._between.environment, next(iter(found.values())))
            first |= self._between.bias.figures()
            first["open_incidents"] += self._between.incidents.open
            first["detectors_set_aside"] += len(self._between.broken)
        return found

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
        if self._between is not None and (state := self._between.dirty()) is not None:
            fields["environments"] = state
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
            self.performance.begin_at(self.join.table.count)
        if not is_joined:
            self.performance.begin_at(0)
        self.is_told_otherwise = not self.performance.is_told_by(groups.get("", {}))
        for code, of in own.items():
            lost += self._of(code).restore(of)
            if leaks := self._leaks.restore(code, of, is_joined=is_joined):
                self._of(code).incidents.let_go("leakage")
                lost += leaks
        self._between = self._new_between()
        if self._between is not None and "environments" in fields:
            try:
                self._between.restore(fields["environments"])
            except StateError as error:
                lost.append(f"environments: {error}")
                self._between = self._new_between()
        return lost

    def series(self) -> dict[str, bytes | None]:
        """Return what has changed of performance by cohort; to be called after `dirty`."""
        return self.performance.series(self._names.namer(), self.join.watermark, self._leaks.told)


_COUNTS = (
    "predictions", "predictions_repeated", "predictions_expired", "labels", "labels_joined",
    "labels_repeated", "labels_corrected", "labels_early", "labels_late", "labels_unmatched",
)  # fmt: skip
