"""A training run publishes what its model answers, and the pipeline of a worker raises alerts about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tocsin import Publisher
from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core.alert import Alert
from tocsin.core.cloudevents import LINES
from tocsin.core.events import Prediction
from tocsin.core.limits import Limits
from tocsin.core.wire import Kind, decode
from tocsin.producers.delivery import Deferred
from tocsin.training import Monitors, TrainingAlerts, TrainingEvents, WatchedLoader

PARTITION = Partition("t", 0)
ROWS = 640


def data(seed: int = 0) -> TensorDataset:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, 4, generator=draw)
    return TensorDataset(x, (x[:, 0] + x[:, 1] > 0).long())


def publisher() -> Publisher:
    """One whose thread never begins: what it has queued is read here."""
    events = Publisher("127.0.0.1:1", model="net", version="7")
    events._start = lambda: None  # type: ignore[method-assign]
    return events


def lines(events: Publisher) -> Iterator[bytes]:
    for queue in events._queues.values():
        for item in queue:
            assert isinstance(item, Deferred)
            yield from events._made(item)


def run(monitor: TrainingEvents, epochs: int, lost_at: int | None = None) -> Monitors:
    """Train; from an epoch on the inputs are not normalised."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer, criterion = torch.optim.Adam(model.parameters(), 0.01), nn.CrossEntropyLoss()
    loader = WatchedLoader(DataLoader(data(), 64, shuffle=True), watch=False)
    monitors = Monitors([monitor], alerts=TrainingAlerts(show=False))
    monitors.initialize(model, loader, criterion)
    for epoch in range(epochs):
        for batch in loader:
            if lost_at is not None and epoch >= lost_at:
                batch[0].mul_(3).add_(5)
            outputs = model(batch[0])
            optimizer.zero_grad()
            criterion(outputs, batch[1]).backward()
            optimizer.step()
            monitors.on_batch_end(outputs, batch)
            batch[0].zero_()  # what was published has been copied
        monitors.validate(model, DataLoader(data(1), 320))
        monitors.on_epoch_end(epoch)
    assert monitors.set_aside == {}
    return monitors


def alerts_of(encoded: list[bytes]) -> list[Alert]:
    settings = ModelSettings(drift={"budget_events": 1e5, "learning": True})
    pipeline = PartitionPipeline(PARTITION, lambda _: settings)
    headers = [("content-type", LINES.encode())]
    records = [
        PlainRecord(k, 1_800_000_000_000_000_000, b"net", b"\n".join(encoded[at : at + 50]), headers)
        for k, at in enumerate(range(0, len(encoded), 50))
    ]  # fmt: skip
    output = pipeline.process(Records.of(PARTITION, records))
    assert not output.dead_letters
    return output.alerts


def test_inputs_that_are_not_normalised_any_more_become_an_alert_of_the_worker() -> None:
    events = publisher()
    run(TrainingEvents(events, every=1), 6, lost_at=4)
    encoded = list(lines(events))
    assert len(encoded) == 6 * ROWS
    fired = [a for a in alerts_of(encoded) if a.state == "firing" and a.kind == "data drift"]
    first = fired[0]
    assert (first.environment, first.version, first.subject[:9]) == ("training", "7", "feature:x")
    assert first.prediction_id is not None
    _, name, count, sample = first.prediction_id.split(":")
    assert name == "train"
    assert 40 <= int(count) < 43, "within three batches of the fifth epoch's ten"
    assert 0 <= int(sample) < ROWS
    events = publisher()
    run(TrainingEvents(events, every=1), 6)
    assert not [a for a in alerts_of(list(lines(events))) if a.kind == "data drift"]


def test_an_event_says_what_the_model_answered() -> None:
    events = publisher()
    monitor = TrainingEvents(
        events, every=2, data=("train", "val"), classes=("no", "yes"), loss=True, scores=True,
        features=["a", "b", "c", "d"], segments={"side": lambda batch: batch[0][:, 0] > 0},
        numbers={"gradient_norm": lambda: 0.5, "none": lambda: None},
    )  # fmt: skip
    run(monitor, 2)
    found = [decode(line, Kind.BARE, Limits()) for line in lines(events)]
    assert len(found) == 10 * 64 + 2 * 320
    for one in found:
        assert isinstance(one, Prediction)
        assert (one.environment, one.version) == ("training", "7")
        assert one.scores is not None
        assert one.prediction == max(one.scores, key=one.scores.__getitem__)
        assert sum(one.scores.values()) == pytest.approx(1, abs=1e-5)
        assert one.features.keys() == {"a", "b", "c", "d", "loss", "gradient_norm"}
        assert one.features["loss"] == pytest.approx(-np.log(one.scores[str(one.label)]), abs=1e-4)
        assert one.segments is not None
        name, sample = one.prediction_id.split(":")[1], int(one.prediction_id.split(":")[3])
        assert one.segments["data"] == name
        if name == "train":
            row, label = data()[sample]
            assert one.features["a"] == pytest.approx(float(row[0]))
            assert one.label == ("yes" if label else "no")
            assert one.segments["side"] == str(bool(row[0] > 0))
    assert len({one.prediction_id for one in found}) == len(found)


def test_numbers_pictures_and_what_has_no_place_in_an_event() -> None:
    def made(outputs: torch.Tensor, batch: Any) -> list[Any]:
        events = publisher()
        monitor = TrainingEvents(events)
        monitor.initialize(nn.Identity(), [], None)
        monitor.on_batch_end(outputs, batch)
        return [decode(line, Kind.BARE, Limits()) for line in lines(events)]

    number, missing = made(torch.tensor([[1.5], [torch.nan]]), (torch.zeros(2, 3), torch.tensor([[2.0], [1.0]])))  # fmt: skip
    assert (number.prediction, number.label, number.features) == (1.5, 2.0, {"x0": 0, "x1": 0, "x2": 0})  # fmt: skip
    assert missing.prediction is None
    (picture,) = made(torch.zeros(1, 3), (torch.full((1, 3, 4, 4), 2.0), torch.tensor([-100])))
    assert picture.features == {"input_mean": 2.0, "input_rms": 2.0}
    assert picture.label is None
    with pytest.raises(ValueError, match="found 32 answers in a batch of 2 rows"):
        made(torch.zeros(2, 3, 4, 4), (torch.zeros(2, 1), torch.zeros(2, 4, 4).long()))
    with pytest.raises(ValueError, match="found no labels that fit the outputs"):
        made(torch.zeros(2, 3), (torch.zeros(2, 1), torch.zeros(2, 5)))
