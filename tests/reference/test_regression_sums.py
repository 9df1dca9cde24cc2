"""Metrics of a regression from exact sums, against scikit-learn's and exact arithmetic, at any order and correction."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from sklearn import metrics as reference

from tocsin.detectors.binary_metrics import Metric
from tocsin.detectors.regression_sums import WIDTH, count, metrics


def counted(predicted: np.ndarray, label: np.ndarray) -> np.ndarray:
    table = np.zeros((1, WIDTH), np.int64)
    count(table, np.zeros(len(label), np.int64), predicted, label, 1)
    return table


def pairs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n, unit = int(rng.integers(2, 2000)), 10.0 ** rng.uniform(-6, 6)
    label = unit * (rng.normal(size=n) + (seed % 3) * 100)
    return label + unit * rng.normal(size=n) * rng.uniform(0.01, 2), label


@pytest.mark.parametrize("seed", range(40))
def test_they_are_scikit_learns(seed: int) -> None:
    predicted, label = pairs(seed)
    found = metrics(counted(predicted, label)[0])
    expected = {
        "mae": reference.mean_absolute_error(label, predicted),
        "mse": reference.mean_squared_error(label, predicted),
        "rmse": reference.root_mean_squared_error(label, predicted),
        "r2": reference.r2_score(label, predicted),
        "mean_error": float((predicted - label).mean()),
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, rel=1e-9, abs=1e-12), name
        assert found[name].low <= found[name].value <= found[name].high, name


def test_far_from_0_it_is_what_exact_arithmetic_says() -> None:
    rng = np.random.default_rng(0)
    label = 1e9 + rng.normal(size=500)
    predicted = label + 0.5 * rng.normal(size=500)
    y, p = [[Fraction(x) for x in of.tolist()] for of in (label, predicted)]
    mean = sum(y) / 500
    lost = sum(Fraction(float(a) - float(b)) ** 2 for a, b in zip(y, p, strict=True))
    expected = 1 - lost / sum((a - mean) ** 2 for a in y)
    assert metrics(counted(predicted, label)[0])["r2"].value == float(expected)


def test_any_order_merge_and_correction_gives_the_same_sums() -> None:
    predicted, label = pairs(3)
    whole = metrics(counted(predicted, label)[0])
    order = np.random.default_rng(0).permutation(len(label))
    merged = sum(counted(predicted[part], label[part]) for part in np.array_split(order, 7))
    assert metrics(merged[0]) == whole
    wrong = label.copy()
    wrong[::3] *= -3.1
    corrected = counted(predicted, wrong)
    cells = np.zeros(len(label[::3]), np.int64)
    count(corrected, cells, predicted[::3], wrong[::3], -1)
    count(corrected, cells, predicted[::3], label[::3], 1)
    assert metrics(corrected[0]) == whole


def test_what_is_no_pair_is_not_counted_and_what_is_not_known_has_no_entry() -> None:
    label = np.array([1.0, np.nan, np.inf, 1e71, 1.0, 1.0])
    predicted = np.array([2.0, 1.0, 1.0, 1.0, -np.inf, 1.5])
    table = counted(predicted, label)
    count(table, np.array([-1]), np.array([9.0]), np.array([1.0]), 1)
    found = metrics(table[0])
    assert set(found) == {"mae", "mse", "rmse", "mean_error"}  # all labels are the same
    assert (found["mae"].value, found["mean_error"].value) == (0.75, 0.75)
    assert metrics(np.zeros(WIDTH, np.int64)) == {}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e9])
def test_what_one_pair_or_equal_errors_tell_has_no_interval(scale: float) -> None:
    def unknown(predicted: list[float], label: list[float]) -> set[str]:
        found = metrics(counted(scale * np.array(predicted), scale * np.array(label))[0])
        ends = {name: {np.isnan(one.low), np.isnan(one.high)} for name, one in found.items()}
        assert all(len(both) == 1 for both in ends.values())
        return {name for name, both in ends.items() if both == {True}}

    errors = {"mae", "mse", "rmse"}
    assert unknown([1.3], [0.9]) == {*errors, "mean_error"}
    assert unknown([0.5] * 9, [0.25] * 9) == {*errors, "mean_error"}
    assert unknown([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == {*errors, "mean_error", "r2"}
    assert unknown([1.5, 1.5, 3.5], [1.0, 2.0, 3.0]) == errors  # of one size, to either side
    assert unknown([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]) == {"r2"}  # 0 by construction
    assert unknown([1.1, 2.0, 3.4], [1.0, 2.3, 3.0]) == set()


def test_intervals_of_a_few_pairs_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    label = rng.normal(size=(2000, 3))
    predicted = label + rng.normal(size=label.shape)
    found = [metrics(counted(p, y)[0])["mean_error"] for p, y in zip(predicted, label, strict=True)]
    assert 0.94 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.96


def test_the_largest_pairs_are_counted() -> None:
    found = metrics(counted(np.array([1e70, -1e70]), np.array([-1e70, 1e70]))[0])
    assert found["mae"].value == pytest.approx(2e70)
    assert found["r2"].value == pytest.approx(-3)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    def drawn(seed: int, n: int) -> dict[str, Metric]:
        rng = np.random.default_rng(seed)
        label = 5 + rng.normal(size=n) * 2
        return metrics(
            counted(label + rng.normal(size=n) * (0.5 + 0.2 * np.abs(label - 5)), label)[0]
        )

    truth = drawn(0, 1_000_000)
    samples = [drawn(seed, 800) for seed in range(1, 301)]
    for name, of in truth.items():
        held = np.mean([s[name].low <= of.value <= s[name].high for s in samples])
        assert 0.9 <= held <= 0.99, (name, held)
