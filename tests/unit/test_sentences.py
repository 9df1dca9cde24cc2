"""One line about a change and its end: true, in the terms of the stream, without inner names."""

from __future__ import annotations

from typing import Any

import pytest

from tocsin.consumers.sentences import changed, ended
from tocsin.core.verdict import Summary, Verdict


def verdict(subject: str, **fields: Any) -> Verdict:
    about = {"detector": "e_detector", "offset": 0, "row": 0, "statistic": 1.0, "threshold": 1.0}
    return Verdict(subject=subject, **(about | fields))


BITS = {"edges": [-0.5, 0.5, 1.5]}
CASES = [
    (
        verdict(
            "feature:amount", change="location up", size_sigmas=1.5, delay_events=17, delay_low=14,
            delay_high=20, chance_events=1.8e6, reference=Summary(count=900, mean=20, std=5),
            current=Summary(count=17, mean=27.5, std=4),
        ),
        ("amount: location up, mean 20 -> 27.5 (+1.5 sigmas), detected 17 events after it began; "
        "by chance once in 2,000,000 events"),
    ),
    (
        verdict(
            "feature:amount", change="scale down", delay_events=60, delay_low=9, delay_high=285,
            reference=Summary(count=900, mean=20, std=5), current=Summary(count=60, mean=20, std=2.5),
        ),
        "amount: scale down, spread 5 -> 2.5, detected 60 events after it began (9 to 285)",
    ),
    (
        verdict(
            "score", change="shape", reference=Summary(count=10, mean=0, std=1, edges=[0, 1, 2, 3], counts=[2, 6, 2]),
            current=Summary(count=10, mean=0, std=1, edges=[0, 1, 2, 3], counts=[5, 0, 5]),
        ),
        "score: shape, 1 to 2 in 60.0% -> 0.0% of values",
    ),
    (
        verdict(
            "error", change="rate up", delay_events=30, reference=Summary(count=900, mean=0.1, **BITS),
            current=Summary(count=30, mean=0.4, **BITS),
        ),
        "accuracy 0.90 -> 0.60 on the last 30 labels, detected 30 labels after it began",
    ),
    (
        verdict(
            "missing:feature:amount", change="missing", reference=Summary(count=9, mean=0.0, **BITS),
            current=Summary(count=9, mean=0.25, **BITS),
        ),
        "amount: missing or of another type in 0.0% -> 25.0% of events",
    ),
    (
        verdict(
            "category:country", change="shares",
            reference=Summary(count=10, counts=[5, 5, 0], categories=["NL", "DE"]),
            current=Summary(count=10, counts=[9, 1, 0], categories=["NL", "DE"]),
        ),
        "country: NL 50.0% -> 90.0%, DE 50.0% -> 10.0%",
    ),
    (
        verdict(
            "category:country", change="new category", newcomers=["FR"],
            reference=Summary(count=10, counts=[5, 5, 0], categories=["NL", "DE"]),
            current=Summary(count=10, counts=[4, 4, 2], categories=["NL", "DE"]),
        ),
        "country: new category FR in 20.0% of its values",
    ),
    (
        verdict(
            "feature:x", detector="adwin", change="location down", size_sigmas=-2.0, delay_events=9,
            reference=Summary(count=256, mean=1, std=0.5), current=Summary(count=9, mean=0, std=1),
        ),
        "x: location down, mean 1 -> 0 (-2.0 sigmas), detected 9 events after it began; outside the budget",
    ),
    (
        verdict(
            "feature:load", detector="natural_size", unit="natural sizes", change="location up",
            evidence="+6.8 natural sizes over 7 days", reference=Summary(count=9000, mean=1, std=2),
            current=Summary(count=49, mean=3, std=2),
        ),
        "load: location up, mean 1 -> 3 (+6.8 natural sizes over 7 days)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("claim", "line"), CASES)
def test_a_change_in_one_line(claim: Verdict, line: str) -> None:
    assert changed(claim, is_regression=False) == line


@pytest.mark.parametrize(
    ("subject", "change", "now", "level"),
    [
        ("feature:amount", "location up", Summary(count=9, mean=27.4, std=5), "mean 27.4"),
        ("feature:amount", "scale down", Summary(count=9, mean=20, std=2.5), "mean 20, spread 2.5"),
        ("missing:feature:amount", "missing", Summary(count=9, mean=0.25, counts=[3, 1]), "missing in 25.0% of events"),
        ("error", "rate up", Summary(count=9, mean=0.4, counts=[3, 2]), "accuracy 0.60"),
        ("error", "location up", Summary(count=9, mean=0.4, counts=[1] * 16), "absolute error 0.4"),
        ("category:c", "shares", Summary(count=10, counts=[1, 9, 0], categories=["a", "b"]), "b 90.0%, a 10.0%"),
    ],
)  # fmt: skip
def test_an_end_tells_the_level_in_the_terms_of_the_change(
    subject: str, change: str, now: Summary, level: str
) -> None:
    line = ended([subject], change, "new regime", now, 1000)
    name = subject.rpartition(":")[2]
    assert line == f"{name}: at rest at a new level, which is the reference now ({level})"


def test_an_end_names_some_of_those_who_took_part() -> None:
    subjects = ["feature:a", "missing:feature:b", "score", "error", "feature:a"]
    now = Summary(count=9, mean=2.0)
    assert ended(subjects, "location up", "returned", now, 1000) == (
        "a, b, score and 1 more: back to what it was (of a: mean 2)"
    )
    assert ended(["client:7"], "", "", None, 1000) == "7: quiet for 1000 events"
    assert "the gap may last" in ended(["gap:recall:sex=F|M"], "gap up", "", None, 1000)
    assert ended(["detector:kswin"], "", "", None, 1000) == (
        "detector kswin: still set aside; no more is said of it"
    )
