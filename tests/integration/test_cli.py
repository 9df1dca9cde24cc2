"""The verbs of the command line against real servers: what they print, and their exit codes."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis
from pyarrow import parquet

from tocsin.embedded import EmbeddedRedis, free_port

Wait = Callable[..., Any]
ROWS = 900


@pytest.fixture(scope="module")
def table() -> list[dict[str, Any]]:
    """A model that is right nine times of ten, then half of the time, and whose input jumps."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(ROWS):
        predicted = int(rng.integers(2))
        wrong = rng.random() < (0.1 if k < 500 else 0.6)
        rows.append(
            {
                "number": k,
                "amount": round(float(rng.normal() + (5 if k >= 500 else 0)), 3),
                "country": "NL" if rng.random() < 0.9 else "",
                "predicted": predicted,
                "truth": 1 - predicted if wrong else predicted,
                "when": f"2026-01-01T{k // 60:02d}:{k % 60:02d}:00+00:00",
            }
        )
    return rows


def write(rows: list[dict[str, Any]], file: Path) -> None:
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


@pytest.mark.parametrize("name", ["t.csv.gz", "t.parquet"])
def test_a_file_becomes_alerts_without_writing_code(
    site: Any, tmp_path: Path, table: list[dict[str, Any]], name: str
) -> None:
    write(table, tmp_path / name)
    site.start()
    done = site.run(
        "publish", name, "--model", "m", "--label", "truth", "--prediction", "predicted",
        "--id", "number", "--time", "when",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{ROWS} rows of {name}" in done.stdout
    assert f"{ROWS} events sent, 0 failed" in done.stdout
    site.caught_up()
    firing = {a.kind: a for a in site.alerts() if a.state == "firing"}
    assert set(firing) == {"data drift", "concept drift"}
    drift = firing["data drift"]
    assert drift.subject == "feature:amount"
    assert 500 <= int(drift.prediction_id) < 560
    assert drift.detected_at.isoformat() == table[int(drift.prediction_id)]["when"]
    figures = site.metrics()["m"]
    assert figures["labels_joined"] == ROWS
    assert firing["concept drift"].subject == "error"


@pytest.fixture(scope="module")
def watched(shared_site: Any, table: list[dict[str, Any]]) -> Any:
    """Where version 7 of a model m has been watched to the end of the table."""
    write(table, shared_site.folder / "t.csv")
    shared_site.start()
    done = shared_site.run(
        "publish", "t.csv", "--model", "m", "--label", "truth", "--prediction", "predicted",
        "--version", "7", "--segment", "country",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shared_site.caught_up()
    return shared_site


@pytest.mark.xdist_group("watched")
def test_status_says_what_is_known_of_each_model(watched: Any) -> None:
    assert "no model has been seen yet" in watched.run("status", TOCSIN_TENANT="other").stdout
    shown = watched.run("status").stdout
    assert shown.startswith("m  predictions 900  labels_joined 900")
    found = json.loads(watched.run("status", "--json").stdout)["m"]
    assert {"accuracy", "precision:macro", "recall:macro", "f1:macro"} <= set(found)
    of_latest = f"accuracy {found['accuracy']:.4g}, f1:macro {found['f1:macro']:.4g}"
    assert f"{of_latest} (latest 900 pairs)" in shown


@pytest.mark.xdist_group("watched")
def test_metrics_are_printed_by_cohort_with_intervals(
    watched: Any, table: list[dict[str, Any]]
) -> None:
    unseen = watched.run("metrics", "unseen")
    assert (unseen.returncode, unseen.stderr) == (1, "")
    assert "no predictions of unseen in production have been counted yet" in unseen.stdout
    rows = json.loads(watched.run("metrics", "m", "--group", "all", "--json").stdout)
    assert sum(row["predictions"] for row in rows if row["group"] == "") == 900
    assert sum(row["labels"] for row in rows if row["group"] == "version=7") == 900
    there = sum(row["country"] == "NL" for row in table)
    assert sum(row["predictions"] for row in rows if row["group"] == "country=NL") == there
    value, low, high, _ = rows[-1]["metrics"]["accuracy"]
    assert low < value < high
    shown = watched.run("metrics", "m", "--metric", "accuracy").stdout
    assert f"{value:.3f} {low:.3f}-{high:.3f}" in shown
    nobody = watched.run("metrics", "m", "--group", "country=XX")
    assert nobody.returncode == 1
    assert "groups that have been: country=" in nobody.stdout
    wrong = watched.run("metrics", "m", "--metric", "acuracy")
    assert wrong.returncode == 2
    assert "no row has 'acuracy'; there are: accuracy" in wrong.stderr


@pytest.mark.xdist_group("watched")
def test_tail_prints_alerts_and_a_name_goes_on(watched: Any) -> None:
    arguments = ("alerts", "tail", "--after", "0", "--name", "me", "--count", "1")
    first = watched.run(*arguments)
    assert first.returncode == 0, first.stderr
    assert "firing" in first.stdout
    assert len(first.stdout.splitlines()) == 1
    second = watched.run(*arguments, "--json")
    found = json.loads(second.stdout)
    assert found["id"] == watched.alerts()[1].id
    assert found["previous_id"]


def test_a_decision_between_versions_is_printed(
    site: Any, tmp_path: Path, table: list[dict[str, Any]]
) -> None:
    undecided = site.run("decision", "m")
    assert (undecided.returncode, undecided.stderr) == (1, "")
    assert (
        "no predictions of m have been counted yet\nmodels that have been seen: none\n"
        in undecided.stdout
    )
    site.start(TOCSIN_DEFAULTS__BIAS='{"segments": ["version"], "metrics": ["accuracy"]}')
    for k, version in enumerate(("1", "2", "1")):  # in turns: both must be there at a time
        write([row | {"number": row["number"] + k * ROWS} for row in table], tmp_path / "t.csv")
        done = site.run(
            "publish", "t.csv", "--model", "m", "--label", "truth", "--prediction", "predicted",
            "--id", "number", "--version", version,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    site.caught_up()
    decided = site.run("decision", "m")
    assert decided.returncode == 0, decided.stderr
    assert decided.stdout.startswith("accuracy: ")
    assert "version=1|2" in decided.stdout
    (tests,) = json.loads(site.run("decision", "m", "--json").stdout).values()
    figures = tests["gap:accuracy:version=1|2"]
    assert figures["low"] < figures["gap"] < figures["high"]


def test_a_rate_is_kept(site: Any, tmp_path: Path, table: list[dict[str, Any]]) -> None:
    write(table[:40], tmp_path / "t.csv")
    done = site.run("publish", "t.csv", "--model", "m", "--rate", "20")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split(" in ")[1].split(" s")[0]) >= 1.9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["publish", "none.csv", "--model", "m"], "no file none.csv"),
        (["publish", "t.txt", "--model", "m"], "must end in .csv, .jsonl or .parquet"),
        (
            ["publish", "t.csv", "--model", "m", "--label", "truht"],
            "no column truht; it has number",
        ),
        (["publish", "t.csv", "--model", "m", "--rate", "0"], "--rate must be above 0"),
        (["publish", "t.csv", "--model", "two words"], "no blanks, got 'two words'"),
        (["publish", "t.csv", "--model", "m", "--segment", "sex"], "no column sex; it has number"),
        (
            ["compare", "t.csv", "--prediction", "predicted", "--segment", "country**truth"],
            "'country**truth' has no name on one side of a *: write country*truth",
        ),
        (["config", "check", "wrong.yaml"], "kafka.bootstap"),
        (["demo", "--speed", "fast"], "--speed must be a number above 0, or max"),
    ],
)
def test_what_the_user_got_wrong_is_said_in_a_line_with_exit_code_2(
    tmp_path: Path, table: list[dict[str, Any]], arguments: list[str], says: str
) -> None:
    write(table[:3], tmp_path / "t.csv")
    (tmp_path / "t.txt").write_text("x")
    (tmp_path / "wrong.yaml").write_text("kafka:\n  bootstap: here:1\n")
    done = subprocess.run(
        [sys.executable, "-m", "tocsin.cli.main", *arguments], cwd=tmp_path, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_topics_are_created_once(site: Any) -> None:
    more = {
        "TOCSIN_KAFKA__TOPIC": f"{site.topic}-new",
        "TOCSIN_KAFKA__DEAD_LETTERS": f"{site.topic}-d",
    }
    first = site.run("topics", "create", "--partitions", "3", **more)
    assert first.returncode == 0, first.stderr
    assert "3 partitions" in first.stdout
    again = site.run("topics", "create", "--partitions", "3", **more)
    assert again.returncode == 0, again.stderr
    assert "was there" in again.stdout


def test_doctor_says_ok_or_the_fix(site: Any, store: EmbeddedRedis) -> None:
    well = site.run("doctor")
    assert well.returncode == 0, well.stdout
    assert "fix" not in {line.split()[0] for line in well.stdout.splitlines()}
    assert f"topic {site.topic}" in well.stdout
    missing = site.run("doctor", TOCSIN_KAFKA__TOPIC="nowhere")
    assert missing.returncode == 1
    assert "does not exist: tocsin topics create" in missing.stdout
    store.kill()
    port = free_port()
    down = site.run("doctor", TOCSIN_KAFKA__BOOTSTRAP=f"127.0.0.1:{port}")
    fixes = [line for line in down.stdout.splitlines() if line.startswith("fix")]
    assert down.returncode == 1
    assert any("kafka" in line and str(port) in line for line in fixes)
    assert any("redis" in line and "is it running?" in line for line in fixes)
    assert "Traceback" not in down.stderr


def test_tail_ends_on_sigterm(site: Any, wait_until: Wait) -> None:
    tail = site.start("alerts", "tail")
    wait_until(lambda: Path(f"/proc/{tail.pid}/status").exists())
    client = redis.Redis.from_url(site.url)
    wait_until(lambda: dict(client.pubsub_numsub("tocsin:t:alerts"))[b"tocsin:t:alerts"])
    client.close()
    tail.send_signal(signal.SIGTERM)
    assert tail.wait(5) == 0


def test_a_worker_with_its_own_servers_needs_nothing_else(
    tmp_path: Path, table: list[dict[str, Any]], wait_until: Wait
) -> None:
    """`tocsin worker --embedded` in one terminal, `publish` and `alerts tail` in another."""
    write(table, tmp_path / "t.csv")
    environment = {
        **os.environ,
        "TOCSIN_KAFKA__BOOTSTRAP": f"127.0.0.1:{free_port()}",
        "TOCSIN_REDIS__URL": f"redis://127.0.0.1:{free_port()}/0",
    }

    def tocsin(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tocsin.cli.main", *arguments], env=environment, cwd=tmp_path,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    log = (tmp_path / "log").open("wb")
    worker = subprocess.Popen(
        [sys.executable, "-m", "tocsin.cli.main", "worker", "--embedded"],
        env=environment, cwd=tmp_path, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        wait_until(lambda: b"going on from offset" in (tmp_path / "log").read_bytes())
        assert tocsin("publish", "t.csv", "--model", "m").returncode == 0
        tail = tocsin("alerts", "tail", "--after", "0", "--count", "1")
        assert "m  data drift: number: location up, mean" in tail.stdout
        assert tocsin("doctor").returncode == 0
        taken = tocsin("worker", "--embedded")
        assert taken.returncode == 2
        assert "listens on port" in taken.stderr
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0
        log.close()
