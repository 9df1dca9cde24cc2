"""One model in one partition: its classes, its join, and a series for each environment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..core.alert import Alert, Kind
from ..core.batch import EventBatch, LabelBatch
from ..core.columns import Floats, Ints, Strings, groups, stack, take
from ..core.errors import StateError
from ..core.events import ENVIRONMENTS
from ..core.verdict import Verdict
from ..detectors.natural_size import SURPRISE
from .class_numbers import ClassNumbers
from .incidents import Claim, Moment
from .join import Join, Labels, Predictions
from .series import Fields, Series
from .settings import ModelSettings

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
        labels = settings.labels
        self.join = Join(labels.max_pending, labels.window, labels.early, labels.max_early)
        self._classes = ClassNumbers()
        self._series: dict[int, Series] = {}

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
            for code, rows in groups(batch.environment):
                part = batch if len(rows) == len(batch) else batch.take(rows)
                verdicts.setdefault(code, []).extend(self._of(code).observe(part, predicted[rows]))
        pairs: dict[int, list[Ints]] = {}
        for code, place, found in self._judge(batches, classes, labels):
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
                self.model, ENVIRONMENTS[environment], self.partition, self.settings
            )
        return self._series[environment]

    def _judge(
        self, batches: Sequence[EventBatch], classes: list[Floats], labels: Sequence[LabelBatch]
    ) -> Iterator[tuple[int, Ints, list[Verdict]]]:
        """Join labels to predictions and run what watches errors.

        Yields an environment, the positions of new pairs and what is claimed about them.
        """
        pairs, corrections = self.join.update(
            self._join_predictions(batches, classes), self._join_labels(labels)
        )
        for pair in pairs:
            for code, of in groups(pair.environment):
                part = pair if len(of) == len(pair.place) else take(pair, of)
                yield code, _position(part.offsets, part.rows), self._of(code).judge(part)
        for correction in corrections:
            self._of(correction.environment).correct(correction)

    def _join_predictions(
        self, batches: Sequence[EventBatch], classes: list[Floats]
    ) -> Predictions:
        if not batches:
            none = np.empty(0, np.int64)
            nan = np.empty(0)
            return Predictions(
                Strings.missing(0), none, none, none, np.empty(0, np.uint8), nan, nan
            )
        return Predictions(
            Strings.concat([batch.prediction_id for batch in batches]),
            np.concatenate([batch.offsets for batch in batches]),
            np.concatenate([batch.rows for batch in batches]),
            np.concatenate([batch.times for batch in batches]),
            np.concatenate([batch.environment for batch in batches]),
            np.concatenate(classes),
            np.concatenate([self._classes.numbers(batch.label) for batch in batches]),
        )

    def _join_labels(self, labels: Sequence[LabelBatch]) -> Labels:
        if not labels:
            none = np.empty(0, np.int64)
            return Labels(Strings.missing(0), none, none, none, np.empty(0), none)
        return stack(
            [
                Labels(
                    label.prediction_id, label.offsets, label.rows, label.times,
                    self._classes.numbers(label.label), label.revision,
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
            claim = _claim(series, verdict, clocks, predictions, labels)
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
        try:
            self.join.restore(groups[""]["join"], groups.get("pending", {}))
        except (KeyError, StateError) as error:
            lost.append(f"join: {error}")
        for code in range(len(ENVIRONMENTS)):
            if str(code) in groups:
                lost += self._of(code).restore(groups[str(code)])
        return lost


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
    if kind == "concept drift":
        line, number = series.pairs, clocks.pairs_before + _count(clocks.pairs, position)
    else:
        line, number = series.events, clock
    return Claim(
        clock=clock,
        verdict=verdict,
        kind=kind,
        summary=_summary(verdict, series),
        time=int(events.times[row]),
        started=line.since(verdict, number),
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
    if what == "error" or subject == SURPRISE:
        return "concept drift"
    return "adversarial input" if what == "client" else "pipeline"


def _summary(verdict: Verdict, series: Series) -> str:
    """Return one line for people."""
    subject = verdict.subject
    delay = verdict.delay_events
    seen = f", detected {delay} events after it began" if delay else ""
    if verdict.chance_events:
        seen += f"; by chance once in {verdict.chance_events:.1g} events"
    before, now = verdict.reference, verdict.current
    name = subject.removeprefix("feature:").removeprefix("category:")
    if before is None or now is None:
        return f"{name}: {verdict.change} {verdict.evidence}"
    if before.mean is None or now.mean is None:
        return f"{name}: {verdict.change or verdict.evidence}{seen}"
    if subject.startswith("client:"):
        return (
            f"{subject.removeprefix('client:')}: {round(now.mean * now.count)} of its last "
            f"{now.count} inputs suspicious (usual {before.mean:.1%})"
        )
    if subject.startswith("missing:"):
        what = subject.removeprefix("missing:").partition(":")[2] or subject
        return f"{what}: missing in {before.mean:.1%} -> {now.mean:.1%} of events{seen}"
    if subject == "error" and not series.is_regression:
        return (
            f"accuracy {1 - before.mean:.2f} -> {1 - now.mean:.2f} on the last {now.count} "
            f"labels{seen}"
        )
    if subject == "error":
        return f"absolute error {before.mean:.4g} -> {now.mean:.4g}{seen}"
    if verdict.change in ("scale up", "scale down", "shape") and before.std and now.std:
        return f"{name}: {verdict.change}, spread {before.std:.4g} -> {now.std:.4g}{seen}"
    change = f"{verdict.change}, " if verdict.change else ""
    sigmas = f" ({verdict.size_sigmas:+.1f} sigmas)" if verdict.size_sigmas is not None else ""
    return f"{name}: {change}mean {before.mean:.4g} -> {now.mean:.4g}{sigmas}{seen}"
