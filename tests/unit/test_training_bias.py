"""Gaps between groups, data sets, and training and validation: what is planted is claimed once, chance never."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tocsin.detectors.looks import Looks
from tocsin.detectors.overfitting import MeanLoss, Overfitting
from tocsin.training import BiasMonitor, TrainingAlerts, WatchedLoader

N = 1000


def answered(right: np.ndarray, seed: int, classes: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are right with these chances, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, len(right))
    said = np.where(rng.random(len(right)) < right, labels, (labels + 1) % classes)
    logits = rng.normal(size=(len(right), classes)) * 0.1
    logits[np.arange(len(right)), said] += 2.0
    return torch.tensor(logits), torch.tensor(labels)


def begun(*args: Any, **settings: Any) -> tuple[BiasMonitor, TrainingAlerts]:
    alerts = TrainingAlerts(show=False)
    monitor = BiasMonitor(*args, alerts=alerts, **settings)
    monitor.initialize(nn.Identity(), [], nn.CrossEntropyLoss())
    return monitor, alerts


def epoch(
    monitor: BiasMonitor, number: int, right: np.ndarray, groups: Any, name: str = ""
) -> None:
    logits, labels = answered(right, number)
    for rows in np.array_split(np.arange(len(right)), 7):
        batch = {"label": labels[rows], "sex": [groups[k] for k in rows]}
        if name:
            monitor.on_validation_batch_end(logits[rows], batch, name)
        else:
            monitor.on_batch_end(logits[rows], batch)


@pytest.mark.parametrize("comes", [0, 1])
def test_a_gap_between_groups_is_claimed_once_and_named_whoever_came_first(comes: int) -> None:
    monitor, alerts = begun({"sex": "sex"})
    groups = np.where(np.arange(N) % 3 == comes, "f", "m")
    for number in range(4):
        gap = 0.0 if number == 0 else 0.3
        epoch(monitor, number, np.where(groups == "f", 0.95 - gap, 0.95), groups, "val")
        monitor.on_epoch_end(number)
    assert [(a.kind, a.subject, a.change) for a in alerts.alerts] == [
        ("bias", "gap:val_accuracy:sex=f|m", "gap down")
    ]
    (alert,) = alerts.alerts
    assert alert.size == pytest.approx(-0.3, abs=0.06)
    assert alert.summary.startswith("val_accuracy of sex=f|m: gap -0.")
    row = monitor.history[-1]
    assert row["gap:val_accuracy:sex=f|m"] == pytest.approx(
        row["val_accuracy:sex=f"] - row["val_accuracy:sex=m"]
    )
    assert row["gap:val_recall:1:sex=f|m"] < -0.2


@pytest.mark.parametrize("how", ["function", "array", "by data set"])
def test_groups_are_found_by_a_function_or_by_the_samples_index(how: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 4, generator=generator)
    logits, labels = answered(np.where(x[:, 0] > 0, 0.6, 0.95), 0)
    side = (x[:, 0] > 0).numpy()
    of = {
        "function": lambda batch: batch[0][:, 0] > 0,
        "array": side,
        "by data set": {"train": side},
    }
    monitor, alerts = begun({"side": of[how]})
    loader = WatchedLoader(DataLoader(TensorDataset(x, logits, labels), 64, shuffle=True))
    for number in range(2):
        for batch in loader:
            monitor.on_batch_end(batch[1], batch)
        monitor.on_validation_batch_end(logits, [x, logits, labels])
        monitor.on_epoch_end(number)
    assert {a.subject.split("=")[0] for a in alerts.alerts} == {"gap:accuracy:side"}
    right = (logits.argmax(1) == labels).numpy()
    row = monitor.history[0]
    assert row["accuracy:side=True"] == pytest.approx(right[side].mean())
    assert ("val_accuracy:side=True" in row) == (how == "function")


def test_a_group_of_many_is_compared_with_the_rest_and_losses_of_numbers_too() -> None:
    monitor, alerts = begun({"site": lambda batch: batch[2]}, tolerance=0.2)
    rng = np.random.default_rng(0)
    site = rng.integers(0, 6, N)
    target = rng.normal(size=N)
    said = target + rng.normal(size=N) * np.where(site == 4, 3.0, 1.0)
    batch = [None, None, torch.tensor(site), torch.tensor(target)]
    for number in range(2):
        monitor.on_batch_end(torch.tensor(said), batch)
        monitor.on_epoch_end(number)
    assert [a.subject for a in alerts.alerts] == ["gap:loss:site=4|rest"]
    errors = (said - target) ** 2
    row = monitor.history[0]
    assert row["loss:site=4"] == pytest.approx(errors[site == 4].mean(), rel=1e-5)
    assert row["gap:loss:site=4|rest"] == pytest.approx(
        errors[site == 4].mean() - errors[site != 4].mean(), rel=1e-4
    )


def test_data_sets_are_compared_with_one_another() -> None:
    monitor, alerts = begun()
    for number in range(2):
        assert not alerts.alerts, "not of one epoch"
        for name, right in (("val", 0.95), ("production", 0.7)):
            epoch(monitor, number, np.full(N, right), ["-"] * N, name)
        monitor.on_epoch_end(number)
    (alert,) = alerts.alerts
    assert (alert.subject, alert.kind) == ("gap:accuracy:data=val|production", "bias")


def test_chance_claims_nothing_in_many_runs() -> None:
    claimed = 0
    for seed in range(30):
        monitor, alerts = begun({"sex": "sex"}, tolerance=0.01, alpha=0.01)
        rng = np.random.default_rng(seed)
        groups = rng.choice(["a", "b", "c", "d", "e"], 400)
        for number in range(10):
            epoch(monitor, 100 * seed + number, np.full(400, 0.8), groups, "val")
            monitor.on_epoch_end(number)
        claimed += bool(alerts.alerts)
    assert claimed <= 2  # of 30 at 1 percent: more with chance 0.0003


def test_the_levels_of_all_looks_are_no_more_than_alpha() -> None:
    looks = Looks(0.01)
    assert sum(looks.next() for _ in range(10_000)) == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(ValueError, match="alpha must be within"):
        Looks(1.0)


def test_a_model_that_learns_by_heart_is_claimed_and_one_that_rests_is_not() -> None:
    def fitted(rows: int, width: int) -> tuple[TrainingAlerts, BiasMonitor]:
        torch.manual_seed(0)
        draw = torch.Generator().manual_seed(1)
        x = torch.randn(rows + 600, 20, generator=draw)
        noise = torch.rand(len(x), generator=draw) < 0.2
        y = ((x[:, 0] + x[:, 1] > 0) ^ noise).long()
        net = nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 2))
        optimizer, criterion = torch.optim.Adam(net.parameters(), 0.01), nn.CrossEntropyLoss()
        monitor, alerts = begun()
        for number in range(25):
            for part in torch.arange(rows).split(50):
                outputs = net(x[part])
                optimizer.zero_grad()
                criterion(outputs, y[part]).backward()
                optimizer.step()
                monitor.on_batch_end(outputs, (x[part], y[part]))
            monitor.validate(net, [(x[rows:], y[rows:])])
            monitor.on_epoch_end(number)
        return alerts, monitor

    alerts, monitor = fitted(200, 200)
    (alert,) = alerts.alerts
    assert (alert.kind, alert.detector, alert.subject) == ("training", "overfitting", "val_loss")
    assert "while that of training went from" in alert.summary
    assert monitor.history[-1]["gap:accuracy:data=train|val"] > 0.15
    alerts, _ = fitted(2000, 1)
    assert not alerts.alerts


def test_a_loss_that_rises_in_training_too_is_not_overfitting() -> None:
    rule = Overfitting()
    assert rule.update(0, 0.5, MeanLoss(0.6, 0.01, 400), 1e-3) is None
    assert rule.update(1, 0.9, MeanLoss(1.2, 0.01, 400), 1e-3) is None
    assert rule.update(2, float("nan"), MeanLoss(1.2, 0.01, 400), 1e-3) is None
    later = [rule.update(k, 0.4, MeanLoss(1.2, 0.01, 400), 1e-3) for k in range(3, 6)]
    assert [verdict is not None for verdict in later] == [False, False, True]


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"no metrics \['f1'\]; there are accuracy"):
        BiasMonitor(metrics=["f1"])
    with pytest.raises(ValueError, match="tolerance within"):
        BiasMonitor(tolerance=0.0)
    logits, labels = answered(np.full(20, 0.9), 0)
    for of, message in (
        ("age", "segment 's': found no 'age' in a batch, a dict"),
        (np.zeros(20), "knows no samples: wrap its loader in a WatchedLoader"),
        (lambda _: ["a"], "found 1 values of a segment in a batch of 20 rows"),
    ):
        monitor, _ = begun({"s": of})
        with pytest.raises(ValueError, match=message):
            monitor.on_batch_end(logits, {"labels": labels})
