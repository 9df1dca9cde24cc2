"""Batches, labels, pictures and models that nobody expected, beside a training loop that must not notice."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from tocsin.training import (
    ActivationMonitor,
    CalibrationMonitor,
    FindingsMonitor,
    GradientMonitor,
    LossMonitor,
    Monitor,
    Monitors,
    PerformanceMonitor,
    TrainingAlerts,
    WatchedLoader,
)
from tocsin.training.finding import DRIFT, NOT_FINITE, OUT_OF_RANGE, Finding
from tocsin.training.pictures import page


class ByAttribute(dict[str, Any]):
    """A dictionary that raises `KeyError` for an attribute that it does not have."""

    __getattr__ = dict.__getitem__


class Drawing(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pictures with noise of generators of its own."""

    def __init__(self) -> None:
        self.x = torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        self.noise = [np.random.default_rng(3), {"more": torch.Generator().manual_seed(5)}]
        self.python = random.Random(4)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        numbers, torches = self.noise
        assert isinstance(torches, dict)
        assert isinstance(numbers, np.random.Generator)
        noise = numbers.random() + self.python.random()
        x = self.x[k] + float(noise) + torch.rand(1, generator=torches["more"])
        return x, (self.x[k].mean() > 0.5).long()


class Noisy(nn.Module):
    """A model that draws in evaluation as well, of a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        self.generator = torch.Generator().manual_seed(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.net(x + 0.1 * torch.randn(x.shape, generator=self.generator))
        return y


class Remembering(nn.Module):
    """A loss with running means and with noise."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.mean = 0.9 * self.mean + 0.1 * outputs.detach().mean(0)
        return nn.functional.cross_entropy(outputs - self.mean, targets) * (1 + noise())


def noise() -> float:
    return 0.01 * (random.random() + float(np.random.rand()))  # noqa: NPY002 - that is the case


def noisy_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, targets) * (1 + noise())


