"""Rows of training among those that are served, and losses beside those of training: from a file to the series and an alert."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from tocsin.cli.commands import app
from tocsin.consumers import row_counts, training_reference, training_rows
from tocsin.consumers.metric_series import parts_of, rows_of
from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.consumers.settings import Settings
from tocsin.core.alert import Alert
from tocsin.core.cloudevents import LINES
from tocsin.core.errors import ConfigError, StateError
from tocsin.core.events import Label, Prediction
from tocsin.core.metric_row import MetricRow, decode
from tocsin.core.metric_row import encode as row_encode
from tocsin.core.wire import encode

pytestmark = pytest.mark.xdist_group("leakage")

START = datetime(2026, 1, 1, tzinfo=UTC)
PARTITION = Partition("t", 0)
COUNT = 6000
Row = dict[str, Any]


def run(*arguments: object) -> Any:
    return app([str(argument) for argument in arguments], result_action="return_value")


def rows(seed: int, count: int) -> list[Row]:
    """Return rows as a model was trained on; each with an embedding, and a score of its label that is too good."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        label = int(rng.random() < 0.4)
        features = {
            "age": round(float(rng.normal(50, 12)), 1), "dose": float(rng.lognormal()),
            "weight": round(float(rng.normal(75, 9)), 2), "ward": "abcd"[int(rng.integers(4))],
        }  # fmt: skip
        found.append(
            {"features": features, "label": label, "embedding": rng.normal(size=12).tolist()}
        )
    return found


TRAIN = rows(0, 5000)
FRESH = rows(1, COUNT)


def scored(row: Row, seed: int, good: float) -> Row:
    """Return a row with a score of 1 that is about right, and the answer that follows."""
    rng = np.random.default_rng(seed)
    right = float(rng.beta(good, 1))
    score = right if row["label"] else 1 - right
    return {**row, "scores": {"1": score, "0": 1 - score}, "prediction": int(score > 0.5)}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    lines = [
        msgspec.json.encode({"type": "prediction", "prediction_id": str(i), **scored(row, i, 8.0)})
        for i, row in enumerate(TRAIN)
    ]
    (folder / "train.jsonl").write_bytes(b"\n".join(lines))
    assert run("reference", folder / "train.jsonl", folder / "train.npz") == 0
    return folder / "train.npz"


def rounded(row: Row) -> Row:
    features = {
        name: float(f"{value:.3g}") if isinstance(value, float) else value
        for name, value in row["features"].items()
    }
    return {**row, "features": features, "embedding": np.float16(row["embedding"]).tolist()}


def planted(kind: str, every: int = 20, begin: int = 0) -> list[Row]:
    """Return what is served: fresh rows, from `begin` on one in twenty of them a row of training."""
    found = list(FRESH)
    for i in range(begin, COUNT, every):
        twin = TRAIN[(i * 7) % len(TRAIN)]
        found[i] = rounded(twin) if kind == "rounded" else twin
    return found


def log(served: list[Row], good: float = 8.0, *, wrong: int = 0) -> list[bytes]:
    """Return predictions of six days, each with its label after a while; the first `wrong` labels are corrected later."""
    lines = []
    for i, row in enumerate(served):
        time = START + timedelta(days=6 * i / len(served))
        event = {k: v for k, v in scored(row, 10_000 + i, good).items() if k != "label"}
        segments = {"half": "ab"[i % 2]}
        told = encode(
            Prediction(prediction_id=str(i), model="m", time=time, segments=segments, **event)
        )
        lines += [told] * (2 if i % 50 == 0 else 1)  # some are sent twice
        first = 1 - row["label"] if i < wrong else row["label"]
        for revision, label in enumerate([first, row["label"]] if i < wrong else [first]):
            lines.append(
                encode(
                    Label(
                        prediction_id=str(i), model="m", label=label, revision=revision,
                        observed_at=time + timedelta(hours=1 + revision),
                    )
                )
            )  # fmt: skip
    return lines


