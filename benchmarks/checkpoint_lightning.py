"""The files that Lightning's ModelCheckpoint keeps, by its own Trainer, and those that ours keeps, of one sequence of values."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tocsin.training import ModelCheckpoint

Kept = dict[str, tuple[int, int]]  # name without suffix: epoch and step of what is in it


def settings_of(seed: int) -> tuple[dict[str, Any], list[float], int]:
    """Draw settings, values and the number of batches an epoch; values are 32-bit floats, as Lightning's are."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 13))
    kind = rng.integers(4)
    values = rng.normal(size=count) if kind == 0 else rng.integers(0, 4, count) / 4
    values = np.where(rng.random(count) < 0.15 * (kind > 1), np.nan, values)
    values = np.where(
        rng.random(count) < 0.1 * (kind == 3), rng.choice([-np.inf, np.inf], count), values
    )
    templates = [
        None, "best", "{epoch:02d}-{loss:.2f}", "m-{loss:.0f}", "{step}", "a{loss}b{epoch}",
        "{loss:.1f}-{loss_other:.1f}",
    ]  # fmt: skip
    settings: dict[str, Any] = {
        "filename": templates[rng.integers(len(templates))],
        "monitor": "loss" if rng.random() < 0.9 else None,
        "mode": str(rng.choice(["min", "max"])),
        "save_top_k": int(rng.choice([-1, 0, 1, 2, 3, 5])),
        "save_last": bool(rng.random() < 0.5),
    }
    if rng.random() < 0.25:
        settings["every_n_train_steps"] = int(rng.integers(1, 4))
    if settings["monitor"] is None:
        settings["save_top_k"] = int(rng.choice([-1, 0, 1]))
    return settings, values.astype(np.float32).tolist(), int(rng.integers(1, 3))


def ours(
    folder: Path, settings: dict[str, Any], values: list[float], batches: int
) -> tuple[Kept, str]:
    """Return what ours keeps, and the name of the best."""
    checkpoint = ModelCheckpoint(folder, nan="worst", model=nn.Linear(1, 1), **settings)
    for epoch, value in enumerate(values):
        metrics = {"loss": value, "loss_other": -value}
        if "every_n_train_steps" in settings:
            for batch in range(batches):
                checkpoint.step(metrics, epoch=epoch, step=epoch * batches + batch + 1)
        else:
            checkpoint.step(metrics, epoch=epoch, step=(epoch + 1) * batches)
    checkpoint.finish()
    kept = {
        path.name.removesuffix(".safetensors"): (saved.epoch, saved.step)
        for path in folder.glob("*.safetensors")
        for saved in [ModelCheckpoint.load(path)]
    }
    return kept, Path(checkpoint.best_model_path).stem


def lightnings(
    folder: Path, settings: dict[str, Any], values: list[float], batches: int
) -> tuple[Kept, str]:
    """Return what Lightning's callback keeps in a run of its Trainer, and the name of the best."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    os.environ["LIGHTNING_DISABLE_TIPS"] = "1"
    import lightning.pytorch as pl  # pyright: ignore[reportMissingImports]
    from lightning.pytorch import callbacks  # pyright: ignore[reportMissingImports]

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            value = values[self.current_epoch]
            self.log("loss", value, on_step=True, on_epoch=False)
            self.log("loss_other", -value, on_step=True, on_epoch=False)
            return (self.weight - batch[0]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    checkpoint = callbacks.ModelCheckpoint(dirpath=folder, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=len(values), accelerator="cpu", logger=False, callbacks=[checkpoint],
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(
            Module(),
            torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(batches))),
        )
    kept: Kept = {}
    for path in folder.glob("*.ckpt"):
        saved = torch.load(path, weights_only=False)
        kept[path.stem] = (saved["epoch"], saved["global_step"])
    return kept, Path(checkpoint.best_model_path).stem
