"""Performance of one model: what is kept of each prediction until its label comes, and the cohorts of each environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..core.batch import EventBatch
from ..core.columns import Floats, Ints, groups, stack, take
from ..core.events import ENVIRONMENTS
from ..core.metric_row import MetricRow, encode
from ..core.snapshot import reading
from ..detectors import gaps
from ..detectors.late_labels import Expected
from ..detectors.late_labels import metrics as corrected
from .bias import crossings
from .class_numbers import numbers_only
from .cohort_table import Cohort
from .cohorts import LABELS, PREDICTIONS, REVISED, SAID_OTHER, SAID_POSITIVE, Cohorts
from .environments import EnvironmentGroups, coded
from .estimators import LOSSES, Seen
from .groups import ALL, Groups
from .join import Correction, Pairs, Predictions
from .model_settings import ENVIRONMENT, BiasSettings, PerformanceSettings
from .pending import widened
from .score_columns import ScoreColumns
from .trained_estimates import Given
from .training_rows import SERVED, TrainingRows

_WAITING: Final = 16_384
"""Events that wait to be counted at most: some 2 MB."""
_ROWS: Final = 50
"""Rows of the series that one commit writes at most: a backlog of labels changes all of them again and again."""
_PAUSE: Final = 4
"""Commits that write none while events keep coming: a row is the same work whatever has changed in it. What is gone is deleted
at once, since a restarted worker knows nothing of it."""

_HALF_WIDTH: Final = 0.05
"""A gap between groups is judged where either rate is known within so much: 381 events, see `gaps.events_needed`."""

Name = Callable[[float], str]
_Side = tuple[int, list[int]]  # an environment, and groups in it


class Performance:
    """The cohorts of one model in one partition, by environment, as series for whoever looks.

    Parameters
    ----------
    settings
        The model's.
    window
        Seconds for which labels are joined.
    bias
        Which segments, and crossings, have the gaps between their groups told, and what gap is nobody's concern: within that,
        0.05 at least, a rate must be known for its gap to be judged.
    training
        What is known of the rows of training, where it is known.
    given
        Estimates that were learned with training.
    """

    def __init__(
        self,
        settings: PerformanceSettings,
        window: float = 14 * 86_400.0,
        bias: BiasSettings | None = None,
        training: TrainingRows | None = None,
        given: Given | None = None,
    ) -> None:
        self.settings = settings
        bias = bias or BiasSettings()
        self._compared = crossings(bias.within)
        self._between = crossings(bias.between)
        self._half_width = min(max(bias.epsilon, _HALF_WIDTH), 0.49)
        self._window = window
        self._training = training
        self._given = given
        self._of_features = given if given and given.is_regression and given.names else None
        self.score_columns = ScoreColumns(settings.positive)
        self.groups = Groups(settings.segments)
        self._cohorts: dict[int, Cohorts] = {}
        self._newest = 0
        self._stored = (-1, -1)
        self._unwritten: dict[tuple[int, Cohort], None] = {}  # in the order in which they changed
        self._outdated: dict[tuple[int, Cohort], None] = {}  # by what has changed in others
        self._outdating: set[int] = set()  # environments all of whose rows are
        self._is_busy = False  # something was counted since rows were asked for
        self._told_by: dict[int, tuple[int, ...]] = {}  # what all rows of an environment depend on
        self._told_of: dict[int, list[str]] = {}  # what is compared
        self._dropped: list[str] = []  # fields of what is compared no more
        self._gone: list[tuple[int, Cohort]] = []
        self._stale: set[str] = set()  # fields of what could not be read
        self._pause = 0
        self._seen: list[tuple[Seen, Ints]] = []  # with the environment of each, -1 for none
        self._pairs_of: list[Pairs] = []
        self._corrections: list[Correction] = []
        self._waiting = 0  # events of these

    @property
    def _width(self) -> int:
        """How many scores a prediction has."""
        return LOSSES if self._of_features else len(self.score_columns)

    def columns(
        self, batches: Sequence[EventBatch], classes: Sequence[Floats]
    ) -> tuple[list[Ints], list[Floats]]:
        """Return the (n,) segments and (n, k) scores of each batch, as pairs will bring them back.

        `classes` are the (n,) predictions. Of a regression whose losses follow from features these losses stand for scores:
        the features themselves are not kept until the label comes.
        """
        segments = [self.groups.codes(batch.segments, batch.version) for batch in batches]
        if (of := self._of_features) is not None:
            return segments, [
                of.losses(batch, numbers_only(predicted))
                for batch, predicted in zip(batches, classes, strict=True)
            ]
        scores = [self.score_columns.of(batch) for batch in batches]
        width = self._width
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

    def differences(self, environment: int, pairs: Pairs, *, is_regression: bool | None) -> Floats:
        """Return (n,) what was estimated of each prediction less what came, NaN where that is not known; see `Estimates`."""
        return self._of(environment).estimates.learn(pairs, is_regression=is_regression)

    @property
    def is_full(self) -> bool:
        """Whether so much waits that it should be counted now."""
        return self._waiting >= _WAITING

    def flush(self, regressions: Mapping[int, bool | None]) -> None:
        """Count what waits; `regressions` says of each environment whether its model is a regression."""
        if not self._waiting and not self._corrections:
            return
        width = self._width  # what came before they were known has fewer scores
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
            training = self._training if environment in SERVED else None
            self._cohorts[environment] = Cohorts(
                self.settings, self.score_columns, self.groups, self._window, training, self._given
            )
        return self._cohorts[environment]

    @property
    def is_behind(self) -> bool:
        """Whether there is more to write than was written."""
        return bool(self._unwritten or self._outdated or self._outdating)

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
            if changed or gone:
                self._is_busy = True
                self._depend(code, gone)
        if self._between and self._is_busy:  # others may have a group more to be compared with
            for code in self._cohorts:
                self._depend(code, [])
        return fields

    def _depend(self, code: int, gone: list[Cohort]) -> None:
        """Note which rows are told otherwise now, although nothing was counted in them."""
        cohorts = self._cohorts[code]
        compared = len(cohorts.table.groups) if self._compared else 0
        if self._between:
            compared += sum(len(of.table.groups) for of in self._cohorts.values())
        of_scores = self.score_columns.changes
        basis = len(cohorts.classes), int(bool(cohorts.is_regression)), of_scores, compared
        if basis != self._told_by.get(code):
            self._told_by[code] = basis
            self._write_all(code)
            before, self._told_of[code] = self._told_of.get(code, []), self._names(code)
            spans = {*(cohort.span for cohort in gone), *cohorts.table.spans.tolist()}
            for name in set(before) - set(self._told_of[code]):
                self._dropped += (self._field(code, span, name) for span in spans)
        if self.settings.maturity is not None:  # how late labels are tells what is still to come
            self._outdating.add(code)

    def series(self, name: Name, now: int) -> dict[str, bytes | None]:
        """Return what has changed of the series since the last call, as far as one commit takes it; None for what is gone.

        To be called after `dirty`. `name` returns the name of a class by its number, `now` is the time of the latest
        prediction, ns since 1970.
        """
        found: dict[str, bytes | None] = {}
        span = int(self.settings.cohort * 1e9)
        if now // span > self._newest // span:  # what is told of all depends on their age
            for code in self._cohorts:
                self._write_all(code)
        elif now > self._newest and self.settings.maturity is not None:
            self._outdating.update(self._cohorts)
        self._newest = now
        found.update(dict.fromkeys(self._dropped))
        self._dropped = []
        for code, cohort in self._gone:
            found[self._field(code, cohort.span, self.groups.name(cohort.group))] = None
            if cohort.group == ALL:
                found.update((field, None) for field in self._fields_of_gaps(code, cohort.span))
        self._gone = []
        rows = self._next()
        expected = self._expected(rows, now)
        for code, cohort in rows:
            row = self._cohorts[code].table.get(cohort)
            if row is not None:
                told = self._row(code, cohort, row, name, expected.get((code, cohort)))
                found[self._field(code, cohort.span, told.group)] = encode(told)
        spans = {(code, cohort.span) for code, cohort in rows if self._compared}
        if self._between:  # a row may be of an environment and of any other
            spans |= {(code, cohort.span) for code in self._cohorts for _, cohort in rows}
        for code, span in sorted(spans):
            for told in self._gaps(code, span):
                found[self._field(code, span, told.group)] = encode(told)
        return found

    def _next(self) -> list[tuple[int, Cohort]]:
        """Return the rows that this commit writes: those that changed, once in `_PAUSE` commits while events come.

        In a commit in which none did, those that others outdated.
        """
        is_busy, self._is_busy = self._is_busy, False
        if is_busy and self._pause:
            self._pause -= 1
            return []
        self._pause = _PAUSE if is_busy else 0
        rows = list(self._unwritten)[:_ROWS]
        if not rows and not is_busy:
            for code in sorted(self._outdating):
                of = self._cohorts[code].table.cohorts()
                self._outdated.update(((code, cohort), None) for cohort, _ in of)
            self._outdating.clear()
            rows = list(self._outdated)[:_ROWS]
        for row in rows:
            self._unwritten.pop(row, None)
            self._outdated.pop(row, None)
        return rows

    def _expected(
        self, rows: list[tuple[int, Cohort]], now: int
    ) -> dict[tuple[int, Cohort], Expected]:
        """Return what cohorts are expected to be once their labels are there."""
        of: dict[int, list[Cohort]] = {}
        for code, cohort in rows:
            of.setdefault(code, []).append(cohort)
        found: dict[tuple[int, Cohort], Expected] = {}
        for code, some in of.items():
            curves = self._cohorts[code].curves(now)
            if curves is not None:
                told = self._cohorts[code].expected(some, curves, now)
                found.update(((code, cohort), one) for cohort, one in told.items())
        return found

    def _field(self, environment: int, span: int, group: str) -> str:
        begin = span * self._cohorts[environment].table.span
        return f"{ENVIRONMENTS[environment]}|{_time(begin)}|{group}"

    def _fields_of_gaps(self, environment: int, span: int) -> Iterator[str]:
        """Yield the fields of the gaps that an environment is part of."""
        for first in self._cohorts:
            for name, sides in self._pairs(first):
                if environment in (code for code, _ in sides):
                    yield self._field(first, span, name)

    def _pairs(self, environment: int) -> list[tuple[str, list[_Side]]]:
        """Return the names of what is compared, told of an environment, and the two sides."""
        known = self._cohorts[environment].table.groups
        found: list[tuple[str, list[_Side]]] = []
        for names in self._compared:
            groups = {
                self.groups.value(group, names): group
                for group in known
                if group != ALL and int(self.groups.group(np.array([group]), names)[0]) == group
            }
            for a, b in gaps.compared(list(groups)):
                others = [group for value, group in groups.items() if value != a]
                sides = [groups[a]], others if b is None else [groups[b]]
                name = f"{','.join(names)}={a}|{'rest' if b is None else b}"
                found.append((name, [(environment, side) for side in sides]))
        for names in self._between:
            others_of = tuple(name for name in names if name != ENVIRONMENT)
            for other in sorted(code for code in self._cohorts if code > environment):
                there = set(self._cohorts[other].table.groups)
                for group in known:
                    of = self.groups.group(np.array([group]), others_of)
                    if group in there and int(of[0]) == group:
                        both = [
                            coded(np.array([group]), np.array([k])) for k in (environment, other)
                        ]
                        told = EnvironmentGroups(self.groups)
                        a, b = (told.value(int(one[0]), names) for one in both)
                        sides_of: list[_Side] = [(environment, [group]), (other, [group])]
                        found.append((f"{','.join(names)}={a}|{b}", sides_of))
        return found

    def _names(self, environment: int) -> list[str]:
        return [name for name, _ in self._pairs(environment)]

    def _gaps(self, environment: int, span: int) -> Iterator[MetricRow]:
        """Yield the gaps between groups in a cohort; of two classes, or one against all others."""
        cohorts = self._cohorts[environment]
        for name, sides in self._pairs(environment):
            of_sides = [self._cohorts[code] for code, _ in sides]
            both = [
                sum((row for group in side if (row := of.table.get(Cohort(span, group))) is not None),
                    start=np.zeros(of.table.counts.shape[1], np.int64))
                for of, (_, side) in zip(of_sides, sides, strict=True)
            ]  # fmt: skip
            is_regression = any(of.is_regression for of in of_sides)
            if is_regression or not all(row[PREDICTIONS] for row in both):
                continue
            said = [(int(r[SAID_POSITIVE]), int(r[SAID_POSITIVE] + r[SAID_OTHER])) for r in both]
            a, b = (of.binary(row) for of, row in zip(of_sides, both, strict=True))
            found = gaps.gaps(a, b, (said[0], said[1]))
            small = gaps.few(a, b, self._half_width, (said[0], said[1]))
            predictions, labels = (int(sum(r[k] for r in both)) for k in (PREDICTIONS, LABELS))
            is_within = all(code == environment for code, _ in sides)
            expected = cohorts.estimated_gaps(*both) if is_within else {}
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
                metrics={f"gap:{key}": metric for key, metric in found.items()},
                estimated={f"gap:{key}": metric for key, metric in expected.items()},
                too_small=[f"gap:{key}" for key in small],
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
        # By whole spans: a row that is not written again until the next one must not depend on when it was.
        age = self._newest - self._newest % span - end
        is_old = age >= self.settings.close_after * 1e9
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
            metrics={
                **cohorts.figures(cohorts.with_rule(cohort, row, self._newest), name),
                **({} if cohorts.leakage is None else cohorts.leakage.figures(cohort)),
            },
            estimated={**cohorts.estimated(row, name)},
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
                    self._told_of[code] = self._names(code)
                    self._write_all(code)
        self._stored = self.score_columns.changes, self.groups.changes

    def replace(self, own: dict[int, dict[str, bytes]]) -> None:
        """Delete the stored fields of each environment with the next ones: they could not be read."""
        self._stale = {f"{code}/{name}" for code, of in own.items() for name in of}

    def _write_all(self, code: int) -> None:
        self._outdating.discard(code)
        of = self._cohorts[code].table.cohorts()
        self._unwritten.update(((code, cohort), None) for cohort, _ in of)


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).isoformat()
