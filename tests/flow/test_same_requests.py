"""A shadow that scores production's requests under production's ids: one label is of both, whichever comes first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest

from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core.alert import Alert
from tocsin.core.cloudevents import LINES
from tocsin.core.events import Label, Prediction
from tocsin.core.metric_row import MetricRow, decode
from tocsin.core.wire import encode

START = datetime(2026, 1, 1, 6, tzinfo=UTC)
LATER = int((START + timedelta(days=30)).timestamp() * 1e9)
PARTITION = Partition("t", 0)
SETTINGS = ModelSettings(
    bias={"segments": ["environment"], "epsilon": 0.02, "metrics": ["recall"]},
    drift={"budget_events": 1e5},
)
COUNT = 4_000
GAP = "environment=production|shadow"
ORDERS = {  # seconds after the request: of the shadow, of the label
    "shadow, then label": (30, 3_600),
    "label, then shadow": (3_600, 30),
    "label in between all": (5, 5),
    "shadow before production": (-60, 600),
    "label before both": (30, -60),
}


def log(shadow: float, label: float, *, own: bool = False, share: float = 1) -> list[PlainRecord]:
    """A request each ten seconds, scored twice under one id, or a share of them; the shadow finds fewer positives."""
    rng = np.random.default_rng(1)
    events: list[tuple[float, int, Prediction | Label]] = []
    for i in range(COUNT):
        second = 10 * i
        truth, luck = bool(rng.random() < 0.5), rng.random(2)
        for k, name in enumerate(("production", "shadow")[: 1 + (i % 100 < 100 * share)]):
            said = truth ^ (luck[k] < (0.2 + 0.15 * k if truth else 0.2))
            after = shadow * k
            event = Prediction(
                prediction_id=f"r{i}", model="m", time=START + timedelta(seconds=second + after),
                prediction=bool(said), environment=name, label=truth if own else None,
            )  # fmt: skip
            events.append((second + after, k, event))
        if not own:
            at = START + timedelta(seconds=second + label)
            events.append(
                (
                    second + label,
                    2,
                    Label(prediction_id=f"r{i}", model="m", label=truth, observed_at=at),
                )
            )
    lines = [encode(event) for *_, event in sorted(events, key=lambda one: one[:2])]
    headers = [("content-type", LINES.encode())]
    return [
        PlainRecord(k, LATER, b"m", b"\n".join(lines[i : i + 50]), headers)
        for k, i in enumerate(range(0, len(lines), 50))
    ]


def decoded(records: list[PlainRecord]) -> list[Prediction | Label]:
    lines = [line for one in records for line in (one.value or b"").splitlines()]
    return [msgspec.json.decode(line, type=Prediction | Label) for line in lines]


def ran(
    records: list[PlainRecord], cuts: Sequence[int] = (), *, restarts: bool = False
) -> tuple[list[Alert], PartitionPipeline]:
    def fresh() -> PartitionPipeline:
        return PartitionPipeline(PARTITION, lambda _: SETTINGS)

    pipeline, stored, alerts = fresh(), {}, []
    for begin, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
        alerts += pipeline.process(Records.of(PARTITION, records[begin:end])).alerts
        stored.update(pipeline.dirty())
        if restarts:
            position, pipeline = pipeline.position, fresh()
            kept = {name: state for name, state in stored.items() if state is not None}
            assert pipeline.restore(position, kept) == []
    return [alert for alert in alerts if alert.kind == "bias"], pipeline


def counts(pipeline: PartitionPipeline) -> dict[str, int]:
    of = pipeline._models["m"].join.counts
    return {name: getattr(of, name) for name in type(of).__slots__}


def rows(pipeline: PartitionPipeline) -> dict[tuple[str, str], MetricRow]:
    pipeline.dirty()
    found = [decode(row) for row in pipeline.series()["m"].values() if row]
    return {(row.environment, row.group): row for row in found}


@pytest.mark.parametrize("order", ORDERS)
def test_one_label_is_of_both_environments_in_any_order(order: str) -> None:
    alerts, pipeline = ran(log(*ORDERS[order]))
    first = next(alert for alert in alerts if alert.state == "firing")
    assert first.subject == f"gap:recall:{GAP}"
    assert (first.environment, first.change) == ("production", "gap up")
    found = counts(pipeline)
    assert found["predictions"] == found["labels_joined"] == 2 * COUNT
    assert found["labels"] == COUNT  # each once
    assert found["labels_early"] == (COUNT if order == "label before both" else 0)
    others = ("predictions_repeated", "labels_repeated", "labels_corrected", "labels_unmatched")
    assert [found[name] for name in others] == [0, 0, 0, 0]
    told = rows(pipeline)
    for environment in ("production", "shadow"):
        assert told[environment, ""].labels == COUNT
    value, low, high, _ = told["production", GAP].metrics["gap:recall"]
    assert low < 0.15 < high
    assert value == pytest.approx(0.15, abs=0.03)


def test_the_figures_are_those_of_labels_that_came_with_either_prediction() -> None:
    """The same labels in every order, and none of them doubled."""
    _, expected = ran(log(30, 0, own=True))
    assert counts(expected)["labels"] == 2 * COUNT
    assert counts(expected)["labels_joined"] == 2 * COUNT
    (of,) = [row for (_, group), row in rows(expected).items() if group == GAP]
    for name in ("shadow, then label", "label, then shadow"):
        _, pipeline = ran(log(*ORDERS[name]))
        assert rows(pipeline)["production", GAP].metrics == of.metrics


def test_a_label_that_came_with_production_alone_is_not_the_shadows() -> None:
    made = [
        Prediction(prediction_id="r", model="m", prediction=True, label=True, time=START),
        Prediction(prediction_id="r", model="m", prediction=False, environment="shadow", time=START),
    ]  # fmt: skip
    truth = Label(prediction_id="r", model="m", label=True, observed_at=START)
    for events, joined in ((made, 1), ([*made, truth], 2), ([made[0], truth, made[1]], 2)):
        of = [
            PlainRecord(k, LATER, b"m", encode(event), [("content-type", LINES.encode())])
            for k, event in enumerate(events)
        ]
        _, pipeline = ran(of)
        assert counts(pipeline)["labels_joined"] == joined


@pytest.mark.parametrize("order", ["shadow, then label", "label, then shadow"])
def test_outcomes_of_one_request_are_compared_with_one_another(order: str) -> None:
    """Where one label is of both: whose shadow has not answered is compared with nobody's."""
    records = log(*ORDERS[order], share=0.5)
    _, pipeline = ran(records)
    figures = pipeline._models["m"].metrics()["production"]
    count = figures[f"gap:recall:{GAP}:a"], figures[f"gap:recall:{GAP}:b"]
    positives = {one.prediction_id: one.label for one in decoded(records) if isinstance(one, Label)}
    shared = [
        positives[one.prediction_id] for one in decoded(records)
        if isinstance(one, Prediction) and one.environment == "shadow"
    ]  # fmt: skip
    if order == "shadow, then label":
        assert count == (sum(map(bool, shared)),) * 2
    else:  # one at a time: those of production that wait are met several at a time
        assert count[0] > 1.5 * count[1]


@pytest.mark.parametrize("order", ORDERS)
def test_cuts_and_restarts_change_nothing(order: str) -> None:
    records = log(*ORDERS[order])
    expected, whole = ran(records)
    cuts = np.sort(np.random.default_rng(2).choice(np.arange(1, len(records)), 12, replace=False))
    found, parts = ran(records, cuts.tolist(), restarts=True)
    assert found == expected
    assert parts._models["m"].metrics() == whole._models["m"].metrics()
    assert rows(parts) == rows(whole)


def test_a_shadow_that_repeats_itself_is_counted_once() -> None:
    records = log(30, 3_600)
    again = [
        PlainRecord(len(records) + one.offset, one.timestamp, one.key, one.value, one.headers)
        for one in records
    ]
    alerts, pipeline = ran([*records, *again])
    found = counts(pipeline)
    assert (found["predictions"], found["predictions_repeated"]) == (4 * COUNT, 2 * COUNT)
    assert (found["labels"], found["labels_repeated"]) == (2 * COUNT, 2 * COUNT)
    assert found["labels_joined"] == 2 * COUNT
    assert rows(pipeline)["shadow", ""].labels == COUNT
    assert alerts
