"""How far a test of a gap has come: its interval at all times, its decisions, and the events that it forecasts."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from scipy.stats import binom

from tocsin.detectors import confidence_sequence
from tocsin.detectors.base import Observations
from tocsin.detectors.confidence_sequence import events_for, half_width
from tocsin.detectors.gap_progress import Progress
from tocsin.detectors.gap_test import GapTests, Pair

PAIR = Pair("gap:recall:version=1|2", "a", "b", 1.0)


def drawn(seed: int, count: int, gap: float, of_a: float = 0.5) -> Observations:
    rng = np.random.default_rng(seed)
    is_a = rng.random(count) < of_a
    values = (rng.random(count) < np.where(is_a, 0.8 - gap, 0.8)) * 1.0
    columns = np.stack([np.where(is_a, values, np.nan), np.where(is_a, np.nan, values)], axis=1)
    return Observations.of(columns, ("a", "b"))


def watching(epsilon: float = 0.05, scale: float = 1.0) -> GapTests:
    tests = GapTests(budget_events=1e6, epsilon=epsilon)
    tests.watch([PAIR._replace(scale=scale)])
    return tests


def after(batch: Observations, epsilon: float = 0.05, scale: float = 1.0) -> Progress:
    tests = watching(epsilon, scale)
    tests.update(batch)
    found = tests.progress(PAIR.subject)
    assert found is not None
    return found


def test_examples() -> None:
    assert doctest.testmod(confidence_sequence).failed == 0


@pytest.mark.parametrize("of_a", [0.5, 0.15])
def test_its_interval_holds_the_truth_at_all_times_together(of_a: float) -> None:
    runs, misses, widths = 300, 0, []
    for seed in range(runs):
        tests, batch = watching(), drawn(seed, 6_000, 0.1, of_a)
        is_off = False
        for begin in range(0, 6_000, 150):
            tests.update(batch.take(slice(begin, begin + 150)))
            found = tests.progress(PAIR.subject)
            is_off |= found is not None and not found.low <= -0.1 <= found.high
        misses += is_off
        assert found is not None
        widths.append((found.high - found.low) / 2)
    assert misses <= binom.ppf(0.999, runs, 0.05)
    once = 1.96 * np.sqrt((0.7 * 0.3 / of_a + 0.8 * 0.2 / (1 - of_a)) / 6_000)
    assert once < np.median(widths) < 2 * once


def test_decisions() -> None:
    gap = after(drawn(0, 20_000, 0.12))
    assert (gap.decision, gap.is_up, gap.more) == ("gap", False, 0.0)
    same = after(drawn(1, 20_000, 0.0))
    assert (same.decision, same.more) == ("within", 0.0)
    near = after(drawn(2, 100_000, 0.056))
    assert (near.decision, near.more) == ("open", None)
    assert watching().progress(PAIR.subject) is None
    assert watching().progress("never named") is None


@pytest.mark.parametrize("gap", [0.14, 0.0])
def test_it_forecasts_the_events_that_it_takes(gap: float) -> None:
    """Within a factor of three, half-way."""
    ratios = []
    for seed in range(20):
        tests, batch = watching(), drawn(seed, 30_000, gap)
        at: dict[int, Progress] = {}
        for begin in range(0, 30_000, 100):
            tests.update(batch.take(slice(begin, begin + 100)))
            found = tests.progress(PAIR.subject)
            if found is not None:
                at[begin + 100] = found
            if found is not None and found.decision != "open":
                assert found.decision == ("gap" if gap else "within")
                break
        end = max(at)
        half = at[end // 200 * 100]
        if half.more is not None:
            ratios.append(half.more / (end - end // 200 * 100))
    assert len(ratios) > 15
    assert 1 / 3 < np.median(ratios) < 3


def test_the_unit_is_the_metrics_and_it_outlives_a_restart() -> None:
    batch = drawn(3, 5_000, 0.1)
    plain, doubled = after(batch), after(batch, epsilon=0.1, scale=2.0)
    assert (doubled.gap, doubled.low, doubled.high) == pytest.approx(
        (2 * plain.gap, 2 * plain.low, 2 * plain.high)
    )
    assert doubled.decision == plain.decision
    tests, again = watching(), watching()
    tests.update(batch)
    again.restore(tests.snapshot())
    assert again.progress(PAIR.subject) == tests.progress(PAIR.subject)


def test_the_events_for_a_width_are_those_at_which_it_is_that_narrow() -> None:
    for width in (0.2, 0.05, 0.005):
        events = events_for(width, 0.16)
        assert half_width(events, 0.16) <= width < half_width(events / 1.06, 0.16)
