"""Monitors of training: they find what is planted, one that fails is set aside, and the training is the same without them."""

from __future__ import annotations

import copy
import logging
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tocsin import Publisher
from tocsin.core.alert import Alert, decode
from tocsin.core.verdict import Verdict
from tocsin.embedded import EmbeddedRedis, free_port
from tocsin.training import (
    ActivationMonitor,
    BaseMonitor,
    BiasMonitor,
    CalibrationMonitor,
    GradientMonitor,
    LossMonitor,
    Monitor,
    Monitors,
    PerformanceMonitor,
    TrainingAlerts,
    TrainingEvents,
)
from tocsin.training.curve import Curve
from tocsin.training.loop import Place

ROWS = 640


class Batch(list[torch.Tensor]):
    """As a watched loader gives them."""

    index: int  # type: ignore[assignment]


def data(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, 8, generator=generator)
    return x, (x[:, 0] + x[:, 1] > 0).long()


def validation() -> DataLoader[Any]:
    """Other rows, shuffled by the generator that training draws from."""
    return DataLoader(TensorDataset(*data(seed=1)), batch_size=100, shuffle=True)


def net(*, dropout: bool = False) -> nn.Sequential:
    torch.manual_seed(3)
    more = [nn.Dropout(0.2)] if dropout else []
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace=True), *more, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))  # fmt: skip


def train(
    model: Any,
    monitor: BaseMonitor | None = None,
    *,
    epochs: int = 2,
    size: int = 32,
    accumulate: int = 1,
    amp: bool = False,
    criterion: Callable[..., Any] | None = None,
    before: Callable[[int, torch.Tensor, Any], None] | None = None,
) -> None:
    """Train, with `before` called with each batch's number, inputs and optimizer."""
    criterion = criterion or nn.CrossEntropyLoss()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=amp)
    x, y = data()
    if monitor is not None:
        monitor.initialize(model, [], criterion)
    step = 0
    for epoch in range(epochs):
        for index, rows in enumerate(torch.randperm(ROWS).split(size)):
            batch = Batch([x[rows].clone(), y[rows]])
            batch.index = index
            if before is not None:
                before(step, batch[0], optimizer)
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                outputs = model(batch[0])
                loss = criterion(outputs.float(), batch[1])
            scaler.scale(loss / accumulate).backward()
            if (index + 1) % accumulate == 0:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
            if monitor is not None:
                monitor.on_batch_end(outputs, batch)
            step += 1
        if monitor is not None:
            model.train()
            monitor.validate(model, validation())
            monitor.on_epoch_end(epoch)
    if monitor is not None:
        monitor.close()


def watched(*, every: int = 2) -> tuple[Monitors, TrainingAlerts]:
    alerts = TrainingAlerts("net", show=False, clock=lambda: 10**18)
    of = [
        LossMonitor(),
        GradientMonitor(every=every),
        PerformanceMonitor(),
        ActivationMonitor(every=2),
        BiasMonitor({"place": lambda batch: torch.arange(len(batch[0])) % 2}),
        CalibrationMonitor(),
    ]
    return Monitors(of, alerts=alerts), alerts


def firing(alerts: TrainingAlerts) -> list[Alert]:
    return [alert for alert in alerts.alerts if alert.state == "firing"]


def hooks_of(*modules: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(m, kind)) for top in modules for m in top.modules() for kind in kinds)


def states() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), pickle.dumps(np.random.get_state())]  # noqa: NPY002


def wrapped(kind: str) -> Any:
    model = net(dropout=True)
    if kind == "frozen":
        model[0].requires_grad_(requires_grad=False)
    if kind == "compiled":
        return torch.compile(model, backend="eager")
    return nn.DataParallel(model) if kind == "parallel" else model


