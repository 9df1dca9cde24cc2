"""The kernel mean: features, distances and MMD^2 against the formulas, written out with kernel matrices."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.detectors.kernel_test import KernelMean, waves


def normal(seed: int, n: int, d: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def mmd_of(of: KernelMean, vectors: np.ndarray, block: int) -> np.ndarray:
    sums = np.zeros(len(of.mean))
    return of.mmd(of.features(vectors), block, sums, 0)[0]


def test_waves_are_cosines_and_sines_of_turns() -> None:
    turns = np.random.default_rng(0).normal(size=(200, 30)) * 50
    turns[0, :8] = [0.0, -0.0, 0.25, 0.5, -0.25, -0.5, 0.75, 1e-300]
    found = waves(turns) * np.sqrt(30)
    angles = 2 * np.pi * turns
    np.testing.assert_allclose(found[:, :30], np.cos(angles), atol=1e-9)
    np.testing.assert_allclose(found[:, 30:], np.sin(angles), atol=1e-9)


def test_waves_of_giants_are_bounded() -> None:
    found = waves(np.array([[1e15, -1e99, 1e300]]))
    assert (np.abs(found) <= 1).all()


@pytest.mark.parametrize("d", [1, 5, 64])
def test_features_approach_the_gaussian_kernel(d: int) -> None:
    """The error is that of an average of m cosines: some 1 / root(2 m)."""
    vectors = normal(1, 200, d)
    apart = np.sqrt(((vectors[:, None] - vectors) ** 2).sum(axis=2))
    sigma = np.median(apart[np.triu_indices(200, 1)])
    expected = np.exp(-(apart**2) / (2 * sigma**2))
    for m, error in ((128, 0.12), (8192, 0.02)):
        of = KernelMean.fit(vectors, m)
        features = of.features(vectors)
        gram = features @ features.T
        np.testing.assert_allclose(gram.diagonal(), 1, atol=1e-8)
        assert np.sqrt(((gram - expected) ** 2).mean()) < error


def test_the_distance_is_that_in_the_kernels_space() -> None:
    sample, new = normal(2, 300, 7), 2 * normal(3, 40, 7)
    of = KernelMean.fit(sample, 64)
    phi, reference = of.features(new), of.features(sample)
    expected = (
        1 - 2 * (phi @ reference.T).mean(axis=1) + (reference @ reference.T).mean()
    )  # k(x, x) - 2 mean k(x, y) + mean k(y, y')
    np.testing.assert_allclose(of.distance(phi), expected, atol=1e-8)


def test_the_distance_is_large_where_the_sample_is_thin() -> None:
    of = KernelMean.fit(normal(4, 1000, 3))
    near, far = (of.distance(of.features(radius * normal(5, 500, 3))) for radius in (0.3, 3))
    assert near.max() < far.mean()


def test_blocks_take_the_rows_in_order_at_any_cut() -> None:
    of = KernelMean.fit(normal(6, 200, 4))
    features = of.features(normal(7, 500, 4))
    whole, count = of.mmd(features, 30, np.zeros(256), 0)
    assert count == 500 % 30
    assert np.flatnonzero(~np.isnan(whole)).tolist() == list(range(29, 500, 30))
    rng = np.random.default_rng(8)
    sums, count, at, parts = np.zeros(256), 0, 0, []
    while at < 500:
        size = int(rng.integers(0, 70))
        found, count = of.mmd(features[at : at + size], 30, sums, count)
        parts.append(found)
        at += size
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_mmd_of_the_samples_own_law_is_zero_on_average() -> None:
    """Unbiased: given the sample, the mean over blocks is what the sample's own error makes it."""
    rng = np.random.default_rng(9)
    means = []
    for seed in range(20):
        of = KernelMean.fit(normal(100 + seed, 400, 6), 32)
        values = mmd_of(of, rng.normal(size=(2000, 6)), 50)
        means.append(np.nanmean(values))
    spread = np.std(means) / np.sqrt(len(means))
    assert abs(np.mean(means)) < 4 * spread
    assert np.mean(means) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("shift", [0.5, 1.0])
def test_mmd_of_a_shift_is_that_of_the_populations(shift: float) -> None:
    """For N(0, I) and N(a, I): 2 (s^2 / (s^2 + 2))^(d/2) (1 - exp(-|a|^2 / (2 (s^2 + 2))))."""
    d, n = 4, 4000
    of = KernelMean.fit(normal(10, n, d), 4096)
    moved = normal(11, 20_000, d) + shift / np.sqrt(d)
    apart = np.sqrt(((normal(10, n, d)[:500, None] - normal(10, n, d)[:500]) ** 2).sum(axis=2))
    square = np.median(apart[np.triu_indices(500, 1)]) ** 2
    expected = (
        2 * (square / (square + 2)) ** (d / 2) * (1 - np.exp(-(shift**2) / (2 * (square + 2))))
    )
    assert np.nanmean(mmd_of(of, moved, 50)) == pytest.approx(expected, rel=0.1)


SAMPLES = {
    "constant": np.full((60, 3), 2.0),
    "two points": np.repeat([[0.0, 0.0], [3.0, 4.0]], [59, 1], axis=0),
    "far from zero": 1e6 + normal(12, 60, 3),
    "a giant": np.where(np.arange(60)[:, None] == 7, 1e6, normal(13, 60, 3)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_degenerate_samples_have_a_bandwidth(name: str) -> None:
    of = KernelMean.fit(SAMPLES[name], 16)
    assert np.isfinite(of.frequencies).all()
    assert np.isfinite(of.distance(of.features(SAMPLES[name]))).all()
    if name == "a giant":  # ... and it is that of the others
        without = KernelMean.fit(np.delete(SAMPLES[name], 7, axis=0), 16)
        ratio = np.abs(of.frequencies / without.frequencies)
        assert ((ratio > 0.8) & (ratio < 1.25)).all()


def test_samples_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="got 1 and 128"):
        KernelMean.fit(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="got 5 and 0"):
        KernelMean.fit(np.zeros((5, 3)), 0)
