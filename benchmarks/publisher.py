"""What publishing costs a model server: the call, and the processor time of the whole process.

10,000 events a second of 20 features; with a healthy broker, and with one that accepts connections and
never answers. Beside it, in the same run, plain `KafkaProducer.send` of the same bytes, one a record.
"""

from __future__ import annotations

import socket
import statistics

from tocsin.consumers.topics import create_topics
from tocsin.embedded import EmbeddedBroker

from .common import Figures, child

COUNT, ROUNDS = 50_000, 3


def main() -> None:
    figures = Figures("publisher")
    healthy, plain = [], []
    with EmbeddedBroker() as broker:
        for k in range(ROUNDS):
            create_topics(broker.bootstrap, [f"a{k}", f"b{k}"], 1)
            healthy.append(child("publisher_child", ["tocsin", broker.bootstrap, f"a{k}", COUNT]))
            plain.append(child("publisher_child", ["plain", broker.bootstrap, f"b{k}", COUNT]))
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        hanging = [child("publisher_child", ["tocsin", address, "x", COUNT]) for _ in range(ROUNDS)]

    def median(found: list[dict[str, float]], name: str) -> float:
        return statistics.median(one[name] for one in found)

    figures.report("healthy_call_p50_us", median(healthy, "p50_us"))
    figures.report("healthy_call_p99_us", median(healthy, "p99_us"), most=50)
    figures.report("hanging_call_p99_us", median(hanging, "p99_us"), most=50)
    figures.report("hanging_call_max_us", median(hanging, "max_us"))
    figures.report("cpu_us_per_event", median(healthy, "cpu_us"))
    figures.report("kafka_python_send_cpu_us_per_event", median(plain, "cpu_us"))
    ratio = statistics.median(
        a["cpu_us"] / b["cpu_us"] for a, b in zip(healthy, plain, strict=True)
    )
    figures.report("cpu_over_kafka_python_send", ratio, most=0.25)
    figures.exit()


if __name__ == "__main__":
    main()
