"""A training that saves in a loop until it is killed: every number of what it saves tells the epoch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tocsin.core.errors import ConfigError
from tocsin.training import ModelCheckpoint

EPOCHS, KEPT = 10_000, 3


def scores(seed: int) -> np.ndarray:
    """Return (EPOCHS,) values that get better slowly, with ties and NaN."""
    rng = np.random.default_rng(seed)
    found = np.round(np.exp(-np.arange(EPOCHS) / 100) + rng.exponential(0.02, EPOCHS), 2)
    found[rng.random(EPOCHS) < 0.05] = np.nan
    return found


def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a model of 50 kB and its optimizer, whose state is twice that."""
    model = nn.Linear(100, 128)
    return model, torch.optim.Adam(model.parameters(), lr=0.0)


def mark(model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    """Write the epoch into every number of the weights and of the optimizer's state."""
    for weight in model.parameters():
        weight.data.fill_(epoch)
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for state in optimizer.state.values():
        state["exp_avg"].fill_(epoch)
        state["exp_avg_sq"].fill_(epoch)


def save_until_killed(folder: Path, seed: int, pipe: int) -> None:
    """Go on where the folder is, or begin; write the number of each epoch to a pipe when it is done."""
    model, optimizer = parts()
    try:
        checkpoint = ModelCheckpoint.resume(folder, model, optimizer)
    except ConfigError:
        # In turns: a name of its own for each file, and one name that is taken again and again.
        name = "{epoch}-{val_loss:.2f}" if seed % 2 else "best"
        checkpoint = ModelCheckpoint(
            folder, name, "loss", save_top_k=KEPT, save_last="link" if seed % 4 > 1 else True,
            nan="worst", model=model, optimizer=optimizer,
        )  # fmt: skip
    os.write(pipe, b"ready\n")
    values = scores(seed)
    for epoch in range(checkpoint.next_epoch, EPOCHS):
        mark(model, optimizer, epoch)
        checkpoint.step(float(values[epoch]))
        os.write(pipe, b"%d\n" % epoch)
