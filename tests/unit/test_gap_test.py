"""The gap test: its level and its budget without a gap, its bets against plain ones, and what it says of a gap."""

from __future__ import annotations

import dataclasses
from collections import deque

import msgspec
import numpy as np
import pytest
from scipy.stats import binom, poisson

from tocsin.core.errors import StateError
from tocsin.core.snapshot import pack, unpack
from tocsin.core.verdict import Verdict
from tocsin.detectors import gap_kernel as kernel
from tocsin.detectors.base import Observations
from tocsin.detectors.gap_test import GapTests, Pair

PAIR = Pair("gap:recall:sex=1|2", "recall:sex=1", "recall:sex=2", 1.0)
NAMES = (PAIR.a, PAIR.b)


def rows(values: np.ndarray, is_a: np.ndarray) -> Observations:
    return Observations.of(
        np.stack([np.where(is_a, values, np.nan), np.where(is_a, np.nan, values)], axis=1), NAMES
    )


def watching(**settings: float) -> GapTests:
    made = GapTests(**settings)
    made.watch([PAIR])
    return made


def drawn(seed: int, n: int, rate_a: float, rate_b: float, of_a: float = 0.5) -> Observations:
    rng = np.random.default_rng(seed)
    is_a = rng.random(n) < of_a
    return rows((rng.random(n) < np.where(is_a, rate_a, rate_b)) * 1.0, is_a)


def claims(verdicts: list[Verdict]) -> list[bytes]:
    return [msgspec.msgpack.encode(verdict) for verdict in verdicts]


