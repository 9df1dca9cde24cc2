"""Windowed accuracy, precision, recall, F1, MAE and RMSE are scikit-learn's on the same pairs."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    mean_absolute_error,
    precision_recall_fscore_support,
    root_mean_squared_error,
)

from tocsin.consumers.class_numbers import ClassNumbers
from tocsin.core.columns import Values
from tocsin.detectors.performance import PerformanceWindow

CLASSES = {
    "binary": [0, 1],
    "booleans": [False, True],
    "ten digits": list(range(10)),
    "text": ["cat", "dog", "owl", "", "Katze ☃"],
    "digits as text and as numbers": ["0", "1", 2, "3", 4.5],
    "more classes than pairs": [f"class {k}" for k in range(400)],
    "one class": ["always"],
    "far from zero": [-5, 10**14, 7],
}


class Pairs:
    """A window fed at random, and beside it all pairs ever, in plain Python."""

    def __init__(self, size: int, seed: int, draw) -> None:
        self.rng = np.random.default_rng(seed)
        self.window = PerformanceWindow(size)
        self.draw = draw
        self.numbers = ClassNumbers()
        self.predicted: list = []
        self.label: list = []
        self.lag: list[int] = []

    def number(self, values) -> np.ndarray:
        return self.numbers.numbers(Values.of(values))

    def feed(self, rows: int) -> None:
        predicted = [self.draw(self.rng) for _ in range(rows)]
        agreed = self.rng.random(rows) < 0.7
        label = [
            p if same else self.draw(self.rng) for p, same in zip(predicted, agreed, strict=True)
        ]
        for gaps in (predicted, label):
            for row in np.flatnonzero(self.rng.random(rows) < 0.05):
                gaps[row] = None
        lag = self.rng.integers(0, 10**12, rows)
        place = np.arange(len(self.label), len(self.label) + rows)
        self.window.add(place, self.number(predicted), self.number(label), lag)
        self.predicted += predicted
        self.label += label
        self.lag += lag.tolist()

    def correct(self) -> None:
        """Correct a label, which may have left the window, and may be withdrawn."""
        place = int(self.rng.integers(len(self.label)))
        label = None if self.rng.random() < 0.1 else self.draw(self.rng)
        self.window.correct(place, float(self.number([label])[0]))
        self.label[place] = label

    def latest(self) -> tuple[list, list]:
        last = slice(-self.window.size, None)
        pairs = zip(self.label[last], self.predicted[last], strict=True)
        known = [(t, p) for t, p in pairs if t is not None and p is not None]
        return [t for t, _ in known], [p for _, p in known]

    def lag_seconds(self) -> float:
        return float(np.median(self.lag[-self.window.size :])) / 1e9


def figures_of_scikit_learn(truth: list, predicted: list) -> dict[str, float]:
    truth, predicted = [str(t) for t in truth], [str(p) for p in predicted]
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, predicted, average="macro", zero_division=np.nan
    )
    return {
        "accuracy": accuracy_score(truth, predicted),
        "precision:macro": precision,
        "recall:macro": recall,
        "f1:macro": f1,
        "pairs": len(truth),
    }


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("size", [1, 3, 50, 1000])
def test_classification_is_that_of_scikit_learn(size: int, kind: str) -> None:
    pairs = Pairs(size, size, lambda rng: CLASSES[kind][rng.integers(len(CLASSES[kind]))])
    compared = 0
    for _ in range(20):
        pairs.feed(int(pairs.rng.integers(1, 2 * min(size, 100) + 2)))
        for _ in range(pairs.rng.integers(0, 5)):
            pairs.correct()
        truth, predicted = pairs.latest()
        found = pairs.window.classification()
        if truth:
            expected = figures_of_scikit_learn(truth, predicted)
            expected["label_lag_seconds"] = pairs.lag_seconds()
            assert found == pytest.approx(expected, rel=1e-12)
            compared += 1
        else:
            assert found == {}
        pairs.window = restored(pairs.window)
    assert compared > 10


def restored(window: PerformanceWindow) -> PerformanceWindow:
    fresh = PerformanceWindow(window.size)
    fresh.restore(window.snapshot())
    assert fresh.classification() == window.classification()
    return fresh


@pytest.mark.parametrize("size", [1, 40])
def test_regression_is_that_of_scikit_learn(size: int) -> None:
    pairs = Pairs(size, 7, lambda rng: float(rng.normal() * 10.0 ** rng.integers(-12, 12)))
    for _ in range(30):
        pairs.feed(int(pairs.rng.integers(1, 60)))
        pairs.correct()
        truth, predicted = pairs.latest()
        found = pairs.window.regression()
        if not truth:
            assert found == {}
            continue
        assert found == pytest.approx(
            {
                "mae": mean_absolute_error(truth, predicted),
                "rmse": root_mean_squared_error(truth, predicted),
                "pairs": len(truth),
                "label_lag_seconds": pairs.lag_seconds(),
            },
            rel=1e-9,
        )


def test_what_is_not_known_is_left_out_and_is_never_zero() -> None:
    window = PerformanceWindow(10)
    assert window.classification() == window.regression() == {}
    nothing = np.full(5, np.nan)
    window.add(np.arange(5), np.ones(5), nothing, np.zeros(5, np.int64))
    window.add(np.arange(5, 10), nothing, np.ones(5), np.zeros(5, np.int64))
    assert window.classification() == window.regression() == {}
    window.correct(0, 1.0)
    assert window.classification()["pairs"] == 1
    window.correct(0, np.nan)
    assert window.classification() == {}


@pytest.mark.parametrize("huge", [np.inf, 1e308, -1e308, 1e200])
def test_a_number_that_would_overflow_is_not_counted(huge: float) -> None:
    window = PerformanceWindow(10)
    window.add(
        np.arange(3), np.array([1.0, huge, 2.0]), np.array([2.0, 1.0, -huge]), np.zeros(3, np.int64)
    )
    found = window.regression()
    assert (found["mae"], found["rmse"], found["pairs"]) == (1.0, 1.0, 1)


def test_a_correction_of_a_pair_that_has_left_the_window_changes_nothing() -> None:
    window = PerformanceWindow(4)
    window.add(np.arange(10), np.ones(10), np.ones(10), np.zeros(10, np.int64))
    before, changes = window.snapshot(), window.changes
    for place in (0, 5, 10, 14):
        window.correct(place, 0.0)
    assert (window.snapshot(), window.changes) == (before, changes)


@pytest.mark.parametrize("size", [2, 7, 30])
def test_a_window_of_another_size_takes_the_latest_pairs_that_fit(size: int) -> None:
    first, second = PerformanceWindow(20), PerformanceWindow(size)
    hits = np.arange(33) % 3 == 0
    first.add(np.arange(33), hits.astype(np.float64), np.ones(33), np.zeros(33, np.int64))
    second.restore(first.snapshot())
    kept = hits[13:][-size:]
    assert second.classification()["pairs"] == len(kept)
    assert second.classification()["accuracy"] == pytest.approx(kept.mean())
