"""One model in one partition: its classes, its join, and a series for each environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..core.alert import Alert, Kind
from ..core.batch import EventBatch, LabelBatch
from ..core.columns import Ints, Strings
from ..core.errors import StateError
from ..core.events import ENVIRONMENTS
from ..core.snapshot import pack, unpack
from ..core.verdict import Verdict
from .class_numbers import ClassNumbers
from .incidents import Claim, Moment
from .join import Join, Labels, Pairs, Predictions
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

    def update(
        self, batches: Sequence[EventBatch], labels: Sequence[LabelBatch]
    ) -> list[Alert]:
        """Take events in, in the order of the log; return the alerts that they raise."""
        verdicts: dict[int, list[Verdict]] = {}
        before = {code: series.events.count for code, series in self._series.items()}
        for batch in batches:
            for code in np.unique(batch.environment).tolist():
                rows = np.flatnonzero(batch.environment == code)
                part = batch if len(rows) == len(batch) else batch.take(rows)
                verdicts.setdefault(code, []).extend(self._of(code).observe(part))
        for code, found in self._judge(batches, labels).items():
            verdicts.setdefault(code, []).extend(found)
        if not any(verdicts.values()) and not any(s.incidents.open for s in self._series.values()):
            return []
        events = _predictions(batches), _labels(labels)
        return [
            alert
            for code, series in self._series.items()
            for alert in self._alerts(
                code, series, before.get(code, 0), verdicts.get(code, []), *events
            )
        ]

    def _of(self, environment: int) -> Series:
        if environment not in self._series:
            self._series[environment] = Series(
                self.model, ENVIRONMENTS[environment], self.partition, self.settings
            )
        return self._series[environment]

    def _judge(
        self, batches: Sequence[EventBatch], labels: Sequence[LabelBatch]
    ) -> dict[int, list[Verdict]]:
        """Join labels to predictions and run what watches errors; verdicts by environment."""
        pairs, corrections = self.join.update(
            self._join_predictions(batches), self._join_labels(batches, labels)
        )
        found: dict[int, list[Verdict]] = {}
        for pair in pairs:
            for code in np.unique(pair.environment).tolist():
                of = np.flatnonzero(pair.environment == code)
                part = pair if len(of) == len(pair.place) else Pairs(*(c[of] for c in pair))
                found.setdefault(code, []).extend(self._of(code).judge(part))
        for correction in corrections:
            self._of(correction.environment).correct(correction)
        return found

    def _join_predictions(self, batches: Sequence[EventBatch]) -> Predictions:
        if not batches:
            none = np.empty(0, np.int64)
            return Predictions(
                Strings.missing(0), none, none, none, np.empty(0, np.uint8), np.empty(0)
            )
        return Predictions(
            Strings.concat([batch.prediction_id for batch in batches]),
            np.concatenate([batch.offsets for batch in batches]),
            np.concatenate([batch.rows for batch in batches]),
            np.concatenate([batch.times for batch in batches]),
            np.concatenate([batch.environment for batch in batches]),
            np.concatenate([self._classes.numbers(batch.prediction) for batch in batches]),
        )

    def _join_labels(
        self, batches: Sequence[EventBatch], labels: Sequence[LabelBatch]
    ) -> Labels:
        """Return the labels, those that came with their predictions among them."""
        parts = [
            Labels(
                label.prediction_id, label.offsets, label.rows, label.times,
                self._classes.numbers(label.label), label.revision,
            )
            for label in labels
        ]  # fmt: skip
        for batch in batches:
            known = np.flatnonzero(batch.label.present)
            if len(known):
                parts.append(
                    Labels(
                        batch.prediction_id.take(known), batch.offsets[known], batch.rows[known],
                        batch.times[known], self._classes.numbers(batch.label.take(known)),
                        np.zeros(len(known), np.int64),
                    )  # fmt: skip
                )
        if not parts:
            none = np.empty(0, np.int64)
            return Labels(Strings.missing(0), none, none, none, np.empty(0), none)
        joined = Labels(
            Strings.concat([part.ids for part in parts]),
            *(np.concatenate([part[k] for part in parts]) for k in range(1, 6)),
        )
        if len(parts) == 1:
            return joined
        order = np.lexsort((joined.rows, joined.offsets))
        return Labels(joined.ids.take(order), *(column[order] for column in joined[1:]))

    def _alerts(
        self,
        code: int,
        series: Series,
        clock: int,
        verdicts: list[Verdict],
        predictions: _Events,
        labels: _Events,
    ) -> list[Alert]:
        """Feed verdicts, and the ends of incidents between them, to the incidents in their order."""
        own = predictions.position[predictions.environment == code]
        alerts: list[Alert] = []

        def end(upto: int) -> None:
            while (due := series.incidents.due(upto)) is not None:
                moment = _moment(predictions, int(own[due - clock - 1]))
                alerts.extend(series.incidents.end(due, moment))

        for verdict in sorted(verdicts, key=lambda v: (v.offset, v.row, v.subject, v.detector)):
            position = (verdict.offset << ROW_BITS) + verdict.row
            at = clock + int(np.searchsorted(own, position, side="right"))
            end(at)
            claim = self._claim(series, verdict, at, position, predictions, labels)
            opened = series.incidents.claim(claim)
            if opened is not None:
                alerts.append(opened)
        end(clock + len(own))
        return alerts

    def _claim(
        self,
        series: Series,
        verdict: Verdict,
        clock: int,
        position: int,
        predictions: _Events,
        labels: _Events,
    ) -> Claim:
        events = predictions if position in _at(predictions, position) else labels
        row = int(np.searchsorted(events.position, position))
        kind = _kind(verdict.subject)
        line = series.pairs if kind == "concept drift" else series.events
        delay = verdict.delay_events
        begin = None if delay is None else line.at(max(0, line.count - delay))
        return Claim(
            clock=clock,
            verdict=verdict,
            kind=kind,
            summary=_summary(verdict, series),
            time=int(events.times[row]),
            started=begin,
            prediction_id=events.ids[row],
            version=events.version[row],
        )

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return the latest figures by environment."""
        counts = {name: float(getattr(self.join.counts, name)) for name in _COUNTS}
        counts["pending"] = float(len(self.join.table))
        seen = counts["predictions"] - counts["predictions_repeated"]
        counts["label_coverage_ratio"] = counts["labels_joined"] / seen if seen else 0.0
        return {
            ENVIRONMENTS[code]: series.metrics() | counts for code, series in self._series.items()
        }

    def dirty(self) -> Fields:
        """Return the fields that changed since the last call, None for those to delete."""
        head = pack("model", 1, {"classes": self._classes.names}, {})
        fields: Fields = {"model": head, "join": self.join.volatile()}
        fields.update(
            (f"pending/{name}", state) for name, state in self.join.table.dirty().items()
        )
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
            meta: dict[str, Any] = unpack("model", 1, groups[""]["model"])[0]
            self._classes = ClassNumbers(meta["classes"])
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


