"""The page on bias: its two files are compared as it shows."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs/bias.md").read_text()
EXAMPLE = PAGE.partition("### Two files")[2]
(WRITE,) = re.findall(r"^```python\n(.*?)^```$", EXAMPLE, re.MULTILINE | re.DOTALL)
(COMPARE,) = re.findall(r"^```sh\n(.*?)^```$", EXAMPLE, re.MULTILINE | re.DOTALL)
(SHOWN,) = re.findall(r"^```text\n(.*?)^```$", EXAMPLE, re.MULTILINE | re.DOTALL)


def test_two_files_are_compared_as_shown(tmp_path: Path) -> None:
    tocsin, *arguments = shlex.split(COMPARE)
    assert tocsin == "tocsin"
    for command in (["-c", WRITE], ["-m", "tocsin.cli.main", *arguments]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.stderr == ""
    assert done.returncode == 1  # something differs
    assert [line.rstrip() for line in done.stdout.splitlines()] == SHOWN.splitlines()
