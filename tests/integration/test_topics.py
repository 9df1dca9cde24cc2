"""What a partition holds, as the worker asks for it before it starts there."""

from __future__ import annotations

import threading
import uuid

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError
from kafka.structs import TopicPartition

from tocsin.consumers.kafka_source import KafkaSource
from tocsin.consumers.records import Partition
from tocsin.consumers.settings import KafkaSettings, Settings
from tocsin.consumers.topics import begins_at_zero, create_topics
from tocsin.embedded import Broker


def write(broker: Broker, topic: str, barrier: threading.Barrier) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
    barrier.wait(10)
    producer.send(topic, b"x", partition=0)
    producer.flush(10)
    producer.close()


def test_the_first_record_is_found_also_after_producers_that_begin_at_once(broker: Broker) -> None:
    """The embedded broker lists the beginning of about one such partition in a hundred as 1."""
    topics = [f"topics-{uuid.uuid4().hex[:12]}" for _ in range(10)]
    create_topics(broker.bootstrap, topics, 1)
    for topic in topics:
        barrier = threading.Barrier(2)
        threads = [threading.Thread(target=write, args=(broker, topic, barrier)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    source = KafkaSource(
        Settings(kafka=KafkaSettings(bootstrap=broker.bootstrap, topic=topics[0], group=topics[0]))
    )
    try:
        assert {source.bounds(Partition(topic, 0), None).first for topic in topics} == {0}
    finally:
        source.close(1.0)


def test_a_beginning_that_was_removed_is_told_from_one_that_is_there(broker: Broker) -> None:
    topic = f"topics-{uuid.uuid4().hex[:12]}"
    create_topics(broker.bootstrap, [topic], 1)
    for _ in range(2):
        write(broker, topic, threading.Barrier(1))
    connection = {"bootstrap_servers": broker.bootstrap}
    assert begins_at_zero(connection, Partition(topic, 0))
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    try:
        admin.delete_records({TopicPartition(topic, 0): 1})
    except KafkaError as error:
        pytest.skip(f"this broker does not remove records: {error!r}")
    finally:
        admin.close()
    assert not begins_at_zero(connection, Partition(topic, 0))
