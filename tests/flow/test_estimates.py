"""Performance without labels through the pipeline: models of two and of several classes, of numbers, and with training's estimates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tocsin.cli.commands import app
from tocsin.consumers import trained_estimates, training_reference
from tocsin.consumers.estimates import ESTIMATE, ESTIMATED_ERROR
from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core.alert import Alert
from tocsin.core.cloudevents import LINES
from tocsin.core.errors import ConfigError
from tocsin.core.events import Label, Prediction
from tocsin.core.metric_row import MetricRow, decode
from tocsin.core.snapshot import pack, unpack
from tocsin.core.wire import encode

START = datetime(2026, 1, 1, tzinfo=UTC)
PARTITION = Partition("t", 0)
CLASSES = ("cat", "cow", "dog")
DAY = timedelta(days=1)
Event = dict[str, Any]
Make = Callable[[np.random.Generator, float], Event]


def two(rng: np.random.Generator, done: float) -> Event:
    """The later, the surer; the score promises more than it keeps, as of a model seen on its own training rows."""
    score = float(rng.random())
    if done >= 0.5:
        score = (0.1 + 0.2 * score) if score < 0.5 else (0.7 + 0.2 * score)
    label = int(rng.random() < 0.1 + 0.8 * score)
    group = "F" if rng.random() < 0.3 + 0.5 * score else "M"
    return {"prediction": int(score > 0.5), "scores": {"1": score}, "label": label, "segments": {"sex": group}}  # fmt: skip


def several(rng: np.random.Generator, done: float) -> Event:
    """The later, the surer."""
    chance = rng.dirichlet([1.0, 1.5, 2.0] if done < 0.5 else [0.2, 0.3, 0.4])
    label = str(rng.choice(CLASSES, p=chance))
    scores = dict(zip(CLASSES, chance.tolist(), strict=True))
    said = CLASSES[int(chance.argmax())]
    return {"prediction": said, "scores": scores, "label": label, "segments": {"sex": "FM"[rng.integers(2)]}}  # fmt: skip


def numbers(rng: np.random.Generator, done: float) -> Event:
    """Errors grow with the prediction, and predictions later."""
    said = 40 * float(rng.beta(1.5, 1.5) if done < 0.5 else rng.beta(3.0, 1.2))
    label = said + float(rng.normal() * (0.5 + said / 5))
    group = "F" if rng.random() < 0.5 else "M"
    return {"prediction": said, "features": {"load": float(rng.random()), "noise": 0.5}, "label": label, "segments": {"sex": group}}  # fmt: skip


MAKE: dict[str, Make] = {"two": two, "several": several, "numbers": numbers}


class Log:
    """Predictions of ten days, the first half unlike the second; labels two days later, or with the prediction."""

    def __init__(self, make: Make, count: int, seed: int = 0, *, early: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.rows = [make(rng, i / count) for i in range(count)]
        timed: list[tuple[float, bytes]] = []
        for i, row in enumerate(self.rows):
            day = 10 * i / count
            event = Prediction(prediction_id=str(i), model="m", time=START + day * DAY, **row)
            if early:
                timed.append((day, encode(event)))
                continue
            without = {name: value for name, value in row.items() if name != "label"}
            event = Prediction(prediction_id=str(i), model="m", time=START + day * DAY, **without)
            timed.append((day, encode(event)))
            seen = day + 2 + float(rng.exponential(0.3))
            label = Label(
                prediction_id=str(i), model="m", label=row["label"], observed_at=START + seen * DAY
            )
            timed.append((seen, encode(label)))
        lines = [line for _, line in sorted(timed, key=lambda one: one[0])]
        headers = [("content-type", LINES.encode())]
        self.records = [
            PlainRecord(k, int((START + 30 * DAY).timestamp() * 1e9), b"m", b"\n".join(lines[i : i + 40]), headers)
            for k, i in enumerate(range(0, len(lines), 40))
        ]  # fmt: skip


def settings(
    reference: Path | None = None, positive: str | None = None, **more: Any
) -> ModelSettings:
    return ModelSettings(
        performance={"calibration_pairs": 1500, "segments": ["sex"], "positive": positive}, bias={"segments": ["sex"]},
        drift={"reference": reference}, **more,
    )  # fmt: skip


class Run:
    """What a log leads to, taken in at some cuts, and again from the store at each where it restarts."""

    def __init__(
        self, log: Log, of: ModelSettings, cuts: Sequence[int] = (), *, restarts: bool = False
    ) -> None:
        self.alerts: list[Alert] = []
        self.stored: dict[str, bytes] = {}
        series: dict[str, bytes | None] = {}
        pipeline = PartitionPipeline(PARTITION, lambda _: of)

        def commit() -> None:
            changed: dict[str, bytes | None] = {**self.stored, **pipeline.dirty()}
            self.stored = {name: state for name, state in changed.items() if state is not None}
            series.update(pipeline.series().get("m", {}))

        for begin, end in zip([0, *cuts], [*cuts, len(log.records)], strict=True):
            self.alerts += pipeline.process(Records.of(PARTITION, log.records[begin:end])).alerts
            commit()
            if restarts:
                position, pipeline = pipeline.position, PartitionPipeline(PARTITION, lambda _: of)
                assert pipeline.restore(position, self.stored) == []
        while pipeline.is_behind:
            commit()
        self.series = {name: decode(row) for name, row in series.items() if row is not None}

    def rows(self, group: str = "") -> list[MetricRow]:
        return sorted(
            (row for row in self.series.values() if row.group == group), key=lambda row: row.begin
        )


NAMES = {
    "two": {"accuracy": 0.04, "roc_auc": 0.04},
    "several": {"accuracy": 0.04, "recall:dog": 0.06, "f1:macro": 0.05},
    "numbers": {"mae": 0.4, "rmse": 0.7},
}


@pytest.mark.parametrize("kind", sorted(MAKE))
@pytest.mark.parametrize("group", ["", "sex=F"])
def test_estimates_of_each_cohort_are_near_what_it_turns_out_to_be(kind: str, group: str) -> None:
    """Also after inputs have moved, where what had been realised before is far off."""
    rows = Run(Log(MAKE[kind], 12_000), settings()).rows(group)
    assert not any(row.estimated for row in rows[:2])  # no labels yet
    late = rows[5:]
    for name, most in NAMES[kind].items():
        expected, came = (np.array([of[name][:3] for of in column]) for column in (
            [row.estimated for row in late], [row.metrics for row in late],
        ))  # fmt: skip
        assert (expected[:, 1] <= expected[:, 0]).all()
        assert (expected[:, 0] <= expected[:, 2]).all()
        off = np.abs(expected[:, 0] - came[:, 0]).mean()
        assert off < most, name
        moved = np.abs(rows[1].metrics[name][0] - came[:, 0]).mean()
        assert name == "roc_auc" or off < 0.6 * moved, name
    known = {key for row in late for key in row.metrics}
    assert {key for row in late for key in row.estimated} <= known  # under the same names


@pytest.mark.parametrize("kind", sorted(MAKE))
@pytest.mark.parametrize("early", [True, False])
def test_cuts_and_restarts_change_nothing(kind: str, early: bool) -> None:
    log = Log(MAKE[kind], 3000, seed=1, early=early)
    whole = Run(log, settings())
    assert any(row.estimated for row in whole.series.values())
    every = list(range(1, len(log.records)))
    for run in (
        Run(log, settings(), every),
        Run(log, settings(), every[::9], restarts=True),
    ):
        assert run.series == whole.series
        assert run.alerts == whole.alerts
        assert run.stored["0/cohorts|m"] == whole.stored["0/cohorts|m"]
        assert run.stored["0/series|m"] == whole.stored["0/series|m"]


def changed(make: Make) -> Make:
    """From the middle on what the model says means less, however it looks."""

    def made(rng: np.random.Generator, done: float) -> Event:
        row = make(rng, 0.0)
        if done >= 0.6 and isinstance(row["label"], float):
            error = row["label"] - row["prediction"]
            row["prediction"] *= 0.3
            row["label"] = row["prediction"] + error
        elif done >= 0.6 and rng.random() < 0.4:
            row["label"] = str(rng.choice(CLASSES))
        return row

    return made


@pytest.mark.parametrize(("kind", "stream"), [("several", ESTIMATE), ("numbers", ESTIMATED_ERROR)])
def test_estimates_that_are_off_raise_an_alert(kind: str, stream: str) -> None:
    log = Log(changed(MAKE[kind]), 12_000, early=True)
    run = Run(log, settings())
    told = {
        member.subject: alert for alert in run.alerts for member in alert.members
        if alert.state == "firing" and alert.kind == "concept drift"
    }  # fmt: skip
    assert stream in told
    assert told[stream].offset * 40 > 7_200
    assert not {"recall", "false_negative_rate"} & set(told)
    steady = Run(Log(lambda rng, _: MAKE[kind](rng, 0.0), 12_000, early=True), settings())
    assert [alert for alert in steady.alerts if alert.kind == "concept drift"] == []


def of_groups(make: Make) -> Make:
    """Events of women come as all do later."""

    def made(rng: np.random.Generator, done: float) -> Event:
        sex = "FM"[rng.integers(2)]
        return {**make(rng, 1.0 if sex == "F" else done), "segments": {"sex": sex}}

    return made


RATES = {"recall", "precision", "accuracy", "false_positive_rate", "equalised_odds"}
GAPS: dict[str, tuple[Make, set[str], float]] = {
    "two": (two, RATES, 0.15), "several": (of_groups(several), RATES, 0.15),
    "numbers": (of_groups(numbers), {"mae", "rmse"}, 1.5),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(GAPS))
def test_gaps_between_groups_are_estimated_before_labels_are_there(kind: str) -> None:
    make, names, most = GAPS[kind]
    run = Run(Log(make, 12_000), settings(positive="dog" if kind == "several" else None))
    known = [row for name in ("sex=F|M", "sex=M|F") for row in run.rows(name)]
    rows = [row for row in known if row.estimated and row.label_coverage_ratio > 0.99]
    assert len(rows) >= 5
    held = []
    for row in rows:
        assert set(row.estimated) == {f"gap:{name}" for name in names}
        for name in set(row.estimated) - {"gap:equalised_odds"}:
            value, low, high, _ = row.estimated[name]
            held.append(low <= row.metrics[name][0] <= high)
            assert abs(value - row.metrics[name][0]) < most
    assert np.mean(held) > 0.75  # what was learned is the same for all
    unlabelled = [row for row in known if not row.labels]
    assert all(row.estimated for row in unlabelled)


# ---- estimates of training ----


def written(folder: Path, make: Make, *scores: str, count: int = 4000) -> Path:
    rng, out = np.random.default_rng(9), folder / "train.npz"
    rows = [make(rng, 0.3) for _ in range(count)]
    lines = []
    for row in rows:
        told = {**row.get("features", {}), **{f"{k}": v for k, v in row.get("scores", {}).items()}}
        lines.append({**told, "said": row["prediction"], "truth": row["label"]})
    file = folder / "train.csv"
    names = dict.fromkeys(name for line in lines for name in line)
    cells = [[str(line.get(name, "")) for name in names] for line in lines]
    file.write_text("\n".join(",".join(line) for line in [names, *cells]) + "\n")
    arguments = ["reference", file, out, "--label", "truth", "--prediction", "said"]
    for score in scores:
        arguments += ["--score", score]
    assert app([str(one) for one in arguments], result_action="return_value") == 0
    return out


SCORES: dict[str, tuple[str, ...]] = {"two": ("1",), "several": CLASSES, "numbers": ()}


@pytest.mark.parametrize("kind", sorted(MAKE))
def test_with_estimates_of_training_the_first_cohort_has_some_and_no_label_is_needed(
    kind: str, tmp_path: Path
) -> None:
    of = settings(written(tmp_path, MAKE[kind], *SCORES[kind]))
    log = Log(MAKE[kind], 6000, seed=2)
    whole = Run(log, of)
    for row in whole.rows()[:5]:
        for name, most in NAMES[kind].items():
            assert abs(row.estimated[name][0] - row.metrics[name][0]) < 1.5 * most, row.begin
    every = list(range(1, len(log.records)))
    restarted = Run(log, of, every[::13], restarts=True)
    assert restarted.series == whole.series
    assert restarted.alerts == whole.alerts
    assert restarted.stored["0/cohorts|m"] == whole.stored["0/cohorts|m"]


def test_features_of_training_tell_errors_that_the_prediction_alone_does_not(
    tmp_path: Path,
) -> None:
    """The same predictions all along; only what comes with them says that errors grow."""

    def flat(rng: np.random.Generator, done: float) -> Event:
        row = numbers(rng, 0.0)
        load = float(rng.random() * (1.0 if done == 0.3 else 0.2) + 0.8 * (done >= 0.5))
        error = float(rng.normal()) * (0.2 + 10 * load)
        return {**row, "features": {"load": load, "noise": 0.5}, "label": row["prediction"] + error}

    log = Log(flat, 8000, seed=3)
    given = Run(log, settings(written(tmp_path, flat))).rows()[8]
    learned = Run(log, settings()).rows()[8]
    realised = given.metrics["mae"][0]
    assert abs(given.estimated["mae"][0] - realised) < 0.1 * realised
    assert learned.estimated["mae"][0] < 0.4 * realised


def test_texts_of_training_tell_errors_too(tmp_path: Path) -> None:
    """Of two kinds the loud one is rare in training, and common later, with a kind that is new and one row in ten without."""

    def flat(rng: np.random.Generator, done: float) -> Event:
        row = numbers(rng, 0.0)
        kind = "quiet" if rng.random() < (0.9 if done < 0.5 else 0.3) else "loud"
        error = float(rng.normal()) * {"quiet": 0.3, "loud": 6.0}[kind]
        told = {} if rng.random() < 0.1 else {"kind": kind}
        return {**row, "features": {"load": 0.5, **told}, "label": row["prediction"] + error}

    log = Log(flat, 8000, seed=3)
    of = settings(written(tmp_path, flat))
    whole = Run(log, of)
    given, learned = whole.rows()[8], Run(log, settings()).rows()[8]
    realised = given.metrics["mae"][0]
    assert abs(given.estimated["mae"][0] - realised) < 0.15 * realised
    assert learned.estimated["mae"][0] < 0.5 * realised
    every = list(range(1, len(log.records)))
    assert Run(log, of, every[::7], restarts=True).series == whole.series


def test_texts_that_are_many_rare_or_new_count_as_the_mean() -> None:
    rng = np.random.default_rng(0)
    numbers = np.append(rng.integers(0, 100, 5000) * 1.0, np.repeat(-5.0, 400))
    size = np.where(numbers == -5, 9.0, 1.0)
    codes = trained_estimates.Codes.learn(np.append(numbers, np.nan), np.append(size, 1.0))
    assert len(codes.numbers) == trained_estimates.TEXTS
    found = codes.of(np.array([-5.0, np.nan, 1e9, -7.0]))
    assert found[0] == pytest.approx((400 * 9 + 20 * codes.other) / 420)
    assert np.isnan(found[1])
    assert found[2:].tolist() == [codes.other] * 2
    none = trained_estimates.Codes.learn(np.full(3, np.nan), np.ones(3))
    assert none.of(np.array([1.0, np.nan])).tolist()[0] == 1.0


def test_another_reference_begins_estimates_anew(tmp_path: Path) -> None:
    of = settings(written(tmp_path, two, "1"))
    log = Log(two, 2000, seed=4)
    stored = Run(log, of).stored
    pipeline = PartitionPipeline(PARTITION, lambda _: settings())
    lost = pipeline.restore(len(log.records), stored)
    assert lost == ["m: inputs and errors: drift.reference is another one than before"]
    pipeline.dirty()
    series: dict[str, bytes | None] = {}
    while pipeline.is_behind:
        series.update(pipeline.series().get("m", {}))
    rows = [decode(row) for row in series.values() if row is not None]
    assert rows
    assert not any(row.estimated for row in rows)
    assert any(row.metrics for row in rows)


@pytest.mark.parametrize(
    ("kind", "of", "scores"), [("two", "several", CLASSES), ("several", "two", ("1",))]
)
def test_estimates_of_other_classes_are_not_used_and_a_line_says_so(
    kind: str, of: str, scores: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = written(tmp_path, MAKE[of], *scores)
    with caplog.at_level(logging.WARNING):
        run = Run(Log(MAKE[kind], 4000), settings(reference))
    assert "they are learned from labels" in caplog.text
    rows = run.rows()
    assert not rows[0].estimated
    assert rows[8].estimated  # as if there had been none


def test_estimates_of_numbers_are_not_used_for_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = written(tmp_path, numbers)
    with caplog.at_level(logging.WARNING):
        found = trained_estimates.given(settings(reference, task="classification"))
    assert found is None
    assert "of another kind than the model" in caplog.text
    assert trained_estimates.given(settings(reference)) is not None


@pytest.mark.parametrize("damage", ["cut", "other", "names", "kind", "texts", "order", "no texts"])
def test_a_damaged_part_is_refused_when_settings_are_checked(tmp_path: Path, damage: str) -> None:
    reference = written(tmp_path, two, "1")
    part = training_reference.read(reference).parts[trained_estimates.PART]
    meta, _ = unpack("trained_estimates", 2, part)
    bad = {
        "cut": part[:-3], "other": pack("other", 1, {}, {}),
        "names": pack("trained_estimates", 2, meta | {"names": ["a", "b"]}, {}),
        "kind": pack("trained_estimates", 2, meta | {"learned": pack("learned", 1, {"kind": "x", "parts": []}, {})}, {}),
        "texts": pack("trained_estimates", 2, meta | {"texts": {"a": [[1.0], [1.0, 2.0], 0.5]}}, {}),
        "order": pack("trained_estimates", 2, meta | {"texts": {"a": [[2.0, 1.0], [1.0, 2.0], 0.5]}}, {}),
        "no texts": pack("trained_estimates", 2, {name: of for name, of in meta.items() if name != "texts"}, {}),
    }[damage]  # fmt: skip
    file = tmp_path / "bad.npz"
    training_reference.write(
        file, {"feature:a": np.arange(2000.0)}, 2000, parts={trained_estimates.PART: bad}
    )
    config = tmp_path / "tocsin.yaml"
    config.write_text(f"defaults:\n  drift:\n    reference: {file}\n")
    with pytest.raises(ConfigError, match="what it says of estimates cannot be read"):
        app(["config", "check", str(config)], result_action="return_value")


@pytest.mark.parametrize(
    ("scores", "message"),
    [((), "--score names the columns with scores"), (("noise",), "must have the names of classes")],
)
def test_a_file_that_does_not_tell_is_a_reference_without_estimates(
    scores: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(rng: np.random.Generator, done: float) -> Event:
        return {**two(rng, done), "features": {"x": 1.0}, "scores": {"noise": float(rng.random())}}

    reference = written(tmp_path, made, *scores)
    assert message in capsys.readouterr().out
    assert trained_estimates.PART not in training_reference.read(reference).parts


# ---- state ----


@pytest.mark.parametrize("kind", sorted(MAKE))
@pytest.mark.parametrize("count", [400, 3000], ids=["while it learns", "afterwards"])
def test_estimates_whose_state_is_damaged_start_clean(kind: str, count: int) -> None:
    log = Log(MAKE[kind], count, early=True)
    stored = Run(log, settings()).stored
    meta, arrays = unpack("performance_cohorts", 2, stored["0/cohorts|m"])
    estimates = meta["estimates"]
    damages: list[tuple[dict[str, Any], dict[str, np.ndarray]]] = [
        ({**estimates, "begin": 5}, arrays), ({**estimates, "learned": b"TCSN"}, arrays),
        ({**estimates, "learned": 7}, arrays), ({**estimates, "unnamed": "many"}, arrays), ({}, arrays),
        ({**estimates, "learned": pack("learned", 1, {"kind": "several", "parts": []}, {})}, arrays),
        (estimates, {"kept": np.zeros((5, 9))}), (estimates, {"kept": np.zeros((4, 2), np.int64)}),
        (estimates, {"kept": np.zeros(3)}), (estimates, {}),
    ]  # fmt: skip
    for damaged, of in damages:
        state = pack("performance_cohorts", 2, meta | {"estimates": damaged}, of)
        pipeline = PartitionPipeline(PARTITION, lambda _: settings())
        lost = pipeline.restore(len(log.records), stored | {"0/cohorts|m": state})
        assert [one.split(":")[1] for one in lost] == [" performance"], damaged
        more = Log(MAKE[kind], 200, seed=5, early=True).records
        moved = [record._replace(offset=record.offset + len(log.records)) for record in more]
        pipeline.process(Records.of(PARTITION, moved))
        pipeline.dirty()
