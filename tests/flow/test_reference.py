"""From the end of training to serving: the file that a loop writes, in a worker's pipeline."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from river.datasets import Shuttle
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from tocsin import Publisher
from tocsin.consumers import trained_performance, trained_vectors
from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core.alert import Alert
from tocsin.core.cloudevents import LINES
from tocsin.core.metric_row import MetricRow, decode
from tocsin.producers import watch
from tocsin.training import Monitors, ReferenceMonitor

pytestmark = pytest.mark.xdist_group("reference of a loop")

PARTITION = Partition("t", 0)
BEGIN = datetime.now(UTC)  # of the log: events are not from its future
SHIFT = 6000
Trained = tuple[nn.Module, torch.Tensor, torch.Tensor, Path]


def segments(batch: Any) -> list[dict[str, str]]:
    return [{"mode": "high" if high else "low"} for high in (batch[0][:, 0] > 45).tolist()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model of the Space Shuttle's sensors, readings that it has not seen, their labels, and its reference."""
    file = tmp_path_factory.mktemp("reference") / "shuttle.npz"
    rows = list(Shuttle())
    x = torch.tensor([list(reading.values()) for reading, _ in rows], dtype=torch.float32)
    y = torch.tensor([anomaly for _, anomaly in rows])
    parts = random_split(
        TensorDataset(x, y), [8_000, 12_000, len(y) - 20_000], torch.Generator().manual_seed(0)
    )
    train, held_out, later = parts
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.BatchNorm1d(9), nn.Linear(9, 32), nn.ReLU(), nn.Linear(32, 2))
        loader = DataLoader(train, 128, shuffle=True)
        criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), 0.01)
        monitor = ReferenceMonitor(
            features=sensors(), segments=segments, embedding="2", version="1"
        )
        with Monitors([monitor]) as monitors:
            monitors.initialize(model, loader, criterion)
            for epoch in range(2):
                for inputs, targets in loader:
                    optimizer.zero_grad()
                    outputs = model(inputs)
                    criterion(outputs, targets).backward()
                    optimizer.step()
                    monitors.on_batch_end(outputs, (inputs, targets))
                monitors.on_epoch_end(epoch)
        monitors.reference(file, DataLoader(held_out, 500))
    return model.eval(), x[later.indices], y[later.indices], file


def sensors() -> list[str]:
    return [f"f{k}" for k in range(1, 10)]


class Server:
    """Answers requests, as a model server does; its events are those of `watch`."""

    def __init__(self, model: nn.Module, version: str = "1") -> None:
        self._model = model
        self._publisher = Publisher("127.0.0.1:9", model="shuttle", version=version)
        self._publisher._start = lambda: None  # type: ignore[method-assign]
        self._watched = watch(model, self._publisher, embedding="2")
        self._count = 0

    def answer(
        self, inputs: torch.Tensor, client: Callable[[int], str] = lambda k: f"shop-{k % 20}"
    ) -> list[bytes]:
        """Return the events of some requests, one line each."""
        begin, self._count = self._count, self._count + len(inputs)
        features = [dict(zip(sensors(), row, strict=True)) for row in inputs.tolist()]
        with (
            torch.inference_mode(),
            self._watched.request(
                ids=[f"p{begin + k}" for k in range(len(inputs))],
                clients=[client(begin + k) for k in range(len(inputs))],
                features=features,
                segments=segments([inputs]),
            ),
        ):
            self._model(inputs)
        items = list(self._publisher._queues["shuttle"])
        self._publisher._queues["shuttle"].clear()
        self._publisher._waiting_bytes = 0
        return list(self._publisher._encoded(items))

    def close(self) -> None:
        self._watched.close()


