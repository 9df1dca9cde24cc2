"""Every performance metric against scikit-learn's, on random streams at random cuts, and what an event costs beside River's.

A third of the streams are binary, a third of several classes, a third numbers. Some are degenerate: one class, one pair, all
predictions alike, scores of 0 and 1, labels that are constant. A metric that scikit-learn does not define must be unknown here
too. `worst_difference` is the largest distance from scikit-learn's, of regressions in units of the metric, less what a binned metric
says that it may be off by; `median_bound` the median of such bounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from river import metrics as river
from sklearn import metrics as sklearn_metrics

from tocsin.core.columns import Floats, Ints
from tocsin.detectors import (
    binary_counts,
    binary_metrics,
    class_counts,
    class_scores,
    regression_sums,
)
from tocsin.detectors.binary_metrics import Metric

from .common import Figures

reference: Any = sklearn_metrics  # its types are those of its defaults

_STREAMS: Final = 200
_EVENTS: Final = 1_000_000
_BATCH: Final = 256
_ROUNDS: Final = 5
_RIVER_EVENTS: Final = 20_000


def cuts(rng: np.random.Generator, n: int) -> Iterator[slice]:
    """Yield parts of 1 to 300 events."""
    at = 0
    while at < n:
        end = min(n, at + int(rng.integers(1, 301)))
        yield slice(at, end)
        at = end


def size_of(rng: np.random.Generator) -> int:
    """Return how many pairs a stream has: of every fourth stream very few."""
    return int(rng.integers(1, 6) if rng.random() < 0.25 else rng.integers(6, 5000))


def binary(rng: np.random.Generator) -> tuple[dict[str, Metric], dict[str, float]]:
    """Return what is found on one stream, and what scikit-learn says."""
    n = size_of(rng)
    a, b = rng.uniform(0.1, 3, 2)
    score = rng.beta(a, b, n)
    label = (rng.random(n) < score ** rng.uniform(0.5, 2)).astype(np.float64)
    predicted = (score > rng.uniform(0, 1)).astype(np.float64)
    odd = rng.integers(8)
    if odd == 0:
        label[:] = rng.integers(2)
    if odd == 1:
        predicted[:] = rng.integers(2)
    if odd == 2:
        score = np.round(score)
    table = np.zeros((1, binary_counts.WIDTH), np.int64)
    for part in cuts(rng, n):
        cells = np.zeros(part.stop - part.start, np.int64)
        binary_counts.count(table, cells, predicted[part], label[part], score[part], 1)
    expected = {
        "accuracy": reference.accuracy_score(label, predicted),
        "brier": reference.brier_score_loss(label, score, pos_label=1.0),
        "log_loss": reference.log_loss(label, score, labels=[0, 1]),
        "ece": error_of_calibration(score, label),
    }
    kinds = {
        "precision": (1, predicted),
        "npv": (0, predicted),
        "recall": (1, label),
        "specificity": (0, label),
    }
    for name, (of, among) in kinds.items():
        if (among == of).any():
            measure = reference.recall_score if among is label else reference.precision_score
            expected[name] = measure(label, predicted, pos_label=of, zero_division=0)
    for name, of in (("f1", 1), ("f1:0", 0)):
        if (label == of).any() or (predicted == of).any():
            expected[name] = reference.f1_score(label, predicted, pos_label=of)
    if label.any():
        expected["average_precision"] = reference.average_precision_score(label, score)
        if not label.all():
            expected["roc_auc"] = reference.roc_auc_score(label, score)
    return binary_metrics.metrics(table[0]), expected


def multiclass(rng: np.random.Generator) -> tuple[dict[str, Metric], dict[str, float]]:
    """Return what is found on one stream, and what scikit-learn says."""
    n, classes = size_of(rng), int(rng.integers(2, 20))
    scores = rng.dirichlet(np.full(classes, rng.uniform(0.05, 3)), n)
    label = (rng.random((n, 1)) > np.cumsum(scores, axis=1)).sum(axis=1).clip(0, classes - 1)
    odd = rng.integers(8)
    if odd == 0:
        label[:] = rng.integers(classes)
    if odd == 1:
        scores = np.eye(classes)[rng.integers(classes, size=n)]
    predicted = scores.argmax(axis=1)
    if odd == 2:
        predicted[:] = rng.integers(classes)
    confusion = np.zeros((1, classes, classes), np.int64)
    table = np.zeros((1, class_scores.width(classes)), np.int64)
    for part in cuts(rng, n):
        cells = np.zeros(part.stop - part.start, np.int64)
        class_counts.count(confusion, cells, predicted[part], label[part], 1)
        class_scores.count(table, cells, label[part], scores[part], 1)
    found = class_counts.metrics(confusion[0]) | class_scores.metrics(table[0], classes)
    return found, of_classes(label, predicted, scores)


def of_classes(label: Ints, predicted: Ints, scores: Floats) -> dict[str, float]:
    """Return what scikit-learn says about several classes."""
    n, classes = scores.shape
    ones = np.eye(classes)[label]
    expected = {
        "accuracy": reference.accuracy_score(label, predicted),
        "brier": float(np.mean(((scores - ones) ** 2).sum(axis=1))),
        "log_loss": reference.log_loss(label, scores, labels=range(classes)),
        "ece": error_of_calibration(scores.max(axis=1), scores.argmax(axis=1) == label),
    }
    seen = np.unique(np.concatenate([predicted, label]))
    for average in ("micro", "macro", "weighted", None):
        of = reference.precision_recall_fscore_support(
            label, predicted, average=average, labels=seen, zero_division=np.nan
        )[:3]
        for name, value in zip(("precision", "recall", "f1"), of, strict=True):
            if average:
                expected[f"{name}:{average}"] = value
            else:
                expected |= {f"{name}:{k}": v for k, v in zip(seen, value, strict=True)}
    if not np.isin(label, predicted).any():  # nothing to weigh precisions by
        del expected["precision:weighted"]
    expected = {name: value for name, value in expected.items() if not np.isnan(value)}
    true = ones.sum(axis=0)
    for name, measure, most in (
        ("roc_auc", reference.roc_auc_score, n),
        ("average_precision", reference.average_precision_score, n + 1),
    ):
        known = [j for j in range(classes) if 0 < true[j] < most]
        each = [measure(ones[:, j], scores[:, j]) for j in known]
        expected |= {f"{name}:{j}": value for j, value in zip(known, each, strict=True)}
        if known:
            expected[f"{name}:macro"] = float(np.mean(each))
            expected[f"{name}:weighted"] = float(np.average(each, weights=true[known]))
    return expected


def regression(rng: np.random.Generator) -> tuple[dict[str, Metric], dict[str, float]]:
    """Return what is found on one stream, and what scikit-learn says, both in units of the label's size."""
    n, unit = size_of(rng), 10.0 ** rng.uniform(-6, 6)
    label = unit * (rng.normal(size=n) + rng.integers(3) * 10)
    predicted = label + unit * rng.normal(size=n) * rng.uniform(0.01, 2)
    if rng.integers(8) == 0:
        label[:] = unit
    table = np.zeros((1, regression_sums.WIDTH), np.int64)
    for part in cuts(rng, n):
        cells = np.zeros(part.stop - part.start, np.int64)
        regression_sums.count(table, cells, predicted[part], label[part], 1)
    expected = {
        "mae": reference.mean_absolute_error(label, predicted),
        "mse": reference.mean_squared_error(label, predicted),
        "rmse": reference.root_mean_squared_error(label, predicted),
        "mean_error": float((predicted - label).mean()),
    }
    if np.ptp(label) > 0:
        expected["r2"] = reference.r2_score(label, predicted)
    scales = {"mse": unit**2, "r2": max(1.0, abs(expected.get("r2", 1.0)))}
    found = regression_sums.metrics(table[0])
    return (
        {name: Metric(*(x / scales.get(name, unit) for x in of)) for name, of in found.items()},
        {name: value / scales.get(name, unit) for name, value in expected.items()},
    )


