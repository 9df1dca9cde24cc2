"""Metrics of a binary classifier from counts, against scikit-learn's, at any cut, order and after corrections."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from tocsin.detectors.binary_counts import WIDTH, count
from tocsin.detectors.binary_metrics import Metric, metrics, wilson

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


def pairs(seed: int) -> Pairs:
    """Return predictions, labels and scores; of some seeds with one class only, or with ties and certain scores."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 3000))
    score = rng.beta(*rng.uniform(0.1, 3, 2), n)
    label = (rng.random(n) < score ** rng.uniform(0.5, 2)) * 1.0
    predicted = (score > rng.uniform(0.1, 0.9)) * 1.0
    if seed % 5 == 0:
        label[:] = seed % 2
    if seed % 5 == 1:
        predicted[:] = seed % 2
    if seed % 5 == 2:
        score = np.round(score, 2)
    return predicted, label, score


def counted(predicted: np.ndarray, label: np.ndarray, score: np.ndarray) -> np.ndarray:
    table = np.zeros((1, WIDTH), np.int64)
    count(table, np.zeros(len(label), np.int64), predicted, label, score, 1)
    return table


@pytest.mark.parametrize("seed", range(40))
def test_they_are_scikit_learns(seed: int) -> None:
    predicted, label, score = pairs(seed)
    found = metrics(counted(predicted, label, score)[0])
    expected = {
        "accuracy": reference.accuracy_score(label, predicted),
        "brier": np.mean((label - score) ** 2),
        "log_loss": reference.log_loss(label, score, labels=[0, 1]),
    }
    ones, said = label.sum(), predicted.sum()
    n = len(label)
    if said:
        expected["precision"] = reference.precision_score(label, predicted)
    if said < n:
        expected["npv"] = reference.precision_score(label, predicted, pos_label=0)
    if ones:
        expected["recall"] = reference.recall_score(label, predicted)
        expected["average_precision"] = reference.average_precision_score(label, score)
    if ones < n:
        expected["specificity"] = reference.recall_score(label, predicted, pos_label=0)
    if ones + said:
        expected["f1"] = reference.f1_score(label, predicted)
    if ones + said < 2 * n:
        expected["f1:0"] = reference.f1_score(label, predicted, pos_label=0)
    if 0 < ones < n:
        expected["roc_auc"] = reference.roc_auc_score(label, score)
    assert set(found) == {*expected, "ece"}
    for name, value in expected.items():
        assert abs(found[name].value - value) <= found[name].error + 1e-9, name
    place = np.minimum((score * 10).astype(int), 9)
    gaps = [
        abs((label - score)[place == k].sum()) for k in range(10)
    ]  # of each bin, its share times the gap of its means
    assert found["ece"].value == pytest.approx(sum(gaps) / n, abs=1e-9)
    for name, metric in found.items():
        assert 0 <= metric.low <= metric.value <= metric.high, name


def test_any_order_cut_merge_and_correction_gives_the_same_counts() -> None:
    predicted, label, score = pairs(3)
    whole = counted(predicted, label, score)
    order = np.random.default_rng(0).permutation(len(label))
    parts = np.array_split(order, 7)
    merged = sum(counted(predicted[part], label[part], score[part]) for part in parts)
    np.testing.assert_array_equal(merged, whole)
    wrong = label.copy()
    wrong[::3] = 1 - wrong[::3]
    corrected = counted(predicted, wrong, score)
    cells = np.zeros(len(label[::3]), np.int64)
    count(corrected, cells, predicted[::3], wrong[::3], score[::3], -1)
    count(corrected, cells, predicted[::3], label[::3], score[::3], 1)
    np.testing.assert_array_equal(corrected, whole)


def test_what_is_no_pair_is_not_counted_and_the_rest_is() -> None:
    nan, inf = np.nan, np.inf
    label = np.array([0, 1, nan, 2, 1, 0, 1, 0], float)
    predicted = np.array([0, 1, 1, 1, nan, inf, 1, 0], float)
    score = np.array([nan, 0.9, 0.5, 0.5, 0.7, 1.5, -inf, 0.0], float)
    table = np.zeros((2, WIDTH), np.int64)
    count(table, np.array([0, 0, 0, 0, 0, 0, 0, -1]), predicted, label, score, 1)
    assert not table[1].any()
    found = metrics(table[0])
    assert found["accuracy"].value == 1.0  # of three pairs
    assert found["brier"].value == pytest.approx((0.01 + 0.09) / 2)
    assert "roc_auc" not in found  # no label 0 has a score


def test_one_pair_makes_nobody_certain() -> None:
    found = metrics(counted(np.ones(1), np.ones(1), np.array([0.9]))[0])
    for name in ("brier", "log_loss"):
        assert np.isnan([found[name].low, found[name].high]).all(), name
        assert found[name].value > 0
    others = found.keys() - {"brier", "log_loss"}
    assert others == {"accuracy", "precision", "recall", "f1", "ece", "average_precision"}
    assert all(found[name].high - found[name].low > 0.4 for name in others)


def test_without_pairs_nothing_is_known() -> None:
    assert metrics(np.zeros(WIDTH, np.int64)) == {}


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 300 samples of 800 pairs, against 1,000,000 of the same law."""

    def drawn(seed: int, n: int) -> dict[str, Metric]:
        rng = np.random.default_rng(seed)
        score = rng.beta(1, 4, n)
        label = (rng.random(n) < score**1.3) * 1.0
        return metrics(counted((score > 0.4) * 1.0, label, score)[0])

    truth = drawn(0, 1_000_000)
    samples = [drawn(seed, 800) for seed in range(1, 301)]
    for name, of in truth.items():
        held = np.mean([s[name].low <= of.value <= s[name].high for s in samples])
        assert 0.91 <= held <= 0.995, (name, held)


def test_wilson_knows_of_what_it_has_never_seen() -> None:
    low, high = wilson(0, 10)
    assert (low, high) == (0.0, pytest.approx(0.2775, abs=1e-4))
