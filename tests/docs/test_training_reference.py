"""From training to an alert as the README has it: both programs run as written, and print what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tocsin.embedded import free_port

pytestmark = pytest.mark.xdist_group("training to serving")

ROOT = Path(__file__).parents[2]
SECTION = (
    (ROOT / "README.md").read_text().partition("## From training to an alert")[2].split("\n## ")[0]
)
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
TRAIN, SERVE = (code for language, code in BLOCKS if language == "python")
(COMMANDS,) = (code for language, code in BLOCKS if language == "sh")
(SHOWN,) = (code for language, code in BLOCKS if not language)
PAGE = (ROOT / "docs/training_reference.md").read_text()


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], cwd=folder, capture_output=True,
        text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@contextmanager
def worker(command: str, addresses: dict[str, str], folder: Path) -> Iterator[None]:
    """Run the worker as the README starts it, at other addresses."""
    environment = {
        **os.environ,
        "TOCSIN_KAFKA__BOOTSTRAP": addresses["localhost:9092"],
        "TOCSIN_REDIS__URL": f"redis://{addresses['localhost:6379']}/0",
    }
    setting, *words = command.split()
    name, _, value = setting.partition("=")
    assert words[0] == "tocsin"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tocsin.cli.main", *words[1:]],
            env=environment | {name: value}, cwd=folder, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while b"going on from offset" not in (folder / "log").read_bytes():
            assert time.monotonic() < deadline, (folder / "log").read_text()
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)


def test_it_takes_less_than_60_lines() -> None:
    assert len(f"{TRAIN}{COMMANDS}{SERVE}".strip().splitlines()) < 60


def test_both_programs_run_and_print_what_is_shown(tmp_path: Path) -> None:
    train, start = COMMANDS.strip().splitlines()
    assert train == "python train.py"
    said = run(TRAIN, tmp_path)
    (shown,) = re.findall(r"^```\n(shuttle.npz: .*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert masked(said) == masked(shown)
    there = {
        address: f"localhost:{free_port()}" for address in ("localhost:9092", "localhost:6379")
    }
    code = SERVE
    for address, own in there.items():
        code = code.replace(address, own)
    with worker(start, there, tmp_path):
        assert masked(run(code, tmp_path)) == masked(SHOWN)


def masked(text: str) -> str:
    """Return a text without what depends on the machine: hashes of weights, and numbers that follow from them."""
    return re.sub(r"[0-9a-f]{64}|-?\d[\d.,e+]*", "N", text)
