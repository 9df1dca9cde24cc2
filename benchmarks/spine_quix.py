"""Counts a topic's events by key with Quix Streams, exactly once, and prints its processor time.

Usage: BOOTSTRAP TOPIC COUNT. A plain counter in its state store, nothing else.
"""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any

from quixstreams import Application  # pyright: ignore[reportMissingImports]

from .common import Cpu


def main() -> None:
    bootstrap, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    app = Application(
        broker_address=bootstrap, consumer_group=f"quix-{topic}", auto_offset_reset="earliest",
        state_dir=tempfile.mkdtemp(), commit_interval=0.2, loglevel="ERROR",
        processing_guarantee="exactly-once",
        consumer_extra_config={"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000},
    )  # fmt: skip
    frame = app.dataframe(app.topic(topic, value_deserializer="json"))
    seen = 0
    cpu: Cpu | None = None

    def tally(_value: Any, state: Any) -> int:
        nonlocal seen, cpu
        if cpu is None:
            cpu = Cpu()
        total = int(state.get("count", 0)) + 1
        state.set("count", total)
        seen += 1
        if seen == count:
            print(json.dumps({"cpu_us": cpu.microseconds() / count}), flush=True)
            app.stop()
        return total

    frame = frame.apply(tally, stateful=True)
    app.run()


if __name__ == "__main__":
    main()
