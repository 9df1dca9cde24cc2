"""What `tocsin decision` says of a test: who is better, that nobody is, or how long it may take."""

from __future__ import annotations

import doctest

import pytest

from tocsin.cli import decision
from tocsin.cli.decision import decisions, sentence

OF = {
    "gap": 0.03,
    "low": 0.01,
    "high": 0.05,
    "a": 900.0,
    "b": 1100.0,
    "claimed": 0.0,
    "within": 0.0,
}


def test_examples() -> None:
    assert doctest.testmod(decision).failed == 0


def test_figures_are_put_together_by_subject_and_others_left_alone() -> None:
    subject = "gap:recall:version=a:b|c|d"  # names may hold what is put between them
    figures = {f"{subject}:{name}": value for name, value in OF.items()} | {"accuracy": 0.9}
    assert decisions(figures) == {subject: OF}


@pytest.mark.parametrize(
    ("metric", "changed", "said"),
    [
        ("recall", {"claimed": 1.0}, "production is better by 0.030 (0.010 to 0.050)"),
        ("false_positive_rate", {"claimed": 1.0}, "shadow is better by 0.030 (0.010 to 0.050)"),
        ("positive_rate", {"claimed": 1.0}, "production has more, gap +0.030 (+0.010 to +0.050)"),
        ("recall", {"within": 1.0}, "no difference above 0.05, gap +0.030"),
        ("recall", {"more": 12_345.0}, "not decided yet, about 10,000 more events, gap +0.030"),
        ("recall", {}, "not decided yet, too near 0.05 to say when"),
    ],
)
def test_a_decision_in_words(metric: str, changed: dict[str, float], said: str) -> None:
    found = sentence(f"gap:{metric}:environment=production|shadow", OF | changed, 0.05)
    assert found.startswith(f"{metric}: {said}")
    assert found.endswith("environment=production|shadow, 900 and 1,100 events")
