"""The e-detector: false alarms against the budget, what is found and what it is called, and the course of a change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tocsin.core.verdict import Verdict
from tocsin.detectors.base import Observations
from tocsin.detectors.budget import EPOCH, Budget
from tocsin.detectors.e_detector import EDetector
from tocsin.detectors.reference import Reference

CHANGE = 3000


def observed(values: np.ndarray, *names: str, run: int = 0, category: bool = False) -> Observations:
    """Rows whose ties are broken anew for each run."""
    batch = Observations.of(np.asarray(values, np.float64), names or None)
    return replace(
        batch,
        rows=np.full(len(batch), run),
        categories=frozenset(batch.names) if category else frozenset(),
    )


def opened(verdicts: list[Verdict]) -> list[Verdict]:
    return [v for v in verdicts if v.phase == "opened"]


def phases(verdicts: list[Verdict]) -> list[str]:
    """Opened, settled, ...: without what moves in between."""
    return [v.phase for v in verdicts if v.phase != "moved"]


def bits(rng: np.random.Generator, *rates_and_lengths: tuple[float, int]) -> np.ndarray:
    return np.concatenate([rng.random(n) < rate for rate, n in rates_and_lengths]).astype(float)


def normal(seed: int, *shifts_and_lengths: tuple[float, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(by, 1, n) for by, n in shifts_and_lengths])


# --- false alarms ---------------------------------------------------------------------------------


def poisson_bound(mean: float) -> float:
    """Exceeded with probability 0.001 or less."""
    return mean + 3.1 * np.sqrt(mean) + 2


LAWS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "Cauchy": lambda rng, shape: rng.standard_cauchy(shape),
    "ties": lambda rng, shape: rng.poisson(1.0, shape).astype(float),
    "nearly constant": lambda rng, shape: (rng.random(shape) < 0.02) * rng.normal(size=shape),
    "bits": lambda rng, shape: (rng.random(shape) < 0.1).astype(float),
    "rare bits": lambda rng, shape: (rng.random(shape) < 0.01).astype(float),
}


@pytest.mark.parametrize("law", LAWS)
def test_false_alarms_stay_within_the_budget(law: str) -> None:
    rng, events, budget = np.random.default_rng(5), 60_000, 1000.0
    values = LAWS[law](rng, (events, 6))
    found = len(opened(EDetector(budget).update(observed(values))))
    assert found <= poisson_bound(events / budget)


def test_false_alarms_of_categories_stay_within_the_budget() -> None:
    rng, events, budget = np.random.default_rng(6), 60_000, 1000.0
    shares = 1 / np.arange(1, 13)
    values = rng.choice(12, (events, 4), p=shares / shares.sum())
    found = opened(EDetector(budget).update(observed(values, category=True)))
    assert len(found) <= poisson_bound(events / budget)


def test_the_bets_are_as_bold_as_the_budget_allows() -> None:
    """Far fewer false alarms than allowed would be delay given away."""
    values = np.random.default_rng(7).normal(size=(100_000, 6))
    assert len(opened(EDetector(1000).update(observed(values)))) >= 25


def test_shares_that_move_stay_within_the_budget() -> None:
    """Streams end, begin again and are new: each event's stakes are one budget's all the same."""
    rng, events, budget = np.random.default_rng(8), 80_000, 1000.0
    values = rng.normal(size=(events, 8))
    values[6000:40_000, :4] = np.nan
    values[:20_000, 4:6] = np.nan
    detector = EDetector(budget)
    found = opened(detector.update(observed(values)))
    assert len(found) <= poisson_bound(events / budget)
    assert detector.budget.allowed == pytest.approx(events / budget)
    assert detector.budget.alarms == len(found)


def test_a_stream_that_ends_leaves_its_share_to_the_others() -> None:
    def threshold(values: np.ndarray) -> float:
        values[-2000:, 0] += 3
        return opened(EDetector(1e5).update(observed(values)))[-1].threshold

    rng = np.random.default_rng(9)
    both = threshold(rng.normal(size=(10 * EPOCH, 2)))
    values = rng.normal(size=(10 * EPOCH, 2))
    values[EPOCH:, 1] = np.nan
    assert both == pytest.approx(2e5)
    assert threshold(values) == pytest.approx(1e5)


def test_a_budget_in_days_is_spent_by_event_time() -> None:
    rng, every = np.random.default_rng(10), 10**10  # one event in ten seconds
    values = rng.normal(size=(3 * EPOCH, 2))
    batch = observed(values)
    detector = EDetector(Budget(days=1))
    detector.update(replace(batch, times=batch.offsets * every))
    assert detector.budget.events == pytest.approx(8640, rel=1e-3)


# --- what is found, and what it is called ---------------------------------------------------------


def two_heaps(rng: np.random.Generator, n: int) -> np.ndarray:
    """Mean 0 and variance 1, as a standard normal; but everything else differs."""
    return rng.choice([-1.0, 1.0], n) * np.sqrt(0.96) + 0.2 * rng.normal(size=n)


CHANGES: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], set[str]]] = {
    "up": (lambda rng, n: rng.normal(1, 1, n), {"location up"}),
    "down": (lambda rng, n: rng.normal(-1, 1, n), {"location down"}),
    "wider": (lambda rng, n: rng.normal(0, 2, n), {"scale up"}),
    "narrower": (lambda rng, n: rng.normal(0, 0.4, n), {"scale down"}),
    "two heaps": (two_heaps, {"shape"}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_called_what_it_is(what: str) -> None:
    after, names = CHANGES[what]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        values = np.concatenate([rng.normal(size=CHANGE), after(rng, 1000)])
        found = opened(EDetector().update(observed(values, run=seed)))
        assert found, f"seed {seed}"
        assert CHANGE <= found[0].offset < CHANGE + 400
        assert found[0].change in names


@pytest.mark.parametrize(("before", "after", "name"), [(0.1, 0.3, "up"), (0.5, 0.2, "down")])
def test_a_rate_that_changes_is_called_so(before: float, after: float, name: str) -> None:
    for seed in range(5):
        values = bits(np.random.default_rng(seed), (before, CHANGE), (after, 1000))
        first = opened(EDetector().update(observed(values, run=seed)))[0]
        assert first.change == f"rate {name}"
        assert first.offset >= CHANGE
        assert first.size == pytest.approx(after - before, abs=0.15)


def test_a_new_category_and_other_shares_are_told_apart() -> None:
    rng = np.random.default_rng(11)
    values = rng.integers(0, 5, CHANGE + 1000)
    new, other = values.copy(), values.copy()
    new[CHANGE:][rng.random(1000) < 0.2] = 77
    other[CHANGE:][rng.random(1000) < 0.5] = 3
    for changed, name in ((new, "new category"), (other, "shares")):
        first = opened(EDetector().update(observed(changed, category=True)))[0]
        assert first.change == name
        assert CHANGE <= first.offset < CHANGE + 200


def test_a_verdict_says_by_how_much_since_when_and_how_sure() -> None:
    values = 50 + 4 * normal(12, (0, CHANGE), (1, 500))
    first = opened(EDetector(1e5).update(observed(values)))[0]
    assert first.size == pytest.approx(4, abs=2.5)
    assert first.size_sigmas == pytest.approx(1, abs=0.6)
    assert first.delay_events is not None
    assert first.delay_low is not None
    assert first.delay_high is not None
    assert first.delay_low <= first.offset + 1 - CHANGE <= first.delay_high
    assert first.chance_events is not None
    assert first.chance_events >= 1e5, "rarer than the budget has false alarms"
    assert first.statistic >= first.threshold == pytest.approx(1e5)
    assert first.reference is not None
    assert first.current is not None
    assert first.reference.mean == pytest.approx(50, abs=0.5)
    assert first.reference.edges == first.current.edges
    assert first.reference.count + first.current.count <= first.offset + 1


def test_the_interval_of_the_onset_covers_it() -> None:
    covered = 0
    for run in range(60):
        values = normal(100 + run, (0, 2000 + 13 * run), (1, 400))
        first = opened(EDetector().update(observed(values, run=run)))[0]
        delay = first.offset + 1 - (2000 + 13 * run)
        covered += (first.delay_low or 0) <= delay <= (first.delay_high or 0)
    assert covered / 60 >= 0.85


def onsets(shift: float, before: int, runs: int) -> np.ndarray:
    """(runs, 4) the true delay, the low end of the interval, the estimate, the high end."""
    found = []
    for run in range(runs):
        values = normal(700 + run, (0, before), (shift, 10_000))
        verdicts = opened(EDetector().update(observed(values, run=run)))
        first = next(v for v in verdicts if v.offset >= before)
        delay = first.offset + 1 - before
        found.append((delay, first.delay_low, first.delay_events, first.delay_high))
    return np.array(found, float)


def test_the_onset_is_not_drawn_to_the_beginning_of_time() -> None:
    """The first values set the cells, so their scores are a little off for ever."""
    true, low, estimate, high = onsets(1.0, 20_000, 60).T
    assert ((low <= true) & (true <= high)).mean() >= 0.88
    assert ((estimate < true / 2) | (estimate > 2 * true)).mean() <= 0.1


def test_an_onset_further_back_than_the_values_kept_is_found() -> None:
    true, low, estimate, high = onsets(0.2, 20_000, 60).T
    assert true.max() > 1024, "too large a change for this test"
    assert ((low <= true) & (true <= high)).mean() >= 0.7
    assert 0.6 <= np.median(estimate / true) <= 1.4


@pytest.mark.parametrize("cut", [64, 6000])
def test_the_onset_of_a_rare_stream_is_told_in_events(cut: int) -> None:
    rng, errors = np.random.default_rng(21), []
    for _ in range(10):
        values = rng.normal(size=(120_000, 2))
        values[100_000:, 0] += 1.5
        values[:, 0][rng.random(120_000) > 0.05] = np.nan
        detector, found = EDetector(), []
        rows = observed(values)
        for begin in range(0, len(values), cut):
            found += detector.update(rows.take(slice(begin, begin + cut)))
        first = opened(found)[0]
        errors.append(first.offset + 1 - (first.delay_events or 0) - 100_000)
        assert (first.delay_low or 0) <= (first.delay_events or 0) <= (first.delay_high or 0)
    assert abs(np.median(errors)) <= 60  # three of its values


@pytest.mark.parametrize(("before", "after"), [(0.01, 0.4), (0.002, 0.1), (0.3, 0.02)])
def test_the_onset_of_a_rate_that_changes_by_much_is_near(before: float, after: float) -> None:
    wrong, covered = [], 0
    for seed in range(40):
        values = bits(np.random.default_rng(seed), (before, 4000), (after, 1000))
        settings = EDetector(rate_tolerance=0.02)
        first = next(
            v for v in opened(settings.update(observed(values, run=seed))) if v.offset >= 4000
        )
        true = first.offset + 1 - 4000
        wrong.append(abs((first.delay_events or 0) - true))
        covered += (first.delay_low or 0) <= true <= (first.delay_high or 0)
    assert np.median(wrong) <= 7
    assert covered >= 34


# --- tolerance ------------------------------------------------------------------------------------


def within(values: Callable[[int], np.ndarray], begin: int, **settings: float) -> int:
    """In how many of 20 runs an alarm comes after `begin`."""
    return sum(
        any(
            v.offset >= begin
            for v in opened(EDetector(**settings).update(observed(values(s), run=s)))
        )
        for s in range(20)
    )


def test_a_tolerated_shift_is_hardly_ever_reported() -> None:
    def values(seed: int) -> np.ndarray:
        return normal(500 + seed, (0, 10_000), (0.1, 6000))

    assert within(values, 10_000, tolerance=0.25) <= 4
    assert within(values, 10_000) >= 14


def test_a_shift_beyond_the_tolerance_is_found_as_soon_as_without() -> None:
    values = normal(15, (0, CHANGE), (1, 500))
    with_tolerance = opened(EDetector(tolerance=0.1).update(observed(values)))[0]
    without = opened(EDetector().update(observed(values)))[0]
    assert 0 <= with_tolerance.offset - without.offset <= 20


def test_another_shape_of_the_same_mean_and_spread_is_found_with_a_tolerance_too() -> None:
    rng = np.random.default_rng(0)
    humps = rng.choice([-1.0, 1.0], 1000) * np.sqrt(1 - 0.3**2) + rng.normal(0, 0.3, 1000)
    values = np.concatenate([normal(5, (0, CHANGE)), humps])
    first = opened(EDetector(tolerance=0.1).update(observed(values)))[0]
    assert first.change == "shape"
    assert CHANGE <= first.offset < CHANGE + 300


def test_a_tolerated_rate_is_hardly_ever_reported() -> None:
    def values(seed: int) -> np.ndarray:
        return bits(np.random.default_rng(seed), (0.1, 10_000), (0.12, 8000))

    assert within(values, 10_000, rate_tolerance=0.03) <= 3
    assert within(values, 10_000) >= 8


def test_a_rate_beyond_the_tolerance_is_found() -> None:
    values = bits(np.random.default_rng(16), (0.1, CHANGE), (0.3, 1000))
    first = opened(EDetector(rate_tolerance=0.03).update(observed(values)))[0]
    assert CHANGE <= first.offset < CHANGE + 200


# --- the course of a change -----------------------------------------------------------------------


def test_a_new_regime_settles_and_is_the_reference_from_then_on() -> None:
    values = normal(17, (0, CHANGE), (1, CHANGE), (0, CHANGE))
    verdicts = EDetector(policy="adapt").update(observed(values))
    assert phases(verdicts) == ["opened", "settled", "opened", "settled"]
    first, settled, back, _ = [v for v in verdicts if v.phase != "moved"]
    assert first.offset - CHANGE < 100
    assert CHANGE + 900 < settled.offset < CHANGE + 2500
    assert settled.outcome == "new regime"
    assert 0 <= back.offset - 2 * CHANGE < 100
    assert back.change == "location down"


def test_kept_references_wait_for_the_return() -> None:
    values = normal(18, (0, CHANGE), (1, CHANGE), (0, CHANGE), (1, 500))
    verdicts = EDetector(policy="keep").update(observed(values))
    assert phases(verdicts) == ["opened", "settled", "opened"]
    _, settled, again = [v for v in verdicts if v.phase != "moved"]
    assert settled.outcome == "returned"
    assert settled.offset >= 2 * CHANGE, "closed while it was still changed"
    # The old reference is back at once, with no warm-up.
    assert 0 <= again.offset - 3 * CHANGE < 100
    assert again.change == "location up"


def test_a_glitch_returns_and_a_change_does_not() -> None:
    glitch = EDetector().update(observed(normal(19, (0, CHANGE), (3, 60), (0, 4000))))
    settled = [v for v in glitch if v.phase == "settled"]
    assert [v.outcome for v in settled] == ["returned"]


def test_a_stream_that_never_rests_is_given_up() -> None:
    rng = np.random.default_rng(20)
    restless = np.repeat(rng.normal(0, 5, 200), 100) + rng.normal(size=20_000)
    values = np.concatenate([rng.normal(size=CHANGE), restless])
    settled = [v for v in EDetector().update(observed(values)) if v.phase == "settled"]
    assert settled[0].outcome == "unsettled"
    assert 9_000 < settled[0].offset - CHANGE < 12_000


def test_a_ramp_is_one_change() -> None:
    rng, rates = np.random.default_rng(21), np.concatenate([np.full(5000, 0.1), np.full(6000, 0.4)])
    rates[5000:6500] = np.linspace(0.1, 0.4, 1500)
    values = (rng.random(len(rates)) < rates).astype(float)
    verdicts = EDetector(1e5, rate_tolerance=0.02).update(observed(values, "error"))
    assert phases(verdicts) == ["opened", "settled"]
    assert any(v.phase == "moved" for v in verdicts)


def test_what_changed_with_it_but_less_is_no_change_to_come() -> None:
    """When the stream that has changed settles, the others' references start anew."""
    values = np.random.default_rng(22).normal(size=(20_000, 2))
    values[10_000:, 0] += 2
    values[10_000:, 1] += 0.12  # alone it is found some thousands of values later
    batch = observed(values)
    assert {v.subject for v in opened(EDetector().update(batch))} == {"stream:0"}
    alone = observed(values[:, 1], "stream:1")
    assert opened(EDetector().update(alone)), "too small a change for this test"


