"""A training run beside a real worker: its batches on the topic, the worker's alerts on Redis, and a broker that is away stops nothing."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from tocsin import Publisher
from tocsin.embedded import free_port
from tocsin.training import Monitors, TrainingAlerts, TrainingEvents


def run(events: Publisher, epochs: int, lost_at: int) -> tuple[Monitors, float]:
    """Train, not normalised from an epoch on; return the longest call in seconds too."""
    torch.manual_seed(0)
    x = torch.randn(640, 4)
    y = (x[:, 0] > 0).long()
    model = nn.Linear(4, 2)
    optimizer, longest = torch.optim.Adam(model.parameters(), 0.01), 0.0
    monitors = Monitors([TrainingEvents(events, every=1)], alerts=TrainingAlerts(show=False))
    monitors.initialize(model, [], None)
    for epoch in range(epochs):
        for rows in torch.randperm(640).split(32):
            inputs = 3 * x[rows] + 5 if epoch >= lost_at else x[rows]
            outputs = model(inputs)
            optimizer.zero_grad()
            nn.functional.cross_entropy(outputs, y[rows]).backward()
            optimizer.step()
            begun = time.perf_counter()
            monitors.on_batch_end(outputs, (inputs, y[rows]))
            longest = max(longest, time.perf_counter() - begun)
        monitors.on_epoch_end(epoch)
    monitors.close()
    return monitors, longest


def test_a_worker_takes_them_and_alerts(site: Any, wait_until: Any) -> None:
    site.start()
    with Publisher(site.broker.bootstrap, topic=site.topic, model="net", version="7") as events:
        monitors, _ = run(events, 6, 4)
        assert events.flush(20)
        assert events.counts.sent == 6 * 640
        assert events.counts.failed == 0
    assert monitors.set_aside == {}
    site.caught_up()
    own = [a for a in site.alerts() if a.state == "firing"]
    fired = [a for a in own if a.kind == "data drift"]
    assert {(a.model, a.version, a.environment) for a in fired} == {("net", "7", "training")}
    assert ":train:8" in str(fired[0].prediction_id), (
        "the 80th batch is the first of the fifth epoch"
    )
    assert "net@training" in site.metrics()


def test_a_broker_that_is_away_holds_nothing_up() -> None:
    with Publisher(f"127.0.0.1:{free_port()}", model="net", queue_events=1000) as events:
        monitors, longest = run(events, 3, 9)
        assert monitors.set_aside == {}
        assert longest < 0.5
        assert events.counts.dropped >= 3 * 640 - 1000 - 32
        events.close(0.1)
