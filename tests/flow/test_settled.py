"""Labels of which the quick ones differ from the slow ones: error rates are watched once both come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.consumers.settled import Settled
from tocsin.core.alert import Alert
from tocsin.core.cloudevents import LINES
from tocsin.core.events import Label, Prediction
from tocsin.core.wire import encode

START = datetime(2026, 1, 1, tzinfo=UTC)
PARTITION = Partition("t", 0)
DAYS, COUNT = 60, 24_000


def log(*, worse_after: float | None, seed: int = 0) -> list[PlainRecord]:
    """Of one in five the label is 1 and comes after a week, of the others it is 0 and comes after a day; from a day on twice as many are missed."""
    rng = np.random.default_rng(seed)
    events: list[tuple[float, bytes]] = []
    for i in range(COUNT):
        day = i / COUNT * DAYS
        label = int(rng.random() < 0.2)
        missed = 0.6 if worse_after is not None and day > worse_after else 0.3
        answer = int(rng.random() > missed) if label else int(rng.random() < 0.05)
        made = START + timedelta(days=day)
        event = Prediction(prediction_id=str(i), model="fraud", time=made, prediction=answer)
        events.append((day, encode(event)))
        after = float(rng.lognormal(np.log(7.0 if label else 1.0), 0.5))
        if day + after < DAYS:
            seen = made + timedelta(days=after)
            told = Label(prediction_id=str(i), model="fraud", label=label, observed_at=seen)
            events.append((day + after, encode(told)))
    lines = [line for _, line in sorted(events, key=lambda one: one[0])]
    headers = [("content-type", LINES.encode())]
    now = int((START + timedelta(days=DAYS)).timestamp() * 1e9)
    return [
        PlainRecord(k, now, b"fraud", b"\n".join(lines[i : i + 100]), headers)
        for k, i in enumerate(range(0, len(lines), 100))
    ]


def run(records: list[PlainRecord]) -> list[Alert]:
    pipeline = PartitionPipeline(PARTITION, lambda _: ModelSettings())
    return pipeline.process(Records.of(PARTITION, records)).alerts


def test_slow_labels_of_another_kind_are_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    of_errors = [alert.subject for alert in run(log(worse_after=None)) if "drift" in alert.kind]
    assert of_errors == []

    def at_once(_: Settled, times: Any, lag: Any) -> int:
        return 0

    monkeypatch.setattr(Settled, "first", at_once)
    watched_at_once = run(log(worse_after=None))
    assert "label" in {alert.subject for alert in watched_at_once}  # the log does mislead


def test_a_change_after_that_is_found() -> None:
    alerts = [alert for alert in run(log(worse_after=35)) if alert.kind == "concept drift"]
    assert alerts
    assert 35 < (alerts[0].detected_at - START) / timedelta(days=1) < 50


@pytest.mark.parametrize("delay", [0, 3_000_000_000])
def test_from_where_on_pairs_are_watched_does_not_depend_on_cuts(delay: int) -> None:
    times = np.arange(2000) * 10**8 + delay
    lag = np.full(2000, delay)
    whole, cut = Settled(), Settled()
    place = whole.first(times, lag)
    assert place == (0 if delay == 0 else 318)  # 45 slow ones are forgotten
    places = [cut.first(times[i : i + 7], lag[i : i + 7]) for i in range(0, place + 7, 7)]
    assert next(7 * k + first for k, first in enumerate(places) if first < 7) == place
    assert whole.state == cut.state
