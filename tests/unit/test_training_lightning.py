"""Monitors in Lightning's own Trainer: what they are told, and that its training stays the same."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

os.environ["LIGHTNING_DISABLE_TIPS"] = "1"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own imports
    import lightning.pytorch as pl

from tocsin.training import (
    ActivationMonitor,
    BaseMonitor,
    GradientMonitor,
    LossMonitor,
    Monitor,
    Monitors,
    PerformanceMonitor,
    TrainingAlerts,
    WatchedLoader,
)
from tocsin.training.lightning import MonitorCallback

pytestmark = [
    pytest.mark.xdist_group("lightning"),
    # Few workers, no logger: what Lightning thinks of the settings of a test.
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
]


PAGE = (Path(__file__).parents[2] / "docs/training_monitors.md").read_text()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("lightning.pytorch")
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(logging.NOTSET)


class Module(pl.LightningModule):
    """A net in a module, with a loss that `training_step` returns alone."""

    def __init__(self, *, child: bool = False, spoiled: int = -1) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))
        self.criterion = nn.CrossEntropyLoss()
        self.child = child
        self.spoiled = spoiled
        self.losses: list[float] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Any:
        x, y = batch
        if index == self.spoiled and self.current_epoch == 1:
            x = x.clone()
            x[0, 0] = float("nan")
        loss = self.criterion(self.net(x) if self.child else self(x), y)
        self.losses.append(float(loss.detach()))
        return loss

    def val_dataloader(self) -> Any:
        return DataLoader(data(), 64)

    def validation_step(self, batch: Any, _: int) -> torch.Tensor:
        return self.criterion(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def data() -> TensorDataset:
    x = torch.randn(192, 8, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x[:, 0] + x[:, 1] > 0).long())


def fit(module: pl.LightningModule, folder: Path, *callbacks: Any, loader: Any = None, **settings: Any) -> pl.Trainer:  # fmt: skip
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, callbacks=list(callbacks), enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder, **settings,
    )  # fmt: skip
    torch.manual_seed(5)
    loader = loader or DataLoader(data(), 32, shuffle=True)
    trainer.fit(module, loader)
    return trainer


def watched() -> tuple[list[BaseMonitor], TrainingAlerts]:
    alerts = TrainingAlerts("net", show=False)
    of = [
        LossMonitor(),
        GradientMonitor(every=1),
        PerformanceMonitor(),
        ActivationMonitor(every=1),
    ]
    return of, alerts


def hooks_of(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(m, kind)) for m in module.modules() for kind in kinds)


@pytest.mark.parametrize("accumulated", [1, 4])
def test_training_is_the_same_and_monitors_see_all_of_it(tmp_path: Path, accumulated: int) -> None:
    plain, module = Module(), Module()
    settings = {"accumulate_grad_batches": accumulated, "gradient_clip_val": 0.5}
    fit(plain, tmp_path, **settings)
    of, alerts = watched()
    monitors = Monitors(of, alerts=alerts)
    norms: list[float] = []

    class Norms(pl.Callback):
        def on_before_zero_grad(self, _trainer: Any, module: Any, _optimizer: Any) -> None:
            grads = [p.grad for p in module.parameters() if p.grad is not None]
            norms.extend([float(torch.stack([g.norm() for g in grads]).norm())] if grads else [])

    fit(module, tmp_path, MonitorCallback(monitors), Norms(), **settings)
    for one, other in zip(plain.parameters(), module.parameters(), strict=True):
        assert torch.equal(one, other)
    assert plain.losses == module.losses
    assert monitors.set_aside == {}
    assert hooks_of(module) == 0
    loss, gradients, performance, activations = of
    assert isinstance(loss, LossMonitor)
    assert isinstance(gradients, GradientMonitor)
    assert isinstance(performance, PerformanceMonitor)
    assert isinstance(activations, ActivationMonitor)
    assert [value for _, value in loss.history] == pytest.approx(module.losses)
    steps = [step for step, _ in gradients.history]
    # The last batch of an epoch makes a step as well.
    assert steps == (list(range(12)) if accumulated == 1 else [3, 5, 9, 11])
    # Before validation Lightning frees gradients.
    kept = [value for step, value in gradients.history if step not in (5, 11)]
    assert kept == pytest.approx(norms), "as they were clipped"
    assert [row["epoch"] for row in performance.history] == [0, 1]
    assert performance.history[1]["accuracy"] > 0.6
    assert "dead:net.1" in activations.history[0]
    assert all("val_accuracy" in row for row in performance.history)


def test_a_batch_is_named_by_its_loader_and_logits_come_of_a_child_too(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Sees(Monitor):
        def on_batch_end(self, outputs: Any, batch: Any) -> None:
            seen.append((batch.index, batch.samples, outputs, batch))

    of, alerts = watched()
    monitors = Monitors([*of, Sees()], alerts=alerts)
    loader = WatchedLoader(DataLoader(data(), 32, shuffle=True))
    fit(Module(child=True, spoiled=4), tmp_path, MonitorCallback(monitors), loader=loader)
    assert monitors.set_aside == {}
    assert [index for index, *_ in seen] == [*range(6), *range(6)]
    labels = data().tensors[1]
    for _, samples, outputs, (_, y) in seen:
        assert torch.equal(labels[samples], y)
        assert outputs["logits"].shape == (32, 2)
    found = {(a.subject, a.change, a.prediction_id) for a in alerts.alerts if a.state == "firing"}
    assert found == {
        ("loss", "non-finite", "batch 4 of epoch 1"),
        ("gradient:net.0", "non-finite", "batch 4 of epoch 1"),
        ("val_accuracy", "rate down", "batch 5 of epoch 1"),
    }


def test_what_training_step_returns_comes_first_and_a_module_may_be_named(tmp_path: Path) -> None:
    class Returns(Module):
        def training_step(self, batch: Any, index: int) -> Any:
            return {"loss": super().training_step(batch, index), "logits": torch.ones(32, 2)}

    seen: list[Any] = []

    class Sees(Monitor):
        def on_batch_end(self, outputs: Any, batch: Any) -> None:
            seen.append(outputs)

    fit(Returns(), tmp_path, MonitorCallback(Sees()))
    assert all(torch.equal(outputs["logits"], torch.ones(32, 2)) for outputs in seen)
    assert all(not outputs["loss"].requires_grad for outputs in seen)
    seen.clear()
    fit(Module(), tmp_path, MonitorCallback([Sees()], model="net.0"), max_steps=2)
    assert [tuple(outputs["logits"].shape) for outputs in seen] == [(32, 16)] * 2
    with pytest.raises(ValueError, match=r"no module 'head' in Module, which has net, criterion"):
        fit(Module(), tmp_path, MonitorCallback([Sees()], model="head"))


def test_a_second_fit_begins_anew_and_one_that_fails_leaves_no_hook(tmp_path: Path) -> None:
    of, alerts = watched()
    callback = MonitorCallback(Monitors(of, alerts=alerts))
    loss = of[0]
    assert isinstance(loss, LossMonitor)
    for _ in range(2):
        module = Module()
        fit(module, tmp_path, callback)
        assert [step for step, _ in loss.history] == list(range(12))
        assert hooks_of(module) == 0

    class Fails(Module):
        def training_step(self, batch: Any, index: int) -> Any:
            if index == 3:
                raise RuntimeError("a broken step")
            return super().training_step(batch, index)

    module = Fails()
    with pytest.raises(RuntimeError, match="a broken step"):
        fit(module, tmp_path, callback)
    assert hooks_of(module) == 0
    assert len(loss.history) == 3


def test_a_monitor_that_fails_does_not_end_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Rude(Monitor):
        def on_batch_end(self, outputs: Any, batch: Any) -> None:
            raise KeyError("mine")

    callback = MonitorCallback(Rude())
    callback.monitors.alerts = TrainingAlerts(show=False)
    trainer = fit(Module(), tmp_path, callback)
    assert trainer.global_step == 12
    assert list(callback.monitors.set_aside) == ["Rude"]
    assert "set aside" in caplog.text


def test_the_snippet_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if "training.lightning" in block]
    names: dict[str, Any] = {"module": (module := Module()), "loader": DataLoader(data(), 32)}
    exec(code, names)
    (loss, _) = names["callback"].monitors.monitors
    assert [value for _, value in loss.history] == pytest.approx(module.losses)


@pytest.mark.parametrize("validates", [True, False])
def test_a_watched_loader_draws_when_a_plain_one_does(tmp_path: Path, validates: bool) -> None:
    class Draws(Module):
        """Random numbers of its hooks come between the beginning of an epoch and its first batch."""

        def on_train_start(self) -> None:
            torch.rand(1)

        def on_train_epoch_start(self) -> None:
            torch.rand(1)

    def trained(loader: Any) -> tuple[Module, float]:
        module = Draws()
        fit(module, tmp_path, loader=loader, **({} if validates else {"limit_val_batches": 0}))
        return module, float(torch.rand(1))

    plain, number = trained(DataLoader(data(), 32, shuffle=True))
    loader = WatchedLoader(DataLoader(data(), 32, shuffle=True))
    module, again = trained(loader)
    assert module.losses == plain.losses
    assert again == number
    assert loader.epoch == 1


def test_processes_that_would_train_on_all_rows_each_are_refused() -> None:
    def begin(loader: Any, processes: int = 2, *, shares: bool = True) -> None:
        connector = SimpleNamespace(use_distributed_sampler=shares)
        trainer = SimpleNamespace(
            world_size=processes, train_dataloader=loader, is_global_zero=False, _accelerator_connector=connector
        )  # fmt: skip
        MonitorCallback(LossMonitor()).on_train_start(trainer, Module())

    plain = DataLoader(data(), 32, shuffle=True)
    for loader in (WatchedLoader(plain), {"a": plain, "b": [WatchedLoader(plain)]}):
        with pytest.raises(ValueError, match=r"2 processes.*DataLoader\(\.\.\., sampler=Distr"):
            begin(loader)
        begin(loader, 1)
        begin(loader, shares=False)
    begin(plain)  # Lightning sees to it
    begin(WatchedLoader(DataLoader(data(), 32, sampler=DistributedSampler(data(), 2, 0))))


def test_a_run_that_is_resumed_goes_on_with_its_epochs(tmp_path: Path) -> None:
    path = tmp_path / "two.ckpt"
    fit(Module(), tmp_path).save_checkpoint(path)

    class Breaks(Module):
        def training_step(self, batch: Any, index: int) -> Any:
            x, y = batch
            is_broken = (self.current_epoch, index) == (2, 1)
            return super().training_step((x * torch.nan if is_broken else x, y), index)

    alerts = TrainingAlerts("net", show=False)
    monitors = Monitors([LossMonitor()], alerts=alerts)
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, callbacks=[MonitorCallback(monitors)], enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Breaks(), DataLoader(data(), 32), ckpt_path=str(path))
    assert [a.prediction_id for a in alerts.alerts] == ["batch 1 of epoch 2"]
