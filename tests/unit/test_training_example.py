"""The first loop that a reader writes: a monitor of one's own over a watched loader."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tocsin.training import BaseMonitor, Monitor, WatchedLoader


def test_a_monitor_of_ones_own_needs_three_methods_and_knows_its_batches(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class MyMonitor(Monitor):
        metric: dict[int, Any]

        def initialize(self, model: Any, dataloader: Any, criterion: Any) -> None:
            self.metric = {}

        def on_batch_end(self, outputs: Any, batch: Any) -> None:
            self.metric[batch.index] = outputs

        def on_epoch_end(self, epoch: int) -> None:
            print(self.metric)

    torch.manual_seed(0)
    model, criterion, num_epochs = nn.Linear(3, 2), nn.CrossEntropyLoss(), 2
    rows = TensorDataset(torch.randn(10, 3), torch.randint(0, 2, (10,)))
    dataloader = WatchedLoader(DataLoader(rows, batch_size=4, shuffle=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    monitor = MyMonitor()
    monitor.initialize(model, dataloader, criterion)
    for epoch in range(num_epochs):
        for batch in dataloader:
            inputs, targets = batch
            outputs = model(inputs)
            optimizer.zero_grad()
            criterion(outputs, targets).backward()
            optimizer.step()
            monitor.on_batch_end(outputs, batch)
        monitor.on_epoch_end(epoch)

    assert list(monitor.metric) == [0, 1, 2]
    assert [len(outputs) for outputs in monitor.metric.values()] == [4, 4, 2]
    assert capsys.readouterr().out.count("tensor(") == 3 * num_epochs


AS_IT_STANDS = """
class MyMonitor(Monitor):                                   # Monitor is a BaseMonitor
    def initialize(self, model, dataloader, criterion): self.metric = {}
    def on_batch_end(self, outputs, batch): self.metric[batch.index] = outputs
    def on_epoch_end(self, epoch): print(self.metric)
monitor = MyMonitor(); monitor.initialize(model, dataloader, criterion)
for epoch in range(num_epochs):
    for batch in dataloader:                                # a watched loader: batches unpack as before and know their index
        monitor.on_batch_end(outputs, batch)
    monitor.on_epoch_end(epoch)
"""


def test_the_shortest_loop_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    rows = TensorDataset(torch.zeros(10, 3), torch.zeros(10).long())
    names: dict[str, Any] = {
        "Monitor": Monitor, "model": nn.Linear(3, 2), "criterion": None, "outputs": 7, "num_epochs": 2,
        "dataloader": WatchedLoader(DataLoader(rows, batch_size=4)),
    }  # fmt: skip
    exec(AS_IT_STANDS, names)
    assert capsys.readouterr().out == "{0: 7, 1: 7, 2: 7}\n" * 2
    assert issubclass(Monitor, BaseMonitor)