class Run:
    """A worker's partition, its store and its series."""

    def __init__(self, reference: Path | None, **drift: Any) -> None:
        settings = ModelSettings(
            drift={"reference": reference, "embeddings": False, **drift},
            performance={"segments": ["half"]},
        )
        self._settings = settings
        self.stored: dict[str, bytes] = {}
        self.rows: dict[str, MetricRow] = {}
        self.alerts: list[Alert] = []
        self.lost: list[str] = []
        self.pipeline = self.fresh()

    def fresh(self) -> PartitionPipeline:
        return PartitionPipeline(PARTITION, lambda _: self._settings)

    def take(self, lines: Sequence[bytes], offset: int) -> None:
        headers = [("content-type", LINES.encode())]
        record = PlainRecord(
            offset,
            int((START + timedelta(days=7)).timestamp() * 1e9),
            b"m",
            b"\n".join(lines),
            headers,
        )
        out = self.pipeline.process(Records.of(PARTITION, [record]))
        assert not out.dead_letters
        self.alerts += out.alerts
        for name, state in self.pipeline.dirty().items():
            if state is None:
                self.stored.pop(name, None)
            else:
                self.stored[name] = state
        while self.pipeline.is_behind:
            for name, told in self.pipeline.series().get("m", {}).items():
                if told is None:
                    del self.rows[name]
                else:
                    self.rows[name] = decode(told)

    def restart(self, **drift: Path | None) -> None:
        """Take up again what is stored, with other settings of drift."""
        update = {"drift": self._settings.drift.model_copy(update=drift)}
        self._settings = self._settings.model_copy(update=update)
        position = self.pipeline.position
        self.pipeline = self.fresh()
        self.lost += self.pipeline.restore(position, dict(self.stored))

    def all(self, lines: Sequence[bytes], at_once: int = 900, restart: int = -1) -> Run:
        for number, begin in enumerate(range(0, len(lines), at_once)):
            if number == restart:
                self.restart()
            self.take(lines[begin : begin + at_once], number)
        return self

    def metric(self, name: str, group: str = "") -> list[tuple[float, float, float, float]]:
        found = [row for row in self.rows.values() if row.group == group and not row.window]
        return [row.metrics[name] for row in sorted(found, key=lambda row: row.begin)]

    @property
    def leaks(self) -> list[Alert]:
        return [alert for alert in self.alerts if alert.kind == "leakage"]


def test_planted_rows_are_counted_by_day_and_group_and_twice_sent_ones_once(
    reference: Path,
) -> None:
    found = Run(reference).all(log(planted("as it is")))
    assert len(found.rows) == (6 + 1) * 3  # and the windows
    for kind in ("exact", "near", "embedding"):
        for value, low, high, _ in found.metric(f"served_from_training:{kind}"):
            assert value == pytest.approx(0.05, abs=0.002)
            assert low <= 0.05 <= high
        for value, *_ in found.metric(f"served_from_training:{kind}", "half=a"):
            assert value == pytest.approx(0.1, abs=0.004)  # every twentieth is in one half
        assert all(v == 0 for v, *_ in found.metric(f"served_from_training:{kind}", "half=b"))


def test_rounded_rows_are_near_ones_and_embeddings_say_the_same(reference: Path) -> None:
    found = Run(reference).all(log(planted("rounded")))
    assert all(v == 0 for v, *_ in found.metric("served_from_training:exact"))
    for kind in ("near", "embedding"):
        rates = [value for value, *_ in found.metric(f"served_from_training:{kind}")]
        assert rates == pytest.approx([0.05] * 6, abs=0.003)


def test_without_planting_there_is_none_and_no_alert(reference: Path) -> None:
    found = Run(reference).all(log(FRESH))
    for kind in ("exact", "near", "embedding"):
        assert all(v == 0 for v, *_ in found.metric(f"served_from_training:{kind}"))
    assert not found.leaks


def test_a_leak_that_begins_is_an_alert_of_its_kind(reference: Path) -> None:
    found = Run(reference).all(log(planted("as it is", every=5, begin=4000)))
    firing = [alert for alert in found.leaks if alert.state == "firing"]
    assert firing
    (alert,) = firing[:1]
    assert alert.subject.startswith("served_from_training:")
    assert alert.severity == "warning"
    assert "rows of training" in alert.summary
    assert alert.runbook.endswith("#leakage")
    day = alert.detected_at - START
    assert timedelta(days=4) < day < timedelta(days=5)


def test_however_the_log_is_cut_and_taken_up_again_the_rows_are_the_same(reference: Path) -> None:
    lines = log(planted("rounded"), wrong=300)
    whole = Run(reference).all(lines, 100_000)
    parts = Run(reference).all(lines, 333, restart=17)
    assert parts.lost == []
    assert parts.rows == whole.rows
    assert [alert.id for alert in parts.alerts] == [
        alert.id for alert in Run(reference).all(lines, 333).alerts
    ]


