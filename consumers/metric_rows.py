"""What is told of the cohorts of one model: rows of its series, which of them are to be written, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

import numpy as np
from msgspec.structs import replace

from ..core.columns import Ints
from ..core.events import ENVIRONMENTS
from ..core.metric_row import MetricRow, Value, encode
from ..detectors import gaps
from ..detectors.late_labels import Expected
from ..detectors.late_labels import metrics as corrected
from . import leakage
from . import row_counts as counts
from .bias import crossings
from .cohort_table import Cohort
from .cohorts import (
    LABELS,
    PREDICTIONS,
    REVISED,
    SAID_OTHER,
    SAID_POSITIVE,
    TOGETHER,
    Cohorts,
)  # fmt: skip
from .environments import EnvironmentGroups, coded
from .groups import ALL, Groups
from .merged_leakage import Beside
from .model_settings import ENVIRONMENT, BiasSettings, PerformanceSettings
from .windows import FIELD, Windows

_ROWS: Final = 50
"""Rows of the series that one commit writes at most: a backlog of labels changes all of them again and again. Windows have half of
them at most, so that neither holds up the others."""
_PAUSE: Final = 9
"""Commits that write none while events keep coming: a row is the same work whatever has changed in it. What is gone is deleted
at once, since a restarted worker knows nothing of it."""
_HALF_WIDTH: Final = 0.05
"""A gap between groups is judged where either rate is known within so much: 381 events, see `gaps.events_needed`."""

Name = Callable[[float], str]
Tell = Callable[[int, int], Beside]
"""What else is told of an environment and the number of its cohort's span."""
_Side = tuple[int, list[int]]  # an environment, and groups in it
_Row = tuple[int, Cohort]  # an environment, and a cohort and group in it


