"""Gaps between groups that come up in a log become alerts, however the log is cut."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core.alert import Alert
from tocsin.core.cloudevents import LINES
from tocsin.core.events import Prediction
from tocsin.core.wire import encode

START = datetime(2026, 1, 1, tzinfo=UTC)
PARTITION = Partition("t", 0)
BIAS: dict[str, Any] = {"segments": ["sex", "sex*race"], "epsilon": 0.02}


def log(seed: int, count: int, gap: float) -> list[PlainRecord]:
    """Predictions with labels; of the men among race 3, who come late, fewer of the positives are found."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(count):
        sex, race = str(rng.choice(["F", "M"])), str(rng.integers(1, 4 if i > count // 4 else 3))
        label = rng.random() < 0.5
        missed = 0.2 + (gap if sex == "M" else 0.0)
        said = label ^ (rng.random() < (missed if label else 0.2))
        segments = {"sex": sex, "race": race} if rng.random() < 0.95 else None
        event = Prediction(
            prediction_id=str(i), model="m", time=START + timedelta(seconds=i), label=bool(label),
            prediction=bool(said), segments=segments,
        )  # fmt: skip
        lines.append(encode(event))
    headers = [("content-type", LINES.encode())]
    time = int((START + timedelta(days=30)).timestamp() * 1e9)
    return [
        PlainRecord(k, time, b"m", b"\n".join(lines[i : i + 50]), headers)
        for k, i in enumerate(range(0, count, 50))
    ]


def run(
    records: list[PlainRecord], cuts: Sequence[int] = (), *, restarts: bool = False
) -> list[Alert]:
    """Return the alerts about bias."""
    settings = ModelSettings(bias=BIAS, drift={"budget_events": 1e5})

    def fresh() -> PartitionPipeline:
        return PartitionPipeline(PARTITION, lambda _: settings)

    pipeline, stored, alerts = fresh(), {}, []
    for begin, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
        alerts += pipeline.process(Records.of(PARTITION, records[begin:end])).alerts
        stored.update(pipeline.dirty())
        if restarts:
            position, pipeline = pipeline.position, fresh()
            kept = {name: state for name, state in stored.items() if state is not None}
            assert pipeline.restore(position, kept) == []
    return [alert for alert in alerts if alert.kind == "bias"]


def test_a_gap_is_an_alert_that_names_the_groups_and_says_how_sure_it_is() -> None:
    fired = [alert for alert in run(log(0, 12_000, 0.12)) if alert.state == "firing"]
    assert fired
    first = fired[0]
    assert first.subject == "gap:recall:sex=M|F"  # a man came first
    assert first.change == "gap down"
    assert first.size is not None
    assert -0.25 < first.size < -0.05
    assert first.summary.startswith("recall of sex=M|F: gap -0.")
    assert "would happen by chance once in" in first.summary
    assert first.runbook.endswith("#bias")


def test_without_a_gap_there_is_none() -> None:
    assert run(log(1, 12_000, 0.0)) == []


@pytest.mark.parametrize("restarts", [False, True])
def test_cuts_and_restarts_change_nothing(restarts: bool) -> None:
    records = log(2, 6_000, 0.2)
    expected = run(records)
    assert len(expected) > 1
    cuts = np.sort(np.random.default_rng(3).choice(np.arange(1, len(records)), 25, replace=False))
    assert run(records, cuts.tolist(), restarts=restarts) == expected


def test_a_segment_must_be_told_apart_to_be_compared() -> None:
    with pytest.raises(ValueError, match=r"bias.segments names race, which performance.segments"):
        ModelSettings(performance={"segments": ["sex"]}, bias=BIAS)
