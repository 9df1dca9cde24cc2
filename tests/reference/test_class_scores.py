"""Metrics of the scores of several classes from counts, against scikit-learn's, at any cut, order and after corrections."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from tocsin.detectors.binary_metrics import Metric
from tocsin.detectors.class_scores import count, metrics, width


def pairs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and scores; of some seeds with few pairs, classes that never come, ties and certain scores."""
    rng = np.random.default_rng(seed)
    classes, n = int(rng.integers(2, 25)), int(rng.integers(1, 2000 if seed % 3 else 6))
    scores = rng.dirichlet(np.full(classes, rng.uniform(0.05, 3)), n)
    label = (rng.random((n, 1)) > np.cumsum(scores, axis=1)).sum(axis=1).clip(0, classes - 1)
    if seed % 5 == 0:
        label[:] = rng.integers(classes)
    if seed % 5 == 1:
        scores = np.eye(classes)[rng.integers(classes, size=n)]
    return label, scores


def counted(label: np.ndarray, scores: np.ndarray) -> np.ndarray:
    table = np.zeros((1, width(scores.shape[1])), np.int64)
    count(table, np.zeros(len(label), np.int64), label, scores, 1)
    return table


@pytest.mark.parametrize("seed", range(40))
def test_they_are_scikit_learns(seed: int) -> None:
    label, scores = pairs(seed)
    n, classes = scores.shape
    found = metrics(counted(label, scores)[0], classes)
    ones = np.eye(classes)[label]
    expected = {
        "brier": np.mean(((scores - ones) ** 2).sum(axis=1)),
        "log_loss": reference.log_loss(label, scores, labels=range(classes)),
    }
    for name, of, most in (
        ("roc_auc", reference.roc_auc_score, n),
        ("average_precision", reference.average_precision_score, n + 1),
    ):
        true = ones.sum(axis=0)
        known = [j for j in range(classes) if 0 < true[j] < most]
        each = [of(ones[:, j], scores[:, j]) for j in known]
        expected |= {f"{name}:{j}": value for j, value in zip(known, each, strict=True)}
        if known:
            expected[f"{name}:macro"] = np.mean(each)
            expected[f"{name}:weighted"] = np.average(each, weights=true[known])
    assert set(found) == {*expected, "ece"}
    for name, value in expected.items():
        assert abs(found[name].value - value) <= found[name].error + 1e-9, name
        if n == 1 and name in ("brier", "log_loss"):
            assert np.isnan([found[name].low, found[name].high]).all(), name
        else:
            assert found[name].low <= found[name].value <= found[name].high, name
    top = scores.max(axis=1)
    right = scores.argmax(axis=1) == label
    place = np.minimum((top * 10).astype(int), 9)
    gaps = [abs((right - top)[place == k].sum()) for k in range(10)]
    assert found["ece"].value == pytest.approx(sum(gaps) / n, abs=1e-9)


def test_all_classes_there_the_averages_are_scikit_learns_own() -> None:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(4), 1000)
    label = (rng.random((1000, 1)) > np.cumsum(scores, axis=1)).sum(axis=1)
    found = metrics(counted(label, scores)[0], 4)
    for average in ("macro", "weighted"):
        auc = reference.roc_auc_score(label, scores, multi_class="ovr", average=average)
        metric = found[f"roc_auc:{average}"]
        assert abs(metric.value - auc) <= metric.error + 1e-9
        assert metric.error < 1 / 250


def test_any_order_cut_merge_and_correction_gives_the_same_counts() -> None:
    label, scores = pairs(4)
    whole = counted(label, scores)
    order = np.random.default_rng(0).permutation(len(label))
    merged = sum(counted(label[part], scores[part]) for part in np.array_split(order, 7))
    np.testing.assert_array_equal(merged, whole)
    wrong = (label + 1) % scores.shape[1]
    corrected = counted(wrong, scores)
    cells = np.zeros(len(label), np.int64)
    count(corrected, cells, wrong, scores, -1)
    assert not corrected.any()


def test_what_is_no_pair_is_not_counted() -> None:
    scores = np.array([[0.5, 0.5], [np.nan, 1.0], [0.2, 1.2], [1.0, 0.0], [0.1, 0.9]])
    table = np.zeros((1, width(2)), np.int64)
    count(table, np.array([0, 0, 0, -1, 0]), np.array([-1, 1, 1, 0, 2]), scores, 1)
    assert not table.any()
    assert metrics(table[0], 2) == {}


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    def drawn(seed: int, n: int) -> dict[str, Metric]:
        rng = np.random.default_rng(seed)
        scores = rng.dirichlet([2.0, 1.0, 0.5], n)
        label = (
            rng.random((n, 1)) > np.cumsum(scores**0.8, axis=1) / (scores**0.8).sum(axis=1)[:, None]
        ).sum(axis=1)
        return metrics(counted(label.clip(0, 2), scores)[0], 3)

    truth = drawn(0, 400_000)
    samples = [drawn(seed, 600) for seed in range(1, 201)]
    for name, of in truth.items():
        held = np.mean([s[name].low <= of.value <= s[name].high for s in samples])
        # The mean of intervals is wider than the interval of a mean.
        assert 0.9 <= held <= (1.0 if "macro" in name or "weighted" in name else 0.995), (
            name,
            held,
        )
