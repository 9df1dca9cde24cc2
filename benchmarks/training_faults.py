"""Faults planted in training, one at a time, and healthy runs: what the monitors of the loop find, and how soon.

Small nets on scikit-learn's digits and on MNIST: every seed is another draw of weights, order, and kind of net. A fault is found when an
alert is of its change; names are those of the batch and the layer that it was planted in.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from tocsin.core.alert import Alert
from tocsin.training import GradientMonitor, LossMonitor, Monitors, TrainingAlerts

from .common import Figures

_DATA: Final = Path(os.environ.get("TOCSIN_BENCH_DATA", "../shared/data"))
_FAULT_AT: Final = 150  # steps
_DIVERGED: Final = 1.5
"""Times the loss at the start that a loss is which has diverged, or it is no number: then the clock of the detection begins. `LossCurve` has a
rule of its own at the same number, so a delay of 0 is no surprise; runs whose loss rises by less are not counted here."""

Spoil = Callable[[int, nn.Module, torch.optim.Optimizer, torch.Tensor], None]


class Run(NamedTuple):
    """What a run gave: its alerts, and the loss of each batch."""

    alerts: list[Alert]
    losses: list[float]


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)


def mnist() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 4,000 pictures at half their size."""
    path = _DATA / "mnist10k.npz"
    if not path.exists():
        raise SystemExit(f"{path} is missing: set TOCSIN_BENCH_DATA to the folder that has it")
    with np.load(path) as file:
        x, y = file["X"][:4000], file["Y"][:4000]
    x = x.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(len(x), -1)
    return torch.tensor(x / 255, dtype=torch.float32), torch.tensor(y.astype(np.int64))


