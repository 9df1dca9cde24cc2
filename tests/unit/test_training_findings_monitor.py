"""What a watched loader finds, and a threshold that is crossed, are alerts like those of any monitor."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tocsin.training import (
    FindingsMonitor,
    LossMonitor,
    ModelCheckpoint,
    Monitor,
    Monitors,
    TrainingAlerts,
    WatchedLoader,
)


def rows(count: int = 300) -> TensorDataset:
    draw = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(count, 6, generator=draw), torch.randint(0, 3, (count,), generator=draw))  # fmt: skip


def run(
    loader: Any, monitor: FindingsMonitor, epochs: int = 3, model: Any = None
) -> TrainingAlerts:
    alerts = TrainingAlerts(show=False)
    model = model or nn.Linear(6, 3)
    with Monitors([monitor], alerts=alerts) as monitors:
        monitors.initialize(model, loader, nn.CrossEntropyLoss())
        for epoch in range(epochs):
            for batch in loader:
                monitors.on_batch_end(model(batch[0]), batch)
            monitors.on_epoch_end(epoch)
            if epoch == 1 and epochs > 2:  # a file breaks while it trains
                loader.dataset.tensors[0][9, 0] = torch.inf
        assert monitors.set_aside == {}
    return alerts


def test_each_finding_is_one_alert_and_a_new_sample_one_more() -> None:
    data = rows()
    data.tensors[0][7, 2] = torch.nan
    data.tensors[0][50] = data.tensors[0][40]
    data.tensors[1][50] = data.tensors[1][40]
    other = TensorDataset(data.tensors[0][100:102].clone())
    loader = WatchedLoader(DataLoader(data, 32, shuffle=True), references={"validation": other})
    monitor = FindingsMonitor()
    alerts = run(loader, monitor)
    claimed = [(a.subject, a.kind, a.samples) for a in alerts.alerts if a.state == "firing"]
    assert [(s, k) for s, k, _ in claimed] == [
        ("samples:non-finite input", "training"), ("samples:duplicate", "training"),
        ("samples:in another split", "leakage"),
    ]  # fmt: skip
    assert claimed[0][2] == ["7"]
    assert claimed[2][2] == ["100", "101"]
    assert alerts.alerts[0].severity == "warning"
    assert [row["non-finite input"] for row in monitor.history] == [1, 1, 2]
    assert {"epoch", "duplicate", "in another split"} <= monitor.history[0].keys()


def test_a_healthy_run_has_none_and_doubtful_labels_only_where_asked_for() -> None:
    assert not run(WatchedLoader(DataLoader(rows(), 32)), FindingsMonitor(), 2).alerts
    learnt = nn.Linear(6, 3, bias=False)  # each class is that of the largest of three columns
    with torch.no_grad():
        learnt.weight.copy_(5 * torch.eye(3, 6))
    data = rows()
    data.tensors[1].copy_(data.tensors[0][:, :3].argmax(1))
    for labels in (True, False):
        monitor = FindingsMonitor(labels=labels)
        assert not run(WatchedLoader(DataLoader(data, 32)), monitor, 2, learnt).alerts
    data.tensors[1][:30] = (data.tensors[1][:30] + 1) % 3
    assert not run(WatchedLoader(DataLoader(data, 32)), FindingsMonitor(), 2, learnt).alerts
    asked = FindingsMonitor(labels=True)
    (alert,) = run(WatchedLoader(DataLoader(data, 32)), asked, 2, learnt).alerts
    assert alert.subject == "samples:doubtful label"


def test_what_the_model_finds_in_the_data_is_an_alert() -> None:
    data = rows()
    data.tensors[0][:60, 5] += 100 * torch.rand(60, generator=torch.Generator().manual_seed(1))
    clean = TensorDataset(*(t[60:] for t in rows(760).tensors))
    loader = WatchedLoader(DataLoader(data, 32), references={"validation": clean})
    first = run(loader, FindingsMonitor(audit=2, labels=False), 2).alerts
    assert [a.kind for a in first if a.subject == "samples:adversarial input"] == [
        "adversarial input"
    ]


def test_a_model_that_cannot_look_at_the_data_costs_no_other_finding(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Locked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 3)
            self.lock = threading.Lock()  # cannot be copied

    data = rows()
    data.tensors[0][7, 2] = torch.nan
    loader, model, alerts = (
        WatchedLoader(DataLoader(data, 32)),
        Locked(),
        TrainingAlerts(show=False),
    )
    with Monitors([FindingsMonitor(audit=1)], alerts=alerts) as monitors:
        monitors.initialize(model, loader, nn.CrossEntropyLoss())
        for epoch in range(2):
            for batch in loader:
                monitors.on_batch_end(model(batch[0]), batch)
            monitors.on_epoch_end(epoch)
    assert monitors.set_aside == {}
    assert [a.subject for a in alerts.alerts if a.state == "firing"] == ["samples:non-finite input"]
    assert caplog.text.count("could not look at the data") == 1


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="epochs and audit must be 1 or more"):
        FindingsMonitor(epochs=0)
    with pytest.raises(ValueError, match="epochs and audit"):
        FindingsMonitor(audit=0)
    with pytest.raises(TypeError, match="expected a WatchedLoader, got DataLoader"):
        FindingsMonitor().initialize(nn.Linear(1, 1), DataLoader(rows()), None)


def test_a_crossing_is_an_alert_beside_those_of_monitors() -> None:
    alerts = TrainingAlerts("net", show=False, run="r", clock=lambda: 10**18)
    monitor = LossMonitor(alerts=alerts)
    monitor.initialize(nn.Identity(), [], None)
    checkpoint = ModelCheckpoint(
        monitor="val_loss", max_value=2.0, on_alert=alerts.crossed, nan="worst"
    )
    for epoch, value in enumerate((1.0, 3.0, 2.5, 1.0, math.nan)):
        for step in range(200):
            monitor.on_batch_end({"loss": torch.tensor(0.99 ** (200 * epoch + step))}, [])
        monitor.on_epoch_end(epoch)
        checkpoint.step(value)
    fired = [alert for alert in alerts.alerts if alert.state == "firing"]
    assert [(a.subject, a.change, a.severity, a.prediction_id) for a in fired] == [
        ("val_loss", "above", "warning", "epoch 1"), ("val_loss", "non-finite", "critical", "epoch 4"),
    ]  # fmt: skip
    assert fired[0].id == "net@training/r:threshold:val_loss:0:399"
    assert "val_loss is 3, above (max_value=2)" in fired[0].summary
    resolved = [alert for alert in alerts.alerts if alert.state == "resolved"]
    assert len(resolved) == 1, "batches go on, so the first is over"


def test_outputs_that_are_no_classes_cost_the_labels_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = rows()
    data.tensors[0][7, 2] = torch.nan
    targets = TensorDataset(data.tensors[0], torch.randn(300, 1))
    loader, alerts = WatchedLoader(DataLoader(targets, 32)), TrainingAlerts(show=False)
    model = nn.Linear(6, 1)
    with Monitors([FindingsMonitor(labels=True)], alerts=alerts) as monitors:
        monitors.initialize(model, loader, nn.MSELoss())
        for batch in loader:
            monitors.on_batch_end(model(batch[0]), batch)
        monitors.on_epoch_end(0)
        assert monitors.set_aside == {}
    assert [alert.subject for alert in alerts.alerts] == ["samples:non-finite input"]
    assert caplog.text.count("doubtful labels are not looked for: expected a class") == 1


def test_a_run_that_goes_on_names_its_epochs() -> None:
    class Own(Monitor):
        """Knows nothing of where a run starts."""

        start = "now"

    alerts = TrainingAlerts(show=False)
    monitors = Monitors([Own(), Monitors([LossMonitor()])], alerts=alerts)
    monitors.initialize(nn.Linear(6, 3), None, None)
    monitors.start(4)
    monitors.on_batch_end({"loss": torch.tensor(1.0)}, None)
    monitors.on_batch_end({"loss": torch.tensor(math.nan)}, None)
    monitors.on_epoch_end(4)
    assert [a.prediction_id for a in alerts.alerts] == ["batch 1 of epoch 4"]
    assert monitors.set_aside == {}
    with pytest.raises(ValueError, match="epoch must be 0 or more, got -1"):
        monitors.start(-1)
