"""The pages on detectors: their Python runs as written, and prints what they show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "detectors" / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
((_, EXAMPLE),) = [block for block in BLOCKS if block[0] == "python"]
((_, SHOWN),) = [block for block in BLOCKS if not block[0]]


def test_the_example_prints_what_is_shown(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLE], cwd=tmp_path, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == SHOWN
