"""What the benchmarks share: figures and bars, events of the stated size, processes and their CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tocsin.consumers.topics import create_topics, end_offsets, partitions_of


@dataclass
class Figures:
    """Prints figures as they come, and remembers whether each met its bar."""

    bench: str
    failed: list[str] = field(default_factory=list)

    def report(
        self, figure: str, value: float, *, most: float | None = None, least: float | None = None
    ) -> None:
        """Print a figure, with a bar that it must not exceed, or must reach, or with none."""
        value = float(value)  # numpy's numbers are not JSON's
        ok = (most is None or value <= most) and (least is None or value >= least)
        bar = most if most is not None else least
        if not ok:
            self.failed.append(figure)
        line = {
            "bench": self.bench,
            "figure": figure,
            "value": round(value, 4),
            "bar": bar,
            "ok": ok,
        }
        print(json.dumps(line), flush=True)

    def exit(self) -> None:
        """End the process: 1 if a bar was missed."""
        sys.exit(1 if self.failed else 0)


def events(count: int, models: int, seed: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of JSON events: 20 features, scores, a label; 440 to 450 bytes each."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        values = np.round(rng.normal(size=20), 4).tolist()
        score = round(float(rng.beta(5, 2)), 4)
        wrong = rng.random() < 0.1
        yield (
            b"m%d" % (i % models),
            json.dumps(
                {
                    "prediction_id": f"{i:016x}", "model": f"m{i % models}",
                    "features": {f"f{j}": v for j, v in enumerate(values)},
                    "prediction": "1", "scores": {"0": round(1 - score, 4), "1": score},
                    "label": "0" if wrong else "1",
                },
            ).encode(),
        )  # fmt: skip


def fill(bootstrap: str, topic: str, count: int, models: int, partitions: int = 1) -> float:
    """Create a topic and put events into it, one a record; return their mean size in bytes."""
    from confluent_kafka import Producer  # pyright: ignore[reportMissingImports]

    # Quix Streams reads a topic's retention to make its changelog; say it, since not every broker does.
    settings = {"retention.ms": "604800000", "retention.bytes": "-1"}
    create_topics(bootstrap, [topic], partitions, settings=settings)
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000}
    )
    size = 0
    for key, value in events(count, models):
        size += len(value)
        producer.produce(topic, value, key=key)
        producer.poll(0)
    producer.flush()
    connection = {"bootstrap_servers": bootstrap}
    ends = end_offsets(connection, partitions_of(connection, topic))
    assert sum(ends.values()) == count, f"{ends} instead of {count}"
    return size / count


def child(module: str, arguments: Sequence[Any], timeout: float = 300.0) -> dict[str, Any]:
    """Run a module of this folder in a process of its own; return the JSON of its last line."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, check=False,
        # As the command line sets it: the threads of numpy's linear algebra would only wait, busily.
        env={"OPENBLAS_NUM_THREADS": "1", **os.environ},
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"{module} failed ({done.returncode}):\n{done.stdout}\n{done.stderr}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


class Cpu:
    """Processor time of this process, all threads, user and system."""

    def __init__(self) -> None:
        self._began = time.process_time()

    def microseconds(self) -> float:
        """Return what was used since the start."""
        return (time.process_time() - self._began) * 1e6
