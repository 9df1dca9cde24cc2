"""Polls a topic with plain kafka-python, undecoded, and prints its processor time: BOOTSTRAP TOPIC COUNT."""

from __future__ import annotations

import json
import sys

from kafka import KafkaConsumer
from kafka.structs import TopicPartition

from .common import Cpu


def main() -> None:
    bootstrap, topic, count = sys.argv[1:]
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=100,
        max_poll_records=2000,
    )  # fmt: skip
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek(partition, 0)
    consumer.poll(0)
    cpu = Cpu()
    seen = 0
    while seen < int(count):
        seen += sum(map(len, consumer.poll(500).values()))
    print(json.dumps({"cpu_us": cpu.microseconds() / seen}))
    consumer.close()


if __name__ == "__main__":
    main()
