"""Leaks that come up in a log become alerts and rows of the series, however the log is cut; none where nothing leaks."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tocsin.cli import reference
from tocsin.consumers.metric_series import parts_of, rows_of
from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core.alert import Alert
from tocsin.core.cloudevents import LINES
from tocsin.core.errors import ConfigError
from tocsin.core.events import Label, Prediction
from tocsin.core.metric_row import MetricRow, decode
from tocsin.core.metric_row import encode as row_encode
from tocsin.core.wire import encode
from tocsin.producers.files import Columns

START = datetime(2026, 1, 1, tzinfo=UTC)
PARTITION = Partition("t", 0)
FEATURES = 40
LEAK_AT = 3_500


def rows(seed: int, count: int, leak: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return features and labels; from row 3,500 on some feature leaks."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, FEATURES))
    weights = np.where(np.arange(FEATURES) % 4 == 0, 0.5, 0)
    y = rng.random(count) < 1 / (1 + np.exp(-x @ weights))
    made = []
    for i in range(count):
        features: dict[str, Any] = {f"x{k}": float(v) for k, v in enumerate(x[i])}
        features["place"] = str(rng.choice(["inn", "club", "yard"]))
        features["seen_at"] = (START + timedelta(minutes=i) - timedelta(days=1)).timestamp()
        if i >= LEAK_AT:
            if leak == "number":
                features["x7"] = float(y[i] + 0.1 * rng.normal())
            elif leak == "text":
                features["place"] = "paid" if y[i] else "lost"
            elif leak == "time" and rng.random() < 0.3:
                features["seen_at"] += 200_000
        made.append(features)
    return made, ["paid" if one else "lost" for one in y]


def log(seed: int, count: int, leak: str, lag: int) -> list[PlainRecord]:
    features, labels = rows(seed, count, leak)
    rng = np.random.default_rng([seed, 1])
    due = np.arange(count) + (rng.integers(1, lag, count) if lag else 0)
    lines = []
    for i in range(count):
        at = START + timedelta(minutes=i)
        event: dict[str, Any] = {"prediction": str(rng.choice(["paid", "lost"]))}
        if not lag:
            event["label"] = labels[i]
        lines.append(
            encode(
                Prediction(prediction_id=str(i), model="m", time=at, features=features[i], **event)
            )
        )
        for of in np.flatnonzero(due == i).tolist() if lag else ():
            label = Label(prediction_id=str(of), model="m", label=labels[of], observed_at=at)
            lines.append(encode(label))
    return in_records(lines)


def in_records(lines: Sequence[bytes]) -> list[PlainRecord]:
    headers = [("content-type", LINES.encode())]
    time = int((START + timedelta(days=30)).timestamp() * 1e9)
    return [
        PlainRecord(k, time, b"m", b"\n".join(lines[i : i + 50]), headers)
        for k, i in enumerate(range(0, len(lines), 50))
    ]


class Run:
    """A pipeline over a log, its alerts about leaks and its series."""

    def __init__(
        self,
        records: list[PlainRecord],
        cuts: Sequence[int] = (),
        *,
        restarts: bool = False,
        **settings: Any,
    ) -> None:
        of = ModelSettings(drift=settings.pop("drift", {}), leakage=settings)
        pipeline = PartitionPipeline(PARTITION, lambda _: of)
        self.stored: dict[str, bytes] = {}
        self.alerts: list[Alert] = []
        self.series: dict[str, MetricRow] = {}
        for begin, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
            self.alerts += pipeline.process(Records.of(PARTITION, records[begin:end])).alerts
            for name, state in pipeline.dirty().items():
                self.stored.pop(name, None)
                if state is not None:
                    self.stored[name] = state
            self._write(pipeline)
            if restarts:
                position = pipeline.position
                pipeline = PartitionPipeline(PARTITION, lambda _: of)
                assert pipeline.restore(position, self.stored) == []
        while pipeline.is_behind:
            self._write(pipeline)
        assert "m" in pipeline._models
        self.alerts = [alert for alert in self.alerts if alert.kind == "leakage"]

    def _write(self, pipeline: PartitionPipeline) -> None:
        for of_model in pipeline.series().values():
            rows = ((name, decode(row)) for name, row in of_model.items() if row)
            self.series.update((name, row) for name, row in rows if not row.window)

    @property
    def firing(self) -> list[Alert]:
        return [alert for alert in self.alerts if alert.state == "firing"]


NAMES = {"number": "leak:x7", "text": "leak:place", "time": "leak:seen_at"}


@pytest.mark.parametrize("leak", NAMES)
@pytest.mark.parametrize("lag", [0, 700])
def test_a_leak_is_found_within_2_000_labels_and_named(leak: str, lag: int) -> None:
    (alert,) = Run(log(0, 5_600 + lag, leak, lag)).firing
    assert (alert.subject, alert.severity) == (NAMES[leak], "warning")
    name = NAMES[leak].partition(":")[2]
    assert alert.summary.startswith(f"{name}: ")
    assert alert.runbook.endswith("#leakage")
    assert alert.fingerprint
    minute = (alert.detected_at - START).total_seconds() / 60
    assert LEAK_AT < minute < LEAK_AT + 2_000 + lag
    if leak == "number":
        assert "in the reference" in alert.summary
        assert alert.statistic is not None
        assert alert.statistic > 0.9
        assert alert.started_at is not None


@pytest.mark.parametrize("lag", [0, 700])
def test_where_nothing_leaks_nothing_is_said(lag: int) -> None:
    assert Run(log(1, 6_000, "", lag)).alerts == []


def test_the_series_says_how_well_the_best_features_tell_the_label_and_which_times_are_later() -> (
    None
):
    records = log(2, 7_000, "number", 0)
    found = Run(records, range(20, len(records), 20))
    days = [row for row in found.series.values() if row.group == ""]
    told = {name for row in days for name in row.metrics if name.startswith("tells_label:")}
    assert "tells_label:x7" in told
    last = days[-1].metrics
    value, low, high, _ = last["tells_label:x7"]
    assert 0.9 < low <= value <= high <= 1
    for row in days:
        assert sum(name.startswith("tells_label:") for name in row.metrics) in (0, 5)
        if row.begin > "2026-01-02":
            assert row.metrics["feature_time_after_event"][0] == 0.0
    late = Run(log(2, 5_000, "time", 0))
    shares = [row.metrics["feature_time_after_event"] for row in late.series.values()]
    value, low, high, _ = shares[-1]
    assert low < 0.3 < high


def test_of_several_partitions_times_are_added_up_and_what_features_tell_is_weighed() -> None:
    runs = [Run(log(seed, 5_000, "time", 0)) for seed in (2, 3)]
    stored = {
        f"{number}|{name}".encode(): row_encode(row)
        for number, run in enumerate(runs)
        for name, row in run.series.items()
    }
    both = rows_of(parts_of(stored))
    parts = [sorted(run.series.values(), key=lambda row: row.begin) for run in runs]
    assert len(both) == len(parts[0]) == len(parts[1])
    told = 0
    for row, *of in zip(both, *parts, strict=True):
        share, low, high, _ = row.metrics["feature_time_after_event"]
        shares = [(one.metrics["feature_time_after_event"][0], one.predictions) for one in of]
        assert min(shares)[0] <= share <= max(shares)[0]
        assert low <= share <= high
        for name, (value, low, high, _) in row.metrics.items():
            if not name.startswith("tells_label:"):
                continue
            ones = [(one.metrics[name], one.labels) for one in of if name in one.metrics]
            total = sum(labels for _, labels in ones)
            assert value == pytest.approx(sum(m[0] * labels for m, labels in ones) / total)
            assert low <= value <= high
            widths = [m[2] - m[1] for m, _ in ones]
            assert high - low <= max(widths) + 1e-12
            if len(ones) == 2:
                assert high - low < 0.8 * max(widths)
                told += 1
    assert told > 5


@pytest.mark.parametrize("restarts", [False, True])
def test_cuts_and_restarts_change_nothing(restarts: bool) -> None:
    records = log(3, 5_600, "number", 900)
    expected = Run(records, rows=1_000)
    assert expected.firing
    cuts = np.sort(np.random.default_rng(4).choice(np.arange(1, len(records)), 12, replace=False))
    found = Run(records, cuts.tolist(), restarts=restarts, rows=1_000)
    assert found.alerts == expected.alerts
    own = ("leakage|", "leakage_windows", "leakage_times")
    for name, state in expected.stored.items():
        if name.partition("/")[2].startswith(own):
            assert found.stored[name] == state, name
    assert {n: row.metrics for n, row in found.series.items()} == {
        n: row.metrics for n, row in expected.series.items()
    }


def test_what_is_lost_is_told_and_lets_its_incidents_end() -> None:
    records = log(0, 5_600, "number", 0)
    found = Run(records)
    for name in ("0/leakage|m", "0/leakage_windows|m", "0/leakage_times|m", "0/leakage_sample|m"):
        whole, damaged = (PartitionPipeline(PARTITION, lambda _: ModelSettings()) for _ in "ab")
        assert whole.restore(len(records), found.stored) == []
        (lost,) = damaged.restore(len(records), found.stored | {name: found.stored[name][:-3]})
        assert lost.startswith("m: leakage: ")
        # What would settle it is gone.
        assert whole._models["m"]._series[0].incidents.due(100_000) is None
        assert damaged._models["m"]._series[0].incidents.due(100_000) is not None


def test_nothing_is_kept_where_it_is_not_wanted() -> None:
    found = Run(log(0, 4_600, "number", 0), enabled=False)
    assert found.alerts == []
    assert not any("leakage" in name for name in found.stored)


def trained(folder: Path) -> Path:
    """Return a reference that the command wrote of a file with labels."""
    features, labels = rows(9, 3_000, "")
    with (folder / "train.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [*features[0], "label"])
        table.writeheader()
        for row, label in zip(features, labels, strict=True):
            table.writerow(row | {"label": label})
    out = folder / "training.npz"
    reference.run(folder / "train.csv", out, Columns(label="label"), None, None)
    return out


def test_training_is_what_is_compared_with_where_it_is_known(tmp_path: Path) -> None:
    """A leak that was there from the first live label on, and is no equal of the label, is seen then only."""
    features, labels = rows(5, 2_500, "")
    rng = np.random.default_rng(6)
    lines = []
    for i, (row, label) in enumerate(zip(features, labels, strict=True)):
        is_wrong = rng.random() < 0.05
        row["x7"] = float((label == "paid") ^ is_wrong) + 0.1 * float(rng.normal())
        event = Prediction(
            prediction_id=str(i), model="m", time=START + timedelta(minutes=i), features=row, label=label
        )  # fmt: skip
        lines.append(encode(event))
    records = in_records(lines)
    assert Run(records).firing == []
    (alert,) = Run(records, drift={"reference": trained(tmp_path)}).firing
    assert alert.subject == "leak:x7"
    assert "more than in the reference" in alert.summary


def houses(seed: int, count: int, *, copy: bool = False) -> list[dict[str, Any]]:
    """Return houses whose area tells the price at 0.99, and 20 features that tell nothing; with a copy of the price, as a tax."""
    rng = np.random.default_rng(seed)
    price = rng.gamma(5, 60_000, count).round(2)
    area = price / 4_000 * rng.normal(1, 0.03, count)
    taxed = price if copy else rng.permutation(price)
    made = []
    for i in range(count):
        one: dict[str, Any] = {f"n{k}": float(v) for k, v in enumerate(rng.normal(size=20))}
        one |= {"area": float(area[i]), "label": float(price[i])}
        one["tax"] = round(float(taxed[i]) * 0.035)
        made.append(one)
    return made


def risks(seed: int, count: int, *, copy: bool = False) -> list[dict[str, Any]]:
    """Return loans of which a risk score tells at 0.99 what becomes of them; with a copy that is called otherwise."""
    rng = np.random.default_rng(seed)
    made = []
    for bad in (rng.random(count) < 0.3).tolist():
        one: dict[str, Any] = {f"n{k}": float(v) for k, v in enumerate(rng.normal(size=20))}
        one |= {"area": float(rng.normal(3.8 * bad)), "label": "lost" if bad else "paid"}
        one["tax"] = ("closed" if bad else "open") if copy else str(rng.choice(["open", "closed"]))
        made.append(one)
    return made


def reference_of(folder: Path, rows: list[dict[str, Any]]) -> Path:
    with (folder / "train.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    reference.run(folder / "train.csv", folder / "t.npz", Columns(label="label"), None, None)
    return folder / "t.npz"


def served(rows: list[dict[str, Any]]) -> list[PlainRecord]:
    lines = []
    for i, row in enumerate(rows):
        features = {name: value for name, value in row.items() if name != "label"}
        label = row["label"]
        event = Prediction(
            prediction_id=str(i), model="m", time=START + timedelta(minutes=i), features=features, label=label,
            prediction=label if isinstance(label, str) else label + 1,
        )  # fmt: skip
        lines.append(encode(event))
    return in_records(lines)


@pytest.mark.parametrize("make", [houses, risks])
def test_an_honest_feature_that_told_it_so_in_training_is_no_leak(
    make: Any, tmp_path: Path
) -> None:
    out = reference_of(tmp_path, make(0, 6_000))
    for seed in (1, 2):
        records = served(make(seed, 5_000))
        assert Run(records, drift={"reference": out}).alerts == []
    cuts = [13, 40, 41, 77]
    assert Run(records, cuts, restarts=True, drift={"reference": out}).alerts == []
    (alert,) = Run(records).firing  # nobody knows whether it was so in training
    assert alert.subject == "leak:area"
    assert "area: may be a leak, near the label: " in alert.summary
    assert "a drift.reference that was written with --label would settle it" in alert.summary


@pytest.mark.parametrize("make", [houses, risks])
def test_a_copy_of_the_label_is_named_although_training_had_it(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = reference_of(tmp_path, make(0, 6_000, copy=True))
    said = capsys.readouterr().out
    assert "  tax is the label or a copy of it in these rows: a leak" in said
    assert "area is" not in said
    records = served(make(1, 2_000, copy=True))
    for cuts in ([], [7, 19, 20, 33]):
        (alert,) = Run(records, cuts, restarts=True, drift={"reference": out}).firing
        assert alert.subject == "leak:tax"
        assert "tax: tells the label, as a copy of it: " in alert.summary
        assert alert.offset * 50 <= 1_000


@pytest.mark.parametrize("make", [houses, risks])
def test_a_copy_that_training_did_not_have_is_named_within_2_000_labels(
    make: Any, tmp_path: Path
) -> None:
    out = reference_of(tmp_path, make(0, 6_000))
    records = served(make(1, 3_300) + make(2, 2_000, copy=True))
    (alert,) = Run(records, drift={"reference": out}).firing
    assert alert.subject == "leak:tax"
    assert "more than in the reference" in alert.summary
    assert alert.offset * 50 <= 5_300


@pytest.mark.parametrize("make", [houses, risks])
def test_a_reference_of_numbers_of_any_size_is_written_without_a_warning(
    make: Any, tmp_path: Path
) -> None:
    table = make(0, 3_000)
    rng = np.random.default_rng(0)
    for row in table:
        row["said"] = row["label"]
        for name in ("n0", "area", "label", "said"):
            if rng.random() < 0.1:
                row[name] = rng.choice(["inf", "-inf", "nan", "1e308", "-1.7e308", "1" + "0" * 400])
    with (tmp_path / "train.csv").open("w", newline="") as file:
        of_file = csv.DictWriter(file, list(table[0]))
        of_file.writeheader()
        of_file.writerows(table)
    columns = Columns(label="label", prediction="said")
    assert reference.run(tmp_path / "train.csv", tmp_path / "t.npz", columns, None, None) == 0


def test_another_reference_than_before_begins_anew_and_says_so(tmp_path: Path) -> None:
    records = log(7, 1_200, "", 0)
    first = ModelSettings(drift={"reference": trained(tmp_path)})
    pipeline = PartitionPipeline(PARTITION, lambda _: first)
    pipeline.process(Records.of(PARTITION, records))
    stored = {name: state for name, state in pipeline.dirty().items() if state is not None}
    again = PartitionPipeline(PARTITION, lambda _: first)
    assert again.restore(pipeline.position, stored) == []
    other = PartitionPipeline(PARTITION, lambda _: ModelSettings())
    lost = other.restore(pipeline.position, stored)
    assert "m: leakage: drift.reference is another one than before" in lost


def test_a_part_of_a_reference_that_cannot_be_read_is_a_wrong_setting(tmp_path: Path) -> None:
    from tocsin.consumers import training_reference
    from tocsin.consumers.feature_leaks import FeatureLeaks
    from tocsin.consumers.training_labels import PART

    out = tmp_path / "broken.npz"
    values = {"feature:x": np.random.default_rng(0).normal(size=2_000)}
    training_reference.write(out, values, 2_000, parts={PART: b"no counts"})
    with pytest.raises(ConfigError, match=r"broken\.npz: write it anew with `tocsin reference`"):
        FeatureLeaks("m", ModelSettings(drift={"reference": out}))
