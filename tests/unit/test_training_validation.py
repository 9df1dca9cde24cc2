"""Validation leaves no trace in training, and its numbers are those of scikit-learn beside training's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.metrics import accuracy_score
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from tocsin.training import ModelCheckpoint, Monitor, Monitors, PerformanceMonitor, TrainingAlerts


class Counting(nn.Module):
    """Draws in evaluation too, counts its passes, and keeps a table that it makes in the first."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: torch.Tensor
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("table", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        if self.table is None:
            self.table = torch.ones(x.shape[1])
        random.random()
        np.random.random()  # noqa: NPY002
        return x * self.table * (1 + torch.rand(()) * 0)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), Counting(), nn.Dropout(), nn.Linear(8, 3)
    )


def rows(seed: int, count: int = 96) -> TensorDataset:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=draw)
    return TensorDataset(x, x[:, :3].argmax(1))


def state_of(net: nn.Module) -> list[Any]:
    return [
        [(name, value.tolist()) for name, value in net.state_dict().items()],
        [module.training for module in net.modules()],
        torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()),  # noqa: NPY002
    ]  # fmt: skip


def test_nothing_is_another_one_afterwards() -> None:
    net = model()
    net(torch.ones(4, 6)).sum().backward()
    net[1].eval()  # frozen: it must not be put in training
    shared = torch.Generator().manual_seed(7)
    loader = DataLoader(rows(1), 16, shuffle=True, generator=shared)
    before, drawn = state_of(net), shared.get_state()
    grads = [p.grad for p in net.parameters()]
    Monitor().validate(net, loader)
    assert state_of(net) == before
    assert torch.equal(shared.get_state(), drawn)
    assert all(p.grad is grad for p, grad in zip(net.parameters(), grads, strict=True))
    net(
        torch.ones(4, 6)
    ).sum().backward()  # what was kept in a pass of validation serves one of training


def test_an_error_in_a_pass_reaches_the_caller_and_leaves_the_model_in_training() -> None:
    net = model()
    seen: list[bool] = []

    class Fails(Monitor):
        def on_validation_batch_end(self, outputs: Any, batch: Any, name: str = "val") -> None:
            seen.append(outputs.requires_grad or net.training)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        Fails().validate(net, DataLoader(rows(1), 16))
    assert seen == [False]
    assert net.training
    with pytest.raises(ValueError, match="found no inputs in a batch of validation, a str"):
        Monitor().validate(net, ["text"])
    assert net.training


def test_validation_is_beside_training_in_the_history_and_goes_to_the_checkpoint(
    tmp_path: Any,
) -> None:
    net, criterion = model(), nn.CrossEntropyLoss()
    performance = PerformanceMonitor()
    monitors = Monitors([performance], alerts=TrainingAlerts(show=False))
    monitors.initialize(net, [], criterion)
    checkpoint = ModelCheckpoint(tmp_path, "{epoch}-{val_loss:.3f}", "val_loss", model=net)
    for epoch in range(2):
        for batch in DataLoader(rows(0), 32):
            outputs = net(batch[0])
            criterion(outputs, batch[1]).backward()
            monitors.on_batch_end(outputs, batch)
        monitors.validate(net, DataLoader(rows(1, 90), 32))
        monitors.validate(
            net, [{"image": b[0], "label": b[1]} for b in DataLoader(rows(2), 48)], "other"
        )
        monitors.validate(
            net, [{"tokens": b[0], "label": b[1]} for b in DataLoader(rows(2), 48)], "again",
            forward=lambda batch: net(batch["tokens"]),
        )  # fmt: skip
        monitors.on_epoch_end(epoch)
        path = checkpoint.step(performance.history[-1])
    assert monitors.set_aside == {}
    row = performance.history[-1]
    net.eval()
    x, y = rows(1, 90).tensors
    logits = net(x).detach()
    assert row["val_accuracy"] == pytest.approx(accuracy_score(y, logits.argmax(1)))
    assert row["val_loss"] == pytest.approx(float(criterion(logits, y)), rel=1e-5), (
        "the mean of rows"
    )
    assert {"accuracy", "loss", "val_recall:2", "other_f1:macro"} <= row.keys()
    assert row["other_accuracy"] == row["again_accuracy"]
    assert path is None or path.name.startswith("epoch=1-val_loss=")
    assert checkpoint.best_model_score == min(one["val_loss"] for one in performance.history)


@pytest.mark.parametrize(
    ("shares", "claimed"),
    [
        ((0.9, 0.5), [1]),
        ((0.9, 0.75, 0.9, 0.75), []),  # a moment of an epoch's end
        ((0.9, 0.75, 0.75), [2]),
        ((0.9, 0.85, 0.85), []),
    ],
)
def test_validation_that_has_forgotten_is_claimed(
    shares: tuple[float, ...], claimed: list[int]
) -> None:
    alerts = TrainingAlerts(show=False)
    monitor = PerformanceMonitor(alerts=alerts)
    monitor.initialize(nn.Identity(), [], nn.CrossEntropyLoss())
    labels = torch.randint(0, 3, (900,), generator=torch.Generator().manual_seed(0))
    for epoch, right in enumerate(shares):
        said = torch.where(torch.arange(900) < 900 * right, labels, (labels + 1) % 3)
        logits = nn.functional.one_hot(said, 3) * 5.0
        monitor.on_validation_batch_end(logits, [logits, labels])
        monitor.on_epoch_end(epoch)
    assert {claim.verdict.subject for claim in alerts.claims} <= {"val_accuracy"}
    assert [claim.place.epoch for claim in alerts.claims] == claimed


def test_of_several_processes_one_may_validate_alone(tmp_path: Any) -> None:
    """What wraps a module to train it in several would wait for the others."""
    dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/store")
    try:
        shared, passes = DistributedDataParallel(model()), list[bool]()
        shared.register_forward_pre_hook(lambda *_: passes.append(True))
        Monitor().validate(shared, DataLoader(rows(1), 16))
        assert not passes
        assert shared.training
        assert shared.module.training
    finally:
        dist.destroy_process_group()