def error_of_calibration(score: Floats, right: NDArray[Any]) -> float:
    """Return the expected calibration error over ten bins of one width."""
    place = np.minimum((score * 10).astype(int), 9)
    gaps = np.bincount(place, np.asarray(right, float) - score)
    return float(np.abs(gaps).sum() / len(score))


def agreement(figures: Figures, seed: int) -> None:
    """Report the largest differences over all streams."""
    worst, unknown, errors = 0.0, 0, [0.0]
    for k in range(_STREAMS):
        kind = (binary, multiclass, regression)[k % 3]
        found, expected = kind(np.random.default_rng([seed, k]))
        unknown += len(set(found) ^ set(expected))
        for name in set(found) & set(expected):
            metric = found[name]
            worst = max(worst, abs(metric.value - expected[name]) - metric.error)
            errors.append(metric.error)
    figures.report("streams", _STREAMS)
    figures.report("metrics_that_only_one_of_both_knows", unknown, most=0)
    figures.report("worst_difference", worst, most=1e-9)
    figures.report("median_bound", float(np.median([e for e in errors if e] or [0.0])))


def speed(figures: Figures, seed: int) -> None:
    """Report what a pair costs, in batches of 256, and what it costs River to keep the same metrics."""
    rng = np.random.default_rng([seed, 1])
    score = rng.beta(1, 4, _EVENTS)
    label = (rng.random(_EVENTS) < score).astype(np.float64)
    predicted = (score > 0.5).astype(np.float64)
    cells = rng.integers(0, 30, _EVENTS)
    table = np.zeros((30, binary_counts.WIDTH), np.int64)
    taken = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        for at in range(0, _EVENTS, _BATCH):
            part = slice(at, at + _BATCH)
            binary_counts.count(table, cells[part], predicted[part], label[part], score[part], 1)
        taken.append((time.process_time() - began) / _EVENTS)
    ours = float(np.median(taken))
    rivals = [
        river.Accuracy(), river.Precision(), river.Recall(), river.F1(), river.LogLoss(), river.ROCAUC(),
    ]  # fmt: skip
    began = time.process_time()
    rows = zip(
        label[:_RIVER_EVENTS] == 1,
        predicted[:_RIVER_EVENTS] == 1,
        score[:_RIVER_EVENTS].tolist(),
        strict=True,
    )
    for true, said, p in rows:
        for metric in rivals:
            metric.update(true, p if metric.requires_labels is False else said)
    river_takes = (time.process_time() - began) / _RIVER_EVENTS
    figures.report("binary_us_per_event", ours * 1e6, most=1.0)
    figures.report("river_us_per_event", river_takes * 1e6)
    figures.report("river_over_tocsin", river_takes / ours)
    began = time.process_time()
    for _ in range(100):
        binary_metrics.metrics(table[0])
    figures.report("us_to_read_all_binary_metrics", (time.process_time() - began) * 1e4)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    figures = Figures("metrics")
    agreement(figures, options.seed)
    speed(figures, options.seed)
    figures.exit()


if __name__ == "__main__":
    main()
