"""What the monitor of the loss does not judge, and says that it does not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tocsin.training import LossMonitor, TrainingAlerts


def test_the_few_rows_at_the_end_of_an_epoch_are_no_spike() -> None:
    def claimed(rows: int, loss: float) -> list[str | None]:
        alerts = TrainingAlerts(show=False)
        monitor = LossMonitor(alerts=alerts)
        monitor.initialize(nn.Linear(8, 2), [], None)
        for step in range(100):
            is_odd = step == 90
            value = torch.tensor(loss if is_odd else 0.1 + 0.001 * (step % 7))
            outputs = {"loss": value, "logits": torch.zeros(rows if is_odd else 64, 2)}
            monitor.on_batch_end(outputs, None)
        return [alert.change for alert in alerts.alerts]

    assert claimed(4, 3.0) == []
    assert claimed(64, 3.0) == ["spike"]
    assert claimed(4, math.nan) == ["non-finite"]


def test_a_loss_that_nothing_tells_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    monitor = LossMonitor(alerts=TrainingAlerts(show=False))
    monitor.initialize(nn.Linear(8, 2), [], None)
    for _ in range(3):
        monitor.on_batch_end(torch.zeros(2, 2), [torch.zeros(2, 8), torch.zeros(2)])
    assert caplog.text.count("the loss of a batch is not known") == 1


@pytest.mark.parametrize(("rate", "claimed"), [(0.0, ["plateau"]), (0.1, [])])
def test_a_model_that_learns_nothing_is_a_plateau(rate: float, claimed: list[str]) -> None:
    """For so many batches as are looked at, of which there is one in two."""
    torch.manual_seed(0)
    model, criterion = nn.Linear(8, 2), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    alerts = TrainingAlerts(show=False)
    monitor = LossMonitor(every=2, plateau_steps=40, alerts=alerts)
    monitor.initialize(model, [], criterion)
    for _ in range(160):
        x = torch.randn(32, 8)
        y = (x[:, 0] > 0).long()
        outputs = model(x)
        loss = criterion(outputs, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        monitor.on_batch_end(outputs, [x, y])
    monitor.close()
    assert [alert.change for alert in alerts.alerts] == claimed
    if claimed:
        assert alerts.alerts[0].offset == 158
