"""Trainings of small nets, healthy and with a fault in the loop: its learning rate, a layer, a batch.

On scikit-learn's digits and on MNIST. Every seed is another draw of weights and order, and by turns another kind of net, optimizer and size of batches.
A fault is found when an alert is of its change; names are those of the batch and the layer that it was planted in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tocsin.core.alert import Alert
from tocsin.training import (
    ActivationMonitor,
    BaseMonitor,
    BiasMonitor,
    CalibrationMonitor,
    DriftMonitor,
    GradientMonitor,
    LossMonitor,
    Monitors,
    PerformanceMonitor,
    TrainingAlerts,
)

from .common import Figures
from .common_data import mnist

DATA: Final = ("digits", "mnist")
FAULT_AT: Final = 150  # steps
_AFTER: Final = 100  # steps from the fault to the end of a run
_HEALTHY: Final = 1200  # steps, of six epochs at least
_LOST: Final = 2.0
"""Times what the loss would be, from which on a run that stays there is lost; chosen, before any run was looked at."""
_MEAN: Final = 10  # batches
_FASTER: Final = 100
_LATEST: Final = 5  # steps
_OF_RATE: Final = {"spike", "divergence", "non-finite", "exploding", "update"}
"""Changes by which a learning rate that is too large is found."""

Spoil = Callable[[int, nn.Module, torch.optim.Optimizer, torch.Tensor], None]
Rows = tuple[torch.Tensor, torch.Tensor]


class Run(NamedTuple):
    """What a run gave: its alerts, the loss of each batch, and how much was judged."""

    alerts: list[Alert]
    losses: list[float]
    judged: int
    """Epochs in which activations were compared with those before."""


@lru_cache
def rows_of(name: str) -> Rows:
    """Return pictures as rows of numbers in [0, 1], and classes: the digits, or 4,000 of MNIST at half their size."""
    if name == "digits":
        x, y = load_digits(return_X_y=True)
        return torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    pixels, classes = (part[:4000] for part in mnist())
    x = pixels.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(len(pixels), -1)
    return torch.tensor(x / 255, dtype=torch.float32), torch.tensor(classes)


class _Attention(nn.Module):
    """One block of a transformer over the lines of a picture."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.lines = nn.Sequential(nn.Unflatten(1, (side, side)), nn.Linear(side, 32))
        self.norm1 = nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm2 = nn.LayerNorm(32)
        self.wide = nn.Linear(32, 64)
        self.relu = nn.ReLU()
        self.narrow = nn.Linear(64, 32)
        self.places = nn.Parameter(torch.randn(side, 32) * 0.1)
        self.classes = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.lines(x) + self.places
        z = self.norm1(x)
        x = x + self.attention(z, z, z, need_weights=False)[0]
        x = x + self.narrow(self.relu(self.wide(self.norm2(x))))
        found: torch.Tensor = self.classes(x.mean(dim=1))
        return found


