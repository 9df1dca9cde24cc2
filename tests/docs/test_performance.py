"""The pages on performance: the example prints what they and the README show, and their settings are valid."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tocsin.consumers.settings import load

pytestmark = pytest.mark.xdist_group("performance page")

ROOT = Path(__file__).parents[2]
PAGE, README = (ROOT / "docs/performance.md").read_text(), (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PUBLISH, READ = (code for language, code in BLOCKS if language == "python")
(COMMANDS,) = (code for language, code in BLOCKS if language == "sh")
(SHOWN,) = (code for language, code in BLOCKS if not language)
((COMMAND, IN_README),) = re.findall(
    r"^```console\n\$ (.*?)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL
)


@pytest.fixture(scope="module")
def environment(addresses: dict[str, str]) -> dict[str, str]:
    """The example has been published."""
    found = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TOCSIN_KAFKA__BOOTSTRAP": addresses["localhost:9092"],
        "TOCSIN_REDIS__URL": f"redis://{addresses['localhost:6379']}/0",
    }
    code = PUBLISH.replace("localhost:9092", addresses["localhost:9092"])
    run([sys.executable, "-W", "error::UserWarning", "-c", code], found)
    return found


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def eventually(command: str, environment: dict[str, str], shown: str) -> None:
    """What a command prints is what is shown, once the worker has got so far."""
    deadline, found = time.monotonic() + 60, ""
    while found != shown.rstrip("\n") and time.monotonic() < deadline:
        time.sleep(0.2)
        found = run(["bash", "-e", "-c", command], environment)
    assert found == shown.rstrip("\n")


def test_the_tables_are_those_shown(environment: dict[str, str]) -> None:
    eventually(COMMANDS, environment, SHOWN)


def test_the_readme_shows_the_first_of_them(environment: dict[str, str]) -> None:
    assert COMMANDS.startswith(f"{COMMAND}\n")
    eventually(COMMAND, environment, IN_README)


def test_python_reads_the_series(environment: dict[str, str]) -> None:
    calls = re.findall(r"`(\w+\(redis.*?\))` returns `(.*?)`", PAGE)
    assert len(calls) == 2
    for call, answer in calls:
        code = f"{READ}\nprint({call})".replace(
            "redis://localhost:6379/0", environment["TOCSIN_REDIS__URL"]
        )
        eventually(f"python -c '{code}'", environment, answer)


@pytest.mark.parametrize("page", ["performance.md", "late_labels.md"])
def test_the_settings_are_valid(page: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for code in blocks:
        (tmp_path / "tocsin.yaml").write_text(code)
        assert load(tmp_path / "tocsin.yaml").models
