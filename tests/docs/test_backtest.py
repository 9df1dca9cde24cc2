"""The page on backtests: its commands run as written, and print what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("backtest page")

PAGE = (Path(__file__).parents[2] / "docs" / "backtest.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
MAKE, CHECK, POOL = (code for language, code in BLOCKS if language == "python")
SCORED, UNSCORED = (code for language, code in BLOCKS if language == "sh")
(SHOWN,) = (code for language, code in BLOCKS if not language)


def run(command: list[str], folder: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("backtest")
    run([sys.executable, "-c", MAKE], found)
    return found


def test_the_table_is_the_one_shown(folder: Path) -> None:
    printed = run(["bash", "-e", "-c", SCORED], folder)
    assert [line.rstrip() for line in printed.splitlines()] == SHOWN.splitlines()


def test_the_other_commands_run(folder: Path) -> None:
    assert '"rows_per_alarm": 12000.0' in run(["bash", "-e", "-c", UNSCORED], folder)
    assert run([sys.executable, "-c", CHECK], folder) == ""
    assert run([sys.executable, "-c", POOL], folder) == "0.8 (0.0, 1.0)\n"


def test_every_column_of_the_table_is_explained() -> None:
    titles = next(line for line in SHOWN.splitlines() if line.startswith("detector")).split()
    explained = " ".join(line for line in PAGE.splitlines() if line.startswith("| "))
    counted = {"detector", "alarms", "hits", "false", "late"}
    assert all(title in explained for title in titles if title not in counted)
