"""Performance of one model in one environment by the time of its predictions and by group, as labels come in."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

import numpy as np

from ..core.columns import Floats, Ints, stack, take
from ..core.errors import StateError
from ..core.snapshot import pack, unpack
from ..detectors import binary_counts, cbpe, regression_sums
from ..detectors.binary_metrics import Metric
from ..detectors.compiled import compiled
from ..detectors.late_labels import (
    DELAYS,
    Arrival,
    Expected,
    arrival,
    expected,
    rate,
)
from .cohort_table import Cohort, CohortTable
from .estimates import Estimates
from .estimators import Estimator, OfTwo, Seen
from .groups import Groups
from .join import Correction, Pairs
from .leakage import FIELD, Leakage, stored
from .model_settings import PerformanceSettings
from .pair_metrics import (
    CONFUSION,
    are_known,
    asked_about,
    count_pairs,
    index,
    metrics_of,
    two_by_two,
    width_of,
)
from .row_counts import PARTS, RowCounts, packed, packed_estimates
from .score_columns import MOST_CLASSES, ScoreColumns
from .trained_estimates import Given
from .training_rows import TrainingRows

PREDICTIONS, LABELS, REVISED, HITS, SAID_OTHER, SAID_POSITIVE = range(6)
"""Columns: predictions, those that have a label, labels that came or changed after the cohort was closed, pairs that are equal,
predictions of another class than the one that is asked about, and of that class."""
_VERSION: Final = 2
TOGETHER: Final = -1
"""Of the cohorts in a window, in place of a span."""


@compiled
def _count_labels(
    counts: Ints, rows: Ints, predicted: Floats, label: Floats, lag: Ints, closes: int, sign: int,
    are_classes: bool,
) -> None:  # fmt: skip
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            row = rows[i, j]
            if row >= 0:
                counts[row, LABELS] += sign
                if sign > 0 and lag[i] > closes:
                    counts[row, REVISED] += 1
                if are_classes and predicted[i] == label[i]:
                    counts[row, HITS] += sign


@compiled
def _count_predictions(counts: Ints, rows: Ints, predicted: Floats, positive: float) -> None:
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            row = rows[i, j]
            if row >= 0:
                counts[row, PREDICTIONS] += 1
                if predicted[i] == positive:
                    counts[row, SAID_POSITIVE] += 1
                elif not np.isnan(predicted[i]):
                    counts[row, SAID_OTHER] += 1


class Cohorts:
    """Counts predictions and pairs of prediction and label, and returns the metrics that follow from them.

    Parameters
    ----------
    settings
        How long cohorts are, how many are kept, when they are closed.
    columns, groups
        What `scores` and `segments` of pairs mean; the model's.
    window
        Seconds for which labels are joined.
    training
        What is known of the rows of training, where it is known.
    given
        Estimates that were learned with training.

    Notes
    -----
    All is whole numbers: labels may come in any order, late, twice or corrected, and the numbers are those of the pairs as they are
    now. Bounded: `settings.cohorts` times 64 groups times 20 kB, 40 with estimates, as far as they are used.
    """

    def __init__(
        self,
        settings: PerformanceSettings,
        columns: ScoreColumns,
        groups: Groups,
        window: float,
        training: TrainingRows | None = None,
        given: Given | None = None,
    ) -> None:
        self.settings = settings
        self.is_regression: bool | None = None
        self.table = CohortTable(PARTS, settings.cohort, settings.cohorts)
        self.delays = CohortTable(4 * DELAYS, settings.cohort, settings.cohorts)
        """Of all predictions, where they mature: labels that have come by prediction, label and delay."""
        self.classes: list[float] = []
        """Numbers of the first 15 classes that pairs had; all others are one class."""
        self._columns = columns
        self._groups = groups
        self._window = window * 1e9
        self._new_estimates = partial(Estimates, columns, settings.calibration_pairs, given)
        self.estimates = self._new_estimates()
        self.leakage = None if training is None else Leakage(training, settings, columns, groups)
        self._begins: dict[str, int] = {}
        """Spans from which on a segment or crossing has groups: of earlier ones some predictions were not counted in them."""
        self._stale: set[str] = set()  # fields of leakage, of when training was known
        self._stored = b""

    def update(
        self, seen: Seen | None, pairs: Pairs | None, corrections: Sequence[Correction]
    ) -> None:
        """Take what is new in, all of one environment: predictions, pairs, and labels that replace earlier ones."""
        rows = None if seen is None else self._observe(seen)
        now = [] if pairs is None else [pairs]
        if corrections:
            before = stack([correction.pair for correction in corrections])
            lags = np.array([correction.lag for correction in corrections])
            after = before._replace(
                label=np.array([correction.label for correction in corrections]),
                times=before.times - before.lag + lags, lag=lags,
            )  # fmt: skip
            now.append(after)
            self._meet(now)
            self._count(before, -1)
        else:
            self._meet(now)
        for found in now:
            self._count(found, 1)
        if seen is not None and rows is not None and (estimator := self._estimator) is not None:
            self._estimate(seen, rows, estimator)

    def _observe(self, seen: Seen) -> Ints:
        """Count predictions; return their (n, k) rows."""
        places = self.table.open(seen.times)
        spans = seen.times // self.table.span if self._begins else None
        groups = self._groups.of(seen.segments, spans, self._begins)
        rows = self.table.rows(places, groups, make=True)
        _count_predictions(self.table.counts, rows, seen.predicted, self._columns.positive)
        if self.leakage is not None:
            self.leakage.observe(seen.times, groups, seen.met)
        if self.settings.maturity is not None:
            places = self.delays.open(seen.times)
            all_of_them = np.zeros((len(places), 1), np.int64)
            self.delays.rows(places, all_of_them, make=True)
        return rows

    @property
    def _estimator(self) -> Estimator | None:
        return self.estimates.known(is_regression=self.is_regression)

    def _estimate(self, seen: Seen, rows: Ints, estimator: Estimator) -> None:
        """Count what is expected of predictions that came after the reference was complete."""
        before = self.estimates.before(seen.offsets, seen.rows)
        if before == len(rows):
            return
        self._widen()
        if before:
            seen, rows = take(seen, slice(before, None)), rows[before:]
        estimator.count(self.table.counts[:, PARTS + self._width :], rows, seen)

    def estimated(self, row: Ints, name: Callable[[float], str]) -> dict[str, Metric]:
        """Return what the metrics of a row's predictions are expected to be; empty where that is not known."""
        estimator, expected = self._estimator, row[PARTS + self._width :]
        if estimator is None or len(expected) < estimator.width:
            return {}
        return estimator.estimates(expected, name)

    def estimated_gaps(self, a: Ints, b: Ints) -> dict[str, Metric]:
        """Return what the gaps of two rows that need labels are expected to be; empty where that is not known."""
        estimator, begin = self._estimator, PARTS + self._width
        if estimator is None or len(a) < begin + estimator.width:
            return {}
        return estimator.gaps(a[begin:], b[begin:])

    def _meet(self, found: list[Pairs]) -> None:
        """Give classes that are new a number, in the order of the log."""
        if self.is_regression is not False or len(self.classes) >= MOST_CLASSES - 1:
            return
        classes = np.array(self.classes)
        found = [_answered(f) for f in found if not are_known(f.predicted, f.label, classes)]
        if not found:
            return
        both = np.concatenate([np.stack([one.predicted, one.label], axis=1) for one in found])
        new = ~(np.isnan(both) | np.isin(both, classes))
        offsets = np.concatenate([one.offsets for one in found])
        order = np.lexsort((np.concatenate([one.rows for one in found]), offsets))
        numbers, first = np.unique(both[order][new[order]], return_index=True)
        room = MOST_CLASSES - 1 - len(self.classes)
        self.classes += numbers[np.argsort(first)][:room].tolist()

    def _count(self, pairs: Pairs, sign: int) -> None:
        places = self.table.place(pairs.times - pairs.lag)
        rows = self.table.rows(places, self._groups.of(pairs.segments), make=False)
        self._widen()
        counts, are_classes = self.table.counts, self.is_regression is False
        closes = int(self.settings.close_after * 1e9) + self.table.span
        _count_labels(
            counts, rows, pairs.predicted, pairs.label, pairs.lag, closes, sign, are_classes
        )
        if self.is_regression is None:
            return
        if self.leakage is not None:
            self.leakage.judge(_answered(pairs), sign)
        count_pairs(
            counts[:, PARTS : PARTS + self._width], rows, pairs, sign, self.classes, self._columns,
            is_regression=self.is_regression,
        )  # fmt: skip
        if are_classes and self.settings.maturity is not None:
            self._count_delays(pairs, sign)

    def _count_delays(self, pairs: Pairs, sign: int) -> None:
        known = ~(np.isnan(pairs.predicted) | np.isnan(pairs.label))
        positive = self._columns.positive
        cell = 2 * (pairs.predicted == positive) + (pairs.label == positive)
        bins = np.clip(pairs.lag / self._window * DELAYS, 0, DELAYS - 1).astype(np.int64)
        places = np.where(known, self.delays.place(pairs.times - pairs.lag), -1)
        rows = self.delays.rows(places, np.zeros((len(places), 1), np.int64), make=False)
        np.add.at(
            self.delays.counts, (rows[rows >= 0], (cell * DELAYS + bins)[rows[:, 0] >= 0]), sign
        )

    @property
    def _width(self) -> int:
        if self.is_regression is None:  # no prediction has come that says
            return 0
        return width_of(len(self._columns), is_regression=self.is_regression)

    def _widen(self) -> None:
        """Make room for what pairs are counted in, once it is known what that is."""
        width = PARTS + self._width
        width += 0 if (estimator := self._estimator) is None else estimator.width
        if self.table.counts.shape[1] < width:
            self.table.widen(width)

    def figures(self, row: Ints, name: Callable[[float], str]) -> dict[str, Metric]:
        """Return the metrics of one row of the table; `name` returns the name of a class by its number."""
        wide = np.zeros(PARTS + self._width, np.int64)
        wide[: min(len(row), len(wide))] = row[: len(wide)]
        if self.is_regression is None:
            return {}
        return metrics_of(
            wide[PARTS:], int(wide[HITS]), self.classes, self._columns, name,
            is_regression=self.is_regression,
        )  # fmt: skip

    def counts(
        self, row: Ints, name: Callable[[float], str], expected: Expected | None
    ) -> RowCounts:
        """Return what the numbers of a row follow from, so that it can be added to others."""
        of_estimates = row[PARTS + self._width :]
        is_cbpe = isinstance(self._estimator, OfTwo) and len(of_estimates) >= cbpe.WIDTH
        is_cbpe = is_cbpe and bool(of_estimates.any())  # as before there was room for them
        return RowCounts(
            parts=row[:PARTS].tolist(),
            is_regression=self.is_regression,
            classes=self.classes,
            names=[name(number) for number in self.classes],
            columns=list(self._columns.names),
            positive=self._columns.positive,
            asked=self._columns.asked,
            pairs=b"" if self.is_regression is None else packed(row[PARTS : PARTS + self._width]),
            estimates=packed_estimates(of_estimates[: cbpe.WIDTH]) if is_cbpe else b"",
            expected=[] if expected is None else [part.tolist() for part in expected],
            unlabelled_are_negative=self.settings.unlabelled == "negative",
        )

    def positive_name(self, name: Callable[[float], str]) -> str:
        """Return the name of the class that metrics are about; empty where they are of more than two, or of none."""
        if (
            self.is_regression
            or not self.classes
            or len(self.classes) > 2
            or len(self._columns) > 1
        ):
            return ""
        return name(asked_about(self.classes, self._columns, name))

    def curves(self, now: int) -> list[Arrival | None] | None:
        """Return how soon labels come, of true and false negatives and positives, as far as is known at a time, ns since 1970.

        None before a cohort is mature, and where nothing matures. A kind of which too few have come takes the curve of
        its label, whatever the prediction was.
        """
        cohorts = list(self.delays.cohorts())
        if self.settings.maturity is None or not cohorts:
            return None
        ages = np.array([self._ages(cohort.span, now)[0] for cohort, _ in cohorts])
        if ages.max() < self._matures_at:
            return None
        # A label that is corrected may have been counted with another `labels.window`.
        delays = np.maximum([row for _, row in cohorts], 0).reshape(-1, 4, DELAYS)
        of_label = [arrival(delays[:, k] + delays[:, k + 2], ages) for k in range(2)]
        return [arrival(delays[:, k], ages) or of_label[k % 2] for k in range(4)]

    def _ages(self, span: int, now: int) -> tuple[float, float]:
        """Return the ages of a cohort's youngest and oldest predictions, in bins of a delay."""
        begin = span * self.table.span
        youngest, oldest = now - begin - self.table.span, now - begin
        return youngest / self._window * DELAYS, oldest / self._window * DELAYS

    @property
    def _matures_at(self) -> float:
        return (self.settings.maturity or 0) * 1e9 / self._window * DELAYS

    def expected(
        self,
        some: Iterable[Cohort],
        curves: list[Arrival | None],
        now: int,
        window: range = range(0),
    ) -> dict[Cohort, Expected]:
        """Return what the pairs of some cohorts are expected to be once all labels are there, as far as it can be told.

        A cohort whose span is `TOGETHER` is all of the window. Empty for more than two classes.
        """
        if self.is_regression or len(self.classes) > 2 or self.table.counts.shape[1] <= PARTS:
            return {}
        spans: dict[int, list[int]] = {}
        for cohort in some:
            spans.setdefault(cohort.group, []).append(cohort.span)
        came = {span: self._shares(span, curves, now) for span in self.table.spans.tolist()}
        found = {}
        rule = self.settings.unlabelled == "negative"
        for group, wanted in spans.items():
            of, rows = self.table.of_group(group)
            counts = self.table.counts[rows, : PARTS + CONFUSION]
            pairs, said = self.two_by_two(counts), counts[:, [SAID_OTHER, SAID_POSITIVE]]
            shares = np.array([came[span] for span in of.tolist()]).reshape(-1, 4)
            rates = [rate(pairs[:, k], said[:, k // 2] * shares[:, k]) for k in range(4)]
            for span in wanted:
                inside = (
                    (of >= window.start) & (of < window.stop) if span == TOGETHER else of == span
                )
                if not inside.any():
                    continue
                weight = said[inside][:, [0, 0, 1, 1]]
                share = (shares[inside] * weight).sum(axis=0) / np.maximum(weight.sum(axis=0), 1)
                told = expected(
                    pairs[inside].sum(axis=0), said[inside].sum(axis=0),
                    shares[inside][0] if inside.sum() == 1 else share,
                    curves, rates, unlabelled_are_negative=rule,
                )  # fmt: skip
                if told is not None:
                    found[Cohort(span, group)] = told
        return found

    def _shares(self, span: int, curves: list[Arrival | None], now: int) -> list[float]:
        """Return the share of labels that have come of each kind."""
        youngest, oldest = self._ages(span, now)
        return [curve.mean(youngest, oldest) if curve else 0.0 for curve in curves]

    def compared(self, row: Ints) -> Ints:
        """Return what gaps of a row follow from: of a regression what `regression_sums` has counted.

        Of others what `binary_counts` would have: the class that is asked about against all others.
        """
        width = regression_sums.WIDTH if self.is_regression else binary_counts.WIDTH
        found = np.zeros(width, np.int64)
        if len(row) < PARTS + self._width:
            return found
        if self.is_regression:
            found[:] = row[PARTS : PARTS + width]
            return found
        if len(self._columns) == 1:
            found[:] = row[PARTS + CONFUSION : PARTS + CONFUSION + binary_counts.WIDTH]
        found[: binary_counts.SCORED] = self.two_by_two(row)
        return found

    def two_by_two(self, row: Ints) -> Ints:
        """Return the true and false negatives, false and true positives of a row, or of each of several, of the class that is asked about."""
        confusion = row[..., PARTS : PARTS + CONFUSION]
        confusion = confusion.reshape(*row.shape[:-1], MOST_CLASSES, MOST_CLASSES)
        return two_by_two(confusion, index(self._columns.positive, np.array(self.classes)))

    def with_rule(self, cohort: Cohort, row: Ints, now: int) -> Ints:
        """Return a row in which predictions without a label are negative, where the cohort is mature and that is the rule."""
        is_mature = self._ages(cohort.span, now)[0] >= self._matures_at
        negative = [k for k, number in enumerate(self.classes) if number != self._columns.positive]
        if self.settings.unlabelled != "negative" or not is_mature or len(negative) != 1:
            return row
        row = row.copy()
        confusion = row[PARTS : PARTS + CONFUSION].reshape(MOST_CLASSES, MOST_CLASSES)
        positive = index(self._columns.positive, np.array(self.classes))
        for said, place in ((SAID_OTHER, negative[0]), (SAID_POSITIVE, positive)):
            confusion[negative[0], place] += row[said] - confusion[:, place].sum()
        return row

    def dirty(self, changed: list[Cohort], gone: list[Cohort]) -> dict[str, bytes | None]:
        """Return the fields to store of changed rows, and None for those of rows that are gone."""
        fields: dict[str, bytes | None] = {}
        for kind, table, (new, old) in (
            (_ROW, self.table, (changed, gone)),
            (_DELAY, self.delays, self.delays.changed()),
        ):
            fields.update((_field(kind, cohort), None) for cohort in old)
            fields.update((_field(kind, cohort), table.snapshot(cohort)) for cohort in new)
        fields.update(dict.fromkeys(self._stale))
        self._stale = set()
        if self.leakage is not None:
            fields |= self.leakage.dirty()
        of_estimates, arrays = self.estimates.state()
        meta = {
            "estimates": of_estimates, "classes": self.classes, "regression": self.is_regression,
            "table": self.table.state(), "delays": self.delays.state(), "window": self._window,
            "rows": {_ROW: len(self.table), _DELAY: len(self.delays)}, "begins": self._begins,
        }  # fmt: skip
        state = pack("performance_cohorts", _VERSION, meta, arrays)
        if (
            fields or state != self._stored
        ):  # a pair whose cohort is gone still teaches the estimates
            fields["cohorts"] = self._stored = state
        return fields

    def restore(self, fields: dict[str, bytes]) -> None:
        """Go on from stored fields, of an object that is new.

        Raises
        ------
        StateError
            A field is damaged or missing, or cohorts were of another length.
        """
        meta, arrays = unpack("performance_cohorts", _VERSION, fields["cohorts"])
        self._stored = fields["cohorts"]
        goes_on = self.estimates.load(meta["estimates"], arrays)
        self.classes = [float(number) for number in meta["classes"]]
        self.is_regression = meta["regression"]
        self._widen()
        if self.leakage is None:
            self._stale = stored(fields)
        else:
            self.leakage.restore(fields)
        if not goes_on:  # what was expected then is read, and forgotten
            self.table.widen(PARTS + self._width + cbpe.WIDTH)  # as wide as any
        for kind, table, state in (
            (_ROW, self.table, meta["table"]), (_DELAY, self.delays, meta["delays"]),
        ):  # fmt: skip
            if kind == _DELAY and meta["window"] != self._window:
                continue  # they are learned anew
            rows = [row for name, row in fields.items() if name.startswith(kind)]
            if len(rows) != meta["rows"][kind]:
                raise StateError(f"{meta['rows'][kind]} rows were stored, {len(rows)} are there")
            table.restore(state, rows)
        if not goes_on:
            self.table.counts[:, PARTS + self._width :] = 0
            self.table.touch_all()
        self.table.drop_groups(self._groups.is_wanted)
        begins = {str(name): int(span) for name, span in meta.get("begins", {}).items()}
        begins |= dict.fromkeys(self._groups.again, self.table.newest + 1)
        self._begins = {name: begins[name] for name in self._groups.wanted if name in begins}


_ROW: Final = "cohort:"
_DELAY: Final = "delay:"
FIELDS: Final = ("cohorts", _ROW, _DELAY, FIELD)
"""What the names of fields begin with."""


def _field(kind: str, cohort: Cohort) -> str:
    return f"{kind}{cohort.span}:{cohort.group}"


def _answered(pairs: Pairs) -> Pairs:
    """Return the pairs that have a prediction or scores: theirs has decided what kind of model this is."""
    good = ~np.isnan(pairs.predicted) | np.isfinite(pairs.scores).any(axis=1)
    return pairs if good.all() else take(pairs, good)
