"""The snippets of the page on the watched loader run, and print what it shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/watched_loader.md"


def test_the_page_runs_and_prints_what_it_shows(run_page: Callable[[str], str]) -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    code = "\n".join(text for language, text in blocks if language == "python")
    assert run_page(code) == "".join(text for language, text in blocks if language == "")
