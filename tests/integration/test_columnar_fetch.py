"""A consumer that yields whole batches, with our network reads in place, gives what kafka-python's own gives."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.net.transport import KafkaTCPTransport
from kafka.protocol.frame import KafkaBytes

from tocsin.consumers import columnar_fetch
from tocsin.consumers.topics import create_topics
from tocsin.embedded import Broker

COUNT, FIRST = 3000, 777


@pytest.fixture
def network_is_restored() -> Iterator[None]:
    kept = KafkaTCPTransport._sock_recv, KafkaBytes.read
    yield
    KafkaTCPTransport._sock_recv, KafkaBytes.read = kept


def publish(broker: Broker, topic: str, codec: str | None) -> None:
    random = Random(1)
    producer = KafkaProducer(
        bootstrap_servers=broker.bootstrap, compression_type=codec, linger_ms=5
    )
    now = int(time.time() * 1000)  # what is older than a broker's retention it removes
    for i in range(COUNT):
        producer.send(
            topic, key=None if i % 3 else b"k%d" % i, timestamp_ms=now - COUNT + i,
            value=None if i % 501 == 0 else b"v" * random.randrange(2000),
            headers=[("ce_type", b"x"), ("é", b"")] if i % 2 else [],
        )  # fmt: skip
    producer.flush()
    producer.close()


def consume(broker: Broker, topic: str, *, columnar: bool) -> tuple[list[Any], int]:
    tp = TopicPartition(topic, 0)
    consumer = KafkaConsumer(
        bootstrap_servers=broker.bootstrap, enable_auto_commit=False, fetch_max_wait_ms=100
    )
    if columnar:
        columnar_fetch.install(consumer)
    consumer.assign([tp])
    consumer.seek(tp, FIRST)
    found: list[Any] = []
    deadline = time.monotonic() + 60
    while len(found) < COUNT - FIRST and time.monotonic() < deadline:
        polled = consumer.poll(500)
        read = (
            columnar_fetch.read_batches(polled, 1 << 26)
            if columnar
            else columnar_fetch.read_single(polled)
        )
        for records in read:
            part = records.since(FIRST)
            found += [
                (
                    int(part.offsets[i]),
                    int(part.timestamps[i]),
                    part.key(i),
                    part.value(i),
                    part.headers(i),
                )
                for i in range(len(part))
            ]
    position = consumer.position(tp)
    consumer.close()
    return found, position


@pytest.mark.usefixtures("network_is_restored")
@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_both_ways_to_read_a_topic_give_the_same_records(broker: Broker, codec: str | None) -> None:
    topic = f"fetch-{uuid.uuid4().hex[:12]}"
    create_topics(broker.bootstrap, [topic], 1)
    publish(broker, topic, codec)
    plain = consume(broker, topic, columnar=False)
    assert consume(broker, topic, columnar=True) == plain
    assert [record[0] for record in plain[0]] == list(range(FIRST, COUNT))
    assert plain[1] == COUNT
