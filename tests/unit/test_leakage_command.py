"""`tocsin leakage` on files with planted crossings: what is named, what is printed, what is refused."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tocsin.cli.leakage import run
from tocsin.core.errors import ConfigError
from tocsin.producers.files import Columns

Row = dict[str, Any]
COMPARED = ("age", "dose", "ward")


def rows(seed: int, n: int, patients: tuple[int, int], minute: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    begin = np.datetime64("2024-01-01T00:00")
    return [
        {
            "row": k, "patient": f"p{rng.integers(*patients)}",
            "when": str(begin + np.timedelta64(minute + k, "m")),
            "age": round(float(rng.normal(50, 12)), 2), "dose": round(float(rng.lognormal()), 4),
            "ward": "abc"[rng.integers(3)], "sick": int(rng.random() < 0.3),
        }
        for k in range(n)
    ]  # fmt: skip


def write(file: Path, table: list[Row]) -> Path:
    if file.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(table), file)
        return file
    with gzip.open(file, "wt") if file.suffix == ".gz" else file.open("w") as text:
        writer = csv.DictWriter(text, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return file


class Files:
    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.train, self.test = rows(0, 3000, (0, 300), 0), rows(1, 800, (300, 400), 3000)
        self._folder, self._capsys = folder, capsys

    def __call__(self, ending: str = "csv", **options: Any) -> tuple[int, str]:
        options.setdefault("label", "sick" if "sick" in self.train[0] else None)
        files = [
            write(self._folder / f"{name}.{ending}", table)
            for name, table in (("train", self.train), ("test", self.test))
        ]
        group, as_json = options.pop("group", ()), options.pop("as_json", False)
        code = run(*files, Columns(**options), group, as_json=as_json)
        return code, self._capsys.readouterr().out

    def found(self, ending: str = "csv", **options: Any) -> dict[str, Any]:
        code, printed = self(ending, as_json=True, **options)
        report = json.loads(printed)
        assert code == int(report["found"])
        return report

    def crossings(self, check: str, **options: Any) -> list[Any]:
        (one,) = [c for c in self.found(**options)["checks"] if c["check"] == check]
        assert one["found"] == bool(one["crossings"])
        return one["crossings"]


@pytest.fixture
def files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Files:
    return Files(tmp_path, capsys)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_a_clean_split_is_clean(files: Files, ending: str) -> None:
    report = files.found(ending, label="sick")
    assert not report["found"]
    assert report["train"] == {"file": f"train.{ending}", "rows": 3000}
    assert report["compared"] == list(COMPARED)
    assert set(report["left_out"]) == {"row", "patient", "when"}
    assert [c["check"] for c in report["checks"]] == [
        "exact duplicates", "near duplicates", "group patient", "time when",
    ]  # fmt: skip


def test_every_planted_row_is_named_with_its_twin(files: Files) -> None:
    at = list(range(0, 400, 4))
    for row in at:
        values = {name: files.train[row * 5][name] for name in COMPARED}
        if row % 8:
            values = {n: v if n == "ward" else float(f"{v:.3g}") for n, v in values.items()}
        files.test[row] |= values
    exact = {(c["test_row"], c["train_row"]) for c in files.crossings("exact duplicates")}
    near = {(c["test_row"], c["train_row"]) for c in files.crossings("near duplicates")}
    assert exact >= {(row, row * 5) for row in at if row % 8 == 0}
    assert exact | near >= {(row, row * 5) for row in at}
    assert (
        len(exact | near) <= len(at) + 8
    )  # two numbers of three digits each may be alike by chance


def test_one_row_is_enough_where_no_two_are_alike(files: Files) -> None:
    files.test[17] |= {name: files.train[2999][name] for name in COMPARED}
    assert files.crossings("exact duplicates") == [{"test_row": 17, "train_row": 2999}]


def test_rows_that_coincide_by_chance_are_no_leak_and_more_of_them_are(files: Files) -> None:
    rng = np.random.default_rng(2)

    def alike(n: int) -> list[Row]:
        return [{f"c{j}": int(rng.geometric(0.12)) for j in range(4)} for _ in range(n)]

    files.train, files.test = alike(4000), alike(2000)
    report = files.found()
    assert not report["found"]
    assert report["checks"][0]["test_rows"] > 50
    for row in range(0, 2000, 5):
        files.test[row] = dict(files.train[row])
    (exact, _) = files.found()["checks"]
    assert exact["found"]
    named = {c["test_row"] for c in exact["crossings"]}
    assert named >= set(range(0, 2000, 5))


def test_groups_and_times_that_cross_are_named(files: Files) -> None:
    files.test[5]["patient"] = files.train[40]["patient"]
    files.test[9]["when"] = files.train[2990]["when"]
    (group,) = files.crossings("group patient")
    same = [k for k, row in enumerate(files.train) if row["patient"] == group["value"]]
    assert (group["train_rows"], group["test_rows"]) == (same, [5])
    (time,) = files.crossings("time when")
    assert (time["test_rows"], time["last_train_row"]) == ([9], 2999)
    assert time["train_rows"] == list(range(2991, 3000))


def test_columns_may_be_named(files: Files) -> None:
    for table in (files.train, files.test):
        for row in table:
            row["clinic"] = row.pop("patient")
            row["at"] = row.pop("row") + (10_000 if table is files.test else 0)
    files.test[3]["clinic"] = files.train[0]["clinic"]
    assert files.crossings("group clinic", group=["clinic"])[0]["test_rows"] == [3]
    assert "group clinic" not in [c["check"] for c in files.found()["checks"]]
    files.test[4]["at"] = 12
    assert files.crossings("time at", time="at")[0]["test_rows"] == [4]


def test_a_feature_that_tells_the_label_is_named(files: Files) -> None:
    for k, row in enumerate(files.train + files.test):
        row["dose"] = row["sick"] + k % 7 / 1000 + np.random.default_rng(k).random() / 1e4
    (claim,) = files.found(label="sick")["leaky_features"]
    assert (claim["feature"], claim["why"]) == ("dose", "as a copy of it")


def test_a_feature_that_tells_it_in_both_files_but_is_no_copy_may_be_a_leak(files: Files) -> None:
    """A risk score with an area of 0.99, and an area of houses that tells their price as well: honest, or not."""
    rng = np.random.default_rng(0)
    for row in files.train + files.test:
        row["dose"] = float(rng.normal(3.4 * row["sick"]))
    code, printed = files()
    assert code == 0
    assert "leaky features            -      -          -  may be" in printed
    assert "may be a leak; it is none if the feature is known before the label" in printed
    for row in files.train + files.test:
        row["sick"] = round(float(rng.gamma(5, 60_000)), 2)
        row["dose"] = round(row["sick"] / 4_000 * float(rng.normal(1, 0.03)), 1)
    report = json.loads(files(as_json=True)[1])
    assert [(c["feature"], c["why"]) for c in report["leaky_features"]] == [
        ("dose", "near the label")
    ]
    for row in files.train + files.test:
        row["dose"] = round(row["sick"] * 1.19, -2)
    (claim,) = files.found()["leaky_features"]
    assert (claim["feature"], claim["why"]) == ("dose", "as a copy of it")


def test_a_feature_that_tells_it_in_training_only_is_named(files: Files) -> None:
    for row in files.train:
        row["ward"] = "xy"[row["sick"]]
    for row, ward in zip(files.test, "xy" * 400, strict=True):
        row["ward"] = ward
    report = files.found(label="sick")
    assert [claim["feature"] for claim in report["leaky_features"]] == ["ward"]


def answered(table: list[Row], seed: int) -> None:
    """Add what a model said of each row: a score that tells the label, the class, and an id."""
    rng = np.random.default_rng(seed)
    for k, row in enumerate(table):
        score = min(max((row["sick"] + rng.normal(0, 0.1)), 0.0), 1.0)
        row |= {"p_sick": round(score, 6), "said": int(score > 0.5), "key": f"{seed} {k * k}"}


def test_answers_of_a_model_are_no_features(files: Files) -> None:
    for seed, table in enumerate((files.train, files.test)):
        answered(table, seed)
    named = {"prediction": "said", "scores": ["p_sick"], "id": "key"}
    twin = {name: files.train[7][name] for name in COMPARED}
    files.test[3] |= twin  # the same row, though the model said something else of it
    assert {c["feature"] for c in files.found()["leaky_features"]} == {"p_sick", "said"}
    report = files.found(**named)
    assert report["leaky_features"] == []
    assert report["compared"] == list(COMPARED)
    assert report["label"] == "sick"
    assert report["checks"][0]["crossings"] == [{"test_row": 3, "train_row": 7}]
    assert report["left_out"] == {
        "row": "counts the rows", "patient": "names the rows, or groups of them", "when": "tells the time of the rows",
        "said": "holds the model's predictions", "p_sick": "holds scores of the model", "key": "names the rows",
    }  # fmt: skip
    _, printed = files(**named)
    assert "label: sick\n" in printed
    assert "left out, holds the model's predictions: said\n" in printed
    assert "left out, holds scores of the model: p_sick\n" in printed


def test_answers_may_be_in_the_file_that_is_judged_alone(files: Files) -> None:
    answered(files.test, 0)
    report = files.found(prediction="said", scores=["p_sick"], id="key")
    assert report["compared"] == list(COMPARED)
    assert report["left_out"]["said"] == "holds the model's predictions"
    with pytest.raises(ConfigError, match=r"neither train\.csv nor test\.csv has a column says"):
        files(prediction="says")


def test_what_is_called_as_events_call_it_needs_no_option(files: Files) -> None:
    for seed, table in enumerate((files.train, files.test)):
        answered(table, seed)
        for row in table:
            row |= {
                "label": row.pop("sick"),
                "prediction": row.pop("said"),
                "score": row.pop("p_sick"),
            }
            row |= {"prediction_id": row.pop("key")}
    report = files.found(label=None)
    assert (report["label"], report["compared"]) == ("label", list(COMPARED))
    assert report["leaky_features"] == []
    assert {"prediction", "score", "prediction_id"} <= set(report["left_out"])
    for row in files.train + files.test:  # a score of something else
        row["score"] *= 800
    report = files.found(label=None)
    assert [claim["feature"] for claim in report["leaky_features"]] == ["score"]


def test_events_bring_their_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("train", 0), ("test", 1)):
        with (tmp_path / f"{name}.jsonl").open("w") as text:
            for k, row in enumerate(rows(seed, 2_000, (300 * seed, 300 * seed + 300), 0)):
                sick = row.pop("sick")
                features = {n: row[n] for n in COMPARED} | {"bill": sick + row["dose"] / 1e5}
                event = {
                    "prediction_id": str(k), "model": "m", "features": features, "label": sick,
                    "prediction": sick, "scores": {"1": 0.9 * sick + 0.05},
                }  # fmt: skip
                text.write(json.dumps(event) + "\n")
    run(tmp_path / "train.jsonl", tmp_path / "test.jsonl", as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["compared"] == ["age", "dose", "bill", "ward"]
    assert [claim["feature"] for claim in report["leaky_features"]] == ["bill"]


ODD = ("inf", "-inf", "nan", "1e308", "-1.7e308", "1e39", "1" + "0" * 400, "1e-320", "")


@pytest.mark.parametrize("of", ["sick", "dose", "age"])
def test_numbers_of_any_size_are_read_without_a_warning(files: Files, of: str) -> None:
    rng = np.random.default_rng(0)
    for row in files.train + files.test:
        row["dose"] = float(rng.normal())
        if rng.random() < 0.3:
            row[of] = rng.choice(ODD)
    files.test[4] |= {"age": "inf", "dose": "-inf", "ward": "a", "sick": 1}
    files.train[5] |= {
        "age": "1" + "0" * 400,
        "dose": "-inf",
        "ward": "a",
    }  # no float holds it either
    files.train[6] |= {"age": "1.7e308", "dose": "-inf", "ward": "a"}  # but this one
    report = files.found()
    assert {"test_row": 4, "train_row": 5} in report["checks"][0]["crossings"]
    files(time="dose")


def test_times_are_numbers_of_any_unit(files: Files) -> None:
    for table, first in ((files.train, 1_700_000_000_000), (files.test, 1_700_000_003_000)):
        for k, row in enumerate(table):
            row["at"] = first + k  # milliseconds
    assert files.crossings("time at", time="at") == []
    files.test[9]["at"] = -5.5
    (crossing,) = files.crossings("time at", time="at")
    assert crossing["test_rows"] == [9]
    assert len(crossing["train_rows"]) == 3000


def test_what_is_printed(files: Files) -> None:
    for row in range(30):
        files.test[row] |= {name: files.train[row][name] for name in COMPARED}
    files.train[0]["patient"] = "\x1b[31mred"
    files.test[0]["patient"] = "\x1b[31mred"
    code, printed = files(label="sick")
    assert code == 1
    assert "train.csv: 3,000 rows; test.csv: 800 rows" in printed
    assert "left out, counts the rows: row" in printed
    assert "test row 9 is train row 9" in printed
    assert "test row 10 is" not in printed
    assert "and 20 more; --json has all" in printed
    assert "\x1b[31m" not in printed
    lines = {line.split("  ")[0]: line.split() for line in printed.splitlines()}
    assert lines["exact duplicates"][-4:] == ["30", "3.75%", "0.00%", "yes"]
    assert lines["time when"][-1] == "no"


def test_wrong_input_is_refused(files: Files, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no column disease"):
        files(label="disease")
    with pytest.raises(ConfigError, match="no column clinic"):
        files(group=["clinic"])
    with pytest.raises(ConfigError, match="no file"):
        run(tmp_path / "none.csv", tmp_path / "test.csv")
    with pytest.raises(ConfigError, match="must end in"):
        run(write(tmp_path / "test.csv", files.test), Path(__file__))
    empty = tmp_path / "empty.csv"
    empty.write_text("a,b\n")
    with pytest.raises(ConfigError, match="no rows"):
        run(tmp_path / "test.csv", empty)
    other = write(tmp_path / "other.csv", [{"z": k * k} for k in range(10)])
    with pytest.raises(ConfigError, match="no columns to compare"):
        run(tmp_path / "test.csv", other)
