"""Metrics expected before labels come: against the formulas in floats, and against labels that came in the end."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from tocsin.detectors import binary_counts
from tocsin.detectors.binary_metrics import Metric, metrics
from tocsin.detectors.calibration import Calibration
from tocsin.detectors.cbpe import WIDTH, _log, count, estimates

CUT = 0.4


def drawn(seed: int, n: int, *, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return predictions, scores and labels, which are 1 less often than the scores say."""
    rng = np.random.default_rng(seed)
    score = rng.beta(1 + shift, 2, n)
    return (score > CUT) * 1.0, score, (rng.random(n) < score**1.3) * 1.0


def fitted(seed: int, n: int) -> Calibration:
    _, score, label = drawn(seed, n)
    return Calibration.fit(score, label)


def counted(predicted: np.ndarray, score: np.ndarray, calibration: Calibration) -> np.ndarray:
    table = np.zeros((1, WIDTH), np.int64)
    count(table, np.zeros(len(score), np.int64), predicted, score, calibration, 1)
    return table


def realised(predicted: np.ndarray, score: np.ndarray, label: np.ndarray) -> dict[str, Metric]:
    table = np.zeros((1, binary_counts.WIDTH), np.int64)
    binary_counts.count(table, np.zeros(len(label), np.int64), predicted, label, score, 1)
    found = metrics(table[0])
    del found["ece"]
    return found


