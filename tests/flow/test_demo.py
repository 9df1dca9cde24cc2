"""The demo as CI runs it: everything is caught, nothing is raised too early, and the exit code says so."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tocsin.demo.run import Catch
from tocsin.demo.story import ATTACK, CHANGES, INPUTS


@pytest.mark.parametrize("seed", [0, 1])
def test_the_demo_catches_each_change_and_ends_well(seed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tocsin.cli.main", "demo", "--headless", "--speed", "max", "--seed", str(seed)],
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for change in CHANGES:
        assert f"caught   {change.text}" in done.stdout
    assert "nothing was raised before the first change" in done.stdout
    assert "\x1b" not in done.stdout
    assert "Traceback" not in done.stderr


def test_a_change_that_is_not_caught_is_a_failure() -> None:
    """What makes the demo exit with 1."""
    problems = list(Catch().problems())
    assert problems == [f"not caught: {change.text}" for change in CHANGES]
    assert INPUTS.at < ATTACK.at