@pytest.mark.parametrize(
    "kind", ["plain", "amp", "accumulated", "function", "frozen", "parallel", "compiled"]
)
def test_training_is_the_same_bit_for_bit_with_and_without(kind: str) -> None:
    ends = []
    events = Publisher(f"127.0.0.1:{free_port()}", model="net")  # whose thread tries to connect
    for monitor, alerts in ((None, None), watched()):
        model = wrapped(kind)
        if monitor is not None:
            monitor.monitors.append(TrainingEvents(events, every=5))
        torch.manual_seed(0)
        criterion = nn.functional.cross_entropy if kind == "function" else nn.CrossEntropyLoss()
        train(
            model, monitor, accumulate=4 if kind == "accumulated" else 1, amp=kind == "amp", criterion=criterion
        )  # fmt: skip
        ends.append(([p.detach().clone() for p in model.parameters()], states()))
        if alerts is not None:
            assert isinstance(monitor, Monitors)
            assert monitor.set_aside == {}
            loss, gradients = monitor.monitors[:2]
            assert isinstance(loss, LossMonitor)
            assert isinstance(gradients, GradientMonitor)
            assert len(loss.history) == 40
            assert len(gradients.history) == (10 if kind == "accumulated" else 40)
            performance, activations, bias, calibration = monitor.monitors[2:6]
            for one, name in (
                (performance, "val_loss"), (performance, "val_accuracy"), (bias, "gap:accuracy:place=0|1"),
                (bias, "gap:val_accuracy:place=0|1"), (bias, "gap:loss:data=train|val"),
                (calibration, "val_calibration_error"), (activations, "epoch"),
            ):  # fmt: skip
                assert name in one.history[-1], (name, sorted(one.history[-1]))
            if kind != "compiled":
                assert {"shift:input", "shift:0"} <= activations.history[-1].keys()
            assert firing(alerts) == []
            assert hooks_of(model) == 0
    assert all(torch.equal(a, b) for a, b in zip(ends[0][0], ends[1][0], strict=True))
    assert ends[0][1] == ends[1][1]
    assert events.counts.queue_depth == 8, "batches, all of which wait"
    events.close(0.1)
    assert events._thread is not None
    events._thread.join(10)


def test_a_curve_stays_small_and_equally_spaced() -> None:
    curve = Curve(points=100)
    for step in range(12_345):
        curve.add(step, float(step))
    steps = [step for step, _ in curve]
    assert 50 <= len(curve) <= 100
    assert set(np.diff(steps)) == {128}
    assert steps[0] == 0
    assert steps[-1] > 12_345 - 128
    assert all(value == step for step, value in curve)


def test_alerts_of_two_runs_of_a_model_have_ids_of_their_own() -> None:
    ids = []
    for run in (None, None, "mine"):
        alerts = TrainingAlerts("net", show=False, run=run)
        train(net(), LossMonitor(alerts=alerts), epochs=1, before=spoiled_at(5))
        ids.append(alerts.alerts[0].id)
    assert len(set(ids)) == 3
    assert ids[2] == "net@training/mine:loss_curve:loss:0:5"


def test_the_loss_is_that_of_the_loop_not_divided_and_not_of_validation() -> None:
    criterion, monitor = nn.CrossEntropyLoss(), LossMonitor(alerts=TrainingAlerts(show=False))
    seen: list[float] = []
    criterion.register_forward_hook(lambda _m, _i, loss: seen.append(float(loss.detach())))
    train(net(), monitor, accumulate=2, criterion=criterion)
    assert [loss for _, loss in monitor.history] == pytest.approx(seen)
    monitor.initialize(net(), [], criterion)
    with torch.no_grad():
        criterion(torch.zeros(2, 2), torch.zeros(2).long())
    monitor.on_batch_end(torch.tensor([[100.0, 0.0]]), [torch.zeros(1, 8), torch.tensor([0])])
    assert monitor.history == [(0, 0.0)], "of outputs and targets, as the criterion was not called"
    monitor.close()
    assert len(criterion._forward_hooks) == 1


def test_a_batch_that_holds_nan_is_named_with_the_layer() -> None:
    monitors, alerts = watched(every=10)

    model = net()
    train(model, monitors, before=spoiled_at(27))  # the eighth of the second epoch
    gradients, loss = sorted(
        (a for a in firing(alerts) if a.change == "non-finite"), key=lambda alert: alert.subject
    )
    assert (loss.subject, loss.change, loss.offset) == ("loss", "non-finite", 27)
    assert gradients.subject == "gradient:0"
    assert "its input already" in gradients.summary
    assert {alert.prediction_id for alert in (loss, gradients)} == {"batch 7 of epoch 1"}
    assert {(a.severity, a.kind, a.environment) for a in (loss, gradients)} == {
        ("critical", "training", "training")
    }


def test_the_layer_that_makes_a_number_none_is_named() -> None:
    class Log(nn.Module):
        bad = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.log() if self.bad else x

    model = net()
    model.insert(3, log := Log())

    def spoil(step: int, _inputs: torch.Tensor, _optimizer: object) -> None:
        log.bad = step == 5

    monitors, alerts = watched()
    train(model, monitors, before=spoil)
    assert "gradient:3" in {alert.subject for alert in firing(alerts)}

    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - x).abs().sqrt() * 0 + x  # finite, its gradient is not

    model = net()
    model.insert(3, Root())
    monitors, alerts = watched()
    train(model, monitors, epochs=1)
    first = next(alert for alert in firing(alerts) if alert.subject.startswith("gradient"))
    assert (first.subject, first.offset) == ("gradient:2", 0)
    assert "backward pass" in first.summary


