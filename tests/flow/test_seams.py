"""Where parts of a worker meet: settings that change under stored state, events without what others have, labels of what is lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tocsin.cli.commands import app
from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core.cloudevents import LINES
from tocsin.core.metric_row import MetricRow, decode

START = datetime(2026, 1, 1, tzinfo=UTC)
PARTITION = Partition("events", 0)
Event = dict[str, Any]


def prediction(number: int, hours: float = 0.0, **fields: Any) -> Event:
    time = (START + timedelta(hours=hours)).isoformat()
    return {"prediction_id": f"p{number}", "model": "m", "time": time, **fields}


def label(number: int, value: Any, hours: float = 0.0, revision: int = 0) -> Event:
    return {
        "type": "label", "prediction_id": f"p{number}", "model": "m", "label": value,
        "revision": revision, "observed_at": (START + timedelta(hours=hours)).isoformat(),
    }  # fmt: skip


class Worker:
    """A pipeline, what it has stored, and its series."""

    def __init__(self, **settings: Any) -> None:
        self.stored: dict[str, bytes] = {}
        self.series: dict[str, bytes] = {}
        self.lost: list[str] = []
        self.offset = 0
        self.pipeline = self._new(settings)

    def _new(self, settings: dict[str, Any]) -> PartitionPipeline:
        of = ModelSettings(**settings)
        return PartitionPipeline(PARTITION, lambda _: of)

    def feed(self, events: Sequence[Event]) -> None:
        lines = b"\n".join(msgspec.json.encode(event) for event in events)
        headers = [("content-type", LINES.encode())]
        record = PlainRecord(
            self.offset, int((START + timedelta(days=60)).timestamp()) * 10**9, b"m", lines, headers
        )
        self.offset += 1
        assert self.pipeline.process(Records.of(PARTITION, [record])).dead_letters == []
        self._store(self.stored, self.pipeline.dirty())
        while self.pipeline.is_behind:
            self._store(self.series, self.pipeline.series().get("m", {}))

    def _store(self, into: dict[str, bytes], fields: dict[str, bytes | None]) -> None:
        for name, state in fields.items():
            into.pop(name, None)
            if state is not None:
                into[name] = state

    def restart(self, **settings: Any) -> None:
        position = self.pipeline.position
        self.pipeline = self._new(settings)
        self.lost = self.pipeline.restore(position, dict(self.stored))

    @property
    def rows(self) -> list[MetricRow]:
        return [
            row for row in map(decode, self.series.values()) if not row.window and not row.group
        ]


def scored(number: int, said: int, hours: float = 0.0) -> Event:
    return prediction(number, hours, prediction=said, scores={"1": 0.7 if said else 0.2})


def before() -> list[Event]:
    return [scored(i, 1) for i in range(40)] + [label(i, 1) for i in range(20)]


@pytest.mark.parametrize("changed", [{"cohort": "2d"}, {}])
def test_labels_of_predictions_that_are_counted_no_more_are_passed_over(changed: Any) -> None:
    worker = Worker()
    worker.feed(before())
    if not changed:
        for name in [name for name in worker.stored if name.startswith("groups")]:
            del worker.stored[name]
    worker.restart(performance=changed)
    assert [lost for lost in worker.lost if "performance" in lost]
    worker.series.clear()
    new = [scored(100, 1), scored(101, 0), label(100, 1), label(101, 0)]
    old = [label(i, 0, 5, 1) for i in range(20)] + [label(i, 1, 5) for i in range(20, 30)]
    worker.feed(new + old)
    (row,) = worker.rows
    assert (row.predictions, row.labels) == (2, 2)
    assert row.metrics["accuracy"][0] == 1.0
    worker.restart(performance=changed)
    assert worker.lost == []
    worker.feed([label(i, 1, 6, 2) for i in range(20)])
    assert worker.rows == [row]


def test_a_cohort_that_was_given_up_never_comes_back() -> None:
    worker = Worker(performance={"cohorts": 2})
    worker.feed([scored(i, 1, 24.0 * i) for i in range(4)] + [label(0, 1, 2)])
    worker.restart(performance={"cohorts": 90})
    worker.feed([scored(9, 1, 1.0), label(0, 0, 3, 1), label(9, 1, 4)])
    assert sorted(row.begin[:10] for row in worker.rows) == ["2026-01-03", "2026-01-04"]
    assert all(row.labels == 0 for row in worker.rows)


def written(folder: Path, name: str, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    file, out = folder / f"{name}.csv", folder / f"{name}.npz"
    lines = ["x,y,said,truth,1"]
    for _ in range(1500):
        score = rng.random()
        truth = int(rng.random() < score)
        lines.append(
            f"{rng.normal():.4f},{rng.normal():.4f},{int(score > 0.5)},{truth},{score:.4f}"
        )
    file.write_text("\n".join(lines) + "\n")
    arguments = [
        "reference",
        str(file),
        str(out),
        "--label",
        "truth",
        "--prediction",
        "said",
        "--score",
        "1",
    ]
    assert app(arguments, result_action="return_value") == 0
    return out


def test_a_first_event_without_features_is_looked_up_nowhere(tmp_path: Path) -> None:
    worker = Worker(drift={"reference": written(tmp_path, "one", 0)})
    worker.feed([prediction(0, prediction=1, features={})])
    worker.feed([prediction(1, prediction=1, features={"x": 1.0, "y": 2.0})])
    assert [row.predictions for row in worker.rows] == [2]


def test_corrections_of_another_references_pairs_leave_the_series_readable(tmp_path: Path) -> None:
    worker = Worker(drift={"reference": written(tmp_path, "one", 0)})
    worker.feed(before())
    worker.restart(drift={"reference": written(tmp_path, "two", 1)})
    worker.feed([scored(100, 1), label(100, 1)])
    worker.feed([label(i, 0, 5, 1) for i in range(20)])
    (row,) = worker.rows
    assert (row.predictions, row.labels) == (41, 21)
    assert row.metrics["accuracy"][0] == pytest.approx(1 / 21)
    assert "data_leakage_rate" not in row.metrics


def test_batches_without_streams_between_others_are_no_matter() -> None:
    worker = Worker()
    worker.feed([prediction(0, features={"a": 1.0}, prediction=1)])
    worker.feed(
        [prediction(1, embedding=[1.0, 2.0, 3.0]), prediction(2, features={"a": 1.0, "b": 2.0}, prediction=1)]
    )  # fmt: skip
    assert [row.predictions for row in worker.rows] == [3]


def test_a_feature_that_a_repeated_prediction_brings_is_stored(tmp_path: Path) -> None:
    worker = Worker()
    worker.feed([prediction(0, features={"a": 1.0}, prediction=1)])
    worker.feed([prediction(0, features={"a": 1.0, "b": 2.0}, prediction=1)])
    worker.restart()
    assert worker.lost == []


def test_gaps_count_pairs_of_predictions_made_since_both_groups_are_there() -> None:
    """Version 2 begins when of version 1 only frauds, which come late, are still to be labelled: these say nothing of either."""
    rng = np.random.default_rng(0)
    bias = {"segments": ["version"], "metrics": ["accuracy"], "epsilon": 0.02}
    worker = Worker(bias=bias, features="none")
    truth = rng.random(6000) < 0.3
    events: list[tuple[float, int, Event]] = []
    for i, is_fraud in enumerate(truth.tolist()):
        at = i / 20
        version = "1" if i < 3000 or rng.random() < 0.5 else "2"
        events.append((at, 0, prediction(i, at, prediction="0", version=version)))
        due = at + (60.0 if is_fraud else 1.0)
        events.append((due, 1, label(i, "1" if is_fraud else "0", due)))
    events.sort(key=lambda one: one[:2])
    for begin in range(0, len(events), 500):
        worker.feed([event for _, _, event in events[begin : begin + 500]])
    (monitor,) = worker.pipeline._models.values()
    figures = monitor.metrics()["production"]
    low = figures["gap:accuracy:version=1|2:low"]
    assert low <= 0 <= figures["gap:accuracy:version=1|2:high"]