def net(seed: int, width: int) -> nn.Module:
    """Return a dense net, one with batch norm and dropout, a convolutional one, or one with attention, by the seed."""
    torch.manual_seed(seed)
    side = int(width**0.5)
    if seed % 4 == 0:
        return nn.Sequential(
            nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )
    if seed % 4 == 1:
        return nn.Sequential(
            nn.Linear(width, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
    if seed % 4 == 2:
        return nn.Sequential(
            nn.Unflatten(1, (1, side, side)), nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * (side // 2) ** 2, 10),
        )  # fmt: skip
    return _Attention(side)


def deep(seed: int, width: int) -> nn.Module:
    """Return a net of ten sigmoid layers."""
    torch.manual_seed(seed)
    layers = [m for k in range(10) for m in (nn.Linear(64 if k else width, 64), nn.Sigmoid())]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def train(
    model: nn.Module,
    seed: int,
    rows: Rows,
    steps: int,
    spoil: Spoil,
    *,
    is_watched: bool = True,
    held: Rows | None = None,
) -> Run:
    """Train with Adam or with momentum, in batches of 16, 32 or 64, by the seed; validate on what is held out, with monitors of that too."""
    x, y = rows
    size = (16, 32, 64)[seed // 8 % 3]
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    if seed // 4 % 2:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    alerts = TrainingAlerts(show=False)
    loss_of_batches, activations = LossMonitor(), ActivationMonitor()
    watching: list[BaseMonitor] = [
        loss_of_batches,
        GradientMonitor(),
        PerformanceMonitor(),
        activations,
        DriftMonitor([loss_of_batches]),
    ]
    if held is not None:
        watching += [BiasMonitor({"group": _group}), CalibrationMonitor()]
    validation = None if held is None else DataLoader(TensorDataset(*held), 256)
    losses: list[float] = []
    with Monitors(watching if is_watched else [], alerts=alerts) as monitors:
        batches = range(-(-len(x) // size))  # as a loader, it has a length
        monitors.initialize(model, batches, criterion)
        epoch = 0
        while len(losses) < steps:
            for own in torch.randperm(len(x)).split(size):
                inputs = x[own].clone()
                spoil(len(losses), model, optimizer, inputs)
                optimizer.zero_grad()
                outputs = model(inputs)
                loss = criterion(outputs, y[own])
                loss.backward()
                optimizer.step()
                monitors.on_batch_end(outputs, [inputs, y[own]])
                losses.append(float(loss.detach()))
                if len(losses) == steps:
                    break
            else:
                if validation is not None:
                    monitors.validate(model, validation)
                monitors.on_epoch_end(epoch)
                epoch += 1
    if monitors.set_aside:
        raise SystemExit(f"monitors were set aside: {monitors.set_aside}")
    firing = [alert for alert in alerts.alerts if alert.state == "firing"]
    judged = sum(any(name.startswith("shift:") for name in row) for row in activations.history)
    return Run(firing, losses, judged)


def _group(batch: Any) -> torch.Tensor:
    """Return one of two groups for each row, which has nothing to do with what is learnt."""
    found: torch.Tensor = (batch[0].sum(1) * 1e4).long() % 2
    return found


def nothing(_step: int, _model: nn.Module, _optimizer: object, _inputs: object) -> None:
    """Plant nothing."""


def fast(step: int, _model: nn.Module, optimizer: torch.optim.Optimizer, _inputs: object) -> None:
    """Raise the learning rate a hundredfold."""
    if step == FAULT_AT:
        optimizer.param_groups[0]["lr"] *= _FASTER


def spoiled(step: int, _model: nn.Module, _optimizer: object, inputs: torch.Tensor) -> None:
    """Put one NaN into a batch."""
    if step == FAULT_AT:
        inputs[len(inputs) // 2, 7] = torch.nan


def broken(step: int, model: nn.Module, _optimizer: object, _inputs: object) -> None:
    """Make one weight of a layer in the middle NaN."""
    if step == FAULT_AT:
        layer: Any = model.get_submodule(in_the_middle(model))
        with torch.no_grad():
            layer.weight.view(-1)[0] = torch.nan


def dying(step: int, model: nn.Module, _optimizer: object, _inputs: object) -> None:
    """Let no unit of the first layer be above zero again."""
    if step == FAULT_AT:
        layer: Any = model.get_submodule(before_relu(model))
        with torch.no_grad():
            layer.bias.fill_(-100.0)
            layer.weight.fill_(0.0)


def before_relu(model: nn.Module) -> str:
    """Return the name of the layer that the first rectifier follows."""
    leaves = [(name, m) for name, m in model.named_modules() if next(m.children(), None) is None]
    first = next(k for k, (_, m) in enumerate(leaves) if isinstance(m, nn.ReLU))
    return leaves[first - 1][0]


def seen_first(model: nn.Module) -> str:
    """Return the name of the layer that a batch comes to first."""
    return next(name for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d)))


def diverged(losses: Sequence[float], clean: Sequence[float]) -> int | None:
    """Return the batch from which on a training is lost; None if it is not.

    Parameters
    ----------
    losses, clean
        Of each batch with the fault, and without it: the same weights, batches and random numbers.

    Notes
    -----
    To whoever trains, a run has diverged when its loss has left what it would have been and does not come back. So it is the first batch since the fault
    whose loss is more than twice what it is without the fault, or no number, if from there on the mean of every ten batches is so, to
    the end of the run. Nothing of it is known to a detector, which has no run without the fault to compare with.
    """
    x, z = np.array(losses), np.array(clean[: len(losses)])
    far = ~(x <= _LOST * z)
    window = np.ones(_MEAN) / _MEAN
    lasts = ~(np.convolve(x, window, "valid") <= _LOST * np.convolve(z, window, "valid"))
    back = np.flatnonzero(~lasts)
    first = max(FAULT_AT, int(back[-1]) + 1 if len(back) else 0)
    later = np.flatnonzero(far[first : len(lasts)])
    return first + int(later[0]) if len(later) else None


def healthy_run(name: str, seed: int) -> tuple[list[str], int]:
    """Return what alerts a run without a fault gives, and in how many epochs activations were judged."""
    x, y = rows_of(name)
    order = np.random.default_rng([seed, 6]).permutation(len(x))
    held, own = order[: len(x) // 4], order[len(x) // 4 :]
    model = net(seed, x.shape[1])
    run = train(model, seed, (x[own], y[own]), _HEALTHY, nothing, held=(x[held], y[held]))
    return [alert.summary for alert in run.alerts], run.judged


def healthy(figures: Figures, seeds: range, pool: Executor) -> None:
    """Report how many runs without a fault give an alert."""
    for name in DATA:
        runs = list(pool.map(partial(healthy_run, name), seeds))
        for seed, (texts, _) in zip(seeds, runs, strict=True):
            for text in texts:
                print(f"# {name} seed {seed}: {text}")
        alarmed = sum(bool(texts) for texts, _ in runs)
        figures.report(f"healthy, {name}: runs with an alert", alarmed, most=0)
        judged = min(judged for _, judged in runs)
        figures.report(f"healthy, {name}: epochs in which activations are judged, fewest", judged, least=4)  # fmt: skip


def lost(name: str, seed: int) -> tuple[int | None, float]:
    """Return when a run at a hundred times its rate diverges, and how many steps later that is found."""
    rows = rows_of(name)
    width, steps = rows[0].shape[1], FAULT_AT + _AFTER
    clean = train(net(seed, width), seed, rows, steps, nothing, is_watched=False)
    run = train(net(seed, width), seed, rows, steps, fast)
    at = diverged(run.losses, clean.losses)
    first = next((a for a in run.alerts if a.change in _OF_RATE and a.offset >= FAULT_AT), None)
    return at, np.inf if first is None or at is None else first.offset - at


def learning_rate(figures: Figures, seeds: range, pool: Executor) -> None:
    """Report how soon a divergence is found."""
    for name in DATA:
        runs = list(pool.map(partial(lost, name), seeds))
        late = [delay for at, delay in runs if at is not None]
        for seed, (at, delay) in zip(seeds, runs, strict=True):
            if at is not None and delay > _LATEST:
                print(f"# {name} seed {seed}: diverged at {at}, found {delay} steps later")
        figures.report(f"learning rate x100, {name}: runs that diverge", len(late))
        figures.report(
            f"learning rate x100, {name}: latest, steps after the divergence",
            max(late, default=np.inf),
            most=_LATEST,
        )


def in_the_middle(model: nn.Module) -> str:
    """Return the name of the layer half-way through a model, of dense and convolutional ones outside of attention."""
    layers = [
        name
        for name, m in model.named_modules()
        if isinstance(m, (nn.Linear, nn.Conv2d)) and "attention" not in name
    ]
    return layers[len(layers) // 2]


class Fault(NamedTuple):
    """One that makes an alert of a change of a layer."""

    change: str
    spoil: Spoil
    net: Callable[[int, int], nn.Module]
    layer: Callable[[nn.Module], str]


_FAULTS: Final = {
    "dead layer": Fault("dead", dying, net, before_relu),
    "vanishing gradient": Fault("vanishing", nothing, deep, lambda _: "0"),
    "NaN batch": Fault("non-finite", spoiled, net, seen_first),
    "NaN layer": Fault("non-finite", broken, net, in_the_middle),
}


def named(of: str, name: str, seed: int) -> tuple[bool, bool, bool]:
    """Return whether a fault is found, its layer named, and the batch that it was planted in."""
    fault, rows = _FAULTS[of], rows_of(name)
    model = fault.net(seed, rows[0].shape[1])
    run = train(model, seed, rows, FAULT_AT + 60, fault.spoil)
    of_layers = [a for a in run.alerts if a.change == fault.change and a.subject != "loss"]
    if not of_layers:
        return False, False, False
    first = of_layers[0]
    return True, first.subject == f"gradient:{fault.layer(model)}", first.offset == FAULT_AT


def _layer_faults(of: str, figures: Figures, seeds: range, pool: Executor) -> None:
    for name in DATA:
        shares = np.mean(list(pool.map(partial(named, of, name), seeds)), axis=0)
        figures.report(f"{of}, {name}: found", shares[0], least=1)
        figures.report(f"{of}, {name}: layer named", shares[1], least=1)
        if of.startswith("NaN"):
            figures.report(f"{of}, {name}: batch named", shares[2], least=1)


def dead_layer(figures: Figures, seeds: range, pool: Executor) -> None:
    """Report on a layer that no unit of is above zero."""
    _layer_faults("dead layer", figures, seeds, pool)


def vanishing_gradient(figures: Figures, seeds: range, pool: Executor) -> None:
    """Report on ten sigmoid layers."""
    _layer_faults("vanishing gradient", figures, seeds, pool)


def nan_batch(figures: Figures, seeds: range, pool: Executor) -> None:
    """Report on a batch with one number that is none."""
    _layer_faults("NaN batch", figures, seeds, pool)


def nan_layer(figures: Figures, seeds: range, pool: Executor) -> None:
    """Report on a layer in the middle that makes a number that is none of ones that are."""
    _layer_faults("NaN layer", figures, seeds, pool)
