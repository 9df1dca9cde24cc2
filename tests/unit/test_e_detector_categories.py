"""Categories: the budget however many there are, new ones that become known, onsets that are near."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.core.columns import Floats
from tocsin.core.verdict import Verdict
from tocsin.detectors.base import Observations
from tocsin.detectors.e_detector import EDetector


def said(values: Floats, budget: float = 1e6, name: str = "category:x") -> list[Verdict]:
    rows = np.arange(len(values))
    batch = Observations(
        names=(name,), values=np.asarray(values, np.float64)[:, None], offsets=rows,
        rows=np.zeros_like(rows), categories=frozenset([name]),
    )  # fmt: skip
    return EDetector(budget).update(batch)


def phases(verdicts: list[Verdict]) -> list[tuple[str, str]]:
    return [(v.phase, v.change or v.outcome) for v in verdicts]


@pytest.mark.parametrize("count", [3, 63, 80, 300, 2000])
def test_the_budget_holds_however_many_categories_there_are(count: int) -> None:
    alarms = 0
    for seed in range(60):
        values = np.random.default_rng([seed, count]).integers(0, count, 4300)
        alarms += sum(v.phase == "opened" for v in said(values, 2e4, f"category:{seed}"))
    assert alarms <= 12 + 2.4 * np.sqrt(12)  # 60 * 4,000 / 2e4, and the 99 % bound


def test_a_column_of_ids_is_silent() -> None:
    assert said(np.random.default_rng(0).permutation(20_000)) == []


def test_a_value_that_nobody_has_seen_settles_and_is_known_from_then_on() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate(
        [rng.integers(0, 3, 3000), rng.integers(10, 13, 5000), rng.choice([10, 11], 5000, p=[0.95, 0.05]),
         rng.integers(20, 30, 5000)]
    )  # fmt: skip
    found = said(values)
    assert phases(found) == [
        ("opened", "new category"), ("settled", "new regime"), ("opened", "shares"),
        ("settled", "new regime"), ("opened", "new category"), ("settled", "new regime"),
    ]  # fmt: skip
    assert set(found[0].newcomers) <= {"10", "11", "12"}
    assert found[1].offset < 4500
    for opened, begin in zip(found[::2], (3000, 8000, 13_000), strict=True):
        assert begin <= opened.offset < begin + 60
        assert abs(opened.offset + 1 - (opened.delay_events or 0) - begin) <= 30


@pytest.mark.parametrize("share", [1.0, 0.2])
def test_the_onset_of_a_new_category_is_where_it_came(share: float) -> None:
    wrong, covered = [], 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        values = rng.choice(3, 3500, p=[0.6, 0.3, 0.1])
        values[3000:][rng.random(500) < share] = 7
        first = said(values)[0]
        assert first.change == "new category"
        true = first.offset + 1 - 3000
        wrong.append((first.delay_events or 0) - true)
        covered += (first.delay_low or 0) <= true <= (first.delay_high or 0)
        assert first.size == pytest.approx(
            (
                np.asarray(values[first.offset + 1 - (first.delay_events or 0) : first.offset + 1])
                == 7
            ).mean()
        )
    assert abs(np.median(wrong)) <= 5
    assert covered >= 30


def test_the_onset_of_other_shares_is_near() -> None:
    wrong, covered = [], 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        values = np.append(
            rng.choice(3, 3000, p=[0.6, 0.3, 0.1]), rng.choice(3, 1000, p=[0.2, 0.3, 0.5])
        )
        first = said(values)[0]
        true = first.offset + 1 - 3000
        wrong.append((first.delay_events or 0) - true)
        covered += (first.delay_low or 0) <= true <= (first.delay_high or 0)
    assert abs(np.median(wrong)) <= 8
    assert covered >= 34