# --- values that are not there, constants, columns ------------------------------------------------


def test_missing_values_are_not_there() -> None:
    values = normal(23, (0, CHANGE), (1, 500))
    sparse = np.full(3 * len(values), np.nan)
    sparse[::3] = values
    batch = replace(observed(sparse), offsets=np.arange(len(sparse)) // 3)
    found, expected = EDetector().update(batch), EDetector().update(observed(values))
    assert [(v.offset, v.statistic) for v in found] != []
    # The budget counts rows, so shares move elsewhere; where values lie in their stream does not.
    assert [(v.offset, v.phase) for v in found] == [(v.offset, v.phase) for v in expected]


def test_a_constant_stream_is_silent_until_it_is_none() -> None:
    values = np.concatenate([np.full(CHANGE, 7.0), np.full(200, 7.5)])
    first = opened(EDetector().update(observed(values)))[0]
    assert CHANGE <= first.offset < CHANGE + 40
    assert first.change == "location up"


def test_the_onset_of_a_constant_streams_change_is_near_where_it_is() -> None:
    values = np.concatenate([np.full(CHANGE, 7.0), np.full(200, 7.5)])
    first = opened(EDetector().update(observed(values)))[0]
    true = first.offset + 1 - CHANGE
    assert first.delay_low <= true <= first.delay_high
    assert true <= first.delay_events <= true + 20


def test_the_order_of_columns_is_of_no_concern() -> None:
    values = np.random.default_rng(24).normal(size=(8000, 4))
    values[5000:, 1] += 1
    values[6000:, 3] *= 2
    names = ("a", "b", "c", "d")
    forth = EDetector(1e4).update(observed(values, *names))
    back = EDetector(1e4).update(observed(values[:, ::-1], *names[::-1]))
    assert forth
    assert sorted((v.subject, v.offset, v.phase, v.statistic) for v in forth) == sorted(
        (v.subject, v.offset, v.phase, v.statistic) for v in back
    )


# --- a reference that never grows -----------------------------------------------------------------


def test_a_fixed_reference_keeps_the_budget_and_finds_a_shift() -> None:
    def detector() -> EDetector:
        return EDetector(1e4, reference=Reference(2000), policy="keep", fixed=True)

    rng = np.random.default_rng(34)
    found = opened(detector().update(observed(rng.normal(size=(40_000, 10)))))
    assert len(found) <= poisson_bound(4)
    values = np.concatenate([rng.normal(size=5000), rng.normal(1.5, 1, 1000)])
    assert 5000 <= opened(detector().update(observed(values)))[0].offset < 5200


def test_a_fixed_reference_sees_what_a_growing_one_gets_used_to() -> None:
    """A drift so slow that each value is like the ones before it."""
    values = normal(35, (0, 60_000)) + np.linspace(0, 1.2, 60_000)
    fixed = EDetector(1e5, reference=Reference(10_000), policy="keep", fixed=True)
    assert opened(fixed.update(observed(values)))


# --- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tolerance": -0.1}, "tolerance must be 0 or more"),
        ({"rate_tolerance": 1.0}, "rate_tolerance in"),
        ({"window": 15}, "window must be even"),
        ({"window": 101}, "window must be even"),
        ({"window": 5000}, "window must be even"),
        ({"policy": "forget"}, "policy must be adapt or keep"),
        ({"budget": 0}, "budget must be positive"),
    ],
)
def test_a_parameter_out_of_range_is_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EDetector(**given)


def test_figures_are_those_of_the_budget() -> None:
    detector = EDetector(1e4)
    detector.update(observed(np.random.default_rng(36).normal(size=(5000, 3))))
    figures = detector.figures()
    assert figures["false_alarm_budget_streams"] == 3
    assert figures["false_alarms_allowed"] == pytest.approx(0.5)
    assert figures["false_alarm_budget_events"] == 1e4