class MetricRows:
    """The rows of one model in one partition.

    Parameters
    ----------
    settings
        The model's.
    bias
        Which segments, and crossings, have the gaps between their groups told, and what gap is nobody's concern: within that,
        0.05 at least, a rate must be known for its gap to be judged.
    groups
        The model's.
    cohorts
        By environment; others may be added.
    trained
        By group, what metrics were in training.

    Notes
    -----
    In the end rows depend on the cohorts alone, not on when they were written: a row that is told otherwise since other cohorts
    have changed is written again, at once where a class, group or score is new, and where only what is corrected for late
    labels has changed when the model is quiet for a commit.
    """

    def __init__(
        self,
        settings: PerformanceSettings,
        bias: BiasSettings,
        groups: Groups,
        cohorts: Mapping[int, Cohorts],
        trained: Mapping[str, dict[str, Value]] | None = None,
    ) -> None:
        self._trained = trained or {}
        self._settings = settings
        self._compared = crossings(bias.within)
        self._between = crossings(bias.between)
        self._half_width = min(max(bias.epsilon, _HALF_WIDTH), 0.49)
        self._groups = groups
        self._cohorts = cohorts
        self._newest = 0
        self._unwritten: dict[_Row, None] = {}  # in the order in which they changed
        self._outdated: dict[_Row, None] = {}  # by what has changed in others
        self._outdating: set[int] = set()  # environments all of whose rows are
        self._windows = Windows(settings.window_cohorts)
        self._gone: list[_Row] = []
        self._dropped: list[str] = []  # fields of what is compared no more
        self._told_by: dict[int, tuple[int, ...]] = {}  # what all rows of an environment depend on
        self._told_of: dict[int, list[str]] = {}  # what is compared
        self._is_busy = False  # something was counted since rows were asked for
        self._pause = 0

    @property
    def is_behind(self) -> bool:
        """Whether there is more to write than was written."""
        return bool(self._unwritten or self._windows or self._outdated or self._outdating)

    def note(self, code: int, changed: list[Cohort], gone: list[Cohort], scores: int) -> None:
        """Note what has changed of an environment, and what is gone; `scores` is how often the columns of scores have changed."""
        self._unwritten.update(((code, cohort), None) for cohort in changed)
        self._windows.note(code, self._cohorts[code].table, changed)
        for cohort in gone:
            self._unwritten.pop((code, cohort), None)
            self._gone.append((code, cohort))
        if changed or gone:
            self._is_busy = True
            # Others may have a group more to be compared with.
            for one in self._cohorts if self._between else (code,):
                self._depend(one, gone, scores)

    def _depend(self, code: int, gone: Iterable[Cohort], scores: int) -> None:
        """Note which rows are told otherwise now, although nothing was counted in them."""
        cohorts = self._cohorts[code]
        compared = len(cohorts.table.groups) if self._compared else 0
        if self._between:
            compared += sum(len(of.table.groups) for of in self._cohorts.values())
        basis = len(cohorts.classes), int(bool(cohorts.is_regression)), scores, compared
        if basis != self._told_by.get(code):
            self._told_by[code] = basis
            self._write_all(code)
            before, self._told_of[code] = self._told_of.get(code, []), self._names(code)
            spans: set[int | None] = {cohort.span for cohort in gone}
            spans |= {None, *cohorts.table.spans.tolist()}
            for name in sorted(set(before) - set(self._told_of[code])):
                self._dropped += (self._field(code, span, name) for span in spans)
        if self._settings.maturity is not None:  # how late labels are tells what is still to come
            self._outdating.add(code)

    def begin(self) -> None:
        """Begin with cohorts that were stored: all is written anew."""
        for code in self._cohorts:
            self._told_of[code] = self._names(code)
            self._write_all(code)

    def forget(self, written: Iterable[str]) -> None:
        """Note that those of the fields that were written are to be deleted which no row here has: other settings told of them."""
        own: set[str] = set()
        for code, cohorts in self._cohorts.items():
            spans: set[int | None] = {None, *cohorts.table.spans.tolist()}
            names = {self._groups.name(group) for group in cohorts.table.groups}
            names |= set(self._names(code))
            if self._between:  # a row may be of an environment and of any other
                spans |= {s for of in self._cohorts.values() for s in of.table.spans.tolist()}
            own |= {self._field(code, span, name) for span in spans for name in names}
        self._dropped += sorted(set(written) - own)

    def _write_all(self, code: int) -> None:
        """Note that all rows of an environment are to be written."""
        self._outdating.discard(code)
        table = self._cohorts[code].table
        self._unwritten.update(((code, cohort), None) for cohort, _ in table.cohorts())
        self._windows.note_all(code, table)

    def take(self, name: Name, now: int, beside: Tell | None = None) -> dict[str, bytes | None]:
        """Return what is to be written by one commit, by its field; None for what is gone.

        `name` returns the name of a class by its number, `now` is the time of the latest prediction, ns since 1970; `beside`
        what goes into the rows of all predictions.
        """
        span = int(self._settings.cohort * 1e9)
        if now // span > self._newest // span:  # what is told of all depends on their age
            for code in self._cohorts:
                self._write_all(code)
        elif now > self._newest and self._settings.maturity is not None:
            self._outdating.update(self._cohorts)
        self._newest = now
        found: dict[str, bytes | None] = dict.fromkeys(self._dropped)
        for code, cohort in self._gone:
            found[self._field(code, cohort.span, self._groups.name(cohort.group))] = None
            if cohort.group == ALL:
                found.update((field, None) for field in self._fields_of_gaps(code, cohort.span))
        self._dropped, self._gone = [], []
        rows, windows = self._next()
        together = [(code, Cohort(TOGETHER, group)) for code, group in windows]
        expected = self._expected([*rows, *together], now)
        for code, cohort in rows:
            row = self._cohorts[code].table.get(cohort)
            if row is not None:
                also = beside(code, cohort.span) if beside and cohort.group == ALL else None
                told = self._row(code, [(cohort, row)], name, expected.get((code, cohort)), also)
                found[self._field(code, cohort.span, told.group)] = encode(told)
        for code, window in together:
            field = self._field(code, None, self._groups.name(window.group))
            found[field] = self._of_window(code, window, name, expected.get((code, window)))
        spans = {(code, cohort.span) for code, cohort in rows if self._compared}
        if self._between:  # a row may be of an environment and of any other
            spans |= {(code, cohort.span) for code in self._cohorts for _, cohort in rows}
        for code, at in sorted(spans):
            for told in self._gaps(code, range(at, at + 1)):
                found[self._field(code, at, told.group)] = encode(told)
        changed = {code for code, group in windows if group == ALL}
        if changed and self._between:
            changed = set(self._cohorts)
        for code in sorted(changed) if self._compared or self._between else ():
            found.update((self._field(code, None, pair), None) for pair in self._names(code))
            for told in self._gaps(code, self._windows.spans(self._cohorts[code].table)):
                found[self._field(code, None, told.group)] = encode(replace(told, window=True))
        return found

    def _next(self) -> tuple[list[_Row], list[tuple[int, int]]]:
        """Return the rows that this commit writes, and the windows: those that changed, once in `_PAUSE` commits while events come.

        In a commit in which none did, those that others outdated.
        """
        is_busy, self._is_busy = self._is_busy, False
        if is_busy and self._pause:
            self._pause -= 1
            return [], []
        self._pause = _PAUSE if is_busy else 0
        if not (self._unwritten or self._windows or is_busy):
            for code in sorted(self._outdating):
                table = self._cohorts[code].table
                self._outdated.update(((code, cohort), None) for cohort, _ in table.cohorts())
                self._windows.note_all(code, table)
            self._outdating.clear()
        windows = self._windows.take(_ROWS // 2)
        waiting = self._outdated if not (self._unwritten or is_busy) else self._unwritten
        rows = list(waiting)[: _ROWS - len(windows)]
        for row in rows:
            self._unwritten.pop(row, None)
            self._outdated.pop(row, None)
        return rows, windows

    def _expected(self, rows: list[_Row], now: int) -> dict[_Row, Expected]:
        """Return what cohorts, and windows, are expected to be once their labels are there."""
        of: dict[int, list[Cohort]] = {}
        for code, cohort in rows:
            of.setdefault(code, []).append(cohort)
        found: dict[_Row, Expected] = {}
        for code, some in of.items():
            cohorts = self._cohorts[code]
            curves = cohorts.curves(now)
            if curves is not None:
                told = cohorts.expected(some, curves, now, self._windows.spans(cohorts.table))
                found.update(((code, cohort), one) for cohort, one in told.items())
        return found

    def _field(self, environment: int, span: int | None, group: str) -> str:
        """Return the name of the field of a cohort's row, or of the window's where `span` is None."""
        begin = None if span is None else _time(span * self._cohorts[environment].table.span)
        return f"{ENVIRONMENTS[environment]}|{begin or FIELD}|{group}"

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
                self._groups.value(group, names): group
                for group in known
                if group != ALL and int(self._groups.group(np.array([group]), names)[0]) == group
            }
            for a, b in gaps.compared(list(groups)):
                others = [group for value, group in groups.items() if value != a]
                sides = [groups[a]], others if b is None else [groups[b]]
                name = f"{','.join(names)}={a}|{'rest' if b is None else b}"
                found.append((name, [(environment, side) for side in sides]))
        told = EnvironmentGroups(self._groups)
        for names in self._between:
            others_of = tuple(name for name in names if name != ENVIRONMENT)
            for other in sorted(code for code in self._cohorts if code > environment):
                there = set(self._cohorts[other].table.groups)
                for group in known:
                    one = np.array([group])
                    if group in there and int(self._groups.group(one, others_of)[0]) == group:
                        a, b = (
                            told.value(int(coded(one, np.array([code]))[0]), names)
                            for code in (environment, other)
                        )
                        of: list[_Side] = [(environment, [group]), (other, [group])]
                        found.append((f"{','.join(names)}={a}|{b}", of))
        return found

    def _names(self, environment: int) -> list[str]:
        return [name for name, _ in self._pairs(environment)]

    def _gaps(self, environment: int, spans: range) -> Iterator[MetricRow]:
        """Yield the gaps between groups in some cohorts; of two classes, of one against all others, or of numbers."""
        cohorts = self._cohorts[environment]
        for name, sides in self._pairs(environment):
            of_sides = [self._cohorts[code] for code, _ in sides]
            both = [
                sum((row for span in spans for group in side if (row := of.table.get(Cohort(span, group))) is not None),
                    start=np.zeros(of.table.counts.shape[1], np.int64))
                for of, (_, side) in zip(of_sides, sides, strict=True)
            ]  # fmt: skip
            kinds = {bool(of.is_regression) for of in of_sides}
            if len(kinds) > 1 or not all(row[PREDICTIONS] for row in both):
                continue
            said = [(int(r[SAID_POSITIVE]), int(r[SAID_POSITIVE] + r[SAID_OTHER])) for r in both]
            a, b = (of.compared(row) for of, row in zip(of_sides, both, strict=True))
            of_gaps = counts.GapCounts(
                of=counts.compared(name),
                sides=(counts.packed(a), counts.packed(b)),
                said=(said[0], said[1]),
                half_width=self._half_width,
                is_regression=kinds == {True},
            )
            found, small = of_gaps.told(a, b)
            predictions, labels = (int(sum(r[k] for r in both)) for k in (PREDICTIONS, LABELS))
            is_within = all(code == environment for code, _ in sides)
            expected = cohorts.estimated_gaps(*both) if is_within else {}
            yield MetricRow(
                environment=ENVIRONMENTS[environment],
                group=name,
                begin=_time(spans.start * cohorts.table.span),
                end=_time(spans.stop * cohorts.table.span),
                predictions=predictions,
                labels=labels,
                label_coverage_ratio=labels / predictions,
                closed=False,
                revised=0,
                metrics=found,
                estimated={f"gap:{key}": metric for key, metric in expected.items()},
                too_small=small,
                training=self._trained.get(name, {}),
                counts=counts.encode(of_gaps),
            )

    def _of_window(
        self, code: int, window: Cohort, name: Name, expected: Expected | None
    ) -> bytes | None:
        """Return the row of a group's window, None where it has no predictions in it."""
        table = self._cohorts[code].table
        rows = list(self._windows.rows(table, window.group))
        if not rows:
            return None
        told = self._row(code, rows, name, expected)
        spans = self._windows.spans(table)
        begin, end = (_time(span * table.span) for span in (spans.start, spans.stop))
        return encode(replace(told, begin=begin, end=end, window=True))

    def _row(
        self,
        environment: int,
        rows: list[tuple[Cohort, Ints]],
        name: Name,
        expected: Expected | None,
        beside: Beside | None = None,
    ) -> MetricRow:
        """Return a row of the series: of one cohort, or of several of one group."""
        cohorts = self._cohorts[environment]
        span = cohorts.table.span
        ruled = [cohorts.with_rule(cohort, row, self._newest) for cohort, row in rows]
        row = ruled[0] if len(rows) == 1 else np.asarray(np.sum(ruled, axis=0))
        predictions, labels = int(row[PREDICTIONS]), int(row[LABELS])
        is_negative = self._settings.unlabelled == "negative"
        counted = cohorts.counts(row, name, expected)
        metrics: dict[str, Value] = {**cohorts.figures(row, name)}
        if cohorts.leakage is not None:
            served, losses = cohorts.leakage.counts([cohort for cohort, _ in rows])
            metrics |= leakage.figures(served, losses)
            counted = replace(counted, served=served, losses=losses)
        if beside is not None:
            metrics |= beside.metrics
            counted = replace(counted, times=dict(beside.times))
        group = self._groups.name(rows[0][0].group)
        return MetricRow(
            environment=ENVIRONMENTS[environment],
            group=group,
            begin=_time(rows[0][0].span * span),
            end=_time((rows[-1][0].span + 1) * span),
            predictions=predictions,
            labels=labels,
            label_coverage_ratio=labels / predictions if predictions else 0.0,
            closed=all(self._is_closed(cohort, one, span) for cohort, one in rows),
            revised=int(row[REVISED]),
            positive=cohorts.positive_name(name),
            metrics=metrics,
            estimated={**cohorts.estimated(row, name)},
            corrected={}
            if expected is None
            else {**corrected(expected, unlabelled_are_negative=is_negative)},
            training=self._trained.get(group, {}),
            counts=counts.encode(counted),
        )

    def _is_closed(self, cohort: Cohort, row: Ints, span: int) -> bool:
        end = (cohort.span + 1) * span
        coverage = row[LABELS] / max(row[PREDICTIONS], 1)
        # By whole spans: a row that is not written again until the next one must not depend on when it was.
        age = self._newest - self._newest % span - end
        is_old = age >= self._settings.close_after * 1e9
        return bool(is_old or (self._newest >= end and coverage >= self._settings.close_coverage))


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).isoformat()