def net(seed: int, width: int) -> nn.Sequential:
    """Return a dense net, one with batch norm and dropout, or a convolutional one, by the seed."""
    torch.manual_seed(seed)
    side = int(width**0.5)
    if seed % 3 == 0:
        return nn.Sequential(
            nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )
    if seed % 3 == 1:
        return nn.Sequential(
            nn.Linear(width, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
    return nn.Sequential(
        nn.Unflatten(1, (1, side, side)), nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * (side // 2) ** 2, 10),
    )  # fmt: skip


def train(
    model: nn.Module, seed: int, data: tuple[torch.Tensor, torch.Tensor], steps: int, spoil: Spoil
) -> Run:
    """Train with Adam or with momentum, in batches of 16, 32 or 64, by the seed."""
    x, y = data
    size = (16, 32, 64)[seed // 2 % 3]
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    if seed % 2:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    alerts = TrainingAlerts(show=False)
    losses: list[float] = []
    with Monitors([LossMonitor(), GradientMonitor()], alerts=alerts) as monitors:
        monitors.initialize(model, [], criterion)
        epoch = 0
        while len(losses) < steps:
            for rows in torch.randperm(len(x)).split(size):
                inputs = x[rows].clone()
                spoil(len(losses), model, optimizer, inputs)
                optimizer.zero_grad()
                outputs = model(inputs)
                loss = criterion(outputs, y[rows])
                loss.backward()
                optimizer.step()
                monitors.on_batch_end(outputs, [inputs, y[rows]])
                losses.append(float(loss.detach()))
            monitors.on_epoch_end(epoch)
            epoch += 1
    if monitors.set_aside:
        raise SystemExit(f"monitors were set aside: {monitors.set_aside}")
    return Run([alert for alert in alerts.alerts if alert.state == "firing"], losses)


def nothing(_step: int, _model: nn.Module, _optimizer: Any, _inputs: torch.Tensor) -> None:
    """Plant nothing."""


def fast(step: int, _model: nn.Module, optimizer: torch.optim.Optimizer, _inputs: object) -> None:
    """Raise the learning rate a hundredfold."""
    if step == _FAULT_AT:
        optimizer.param_groups[0]["lr"] *= 100


def spoiled(step: int, _model: nn.Module, _optimizer: object, inputs: torch.Tensor) -> None:
    """Put one NaN into a batch."""
    if step == _FAULT_AT:
        inputs[len(inputs) // 2, 7] = torch.nan


def dying(step: int, model: nn.Module, _optimizer: object, _inputs: object) -> None:
    """Let no unit of the first layer be above zero again."""
    if step == _FAULT_AT:
        layer: Any = model.get_submodule(before_relu(model))
        with torch.no_grad():
            layer.bias.fill_(-100.0)
            layer.weight.fill_(0.0)


def before_relu(model: nn.Module) -> str:
    """Return the name of the layer that the first rectifier follows."""
    names = [name for name, _ in model.named_children()]
    first = next(k for k, m in enumerate(model.children()) if isinstance(m, nn.ReLU))
    return names[first - 1]


def deep(seed: int, width: int) -> nn.Sequential:
    """Return a net of ten sigmoid layers."""
    torch.manual_seed(seed)
    layers = [m for k in range(10) for m in (nn.Linear(64 if k else width, 64), nn.Sigmoid())]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def diverged(losses: list[float]) -> int | None:
    """Return the batch from the fault on whose loss has diverged; None if none has."""
    start = float(np.median(losses[:5]))
    return next(
        (
            k
            for k, loss in enumerate(losses)
            if k >= _FAULT_AT and not loss <= _DIVERGED * start
        ),
        None,
    )  # fmt: skip


def found(run: Run, changes: set[str]) -> Alert | None:
    """Return the first alert of one of these changes since the fault."""
    return next((a for a in run.alerts if a.change in changes and a.offset >= _FAULT_AT), None)


def healthy(figures: Figures, seeds: int, steps: int, data: dict[str, Any]) -> None:
    for name, rows in data.items():
        runs = [train(net(s, rows[0].shape[1]), s, rows, steps, nothing) for s in range(seeds)]
        for seed, run in enumerate(runs):
            for alert in run.alerts:
                print(f"# {name} seed {seed}: {alert.summary}")
        figures.report(f"healthy, {name}: runs with an alert", sum(bool(run.alerts) for run in runs), most=0)  # fmt: skip


def learning_rate(figures: Figures, seeds: int, data: dict[str, Any]) -> None:
    for name, rows in data.items():
        of, late = 0, []
        for seed in range(seeds):
            run = train(net(seed, rows[0].shape[1]), seed, rows, _FAULT_AT + 60, fast)
            at = diverged(run.losses)
            if at is None:
                continue
            of += 1
            first = found(run, {"spike", "divergence", "non-finite", "exploding", "update"})
            late.append(np.inf if first is None else first.offset - at)
        figures.report(f"learning rate x100, {name}: runs that diverge", of)
        figures.report(f"learning rate x100, {name}: latest, steps after the divergence", max(late, default=np.inf), most=5)  # fmt: skip


def named(
    figures: Figures, what: str, seeds: int, data: dict[str, Any], change: str, spoil: Spoil,
    make: Callable[[int, int], nn.Sequential] = net, layer: Callable[[nn.Module], str] | None = None,
) -> None:  # fmt: skip
    """Report in how many runs a fault is found, and in how many its layer is named, and its batch."""
    for name, rows in data.items():
        hits, layers, batches = 0, 0, 0
        for seed in range(seeds):
            model = make(seed, rows[0].shape[1])
            run = train(model, seed, rows, _FAULT_AT + 60, spoil)
            of_layers = [a for a in run.alerts if a.change == change and a.subject != "loss"]
            hits += bool(of_layers)
            if of_layers and layer is not None:
                layers += of_layers[0].subject == f"gradient:{layer(model)}"
                batches += of_layers[0].offset == _FAULT_AT
        figures.report(f"{what}, {name}: found", hits / seeds, least=1)
        if layer is not None:
            figures.report(f"{what}, {name}: layer named", layers / seeds, least=1)
        if change == "non-finite":
            figures.report(f"{what}, {name}: batch named", batches / seeds, least=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=600, help="of a healthy run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = Figures("training-faults")
    data = {"digits": digits(), "mnist": mnist()}
    healthy(figures, args.seeds, args.steps, data)
    learning_rate(figures, args.seeds, data)
    named(figures, "dead layer", args.seeds, data, "dead", dying, layer=before_relu)
    named(
        figures, "vanishing gradient", args.seeds, data, "vanishing", nothing, deep, lambda _: "0"
    )
    named(figures, "NaN batch", args.seeds, data, "non-finite", spoiled, layer=seen_first)
    figures.exit()


def seen_first(model: nn.Module) -> str:
    """Return the name of the layer that a batch comes to first."""
    return next(name for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d)))


if __name__ == "__main__":
    main()
