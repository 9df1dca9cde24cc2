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

from tocsin.cli.main import main
from tocsin.detectors.adwin import Adwin
from tocsin.detectors.base import Observations
from tocsin.detectors.evaluation import score
from tocsin.detectors.matching import Change, episodes

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
    assert lines[0] == "t.csv: 3,000 rows, feature:amount, feature:age, category:country, error"
    assert "left out, counts the rows: number" in lines
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
    assert found["streams"] == ["feature:amount", "feature:age", "category:country", "error"]
    assert found["left_out"] == {"number": "counts the rows"}
    values = np.array([(r["amount"], r["age"], float(r["truth"] != r["predicted"])) for r in table])
    verdicts = Adwin(clock=1).update(
        Observations.of(values, ("feature:amount", "feature:age", "error"))
    )
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
        (["names.csv"], "names.csv has nothing to watch"),
        (
            ["t.csv", "--column", "amuont"],
            "--column amuont: t.csv has no such feature; it has numb",
        ),
        (
            ["t.csv", "--column", "country", "--detector", "adwin"],
            "--detector adwin: it watches numbers, and there is only text; e_detector and",
        ),
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
        (
            ["t.csv", "--detector", "dummy:every=0"],
            "--detector dummy:every=0: it would raise no alarm",
        ),
        (["t.csv", "--detector", "dummy:at=-1"], "--detector dummy:at=-1: it would raise no alarm"),
        (
            ["t.csv", "--detector", "dummy:at=3000"],
            "t.csv: dummy:at=3000: row 3000 lies beyond the last of 3000",
        ),
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
    (folder / "names.csv").write_text("x\n" + "".join(f"row {k}\n" for k in range(100)))
    (folder / "wrong.json").write_text('{"drifts": []}')
    (folder / "back.csv").write_text(
        "x,when\n1,2026-01-01T12:00\n2,2026-01-01T12:00\n3,2026-01-01T10:00\n"
    )
    _, err = run(*arguments, exits=2)
    assert says in err
    assert "Traceback" not in err
    assert err.count("\n") == 1


def test_columns_of_text_are_watched_by_those_that_know_categories(run: Run, folder: Path) -> None:
    rng = np.random.default_rng(0)
    countries = rng.choice(["NL", "BE", "DE"], 6000, p=[0.6, 0.3, 0.1])
    countries[4000:][rng.random(2000) < 0.2] = "FR"
    (folder / "c.csv").write_text("country\n" + "\n".join(countries) + "\n")
    found = run.json("c.csv", "--drift", "4000")
    assert found["streams"] == ["category:country"]
    names = [d["detector"] for d in found["detectors"]]
    assert names == ["stream_monitor", "e_detector", "dummy:every=1000"]
    for detector in found["detectors"][:2]:
        (alarm,) = detector["list"]
        assert (alarm["stream"], alarm["change"]) == ("category:country", "new category")
        assert (alarm["newcomers"], alarm["outcome"]) == (["FR"], "hit")
        assert alarm["row"] < 4200
    shown, _ = run("c.csv", "--drift", "4000")
    assert "category:country  new category FR" in shown


def test_what_a_file_holds_does_not_steer_the_terminal(run: Run, folder: Path) -> None:
    kinds = np.random.default_rng(0).choice(["a", "b"], 5000).astype(object)
    kinds[3500:] = "\x1b[31mred"
    (folder / "esc.csv").write_text("c\n" + "\n".join(kinds) + "\n")
    shown, _ = run("esc.csv", "--detector", "e_detector")
    assert "new category \N{REPLACEMENT CHARACTER}[31mred" in shown
    assert "\x1b" not in shown


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


def test_the_workers_engine_is_among_the_defaults(run: Run) -> None:
    found = run.json("t.csv", *MODEL)["detectors"]
    names = [detector["detector"] for detector in found]
    assert names == ["stream_monitor", "e_detector", "adwin", "page_hinkley"]
    assert CHANGE < found[0]["list"][0]["row"] < CHANGE + 50


def test_gaps_that_nobody_watches_are_said_and_stream_monitor_finds_more_of_them(
    run: Run, folder: Path
) -> None:
    rng = np.random.default_rng(0)
    row = np.arange(8000)
    gone = rng.random(8000) < np.where(row < 6000, 0.02, 0.4)
    lines = [
        "" if missing else f"{x:.4f}"
        for x, missing in zip(rng.normal(size=8000), gone, strict=True)
    ]
    (folder / "gaps.csv").write_text("k,x\n" + "".join(f"{k},{x}\n" for k, x in enumerate(lines)))
    said = "\nmissing values: only stream_monitor watches them\n"
    assert said in run("gaps.csv", "--detector", "e_detector", "--detector", "adwin")[0]
    assert said not in run("t.csv", "--detector", "e_detector")[0]
    watched = ("gaps.csv", "--detector", "stream_monitor:tolerance=0.2")
    assert said not in run(*watched)[0]
    (found,) = run.json(*watched)["detectors"]
    assert ("missing:feature:x", True) in [
        (alarm["stream"], 6000 <= alarm["row"] < 6100) for alarm in found["list"]
    ]