def test_a_learning_rate_that_is_too_large_is_found_at_once() -> None:
    monitors, alerts = watched()

    def raise_rate(step: int, _inputs: torch.Tensor, optimizer: Any) -> None:
        if step == 50:
            optimizer.param_groups[0]["lr"] = 100.0

    train(net(), monitors, epochs=4, before=raise_rate)
    assert min(alert.offset for alert in firing(alerts)) in range(50, 56)
    assert {alert.detector for alert in firing(alerts)} >= {"loss_curve", "gradient_flow"}


def test_a_dead_layer_and_a_vanishing_gradient_are_told_apart() -> None:
    model = net()
    with torch.no_grad():
        model[2].bias.fill_(-1000.0)
    monitors, alerts = watched()
    train(model, monitors)
    found = firing(alerts)[0]
    assert (found.subject, found.change, found.severity) == ("gradient:2", "dead", "warning")
    torch.manual_seed(0)
    deep = nn.Sequential(*[m for _ in range(10) for m in (nn.Linear(8, 8), nn.Sigmoid())], nn.Linear(8, 2))  # fmt: skip
    monitors, alerts = watched()
    train(deep, monitors)
    found = firing(alerts)[0]
    assert (found.subject, found.change) == ("gradient:0", "vanishing")


def test_units_that_are_dead_and_values_at_their_bounds() -> None:
    model = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 5), nn.Tanh(), nn.Linear(5, 2))
    with torch.no_grad():
        model[0].bias[1:] = -1000.0
        model[2].bias.fill_(50.0)
    alerts = TrainingAlerts("net", show=False)
    monitor = ActivationMonitor(every=2, dead=0.85, alerts=alerts)
    train(model, monitor, epochs=1)
    assert monitor.history == [
        {"epoch": 0.0, "dead:1": pytest.approx(0.9), "saturated:3": pytest.approx(1.0)}
    ]
    assert [(a.subject, a.change) for a in alerts.alerts] == [("activation:1", "dead units")]
    assert hooks_of(model) == 0
    model[0].bias.data.fill_(0.1)
    alerts = monitor.alerts = TrainingAlerts("net", show=False)
    train(model, monitor, epochs=1)
    assert (alerts.alerts[-1].subject, alerts.alerts[-1].change) == ("activation:3", "saturation")


def test_a_monitor_that_fails_is_set_aside_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(Monitor):
        closed = 0

        def on_batch_end(self, outputs: Any, batch: Any) -> None:
            raise KeyError("mine")

        def close(self) -> None:
            self.closed += 1

    class Counts(Monitor):
        count = 0

        def on_batch_end(self, outputs: Any, batch: Any) -> None:
            self.count += 1

    heard: list[Alert] = []

    def rude(alert: Alert) -> None:
        heard.append(alert)
        raise RuntimeError("no")

    alerts = TrainingAlerts("net", show=False, on_alert=rude)
    fails, counts = Fails(), Counts()
    monitors = Monitors([fails, Monitors([counts]), LossMonitor()], alerts=alerts)
    with caplog.at_level(logging.ERROR):
        train(net(), monitors, epochs=1)
    assert list(monitors.set_aside) == ["Fails"]
    assert (fails.closed, counts.count) == (1, 20)
    assert [(a.kind, a.subject) for a in heard] == [("pipeline", "detector:Fails")]
    assert "Fails set aside" in caplog.text


def test_monitors_of_ones_own_are_sampled() -> None:
    class Seen(Monitor):
        def initialize(self, model: Any, dataloader: Any, criterion: Any) -> None:
            self.metric: dict[int, float] = {}

        def on_batch_end(self, outputs: Any, batch: Any) -> None:
            self.metric[batch.index] = float(outputs.detach().mean())

    seen = Seen()
    train(net(), Monitors([seen], every=7), epochs=1)
    assert list(seen.metric) == [0, 7, 14]
    with pytest.raises(ValueError, match="every must be 1 batch or more, got 0"):
        Monitors([seen], every=0)
    with pytest.raises(TypeError, match="found int among the monitors"):
        Monitors([3])  # type: ignore[list-item]