def patched() -> nn.Module:
    """Return a model whose forward pass was wrapped, as by a profiler: a copy of it runs the model itself."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    inner = model.forward
    model.forward = lambda x: inner(x)  # type: ignore[method-assign] # noqa: PLW0108 - a closure is the case
    return model


def trained(kind: str, *, is_watched: bool) -> list[Any]:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global one is what loops draw from
    random.seed(0)
    model = patched() if kind == "patched" else Noisy()
    criterion = Remembering() if kind == "module" else noisy_loss
    loader: Any = DataLoader(Drawing(), 16, shuffle=True)
    held_out = DataLoader(Drawing(), 16)
    monitors = None
    if is_watched:
        loader = WatchedLoader(loader, references={"val": Drawing()})
        monitors = Monitors(
            [LossMonitor(), PerformanceMonitor(), FindingsMonitor(audit=1, labels=True)],
            alerts=TrainingAlerts(show=False),
        )
        monitors.initialize(model, loader, criterion)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for epoch in range(2):
        for batch in loader:
            x, y = batch
            optimizer.zero_grad()
            outputs = model(x)
            criterion(outputs, y).backward()
            optimizer.step()
            if monitors is not None:
                monitors.on_batch_end(outputs, batch)
        if monitors is not None:
            monitors.validate(model, held_out)
            monitors.on_epoch_end(epoch)
    if monitors is not None:
        monitors.close()
        assert monitors.set_aside.keys() <= {"FindingsMonitor 2"}
    return [*model.state_dict().values(), torch.tensor(random.random()), torch.rand(1), torch.tensor(np.random.rand())]  # noqa: NPY002 # fmt: skip


@pytest.mark.parametrize("kind", ["generators", "patched", "module"])
def test_training_is_the_same_with_generators_wrapped_passes_and_losses_with_a_state(
    kind: str,
) -> None:
    with_, without = (trained(kind, is_watched=watched) for watched in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(with_, without, strict=True))


def test_a_dictionary_read_by_attributes_goes_through_loader_and_monitors() -> None:
    data = TensorDataset(torch.randn(8, 3), torch.tensor([0, 1] * 4))

    def collate(samples: list[Any]) -> ByAttribute:
        x, y = zip(*samples, strict=True)
        return ByAttribute(inputs=torch.stack(x), labels=torch.stack(y))

    monitors = Monitors([PerformanceMonitor()], alerts=TrainingAlerts(show=False))
    monitors.initialize(nn.Linear(3, 2), [], None)
    watched = WatchedLoader(DataLoader(data, 4, collate_fn=collate))
    for loader in (watched, watched.loader):
        for batch in loader:
            assert type(batch) is ByAttribute
            monitors.on_batch_end(torch.zeros(4, 2), batch)
    assert monitors.set_aside == {}
    assert next(iter(watched)).index == 0


def test_a_batch_changed_in_place_by_the_loop_is_looked_at_as_it_came() -> None:
    watched = WatchedLoader(DataLoader(TensorDataset(torch.rand(64, 8), torch.zeros(64)), 8))
    for batch in watched:
        batch[0].fill_(torch.nan)
    assert [one.kind for one in watched.findings() if one.kind == NOT_FINITE] == []


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.bfloat16, torch.float64, torch.int8])
def test_numbers_of_any_type_are_looked_at(kind: torch.dtype) -> None:
    x = torch.randn(16, 3, 4, 4).to(kind)
    watched = WatchedLoader(DataLoader(TensorDataset(x, torch.arange(16)), 4))
    watched.look()
    assert watched.findings() == []
    assert "not looked at" not in watched.report()


def test_tensors_without_numbers_are_passed_through() -> None:
    data = [torch.empty(3, device="meta")] * 8
    watched = WatchedLoader(DataLoader(data, 4, collate_fn=torch.stack))  # type: ignore[arg-type] # a list is a data set
    assert len(list(watched)) == 2
    assert "2 batches were not looked at" in watched.report()


def test_a_label_that_is_no_class_says_nothing() -> None:
    y = torch.tensor([0, 1, -100, 1, 0, 1, 0, 5] * 16)
    watched = WatchedLoader(DataLoader(TensorDataset(torch.rand(128, 1, 16, 16), y), 8))
    for batch in watched:
        watched.observe(torch.tensor([[9.0, 0.0]]).expand(8, 2), batch)
    none = np.isin(y.numpy(), (-100, 5))
    assert np.isnan(watched.suspicion()[none]).all()
    assert np.isfinite(watched.suspicion()[~none]).all()
    torch.manual_seed(0)
    for one in watched.audit(nn.Sequential(nn.Flatten(), nn.Linear(256, 2))):
        assert not none[one.samples].any()


@pytest.mark.parametrize(
    "odd",
    [
        lambda x: x[..., ::-1],
        lambda x: x.astype(">f4"),
        lambda x: x.astype(np.longdouble),
        lambda x: (x.setflags(write=False), x)[1],
    ],
)
def test_arrays_that_torch_does_not_take_are_looked_at(odd: Any) -> None:
    x = np.random.default_rng(0).random((60, 4), np.float32)
    x[7, 2] = np.nan
    loader = WatchedLoader(
        DataLoader(range(60), 20, collate_fn=lambda rows: (odd(x[rows]), np.array(rows) % 3))  # type: ignore[arg-type]
    )
    loader.look()
    (found,) = loader.findings()
    assert (found.kind, found.samples.tolist()) == (NOT_FINITE, [7])


def test_a_batch_that_is_a_part_of_itself_is_passed_through() -> None:
    class Batch:
        def __init__(self) -> None:
            self.me = self

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(range(6))

    loader = WatchedLoader(DataLoader(Stream(), 2, collate_fn=lambda _: Batch()))
    assert len([batch.me for batch in loader]) == 3


def test_a_number_beyond_single_precision_is_one() -> None:
    x = torch.rand(300, 3, dtype=torch.float64)
    x[5, 1] = 1e200
    loader = WatchedLoader(DataLoader(TensorDataset(x, torch.arange(300) % 2), 50))
    loader.look()
    (found,) = loader.findings()
    assert (found.kind, found.samples.tolist()) == (OUT_OF_RANGE, [5])


@pytest.mark.parametrize("shape", [(1, 1, 30), (1, 8, 8), (0, 16, 16)])
def test_an_audit_of_pictures_too_small_for_a_trigger_finds_none(shape: tuple[int, ...]) -> None:
    rows = 0 if 0 in shape else 40
    data = TensorDataset(torch.rand(rows, *shape), torch.tensor([0, 1] * (rows // 2)).long())
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    model(torch.rand(1, *shape))
    assert WatchedLoader(DataLoader(data, 8)).audit(model) == []


def test_a_hundred_thousand_classes_take_no_square_of_them() -> None:
    monitors = Monitors([PerformanceMonitor(), CalibrationMonitor()], alerts=TrainingAlerts(show=False))  # fmt: skip
    monitors.initialize(nn.Linear(1, 1), [], None)
    outputs = torch.zeros(4, 100_000)
    outputs[torch.arange(4), torch.tensor([7, 8, 99_999, 1])] = 50.0
    monitors.on_batch_end(outputs, (torch.zeros(4, 1), torch.tensor([7, 8, 99_999, -100])))
    monitors.on_batch_end(outputs, (torch.zeros(4, 1), torch.tensor([7, 0, 0, 0])))
    monitors.on_epoch_end(0)
    performance = monitors.monitors[0]
    assert isinstance(performance, PerformanceMonitor)
    assert performance.history[0]["accuracy"] == pytest.approx(4 / 7)
    assert "recall:7" not in performance.history[0]
    assert monitors.set_aside == {}


def test_a_layer_that_is_never_built_is_passed_over() -> None:
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "other": nn.LazyLinear(3), "norm": nn.LazyBatchNorm1d()})  # fmt: skip
    optimizer = torch.optim.SGD(model["used"].parameters(), 0.1)
    monitors = Monitors(
        [GradientMonitor(every=1), ActivationMonitor()], alerts=TrainingAlerts(show=False)
    )
    monitors.initialize(model, [], None)
    for _ in range(3):
        outputs = model["used"](torch.ones(4, 2))
        outputs.sum().backward()
        optimizer.step()
        monitors.on_batch_end(outputs, None)
    monitors.validate(model, [torch.zeros(1, 2)], forward=model["used"])
    monitors.close()
    assert monitors.set_aside == {}


def test_a_monitor_that_was_set_aside_is_begun_anew_with_the_next_run() -> None:
    class Early(Monitor):
        def on_epoch_end(self, epoch: int) -> None:
            raise RuntimeError(epoch)

    monitors = Monitors([Early()], alerts=TrainingAlerts(show=False))
    monitors.initialize(nn.Linear(1, 1), [], None)
    monitors.on_epoch_end(0)
    assert list(monitors.set_aside) == ["Early"]
    monitors.initialize(nn.Linear(1, 1), [], None)
    assert monitors.set_aside == {}
    monitors.on_epoch_end(1)
    assert monitors.set_aside["Early"].args == (1,)


def test_the_page_thins_large_pictures_and_shows_long_ones_as_numbers() -> None:
    def read(rows: Any, split: str = "") -> tuple[np.ndarray, None]:
        return big, None

    rng = np.random.default_rng(0)
    big = rng.integers(0, 256, (1, 3, 3000, 4000), dtype=np.uint8)
    found = Finding(NOT_FINITE, "<script>", np.array([0]), part=np.array([[0, 2000, 400]]))
    html = page([found], read)
    assert len(html) < 2_000_000
    assert "left:48.0px" in html, "where the part is in the picture, however it is shown"
    assert "<script>" not in html
    big = np.zeros((1, 100_000, 2))
    assert "<img" not in page([found], read)
    big = np.full((1, 3, 8, 8), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "<img" in page([found], read)


def test_a_report_of_names_that_are_no_text_is_written(tmp_path: Path) -> None:
    x = torch.rand(8, 3)
    watched = WatchedLoader(
        DataLoader(TensorDataset(x, torch.arange(8)), 4), references={"a\udce4<b>": x[:2]}
    )
    watched.look()
    watched.report(tmp_path / "page.html")
    assert "&lt;b&gt;" in (tmp_path / "page.html").read_text("utf-8")


def test_losses_of_half_precision_are_told_apart() -> None:
    alerts = TrainingAlerts(show=False)
    monitors = [LossMonitor(alerts=alerts), PerformanceMonitor(alerts=alerts)]
    logits = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 16
    losses = []
    for kind in (torch.float32, torch.bfloat16):
        for monitor in monitors:
            monitor.initialize(nn.Linear(1, 1), [], nn.functional.cross_entropy)
        for k in range(4):
            outputs = (logits * (1 + 0.01 * k)).to(kind)
            for monitor in monitors:
                monitor.on_batch_end(outputs, (None, labels))
                monitor.on_validation_batch_end(outputs, (None, labels))
        for monitor in monitors:
            monitor.on_epoch_end(0)
        losses.append(
            [loss for _, loss in monitors[0].history] + [monitors[1].history[0]["val_loss"]]
        )  # type: ignore[attr-defined]
    assert len(set(losses[1])) == 5
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


def test_a_criterion_that_takes_half_precision_only_is_given_that() -> None:
    weights = torch.rand(3).half()
    monitor = LossMonitor(alerts=TrainingAlerts(show=False))
    monitor.initialize(
        nn.Linear(1, 1), [], lambda x, y: nn.functional.cross_entropy(x, y, weight=weights)
    )
    monitor.on_batch_end(torch.randn(8, 3).half(), (None, torch.arange(8) % 3))
    assert len(monitor.history) == 1


def test_gradients_of_half_precision_whose_squares_are_not_are_finite() -> None:
    model = nn.Linear(64, 64).half()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    alerts = TrainingAlerts(show=False)
    monitor = GradientMonitor(alerts=alerts)
    monitor.initialize(model, [], None)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 30_000)
    optimizer.step()
    monitor.on_batch_end(None, None)
    monitor.close()
    assert not alerts.claims
    assert monitor.history[-1][1] == pytest.approx(30_000 * (64 * 65) ** 0.5, rel=1e-3)


def test_a_second_run_without_monitors_has_alerts_of_its_own() -> None:
    alerts = TrainingAlerts(run="r", show=False)
    monitors = LossMonitor(alerts=alerts), PerformanceMonitor(alerts=alerts)
    for at in (495, 50):
        for monitor in monitors:
            monitor.initialize(nn.Linear(1, 1), [], None)
        assert not alerts.claims
        for k in range(500):
            loss = torch.tensor(float("nan") if k == at else 1.0)
            for monitor in monitors:
                monitor.on_batch_end({"loss": loss}, None)
    fired = [alert.prediction_id for alert in alerts.alerts if alert.state == "firing"]
    assert fired == ["batch 495 of epoch 0", "batch 50 of epoch 0"]
    assert alerts.run == "r/2"


def test_a_monitor_that_begins_late_leaves_the_run_as_it_is() -> None:
    alerts = TrainingAlerts(run="r", show=False)
    loss = LossMonitor(alerts=alerts)
    loss.initialize(nn.Linear(1, 1), [], None)
    loss.on_batch_end({"loss": torch.tensor(float("nan"))}, None)
    PerformanceMonitor(alerts=alerts).initialize(nn.Linear(1, 1), [], None)
    assert (alerts.run, len(alerts.claims)) == ("r", 1)
    monitors = Monitors([loss], alerts=alerts)
    monitors.initialize(nn.Linear(1, 1), [], None)
    monitors.on_batch_end({"loss": torch.tensor(1.0)}, None)
    monitors.on_batch_end({"loss": torch.tensor(1.0)}, None)
    loss.initialize(nn.Linear(1, 1), [], None)
    assert (alerts.run, len(alerts.claims)) == ("r/3", 0)


def test_runs_of_monitors_within_others_are_counted_once() -> None:
    class Broken(Monitor):
        def initialize(self, model: Any, dataloader: Any, criterion: Any) -> None:
            raise ValueError("no such layer")

    alerts = TrainingAlerts(run="r", show=False)
    loss = LossMonitor()
    monitors = Monitors([Broken(), Monitors([loss])], alerts=alerts)
    for run in ("r", "r/2", "r/3"):
        monitors.initialize(nn.Linear(1, 1), [], None)
        assert alerts.run == run
        assert ["Broken set aside" in claim.summary for claim in alerts.claims] == [True]
        monitors.on_batch_end({"loss": torch.tensor(1.0)}, None)
        monitors.on_batch_end({"loss": torch.tensor(1.0)}, None)
    assert loss.alerts is alerts


def test_validation_may_come_first_and_be_empty() -> None:
    monitor = PerformanceMonitor()
    monitor.on_validation_batch_end(torch.zeros(0, 3), (None, torch.zeros(0, dtype=torch.int64)))
    monitor.on_epoch_end(0)
    assert monitor.history == [{"epoch": 0.0}]


def test_embeddings_that_are_compared_are_no_classes() -> None:
    monitor = PerformanceMonitor()
    monitor.initialize(nn.Identity(), [], nn.TripletMarginLoss())
    for epoch in range(2):
        monitor.on_batch_end(torch.randn(20, 16), (torch.randn(20, 16), torch.arange(20) % 10))
        monitor.on_epoch_end(epoch)
    assert "accuracy" not in monitor.history[-1]


def test_a_lasting_drift_is_found_once() -> None:
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    loader = WatchedLoader(DataLoader(TensorDataset(x, torch.arange(2000) % 3), 20))
    for epoch in range(6):
        if epoch:
            x[:, 1] += 1.0 if epoch == 1 else 0.01
        loader.look()
    assert [found.kind for found in loader.findings() if not len(found.samples)] == [DRIFT]
    x[:, 1] -= 1.04
    loader.look()
    x[:, 1] -= 30.0
    loader.look()
    found = [found.epoch for found in loader.findings() if found.kind == DRIFT]
    assert found == [1, 7], "another one, after an epoch without"
