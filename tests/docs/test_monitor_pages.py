"""The pages of single monitors: their code runs, claims what they show, and draws their pictures."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tocsin import training
from tocsin.training import BaseMonitor

FOLDER = Path(__file__).parents[2] / "docs/monitors"
PAGES = sorted(FOLDER.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_runs_and_draws_the_pictures_of_the_page(
    page: Path, tmp_path: Path, run_page: Callable[[str], str]
) -> None:
    text = page.read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    code = "\n".join(block for language, block in blocks if language == "python")
    shown = "".join(block for language, block in blocks if not language)
    assert said(run_page(code)) == said(shown)
    drawn = {path.name for path in tmp_path.glob("*.svg")}
    assert drawn == set(re.findall(r"!\[[^\]]+\]\((\w+\.svg)\)", text))
    for name in drawn:
        there = FOLDER / name
        assert there.stat().st_size < 150_000, "drawn anew by ./scripts/pictures"
        outlines = re.findall(r"<!-- (.*?) -->", (tmp_path / name).read_text())
        texts = re.findall(r"<text[^>]*>(.*?)</text>", there.read_text())
        assert words(texts) == words(outlines), "axes, names of lines, what was claimed"


def said(text: str) -> str:
    """Return a text without its numbers: the last places of a training differ between processors, and more after it has diverged."""
    return re.sub(r"\d[\d.]*(e[+-]\d+)?", "N", text)


def words(texts: list[str]) -> set[str]:
    """Return those of the texts of a picture that are no numbers, nor powers of ten."""
    return {text for text in texts if re.search(r"[a-z]{3}", text) and "$" not in text}


def test_each_monitor_has_a_page_and_the_overview_leads_to_all() -> None:
    overview = (FOLDER.parent / "training_monitors.md").read_text()
    assert set(re.findall(r"\]\(monitors/(\w+)\.md\)", overview)) == {page.stem for page in PAGES}
    kinds = [kind for kind in vars(training).values() if isinstance(kind, type)]
    shown = {kind.__name__ for kind in kinds if issubclass(kind, BaseMonitor)}
    for name in sorted(shown - {"BaseMonitor", "Monitor", "Monitors"}):
        assert f"`{name}`" in overview, name
    # These two watch nothing; what they write and publish has pages elsewhere.
    watching = shown - {"BaseMonitor", "Monitor", "Monitors", "ReferenceMonitor", "TrainingEvents"}
    titles = {
        name: f"`{name}`" in (FOLDER / f"{page}.md").read_text() for name, page in named(watching)
    }
    assert all(titles.values()), titles
    assert len(PAGES) == len(watching)


def named(monitors: set[str]) -> list[tuple[str, str]]:
    """Return each monitor with the name of its page."""
    stems = {path.stem for path in PAGES}
    found = []
    for name in sorted(monitors):
        word = name.removesuffix("Monitor").lower()
        found.append((name, next(stem for stem in (word, f"{word}s") if stem in stems)))
    return found