def test_corrected_labels_count_as_they_are_in_the_end(reference: Path) -> None:
    plain, corrected = (Run(reference).all(log(FRESH, wrong=wrong)) for wrong in (0, 500))
    assert plain.metric("data_leakage_rate") == corrected.metric("data_leakage_rate")


def test_exposure_is_the_advantage_of_who_knows_losses(reference: Path) -> None:
    """Yeom's attack by hand: members' mean loss as threshold, shares at or below it."""
    members = [scored(row, i, 8.0) for i, row in enumerate(TRAIN)]
    for good, least in ((8.0, None), (2.0, 0.3)):
        found = Run(reference).all(log(FRESH, good))
        served = [scored(row, 10_000 + i, good) for i, row in enumerate(FRESH)]
        ours, theirs = (
            np.array([-np.log(row["scores"][str(row["label"])]) for row in rows])
            for rows in (members, served)
        )
        expected = [
            (ours <= ours.mean()).mean() - (day <= ours.mean()).mean()
            for day in np.array_split(theirs, 6)
        ]
        told = found.metric("data_leakage_rate")
        assert [value for value, *_ in told] == pytest.approx(expected, abs=1e-9)
        assert all(low <= value <= high for value, low, high, _ in told)
        if least is None:
            assert sum(low <= 0 <= high for _, low, high, _ in told) >= 5
        else:
            assert all(low > least for _, low, _, _ in told)


def test_rows_that_lack_a_feature_are_not_looked_up_and_other_columns_are_no_matter(
    reference: Path,
) -> None:
    def changed(row: Row, i: int) -> Row:
        features = dict(row["features"])
        if i % 2:
            del features["weight"]
        return {**row, "features": {"more": 1.0, **dict(reversed(features.items()))}}

    served = [changed(row, i) for i, row in enumerate(planted("as it is"))]
    found = Run(reference).all(log(served))
    # Planted rows are among those that have all features: one in ten of these.
    rates = [value for value, *_ in found.metric("served_from_training:exact")]
    assert rates == pytest.approx([0.1] * 6, abs=0.004)
    assert all(
        "served_from_training:exact" not in row.metrics
        for row in found.rows.values()
        if row.group == "half=b"
    )


def test_predictions_of_a_training_loop_are_not_served(reference: Path) -> None:
    monitor = Run(reference)
    lines = [
        encode(
            Prediction(
                prediction_id=str(i), model="m", time=START, features=row["features"],
                environment="training",
            )
        )
        for i, row in enumerate(TRAIN[:2000])
    ]  # fmt: skip
    monitor.all(lines)
    assert not monitor.leaks
    assert all(not row.metrics for row in monitor.rows.values())


