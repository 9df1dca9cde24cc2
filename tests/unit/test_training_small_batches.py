"""Of a batch much smaller than the others, as the last of an epoch may be, the loss is no claim but where it is no number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tocsin.training import LossMonitor, TrainingAlerts

Loop = Callable[[int, float], tuple[Any, Any]]


def by_logits(rows: int, loss: float) -> tuple[Any, Any]:
    return {"loss": torch.tensor(loss), "logits": torch.zeros(rows, 2)}, {}


def by_labels(rows: int, loss: float) -> tuple[Any, Any]:
    """Return what a trainer gives of labels for each token: the loss alone, and the batch."""
    return {"loss": torch.tensor(loss)}, {"labels": torch.zeros(rows, 7, dtype=torch.long)}


def claimed(rows: int, loss: float, made: Loop) -> list[str]:
    alerts = TrainingAlerts(show=False)
    monitor = LossMonitor(alerts=alerts)
    monitor.initialize(nn.Linear(1, 1), [], None)
    for step in range(60):
        monitor.on_batch_end(*made(32, 2.0 - step / 50))
    monitor.on_batch_end(*made(rows, loss))
    monitor.close()
    return [alert.change for alert in alerts.alerts]


@pytest.mark.parametrize("made", [by_logits, by_labels])
def test_a_small_batch_is_not_judged(made: Loop) -> None:
    assert claimed(32, 60.0, made) == ["spike"]
    assert claimed(16, 60.0, made) == ["spike"]
    assert claimed(4, 60.0, made) == []


@pytest.mark.parametrize("made", [by_logits, by_labels])
def test_a_loss_that_is_no_number_is_claimed_of_a_small_batch_too(made: Loop) -> None:
    assert claimed(4, float("nan"), made) == ["non-finite"]
