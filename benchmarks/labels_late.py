"""Metrics when labels come late or never: corrected and as they are, against the truth; and a million pending at once.

`corrected`: 200,000 predictions of fraud in 120 days. A fraud is reported after a log-normal time, median 14 days for all, sooner where
the model flagged it; of the others 30 % are confirmed within days, and no label after 60 days counts as negative. Looked at on day
120, over the predictions of 10 to 50 days before. The naive numbers are those of the pairs that there are.

`exact`: a million predictions whose labels then come shuffled, 5 % of them twice, 2 % corrected later. All numbers of
all cohorts must be those of the last labels, counted at once.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, Final

import numpy as np

from tocsin.consumers.cohort_table import Cohort
from tocsin.consumers.cohorts import LABELS, PREDICTIONS
from tocsin.consumers.model_monitor import ModelMonitor
from tocsin.consumers.model_settings import ModelSettings
from tocsin.core.batch import EventBatch, LabelBatch
from tocsin.core.columns import INTEGER, Floats, Ints, Strings, Values
from tocsin.detectors import binary_counts, binary_metrics, late_labels

from .common import Figures
from .engine import resident

_EVENTS: Final = 200_000
_DAYS: Final = 120
_RATE: Final = 0.05  # of fraud
_MATURITY: Final = 60
_PENDING: Final = 1_000_000
_BEYOND: Final = 50_000
_BATCH: Final = 5_000
_DAY: Final = 86_400 * 10**9


def settings(max_pending: int, **performance: Any) -> ModelSettings:
    """Return settings of a model whose labels are joined for 120 days."""
    of: dict[str, Any] = {
        "features": "none", "task": "classification", "performance": {"segments": [], **performance},
        "labels": {"window": f"{_DAYS}d", "max_pending": max_pending},
    }  # fmt: skip
    return ModelSettings(**of)


def predictions(first: int, times: Ints, predicted: Ints, score: Floats, offset: int) -> EventBatch:
    """Return a batch of predictions with ids from `first` on."""
    n = len(times)
    number = np.arange(first, first + n)
    return EventBatch(
        model="m", offsets=np.full(n, offset), rows=np.arange(n), times=times,
        prediction_id=ids(number), environment=np.zeros(n, np.uint8), version=Strings.missing(n),
        client=Strings.missing(n), feature_names=(), features=np.empty((n, 0)), texts={},
        prediction=values(predicted), label=Values.missing(n), score_names=("1",),
        scores=score[:, None], logits=None, embedding=None, segments={}, sample_rate=np.ones(n),
    )  # fmt: skip


def labels(of: Ints, label: Ints, times: Ints, revision: Ints, offset: int) -> LabelBatch:
    """Return a batch of labels of predictions by their numbers."""
    n = len(of)
    return LabelBatch(
        model="m", offsets=np.full(n, offset), rows=np.arange(n), times=times,
        prediction_id=ids(of), label=values(label), revision=revision,
    )  # fmt: skip


def ids(numbers: Ints) -> Strings:
    """Return ids of eight digits."""
    digits = (numbers[:, None] // 10 ** np.arange(7, -1, -1)) % 10 + ord("0")
    end = 8 * np.arange(1, len(numbers) + 1)
    return Strings(digits.astype(np.uint8).ravel(), end - 8, end)


def values(classes: Ints) -> Values:
    """Return a column of integers."""
    return Values(
        np.full(len(classes), INTEGER, np.uint8), classes.astype(np.float64),
        Strings.missing(len(classes)),
    )  # fmt: skip


def corrected(figures: Figures, seed: int) -> None:
    """Report how far corrected and naive numbers are from the truth."""
    rng = np.random.default_rng([seed, 0])
    at = np.sort(rng.uniform(0, _DAYS, _EVENTS))
    score = rng.beta(0.4, 6, _EVENTS)
    score *= _RATE / score.mean()
    score = score.clip(0, 1)
    fraud = (rng.random(_EVENTS) < score).astype(np.int64)
    flagged = (score > 0.12).astype(np.int64)
    median = np.where(flagged == 1, 6.0, 26.0)
    delay = np.where(
        fraud == 1, median * np.exp(0.8 * rng.normal(size=_EVENTS)), 1 + rng.exponential(6, _EVENTS)
    )
    told = np.where(fraud == 1, True, rng.random(_EVENTS) < 0.3)
    monitor = ModelMonitor(
        "m", 0, settings(10**6, maturity=f"{_MATURITY}d", unlabelled="negative", cohorts=_DAYS + 1)
    )
    known = np.flatnonzero(told & (at + delay < _DAYS))
    known = known[np.argsort((at + delay)[known])]
    times = (at * _DAY).astype(np.int64)
    begin = 0
    for offset, end in enumerate(
        np.linspace(0, _EVENTS, _EVENTS // _BATCH + 1).astype(int)[1:].tolist()
    ):
        last = at[end - 1]
        first, begin = begin, end
        batch = predictions(
            first, times[first:end], flagged[first:end], score[first:end], 2 * offset
        )
        came = known[: np.searchsorted((at + delay)[known], last)]
        known = known[len(came) :]
        observed = ((at + delay)[came] * _DAY).astype(np.int64)
        late = labels(came, fraud[came], observed, np.zeros(len(came), np.int64), 2 * offset + 1)
        monitor.update([batch], [late])
    monitor.dirty()  # what waits is counted with a commit
    cohorts = monitor.performance._cohorts[0]
    now = _DAYS * _DAY
    curves = cohorts.curves(now)
    assert curves is not None
    days = range(_DAYS - 50, _DAYS - 10)
    expected = cohorts.expected([Cohort(day, 0) for day in days], curves, now)
    parts, naive = list(expected.values()), np.zeros(4, np.int64)
    for day in days:
        row = cohorts.table.get(Cohort(day, 0))
        assert row is not None
        naive += cohorts.two_by_two(row)
    found = late_labels.metrics(late_labels.total(parts), unlabelled_are_negative=True)
    inside = (at >= days[0]) & (at < days[-1] + 1)
    for name, among in (("recall", fraud == 1), ("precision", flagged == 1)):
        truth = float((fraud & flagged)[inside & among].mean())
        _, fn, fp, tp = naive.tolist()
        plain = tp / (tp + (fn if name == "recall" else fp))
        metric = found[name]
        figures.report(f"corrected_{name}_error", abs(metric.value - truth), most=0.02)
        figures.report(f"naive_{name}_error", abs(plain - truth), least=0.1)
        figures.report(
            f"corrected_{name}_is_within_its_interval", metric.low <= truth <= metric.high
        )


def exact(figures: Figures, seed: int) -> None:
    """Report what differs from the batch truth, and what is kept, of a million pending predictions."""
    rng = np.random.default_rng([seed, 1])
    total = _PENDING + _BEYOND
    times = (np.arange(total) * (60 * _DAY // total)).astype(np.int64)
    score = rng.random(total)
    predicted = (score > 0.5).astype(np.int64)
    final = (rng.random(total) < score).astype(np.int64)
    before = resident()
    monitor = ModelMonitor("m", 0, settings(_PENDING))
    began = time.process_time()
    offset, most = 0, 0
    for begin in range(0, total, _BATCH):
        part = slice(begin, min(begin + _BATCH, total))
        monitor.update([predictions(begin, times[part], predicted[part], score[part], offset)], [])
        offset, most = offset + 1, max(most, len(monitor.join.table))
    alive = np.arange(monitor.join.table.first, total)
    figures.report("predictions_pending", len(monitor.join.table))
    figures.report("pending_at_most", most, most=_PENDING + 1023)
    expired = monitor.join.counts.predictions_expired
    figures.report("expired_not_counted", total - len(alive) - expired, most=0)
    wrong = rng.random(total) < 0.02
    order = rng.permutation(total)  # of those that are expired as well
    twice = np.flatnonzero(rng.random(total) < 0.05)
    fixed = np.flatnonzero(wrong)
    of = np.concatenate([order, twice, fixed])
    label = np.concatenate(
        [
            np.where(wrong, 1 - final, final)[order],
            np.where(wrong, 1 - final, final)[twice],
            final[fixed],
        ]
    )
    revision = np.concatenate(
        [np.zeros(total + len(twice), np.int64), np.ones(len(fixed), np.int64)]
    )
    mixed = rng.permutation(len(of))
    of, label, revision = of[mixed], label[mixed], revision[mixed]
    observed = np.full(len(of), 61 * _DAY) + np.arange(len(of))
    for begin in range(0, len(of), _BATCH):
        part = slice(begin, begin + _BATCH)
        monitor.update([], [labels(of[part], label[part], observed[part], revision[part], offset)])
        offset += 1
    took = time.process_time() - began
    figures.report("us_per_event", took / (total + len(of)) * 1e6)
    figures.report("mib_used", resident() - before)
    monitor.dirty()  # what waits is counted with a commit
    cohorts = monitor.performance._cohorts[0]
    truth = np.zeros((61, binary_counts.WIDTH), np.int64)
    days = times // _DAY
    binary_counts.count(
        truth, days[alive], predicted[alive].astype(float), final[alive].astype(float), score[alive], 1
    )  # fmt: skip
    differing = checked = 0
    for cohort, row in cohorts.table.cohorts():
        expected = binary_metrics.metrics(truth[cohort.span])
        found = cohorts.figures(row, lambda number: f"{number:g}")
        differing += set(found) != set(expected)
        differing += sum(found[name] != expected[name] for name in set(found) & set(expected))
        differing += row[PREDICTIONS] != (days == cohort.span).sum()
        differing += row[LABELS] != (days[alive] == cohort.span).sum()
        checked += len(expected)
    figures.report("numbers_checked", checked, least=600)
    figures.report("numbers_that_differ_from_the_batch_truth", differing, most=0)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    figures = Figures("labels-late")
    corrected(figures, options.seed)
    exact(figures, options.seed)
    figures.exit()


if __name__ == "__main__":
    main()
