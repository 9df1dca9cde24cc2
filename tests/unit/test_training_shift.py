"""What an epoch unlike the others does to activations is claimed; what learning does is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from tocsin.detectors.activation_shift import ActivationShift, distance
from tocsin.detectors.batch_means import BatchMeans
from tocsin.training import ActivationMonitor, TrainingAlerts
from tocsin.training.units import LayerUnits

Change = Callable[[torch.Tensor, nn.Module], torch.Tensor]


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(y)


def net(kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    if kind == "dense":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
    )  # fmt: skip


def run(
    kind: str, change: Change | None = None, *, at: int = 4, rate: float = 0.003, **settings: Any
) -> tuple[ActivationMonitor, TrainingAlerts]:
    model, alerts = net(kind), TrainingAlerts(show=False)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    monitor = ActivationMonitor(every=2, alerts=alerts, **settings)
    monitor.initialize(model, [], None)
    x, y = digits()
    for epoch in range(6):
        for rows in torch.randperm(len(x)).split(64):
            inputs = x[rows] if change is None or epoch < at else change(x[rows], model)
            outputs = model(inputs)
            optimizer.zero_grad()
            nn.functional.cross_entropy(outputs, y[rows]).backward()
            optimizer.step()
            monitor.on_batch_end(outputs, (inputs, y[rows]))
        monitor.on_epoch_end(epoch)
    monitor.close()
    return monitor, alerts


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
@pytest.mark.parametrize("rate", [0.001, 0.01])
def test_learning_is_no_shift(kind: str, rate: float) -> None:
    monitor, alerts = run(kind, rate=rate)
    assert not alerts.alerts
    shifts = [
        value for row in monitor.history[3:] for k, value in row.items() if k.startswith("shift:")
    ]
    assert max(shifts) < 0.3
    assert monitor.history[1]["shift:input"] < 0.01
    assert monitor.history[1]["shift:1"] > 0.01


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
@pytest.mark.parametrize(
    "change", [lambda x, _: 16 * x, lambda x, _: 2 * x, lambda x, _: 1 - x, lambda x, _: (x - 0.3) / 0.4]
)  # fmt: skip
def test_an_epoch_of_other_inputs_is_named(kind: str, change: Change) -> None:
    _, alerts = run(kind, change)
    (alert,) = (a for a in alerts.alerts if a.detector == "activation_shift")
    assert (alert.subject, alert.change) == ("activation:input", "shift")
    assert alert.prediction_id is not None
    assert alert.prediction_id.endswith("of epoch 4")


def test_a_layer_that_is_broken_is_named() -> None:
    def double(x: torch.Tensor, model: nn.Module) -> torch.Tensor:
        norm = model.get_submodule("1")
        assert isinstance(norm, nn.BatchNorm2d)
        norm.weight.data.fill_(30.0)
        return x

    monitor, alerts = run("convolutional", double)
    first = next(a for a in alerts.alerts if a.detector == "activation_shift")
    assert first.subject == "activation:1"
    assert "of 4 layers did" in first.summary
    assert monitor.history[4]["shift:0"] < 0.2


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_a_model_left_in_evaluation_is_claimed(kind: str) -> None:
    _, alerts = run(kind, lambda x, model: [model.eval(), x][1])  # type: ignore[arg-type]
    (alert,) = (a for a in alerts.alerts if a.change == "evaluation")
    assert alert.subject == {"dense": "activation:3", "convolutional": "activation:1"}[kind]
    assert "was model.train() forgotten?" in alert.summary


def test_a_reference_epoch_that_is_fixed_tells_how_far_layers_have_come() -> None:
    monitor, alerts = run("dense", reference=1)
    far = [row.get("shift:4") for row in monitor.history]
    assert far[:2] == [None, None]
    assert far[2:] == sorted(far[2:])  # type: ignore[type-var]
    assert not alerts.alerts
    _, alerts = run("dense", lambda x, _: 1 - x, at=5, reference=1)
    assert "activation:input" in {a.subject for a in alerts.alerts}


def units(mean: np.ndarray, variance: np.ndarray) -> BatchMeans:
    found = BatchMeans(len(mean))
    found.add(mean, variance + mean**2, 1000)
    return found


def test_the_distance_is_that_of_the_distributions() -> None:
    rng = np.random.default_rng(0)
    a, b = ((rng.normal(size=5), rng.uniform(0.5, 2, 5)) for _ in range(2))
    x = np.linspace(-30, 30, 200_001)
    densities = [
        np.exp(-((x - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
        for u in (a, b)
        for m, v in zip(*u, strict=True)
    ]
    squares = [
        1 - np.trapezoid(np.sqrt(p * q), x)
        for p, q in zip(densities[:5], densities[5:], strict=True)
    ]
    assert distance(units(*a), units(*b)) == pytest.approx(np.sqrt(np.mean(squares)), abs=1e-3)
    assert distance(units(*a), units(*a)) < 1e-7
    assert distance(units(*a), units(a[0] * np.nan, a[1])) == 1.0
    assert distance(units(*a), units(a[0][:2], a[1][:2])) == 0.0, "another width is not compared"


@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 4, 4), (12, 7, 5)])
def test_the_sums_are_those_of_all_values(shape: tuple[int, ...]) -> None:
    layer = nn.Linear(5, 5) if len(shape) == 3 else nn.Identity()
    layer.weight = nn.Parameter(torch.eye(5))  # so that it is a layer
    if isinstance(layer, nn.Linear):
        layer.bias.data.zero_()
    found = LayerUnits()
    handles = list(found.hooks(layer, lambda: True, lambda error: pytest.fail(str(error))))
    torch.manual_seed(0)
    passes = [torch.randn(rows, *shape[1:], dtype=torch.bfloat16).float() + 3 for rows in (12, 3)]
    for x in passes:
        layer(x)
    for handle in handles:
        handle.remove()
    every = torch.cat([x.movedim(-1 if len(shape) == 3 else 1, -1).flatten(0, -2) for x in passes])
    of = found.taken(2)["model"]
    assert (of.batches, of.rows) == (2, 15)
    assert of.mean == pytest.approx(every.mean(0).numpy(), abs=1e-5)
    assert of.deviation == pytest.approx(every.std(0, correction=0).numpy(), abs=1e-4)
    assert found.taken(0) == {}


def test_channels_that_change_places_are_seen_in_the_input_and_chance_is_not() -> None:
    def epochs(rows: int, swapped: int = 99) -> list[str]:
        torch.manual_seed(rows)
        model, alerts = nn.Conv2d(3, 2, 3), TrainingAlerts(show=False)
        monitor = ActivationMonitor(every=1, alerts=alerts)
        monitor.initialize(model, [], None)
        for epoch in range(12):
            for _ in range(15):  # pictures differ in brightness, more than channels do
                x = torch.randn(rows, 1, 1, 1) + 0.3 * torch.randn(rows, 3, 6, 6)
                x = x + 0.1 * torch.tensor([1.0, 0.0, -1.0]).view(3, 1, 1)
                monitor.on_batch_end(model(x.flip(1) if epoch >= swapped else x), x)
            monitor.on_epoch_end(epoch)
        monitor.close()
        return [f"{a.subject} {a.prediction_id}" for a in alerts.alerts if a.state == "firing"]

    assert [epochs(rows) for rows in (4, 16, 64)] == [[], [], []]
    assert epochs(64, swapped=9) == ["activation:input batch 14 of epoch 9"]


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"shift within \(0, 1\)"):
        ActivationMonitor(shift=1.0)
    with pytest.raises(ValueError, match="reference of 0 or more"):
        ActivationShift(reference=-1)
