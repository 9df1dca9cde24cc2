"""Embeddings and logits as events, through the worker in memory: a drift of either becomes one alert of its kind."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tocsin.consumers.dead_letters import MemoryDeadLetters
from tocsin.consumers.records import Partition, PlainRecord, Poison, Records
from tocsin.consumers.settings import Settings
from tocsin.consumers.source import MemorySource
from tocsin.consumers.store import MemoryStore
from tocsin.consumers.worker import Worker
from tocsin.core.alert import Alert
from tocsin.core.cloudevents import LINES
from tocsin.core.events import Prediction
from tocsin.core.wire import encode

START = datetime(2026, 1, 1, tzinfo=UTC)
PARTITION = Partition("t", 0)
SETTINGS = Settings(
    worker={"poll": 0.001, "commit": 0.001},
    defaults={"attack": {"enabled": False}},  # a shift of logits is suspicious to it as well
)
RECORDS, ROWS = 170, 50  # the shift comes with record 120, event 6,000, of version v2 only
SHIFT = 120

Vectors = Callable[[np.random.Generator, bool], dict[str, Any]]


def embeddings(rng: np.random.Generator, is_shifted: bool) -> dict[str, Any]:
    """An embedding of 16, moved by one standard deviation along a quarter of its coordinates."""
    moved = np.where(np.arange(16) < 4, 1.0, 0.0) * is_shifted
    return {"embedding": (rng.normal(size=16) + moved).tolist(), "prediction": "cat"}


def logits(rng: np.random.Generator, is_shifted: bool) -> dict[str, Any]:
    """Ten logits with one winner, which wins by less once shifted; the predicted class stays as likely."""
    found = rng.normal(size=10)
    winner = int(rng.integers(10))
    found[winner] += 3.0 if is_shifted else 5.0
    return {"logits": found.tolist(), "prediction": str(winner)}


def log(make: Vectors) -> list[Records | Poison]:
    rng = np.random.default_rng(0)
    found: list[Records | Poison] = []
    for offset in range(RECORDS):
        lines = []
        for row in range(ROWS):
            version = f"v{1 + int(rng.random() < 0.7)}"
            is_shifted = offset >= SHIFT and version == "v2"
            event = Prediction(
                prediction_id=f"{offset}-{row}", model="m", version=version,
                time=START + timedelta(seconds=offset, milliseconds=row), **make(rng, is_shifted),
            )  # fmt: skip
            lines.append(encode(event))
        time = int((START + timedelta(seconds=offset)).timestamp() * 1e9)
        headers = [("content-type", LINES.encode())]
        found.append(
            Records.of(PARTITION, [PlainRecord(offset, time, b"m", b"\n".join(lines), headers)])
        )
    return found


def run(make: Vectors, restarts: int = 0) -> list[Alert]:
    """Let workers work, each for a while and the last one to the end; return the alerts."""
    store, letters = MemoryStore(), MemoryDeadLetters()
    for turn in range(restarts + 1):
        source = MemorySource({PARTITION: log(make)})
        worker = Worker(SETTINGS, source, store, letters)
        steps = 0
        while turn == restarts or steps < 40:
            worker.step()
            steps += 1
            if source.exhausted and not any(owned.is_dirty for owned in worker._owned.values()):
                break
    assert letters.letters == []
    return store.alerts


@pytest.mark.parametrize(
    ("make", "kind", "what"),
    [(embeddings, "data drift", "embedding"), (logits, "prediction drift", "logits")],
)
def test_a_drift_of_vectors_is_one_alert_that_says_which_version_and_since_when(
    make: Vectors, kind: str, what: str
) -> None:
    alerts = run(make)
    (alert,) = [alert for alert in alerts if alert.state == "firing"]
    assert (alert.kind, alert.version) == (kind, "v2")
    assert alert.subject.startswith(f"{what}:")
    assert alert.subject.endswith("@v2")
    assert alert.summary.startswith(alert.subject.replace(":", " ") + ": ")
    assert SHIFT <= alert.offset <= SHIFT + 6
    assert alert.started_offset is not None
    assert abs(alert.started_offset - SHIFT) <= 2
    assert run(make, restarts=3) == alerts
