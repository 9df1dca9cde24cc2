"""Gaps between groups that come up in a log become alerts, however the log is cut."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tocsin.consumers.bias import budget_of
from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core.alert import Alert
from tocsin.core.cloudevents import LINES
from tocsin.core.events import Prediction
from tocsin.core.metric_row import MetricRow, decode
from tocsin.core.snapshot import pack, unpack
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


def side_by_side(
    seed: int, count: int, gap: float, *, by: str = "environment"
) -> list[PlainRecord]:
    """Predictions of two models for the same requests, in production and shadow or as two versions; one finds fewer positives.

    The second one answers half a minute later, its labels come with it.
    """
    rng = np.random.default_rng(seed)
    events: list[tuple[float, Prediction]] = []
    for i in range(count):
        sex, label = str(rng.choice(["F", "M"])), bool(rng.random() < 0.5)
        hard = rng.random()  # what is hard for one is hard for the other
        for k, name in enumerate(("production", "shadow")):
            missed = 0.2 + k * (gap if sex == "M" else gap / 4)
            chance = hard if rng.random() < 0.5 else rng.random()
            said = label ^ (chance < (missed if label else 0.2))
            of: dict[str, Any] = {"environment": name} if by == "environment" else {}
            event = Prediction(
                prediction_id=f"{name}{i}", model="m", time=START + timedelta(seconds=i + 30 * k),
                label=label, prediction=said, segments={"sex": sex}, version=f"v{k + 1}", **of,
            )  # fmt: skip
            events.append((i + 30.5 * k, event))
    lines = [encode(event) for _, event in sorted(events, key=lambda one: one[0])]
    headers = [("content-type", LINES.encode())]
    time = int((START + timedelta(days=30)).timestamp() * 1e9)
    return [
        PlainRecord(k, time, b"m", b"\n".join(lines[i : i + 50]), headers)
        for k, i in enumerate(range(0, len(lines), 50))
    ]


def run(
    records: list[PlainRecord],
    cuts: Sequence[int] = (),
    *,
    restarts: bool = False,
    bias: dict[str, Any] = BIAS,
) -> list[Alert]:
    """Return the alerts about bias."""
    alerts, _ = ran(records, cuts, restarts=restarts, bias=bias)
    return alerts


def ran(
    records: list[PlainRecord],
    cuts: Sequence[int] = (),
    *,
    restarts: bool = False,
    bias: dict[str, Any] = BIAS,
) -> tuple[list[Alert], PartitionPipeline]:
    """Return the alerts about bias, and the pipeline as it is then."""
    settings = ModelSettings(bias=bias, drift={"budget_events": 1e5})

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
    return [alert for alert in alerts if alert.kind == "bias"], pipeline


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


ENVIRONMENTS: dict[str, Any] = {"segments": ["environment", "environment*sex"], "epsilon": 0.02}


def rows_of(pipeline: PartitionPipeline) -> dict[str, MetricRow]:
    pipeline.dirty()
    found = [decode(row) for row in pipeline.series()["m"].values() if row]
    return {row.group: row for row in found if "|" in row.group}


def figures_of(pipeline: PartitionPipeline) -> dict[str, float]:
    return pipeline._models["m"].metrics()["production"]


def test_a_gap_between_production_and_shadow_is_an_alert_that_names_both() -> None:
    alerts, pipeline = ran(side_by_side(4, 8_000, 0.16), bias=ENVIRONMENTS)
    fired = [alert for alert in alerts if alert.state == "firing"]
    assert fired
    first = fired[0]
    assert first.subject == "gap:recall:environment,sex=production,M|shadow,M"  # not those of women
    assert (first.environment, first.change) == ("production", "gap up")
    assert first.started_at is not None
    assert first.started_at < START + timedelta(minutes=20)  # it was there from the start
    told = re.search(r"gap \+(0\.\d+) \(\+0\.\d+ to \+0\.\d+\), (0\.\d+) against (0\.\d+) over", first.summary)  # fmt: skip
    assert told is not None
    gap, production, shadow = map(float, told.groups())
    assert production - shadow == pytest.approx(gap, abs=0.002)
    figures = figures_of(pipeline)
    both = "gap:recall:environment=production|shadow"
    assert figures[f"{both}:gap"] == pytest.approx(0.1, abs=0.03)
    assert figures[f"{both}:low"] < 0.1 < figures[f"{both}:high"]
    assert figures["gap:recall:environment,sex=production,M|shadow,M:claimed"] == 1
    rows = rows_of(pipeline)
    assert set(rows) == {
        "environment=production|shadow", "environment,sex=production,F|shadow,F",
        "environment,sex=production,M|shadow,M",
    }  # fmt: skip
    value, low, high, _ = rows["environment=production|shadow"].metrics["gap:recall"]
    assert low < 0.1 < high
    assert value == pytest.approx(figures[f"{both}:gap"], abs=0.005)
    assert {"gap:equalised_odds", "gap:disparate_impact", "gap:four_fifths"} <= set(
        rows["environment=production|shadow"].metrics
    )


def test_environments_that_do_as_well_are_silent_and_said_to_be_within_epsilon() -> None:
    alerts, pipeline = ran(side_by_side(5, 8_000, 0.0), bias=ENVIRONMENTS | {"epsilon": 0.05})
    assert alerts == []
    figures = figures_of(pipeline)
    assert figures["gap:recall:environment=production|shadow:within"] == 1
    assert figures["open_incidents"] == 0


@pytest.mark.parametrize("restarts", [False, True])
def test_cuts_and_restarts_change_nothing_between_environments(restarts: bool) -> None:
    bias = {"segments": ["environment", "environment*sex", "sex"], "epsilon": 0.02}
    records = side_by_side(6, 5_000, 0.3)
    expected, whole = ran(records, bias=bias)
    assert len({alert.subject for alert in expected}) > 1
    cuts = np.sort(np.random.default_rng(7).choice(np.arange(1, len(records)), 20, replace=False))
    found, parts = ran(records, cuts.tolist(), restarts=restarts, bias=bias)
    assert found == expected
    model, again = (pipeline._models["m"] for pipeline in (whole, parts))
    assert model._between is not None
    assert again._between is not None
    assert again.metrics() == model.metrics()
    assert rows_of(parts) == rows_of(whole)


def test_versions_are_compared_and_a_decision_between_them_is_told() -> None:
    """The seed of champion and challenger."""
    bias = {"segments": ["version"], "epsilon": 0.02, "metrics": ["recall", "accuracy"]}
    alerts, pipeline = ran(side_by_side(8, 6_000, 0.2, by="version"), bias=bias)
    assert alerts[0].subject == "gap:recall:version=v1|v2"
    figures = figures_of(pipeline)
    of = {
        key: figures[f"gap:recall:version=v1|v2:{key}"] for key in ("claimed", "more", "a", "low")
    }
    assert of["claimed"] == 1
    assert of["more"] == 0
    assert of["a"] > 2_500
    assert 0 < of["low"] < 0.125
    _, short = ran(side_by_side(8, 1_000, 0.2, by="version"), bias=bias)
    early = figures_of(short)
    assert early["gap:recall:version=v1|v2:claimed"] == 0
    assert 100 < early["gap:recall:version=v1|v2:more"] < 100_000


def test_half_of_the_share_is_of_environments_where_groups_are_compared_too() -> None:
    only, both = (
        budget_of(ModelSettings(bias={"segments": segments}, drift={"budget_events": 1e5}))
        for segments in (["environment"], ["environment", "sex"])
    )
    assert (only, both) == (1e6, 2e6)


def test_what_is_damaged_between_environments_begins_anew() -> None:
    settings = ModelSettings(bias=ENVIRONMENTS)
    pipeline = PartitionPipeline(PARTITION, lambda _: settings)
    pipeline.process(Records.of(PARTITION, side_by_side(9, 500, 0.0)))
    stored = {name: state for name, state in pipeline.dirty().items() if state is not None}
    meta, _ = unpack("environments", 1, stored["environments|m"])
    for key in meta:
        again = PartitionPipeline(PARTITION, lambda _: settings)
        crafted = pack("environments", 1, {k: v for k, v in meta.items() if k != key}, {})
        (lost,) = again.restore(pipeline.position, stored | {"environments|m": crafted})
        assert lost.startswith("m: environments: ")
        again.process(Records.of(PARTITION, side_by_side(10, 100, 0.0)))
    again = PartitionPipeline(PARTITION, lambda _: settings)
    assert again.restore(pipeline.position, stored) == []
    assert again.dirty() == {}


def test_what_is_too_small_to_judge_is_said_to_be() -> None:
    _, pipeline = ran(side_by_side(11, 600, 0.0), bias=ENVIRONMENTS)
    rows = rows_of(pipeline)
    small = rows["environment=production|shadow"].too_small
    assert "gap:recall" in small  # 300 labels of 1
    assert "gap:positive_rate" not in small
    assert "gap:positive_rate" in rows["environment,sex=production,F|shadow,F"].too_small
