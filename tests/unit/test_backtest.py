"""`tocsin backtest` on files with a planted change: the table, the JSON, and what is said of wrong input."""

from __future__ import annotations

import csv
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tocsin.cli.blocks import Blocks
from tocsin.cli.main import main
from tocsin.core.errors import ConfigError
from tocsin.detectors.adwin import Adwin
from tocsin.detectors.base import Observations
from tocsin.detectors.evaluation import score
from tocsin.detectors.matching import Change, episodes
from tocsin.producers.files import Columns

# cyclopts minds that its arguments come from sys.argv, as in life.
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
ROWS, CHANGE = 3000, 1500
Row = dict[str, Any]


@pytest.fixture(scope="module")
def table() -> list[Row]:
    """An amount that jumps, a model that is wrong more often, and columns that are not watched."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(ROWS):
        predicted = int(rng.integers(2))
        wrong = rng.random() < (0.1 if k < CHANGE else 0.5)
        rows.append(
            {
                "number": k,
                "amount": round(float(rng.normal() + 2 * (k >= CHANGE)), 3),
                "age": round(float(rng.normal(40, 10)), 1),
                "country": "NL" if rng.random() < 0.9 else "DE",
                "predicted": predicted,
                "truth": 1 - predicted if wrong else predicted,
            }
        )
    return rows


def write(rows: list[Row], file: Path) -> None:
    if file.name.endswith(".parquet"):
        parquet.write_table(pa.Table.from_pylist(rows), file)
        return
    with gzip.open(file, "wt") if file.name.endswith(".gz") else file.open("w") as text:
        if ".csv" in file.name:
            writer = csv.DictWriter(text, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        else:
            text.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path: Path, table: list[Row], monkeypatch: pytest.MonkeyPatch) -> Path:
    write(table, tmp_path / "t.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Run:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str, exits: int = 0) -> tuple[str, str]:
        """Run the command line; return what it printed, on the two streams."""
        self._monkeypatch.setattr(sys, "argv", ["tocsin", "backtest", *arguments])
        self._monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as done:
            main()
        printed = self._capsys.readouterr()
        assert done.value.code == exits, printed.err
        return printed.out, printed.err

    def json(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self(*arguments, "--json")[0])
        return found


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


MODEL = ("--label", "truth", "--prediction", "predicted")


def test_the_table_has_a_row_for_each_detector_and_the_dummy_last(run: Run) -> None:
    shown, _ = run("t.csv", *MODEL, "--drift", "1500", "--tolerance", "300", "--merge", "100")
    lines = [line.rstrip() for line in shown.splitlines()]
    assert lines[0] == "t.csv: 3,000 rows, feature:amount, feature:age, error"
    assert "left out, counts the rows: number" in lines
    assert "left out, holds text: country" in lines
    assert "drifts: 1,500; found within 300 rows; alarms less than 100 rows apart are one" in lines
    head = next(k for k, line in enumerate(lines) if line.startswith("detector"))
    assert lines[head].split() == [
        "detector", "alarms", "hits", "false", "late", "precision", "recall", "F1", "delay", "p90",
        "NDT", "MTD", "MTFA", "MTR",
    ]  # fmt: skip
    scores = {line.split()[0]: line.split()[1:] for line in lines[head + 2 : lines.index("", head)]}
    assert list(scores)[-1] == "dummy:every=300"
    assert {"adwin", "page_hinkley"} <= set(scores)
    assert scores["adwin"][:4] == ["1", "1/1", "0", "0"]
    assert scores["dummy:every=300"][:7] == ["10", "1/1", "9", "0", "0.10", "1.00", "0.18"]
    begin = lines.index("adwin")
    assert lines[begin + 1].split() == [
        "row", "stream", "change", "evidence", "merged", "outcome", "delay",
    ]  # fmt: skip
    first = lines[begin + 3]
    assert re.match(r"1,5\d\d  feature:amount  .*  \d alarms  hit", first), first


def test_the_json_is_what_the_detector_itself_says(run: Run, table: list[Row]) -> None:
    found = run.json(
        "t.csv", *MODEL, "--drift", "1500", "--drift", "2000-2200", "--tolerance", "300",
        "--detector", "adwin:clock=1", "--merge", "0",
    )  # fmt: skip
    assert found["rows"] == ROWS
    assert found["drifts"] == [[1500, 1500], [2000, 2200]]
    assert found["streams"] == ["feature:amount", "feature:age", "error"]
    assert found["left_out"] == {"number": "counts the rows", "country": "holds text"}
    values = np.array([(r["amount"], r["age"], float(r["truth"] != r["predicted"])) for r in table])
    verdicts = Adwin(clock=1).update(Observations.of(values, tuple(found["streams"])))
    adwin, dummy = found["detectors"]
    assert [(a["row"], a["stream"]) for a in adwin["list"]] == [
        (v.offset, v.subject) for v in verdicts
    ]
    assert len(verdicts) >= 2
    expected = score(
        [v.offset for v in verdicts], [Change(1500, 1500), Change(2000, 2200)], ROWS, 300
    ).figures()
    assert {name: adwin[name] for name in expected} == expected
    assert [a["outcome"] for a in adwin["list"]].count("hit") == adwin["hits"] == 1
    assert adwin["list"][0]["delay"] == adwin["list"][0]["row"] - 1500
    assert dummy["detector"] == "dummy:every=300"


@pytest.mark.parametrize("name", ["t.csv.gz", "t.jsonl", "t.jsonl.gz", "t.parquet"])
def test_files_of_all_kinds_give_the_same(
    run: Run, folder: Path, table: list[Row], name: str
) -> None:
    write(table, folder / name)
    arguments = (*MODEL, "--drift", "1500")
    assert {**run.json(name, *arguments), "file": ""} == {
        **run.json("t.csv", *arguments), "file": "",
    }  # fmt: skip


def test_without_drifts_alarms_are_counted_and_no_dummy_runs(run: Run) -> None:
    shown, _ = run("t.csv", "--column", "amount", "--detector", "adwin")
    assert "rows an alarm" in shown
    assert "outcome" not in shown
    found = run.json("t.csv", "--column", "amount", "--detector", "adwin")
    assert found["drifts"] is None
    (adwin,) = found["detectors"]
    assert adwin["rows_per_alarm"] == ROWS / adwin["alarms"]
    assert adwin["f1"] is None
    assert adwin["list"][0]["outcome"] is None


def test_no_drift_at_all_is_an_annotation_too(run: Run, folder: Path) -> None:
    (folder / "a.json").write_text('{"changes": []}')
    found = run.json("t.csv", "--column", "age", "--annotations", "a.json")
    adwin = next(d for d in found["detectors"] if d["detector"] == "adwin")
    assert (adwin["alarms"], adwin["false"], adwin["recall"], adwin["f1"]) == (0, 0, None, None)
    shown, _ = run("t.csv", "--column", "age", "--annotations", "a.json")
    assert "drifts: none" in shown
    assert f">{ROWS:,}" in shown


def test_drifts_come_from_a_file_as_from_options(run: Run, folder: Path) -> None:
    (folder / "a.json").write_text('{"changes": [[1500, 1500], [2000, 2200]]}')
    one = run.json("t.csv", "--annotations", "a.json")
    other = run.json("t.csv", "--drift", "2000-2200", "--drift", "1500")
    assert one == other


def test_merging_is_the_same_for_every_detector(run: Run) -> None:
    arguments = ("t.csv", "--detector", "page_hinkley", "--detector", "adwin:clock=1")
    raw = run.json(*arguments, "--merge", "0")["detectors"]
    merged = run.json(*arguments, "--merge", "50")["detectors"]
    for before, after in zip(raw, merged, strict=True):
        rows = [alarm["row"] for alarm in before["list"]]
        begins = episodes(rows, 50, 500)
        assert [alarm["row"] for alarm in after["list"]] == [rows[k] for k in begins]
        assert sum(alarm["members"] for alarm in after["list"]) == len(rows)
    assert len(raw[0]["list"]) > len(merged[0]["list"])


def test_the_list_of_alarms_is_cut_unless_all_are_asked_for(run: Run) -> None:
    arguments = ("t.csv", "--column", "age", "--detector", "page_hinkley", "--merge", "0")
    count = len(run.json(*arguments)["detectors"][0]["list"])
    shown, _ = run(*arguments)
    assert f"and {count - 10} more; --all shows them" in shown
    assert shown.count("sum of deviations") == 10
    shown, _ = run(*arguments, "--all")
    assert "more; --all" not in shown
    assert shown.count("sum of deviations") == count > 20


RECORDER = """
from tocsin.core.verdict import Verdict

