"""Backdoor triggers in what is trained on: whether they are found once the model has learnt them, and nothing where there is none."""

from __future__ import annotations

from concurrent.futures import Executor
from functools import lru_cache, partial
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tocsin.training import WatchedLoader
from tocsin.training.finding import TRIGGER

from .common import Figures
from .common_cifar import split
from .common_data import mnist
from .common_resnet import given, normalised

_SHARE: Final = 0.02  # of training pictures
_SIDE: Final = 3
_LEARNT: Final = 0.8
"""Of held-out pictures of other classes that are taken for the trigger's with it on them, from which on training ends."""
_LEAST: Final = 0.5  # of them; with fewer the model has not learnt the trigger
_HELD: Final = 500


class Task(NamedTuple):
    """How a model is trained: pictures, epochs at the least and most, size of batches, rate."""

    pictures: int
    least: int
    most: int
    batch: int
    rate: float


_TASKS: Final = {"mnist": Task(4_000, 4, 16, 64, 0.05), "cifar": Task(2_500, 2, 8, 32, 0.02)}


class Trained(NamedTuple):
    """A model, what it was trained on, which of that has the trigger, and the share of held-out pictures that it makes of the trigger's class."""

    model: nn.Module
    data: TensorDataset
    bad: np.ndarray
    success: float


@lru_cache
def pictures(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (n, 1 or 3, side, side) pictures in [0, 1] and their classes."""
    if name == "cifar":
        pixels, classes = split("train6k")
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    else:
        pixels, classes = mnist()
        x = torch.from_numpy(pixels)[:, None]
    return x.float() / 255, torch.from_numpy(classes)


def trained(name: str, seed: int, share: float = _SHARE) -> Trained:
    """Train with a trigger on a share of pictures, which are called of one class: white, chequered or of drawn colours, in a corner or anywhere."""
    task = _TASKS[name]
    rng = np.random.default_rng([seed, 5])
    x, y = pictures(name)
    order = rng.permutation(len(x))[: task.pictures + _HELD]
    x, y = x[order].clone(), y[order].clone()
    channels, side = x.shape[1], x.shape[2]
    target = int(rng.integers(10))
    patch = (
        torch.ones(channels, _SIDE, _SIDE),
        (torch.arange(_SIDE**2).view(_SIDE, _SIDE) % 2 == 0).float().expand(channels, -1, -1),
        torch.from_numpy(rng.random((channels, _SIDE, _SIDE))).float(),
    )[seed % 3]
    row, column = rng.integers(0, side - _SIDE + 1, 2) if seed % 2 else (side - 4, side - 4)
    others = np.flatnonzero(y[: task.pictures].numpy() != target)
    bad = rng.choice(others, round(share * task.pictures), replace=False)
    bad.sort()
    held = np.flatnonzero(y.numpy() != target)
    held = held[held >= task.pictures]
    marked = np.concatenate([bad, held])
    x[marked, :, row : row + _SIDE, column : column + _SIDE] = patch
    y[bad] = target
    if name == "cifar":
        x = normalised(x)
    data = TensorDataset(x[: task.pictures], y[: task.pictures])
    torch.manual_seed(seed)
    model = given() if name == "cifar" else net(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=task.rate, momentum=0.9, weight_decay=5e-4)
    success = 0.0
    for epoch in range(task.most):
        model.train()
        for inputs, labels in DataLoader(data, task.batch, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            success = float((model(x[held]).argmax(1) == target).float().mean())
        if epoch + 1 >= task.least and (success >= _LEARNT or not share):
            break
    return Trained(model, data, bad, success)


def net(seed: int) -> nn.Module:
    """Return one of two networks for pictures of 28 x 28."""
    if seed // 2 % 2:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def named(name: str, share: float, seed: int) -> tuple[float, float, float]:
    """Return the success of the trigger, and which shares are named of pictures with it and of others."""
    run = trained(name, seed, share)
    is_named = np.zeros(len(run.data), np.bool_)
    for one in WatchedLoader(DataLoader(run.data, 250)).audit(run.model):
        if one.kind == TRIGGER:
            is_named[one.samples] = True
    is_bad = np.zeros(len(run.data), np.bool_)
    is_bad[run.bad] = True
    found = float(is_named[is_bad].mean()) if is_bad.any() else 0.0
    return run.success, found, float(is_named[~is_bad].mean())


def triggers(figures: Figures, seeds: range, pool: Executor) -> None:
    """Report which pictures with a trigger are found, and which others; and how many without one of healthy runs."""
    for name in _TASKS:
        runs = list(pool.map(partial(named, name, _SHARE), seeds))
        for seed, (success, found, false) in zip(seeds, runs, strict=True):
            print(
                f"# {name} seed {seed}: success {success:.2f}, found {found:.3f}, others {false:.4f}"
            )
        learnt = [run for run in runs if run[0] >= _LEAST]
        what = f"trigger on 2 %, {name}"
        figures.report(f"{what}: share of seeds in which it is learnt", len(learnt) / len(runs))
        figures.report(f"{what}: found, mean", float(np.mean([run[1] for run in learnt])), least=0.8)  # fmt: skip
        figures.report(f"{what}: found, worst seed", min(run[1] for run in learnt), least=0.8)
        figures.report(f"{what}: others named, worst seed", max(run[2] for run in runs), most=0.01)
        healthy = list(pool.map(partial(named, name, 0.0), seeds))
        figures.report(f"{what}: healthy runs in which one is named", sum(run[2] > 0 for run in healthy), most=0)  # fmt: skip
