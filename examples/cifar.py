"""A ResNet-20 is trained on CIFAR-10 and watched from the first look at the data to the last checkpoint.

`python -m examples.cifar` in the root of the project; `--fault` shows what a failure looks like. The pictures are those of the folder that
TOCSIN_BENCH_DATA names (default `../shared/data`, see benchmarks/common_data.py); where it has none, a small net learns scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from benchmarks.common_resnet import Pictures, ResNet20
from tocsin.training import (
    ActivationMonitor,
    CalibrationMonitor,
    DriftMonitor,
    GradientMonitor,
    LossMonitor,
    ModelCheckpoint,
    Monitors,
    PerformanceMonitor,
    TrainingAlerts,
    WatchedLoader,
)
from tocsin.training.finding import report

_BATCH: Final = 128
_RATE: Final = 0.1
_LEAST: Final = 1000  # rows that a reference is made of; with 1,500 it has logits too
_HELD: Final = 1500
_AUDITED: Final = 1000  # samples that the model looks at once more
FAULTS: Final = ("rate", "nan", "labels")


def cifar() -> tuple[nn.Module, Any, Any, Any]:
    """Return a net, pictures as they are, the same cut and flipped at random, and those to validate on."""
    return ResNet20(), Pictures("train6k"), Pictures("train6k", augment=True), Pictures("test3k")


def digits() -> tuple[nn.Module, Any, Any, Any]:
    """Return the same of digits of 8 by 8 pixels."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    pixels = torch.tensor(x / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    data = TensorDataset(pixels, torch.tensor(y))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 9, 10),
    )  # fmt: skip
    train = Subset(data, order[_LEAST:])
    return model, train, train, Subset(data, order[:_LEAST])


def looked_at(data: Subset[Any], validation: Subset[Any]) -> WatchedLoader:
    """Print what is wrong with the data before any of it is learnt."""
    loader = WatchedLoader(DataLoader(data, _BATCH), references={"validation": validation})
    loader.look()
    print(f"the data before training\n{loader.report()}")
    return loader


def spoiled(fault: str | None, step: int, steps: int, batch: Any, optimizer: Any) -> Any:
    """Return inputs and labels of a batch, after a fault in the middle of the run."""
    inputs, labels = batch
    if fault == "rate" and step == steps // 2:
        optimizer.param_groups[0]["lr"] *= 100
    if fault == "nan" and step == steps // 2:
        inputs = inputs.clone()
        inputs[0] = float("nan")
    if fault == "labels" and step >= steps // 2:
        labels = labels.roll(1)
    return inputs, labels


def main(words: Sequence[str] | None = None) -> None:
    """Look at the data, train, and say what was found and what was kept."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--epochs", type=int, default=10)
    asked.add_argument(
        "--rows", type=int, help="so many to train on; then 1,500 at the most to validate on"
    )
    asked.add_argument("--folder", type=Path, help="where checkpoints and plots go")
    asked.add_argument("--tensorboard", action="store_true", help="write scalars to the folder too")
    asked.add_argument("--fault", choices=FAULTS, help="goes wrong in the middle of the run")
    asked.add_argument("--seed", type=int, default=0)
    options = asked.parse_args(words)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="tocsin-cifar-"))

    torch.manual_seed(options.seed)
    try:
        name, (model, plain, varied, held_back) = "CIFAR-10", cifar()
    except FileNotFoundError as missing:
        print(f"{missing}\n")
        name, (model, plain, varied, held_back) = "digits", digits()
    plain = Subset(plain, range(len(plain))[: options.rows])
    validation = Subset(held_back, range(len(held_back))[: options.rows and _HELD])
    looked = looked_at(plain, validation)
    left = list(looked.quarantine().indices)
    print(f"trained on {len(left):,} of {len(plain):,} samples\n")

    loader = WatchedLoader(DataLoader(Subset(varied, left), _BATCH, shuffle=True))
    held: DataLoader[Any] = DataLoader(validation, 256)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=_RATE, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    steps = options.epochs * len(loader)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    checkpoint = ModelCheckpoint(
        folder, "best-{epoch:02d}-{val_loss:.2f}", "val_loss", save_top_k=2, save_last=True,
        nan="worst",  # a fault is to be seen to its end; without, a loss that is NaN is an error
        model=model, optimizer=optimizer, scheduler=scheduler,
    )  # fmt: skip
    loss, performance = LossMonitor(), PerformanceMonitor()
    of = [
        loss, GradientMonitor(), ActivationMonitor(), CalibrationMonitor(), performance, DriftMonitor(loss),
    ]  # fmt: skip
    alerts = TrainingAlerts(name)  # printed; redis_url=... puts them on the channel of a worker's
    writer = _writer(folder) if options.tensorboard else None
    with Monitors(of, alerts=alerts, writer=writer, progress=True) as monitors:
        monitors.initialize(model, loader, criterion)
        for epoch in range(options.epochs):
            for batch in loader:
                step = epoch * len(loader) + batch.index
                inputs, labels = spoiled(options.fault, step, steps, batch, optimizer)
                outputs = model(inputs)
                optimizer.zero_grad()
                criterion(outputs, labels).backward()
                optimizer.step()
                scheduler.step()
                loader.observe(outputs, batch)
                monitors.on_batch_end(outputs, batch)
            monitors.validate(model, held)
            monitors.on_epoch_end(epoch)
            checkpoint.step(performance.history[-1]["val_loss"], epoch=epoch)
    if writer is not None:
        writer.close()

    print(f"\nfound in training\n{loader.report()}")
    best = ModelCheckpoint.load(folder, model)
    found = looked.audit(model, most=_AUDITED)  # triggers, and what is unusual to the model
    print(f"\nfound by the model\n{report(found)}")
    looked.report(folder / "data.html")
    now = performance.history[best.epoch]
    print(f"\nbest epoch {best.epoch}: validated accuracy {now['val_accuracy']:.3f}, loss {now['val_loss']:.3f}")  # fmt: skip
    print(f"{len(alerts.claims)} claims in {len(alerts.alerts)} alerts")
    # What a worker compares with what it is sent, of the best weights: see docs/training_reference.md.
    written = monitors.reference(folder / "reference.npz", held, version="1")
    print(f"\n{written}\n\nkept in {folder}:")
    if find_spec("matplotlib") is not None:
        monitors.plot().savefig(folder / "monitors.svg")
    for path in sorted(folder.iterdir()):
        if path.suffix != ".state":
            print(f"  {path.name}")


def _writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


if __name__ == "__main__":
    main()
