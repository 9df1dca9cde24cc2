"""The page on checkpoints: its Python runs as written, and prints what it shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_example_prints_what_is_shown(run_page: Callable[[str], str]) -> None:
    (_, example), (_, shown) = BLOCKS
    assert run_page(example) == shown
