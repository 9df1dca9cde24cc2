"""The reference: streams in units of their own beginning, robustly, as numpy and SciPy have it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation

from tocsin.core.errors import StateError
from tocsin.detectors.base import Observations
from tocsin.detectors.reference import Reference, Scaled, summarise

WARM = 64


def scale(reference: Reference, rows: Observations) -> Scaled:
    return reference.scale(rows.names, reference.learn(rows))


def shapes(seed: int, n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "normal": 5 + 2 * rng.normal(size=n),
        "log-normal": np.exp(1.5 * rng.normal(size=n)),
        "cauchy": rng.standard_cauchy(n),
        "counts": rng.poisson(3, n).astype(np.float64),
        "huge": 1e90 * rng.normal(size=n),
        "tiny": 1e-90 * rng.normal(size=n),
        "far from zero": 1e9 + rng.normal(size=n),
    }


def test_a_constant_has_a_unit_of_its_own_size_however_its_mean_is_rounded() -> None:
    for value in (0.414912, 0.5, 1e9 + 0.1, -3e-7):
        reference = Reference(256)
        reference.learn(Observations.of(np.full(256, value), ("x",)))
        assert reference.mean_and_deviation("x")[1] == pytest.approx(abs(value) / 100)


@pytest.mark.parametrize("name", shapes(0, 1))
def test_values_are_cut_at_five_robust_sigmas_and_standardised(name: str) -> None:
    values = shapes(1, 1000)[name]
    reference = Reference(WARM)
    scaled = scale(reference, Observations.of(values, (name,)))
    sample, later = values[:WARM], values[WARM:]
    reach = 5 * median_abs_deviation(sample, scale="normal")
    low, high = np.median(sample) - reach, np.median(sample) + reach
    cut = np.clip(sample, low, high)
    expected = (np.clip(later, low, high) - cut.mean()) / cut.std()
    assert np.isnan(scaled.deviation[:WARM]).all()
    np.testing.assert_allclose(scaled.deviation[WARM:, 0], expected, rtol=1e-7, atol=1e-12)
    np.testing.assert_array_equal(scaled.bounded, scaled.deviation)
    assert reference.mean_and_deviation(name) == pytest.approx((cut.mean(), cut.std()))
    np.testing.assert_allclose(reference.cut(name, later), np.clip(later, low, high))


@pytest.mark.parametrize("ones", [0, 1, 6, WARM])
def test_a_stream_of_flags_has_the_scale_of_a_smoothed_share(ones: int) -> None:
    """So a stream without any error yet is not infinitely surprised by the first one."""
    values = np.zeros(WARM + 2)
    values[:ones] = 1
    values[-1] = 1
    scaled = scale(Reference(WARM), Observations.of(values, ("error",)))
    share = (ones + 2) / (WARM + 4)
    steps = np.array([0 - ones / WARM, 1 - ones / WARM])
    np.testing.assert_allclose(scaled.deviation[WARM:, 0], steps / np.sqrt(share * (1 - share)))
    np.testing.assert_allclose(scaled.bounded[WARM:, 0], steps)


@pytest.mark.parametrize(("value", "unit"), [(50.0, 0.5), (-2e6, 2e4), (1e-30, 1e-32)])
def test_a_stream_that_was_constant_has_a_hundredth_of_its_value_as_unit(
    value: float, unit: float
) -> None:
    values = np.full(WARM + 3, value)
    values[-2:] += [2 * unit, 100 * unit]
    scaled = scale(Reference(WARM), Observations.of(values))
    np.testing.assert_allclose(scaled.deviation[WARM:, 0], [0, 2, 5], rtol=1e-6)
    np.testing.assert_allclose(scaled.bounded[WARM:, 0], [0, 2, 5], rtol=1e-6)


def test_a_stream_of_mostly_one_value_is_bounded_by_its_range() -> None:
    values = np.where(np.arange(WARM + 40) % 4 == 0, 30.0, 10.0)
    scaled = scale(Reference(WARM), Observations.of(values))
    assert set(scaled.bounded[WARM:, 0].round(12)) == {-0.25, 0.75}
    assert scaled.deviation[WARM:, 0].std() == pytest.approx(1)


@pytest.mark.parametrize("outlier", [1e3, 1e20, -1e99])
def test_a_few_giants_in_the_warm_up_do_not_stretch_the_scale(outlier: float) -> None:
    values = np.random.default_rng(2).normal(size=256)
    values[[10, 99, 200]] = outlier
    reference = Reference(256)
    scale(reference, Observations.of(values, ("x",)))
    mean, deviation = reference.mean_and_deviation("x")
    assert abs(mean) < 0.2
    assert 0.8 < deviation < 1.3


@settings(derandomize=True, deadline=None, database=None, max_examples=300)
@given(
    st.lists(
        st.floats(width=64) | st.sampled_from([0.0, 1.0, 1e100, -1e100, 1e101, 5e-324]),
        min_size=60,
        max_size=90,
    )
)
def test_whatever_comes_usable_values_are_finite_afterwards_and_others_are_nan(values) -> None:
    column = np.array(values)
    reference = Reference(30)
    scaled = scale(reference, Observations.of(column, ("x",)))
    good = np.abs(column) <= 1e100
    warm = np.cumsum(good) <= 30
    for found in (scaled.deviation[:, 0], scaled.bounded[:, 0]):
        assert (np.isfinite(found) == (good & ~warm)).all()
        assert np.nanmax(np.abs(found), initial=0) < 1e4
    assert reference.is_ready("x") == (good.sum() >= 30)


def test_each_stream_warms_up_by_its_own_values_at_any_batch_cut() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(800, 5))
    values[rng.random(values.shape) < [0, 0.1, 0.5, 0.9, 1]] = np.nan
    whole, parts = Reference(WARM), Reference(WARM)
    expected = scale(whole, Observations.of(values))
    begin, found = 0, []
    while begin < len(values):
        end = begin + int(rng.integers(1, 90))
        found.append(scale(parts, Observations.of(values[begin:end])))
        state = parts.snapshot()
        parts = Reference(WARM)
        parts.restore(state)
        begin = end
    for k, column in enumerate(("deviation", "bounded")):
        joined = np.concatenate([part[k] for part in found])
        np.testing.assert_array_equal(joined, getattr(expected, column))
    assert parts.snapshot() == whole.snapshot()
    ready = [whole.is_ready(f"stream:{k}") for k in range(6)]
    assert ready == [True, True, True, True, False, False]
    counts = np.cumsum(~np.isnan(values), axis=0)
    np.testing.assert_array_equal(np.isnan(expected.deviation), np.isnan(values) | (counts <= WARM))


def test_a_reference_is_not_changed_by_what_comes_after_it() -> None:
    reference = Reference(WARM)
    scale(reference, Observations.of(np.random.default_rng(4).normal(size=(WARM, 2))))
    before, changes = reference.snapshot(), reference.changes
    rows = Observations.of(np.full((1000, 2), 40.0))
    scale(reference, rows)
    assert (reference.snapshot(), reference.changes) == (before, changes)
    assert (rows.values == 40).all()


def test_a_snapshot_of_another_warm_up_keeps_its_references_and_new_streams_get_theirs() -> None:
    rows = np.random.default_rng(5).normal(size=(300, 1))
    first = Reference(WARM)
    scale(first, Observations.of(rows, ("old",)))
    second = Reference(128)
    second.restore(first.snapshot())
    assert second.is_ready("old")
    assert second.summary("old") == first.summary("old")
    scale(second, Observations.of(np.column_stack([rows, rows]), ("old", "new")))
    assert second.is_ready("new")
    assert second.mean_and_deviation("old") == first.mean_and_deviation("old")
    assert second.summary("new").count == second.warmup_values


def test_a_snapshot_of_something_else_is_refused() -> None:
    reference = Reference(WARM)
    with pytest.raises(StateError, match="reference"):
        reference.restore(b"TCSNxxxxxxxxxxxxxxxx")


def test_the_histogram_counts_every_value_once() -> None:
    rng = np.random.default_rng(6)
    reference = Reference(256)
    scale(reference, Observations.of(np.exp(rng.normal(size=(256, 1))), ("x",)))
    edges = reference.edges("x")
    sample = np.exp(np.random.default_rng(6).normal(size=256))
    assert edges[0] == pytest.approx(np.quantile(sample, 0.01))
    assert edges[-1] == pytest.approx(np.quantile(sample, 0.99))
    found = summarise(np.array([-1e9, 1.0, 1.0, 1e9]), edges)
    assert found.count == sum(found.counts) == 4
    assert (found.counts[0], found.counts[-1], len(found.counts)) == (1, 1, 16)
    whole = reference.summary("x")
    assert (whole.count, sum(whole.counts)) == (256, 256)
    assert (whole.mean, whole.std) == pytest.approx((sample.mean(), sample.std()))
    assert summarise(np.empty(0), edges).count == 0


@pytest.mark.parametrize("values", [[0.0], [0.0, 1.0], [3.0, 5.0, 100.0], [-1.0, 0.0, 2.0, 9.0]])
def test_a_stream_of_few_values_has_a_bar_for_each(values: list[float]) -> None:
    reference = Reference(WARM)
    scale(reference, Observations.of(np.resize(values, WARM), ("x",)))
    counts = reference.summary("x").counts
    assert counts == np.bincount(np.arange(WARM) % len(values)).tolist()


def test_a_warm_up_too_short_for_a_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="30 or more, got 29"):
        Reference(29)


def test_one_absurd_value_among_the_first_does_not_blind_a_stream_of_mostly_zeros() -> None:
    rng = np.random.default_rng(3)
    values = np.where(rng.random(WARM) < 0.3, rng.normal(10, 3, WARM), 0.0)
    clean, poisoned = Reference(WARM), Reference(WARM)
    scale(clean, Observations.of(values, ("x",)))
    values[7] = 1e30
    scale(poisoned, Observations.of(values, ("x",)))
    _, usual = clean.mean_and_deviation("x")
    _, found = poisoned.mean_and_deviation("x")
    assert found < 2 * usual
