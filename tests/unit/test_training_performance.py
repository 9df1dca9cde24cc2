"""The metrics of an epoch are those of scikit-learn on its pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score
from torch import nn

from tocsin.training import PerformanceMonitor, TrainingAlerts

RNG = np.random.default_rng(5)
SCORES = {"precision": precision_score, "recall": recall_score, "f1": f1_score}


def epoch(
    monitor: PerformanceMonitor, number: int, logits: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    for part in np.array_split(np.arange(len(labels)), 7):
        outputs = torch.tensor(logits[part])
        batch = (outputs, torch.tensor(labels[part]))
        monitor.on_batch_end(outputs, batch)
    monitor.on_epoch_end(number)
    return monitor.history[-1]


def begun(criterion: nn.Module | None) -> PerformanceMonitor:
    monitor = PerformanceMonitor(alerts=TrainingAlerts(show=False))
    monitor.initialize(nn.Identity(), [], criterion)
    return monitor


def test_several_classes_without_labels_that_are_none() -> None:
    logits, labels = RNG.normal(size=(700, 4)), RNG.integers(0, 4, 700)
    logits[np.arange(700), labels] += 1.0
    said = logits.argmax(1)
    labels[::50] = -100
    there = labels >= 0
    row = epoch(begun(nn.CrossEntropyLoss()), 0, logits, labels)
    assert row["accuracy"] == pytest.approx(accuracy_score(labels[there], said[there]))
    assert row["f1:macro"] == pytest.approx(f1_score(labels[there], said[there], average="macro"))
    assert row["recall:3"] == pytest.approx(
        recall_score(labels[there], said[there], average=None)[3]
    )
    p = torch.tensor(logits).softmax(1).max(1).values.numpy()[there]
    hits = (labels == said)[there]
    bins = np.minimum((p * 15).astype(int), 14)
    error = sum(abs((hits - p)[bins == b].sum()) for b in range(15)) / there.sum()
    assert row["calibration_error"] == pytest.approx(error, abs=1e-6)
    losses = [
        float(nn.functional.cross_entropy(torch.tensor(logits[k]), torch.tensor(labels[k])))
        for k in np.array_split(np.arange(700), 7)
    ]
    assert row["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_averages_and_what_each_class_has_are_those_of_scikit_learn(
    classes: int, average: str
) -> None:
    monitor = begun(nn.CrossEntropyLoss())
    for number in range(2):
        logits = RNG.normal(size=(600, classes)) + np.linspace(0, 1, classes)
        labels = RNG.choice(classes, 600, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2))  # fmt: skip
        logits[np.arange(600), labels] += 0.7
        said = logits.argmax(1)
        row = epoch(monitor, number, logits, labels)
        for name, score in SCORES.items():
            assert row[f"{name}:{average}"] == pytest.approx(score(labels, said, average=average))
            for k, value in enumerate(score(labels, said, average=None)):
                assert row[f"{name}:{k}"] == pytest.approx(value)
    assert len(monitor.history) == 2


def test_a_class_that_is_never_said_has_no_precision_and_is_in_no_mean_of_it() -> None:
    logits, labels = RNG.normal(size=(400, 4)), RNG.integers(0, 3, 400)
    logits[:, 2] = -100.0  # true, and never said
    said = logits.argmax(1)  # 3 is said, and never true
    row = epoch(begun(nn.CrossEntropyLoss()), 0, logits, labels)
    for name, score in SCORES.items():
        of = score(labels, said, average=None, labels=range(4), zero_division=np.nan)
        assert row[f"{name}:macro"] == pytest.approx(np.nanmean(of))
        assert [f"{name}:{k}" in row for k in range(4)] == (~np.isnan(of)).tolist()


@pytest.mark.parametrize("shape", [(300,), (300, 1)])
def test_two_classes_of_one_output(shape: tuple[int, ...]) -> None:
    logits, labels = RNG.normal(size=shape), RNG.integers(0, 2, shape).astype(float)
    row = epoch(begun(nn.BCEWithLogitsLoss()), 0, logits, labels)
    assert row["accuracy"] == pytest.approx(accuracy_score(labels.ravel(), (logits > 0).ravel()))


def test_numbers_have_a_loss_alone() -> None:
    row = epoch(begun(nn.MSELoss()), 2, RNG.normal(size=(50, 1)), RNG.normal(size=(50, 1)))
    assert set(row) == {"epoch", "loss"}


def test_an_epoch_that_has_forgotten_is_claimed_and_one_by_chance_below_is_not() -> None:
    monitor = begun(nn.CrossEntropyLoss())
    labels = RNG.integers(0, 3, 900)
    alerts = []
    for number, right in enumerate((0.5, 0.8, 0.78, 0.5)):
        logits = RNG.normal(size=(900, 3))
        logits[np.arange(900), labels] = np.where(RNG.random(900) < right, 9.0, -9.0)
        epoch(monitor, number, logits, labels)
        assert monitor.alerts is not None
        alerts.append(len(monitor.alerts.alerts))
    assert alerts == [0, 0, 0, 1]
    assert "accuracy of epoch 3" in monitor.alerts.alerts[0].summary


def test_a_criterion_that_sums_is_told_by_the_row_in_training_and_validation() -> None:
    logits, labels = torch.randn(70, 4), torch.randint(0, 4, (70,))
    rows = {}
    for reduction in ("mean", "sum"):
        criterion = nn.CrossEntropyLoss(reduction=reduction)
        monitor = begun(criterion)
        for part in torch.arange(70).split(32):
            criterion(logits[part], labels[part])  # as the loop calls it
            monitor.on_batch_end(logits[part], (logits[part], labels[part]))
            monitor.on_validation_batch_end(logits[part], (logits[part], labels[part]))
        monitor.on_epoch_end(0)
        rows[reduction] = monitor.history[0]
    assert rows["sum"] == pytest.approx(rows["mean"])
