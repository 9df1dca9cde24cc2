"""Metrics of several classes expected before labels come: against the formulas, and against labels that came."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from tocsin.detectors import class_counts
from tocsin.detectors.calibration import Calibration
from tocsin.detectors.class_cbpe import against_rest, chances, count, estimates
from tocsin.detectors.gaps import estimated_of_several

CLASSES = 4


def drawn(seed: int, n: int, *, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return predictions, scores, too sure of themselves, and labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, CLASSES)) * 1.2 + shift * np.arange(CLASSES) / 4
    truth = np.exp(logits)
    truth /= truth.sum(axis=1, keepdims=True)
    sure = np.exp(1.6 * logits)
    score = sure / sure.sum(axis=1, keepdims=True)
    label = (rng.random(n)[:, None] > np.cumsum(truth, axis=1)).sum(axis=1)
    return score.argmax(axis=1), score, np.minimum(label, CLASSES - 1)


def fitted(seed: int, n: int) -> list[Calibration]:
    _, score, label = drawn(seed, n)
    return [Calibration.fit(score[:, k], (label == k) * 1.0) for k in range(CLASSES)]


def counted(predicted: np.ndarray, chance: np.ndarray) -> np.ndarray:
    table = np.zeros((1, CLASSES + 1, CLASSES), np.int64)
    count(table, np.zeros(len(predicted), np.int64), predicted, chance, 1)
    return table


@pytest.mark.parametrize("seed", range(5))
def test_they_are_the_formulas(seed: int) -> None:
    """Scikit-learn's metrics of each event taken once as each class, with its probability as the weight."""
    predicted, score, _ = drawn(seed + 50, 300)
    chance = chances(score, fitted(seed, 3000))
    np.testing.assert_allclose(chance.sum(axis=1), 1.0, rtol=1e-12)
    found = estimates(counted(predicted, chance)[0])
    label = np.tile(np.arange(CLASSES), 300)
    of = {"y_true": label, "y_pred": np.repeat(predicted, CLASSES), "sample_weight": chance.ravel()}
    assert found["accuracy"].value == pytest.approx(reference.accuracy_score(**of), abs=1e-9)
    for name in ("precision", "recall", "f1"):
        score_of = getattr(reference, f"{name}_score")
        for average in ("macro", "weighted"):
            expected = score_of(average=average, **of)
            assert found[f"{name}:{average}"].value == pytest.approx(expected, abs=1e-9)
        each = [found[f"{name}:{k}"].value for k in range(CLASSES)]
        np.testing.assert_allclose(each, score_of(average=None, **of), atol=1e-9)


def test_names_are_those_of_realised_metrics_and_intervals_hold_them() -> None:
    """Of 300 samples of 1,000 events, shifted from the reference of 50,000."""
    calibrations = fitted(0, 50_000)
    held: dict[str, list[bool]] = {}
    for seed in range(300):
        predicted, score, label = drawn(seed + 1000, 1000, shift=1.0)
        found = estimates(counted(predicted, chances(score, calibrations))[0])
        confusion = np.zeros((1, CLASSES, CLASSES), np.int64)
        class_counts.count(confusion, np.zeros(1000, np.int64), predicted, label, 1)
        truth = class_counts.metrics(confusion[0])
        assert set(found) == set(truth)
        for name, of in truth.items():
            held.setdefault(name, []).append(found[name].low <= of.value <= found[name].high)
    for name, of in held.items():
        assert 0.9 <= np.mean(of) <= 0.995, (name, np.mean(of))


def test_a_class_against_the_rest_is_the_formulas() -> None:
    predicted, score, _ = drawn(7, 300)
    chance = chances(score, fitted(0, 3000))
    part = counted(predicted, chance)[0]
    label, said = np.tile(np.arange(CLASSES), 300), np.repeat(predicted, CLASSES)
    for k in range(CLASSES):
        found = against_rest(part, k)
        of = {"y_true": label == k, "y_pred": said == k, "sample_weight": chance.ravel()}
        for name in ("accuracy", "precision", "recall"):
            expected = getattr(reference, f"{name}_score")(**of)
            assert found[name].value == pytest.approx(expected, abs=1e-9)
        tnr = reference.recall_score(**of, pos_label=False)
        assert found["false_positive_rate"].value == pytest.approx(1 - tnr, abs=1e-9)
        same = estimated_of_several(part, part, k)
        assert set(same) == {*found, "equalised_odds"}
        assert all(gap.value == 0 for gap in same.values())


