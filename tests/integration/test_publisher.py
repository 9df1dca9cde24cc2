"""The publisher with a real broker: everything arrives once, in few records, below the broker's limit."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import pytest
import torch
from kafka import KafkaConsumer
from kafka.structs import TopicPartition
from torch import nn

from tocsin import Publisher
from tocsin.consumers.topics import create_topics
from tocsin.core.limits import Limits
from tocsin.core.wire import Kind, decode, kind_of, lines
from tocsin.embedded import Broker, EmbeddedBroker
from tocsin.producers import watch


@pytest.fixture
def topic(broker: Broker, request: pytest.FixtureRequest) -> str:
    name = f"publisher-{abs(hash(request.node.nodeid))}-{time.monotonic_ns()}"
    create_topics(broker.bootstrap, [name], 2)
    return name


def records(broker: Broker, topic: str, events: int) -> list[Any]:
    """Read until so many JSON events were found, and a little longer."""
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=None)
    partitions = [TopicPartition(topic, p) for p in range(2)]
    consumer.assign(partitions)
    for tp in partitions:  # the embedded broker may list a later beginning
        consumer.seek(tp, 0)
    found: list[Any] = []
    count = 0
    deadline = time.monotonic() + 20
    while count < events and time.monotonic() < deadline:
        for some in consumer.poll(timeout_ms=500).values():
            found += some
            count += sum(len(lines(record.value)) for record in some)
    for some in consumer.poll(timeout_ms=300).values():
        found += some
    consumer.close()
    return found


def ids(found: list[Any]) -> list[str]:
    return [
        decode(line, Kind.BARE, Limits()).prediction_id
        for record in found
        for line in lines(record.value)
    ]


def test_what_waits_goes_out_packed_and_in_order(broker: Broker, topic: str) -> None:
    with Publisher(broker.bootstrap, topic=topic, model="m") as events:
        for k in range(5000):
            events.prediction(f"p{k}", features={"x": k})
        assert events.flush(20)
        counts = events.counts
    assert counts == (5000, 0, 0, 0, 0)
    found = records(broker, topic, 5000)
    assert ids(found) == [f"p{k}" for k in range(5000)]
    assert len(found) < 50
    assert {record.key for record in found} == {b"m"}
    assert {kind_of(record.headers) for record in found} == {Kind.LINES}


def test_what_is_queued_while_the_broker_is_away_is_split_below_its_limit(
    broker: Broker, topic: str
) -> None:
    """20 MB of events at once; a broker refuses records of more than 1,048,588 bytes."""
    with Publisher(broker.bootstrap, topic=topic, model="m", linger=0.5) as events:
        for k in range(10_000):
            events.prediction(f"p{k}", features={"text": "x" * 2000})
        assert events.flush(60)
        assert events.counts.sent == 10_000
    found = records(broker, topic, 10_000)
    assert sorted(ids(found)) == sorted(f"p{k}" for k in range(10_000))
    assert max(len(record.value) for record in found) <= 1_000_000
    assert len(found) < 40


def test_a_large_batch_of_arrays_is_split_too(broker: Broker, topic: str) -> None:
    rows = 4000
    columns = {
        "prediction_id": [f"p{k}" for k in range(rows)],
        "embedding": np.random.default_rng(0).normal(size=(rows, 128)),
    }
    with Publisher(broker.bootstrap, topic=topic, model="m") as events:
        assert events.predictions(columns)
        assert events.flush(30)
        assert events.counts == (rows, 0, 0, 0, 0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_doubles_nothing_and_loses_nothing(broker: Broker, topic: str) -> None:
    events = Publisher(broker.bootstrap, topic=topic, model="m")
    for k in range(500):
        events.prediction(f"before-{k}")
    child = os.fork()
    who = "child" if child == 0 else "parent"
    for k in range(500):
        events.prediction(f"{who}-{k}")
    flushed = events.flush(20)
    if child == 0:  # pragma: no cover
        os._exit(0 if flushed and events.counts.sent == 500 else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert flushed
    events.close()
    found = ids(records(broker, topic, 1500))
    expected = [f"{who}-{k}" for who in ("before", "parent", "child") for k in range(500)]
    assert sorted(found) == sorted(expected)


def test_a_watched_module_publishes_what_it_computed(broker: Broker, topic: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with Publisher(broker.bootstrap, topic=topic, model="m") as events:
        watched = watch(model, events, embedding="1", classes=["a", "b", "c"])
        with torch.inference_mode(), watched.request(ids=[f"r{k}" for k in range(64)]):
            logits = model(torch.randn(64, 4))
        assert events.flush(20)
        assert events.counts.sent == 64
    found = [
        decode(line, Kind.BARE, Limits())
        for record in records(broker, topic, 64)
        for line in lines(record.value)
    ]
    assert [e.prediction_id for e in found] == [f"r{k}" for k in range(64)]
    assert torch.allclose(torch.tensor([e.logits for e in found]), logits, atol=1e-6)  # type: ignore[union-attr]


def test_a_broker_that_dies_takes_the_publisher_with_it_neither_in_life_nor_at_its_end() -> None:
    """The embedded broker forgets everything when it dies: ids of producers, and the topic."""
    broker = EmbeddedBroker().start()
    create_topics(broker.bootstrap, ["t"], 1)
    events = Publisher(
        broker.bootstrap,
        topic="t",
        linger=0.01,
        delivery_timeout_ms=2_000,
        request_timeout_ms=1_000,
    )
    events.prediction("a")
    assert events.flush(10)
    broker.stop()
    events.prediction("b")
    assert not events.flush(0.5)
    with EmbeddedBroker(int(broker.bootstrap.split(":")[1])) as again:
        create_topics(again.bootstrap, ["t"], 1)
        deadline = time.monotonic() + 30
        number = 0
        while events.counts.sent < 3 and time.monotonic() < deadline:
            number += 1
            events.prediction(f"c{number}")
            events.flush(1)
        assert events.counts.sent >= 3
        assert events.counts.failed + events.counts.sent + events.counts.queue_depth == 2 + number
    # Gone again, with something on its way: closing ends the client's thread too.
    events.prediction("d")
    events.close(0.3)
    assert events._thread is not None
    events._thread.join(5)
    assert not events._thread.is_alive()
    assert events.counts.queue_depth == 0
    assert events.counts.failed + events.counts.sent == 3 + number