class Recorder:
    seen = []

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def update(self, batch):
        self.seen.append((self.number, len(batch), int(batch.offsets[0]), id(batch)))
        return [
            Verdict(
                detector="recorder", subject="error", offset=int(batch.offsets[k]), row=0,
                statistic=1.0, threshold=0.5, phase=phase, change=phase,
            )
            for k, phase in enumerate(("opened", "moved", "settled"))
        ]

    def snapshot(self): return b""
    def restore(self, state): pass
"""


def test_all_detectors_see_the_same_batches_and_only_what_opens_is_an_alarm(
    run: Run, folder: Path
) -> None:
    (folder / "recorder_of_mine.py").write_text(RECORDER)
    (folder / "long.csv").write_text("x\n" + "1\n2\n" * 35_000)
    mine = "recorder_of_mine:Recorder"
    found = run.json("long.csv", "--detector", mine, "--detector", f"{mine}:number=1")
    seen = sys.modules.pop("recorder_of_mine").Recorder.seen
    assert [(n, rows, at) for n, rows, at, _ in seen] == [
        (0, 65_536, 0), (1, 65_536, 0), (0, 4_464, 65_536), (1, 4_464, 65_536),
    ]  # fmt: skip
    assert seen[0][3] == seen[1][3]
    for detector in found["detectors"]:
        assert [(a["row"], a["change"]) for a in detector["list"]] == [
            (0, "opened"), (65_536, "opened"),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.csv"], "no file none.csv"),
        (["t.txt"], "must end in .csv, .jsonl or .parquet"),
        (["empty.csv"], "empty.csv has no rows"),
        (["texts.csv"], "texts.csv has nothing to watch"),
        (
            ["t.csv", "--column", "amuont"],
            "--column amuont: t.csv has no such feature; it has numb",
        ),
        (["t.csv", "--column", "country"], "--column country: it holds text"),
        (
            ["t.csv", "--detector", "adwin", "--detector", "ddm:warm_start=5"],
            "--detector ddm:warm_start=5: it watches errors, and the file has none; name the columns",
        ),
        (
            ["t.csv", "--label", "truth", "--detector", "hddm_a"],
            "it watches errors, and the file has",
        ),
        (
            ["t.csv", "--column", "age", "--detector", "eddm"],
            "--detector eddm: it watches errors, 1 for a wrong answer and 0 for a right one, and feature:age is",
        ),
        (
            ["t.csv", "--label", "age", "--prediction", "amount", "--detector", "ddm"],
            "and error is ",
        ),
        (
            ["t.csv", "--detector", "natural_size"],
            "needs the time of each row; name its column with --time",
        ),
        (
            ["back.csv", "--time", "when"],
            "back.csv: at row 2 when goes back, to 2026-01-01 10:00:00; rows must be in the order",
        ),
        (["t.csv", "--label", "x", "--prediction", "y"], "t.csv has no column x, y"),
        (["t.csv", "--detector", "adwni"], "--detector adwni: no detector is called 'adwni', did"),
        (["t.csv", "--detector", "adwin:delta=2"], "--detector adwin:delta=2: Adwin needs 0 <"),
        (["t.csv", "--drift", "ten"], "--drift must be ROW or FIRST-LAST, as 10000"),
        (["t.csv", "--drift", "20-10"], "--drift: a change must have 0 <= start <= end"),
        (["t.csv", "--drift", "20-40", "--drift", "30"], "changes must not overlap, got 20-40 and"),
        (["t.csv", "--drift", "3000"], "t.csv: a change at row 3000 lies beyond the last of 3000"),
        (["t.csv", "--drift", "5", "--tolerance", "-1"], "--tolerance and --merge must be 0 or"),
        (["t.csv", "--annotations", "none.json"], "--annotations: No such file or directory: none"),
        (["t.csv", "--annotations", "t.txt"], "t.txt: JSON is malformed"),
        (["t.csv", "--annotations", "wrong.json"], "Object contains unknown field `drifts`"),
    ],
)
def test_what_the_user_got_wrong_is_said_in_a_line_with_exit_code_2(
    run: Run, folder: Path, arguments: list[str], says: str
) -> None:
    (folder / "t.txt").write_text("x")
    (folder / "empty.csv").write_text("x,y\n")
    (folder / "texts.csv").write_text("x,y\na,b\nc,d\n")
    (folder / "wrong.json").write_text('{"drifts": []}')
    (folder / "back.csv").write_text(
        "x,when\n1,2026-01-01T12:00\n2,2026-01-01T12:00\n3,2026-01-01T10:00\n"
    )
    _, err = run(*arguments, exits=2)
    assert says in err
    assert "Traceback" not in err
    assert err.count("\n") == 1


def test_without_drifts_it_is_said_that_alarms_are_merged(run: Run) -> None:
    arguments = ("t.csv", *MODEL, "--detector", "adwin")
    shown, _ = run(*arguments)
    assert "\nalarms less than 500 rows apart are one\n" in shown
    assert re.search(r"evidence +merged\b", shown)
    shown, _ = run(*arguments, "--merge", "0")
    assert "apart are one" not in shown
    assert "merged" not in shown


def test_detectors_of_errors_see_errors_only(run: Run, folder: Path, table: list[Row]) -> None:
    wrong = [{"wrong": int(r["truth"] != r["predicted"]), **r} for r in table]
    write(wrong, folder / "w.csv")
    ddm = ("--detector", "ddm", "--detector", "adwin", "--merge", "0")
    labelled = run.json("w.csv", *MODEL, *ddm)["detectors"]
    assert {alarm["stream"] for alarm in labelled[0]["list"]} == {"error"}  # and not feature:wrong
    assert {"error", "feature:wrong"} <= {alarm["stream"] for alarm in labelled[1]["list"]}
    named = run.json("w.csv", "--column", "wrong", *ddm)["detectors"]
    rows = [[alarm["row"] for alarm in found[0]["list"]] for found in (labelled, named)]
    assert rows[0] == rows[1] != []


def test_nobody_reading_on_is_no_failure(run: Run, folder: Path) -> None:
    arguments = "t.csv", "--detector", "dummy:every=2", "--merge", "0", "--all"
    for more in ((), ("--json",)):  # more than a pipe holds, and less
        for count in (len(arguments), -1):
            command = [
                sys.executable,
                "-m",
                "tocsin.cli.main",
                "backtest",
                *arguments[:count],
                *more,
            ]
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as done:
                assert done.stdout is not None
                assert done.stderr is not None
                done.stdout.close()
                assert done.stderr.read() == ""
            assert done.returncode == 141


# --- blocks ---------------------------------------------------------------------------------------


def blocks(file: Path, text: str, size: int = 65_536, **columns: Any) -> tuple[Blocks, np.ndarray]:
    file.write_text(text)
    found = Blocks(file, Columns(**columns), block_rows=size)
    return found, np.concatenate([block.values for block in found])


def test_cells_become_numbers_or_are_missing(tmp_path: Path) -> None:
    text = "a,b,c\n1,true,x\n,2,\nNaN,1e400,y\ninf,oops,z\ninf,4,\n-2.5,3,1\n"
    found, values = blocks(tmp_path / "a.csv", text)
    assert found.streams == ("feature:a", "feature:b")
    assert found.left_out == {"c": "holds text"}
    assert found.texts == {"b": 2}
    nan, inf = np.nan, np.inf
    expected = [[1, nan], [nan, 2], [nan, inf], [inf, nan], [inf, 4], [-2.5, 3]]
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_rows_are_the_same_however_they_are_cut(tmp_path: Path, size: int) -> None:
    text = "a,b\n" + "".join(f"{k * k},{k % 3}\n" for k in range(20))
    _, values = blocks(tmp_path / "a.csv", text, size)
    np.testing.assert_array_equal(values, [[k * k, k % 3] for k in range(20)])
    offsets = [block.offsets for block in Blocks(tmp_path / "a.csv", Columns(), block_rows=size)]
    np.testing.assert_array_equal(np.concatenate(offsets), np.arange(20))
    assert max(map(len, offsets)) <= size


def test_numbers_that_later_are_text_count_as_missing(tmp_path: Path) -> None:
    found, values = blocks(tmp_path / "a.csv", "a\n1\n2\nx\ny\n3\n", 2)
    np.testing.assert_array_equal(values[:, 0], [1, 2, np.nan, np.nan, 3])
    assert found.texts == {"a": 2}


def test_a_wrong_class_is_an_error_whatever_its_type(tmp_path: Path) -> None:
    rows = [("1", 1), (1, 1.0), (True, "1"), ("a", "b"), (2, "1"), (None, 1), ("a", None)]
    text = "".join(json.dumps({"y": y, "p": p, "x": 0}) + "\n" for y, p in rows)
    found, values = blocks(tmp_path / "a.jsonl", text, label="y", prediction="p")
    assert found.streams == ("feature:x", "error")
    np.testing.assert_array_equal(values[:, 1], [0, 0, 0, 1, 1, np.nan, np.nan])


def test_a_regression_has_absolute_errors(tmp_path: Path) -> None:
    text = "y,p\n1.5,1.0\n2,3.25\nx,1.5\n,2.5\n"
    _, values = blocks(tmp_path / "a.csv", text, label="y", prediction="p")
    np.testing.assert_array_equal(values[:, 0], [0.5, 1.25, np.nan, np.nan])


def test_an_error_is_there_whatever_was_answered(tmp_path: Path) -> None:
    text = "y,p\n1.5,inf\n-inf,-inf\n" + "9" * 400 + ",1.5\n2.5,2\n"
    _, values = blocks(tmp_path / "a.csv", text, label="y", prediction="p")
    np.testing.assert_array_equal(values[:, 0], [np.inf, np.nan, np.nan, 0.5])
    _, values = blocks(
        tmp_path / "a.csv", "y,p\n" + f"{'9' * 400},1\n" * 2, label="y", prediction="p"
    )
    np.testing.assert_array_equal(values[:, 0], [1, 1])


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("name", ["label", "prediction"])
def test_classes_that_are_known_alone_are_watched_themselves(
    tmp_path: Path, name: str, size: int
) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,b\n2,a\n3,\n4,b\n5,c\n")
    found = list(Blocks(tmp_path / "a.csv", Columns(**{name: "y"}), block_rows=size))
    values = np.concatenate([block.values for block in found])
    np.testing.assert_array_equal(values[:, 1], [0, 1, np.nan, 0, 2])
    assert {block.names for block in found} == {("feature:x", name)}
    assert {block.categories for block in found} == {frozenset([name])}


def test_a_regression_s_label_is_watched_as_a_number(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("y\n1.5\n2\nx\n")
    (block,) = Blocks(tmp_path / "a.csv", Columns(label="y"))
    np.testing.assert_array_equal(block.values[:, 0], [1.5, 2, np.nan])
    assert (block.names, block.categories) == (("label",), frozenset())


def test_a_label_alone_that_changes_is_found(run: Run, folder: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice(["ham", "spam"], ROWS)
    truth[CHANGE:] = rng.choice(["ham", "spam"], ROWS - CHANGE, p=[0.9, 0.1])
    (folder / "l.csv").write_text("truth\n" + "\n".join(truth) + "\n")
    for detector in ("e_detector", "adwin"):
        found = run.json("l.csv", "--label", "truth", "--detector", detector)
        assert found["streams"] == ["label"]
        (alarm,) = found["detectors"][0]["list"]
        assert CHANGE < alarm["row"] < CHANGE + 200


@pytest.mark.parametrize("size", [1, 2, 100])
def test_times_that_go_back_are_refused_at_any_cut(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.csv").write_text("t,x\n5,1\n7,2\n7,3\n9,4\n")
    found = list(Blocks(tmp_path / "a.csv", Columns(time="t"), block_rows=size))
    times = np.concatenate([block.times for block in found if block.times is not None])
    np.testing.assert_array_equal(times, np.array([5, 7, 7, 9]) * 10**9)
    (tmp_path / "a.csv").write_text("t,x\n5,1\n7,2\n6,3\n9,4\n")
    with pytest.raises(ConfigError, match=r"row 2 t goes back, to 1970-01-01 00:00:06; .*sort the"):
        list(Blocks(tmp_path / "a.csv", Columns(time="t"), block_rows=size))


def test_events_are_read_as_they_stand(tmp_path: Path) -> None:
    events = [
        {"prediction_id": "a", "features": {"x": 1}, "prediction": "u", "label": "v"},
        {"type": "label", "prediction_id": "a", "label": "u"},
        {"prediction_id": "b", "features": {"x": 2}, "prediction": "u", "label": "u"},
    ]
    found, values = blocks(tmp_path / "a.jsonl", "".join(json.dumps(e) + "\n" for e in events))
    assert found.streams == ("feature:x", "error")
    np.testing.assert_array_equal(values, [[1, 1], [2, 0]])


def test_only_the_columns_asked_for_are_watched_in_that_order(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,c\n" + "".join(f"{k},2,3\n" for k in range(200)))
    found = Blocks(tmp_path / "a.csv", Columns(), ["c", "a", "c"])
    (block,) = found
    assert block.names == ("feature:c", "feature:a")
    every = Blocks(tmp_path / "a.csv", Columns())
    (block,) = every
    assert block.names == ("feature:b", "feature:c")
    assert every.left_out == {"a": "counts the rows"}


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"--column z: a\.csv has no such feature; it has a, b"):
        list(Blocks(tmp_path / "a.csv", Columns(), ["z"]))
