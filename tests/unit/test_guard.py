"""The guard: what is exchangeable stays so, what depends on its past is seen, and a drift passes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import signal, stats

from tocsin.core.errors import StateError
from tocsin.detectors import autocorrelation
from tocsin.detectors.base import Observations
from tocsin.detectors.guard import DependenceGuard, Regime

WARMUP = 2048


def autoregressive(rng, rho: float, values: int = WARMUP, streams: int = 20) -> np.ndarray:
    """AR(1) of variance 1."""
    noise = rng.normal(size=(values + 500, streams)) * np.sqrt(1 - rho**2)
    return signal.lfilter([1], [1, -rho], noise, axis=0)[500:]


def season(rng, period: float, values: int = WARMUP, streams: int = 20, size: float = 1.0):
    phase = 2 * np.pi * np.arange(values)[:, None] / period
    return size * np.sin(phase) + rng.normal(size=(values, streams))


def regimes(values: np.ndarray) -> list[Regime]:
    guard, batch = DependenceGuard(), Observations.of(values)
    guard.update(batch)
    return [guard.regime(name) for name in batch.names]


def kinds(values: np.ndarray) -> Counter[str]:
    return Counter(regime.kind for regime in regimes(values))


LAWS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "log-normal": lambda rng, shape: np.exp(1.5 * rng.normal(size=shape)),
    "t(2)": lambda rng, shape: rng.standard_t(2, shape),
    "Pareto(1.5)": lambda rng, shape: rng.pareto(1.5, shape),
    "Cauchy": lambda rng, shape: rng.standard_cauchy(shape),
    "bits 0.001": lambda rng, shape: rng.random(shape) < 0.001,
    "bits 0.01": lambda rng, shape: rng.random(shape) < 0.01,
    "bits 0.1": lambda rng, shape: rng.random(shape) < 0.1,
    "bits 0.5": lambda rng, shape: rng.random(shape) < 0.5,
    "Poisson(1)": lambda rng, shape: rng.poisson(1, shape),
    "ten classes": lambda rng, shape: rng.integers(0, 10, shape),
    "mostly zero": lambda rng, shape: (
        (rng.random(shape) < 0.05) * np.exp(2 * rng.normal(size=shape))
    ),
    "two far heaps": lambda rng, shape: np.where(
        rng.random(shape) < 0.45, 100 + rng.normal(size=shape), 1e-3 * rng.random(shape)
    ),
}


@pytest.mark.parametrize("law", LAWS)
def test_whatever_its_law_an_exchangeable_stream_is_never_called_anything_else(law: str) -> None:
    """At none of the checks within 16 windows, for none of 40 streams."""
    values = LAWS[law](np.random.default_rng(1), (16_384, 40)).astype(float)
    guard, batch, ever = DependenceGuard(), Observations.of(values), set()
    for begin in range(0, len(values), 1024):
        guard.update(batch.take(slice(begin, begin + 1024)))
        ever |= {guard.regime(name).kind for name in batch.names if begin >= 1024}
    assert ever == {"exchangeable"}
    assert guard.regime("stream:0").lag == 1
    assert guard.regime("stream:0").correlation == 0


@pytest.mark.parametrize(
    ("rho", "lags"), [(0.2, {4}), (-0.3, {4, 8}), (0.5, {8}), (0.9, {32, 64}), (-0.9, {32, 64})]
)
def test_autoregression_is_seen_within_the_warm_up(rho: float, lags: set[int]) -> None:
    found = regimes(autoregressive(np.random.default_rng(2), rho))
    assert {regime.kind for regime in found} == {"autocorrelated"}
    assert {regime.lag for regime in found} <= lags


@pytest.mark.parametrize(("rho", "lags"), [(0.05, {2}), (0.1, {2, 4})])
def test_a_weak_correlation_is_found_with_time_and_not_lost_again(
    rho: float, lags: set[int]
) -> None:
    values = autoregressive(np.random.default_rng(3), rho, 131_072, 10)
    guard, batch = DependenceGuard(), Observations.of(values)
    changes = guard.update(batch)
    for name in batch.names:
        assert guard.regime(name).kind == "autocorrelated"
        assert guard.regime(name).lag in lags
        assert guard.regime(name).correlation == pytest.approx(rho, abs=0.03)
    # each becomes exchangeable, then autocorrelated; a lag may grow once
    assert max(Counter(changes).values()) <= 3


@pytest.mark.parametrize("period", [24, 48, 100, 1440])
def test_a_season_is_ordered(period: int) -> None:
    rng = np.random.default_rng(4)
    first = kinds(season(rng, period))
    assert first["ordered"] >= (12 if period == 1440 else 20)
    assert first["exchangeable"] == 0
    assert kinds(season(rng, period, 16_384)) == {"ordered": 20}


def test_a_season_much_longer_than_a_window_is_found_by_the_moves_of_the_level() -> None:
    found = regimes(season(np.random.default_rng(5), 20_000, 262_144, 5))
    assert {regime.kind for regime in found} == {"ordered"}
    assert any("level rose" in regime.evidence for regime in found)


def test_a_rare_regular_event_is_ordered() -> None:
    rng = np.random.default_rng(6)
    values = 3.0 * (np.arange(65_536) % 100 == 7)[:, None] + rng.normal(size=(65_536, 5))
    assert kinds(values) == {"ordered": 5}


def test_a_random_walk_and_a_long_memory_are_ordered() -> None:
    rng = np.random.default_rng(7)
    assert kinds(np.cumsum(rng.normal(size=(WARMUP, 20)), axis=0))["ordered"] >= 18
    assert kinds(autoregressive(rng, 0.99))["ordered"] >= 19


def test_volatility_that_comes_and_goes_is_autocorrelated() -> None:
    """Its values are uncorrelated, and a bet on the scale would win on it again and again."""
    rng = np.random.default_rng(8)
    values = rng.normal(size=(WARMUP, 20)) * np.exp(0.7 * autoregressive(rng, 0.95))
    found = regimes(values)
    assert {regime.kind for regime in found} <= {"autocorrelated", "ordered"}
    assert all("distances from the mean" in regime.evidence for regime in found)


@pytest.mark.parametrize("at", [300, 700, 1024, 1500])
@pytest.mark.parametrize("size", [0.3, 1.0, 3.0, 30.0])
def test_a_shift_in_the_warm_up_is_not_taken_for_dependence(at: int, size: float) -> None:
    rng = np.random.default_rng(9)
    values = rng.normal(size=(WARMUP, 100)) + size * (np.arange(WARMUP) >= at)[:, None]
    found = kinds(values)
    assert found["exchangeable"] >= 97
    assert found["ordered"] == 0


@pytest.mark.parametrize("factor", [0.3, 2.0, 10.0])
def test_nor_is_a_change_of_scale(factor: float) -> None:
    rng = np.random.default_rng(10)
    values = rng.normal(size=(WARMUP, 50)) * np.where(np.arange(WARMUP) < 700, 1, factor)[:, None]
    assert kinds(values)["exchangeable"] >= 49


def test_autoregression_with_a_shift_is_still_autoregression() -> None:
    rng = np.random.default_rng(11)
    shift = 3.0 * (np.arange(WARMUP) >= 700)[:, None]
    for rho, lags in ((0.2, {4}), (0.5, {8}), (0.9, {16, 32, 64})):
        found = regimes(autoregressive(rng, rho) + shift)
        assert {regime.kind for regime in found} == {"autocorrelated"}
        assert {regime.lag for regime in found} <= lags


@pytest.mark.parametrize("length", [300, 1000, 2500, 10_000])
@pytest.mark.parametrize("begin", [500, 5000])
def test_a_gradual_drift_is_forgotten(begin: int, length: int) -> None:
    rng = np.random.default_rng(12)
    ramp = 3 * np.clip((np.arange(32_768) - begin) / length, 0, 1)[:, None]
    assert kinds(rng.normal(size=(32_768, 20)) + ramp) == {"exchangeable": 20}


def test_a_trend_is_ordered_while_it_lasts() -> None:
    rng = np.random.default_rng(13)
    slope = np.clip(np.arange(40_000) / 1000, 0, 16)[:, None]
    values = rng.normal(size=(40_000, 10)) + slope
    assert kinds(values[:16_384]) == {"ordered": 10}
    # The rows after are still; what the guard looks at then is every other window.
    longer = np.concatenate([values, 16 + rng.normal(size=(60_000, 10))])
    assert kinds(longer)["ordered"] == 0


def test_a_stream_may_become_dependent_later_and_independent_again() -> None:
    rng = np.random.default_rng(14)
    parts = [rng.normal(size=(20_000, 5)), autoregressive(rng, 0.6, 30_000, 5)]
    values = np.concatenate([*parts, rng.normal(size=(60_000, 5))])
    guard, batch = DependenceGuard(), Observations.of(values)
    guard.update(batch.take(slice(0, 20_000)))
    assert guard.regime("stream:3").kind == "exchangeable"
    changed = guard.update(batch.take(slice(20_000, 50_000)))
    assert set(changed) == set(batch.names)
    assert guard.regime("stream:3").kind == "autocorrelated"
    guard.update(batch.take(slice(50_000, None)))
    assert {guard.regime(name).kind for name in batch.names} == {"exchangeable"}


def test_a_new_unit_is_taken_when_the_old_one_is_of_another_time() -> None:
    """The first values are of another world: constant, a thousand times smaller, or far away."""
    rng = np.random.default_rng(15)
    later = autoregressive(rng, 0.5, 40_000, 3)
    early = np.stack([np.zeros(64), 1e-3 * rng.normal(size=64), 1e6 + rng.normal(size=64)], axis=1)
    found = regimes(np.concatenate([early, later]))
    assert [(regime.kind, regime.lag) for regime in found] == [("autocorrelated", 8)] * 3


@pytest.mark.parametrize(("scale", "offset"), [(1e90, 0), (1e-90, 0), (-1e-3, 1e6), (1, -1e12)])
def test_the_unit_of_a_stream_does_not_matter(scale: float, offset: float) -> None:
    rng = np.random.default_rng(16)
    values = np.column_stack([rng.normal(size=8192), autoregressive(rng, 0.5, 8192, 1)])
    found, scaled = regimes(values), regimes(values * scale + offset)
    assert [(r.kind, r.lag) for r in found] == [(r.kind, r.lag) for r in scaled]
    assert scaled[1].correlation == pytest.approx(found[1].correlation, abs=0.02)


def test_unusable_values_are_passed_over() -> None:
    rng = np.random.default_rng(17)
    values = autoregressive(rng, 0.5, 8192, 1)[:, 0]
    dirty = np.insert(values, rng.integers(0, 8192, 3000), np.nan)
    where = np.flatnonzero(np.isnan(dirty))
    dirty[where] = np.resize([np.nan, np.inf, -np.inf, 1e308, -1e101], len(where))
    assert regimes(dirty) == regimes(values)
    nothing = DependenceGuard()
    assert nothing.update(Observations.of(np.full(9000, np.nan))) == []
    assert nothing.regime("stream:0").kind == "unknown"


def test_a_constant_is_exchangeable_and_says_so() -> None:
    (found,) = regimes(np.full(4096, 7.5))
    assert found == Regime("exchangeable", 1, 0.0, "always the same value in 2,048 values")


def test_nothing_is_known_before_the_warm_up_is_over() -> None:
    guard = DependenceGuard(warmup_values=4096)
    batch = Observations.of(np.random.default_rng(18).normal(size=(4096, 2)), ("b", "a"))
    assert guard.regime("a") == Regime("unknown", 1, 0.0, "too few values yet")
    assert guard.update(batch.take(slice(0, 4095))) == []
    assert guard.regime("a").kind == guard.overall().kind == "unknown"
    assert guard.update(batch.take(slice(4095, None))) == ["a", "b"]
    assert guard.regime("a").kind == "exchangeable"
    assert "4,096 values" in guard.regime("a").evidence
    assert guard.regime("never seen").kind == "unknown"


@pytest.mark.parametrize(("warmup", "near"), [(0, 2048), (1024, 2048), (2500, 2048), (2600, 3072)])
def test_a_warm_up_that_is_not_whole_windows_is_refused(warmup: int, near: int) -> None:
    with pytest.raises(ValueError, match=rf"multiple of 1024.* got {warmup}; {near} would do"):
        DependenceGuard(warmup)


def mixed(rows: int = 40_000) -> Observations:
    rng = np.random.default_rng(19)
    values = np.column_stack(
        [
            rng.normal(size=rows), autoregressive(rng, 0.3, rows, 1), season(rng, 48, rows, 1),
            rng.random(rows) < 0.1, np.cumsum(rng.normal(size=rows)), np.ones(rows),
        ]
    )  # fmt: skip
    values[rng.random(values.shape) < 0.05] = np.nan
    half = rows // 2
    values[half:, 0] = autoregressive(rng, 0.7, rows - half, 1)[:, 0]
    return Observations.of(values, ("noise", "error", "load", "bit", "walk", "constant"))


def test_rows_may_be_cut_anywhere_and_the_guard_be_replaced_by_its_snapshot() -> None:
    batch, rng = mixed(), np.random.default_rng(20)
    whole, parts, expected, changed = DependenceGuard(), DependenceGuard(), [], []
    expected = whole.update(batch)
    begin = 0
    while begin < len(batch):
        end = begin + int(rng.choice([1, 7, 300, 3000]))
        changed += parts.update(batch.take(slice(begin, end)))
        state, parts = parts.snapshot(), DependenceGuard(warmup_values=8192)
        parts.restore(state)
        begin = end
    assert changed == expected
    assert parts.snapshot() == whole.snapshot()
    assert [parts.regime(name) for name in batch.names] == [
        whole.regime(name) for name in batch.names
    ]
    assert parts.warmup_values == WARMUP


def test_streams_may_come_apart_and_later() -> None:
    """Each by itself, in another order, after others: the same regimes."""
    batch = mixed()
    together = DependenceGuard()
    together.update(batch)
    apart = DependenceGuard()
    for k in reversed(range(len(batch.names))):
        apart.update(Observations.of(batch.values[:, k], (batch.names[k],)))
    for name in batch.names:
        assert apart.regime(name) == together.regime(name)


def test_a_damaged_snapshot_changes_nothing() -> None:
    guard = DependenceGuard()
    guard.update(mixed(5000))
    state = guard.snapshot()
    with pytest.raises(StateError):
        guard.restore(state[:-1])
    assert guard.snapshot() == state


def test_a_stream_costs_two_kilobytes_however_long_it_is() -> None:
    guard, batch = (
        DependenceGuard(),
        Observations.of(np.random.default_rng(21).normal(size=(6000, 50))),
    )
    sizes = []
    for _ in range(3):
        guard.update(batch)
        sizes.append(len(guard.snapshot()) / 50)
    assert max(sizes) == pytest.approx(min(sizes), rel=0.01)
    assert max(sizes) <= 2100


def test_changes_are_counted() -> None:
    guard = DependenceGuard()
    assert guard.changes == 0
    guard.update(mixed(10))
    assert guard.changes == 1
    guard.update(mixed(10).take(slice(10, None)))
    assert guard.changes == 1


class TestOverall:
    def guard(self, **streams: np.ndarray) -> DependenceGuard:
        guard = DependenceGuard()
        guard.update(Observations.of(np.column_stack(list(streams.values())), tuple(streams)))
        return guard

    def noise(self, count: int) -> dict[str, np.ndarray]:
        values = np.random.default_rng(22).normal(size=(8192, count))
        return {f"noise{k}": values[:, k] for k in range(count)}

    def ordered(self, count: int) -> dict[str, np.ndarray]:
        values = season(np.random.default_rng(23), 24, 8192, count)
        return {f"load{k}": values[:, k] for k in range(count)}

    def test_a_quarter_of_ordered_streams_makes_the_model_ordered(self) -> None:
        found = self.guard(**self.noise(6), **self.ordered(2)).overall()
        assert (found.kind, found.lag) == ("ordered", 64)
        assert found.evidence.startswith("2 of 8 streams are ordered; load")

    def test_fewer_are_named_and_left_out(self) -> None:
        found = self.guard(**self.noise(7), **self.ordered(1)).overall()
        assert (found.kind, found.lag) == ("exchangeable", 1)
        assert found.evidence.endswith("; not counted: load0, ordered")

    def test_constants_do_not_count(self) -> None:
        constants = {f"constant{k}": np.full(8192, k) for k in range(9)}
        guard = self.guard(**self.noise(1), **self.ordered(1), **constants)
        assert guard.overall().kind == "ordered"
        assert guard.overall(constants) == Regime(
            "exchangeable", 1, 0.0, "all streams are constant"
        )

    def test_the_largest_lag_counts(self) -> None:
        rng = np.random.default_rng(24)
        weak, strong = (autoregressive(rng, rho, 8192, 1)[:, 0] for rho in (0.2, 0.5))
        guard = self.guard(**self.noise(3), weak=weak, strong=strong)
        found = guard.overall()
        assert (found.kind, found.lag) == ("autocorrelated", 8)
        assert found.correlation == pytest.approx(0.5, abs=0.05)
        assert found.evidence.startswith("strong: correlation 0.")
        assert guard.overall(["noise0", "weak"]).lag == 4
        assert guard.overall([]).kind == guard.overall(["never seen"]).kind == "unknown"


class TestKernels:
    """The parts against their definitions."""

    def test_correlations_are_the_usual_ones(self) -> None:
        rng = np.random.default_rng(25)
        u = np.rint(100 * autoregressive(rng, 0.8, 1024, 1)[:, 0])
        u = (u - np.rint(u.mean())).astype(np.int16)
        r = np.empty(128)
        autocorrelation.correlate(u, r)
        x = u.astype(float)
        for lag in (1, 2, 17, 128):
            products = (x[lag:] * x[:-lag]).mean() / (x * x).mean()
            assert r[lag - 1] == pytest.approx(products + 1 / 1024, rel=1e-12)

    def test_correlations_of_noise_average_to_nothing(self) -> None:
        rng = np.random.default_rng(26)
        total, r, out = np.zeros(128), np.empty(128), np.empty(1024, np.int16)
        for _ in range(2000):
            x = np.rint(rng.normal(0, 100, 1024)).astype(np.int16)
            autocorrelation.detrend(x, out, np.empty(16))
            autocorrelation.correlate(out, r)
            total += r / 2000
        # steps that are taken out of noise cost a little, and no more
        assert np.abs(total).max() < 0.004

    def test_moments(self) -> None:
        x = np.rint(np.random.default_rng(27).exponential(80, 1024)).astype(np.int16)
        mean, variance, skew = autocorrelation.moments(x)
        assert mean == pytest.approx(x.mean())
        assert variance == pytest.approx(x.var())
        assert skew == pytest.approx(stats.skew(x))
        assert autocorrelation.moments(np.full(1024, 3, np.int16)) == (3.0, 0.0, 0.0)

    @pytest.mark.parametrize("mean", [0.05, 0.5, 5, 500])
    def test_the_tail_bounds_a_count_and_a_normal_law(self, mean: float) -> None:
        skew = 1 / np.sqrt(mean)
        for count in range(int(mean) + 1, int(mean + 12 * np.sqrt(mean)) + 12):
            z = (count - mean) / np.sqrt(mean)
            bound = autocorrelation.tail(z, skew)
            assert stats.poisson.sf(count - 1, mean) <= np.exp(-bound) * (1 + 1e-9)
            assert bound <= autocorrelation.tail(z, 0.0)
            assert stats.norm.sf(z) <= np.exp(-autocorrelation.tail(z, 0.0))

    def test_a_step_is_taken_out_and_told(self) -> None:
        rng = np.random.default_rng(28)
        noise = rng.normal(0, 100, 1024)
        step = np.where(np.arange(1024) < 333, 0, 200)
        out = np.empty(1024, np.int16)
        trend = autocorrelation.detrend(np.rint(noise + step).astype(np.int16), out, np.empty(16))
        assert trend.moved
        assert trend.removed
        assert trend.begin == pytest.approx(noise[:333].mean(), abs=2)
        assert trend.end == pytest.approx(200 + noise[333:].mean(), abs=2)
        assert abs(out[:333].mean()) < 1
        assert abs(out[333:].mean()) < 1

    def test_a_slope_is_told_and_not_fit_to_be_correlated(self) -> None:
        rng = np.random.default_rng(29)
        x = np.rint(rng.normal(0, 100, 1024) + np.linspace(0, 200, 1024)).astype(np.int16)
        trend = autocorrelation.detrend(x, np.empty(1024, np.int16), np.empty(16))
        assert trend.moved
        assert not trend.removed
        assert trend.end - trend.begin == pytest.approx(200, abs=60)

    def test_the_lag_of_exact_correlations(self) -> None:
        lags, clearest = np.arange(1, 129), np.empty(4)
        for rho, m in ((0.0, 1), (0.09, 2), (0.3, 4), (0.5, 8), (0.7, 16), (0.85, 32), (0.92, 64)):
            assert autocorrelation.interleave(rho**lags, 0.0, 65_536.0, clearest) == m
        assert autocorrelation.interleave(0.99**lags, 0.0, 65_536.0, clearest) == 0
        assert autocorrelation.interleave(0.3 * (lags % 24 == 0), 0.0, 65_536.0, clearest) == 0
        assert autocorrelation.interleave(np.full(128, 0.019), 0.0, 65_536.0, clearest) == 0
        assert (clearest[1], clearest[2]) == (65, 128)
        # sure, but too small to matter
        assert autocorrelation.interleave(np.where(lags == 1, 0.019, 0), 0.0, 1e9, clearest) == 1

    def test_what_is_rare_needs_more_than_a_coincidence(self) -> None:
        r, clearest = np.where(np.arange(128) == 4, 0.2, 0.0), np.empty(4)
        assert autocorrelation.interleave(r, 0.0, 2048.0, clearest) != 1
        assert autocorrelation.interleave(r, 2.0, 2048.0, clearest) == 1
