"""Embeddings as streams against scikit-learn and SciPy, MMD^2 against the formula written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA

from tocsin.detectors.base import Observations
from tocsin.detectors.embedding import EmbeddingStreams
from tocsin.detectors.kernel_test import KernelMean

WARM = 400


def vectors(seed: int, n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    means = 2 * np.random.default_rng(99).normal(size=(3, d))
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, n)
    mixing = np.random.default_rng(98).normal(size=(d, d))
    return (means[classes] + rng.normal(size=(n, d))) @ mixing, classes.astype(float)


def streams(
    sample: np.ndarray, classes: np.ndarray | None, new: np.ndarray, own: np.ndarray | None
) -> Observations:
    of = EmbeddingStreams(len(sample))
    for part, codes in ((sample, classes), (new, own)):
        place = np.arange(len(part))
        found = of.update(part, codes, place, np.zeros_like(place))
    return found


@pytest.mark.parametrize("d", [2, 10, 64])
def test_directions_are_those_of_sklearns_pca(d: int) -> None:
    sample, new = vectors(0, WARM, d)[0], vectors(1, 200, d)[0]
    expected = (
        PCA(n_components=min(8, d), whiten=True, svd_solver="full").fit(sample).transform(new)
    )
    found = streams(sample, None, new, None).values[:, 1 : 1 + expected.shape[1]]
    # Signs are anyone's; sklearn divides by n - 1.
    expected *= np.sign((expected * found).sum(axis=0)) * np.sqrt(WARM / (WARM - 1))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("d", [2, 10, 64])
def test_the_metric_is_that_of_sklearns_ledoit_wolf(d: int) -> None:
    (sample, classes), (new, own) = vectors(2, WARM, d), vectors(3, 100, d)
    means = np.array([sample[classes == k].mean(axis=0) for k in range(3)])
    covariance, shrinkage = ledoit_wolf(sample - means[classes.astype(int)], assume_centered=True)
    assert shrinkage > 1e-3  # below, ours does not go
    inverse = np.linalg.inv(covariance)
    expected = [mahalanobis(x, means[int(k)], inverse) for x, k in zip(new, own, strict=True)]
    found = streams(sample, classes, new, own)
    np.testing.assert_allclose(found.values[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("block", [2, 10, 50])
def test_mmd_is_gretton_equation_3_on_the_same_kernel(block: int) -> None:
    rng = np.random.default_rng(4)
    sample, new = rng.normal(size=(300, 6)), rng.normal(size=(5 * block, 6)) + 0.4
    of = KernelMean.fit(sample, 64)
    found = of.mmd(of.features(new), block, np.zeros(128), 0)[0][block - 1 :: block]
    y = of.features(sample)
    for k in range(5):
        x = of.features(new[k * block : (k + 1) * block])
        assert found[k] == pytest.approx(unbiased_mmd(x @ x.T, y @ y.T, x @ y.T), abs=1e-8)


def test_mmd_approaches_that_of_the_gaussian_kernel() -> None:
    rng = np.random.default_rng(5)
    sample, new = rng.normal(size=(400, 6)), rng.normal(size=(50, 6)) * 1.5 + 0.5
    sigma = np.median(cdist(sample, sample)[np.triu_indices(400, 1)])

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-cdist(a, b, "sqeuclidean") / (2 * sigma**2))

    expected = unbiased_mmd(kernel(new, new), kernel(sample, sample), kernel(new, sample))
    of = KernelMean.fit(sample, 4096)
    assert of.mmd(of.features(new), 50, np.zeros(8192), 0)[0][-1] == pytest.approx(
        expected, rel=0.1
    )


def unbiased_mmd(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> float:
    """Gretton, Borgwardt, Rasch, Schoelkopf and Smola 2012, equation 3."""
    m, n = len(xx), len(yy)
    return float(
        (xx.sum() - np.trace(xx)) / (m * (m - 1))
        + (yy.sum() - np.trace(yy)) / (n * (n - 1))
        - 2 * xy.mean()
    )
