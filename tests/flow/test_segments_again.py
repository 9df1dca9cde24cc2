"""Groups that settings tell apart anew: of cohorts that began before, labels are not counted without their predictions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tocsin.consumers.model_settings import BiasSettings, ModelSettings, PerformanceSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core.cloudevents import LINES
from tocsin.core.metric_row import MetricRow, decode

PARTITION = Partition("t", 0)
HOUR = 3_600 * 10**9
START = 1_767_225_600 * 10**9  # 2026-01-01
ALL = ["sex", "race", "sex*race"]


class Run:
    """One partition under settings that change."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.rows: dict[str, MetricRow] = {}
        self.position = 0

    def take(self, segments: list[str], lines: list[dict[str, Any]]) -> None:
        settings = ModelSettings(
            performance=PerformanceSettings(segments=segments, positive="1"),
            bias=BiasSettings(segments=segments),
        )
        pipeline = PartitionPipeline(PARTITION, lambda _: settings)
        assert pipeline.restore(self.position, self.stored) == []
        for model in pipeline.told_otherwise:
            pipeline.forget(model, self.rows)
        body = b"\n".join(msgspec.json.encode({"model": "m"} | line) for line in lines)
        headers = [("content-type", LINES.encode())]
        record = PlainRecord(self.position, START + 90 * 24 * HOUR, b"m", body, headers)
        pipeline.process(Records.of(PARTITION, [record]))
        self.position = pipeline.position
        for _ in range(100):  # commits
            for name, state in pipeline.dirty().items():
                self.stored.pop(name, None)
                if state is not None:
                    self.stored[name] = state
            for field, row in pipeline.series().get("m", {}).items():
                self.rows.pop(field, None)
                if row is not None:
                    self.rows[field] = decode(row)
        assert not pipeline.is_behind


def predictions(day: int, first: int, count: int) -> list[dict[str, Any]]:
    return [
        {
            "prediction_id": f"{day}-{i}", "prediction": i % 2, "scores": {"0": 0.3, "1": 0.7},
            "segments": {"sex": "FM"[i % 2], "race": "ab"[i // 2 % 2]},
            "time": f"2026-01-{day + 1:02}T12:00:00Z",
        }
        for i in range(first, first + count)
    ]  # fmt: skip


def labels(day: int, count: int, label: int, revision: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "type": "label", "prediction_id": f"{day}-{i}", "label": label, "revision": revision,
            "observed_at": f"2026-01-{day + 1:02}T13:00:00Z",
        }
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("first", "between"), [(["sex", "race"], None), (ALL, ["sex"])], ids=["new", "restored"]
)
def test_a_segment_begins_again_with_the_next_cohort(
    first: list[str], between: list[str] | None
) -> None:
    run = Run()
    run.take(first, [*predictions(0, 0, 40), *labels(0, 40, 1)])
    if between is not None:
        run.take(between, predictions(0, 40, 20))
    run.take(ALL, [*predictions(0, 60, 4), *labels(0, 40, 0, revision=1), *labels(0, 64, 0)])
    for _ in range(2):  # a restart makes no difference
        run.take(ALL, [*predictions(1, 0, 8), *labels(1, 8, 1)])
    crossed = {row.begin[:10] for row in run.rows.values() if row.group == "sex=F race=a"}
    assert crossed == {"2026-01-02", min(row.begin[:10] for row in run.rows.values() if row.window)}
    for row in run.rows.values():
        assert 0 <= row.labels <= row.predictions
        assert 0 <= row.metrics.get("accuracy", (0.0,))[0] <= 1


def test_a_segment_that_no_prediction_had_begins_at_once() -> None:
    run = Run()
    run.take(["race"], [*predictions(0, 0, 40), *labels(0, 40, 1)])
    run.take(["race", "sex"], [*predictions(0, 40, 4), *labels(0, 44, 0, revision=1)])
    (row,) = [row for row in run.rows.values() if row.group == "sex=F" and not row.window]
    assert (row.predictions, row.labels) == (2, 2)
