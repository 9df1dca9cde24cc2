"""Performance of one model: what is kept of each prediction until its label comes, and the cohorts of each environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ..core.batch import EventBatch
from ..core.columns import Floats, Ints, groups, stack, take
from ..core.events import ENVIRONMENTS
from ..core.metric_row import MetricRow, encode
from ..core.snapshot import reading
from ..detectors import gaps
from ..detectors.late_labels import Expected
from ..detectors.late_labels import metrics as corrected
from .cohort_table import Cohort
from .cohorts import LABELS, PREDICTIONS, REVISED, SAID_OTHER, SAID_POSITIVE, Cohorts, Seen
from .groups import ALL, CROSS, Groups
from .join import Correction, Pairs, Predictions
from .model_settings import PerformanceSettings
from .pending import widened
from .score_columns import ScoreColumns

_WAITING: Final = 16_384
"""Events that wait to be counted at most: some 2 MB."""
_ROWS: Final = 50
"""Rows of the series that one commit writes at most: a backlog of labels changes all of them again and again."""

Name = Callable[[float], str]
Beside = Callable[[int, int], Mapping[str, tuple[float, float, float, float]]]
"""What else is told of an environment and the number of its cohort's span."""


class Performance:
    """The cohorts of one model in one partition, by environment, as series for whoever looks.

    Parameters
    ----------
    settings
        The model's.
    window
        Seconds for which labels are joined.
    compared
        Segments, and crossings, of which the gaps between groups are told.
    """

    def __init__(
        self,
        settings: PerformanceSettings,
        window: float = 14 * 86_400.0,
        compared: Sequence[str] = (),
    ) -> None:
        self.settings = settings
        self._compared = [tuple(name.split(CROSS)) for name in compared]
        self._window = window
        self.score_columns = ScoreColumns(settings.positive)
        self.groups = Groups(settings.segments)
        self._cohorts: dict[int, Cohorts] = {}
        self._newest = 0
        self._stored = (-1, -1)
        self._unwritten: dict[tuple[int, Cohort], None] = {}  # in the order in which they changed
        self._gone: list[tuple[int, Cohort]] = []
        self._stale: set[str] = set()  # fields of what could not be read
        self._seen: list[tuple[Seen, Ints]] = []  # with the environment of each, -1 for none
        self._pairs_of: list[Pairs] = []
        self._corrections: list[Correction] = []
        self._waiting = 0  # events of these

    def columns(self, batches: Sequence[EventBatch]) -> tuple[list[Ints], list[Floats]]:
        """Return the (n,) segments and (n, k) scores of each batch, as pairs will bring them back."""
        segments = [self.groups.codes(batch.segments, batch.version) for batch in batches]
        scores = [self.score_columns.of(batch) for batch in batches]
        width = len(self.score_columns)
        for k, found in enumerate(scores):
            if found.shape[1] < width:  # of before it was known what scores are like
                scores[k] = np.full((len(found), width), np.nan)
        return segments, scores

    def add(
        self,
        predictions: Predictions,
        fresh: NDArray[np.bool_],
        pairs: Sequence[Pairs],
        corrections: Sequence[Correction],
    ) -> None:
        """Take events in, to be counted by `flush`: many at once, since a few cost nearly as much as many."""
        codes = predictions.environment.astype(np.int64)
        columns = (getattr(predictions, name) for name in Seen._fields)
        self._seen.append((Seen(*columns), codes if fresh.all() else np.where(fresh, codes, -1)))
        self._pairs_of += pairs
        self._corrections += corrections
        self._waiting += len(fresh) + sum(len(pair.label) for pair in pairs)

    def differences(self, environment: int, pairs: Pairs) -> Floats:
        """Return (n,) how likely each prediction was right, as estimated, less whether it was; see `Estimates`."""
        return self._of(environment).estimates.learn(pairs)

    @property
    def is_full(self) -> bool:
        """Whether so much waits that it should be counted now."""
        return self._waiting >= _WAITING

    def flush(self, regressions: Mapping[int, bool | None]) -> None:
        """Count what waits; `regressions` says of each environment whether its model is a regression."""
        if not self._waiting and not self._corrections:
            return
        width = len(self.score_columns)  # what came before they were known has fewer scores
        seen: dict[int, Seen] = {}
        if self._seen:
            events = [one._replace(scores=widened(one.scores, width)) for one, _ in self._seen]
            whole, environment = stack(events), np.concatenate([codes for _, codes in self._seen])
            for code, rows in groups(environment):
                seen[code] = whole if len(rows) == len(environment) else take(whole, rows)
        pairs: dict[int, Pairs] = {}
        if self._pairs_of:
            both = stack(
                [pair._replace(scores=widened(pair.scores, width)) for pair in self._pairs_of]
            )
            for code, rows in groups(both.environment):
                pairs[code] = both if len(rows) == len(both.label) else take(both, rows)
        corrections: dict[int, list[Correction]] = {}
        for correction in self._corrections:
            one = correction.pair._replace(scores=widened(correction.pair.scores, width))
            code = int(one.environment[0])
            corrections.setdefault(code, []).append(correction._replace(pair=one))
        for code in {**seen, **pairs, **corrections}:
            cohorts = self._of(code)
            cohorts.is_regression = regressions[code]
            cohorts.update(seen.get(code), pairs.get(code), corrections.get(code, ()))
        self._seen, self._pairs_of, self._corrections, self._waiting = [], [], [], 0

    def _of(self, environment: int) -> Cohorts:
        if environment not in self._cohorts:
            self._cohorts[environment] = Cohorts(
                self.settings, self.score_columns, self.groups, self._window
            )
        return self._cohorts[environment]

    @property
    def is_behind(self) -> bool:
        """Whether there is more to write than a commit takes."""
        return bool(self._unwritten)

    def dirty(self) -> dict[str, bytes | None]:
        """Return the fields to store since the last call, None for those to delete; to be called after `flush`."""
        fields: dict[str, bytes | None] = dict.fromkeys(self._stale)
        self._stale = set()
        changes = self.score_columns.changes, self.groups.changes
        if changes != self._stored:
            self._stored = changes
            fields["score_columns"] = self.score_columns.snapshot()
            fields["groups"] = self.groups.snapshot()
        for code, cohorts in self._cohorts.items():
            changed, gone = cohorts.table.changed()
            self._unwritten.update(((code, cohort), None) for cohort in changed)
            for cohort in gone:
                self._unwritten.pop((code, cohort), None)
                self._gone.append((code, cohort))
            fields.update((f"{code}/{name}", f) for name, f in cohorts.dirty(changed, gone).items())
        return fields

    def series(self, name: Name, now: int, beside: Beside | None = None) -> dict[str, bytes | None]:
        """Return what has changed of the series since the last call, as far as one commit takes it; None for what is gone.

        To be called after `dirty`. `name` returns the name of a class by its number, `now` is the time of the latest
        prediction, ns since 1970; `beside` what goes into the rows of all predictions.
        """
        found: dict[str, bytes | None] = {}
        span = int(self.settings.cohort * 1e9)
        if now // span > self._newest // span:  # what is told of all depends on their age
            self._write_all()
        self._newest = now
        for code, cohort in self._gone:
            found[self._field(code, cohort.span, self.groups.name(cohort.group))] = None
            if cohort.group == ALL:
                gaps = (self._field(code, cohort.span, name) for name, _ in self._pairs(code))
                found.update((field, None) for field in gaps)
        self._gone = []
        rows = list(self._unwritten)[:_ROWS]
        expected = self._expected({(code, cohort.group) for code, cohort in rows}, now)
        for code, cohort in rows:
            del self._unwritten[code, cohort]
            row = self._cohorts[code].table.get(cohort)
            if row is not None:
                of = expected.get((code, cohort.group), {}).get(cohort.span)
                told = self._row(code, cohort, row, name, of)
                if beside is not None and cohort.group == ALL:
                    told = replace(told, metrics={**told.metrics, **beside(code, cohort.span)})
                found[self._field(code, cohort.span, told.group)] = encode(told)
        spans = {(code, cohort.span) for code, cohort in rows if self._compared}
        for code, span in sorted(spans):
            for told in self._gaps(code, span):
                found[self._field(code, span, told.group)] = encode(told)
        return found

    def _expected(
        self, groups: set[tuple[int, int]], now: int
    ) -> dict[tuple[int, int], dict[int, Expected]]:
        """Return by environment and group what cohorts are expected to be once their labels are there."""
        curves = {code: self._cohorts[code].curves(now) for code, _ in groups}
        return {
            (code, group): self._cohorts[code].expected(group, of, now)
            for code, group in groups
            if (of := curves[code]) is not None
        }

    def _field(self, environment: int, span: int, group: str) -> str:
        begin = span * self._cohorts[environment].table.span
        return f"{ENVIRONMENTS[environment]}|{_time(begin)}|{group}"

    def _pairs(self, environment: int) -> list[tuple[str, tuple[list[int], list[int]]]]:
        """Return the names of what is compared, and the groups on either side."""
        known = self._cohorts[environment].table.groups
        found: list[tuple[str, tuple[list[int], list[int]]]] = []
        for names in self._compared:
            groups = {
                self.groups.value(group, names): group
                for group in known
                if group != ALL and int(self.groups.group(np.array([group]), names)[0]) == group
            }
            for a, b in gaps.compared(list(groups)):
                others = [group for value, group in groups.items() if value != a]
                sides = [groups[a]], others if b is None else [groups[b]]
                found.append((f"{','.join(names)}={a}|{'rest' if b is None else b}", sides))
        return found

    def _gaps(self, environment: int, span: int) -> Iterator[MetricRow]:
        """Yield the gaps between groups in a cohort; of two classes, or one against all others."""
        cohorts = self._cohorts[environment]
        for name, sides in self._pairs(environment):
            both = [
                sum((row for group in side if (row := cohorts.table.get(Cohort(span, group))) is not None),
                    start=np.zeros(cohorts.table.counts.shape[1], np.int64))
                for side in sides
            ]  # fmt: skip
            if cohorts.is_regression or not all(row[PREDICTIONS] for row in both):
                continue
            said = [(int(r[SAID_POSITIVE]), int(r[SAID_POSITIVE] + r[SAID_OTHER])) for r in both]
            a, b = (cohorts.binary(row) for row in both)
            found = gaps.gaps(a, b, (said[0], said[1]))
            predictions, labels = (int(sum(r[k] for r in both)) for k in (PREDICTIONS, LABELS))
            of: dict[str, tuple[float, float, float, float]]
            of = {f"gap:{key}": metric for key, metric in found.items()}
            yield MetricRow(
                environment=ENVIRONMENTS[environment],
                group=name,
                begin=_time(span * cohorts.table.span),
                end=_time((span + 1) * cohorts.table.span),
                predictions=predictions,
                labels=labels,
                label_coverage_ratio=labels / predictions,
                closed=False,
                revised=0,
                metrics=of,
            )

    def _row(
        self,
        environment: int,
        cohort: Cohort,
        row: Ints,
        name: Name,
        expected: Expected | None,
    ) -> MetricRow:
        """Return a row of the series."""
        cohorts = self._cohorts[environment]
        span = cohorts.table.span
        end = (cohort.span + 1) * span
        predictions, labels = int(row[PREDICTIONS]), int(row[LABELS])
        coverage = labels / predictions if predictions else 0.0
        is_old = self._newest - end > self.settings.close_after * 1e9
        return MetricRow(
            environment=ENVIRONMENTS[environment],
            group=self.groups.name(cohort.group),
            begin=_time(cohort.span * span),
            end=_time(end),
            predictions=predictions,
            labels=labels,
            label_coverage_ratio=coverage,
            closed=is_old or (self._newest >= end and coverage >= self.settings.close_coverage),
            revised=int(row[REVISED]),
            positive=cohorts.positive_name(name),
            metrics={**cohorts.figures(cohorts.with_rule(cohort, row, self._newest), name)},
            estimated={**cohorts.estimated(row)},
            corrected={}
            if expected is None
            else {
                **corrected(
                    expected, unlabelled_are_negative=self.settings.unlabelled == "negative"
                )
            },
        )

    def restore(self, fields: dict[str, bytes], own: dict[int, dict[str, bytes]]) -> None:
        """Go on from the model's stored fields and those of each environment, of an object that is new.

        Raises
        ------
        StateError
            A field is damaged or missing; this object is to be thrown away then.
        """
        if not {"groups", "score_columns"} & set(fields) and not any(own.values()):
            return
        with reading("performance"):
            self.score_columns.restore(fields["score_columns"])
            self.groups.restore(fields["groups"])
            for code, of in own.items():
                if of:
                    self._of(code).restore(of)
        self._stored = self.score_columns.changes, self.groups.changes
        self._write_all()

    def replace(self, own: dict[int, dict[str, bytes]]) -> None:
        """Delete the stored fields of each environment with the next ones: they could not be read."""
        self._stale = {f"{code}/{name}" for code, of in own.items() for name in of}

    def _write_all(self) -> None:
        for code, cohorts in self._cohorts.items():
            self._unwritten.update(((code, cohort), None) for cohort, _ in cohorts.table.cohorts())


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).isoformat()