def gaps_that_came(label: np.ndarray, said: np.ndarray, is_a: np.ndarray) -> dict[str, float]:
    of = {}
    for name, hit, given in (
        ("accuracy", label == said, np.ones(len(label), bool)), ("precision", label, said),
        ("recall", said, label), ("false_positive_rate", said, ~label),
    ):  # fmt: skip
        a, b = (hit[given & side].mean() for side in (is_a, ~is_a))
        of[name] = a - b
    return of | {"equalised_odds": max(abs(of["recall"]), abs(of["false_positive_rate"]))}


def test_estimated_gaps_hold_those_that_come() -> None:
    """Of 300 samples of 1,500 events, in which one group comes with other scores, of a reference of 50,000."""
    calibrations = fitted(0, 50_000)
    held: dict[str, list[bool]] = {}
    for seed in range(300):
        parts = [drawn(seed + 1000, 1000, shift=1.0), drawn(seed + 5000, 500)]
        a, b = (counted(said, chances(score, calibrations))[0] for said, score, _ in parts)
        said, label = (np.concatenate([part[k] for part in parts]) == 2 for k in (0, 2))
        for name, value in gaps_that_came(label, said, np.arange(1500) < 1000).items():
            gap = estimated_of_several(a, b, 2)[name]
            held.setdefault(name, []).append(gap.low <= value <= gap.high)
    for name, of in held.items():
        assert 0.9 <= np.mean(of) <= 1, (name, np.mean(of))


def test_estimated_gaps_of_what_cannot_be_told_have_no_entry() -> None:
    nothing = np.zeros((CLASSES + 1, CLASSES), np.int64)
    certain = np.zeros((10, CLASSES))
    certain[:, 0] = 1.0
    one = counted(np.full(10, 1), certain)[0]
    assert estimated_of_several(one, nothing, 1) == {} == estimated_of_several(nothing, nothing, 1)
    found = estimated_of_several(one, one, 1)  # nothing is ever of class 1, and all is said to be
    assert set(found) == {"accuracy", "precision", "false_positive_rate"}


def test_any_order_cut_merge_and_removal_gives_the_same_sums() -> None:
    predicted, score, _ = drawn(1, 2000)
    chance = chances(score, fitted(0, 3000))
    whole = counted(predicted, chance)
    order = np.random.default_rng(0).permutation(2000)
    parts = np.array_split(order, 5)
    merged = sum(counted(predicted[part], chance[part]) for part in parts)
    np.testing.assert_array_equal(merged, whole)
    count(whole, np.zeros(2000, np.int64), predicted, chance, -1)
    assert not whole.any()
    one_by_one = [chances(score[i : i + 1], fitted(0, 3000)) for i in range(3)]
    np.testing.assert_array_equal(np.concatenate(one_by_one), chance[:3])


def test_what_is_no_event_is_not_counted_and_what_cannot_be_told_has_no_entry() -> None:
    calibrations = fitted(0, 3000)
    score = np.full((5, CLASSES), 0.25)
    score[0, 2], score[1, 3] = np.nan, 1.5
    chance = chances(score, calibrations)
    assert np.isnan(chance[:2]).all()
    assert not counted(np.array([1, 1, -1, CLASSES, 7]), chance).any()
    assert estimates(np.zeros((CLASSES + 1, CLASSES), np.int64)) == {}
    certain = np.zeros((10, CLASSES))
    certain[:, 0] = 1.0
    found = estimates(counted(np.full(10, 1), certain)[0])
    assert {name: found[name].value for name in ("accuracy", "precision:1", "recall:0")} == {
        "accuracy": 0.0, "precision:1": 0.0, "recall:0": 0.0,
    }  # fmt: skip
    assert not {"precision:0", "recall:1", "precision:2", "f1:2"} & set(found)
    none = Calibration(np.array([0.5]), np.array([0.0, 1.0]), np.full(2, 100))
    assert np.isnan(chances(np.full((1, CLASSES), 0.1), [none] * CLASSES)).all()
