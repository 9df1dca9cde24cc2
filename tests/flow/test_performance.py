"""Performance by cohort and group from a log of late labels: what scikit-learn says of the pairs as they are in the end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from tocsin.consumers.estimates import ESTIMATE
from tocsin.consumers.metric_series import parts_of, rows_of
from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core.cloudevents import LINES
from tocsin.core.events import Label, Prediction
from tocsin.core.metric_row import MetricRow, decode
from tocsin.core.metric_row import encode as row_encode
from tocsin.core.wire import encode

START = datetime(2026, 1, 1, 5, tzinfo=UTC)
PARTITION = Partition("t", 0)
DAY = timedelta(days=1)


class Log:
    """Predictions of ten days, and labels of most of them: shuffled, some twice, some corrected."""

    def __init__(self, seed: int, kind: str, count: int = 1500) -> None:
        rng = self.rng = np.random.default_rng(seed)
        self.kind = kind
        self.rows: list[dict[str, Any]] = []
        events: list[tuple[float, bytes]] = []
        for i in range(count):
            row = self.row(i, i / count * 10)
            self.rows.append(row)
            time = START + row["day"] * DAY
            events.append(
                (
                    row["day"],
                    encode(Prediction(prediction_id=str(i), model="m", time=time, **row["event"])),
                )
            )
            if rng.random() > 0.8:
                row["label"] = None
                continue
            seen = row["day"] + float(rng.exponential(3))
            wrong = self.row(i, 0)["label"]
            revisions = [wrong, row["label"]] if rng.random() < 0.1 else [row["label"]]
            for revision, label in enumerate(revisions):
                for copy in range(2 if rng.random() < 0.1 else 1):
                    when = seen + 2 * revision + copy * 0.01
                    observed = START + when * DAY
                    told = Label(
                        prediction_id=str(i),
                        model="m",
                        label=label,
                        observed_at=observed,
                        revision=revision,
                    )
                    events.append((when + float(rng.exponential(1)), encode(told)))
        self.lines = [line for _, line in sorted(events, key=lambda one: one[0])]

    def row(self, i: int, day: float) -> dict[str, Any]:
        rng = self.rng
        segments = (
            {"sex": str(rng.choice(["F", "M"])), "age": str(rng.integers(3))}
            if rng.random() < 0.9
            else None
        )
        event: dict[str, Any] = {"segments": segments, "version": "2" if day > 5 else "1"}
        label: Any
        if self.kind == "binary":
            score = float(rng.random())
            event |= {"prediction": score > 0.4, "scores": {"1": score, "0": 1 - score}}
            label = int(rng.random() < score)
        elif self.kind == "classes":
            logits = rng.normal(size=4)
            label = int((logits + rng.normal(size=4)).argmax())
            event |= {"prediction": int(logits.argmax()), "logits": logits.tolist()}
        elif self.kind == "words":
            event |= {"prediction": str(rng.choice(["cat", "dog"]))}
            label = (
                event["prediction"]
                if rng.random() < 0.8
                else str(rng.choice(["cat", "dog", "cow"]))
            )
        else:
            value = float(rng.normal() * 100)
            event |= {"prediction": value}
            label = value + float(rng.normal())
        return {"event": event, "day": day, "label": label}

    def records(self, lines: Sequence[bytes] | None = None) -> list[PlainRecord]:
        lines, headers = lines or self.lines, [("content-type", LINES.encode())]
        return [
            PlainRecord(
                k, int((START + 365 * DAY).timestamp() * 1e9), b"m", b"\n".join(part), headers
            )
            for k, part in enumerate(lines[i : i + 7] for i in range(0, len(lines), 7))
        ]

    def of(self, span: int, group: str) -> list[dict[str, Any]]:
        """Return the rows of a day and group."""

        def has(row: dict[str, Any]) -> bool:
            named = {**(row["event"]["segments"] or {}), "version": row["event"]["version"]}
            return all(
                named.get(part.split("=")[0]) == part.split("=")[1] for part in group.split()
            )

        first = (START + span * DAY).replace(hour=0)
        return [
            row for row in self.rows if first <= START + row["day"] * DAY < first + DAY and has(row)
        ]


def run(
    records: Sequence[PlainRecord],
    cuts: Sequence[int],
    *,
    restarts: bool = False,
    **performance: Any,
) -> dict[str, MetricRow]:
    """Return the cohorts of the series after all records, taken in at these cuts."""
    series = everything(records, cuts, restarts=restarts, **performance)
    return {name: row for name, row in series.items() if not row.window}


def everything(
    records: Sequence[PlainRecord],
    cuts: Sequence[int],
    *,
    restarts: bool = False,
    bias: Sequence[str] = (),
    **performance: Any,
) -> dict[str, MetricRow]:
    """Return the series with the windows."""
    segments = ["sex", "age", "version", "sex*age"]
    settings = ModelSettings(
        performance={
            "segments": segments,
            "close_after": "5d",
            "calibration_pairs": 300,
            **performance,
        },
        labels={"window": "90d"},
        bias={"segments": list(bias)},
    )

    def fresh() -> PartitionPipeline:
        return PartitionPipeline(PARTITION, lambda _: settings)

    pipeline, stored, series = fresh(), {}, {}

    def commit() -> None:
        stored.update(pipeline.dirty())
        series.update(pipeline.series().get("m", {}))

    for begin, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
        pipeline.process(Records.of(PARTITION, records[begin:end]))
        commit()
        if restarts:
            position, pipeline = pipeline.position, fresh()
            kept = {name: state for name, state in stored.items() if state is not None}
            assert pipeline.restore(position, kept) == []
    while pipeline.is_behind:
        commit()
    return {name: decode(row) for name, row in series.items() if row is not None}


@pytest.mark.parametrize("kind", ["binary", "classes", "words", "numbers"])
def test_every_cohort_and_group_is_what_scikit_learn_says_of_its_pairs(kind: str) -> None:
    log = Log(1, kind)
    records = log.records()
    series = run(
        records, sorted(log.rng.choice(np.arange(1, len(records)), 9, replace=False).tolist())
    )
    groups = {row.group for row in series.values()}
    assert groups == {
        "", "sex=F", "sex=M", "age=0", "age=1", "age=2", "version=1", "version=2",
        *(f"sex={s} age={a}" for s in "FM" for a in range(3)),
    }  # fmt: skip
    told = 0
    for row in series.values():
        span = (datetime.fromisoformat(row.begin).date() - START.date()).days
        rows = log.of(span, row.group)
        pairs = [one for one in rows if one["label"] is not None]
        assert (row.predictions, row.labels) == (len(rows), len(pairs))
        expected = truth(kind, pairs)
        told += len(expected)
        for name, value in expected.items():
            metric = row.metrics[name]
            assert abs(metric[0] - value) <= metric[3] + 1e-9, (name, row.begin, row.group)
    assert told > 250


def truth(kind: str, pairs: list[dict[str, Any]]) -> dict[str, float]:
    if not pairs:
        return {}
    label = [pair["label"] for pair in pairs]
    predicted = [pair["event"]["prediction"] for pair in pairs]
    if kind == "numbers":
        return {
            "mae": reference.mean_absolute_error(label, predicted),
            "rmse": reference.root_mean_squared_error(label, predicted),
        }
    found = {"accuracy": float(np.mean([a == b for a, b in zip(label, predicted, strict=True)]))}
    if kind == "binary":
        score = [pair["event"]["scores"]["1"] for pair in pairs]
        found["brier"] = float(np.mean((np.array(score) - label) ** 2))
        if any(label):
            found["recall"] = reference.recall_score(label, predicted, zero_division=0)
            if not all(label):
                found["roc_auc"] = reference.roc_auc_score(label, score)
    else:
        seen = sorted({*label, *predicted})
        found["f1:macro"] = reference.f1_score(
            label, predicted, labels=seen, average="macro", zero_division=np.nan
        )
    if kind == "classes":
        logits = np.array([pair["event"]["logits"] for pair in pairs])
        scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        found["log_loss"] = reference.log_loss(label, scores, labels=range(4))
    return found


@pytest.mark.parametrize("kind", ["binary", "words"])
def test_cuts_and_restarts_change_nothing_in_the_series(kind: str) -> None:
    log = Log(2, kind, 600)
    records = log.records()
    expected = everything(records, [])
    every = list(range(1, len(records)))
    assert everything(records, every) == expected
    assert everything(records, every[::11], restarts=True) == expected


def test_a_cohort_is_closed_by_age_or_coverage_and_says_what_changed_afterwards() -> None:
    series = run(Log(3, "binary").records(), [])
    rows = [row for row in series.values() if not row.group]
    assert [row.closed for row in sorted(rows, key=lambda row: row.begin)] == [True] * 5 + [
        False
    ] * 6
    assert sum(row.revised for row in rows) > 10
    assert rows[0].begin == "2026-01-01T00:00:00+00:00"
    assert rows[0].end == "2026-01-02T00:00:00+00:00"


def test_a_mature_prediction_without_a_label_is_negative_where_that_is_the_rule() -> None:
    log = Log(4, "binary")
    rows = run(log.records(), [], maturity="6d", unlabelled="negative").values()
    mature = [row for row in rows if row.begin < "2026-01-05"]
    assert len(mature) > 30
    for row in mature:
        span = (datetime.fromisoformat(row.begin).date() - START.date()).days
        of = log.of(span, row.group)
        told = np.array([bool(one["label"]) for one in of])  # a missing one is none
        said = np.array([one["event"]["prediction"] for one in of])
        expected = {
            "accuracy": (told == said).mean(),
            "precision": (told & said).sum() / said.sum() if said.any() else None,
            "recall": (told & said).sum() / told.sum() if told.any() else None,
        }
        found = {name: row.metrics[name][0] if name in row.metrics else None for name in expected}
        assert found == pytest.approx(expected)


def test_young_cohorts_are_told_as_they_will_be_and_others_as_they_are() -> None:
    """Positives come late: of what has come too few are positive."""
    log = Log(5, "binary", 6000)
    rows = [row for row in run(log.records(), [], maturity="8d").values() if not row.group]
    assert sum(bool(row.corrected) for row in rows) >= 8
    for row in rows:
        for name, metric in row.corrected.items():
            assert metric[1] <= metric[0] <= metric[2]
            if row.begin < "2026-01-02":  # all labels have come
                assert metric[0] == pytest.approx(row.metrics[name][0], abs=0.03)
    none = run(log.records()[:300], [], maturity="8d")
    assert not any(row.corrected for row in none.values())  # no cohort has matured


def test_scores_tell_what_metrics_will_be_before_labels_come() -> None:
    log = Log(6, "binary", 6000)
    rows = [row for row in run(log.records(), []).values() if row.group in ("", "sex=F")]
    late = [row for row in rows if row.begin > "2026-01-05"]
    assert len(late) > 8
    errors = []
    for row in late:
        span = (datetime.fromisoformat(row.begin).date() - START.date()).days
        pairs = [one for one in log.of(span, row.group) if one["label"] is not None]
        for name, value in truth("binary", pairs).items():
            errors.append(abs(row.estimated[name][0] - value))
            assert row.estimated[name][1] <= row.estimated[name][0] <= row.estimated[name][2]
    assert np.mean(errors) < 0.03
    assert not any(row.estimated for row in rows if row.begin < "2026-01-01T12")


def test_scores_that_promise_too_much_raise_an_alert_although_accuracy_stays() -> None:
    rng = np.random.default_rng(0)
    lines = []
    for i in range(9000):
        score = float(rng.random())
        label = int(rng.random() < score)
        if i >= 6000:
            label, score = int((score > 0.5) == (rng.random() < 0.75)), 0.05 + 0.9 * (score > 0.5)
        time = START + timedelta(seconds=i)
        event = Prediction(
            prediction_id=str(i), model="m", time=time, prediction=int(score > 0.5),
            scores={"1": score}, label=label,
        )  # fmt: skip
        lines.append(encode(event))
    headers = [("content-type", LINES.encode())]
    records = [
        PlainRecord(k, int(START.timestamp() * 1e9) + 10**13, b"m", b"\n".join(lines[i : i + 100]), headers)
        for k, i in enumerate(range(0, 9000, 100))
    ]  # fmt: skip
    pipeline = PartitionPipeline(PARTITION, lambda _: ModelSettings())
    alerts = pipeline.process(Records.of(PARTITION, records)).alerts
    assert not [alert for alert in alerts if alert.offset < 60]
    told = {alert.subject: alert.summary for alert in alerts if alert.state == "firing"}
    assert "accuracy as estimated from scores, less accuracy: " in told[ESTIMATE]
    assert "error" not in told


def halves(log: Log) -> list[list[PlainRecord]]:
    """Return the records of two partitions: each prediction and its labels in one of them."""
    parts: list[list[bytes]] = [[], []]
    for line in log.lines:
        found = re.search(rb'"prediction_id":"(\d+)"', line)
        assert found
        parts[int(found[1]) * 7 % 11 % 2].append(line)
    return [log.records(lines) for lines in parts]


def in_redis(series: Sequence[dict[str, MetricRow]]) -> dict[bytes, bytes]:
    return {
        f"{number}|{name}".encode(): row_encode(row)
        for number, of in enumerate(series)
        for name, row in of.items()
    }


@pytest.mark.parametrize("kind", ["binary", "classes", "words", "numbers"])
def test_rows_of_two_partitions_are_those_of_one_that_had_all_events(kind: str) -> None:
    log = Log(7, kind, 900)
    one = everything(log.records(), [], bias=["sex"])
    two = [everything(records, [], bias=["sex"]) for records in halves(log)]
    compared = 0
    for window in (False, True):
        expected = rows_of(parts_of(in_redis([one])), window=window)
        found = rows_of(parts_of(in_redis(two)), window=window)
        assert len(found) == len(expected)
        for merged, whole in zip(found, expected, strict=True):
            for name in ("environment", "group", "begin", "end", "predictions", "labels",
                         "label_coverage_ratio", "revised", "positive", "metrics", "window", "counts"):  # fmt: skip
                assert getattr(merged, name) == getattr(whole, name), (
                    name,
                    whole.group,
                    whole.begin,
                )
            assert merged.closed <= whole.closed
            compared += len(whole.metrics)
    assert compared > 400
    if kind == "binary":
        assert {"sex=F|M", "sex=M|F"} & {row.group for row in found}


def test_what_scores_and_late_labels_say_of_two_partitions_is_about_what_it_is_of_one() -> None:
    log = Log(8, "binary", 5000)
    settings: dict[str, Any] = {"positive": "1", "maturity": "6d"}
    one = everything(log.records(), [], **settings)
    two = [everything(records, [], **settings) for records in halves(log)]
    expected = {row.begin: row for row in rows_of(parts_of(in_redis([one]))) if not row.group}
    compared = 0
    for row in rows_of(parts_of(in_redis(two))):
        if row.group:
            continue
        whole = expected[row.begin]
        if row.begin > "2026-01-05":  # every partition has learned what scores mean
            assert set(row.estimated) == set(whole.estimated)
        for kind, off in (("estimated", 0.06), ("corrected", 0.06)):
            for name in getattr(row, kind).keys() & getattr(whole, kind).keys():
                value, low, high, _ = getattr(row, kind)[name]
                other, at, to, _ = getattr(whole, kind)[name]
                assert value == pytest.approx(other, abs=off), (name, row.begin)
                assert low <= value <= high
                assert 0.6 * (to - at) - 0.01 < high - low < 2 * (to - at) + 0.02, (name, row.begin)
                compared += 1
    assert compared > 100


@pytest.mark.parametrize("kind", ["binary", "numbers"])
def test_a_window_is_what_scikit_learn_says_of_the_pairs_of_its_days(kind: str) -> None:
    log = Log(9, kind)
    series = everything(log.records(), [400], window="3d")
    windows = {name: row for name, row in series.items() if row.window}
    assert len(windows) == len({row.group for row in series.values()}) - 1  # version 1 has gone
    for name, row in windows.items():
        assert name == f"production|window|{row.group}"
        assert (row.begin[:10], row.end[:10]) == ("2026-01-09", "2026-01-12")
        rows = [one for span in (8, 9, 10) for one in log.of(span, row.group)]
        pairs = [one for one in rows if one["label"] is not None]
        assert (row.predictions, row.labels) == (len(rows), len(pairs))
        for metric, value in truth(kind, pairs).items():
            found = row.metrics[metric]
            assert abs(found[0] - value) <= found[3] + 1e-9, (metric, row.group)
            assert found[1] <= found[0] <= found[2]
        cohorts = [one for one in series.values() if not one.window and one.group == row.group]
        inside = [one for one in cohorts if one.begin >= row.begin]
        assert row.revised == sum(one.revised for one in inside)
        assert row.closed == all(one.closed for one in inside)


def test_a_window_without_labels_or_of_one_class_is_unknown_and_no_zero() -> None:
    log = Log(10, "binary", 300)
    predictions = [line for line in log.lines if b'"type":"label"' not in line]
    windows = [row for row in everything(log.records(predictions), []).values() if row.window]
    assert windows
    assert all((row.labels, row.metrics) == (0, {}) for row in windows)
    lines = [line.replace(b'"label":1', b'"label":0') for line in log.lines]
    (row,) = [
        row for row in everything(log.records(lines), []).values() if row.window and not row.group
    ]
    assert row.labels > 100
    assert row.metrics["specificity"][0] > 0.2
    assert not {"recall", "roc_auc", "average_precision"} & set(row.metrics)


def test_groups_that_change_all_the_time_hold_up_no_window() -> None:
    log = Log(11, "binary", 1500)
    settings = ModelSettings(performance={"segments": ["sex", "age", "version", "sex*age"]})
    pipeline = PartitionPipeline(PARTITION, lambda _: settings)
    written: dict[str, int] = {}
    for turn, record in enumerate(log.records()):
        pipeline.process(Records.of(PARTITION, [record]))
        pipeline.dirty()
        for name in pipeline.series().get("m", {}):
            written[name] = turn
    last = max(written.values())
    now = [name for name, turn in written.items() if turn > last - 20]
    assert sum("|window|" in name for name in now) == 14
    assert sum("|2026-01-11" in name for name in now) > 8
