"""Features that are times: found among numbers and texts, and those that are after their event."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.core.verdict import Verdict
from tocsin.detectors.feature_times import NONE, FeatureTimes, Rows, shares

START = 1_767_225_600  # 2026-01-01
UNITS = {"seconds": 1, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}


def rows(begin: int, count: int) -> Rows:
    place = np.arange(begin, begin + count)
    times = (START + 60 * place) * 10**9
    return Rows(place, place * 0, times, times // (86_400 * 10**9))


def feed(of: FeatureTimes, values: dict[str, np.ndarray], step: int = 100) -> list[Verdict]:
    found = []
    count = len(next(iter(values.values())))
    for begin in range(0, count, step):
        some = {n: v[begin : begin + step] for n, v in values.items()}
        numbers = {n: v for n, v in some.items() if n.startswith("feature:")}
        texts = {n: v for n, v in some.items() if n.startswith("category:")}
        found += of.update(rows(begin, len(some[next(iter(some))])), numbers, texts)
    return found


def seconds(count: int, later: float, seed: int = 0) -> np.ndarray:
    """Times an hour before their events; that share is ten minutes after them."""
    after = np.random.default_rng(seed).random(count) < later
    return START + 60 * np.arange(count) + np.where(after, 600, -3_600)


@pytest.mark.parametrize("unit", UNITS)
def test_times_after_their_events_are_found_in_each_unit(unit: str) -> None:
    of = FeatureTimes()
    found = feed(
        of, {"feature:at": seconds(2_000, 0.2) * UNITS[unit], "feature:x": np.arange(2_000.0)}
    )
    assert [(v.subject, v.phase) for v in found] == [("leak:at", "opened")]
    assert found[0].offset < 400
    assert "more than 60 s after the event in" in found[0].evidence
    day = START // 86_400
    (share,) = shares(of.counts(day)).values()
    assert 0.1 < share.low < 0.2 < share.high < 0.3
    assert of.wanted(["feature:x"]) == []


def test_texts_are_times_too_and_what_is_no_time_is_left_out() -> None:
    times = (seconds(2_000, 0.5) * 1e9).astype(np.int64)
    times[100::10] = -1
    times[101::10] = NONE
    of = FeatureTimes()
    found = feed(of, {"category:when": times, "category:word": np.full(2_000, NONE)})
    assert [v.subject for v in found] == ["leak:when"]
    assert of.wanted(["category:word"]) == []


def test_a_clock_that_is_a_little_off_or_wrong_once_in_a_while_is_no_leak() -> None:
    of = FeatureTimes()
    at = START + 60 * np.arange(50_000) + 50.0
    at[::200] += 10_000
    assert feed(of, {"feature:at": at}, 5_000) == []
    assert feed(FeatureTimes(skew=10), {"feature:at": at[:3_000]}) != []


def test_a_leak_that_is_mended_settles() -> None:
    at = np.where(np.arange(4_000) < 1_500, seconds(4_000, 1.0), seconds(4_000, 0.0))
    found = feed(FeatureTimes(), {"feature:at": at})
    assert [v.phase for v in found] == ["opened", "settled"]


def test_named_features_only_and_far_from_their_events() -> None:
    values = {
        "feature:born": seconds(1_000, 0.0) - 1e9, "feature:planned": (seconds(1_000, 0.0) + 5e7) * 1e3,
        "feature:at": seconds(1_000, 1.0),
    }  # fmt: skip
    found = feed(FeatureTimes(["planned", "born"]), values)
    assert [v.subject for v in found] == ["leak:planned"]
    assert feed(FeatureTimes([]), values) == []


@pytest.mark.parametrize("seed", range(3))
def test_pieces_and_restarts_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 3_000
    values = {
        "feature:a": seconds(count, 0.1, seed), "feature:b": np.where(rng.random(count) < 0.9, np.nan, seconds(count, 0.3)),
        "category:c": np.where(rng.random(count) < 0.5, -1, (seconds(count, 0.05) * 1e9).astype(np.int64)),
        "feature:d": rng.normal(size=count),
    }  # fmt: skip
    whole = FeatureTimes()
    expected = feed(whole, values, count)
    assert expected
    for step in (1, 7, 333):
        of = FeatureTimes()
        found = feed(of, values, step)
        assert sorted((v.offset, v.subject) for v in found) == sorted(
            (v.offset, v.subject) for v in expected
        )
        assert of.state() == whole.state()
        again = FeatureTimes()
        again.restore(of.state())
        assert again.state() == whole.state()


def test_cohorts_are_bounded() -> None:
    of = FeatureTimes(spans=3)
    feed(of, {"feature:at": seconds(10_000, 0.0)}, 1_000)
    day = (START + 60 * 9_999) // 86_400
    assert [bool(of.counts(day - k)) for k in range(5)] == [True, True, True, False, False]
