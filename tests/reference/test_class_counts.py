"""Metrics of several classes from a confusion matrix, against scikit-learn's, and how often their intervals hold."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from tocsin.detectors.binary_metrics import Metric
from tocsin.detectors.class_counts import count, metrics


def counted(predicted: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    table = np.zeros((1, classes, classes), np.int64)
    count(table, np.zeros(len(label), np.int64), predicted, label, 1)
    return table


def pairs(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    rng = np.random.default_rng(seed)
    classes, n = int(rng.integers(1, 12)), int(rng.integers(1, 2000 if seed % 2 else 8))
    label = rng.choice(classes, n, p=rng.dirichlet(np.full(classes, 0.5)))
    predicted = np.where(rng.random(n) < rng.random(), label, rng.integers(0, classes, n))
    return predicted, label, classes


@pytest.mark.parametrize("seed", range(40))
def test_they_are_scikit_learns(seed: int) -> None:
    predicted, label, classes = pairs(seed)
    found = metrics(counted(predicted, label, classes)[0])
    expected = {"accuracy": accuracy_score(label, predicted)}
    seen = np.unique(np.concatenate([predicted, label]))
    names = ("precision", "recall", "f1")
    for average in ("micro", "macro", "weighted", None):
        of = precision_recall_fscore_support(
            label, predicted, average=average, labels=seen, zero_division=np.nan
        )[:3]
        for name, value in zip(names, of, strict=True):
            if average:
                expected[f"{name}:{average}"] = value
            else:
                expected |= {f"{name}:{k}": v for k, v in zip(seen, value, strict=True)}
    if not np.isin(label, predicted).any():  # nothing to weigh precisions by
        del expected["precision:weighted"]
    expected = {name: value for name, value in expected.items() if not np.isnan(value)}
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name
        assert 0 <= found[name].low <= found[name].value <= found[name].high <= 1, name


def test_what_was_added_can_be_taken_away_and_what_is_no_class_is_not_counted() -> None:
    predicted, label, classes = pairs(3)
    table = counted(predicted, label, classes)
    more = np.array([0, -1, 0]), np.array([-1, 0, 0])
    count(table, np.zeros(3, np.int64), *more, 1)
    count(table, np.full(3, -1), *more, 1)
    count(table, np.zeros(3, np.int64), *more, -1)
    np.testing.assert_array_equal(table, counted(predicted, label, classes))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    def drawn(seed: int, n: int) -> dict[str, Metric]:
        rng = np.random.default_rng(seed)
        label = rng.choice(3, n, p=[0.6, 0.3, 0.1])
        predicted = np.where(rng.random(n) < 0.7, label, rng.integers(0, 3, n))
        return metrics(counted(predicted, label, 3)[0])

    truth = drawn(0, 1_000_000)
    samples = [drawn(seed, 500) for seed in range(1, 401)]
    for name, of in truth.items():
        held = np.mean([s[name].low <= of.value <= s[name].high for s in samples])
        assert 0.91 <= held <= 0.995, (name, held)
