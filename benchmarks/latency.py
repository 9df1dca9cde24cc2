"""From `Publisher.prediction` to the subscriber's loop, through broker, worker process and Redis.

1,000 events a second of 20 models, one feature each, whose mean jumps by eight standard deviations
every 60 events; each jump raises an alert. The time is that from the call that published the event
which decided an alert to the moment its subscriber had it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from tocsin import Alert, AlertSubscriber, Publisher
from tocsin.consumers.topics import create_topics
from tocsin.core.errors import TransportError
from tocsin.embedded import EmbeddedBroker, EmbeddedRedis

from .common import Figures

SECONDS, RATE, MODELS, PERIOD, WARMUP = 40, 1000, 20, 60, 64


def main() -> None:
    figures = Figures("latency")
    with (
        EmbeddedRedis() as store,
        EmbeddedBroker() as broker,
        tempfile.TemporaryDirectory() as folder,
    ):
        create_topics(broker.bootstrap, ["tocsin.events", "tocsin.dead-letters"], 4)
        environment = {
            **os.environ,
            "TOCSIN_KAFKA__BOOTSTRAP": broker.bootstrap,
            "TOCSIN_KAFKA__CLIENT": json.dumps(broker.client_settings),
            "TOCSIN_REDIS__URL": store.url,
            "TOCSIN_DEFAULTS__DRIFT__WARMUP_VALUES": str(WARMUP),
            # Every claim an alert of its own: what is timed is the way, not the merging.
            "TOCSIN_DEFAULTS__INCIDENTS__MERGE_EVENTS": "1",
            "TOCSIN_DEFAULTS__INCIDENTS__RESOLVE_EVENTS": "1",
        }
        with (Path(folder) / "log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tocsin.cli.main", "worker"],
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            deadline = time.monotonic() + 60  # compilation takes its time on a new machine
            while b"going on from offset" not in (Path(folder) / "log").read_bytes():
                if time.monotonic() > deadline or worker.poll() is not None:
                    raise TransportError("the worker did not start")
                time.sleep(0.05)
            published, received = play(broker.bootstrap, store.url)
        finally:
            worker.terminate()
            worker.wait(10)
    milliseconds = np.array(
        [
            (at - published[alert.prediction_id]) * 1e3
            for alert, at in received
            if alert.prediction_id in published
        ]
    )
    figures.report("alerts", len(milliseconds), least=1000)
    figures.report("p50_ms", float(np.quantile(milliseconds, 0.5)), most=60)
    figures.report("p99_ms", float(np.quantile(milliseconds, 0.99)), most=250)
    figures.report("max_ms", float(milliseconds.max()))
    figures.exit()


def play(bootstrap: str, url: str) -> tuple[dict[str, float], list[tuple[Alert, float]]]:
    """Publish and listen; return when each event was published and each alert received."""
    published: dict[str, float] = {}
    received: list[tuple[Alert, float]] = []
    subscriber = AlertSubscriber(url)
    listener = threading.Thread(
        target=lambda: received.extend((alert, time.monotonic()) for alert in subscriber)
    )
    listener.start()
    rng = np.random.default_rng(0)
    noise = rng.normal(size=SECONDS * RATE)
    with Publisher(bootstrap) as events:
        time.sleep(1.0)  # the worker claims the other partitions
        begin = time.monotonic()
        for i in range(SECONDS * RATE):
            model, turn = i % MODELS, i // MODELS
            jumped = turn >= WARMUP and (turn - WARMUP + model) // PERIOD % 2
            identity = f"{i}"
            published[identity] = time.monotonic()
            events.prediction(
                identity, model=f"m{model}", features={"x": float(noise[i]) + 8.0 * jumped}
            )
            ahead = begin + (i + 1) / RATE - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
    time.sleep(2.0)
    subscriber.stop()
    listener.join()
    # The worker may have been slower to start than the events to come: those waited for it.
    warm = begin + (WARMUP + 2) * MODELS / RATE
    return {name: at for name, at in published.items() if at >= warm}, received


if __name__ == "__main__":
    main()
