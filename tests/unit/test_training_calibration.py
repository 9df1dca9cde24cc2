"""The calibration of an epoch: its bounds hold, confidence without accuracy is claimed, and learning is not."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from torch import nn

from tocsin.detectors import activation_shift, confidence_error, looks, overfitting
from tocsin.training import CalibrationMonitor, TrainingAlerts, curve

N = 2000


def test_the_examples() -> None:
    for module in (activation_shift, confidence_error, looks, overfitting, curve):
        assert doctest.testmod(module).failed == 0


def answers(confidence: np.ndarray, right: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of two classes with these confidences, and labels that they are right about or not."""
    logits = np.stack([np.zeros(len(confidence)), np.log(confidence / (1 - confidence))], 1)
    return torch.tensor(logits), torch.tensor(right.astype(np.int64))


def run(
    epochs: list[tuple[float, float]], name: str = "", seed: int = 0, rows: int = N
) -> tuple[CalibrationMonitor, TrainingAlerts]:
    """Epochs of confidences about the first number, right as often as that plus the second."""
    rng = np.random.default_rng(seed)
    alerts = TrainingAlerts(show=False)
    monitor = CalibrationMonitor(alerts=alerts)
    monitor.initialize(nn.Identity(), [], nn.CrossEntropyLoss())
    for number, (sure, more) in enumerate(epochs):
        confidence = np.clip(sure + rng.uniform(-0.05, 0.05, rows), 0.51, 0.999)
        logits, labels = answers(confidence, rng.random(rows) < confidence + more)
        if name:
            monitor.on_validation_batch_end(logits, [logits, labels], name)
        else:
            monitor.on_batch_end(logits, [logits, labels])
        monitor.on_epoch_end(number)
    return monitor, alerts


def test_a_model_too_sure_of_itself_is_claimed_once_in_its_second_epoch() -> None:
    monitor, alerts = run([(0.7, 0.0), (0.9, -0.25), (0.9, -0.25), (0.95, -0.3)], "val")
    (alert,) = alerts.alerts
    assert (alert.subject, alert.change, alert.kind) == (
        "val_calibration_error", "overconfident", "training",
    )  # fmt: skip
    assert alert.prediction_id == "batch 0 of epoch 2"
    row = monitor.history[2]
    assert row["val_overconfidence"] == pytest.approx(0.25, abs=0.03)
    assert row["val_calibration_error:low"] < 0.25 < row["val_calibration_error:high"]


def test_too_little_confidence_is_claimed_only_of_one_that_had_it() -> None:
    learning = [(0.55, 0.4), (0.6, 0.35), (0.7, 0.25), (0.9, 0.0)]
    assert not run(learning)[1].alerts
    begun = [(0.52, 0.0), (0.55, 0.3), (0.56, 0.35), (0.6, 0.35)]  # right by chance, and knows it
    assert not run(begun)[1].alerts
    _, alerts = run([*learning, (0.6, 0.35), (0.6, 0.35)])
    assert [alert.change for alert in alerts.alerts] == ["underconfident"]


def test_nothing_is_claimed_of_one_that_learns_by_leaps() -> None:
    lags = [(0.8, -0.65), (0.8, -0.5), (0.8, -0.35), (0.8, -0.2), (0.8, 0.0)]
    assert not run(lags, "val")[1].alerts
    rests = [*lags[:2], (0.8, -0.45), (0.8, -0.45), (0.8, -0.35)]
    assert [a.prediction_id for a in run(rests, "val")[1].alerts] == ["batch 0 of epoch 3"]


def test_validation_is_judged_where_there_is_any() -> None:
    monitor, alerts = run([(0.9, -0.3)] * 3)
    assert [alert.subject for alert in alerts.alerts] == ["calibration_error"]
    monitor.initialize(nn.Identity(), [], nn.CrossEntropyLoss())
    alerts.alerts.clear()
    rng = np.random.default_rng(0)
    for number in range(3):
        logits, labels = answers(np.full(N, 0.9), rng.random(N) < 0.5)
        monitor.on_batch_end(logits, [logits, labels])
        logits, labels = answers(np.full(N, 0.9), rng.random(N) < 0.9)
        monitor.on_validation_batch_end(logits, [logits, labels])
        monitor.on_epoch_end(number)
    assert not alerts.alerts
    assert {"calibration_error", "val_calibration_error"} <= monitor.history[0].keys()


@pytest.mark.parametrize("rows", [40, 400])
def test_the_bounds_hold_as_often_as_they_say(rows: int) -> None:
    rng = np.random.default_rng(rows)
    misses = 0
    for _ in range(400):
        confidence = rng.uniform(0.5, 1.0, rows)
        rate = np.clip(confidence - 0.15, 0, 1)
        at = np.minimum((confidence * 15).astype(int), 14)
        right = rng.random(rows) < rate
        bins = np.stack([np.bincount(at, w, 15) for w in (np.ones(rows), right, confidence)])
        found = confidence_error.confidence_error(bins, 0.05)
        assert found is not None
        truth = np.abs(np.bincount(at, rate - confidence, 15)).sum() / rows
        misses += not found.error.low <= truth <= found.error.high
    assert misses <= 20  # of 400, 5 percent


def test_chance_claims_nothing_however_few_the_rows() -> None:
    for seed in range(20):
        assert not run([(0.8, 0.0)] * 8, "val", seed, rows=30)[1].alerts


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"tolerance within \[0, 1\)"):
        CalibrationMonitor(tolerance=1.0)
    assert confidence_error.confidence_error(np.zeros((3, 15))) is None