class Worker:
    """A partition's pipeline, restarted from what it has stored as often as is wanted."""

    def __init__(self, reference: Path | None, **settings: Any) -> None:
        self.settings = {"drift": {"reference": reference}} | settings
        self.stored: dict[str, bytes] = {}
        self.series: dict[str, bytes] = {}
        self.alerts: list[Alert] = []
        self.lost: list[str] = []
        self.pipeline = self._new()
        self._offset = 0

    def _new(self) -> PartitionPipeline:
        of = ModelSettings(**self.settings)
        return PartitionPipeline(PARTITION, lambda _: of)

    def feed(self, lines: Sequence[bytes]) -> None:
        at = BEGIN + timedelta(seconds=self._offset)
        record = PlainRecord(
            self._offset, int(at.timestamp() * 1e9), b"shuttle", b"\n".join(lines),
            [("content-type", LINES.encode())],
        )  # fmt: skip
        self._offset += 1
        found = self.pipeline.process(Records.of(PARTITION, [record]))
        assert found.dead_letters == []
        self.alerts += found.alerts
        self._store(self.stored, self.pipeline.dirty())
        while self.pipeline.is_behind:
            self._store(self.series, self.pipeline.series().get("shuttle", {}))

    def _store(self, into: dict[str, bytes], fields: dict[str, bytes | None]) -> None:
        for name, state in fields.items():
            into.pop(name, None)
            if state is not None:
                into[name] = state

    def restart(self, **settings: Any) -> None:
        self.settings |= settings
        position = self.pipeline.position
        self.pipeline = self._new()
        self.lost = self.pipeline.restore(position, dict(self.stored))

    @property
    def rows(self) -> dict[str, MetricRow]:
        """By group, of the first cohort."""
        found = sorted(map(decode, self.series.values()), key=lambda row: row.begin, reverse=True)
        return {row.group: row for row in found if not row.window}


def served(trained: Trained, shift: float = 0.0, count: int = 9000) -> list[list[bytes]]:
    """Return the records of requests; the sixth sensor reads more from the 6,000th on."""
    model, readings, _, _ = trained
    readings = readings[:count].clone()
    readings[SHIFT:, 5] += shift
    server = Server(model)
    found = [server.answer(some) for some in readings.split(250)]
    server.close()
    return found


def subjects(alerts: Sequence[Alert]) -> set[str]:
    return {member.subject for alert in alerts for member in alert.members}


def test_what_is_as_in_training_is_quiet_and_a_shift_is_found_at_once(trained: Trained) -> None:
    worker = Worker(trained[3])
    for record in served(trained, shift=60.0):
        worker.feed(record)
    first = worker.alerts[0]
    assert (first.kind, first.state) == ("data drift", "firing")
    assert first.prediction_id is not None
    assert SHIFT < int(first.prediction_id[1:]) < SHIFT + 50
    assert subjects(worker.alerts) & {"feature:f6", "embedding:distance@1"}
    assert {alert.state for alert in worker.alerts} == {"firing"}  # open until it is as in training


def test_embeddings_that_never_were_as_in_training_are_found_and_without_the_file_are_not(
    trained: Trained,
) -> None:
    """One layer gives more from the first event on and the next takes it back, so that no answer tells."""
    other = copy.deepcopy(trained[0])
    hidden, last = (other.get_submodule(name) for name in ("1", "3"))
    assert isinstance(hidden, nn.Linear)
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        hidden.weight *= 1.25
        hidden.bias *= 1.25
        last.weight /= 1.25
    server = Server(other)
    records = [server.answer(some) for some in trained[1][:4000].split(250)]
    compared, alone = Worker(trained[3]), Worker(None)
    for record in records:
        compared.feed(record)
        alone.feed(record)
    (alert,) = compared.alerts
    assert (alert.kind, alert.subject.partition(":")[0]) == ("data drift", "embedding")
    assert alone.alerts == []


def test_performance_is_expected_and_estimated_from_the_first_cohort_on(trained: Trained) -> None:
    model, readings, labels, file = trained
    worker = Worker(file)
    for record in served(trained, count=2000):
        worker.feed(record)
    assert {"", "mode=high", "mode=low", "version=1"} <= set(worker.rows)
    with torch.inference_mode():
        hits = model(readings[:2000]).argmax(1) == labels[:2000]
    row = worker.rows[""]
    assert row.labels == 0
    value, low, high, _ = row.estimated["accuracy"]
    assert low is not None
    assert high is not None
    assert low <= float(hits.float().mean()) <= high
    assert abs(value - row.training["accuracy"][0]) < 0.005
    for group in ("mode=high", "mode=low"):
        own = worker.rows[group].training["accuracy"]
        assert own == trained_performance.read(file)[group]["accuracy"]
        assert own != row.training["accuracy"]