def test_without_a_gap_no_more_alarm_than_the_level_allows() -> None:
    """Whatever the law and the order of groups: drawn, in turns of 40, or one group rare."""
    runs, alarms = 2_000, 0
    for run in range(runs):
        rng = np.random.default_rng([1, run])
        values = (rng.random(600) < 0.8) * 1.0 if run % 2 else rng.beta(2, 3, 600)
        orders = (rng.random(600) < 0.5, np.arange(600) // 40 % 2 == 0, rng.random(600) < 0.1)
        alarms += len(watching(alpha=0.05).update(rows(values, orders[run % 3])))
    assert 5 <= alarms <= binom.ppf(0.999, runs, 0.05)  # and it does not sleep


def test_without_a_gap_no_more_alarms_than_the_budget_allows() -> None:
    found = watching(budget_events=2_000).update(drawn(2, 200_000, 0.8, 0.8, of_a=0.3))
    assert 10 <= len(found) <= poisson.ppf(0.999, 100)


def test_the_level_is_for_all_tests_together() -> None:
    """Of ten groups against all others, which depend on one another."""
    listed = [Pair(f"g{k}", f"a{k}", f"b{k}", 0.1) for k in range(10)]
    names = tuple(stream for pair in listed for stream in (pair.a, pair.b))
    runs, alarms = 300, 0
    for run in range(runs):
        rng = np.random.default_rng([3, run])
        is_in = rng.integers(0, 10, 1_000)[:, None] == np.arange(10)
        columns = np.stack([is_in, ~is_in], axis=2).reshape(-1, 20)
        values = np.where(columns, (rng.random(1_000) < 0.8)[:, None] * 1.0, np.nan)
        made = GapTests(alpha=0.1)
        made.watch(listed)
        alarms += bool(made.update(Observations.of(values, names)))
    assert 1 <= alarms <= binom.ppf(0.999, runs, 0.1)


def plain(values: np.ndarray, is_a: np.ndarray, epsilon: float) -> tuple[list[float], int]:
    """Return the e-value after each pair, and how many pairs there were, the plain way."""
    waiting: deque[list[float]] = deque()
    side, seen, found = True, [], []
    bets = np.full((2, len(kernel.GAPS)), 0.5 / len(kernel.GAPS))
    for value, of_a in zip(values.tolist(), is_a.tolist(), strict=True):
        if not waiting or of_a == side:
            side = of_a
            if len(waiting) < kernel.SLOTS:
                waiting.append([value])
            else:
                min(waiting, key=len).append(value)
            continue
        other = waiting.popleft()
        spread = 1 + 1 / len(other)
        d = (value - np.mean(other)) * (1 if of_a else -1)
        v = (kernel.PRIOR_PAIRS / 4 + sum(seen)) / (kernel.PRIOR_PAIRS + len(seen)) * spread
        stakes = np.minimum(kernel.GAPS / (v + kernel.GAPS**2), 0.9 / (1 + epsilon))
        bets *= 1 + stakes * (np.array([[d], [-d]]) - epsilon)
        seen.append(d * d / spread)
        found.append(float(bets.sum()))
    return found, len(seen)


@pytest.mark.parametrize("of_a", [0.5, 0.2, 0.9])
@pytest.mark.parametrize("epsilon", [0.0, 0.03])
def test_its_bets_are_the_plain_ones(of_a: float, epsilon: float) -> None:
    rng = np.random.default_rng(4)
    is_a, values = rng.random(800) < of_a, rng.beta(3, 1, 800)
    expected, pairs = plain(values, is_a, epsilon)
    made = watching(alpha=1e-9, epsilon=epsilon)
    made.update(rows(values, is_a))
    _, arrays = unpack("gap_test", 1, made.snapshot())
    assert arrays["pairs"][0] == pairs
    assert arrays["evidence"].sum() / 1e-9 == pytest.approx(expected[-1], rel=1e-9)


def alike(key: list[int], n: int, rate_b: float = 0.8) -> np.ndarray:
    """Return outcomes of two models, the second for half of the requests; four in five are right or wrong together."""
    rng = np.random.default_rng(key)
    once, own = rng.random((n, 1)), rng.random((n, 2))
    chance = np.where(rng.random((n, 1)) < 0.8, once, own)
    values = (chance < np.array([0.8, rate_b])) * 1.0
    values[rng.random(n) < 0.5, 1] = np.nan
    return values


def test_a_row_of_both_groups_is_a_pair_and_who_waits_goes_on_waiting() -> None:
    values = alike([15], 800, 0.7)
    whole, pairs = watching(alpha=1e-9), watching(alpha=1e-9)
    whole.update(Observations.of(values, NAMES))
    both = values[~np.isnan(values[:, 1])]
    pairs.update(Observations.of(both, NAMES))
    (_, some), (_, found) = (unpack("gap_test", 1, made.snapshot()) for made in (whole, pairs))
    assert found["pairs"][0] == len(both)
    assert (found["held"][0], some["held"][0]) == (0, kernel.SLOTS)
    np.testing.assert_array_equal(some["evidence"], found["evidence"])
    is_a = np.arange(2 * len(both)) % 2 == 0  # one after the other is a pair too, if nobody waits
    expected, _ = plain(both.ravel(), is_a, 0.0)
    assert found["evidence"].sum() / 1e-9 == pytest.approx(expected[-1], rel=1e-9)
    assert whole.gap(PAIR.subject) == pairs.gap(PAIR.subject)


def test_pairs_of_outcomes_that_depend_on_one_another_alarm_no_more_than_the_level_allows() -> None:
    runs = 1_000
    alarms = sum(
        len(watching(alpha=0.05).update(Observations.of(alike([16, run], 1_000), NAMES)))
        for run in range(runs)
    )
    assert 5 <= alarms <= binom.ppf(0.999, runs, 0.05)


def test_a_bet_is_positive_and_fair_for_any_outcomes() -> None:
    """The largest loss in each pair, for long: evidence stays above 0 and falls."""
    is_a = np.arange(60) % 2 == 0
    made = watching(budget_events=1e6, epsilon=0.5)
    made.update(rows(np.where(is_a, 1.0, 0.0), is_a))
    _, arrays = unpack("gap_test", 1, made.snapshot())
    assert (arrays["evidence"] > 0).all()


def test_state_is_the_same_to_the_bit_at_any_cut() -> None:
    batch = drawn(6, 3_000, 0.7, 0.8, of_a=0.3)
    whole, parts = watching(budget_events=1e4), watching(budget_events=1e4)
    found, begin = [], 0
    for end in [*np.sort(np.random.default_rng(7).integers(0, 3_000, 40)).tolist(), 3_000]:
        found += parts.update(batch.take(slice(begin, end)))
        again = watching(budget_events=1e4)
        again.restore(parts.snapshot())
        parts, begin = again, end
    expected = whole.update(batch)
    assert expected
    assert claims(found) == claims(expected)
    assert parts.snapshot() == whole.snapshot()


def test_what_it_says_of_a_gap() -> None:
    (verdict,) = watching(alpha=0.01).update(drawn(8, 30_000, 0.7, 0.8))
    assert (verdict.subject, verdict.change) == ("gap:recall:sex=1|2", "gap down")
    assert verdict.statistic >= verdict.threshold == 100
    assert verdict.size == pytest.approx(-0.1, abs=0.06)
    assert verdict.evidence.startswith(f"gap {verdict.size:+.3f} (-0.")
    assert "in one of 1e+02 audits" in verdict.evidence
    first, *_ = watching(budget_events=1e5).update(drawn(8, 30_000, 0.9, 0.8, of_a=0.1))
    assert first.change == "gap up"
    assert first.chance_events is not None
    assert first.chance_events >= 1e5
    assert "once in" in first.evidence


def test_what_is_within_epsilon_is_never_claimed_and_what_is_beyond_is() -> None:
    batch = drawn(9, 100_000, 0.75, 0.8)
    assert not watching(alpha=0.05, epsilon=0.06).update(batch)
    (verdict,) = watching(alpha=0.05, epsilon=0.02).update(batch)
    assert verdict.size == pytest.approx(-0.05, abs=0.02)


def test_a_budget_finds_a_late_gap_sooner_than_a_level() -> None:
    before, after = drawn(10, 40_000, 0.8, 0.8), drawn(11, 40_000, 0.7, 0.8)
    values = np.concatenate([before.values, after.values])
    late = Observations.of(values, NAMES)
    fast, *_ = [v for v in watching(budget_events=1e6).update(late) if v.offset >= 40_000]
    (slow,) = watching(alpha=1e-2).update(late)
    assert fast.offset < slow.offset
    assert fast.size == pytest.approx(-0.1, abs=0.05)  # since it opened
    assert abs(slow.size or 0.0) < 0.03  # over all
    assert fast.delay_events == pytest.approx(fast.offset - 40_000, abs=1_500)


def test_the_unit_of_a_gap_is_the_metrics() -> None:
    """A calibration gap of 0.2 is a difference of outcomes of 0.1."""
    rng = np.random.default_rng(12)
    is_a = rng.random(20_000) < 0.5
    values = (1 + (rng.random(20_000) < 0.5) - np.where(is_a, 0.5, 0.3)) / 2
    made = GapTests(alpha=0.01, epsilon=0.05)
    made.watch([PAIR._replace(scale=2.0)])
    (verdict,) = made.update(rows(values, is_a))
    assert verdict.size == pytest.approx(-0.2, abs=0.08)
    found = made.gap(PAIR.subject)
    assert found is not None
    assert found[1] < -0.2 < found[2]
    assert found[2] - found[1] < 0.04


def test_junk_and_absent_streams_change_nothing() -> None:
    made = watching(alpha=0.05)
    junk = np.array([[np.nan, np.inf], [-0.1, 1.1], [1e308, -np.inf]])
    assert not made.update(Observations.of(junk, NAMES))
    assert not made.update(Observations.of(np.ones((50, 2)), ("other", PAIR.b)))
    assert made.gap(PAIR.subject) is None  # one group only
    assert made.gap("never named") is None
    assert not GapTests(alpha=0.05).update(Observations.of(np.ones((5, 2)), NAMES))


def test_shares_are_held_together() -> None:
    level, budget = GapTests(alpha=0.05), GapTests(budget_events=1e4)
    half = [Pair("x", "a", "b", 0.5), Pair("y", "a", "c", 0.5)]
    for made in (level, budget):
        made.watch(half)
        with pytest.raises(ValueError, match=r"at most 1 together, got 1\.2: scale them down"):
            made.watch([*half, Pair("z", "b", "c", 0.2)])
    other = [Pair("x", "a", "b", 0.1), Pair("z", "b", "c", 0.9)]
    budget.watch(other)  # y stops
    with pytest.raises(ValueError, match="at most 1 together"):
        level.watch(other)  # what was given once is spent
    is_a = np.arange(400) % 2 == 0
    values = np.where(is_a, 1.0, np.nan), np.where(is_a, np.nan, 0.0), np.where(is_a, np.nan, 0.0)
    batch = Observations.of(np.stack(values, axis=1), ("a", "b", "c"))
    assert {verdict.subject for verdict in budget.update(batch)} == {"x"}
    assert {verdict.subject for verdict in level.update(batch)} == {"x", "y"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give one of"),
        ({"alpha": 0.1, "budget_events": 5.0}, "give one of"),
        ({"alpha": 1.0}, "alpha must be between 0 and 1, got 1.0"),
        ({"budget_events": 0.5}, "budget_events must be 1 or more, got 0.5"),
        ({"alpha": 0.1, "epsilon": 1.0}, "epsilon must be at least 0 and below 1, got 1.0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GapTests(**settings)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([PAIR._replace(share=0.0)], "expected a share in"),
        ([PAIR._replace(scale=0.0)], "a scale above 0"),
        ([PAIR._replace(a="other")], "has compared other streams"),
        ([PAIR._replace(share=0.1), PAIR._replace(share=0.1)], "each subject may come once"),
    ],
)
def test_bad_pairs_are_refused(pairs: list[Pair], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        watching(alpha=0.05).watch(pairs)


@pytest.mark.parametrize(("array", "value"), [("first", 9), ("held", -1), ("waiting_count", 0)])
def test_a_queue_that_cannot_be_is_refused(array: str, value: int) -> None:
    made = watching(alpha=0.05)
    made.update(rows(np.ones(3), np.array([True, True, True])))
    before = made.snapshot()
    meta, arrays = unpack("gap_test", 1, before)
    arrays[array][:] = value
    with pytest.raises(StateError):
        made.restore(pack("gap_test", 1, meta, arrays))
    with pytest.raises(StateError, match=r"has level 0\.05, expected 0\.0"):
        watching(budget_events=1e4).restore(before)
    assert made.snapshot() == before


def test_a_batch_without_rows_changes_nothing() -> None:
    made = watching(alpha=0.05)
    before = made.snapshot()
    empty = dataclasses.replace(drawn(0, 10, 0.5, 0.5).take(slice(0, 0)))
    assert not made.update(empty)
    assert made.snapshot() == before
