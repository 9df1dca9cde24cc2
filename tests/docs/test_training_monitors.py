"""The page on monitors of training: its loop runs, and prints what the page shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs/training_monitors.md").read_text()
ELSEWHERE = re.compile(r"SummaryWriter|training\.(lightning|hugging_face)")


def test_the_loop_runs_and_prints_what_the_page_shows(run_page: Callable[[str], str]) -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    # Snippets that need a trainer or a writer run where those are loaded: tests/unit/test_training_shown.py, _lightning.py, _hugging_face.py
    ours = [
        text for language, text in blocks if language == "python" and not ELSEWHERE.search(text)
    ]
    code = "\n".join(ours)
    (shown,) = [text for language, text in blocks if not language]
    assert run_page(code) == shown