def test_an_error_in_a_hook_reaches_neither_the_pass_nor_the_step() -> None:
    monitors, _ = watched()
    gradients = monitors.monitors[1]

    def fail(*_: object) -> None:
        raise RuntimeError("in a hook")

    gradients._take_pass = fail  # type: ignore[method-assign,attr-defined]
    model = net()
    train(model, monitors, epochs=1)
    assert list(monitors.set_aside) == ["GradientMonitor 1"]
    assert hooks_of(model) == 0


def test_copies_of_a_watched_model_are_not_watched() -> None:
    monitors, _ = watched()
    model = net()
    monitors.initialize(model, [], nn.CrossEntropyLoss())
    assert hooks_of(model) == 10
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other(torch.ones(2, 8))
    gradients = monitors.monitors[1]
    assert isinstance(gradients, GradientMonitor)
    assert gradients._passes == []
    model(torch.ones(2, 8))
    assert len(gradients._passes) == 4
    monitors.close()
    assert hooks_of(model) == 0


def test_an_incident_is_printed_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    alerts = TrainingAlerts("net", resolve_steps=20, clock=lambda: 10**18)
    monitor = LossMonitor(alerts=alerts)
    monitor.initialize(net(), [], None)
    for step in range(40):
        loss = torch.tensor(torch.nan if step == 5 else 1.0)
        monitor.on_batch_end({"loss": loss}, [])
    assert [(a.state, a.offset) for a in alerts.alerts] == [("firing", 5), ("resolved", 25)]
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == (
        "critical firing net: loss: non-finite, the loss is nan (batch 5 of epoch 0)"
    )


def test_alerts_arrive_on_the_channel() -> None:
    monitors, _ = watched()
    with EmbeddedRedis() as store:
        client = redis.Redis.from_url(store.url)
        channel = client.pubsub(ignore_subscribe_messages=True)
        channel.subscribe("tocsin:alerts:net")
        channel.get_message(timeout=5)
        alerts = monitors.alerts = TrainingAlerts("net", show=False, redis_url=store.url)
        train(net(), monitors, epochs=1, before=spoiled_at(5))
        got = [channel.get_message(timeout=5) for _ in range(2)]
        assert [decode(message["data"]).id for message in got if message] == [
            alert.id for alert in alerts.alerts
        ]
        assert all(got)
        channel.close()
        client.close()


def test_a_redis_that_is_away_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.training.alerts._TRIES", 1)
    monitors, _ = watched()
    alerts = TrainingAlerts("net", show=False, redis_url=f"redis://127.0.0.1:{free_port()}/0")
    monitors.alerts = alerts
    train(net(), monitors, epochs=1, before=spoiled_at(5))
    assert monitors.set_aside == {}
    assert len(alerts.alerts) == 2


def spoiled_at(step: int) -> Callable[[int, torch.Tensor, Any], None]:
    def spoil(at: int, inputs: torch.Tensor, _optimizer: object) -> None:
        if at == step:
            inputs[3, 2] = torch.nan

    return spoil


def test_alerts_are_called_by_the_class_behind_what_wraps_a_model() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)  # a name of its own, and no wrapper

    for model in (Head(), nn.DataParallel(Head())):
        monitors = Monitors([])
        monitors.initialize(model, [], None)
        assert monitors.alerts is not None
        monitors.alerts.claim(
            Verdict(detector="d", subject="s", offset=0, row=0, statistic=1, threshold=0), "said", Place(0, 0, 0)
        )  # fmt: skip
        assert monitors.alerts.alerts[0].model == "Head"


@pytest.mark.parametrize("kind", [LossMonitor, GradientMonitor, PerformanceMonitor])
def test_a_monitor_that_has_not_begun_says_so(kind: Any) -> None:
    with pytest.raises(RuntimeError, match="call initialize"):
        kind().on_batch_end(torch.zeros(4, 2), (torch.zeros(4, 3), torch.zeros(4)))


def test_a_loop_that_does_not_end_its_batches_costs_bounded_memory() -> None:
    model, criterion = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), nn.CrossEntropyLoss()
    loss, gradients = LossMonitor(), GradientMonitor()
    for monitor in (loss, gradients):
        monitor.initialize(model, [], criterion)
    for _ in range(10_000):
        criterion(model(torch.zeros(1, 3)), torch.zeros(1, dtype=torch.int64))
    assert len(loss._loss._seen) <= 1024
    assert len(gradients._passes) <= 1 << 14
    loss.close()
    gradients.close()
