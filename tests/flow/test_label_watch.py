"""How late labels come, and how many predictions have none: watched by prediction, whatever the cuts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tocsin.consumers.label_watch import LAG, MISSING, OF_LABELS
from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core.alert import Alert
from tocsin.core.cloudevents import LINES
from tocsin.core.events import Label, Prediction
from tocsin.core.wire import encode

START = datetime(2026, 1, 1, tzinfo=UTC)
PARTITION = Partition("t", 0)
DAYS, COUNT = 20, 12_000
Delay = Callable[[np.random.Generator, float], float | None]


def usual(rng: np.random.Generator, day: float) -> float | None:
    return float(rng.gamma(4, 0.15)) if rng.random() < 0.93 else None


def late(rng: np.random.Generator, day: float) -> float | None:
    found = usual(rng, day)
    return found and found * (1.4 if day > 12 else 1)


def stopped(rng: np.random.Generator, day: float) -> float | None:
    return usual(rng, day) if day < 12 else None


def weekly(rng: np.random.Generator, day: float) -> float | None:
    return float(np.ceil(day / 2) * 2 - day + rng.random() / 100) if rng.random() < 0.9 else None


def never(rng: np.random.Generator, day: float) -> float | None:
    return None


def log(delay: Delay, seed: int = 0) -> list[PlainRecord]:
    rng = np.random.default_rng(seed)
    events: list[tuple[float, bytes]] = []
    for i in range(COUNT):
        day, answer = i / COUNT * DAYS, int(rng.integers(2))
        name, environment = str(i), "production" if i % 3 else "shadow"
        prediction = Prediction(
            prediction_id=name, model="fraud", time=START + timedelta(days=day), prediction=answer,
            environment=environment,
        )  # fmt: skip
        events.append((day, encode(prediction)))
        after = delay(rng, day)
        if after is not None and day + after < DAYS and environment == "production":
            told = answer if rng.random() < 0.8 else 1 - answer
            seen = START + timedelta(days=day + after)
            label = Label(prediction_id=name, model="fraud", label=told, observed_at=seen)
            events.append((day + after, encode(label)))
    lines = [line for _, line in sorted(events, key=lambda one: one[0])]
    headers = [("content-type", LINES.encode())]
    return [
        PlainRecord(k, int((START + timedelta(days=DAYS)).timestamp() * 1e9), b"m", b"\n".join(part), headers)
        for k, part in enumerate(lines[i : i + 20] for i in range(0, len(lines), 20))
    ]  # fmt: skip


def run(
    records: Sequence[PlainRecord], cuts: Sequence[int], *, restarts: bool = False
) -> tuple[list[Alert], PartitionPipeline, dict[str, bytes]]:
    pipeline = PartitionPipeline(PARTITION, lambda _: ModelSettings())
    alerts: list[Alert] = []
    stored: dict[str, bytes | None] = {}
    for begin, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
        alerts += pipeline.process(Records.of(PARTITION, records[begin:end])).alerts
        stored |= pipeline.dirty()
        if restarts:
            position, pipeline = (
                pipeline.position,
                PartitionPipeline(PARTITION, lambda _: ModelSettings()),
            )
            kept = {name: state for name, state in stored.items() if state is not None}
            assert pipeline.restore(position, kept) == []
    return alerts, pipeline, {name: state for name, state in stored.items() if state is not None}


def of_labels(alerts: Sequence[Alert]) -> list[Alert]:
    return [alert for alert in alerts if alert.subject in OF_LABELS]


def test_labels_that_come_later_raise_an_alert_that_says_so() -> None:
    alerts, _, _ = run(log(late), [])
    first = of_labels(alerts)[0]
    assert (first.subject, first.kind, first.environment) == (LAG, "pipeline", "production")
    assert first.summary.startswith("labels come later: median ")
    assert ", before 13 h" in first.summary
    assert 12 < (first.detected_at - START) / timedelta(days=1) < 16


def test_labels_that_stop_raise_an_alert_although_nothing_comes() -> None:
    alerts, pipeline, _ = run(log(stopped), [])
    first = of_labels(alerts)[0]
    assert (first.subject, first.kind, first.severity) == (MISSING, "pipeline", "critical")
    age = pipeline._models["fraud"].join.watch.age / 86_400e9
    assert 1 < age < 2
    assert first.summary.startswith("fewer predictions have a label after 1.")
    assert "before 9" in first.summary
    assert 12 < (first.detected_at - START) / timedelta(days=1) < 12 + age + 1


@pytest.mark.parametrize("delay", [usual, weekly, never])
def test_nothing_is_claimed_of_labels_that_come_as_ever_or_never(delay: Delay) -> None:
    alerts, pipeline, _ = run(log(delay), [])
    assert not of_labels(alerts)
    errors = pipeline._models["fraud"]._series[0].errors
    assert (MISSING in errors.guarded.detector.streams()) == (delay is not never)
    assert bool(pipeline._models["fraud"].join.watch.age) == (delay is not never)


def test_cuts_and_restarts_change_nothing() -> None:
    records = log(late, seed=1)[: 12_000 // 20 * 3 // 2]
    expected, _, state = run(records, [])
    assert of_labels(expected)
    rng = np.random.default_rng(0)
    for count, restarts in ((300, False), (15, True)):
        cuts = np.sort(rng.choice(np.arange(1, len(records)), count, replace=False)).tolist()
        alerts, _, found = run(records, cuts, restarts=restarts)
        assert alerts == expected
        for name in ("0/errors|fraud", "0/errors_reference|fraud", "1/errors|fraud"):
            assert found[name] == state[name], name