def _at(events: _Events, position: int) -> Ints:
    at = np.searchsorted(events.position, position)
    return events.position[at : at + 1]


def _moment(events: _Events, position: int) -> Moment:
    row = int(np.searchsorted(events.position, position))
    return Moment(
        position >> ROW_BITS,
        position & ((1 << ROW_BITS) - 1),
        int(events.times[row]),
        events.ids[row],
    )


def _kind(subject: str) -> Kind:
    if subject.startswith("feature:"):
        return "data drift"
    if subject in ("score", "prediction"):
        return "prediction drift"
    if subject == "error":
        return "concept drift"
    return "adversarial input" if subject.startswith("client:") else "pipeline"


def _summary(verdict: Verdict, series: Series) -> str:
    """Return one line for people."""
    subject = verdict.subject
    delay = verdict.delay_events
    seen = f", seen {delay} events after it began" if delay else ""
    before, now = verdict.reference, verdict.current
    if before is None or now is None or before.mean is None or now.mean is None:
        return f"{subject}: {verdict.evidence}"
    if subject.startswith("client:"):
        return (
            f"{subject.removeprefix('client:')}: {round(now.mean * now.count)} of its last "
            f"{now.count} inputs suspicious (usual {before.mean:.1%})"
        )
    if subject == "error" and not series.is_regression:
        return (
            f"accuracy {1 - before.mean:.2f} -> {1 - now.mean:.2f} on the last {now.count} "
            f"labels{seen}"
        )
    if subject == "error":
        return f"absolute error {before.mean:.4g} -> {now.mean:.4g}{seen}"
    return f"{subject.removeprefix('feature:')}: mean {before.mean:.4g} -> {now.mean:.4g}{seen}"
