"""Publishes 20-feature events at 10,000 a second and prints what that cost: HOW BOOTSTRAP TOPIC COUNT."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
from kafka import KafkaProducer

from tocsin import Prediction, Publisher
from tocsin.core.wire import encode

from .common import Cpu

RATE, TICK = 10_000, 20


def main() -> None:
    how, bootstrap, topic, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    rng = np.random.default_rng(0)
    rows = [{f"f{j}": float(v) for j, v in enumerate(row)} for row in rng.normal(size=(100, 20))]
    scores = {"0": 0.2, "1": 0.8}
    if how == "tocsin":
        events = Publisher(bootstrap, topic=topic, model="m")

        def publish(i: int) -> None:
            events.prediction(f"{i:016x}", features=rows[i % 100], prediction="1", scores=scores)

        def finish() -> None:
            events.flush(2 if count else 0)

    else:
        producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20)

        def publish(i: int) -> None:
            event = Prediction(
                prediction_id=f"{i:016x}", model="m", time=datetime.now(UTC),
                features=rows[i % 100], prediction="1", scores=scores,  # type: ignore[arg-type]
            )  # fmt: skip
            producer.send(topic, encode(event), key=b"m")

        def finish() -> None:
            producer.flush()

    publish(0)
    time.sleep(1.0)
    cpu = Cpu()
    calls = drive(publish, count)
    finish()
    found = {
        "cpu_us": cpu.microseconds() / count,
        "p50_us": float(np.quantile(calls, 0.5)) * 1e6,
        "p99_us": float(np.quantile(calls, 0.99)) * 1e6,
        "max_us": float(calls.max()) * 1e6,
    }
    print(json.dumps(found), flush=True)


def drive(publish: Callable[[int], None], count: int) -> np.ndarray:
    """Call at the rate, some calls a tick; return (count,) seconds that each call took."""
    calls = np.empty(count)
    begin = time.perf_counter()
    for i in range(count):
        before = time.perf_counter()
        publish(i)
        calls[i] = time.perf_counter() - before
        if i % TICK == TICK - 1:
            ahead = begin + (i + 1) / RATE - time.perf_counter()
            if ahead > 0:
                time.sleep(ahead)
    return calls


if __name__ == "__main__":
    main()