@pytest.mark.parametrize("seed", range(10))
def test_they_are_the_formulas(seed: int) -> None:
    """NannyML's, and scikit-learn's metrics of each event taken twice: as a 1 that weighs c, as a 0 that weighs 1 - c."""
    calibration = fitted(seed, 2000)
    predicted, score, _ = drawn(seed + 100, 700 + seed, shift=seed / 5)
    found = estimates(counted(predicted, score, calibration)[0], calibration)
    c = calibration.apply(score)
    twice = {
        "y_true": np.repeat([1.0, 0.0], len(c)), "sample_weight": np.concatenate([c, 1 - c]),
    }  # fmt: skip
    said, scores = np.tile(predicted, 2), np.tile(score, 2)
    tp, fn = c @ predicted, c @ (1 - predicted)
    expected = {
        "accuracy": reference.accuracy_score(y_pred=said, **twice),
        "precision": tp / predicted.sum(),
        "recall": tp / (tp + fn),
        "specificity": reference.recall_score(y_pred=said, pos_label=0, **twice),
        "npv": reference.precision_score(y_pred=said, pos_label=0, **twice),
        "f1": reference.f1_score(y_pred=said, **twice),
        "f1:0": reference.f1_score(y_pred=said, pos_label=0, **twice),
        "brier": np.mean(c * (1 - score) ** 2 + (1 - c) * score**2),
        "log_loss": -np.mean(c * np.log(score) + (1 - c) * np.log(1 - score)),
        "roc_auc": reference.roc_auc_score(y_score=scores, **twice),
        "average_precision": reference.average_precision_score(y_score=scores, **twice),
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        # A label that weighs c has a tie with itself that a whole one has not: 1 of `positives` at most.
        slack = found[name].error + (0.5 / (tp + fn) if name == "average_precision" else 0.0)
        assert abs(found[name].value - value) <= slack + 1e-8, name
        assert found[name].low <= found[name].value <= found[name].high, name


def test_intervals_hold_the_realised_value_as_often_as_they_say() -> None:
    """Of 400 samples of 1,500 events, shifted from their reference of 4,000, which is another each time."""
    held: dict[str, list[bool]] = {}
    alone: dict[str, list[bool]] = {}
    for seed in range(400):
        calibration = fitted(seed, 4000)
        predicted, score, label = drawn(seed + 1000, 1500, shift=0.5)
        row = counted(predicted, score, calibration)[0]
        truth = realised(predicted, score, label)
        found = estimates(row, calibration)
        calibration.spread = np.zeros_like(calibration.spread)
        without = estimates(row, calibration)
        assert set(found) == set(truth)
        for name, of in truth.items():
            held.setdefault(name, []).append(found[name].low <= of.value <= found[name].high)
            alone.setdefault(name, []).append(without[name].low <= of.value <= without[name].high)
    for name, of in held.items():
        assert 0.9 <= np.mean(of) <= 0.99, (name, np.mean(of))
        # It is not held if the reference is taken for the truth.
        assert np.mean(alone[name]) < np.mean(of) - 0.02, (name, np.mean(alone[name]))


def test_the_variance_is_that_of_labels_drawn_anew() -> None:
    """With a calibration that is the truth: 2,000 times the labels of the same 400 events."""
    calibration = fitted(0, 50_000)
    calibration.spread = np.zeros_like(calibration.spread)
    predicted, score, _ = drawn(1, 400)
    found = estimates(counted(predicted, score, calibration)[0], calibration)
    c, rng = calibration.apply(score), np.random.default_rng(0)
    labels = (rng.random((2000, 400)) < c) * 1.0
    values = [realised(predicted, score, label) for label in labels]
    for name, metric in found.items():
        truth = np.array([value[name].value for value in values])
        half = (metric.high - metric.low) / 2 / 1.96
        assert half == pytest.approx(truth.std(), rel=0.12), name
        assert metric.value == pytest.approx(truth.mean(), abs=0.1 * truth.std() + 1e-4), name


def test_any_order_cut_merge_and_removal_gives_the_same_sums() -> None:
    calibration = fitted(0, 2000)
    predicted, score, _ = drawn(1, 3000)
    whole = counted(predicted, score, calibration)
    order = np.random.default_rng(0).permutation(3000)
    parts = np.array_split(order, 7)
    merged = sum(counted(predicted[part], score[part], calibration) for part in parts)
    np.testing.assert_array_equal(merged, whole)
    cells = np.arange(3000) % 3
    table = np.zeros((3, WIDTH), np.int64)
    count(table, cells, predicted, score, calibration, 1)
    np.testing.assert_array_equal(table.sum(axis=0), whole[0])
    count(table, np.where(cells == 1, 1, -1), predicted, score, calibration, -1)
    assert not table[1].any()
    kept = cells != 1
    again = counted(predicted[kept], score[kept], calibration)
    np.testing.assert_array_equal(table[0] + table[2], again[0])


def test_what_is_no_event_is_not_counted_and_what_has_no_prediction_has_a_score() -> None:
    calibration = fitted(0, 2000)
    nan, inf = np.nan, np.inf
    score = np.array([nan, inf, -0.1, 1.1, 0.5, 0.5, 0.5])
    predicted = np.array([1.0, 1.0, 1.0, 1.0, nan, 2.0, -inf])
    row = counted(predicted, score, calibration)[0]
    found = estimates(row, calibration)
    c = calibration.apply(np.array([0.5]))[0]
    assert set(found) == {"brier", "log_loss", "roc_auc", "average_precision"}
    assert found["brier"].value == pytest.approx(0.25)
    assert found["roc_auc"].value == pytest.approx(0.5)
    assert abs(found["average_precision"].value - c) <= found["average_precision"].error


def test_what_cannot_be_told_has_no_entry() -> None:
    calibration = Calibration(np.array([0.2, 0.8]), np.array([0.0, 0.5, 1.0]), np.full(3, 100))
    assert estimates(np.zeros(WIDTH, np.int64), calibration) == {}

    def known(predicted: float, score: float) -> set[str]:
        n = np.ones(20)
        return set(estimates(counted(predicted * n, score * n, calibration)[0], calibration))

    always = {"accuracy", "brier", "log_loss"}
    assert known(0, 0.1) == always | {"npv", "specificity", "f1:0"}
    assert known(1, 0.1) == always | {"precision", "specificity", "f1", "f1:0"}
    assert known(1, 0.9) == always | {"precision", "recall", "f1", "average_precision"}
    assert known(1, 0.5) == always | {
        "precision", "recall", "specificity", "f1", "f1:0", "roc_auc", "average_precision",
    }  # fmt: skip


def test_what_seems_certain_still_has_an_interval() -> None:
    calibration = Calibration(np.array([0.5]), np.array([0.0, 1.0]), np.full(2, 200))
    score = np.repeat([0.1, 0.9], 500)
    found = estimates(counted((score > 0.5) * 1.0, score, calibration)[0], calibration)
    assert found["accuracy"].value == 1.0
    assert 0.98 < found["accuracy"].low < 0.9965


def test_the_logarithm_is_one() -> None:
    x = np.concatenate(
        [np.random.default_rng(0).random(2000) ** 8, [1.0, 0.5, 2.0**-52, 1 - 2**-53]]
    )
    for value in x.tolist():
        assert _log(value) == pytest.approx(math.log(value), rel=1e-13, abs=1e-14)