def crossing(model: nn.Module, readings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return inputs on the boundary between a normal and an anomalous one, as an attack of minimal norm leaves them."""
    one, other = readings[labels == 0][:300], readings[labels == 1][:300]
    with torch.inference_mode():
        sure = (model(one).argmax(1) == 0) & (model(other).argmax(1) == 1)
        one, other = one[sure], other[sure]
        low, high = torch.zeros(len(one), 1), torch.ones(len(one), 1)
        for _ in range(30):
            middle = (low + high) / 2
            is_other = model(one + middle * (other - one)).argmax(1, keepdim=True) == 1
            low, high = torch.where(is_other, low, middle), torch.where(is_other, middle, high)
        return one + high * (other - one)


def attacked(trained: Trained, version: str = "1") -> tuple[list[bytes], int]:
    """Return 1,000 requests, one in twenty of an attacker from the 500th on, and when the attack begins."""
    model, readings, labels, _ = trained
    inputs = readings[:1000].clone()
    of_attacker = torch.arange(500, 1000, 20)
    inputs[of_attacker] = crossing(model, readings[1000:], labels[1000:])[: len(of_attacker)]
    attacker = set(of_attacker.tolist())
    server = Server(model, version)
    found = server.answer(inputs, lambda k: "mallory" if k in attacker else f"shop-{k % 20}")
    server.close()
    return found, 500


def test_an_attack_is_found_without_warm_up(trained: Trained) -> None:
    records, begin = attacked(trained)
    worker, alone = Worker(trained[3]), Worker(None)
    worker.feed(records)
    alone.feed(records)
    (alert,) = [alert for alert in worker.alerts if alert.kind == "adversarial input"]
    assert alert.subject == "client:mallory"
    assert alert.prediction_id is not None
    assert int(alert.prediction_id[1:]) >= begin
    assert alone.alerts == []  # it would take 2,500 events before the first is checked


def test_another_version_is_not_compared_and_a_line_says_so(
    trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    records, _ = attacked(trained, version="2")
    worker = Worker(trained[3])
    with caplog.at_level(logging.WARNING):
        worker.feed(records[:500])
        worker.feed(records[500:])
    (line,) = [line for line in caplog.records if "another version" in line.message]
    assert (line.__dict__["expected"], line.__dict__["found"]) == ("1", "2")
    assert worker.alerts == []  # it warms up
    assert worker.rows["version=2"].training == {}


def test_restarts_change_nothing(trained: Trained) -> None:
    records = served(trained, shift=60.0, count=7000)
    attack, _ = attacked(trained)
    records.insert(4, [line.replace(b'_id":"p', b'_id":"q') for line in attack])
    whole, parts = Worker(trained[3]), Worker(trained[3])
    for number, record in enumerate(records):
        whole.feed(record)
        parts.feed(record)
        if number % 3 == 0:
            parts.restart()
            assert parts.lost == []
    assert parts.alerts == whole.alerts
    assert {alert.kind for alert in parts.alerts} >= {"data drift", "adversarial input"}
    assert parts.stored == whole.stored


def test_another_file_begins_the_versions_anew_that_it_is_about(
    trained: Trained, tmp_path: Path
) -> None:
    """Version 2 has been served beside version 1, which the file is of, and goes on."""
    model, readings, labels, file = trained
    one, two = Server(model, "1"), Server(model, "2")
    worker = Worker(file)
    for some in readings[:3000].split(250):
        worker.feed(one.answer(some))
        worker.feed(two.answer(some))
    monitor = ReferenceMonitor(features=sensors(), segments=segments, embedding="2", version="1")
    monitor.initialize(model, [], nn.CrossEntropyLoss())
    other = tmp_path / "other.npz"
    monitor.reference(other, DataLoader(TensorDataset(readings[3000:8000], labels[3000:8000]), 500))
    worker.restart(drift={"reference": other})
    changed = "drift.reference is another one than before"
    assert set(worker.lost) >= {
        f"shuttle: {of}: {changed}"
        for of in ("inputs and errors", "embedding/1/32", "logits/1/2", "attack/1/2")
    }
    assert not any("/2/" in lost for lost in worker.lost)
    worker.restart()
    worker.feed(one.answer(readings[8000:8250]))
    worker.restart()
    assert worker.lost == []
    known = trained_vectors.read(other)
    assert known is not None
    assert known.version == "1"
    assert np.isclose(known.streams["logits"].population, 4000)