def test_a_file_without_fingerprints_tells_losses_alone(reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "plain.npz"
    train = reference.parent / "train.jsonl"
    assert run("reference", train, out, "--without-fingerprints") == 0
    of_rows = set(training_rows.read(reference).parts())
    assert "losses" in of_rows
    assert of_rows & set(training_reference.read(out).parts) == {"losses"}
    found = Run(out).all(log(planted("as it is"))[:3000])
    names = {name for row in found.rows.values() for name in row.metrics}
    assert "data_leakage_rate" in names
    assert not any(name.startswith("served_from_training") for name in names)


def test_another_reference_begins_to_count_anew_and_none_deletes_what_was_counted(
    reference: Path, tmp_path: Path
) -> None:
    train, other = tmp_path / "other.jsonl", tmp_path / "other.npz"
    lines = [
        msgspec.json.encode({"type": "prediction", "prediction_id": str(i), **scored(row, i, 8.0)})
        for i, row in enumerate(rows(5, 3000))
    ]
    train.write_bytes(b"\n".join(lines))
    assert run("reference", train, other) == 0
    served = log(planted("as it is"))
    half = len(served) // 2
    found = Run(reference)
    found.take(served[:half], 0)
    assert any("/served" in name for name in found.stored)
    found.restart(reference=other)
    found.take(served[half:], 1)
    rates = [row.metrics.get("served_from_training:exact") for row in found.rows.values()]
    known = [rate for rate in rates if rate is not None]
    assert 9 <= len(known) <= 12  # what was counted against the first file in three days is gone
    assert all(value == 0 for value, *_ in known)  # none of the other file's rows is served
    found.restart(reference=None)
    found.take(served[-100:], 2)
    assert not any("/served" in name for name in found.stored)
    assert not any("served_from_training:exact" in row.metrics for row in found.rows.values())


def test_a_damaged_part_is_told_at_start(reference: Path, tmp_path: Path) -> None:
    of_rows = training_rows.read(reference).parts()
    assert of_rows
    for name, part in of_rows.items():
        file = tmp_path / f"{name}.npz"
        damaged = part[:-2] + bytes([part[-2] ^ 1, part[-1]])
        training_reference.write(
            file, {"feature:age": np.arange(2000.0)}, 2000, parts={name: damaged}
        )
        with pytest.raises(ConfigError, match="training rows is damaged"):
            training_rows.read(file)
        settings = Settings(defaults={"drift": {"reference": str(file)}})
        with pytest.raises(ConfigError, match="tocsin reference"):
            training_rows.check([settings.defaults.drift])


def test_damaged_counts_begin_clean(reference: Path) -> None:
    served = log(planted("as it is"))
    found = Run(reference)
    found.take(served[:6000], 0)
    name = next(name for name in found.stored if "/served:" in name)
    found.stored[name] = found.stored[name][:-3]
    found.restart()
    assert [lost for lost in found.lost if "performance" in lost]
    found.take(served[6000:], 1)
    assert found.metric("served_from_training:exact")[-1][0] == pytest.approx(0.05, abs=0.002)


def in_parts(lines: Sequence[bytes]) -> list[list[bytes]]:
    """Return the events of two partitions: each prediction and its labels in one of them."""
    parts: list[list[bytes]] = [[], []]
    for line in lines:
        found = re.search(rb'"prediction_id":"(\d+)"', line)
        assert found
        parts[int(found[1]) * 7 % 11 % 2].append(line)
    return parts


def merged(*runs: Run, window: bool = False) -> dict[tuple[str, str], MetricRow]:
    """Return what whoever looks reads of several partitions."""
    stored = {
        f"{number}|{name}".encode(): row_encode(row)
        for number, one in enumerate(runs)
        for name, row in one.rows.items()
    }
    return {(row.group, row.begin): row for row in rows_of(parts_of(stored), window=window)}


@pytest.mark.parametrize("window", [False, True])
def test_rows_of_two_partitions_leak_as_one_that_had_all_events(
    reference: Path, *, window: bool
) -> None:
    lines = log(planted("rounded"), wrong=300)
    whole = merged(Run(reference).all(lines), window=window)
    halves = [Run(reference).all(part) for part in in_parts(lines)]
    found = merged(*halves, window=window)
    assert found.keys() == whole.keys()
    for key, row in found.items():
        assert set(row.metrics) >= {
            "data_leakage_rate", *(f"served_from_training:{kind}" for kind in ("exact", "near", "embedding")),
        }  # fmt: skip
        for name in row.metrics.keys() | whole[key].metrics.keys():
            if not name.startswith("tells_label:"):
                assert row.metrics[name] == whole[key].metrics[name]


def test_a_partition_that_looked_rows_up_elsewhere_is_left_out(reference: Path) -> None:
    first, second = (Run(reference).all(part) for part in in_parts(log(planted("as it is"))))
    for name, row in second.rows.items():
        counts = row_counts.decode(row.counts)
        assert isinstance(counts, row_counts.RowCounts)
        served = {
            kind: replace(of, law=[9, *of.law[1:]], row=[of.row[0] // 3, *of.row[1:]])
            for kind, of in counts.served.items()
        }
        losses = [9, 3, counts.losses[2] // 3, 0]
        other = replace(counts, served=served, losses=losses)
        second.rows[name] = replace(row, counts=row_counts.encode(other))
    found = merged(first, second)
    for key, row in merged(first).items():
        names = [n for n in row.metrics if n.startswith(("served_from", "data_leakage"))]
        assert len(names) == 4
        assert {n: found[key].metrics[n] for n in names} == {n: row.metrics[n] for n in names}


@pytest.mark.parametrize("damage", ["parts", "served", "losses"])
def test_a_row_that_is_cut_short_is_unreadable(reference: Path, damage: str) -> None:
    runs = [Run(reference).all(part) for part in in_parts(log(FRESH[:900]))]
    for name, row in runs[1].rows.items():
        counts = row_counts.decode(row.counts)
        assert isinstance(counts, row_counts.RowCounts)
        near = counts.served["near"]
        short = {
            "parts": {"parts": counts.parts[:3]},
            "served": {"served": {"near": replace(near, row=near.row[:7])}},
            "losses": {"losses": counts.losses[:3]},
        }[damage]
        runs[1].rows[name] = replace(row, counts=row_counts.encode(replace(counts, **short)))
    with pytest.raises(StateError, match=r"unreadable row|not as it was written"):
        merged(*runs)
