"""Scores of logits against plain numpy, on the logits that break plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from tocsin.detectors.logit_scores import LogitGaussian, margin, rounded


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for one another cost ten times the small matrix products of a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def logits(seed: int, n: int, classes: int) -> np.ndarray:
    """Of a model that is mostly sure, with classes of different spread."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(n, classes)) * np.linspace(0.5, 3, classes)
    found[np.arange(n), rng.integers(0, classes, n)] += 8
    return found


def score(gaussian: LogitGaussian, z: np.ndarray) -> np.ndarray:
    return gaussian.score(torch.from_numpy(z)).numpy()


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_the_margin_is_the_gap_between_the_two_largest(classes: int) -> None:
    z = logits(0, 200, classes)
    z[0] = 1.0
    top = np.sort(z, axis=1)
    found = margin(torch.from_numpy(z)).numpy()
    np.testing.assert_array_equal(found, top[:, -2] - top[:, -1])
    assert found.max() == found[0] == 0


@pytest.mark.parametrize("classes", [1, 2, 3, 10])
def test_the_score_is_the_squared_mahalanobis_distance_to_the_predicted_class(
    classes: int,
) -> None:
    clean, new = logits(1, 3000, classes), logits(2, 50, classes)
    predicted = clean.argmax(axis=1)
    means = np.array([clean[predicted == k].mean(axis=0) for k in range(classes)])
    residual = clean - means[predicted]
    covariance = residual.T @ residual / len(clean)
    covariance += 1e-3 * np.diag(covariance).mean() * np.eye(classes)
    inverse = np.linalg.inv(covariance)
    expected = [mahalanobis(row, means[row.argmax()], inverse) ** 2 for row in new]
    np.testing.assert_allclose(score(LogitGaussian.fit(clean), new), expected, rtol=1e-8)


def test_a_clean_sample_is_as_far_as_its_number_of_classes() -> None:
    """The mean of a chi-square law, and both colder and hotter logits are farther."""
    gaussian, new = LogitGaussian.fit(logits(3, 5000, 10)), logits(4, 5000, 10)
    usual = score(gaussian, new).mean()
    assert 9.5 < usual < 10.5
    assert score(gaussian, new * 3).mean() > 3 * usual
    assert score(gaussian, np.full((1, 10), 4.0) + np.eye(10)[:1]).item() > 2 * usual


def test_a_class_that_was_never_predicted_has_no_distance() -> None:
    """So a rare class is not suspicious for being rare."""
    clean = logits(5, 500, 4)
    clean[:, 3] = clean.min(axis=1) - 1
    gaussian = LogitGaussian.fit(clean)
    assert gaussian.seen.tolist()[3] == 0
    rows = np.array([[0.0, 0, 0, 50], [50.0, 0, 0, 0]])
    found = score(gaussian, rows)
    assert found[0] == 0
    assert found[1] > 100


DEGENERATE = {
    "constant": np.full((100, 5), 3.0),
    "zeros": np.zeros((100, 5)),
    "one row": np.arange(5.0)[None, :],
    "two equal columns": np.repeat(logits(6, 300, 3), 2, axis=1),
    "log-probabilities, which sum to one": torch.log_softmax(
        torch.from_numpy(logits(7, 300, 6)), 1
    ).numpy(),
    "one column a million times the others": logits(8, 300, 4) * [1, 1, 1, 1e6],
    "fewer rows than classes": logits(9, 20, 50),
    "tiny": 1e-30 * logits(10, 300, 4),
    "huge": 1e90 * logits(11, 300, 4),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_singular_and_extreme_logits_give_finite_scores(name: str) -> None:
    clean = DEGENERATE[name]
    gaussian = LogitGaussian.fit(clean)
    found = score(gaussian, clean)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert found.mean() <= clean.shape[1] + 1e-6


@pytest.mark.parametrize("extreme", [1e4, 1e30, 1e99, -1e99])
def test_an_extreme_logit_is_the_most_suspicious_and_overflows_nothing(extreme: float) -> None:
    clean = logits(12, 1000, 5)
    gaussian = LogitGaussian.fit(clean)
    row = np.zeros((1, 5))
    row[0, 2] = extreme
    found = rounded(score(gaussian, row))
    assert not np.isnan(found).any()
    assert found.item() > rounded(score(gaussian, clean)).max()


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_rounded_scores_do_not_depend_on_the_batch(classes: int) -> None:
    """Nor on which rows stand beside one, nor on the number of threads."""
    gaussian = LogitGaussian.fit(logits(13, 2000, classes))
    z = logits(14, 1000, classes)
    whole = rounded(score(gaussian, z))
    for size in (1, 2, 3, 7, 64, 255, 999):
        parts = [rounded(score(gaussian, z[at : at + size])) for at in range(0, len(z), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    torch.set_num_threads(2)
    np.testing.assert_array_equal(rounded(score(gaussian, z)), whole)
    torch.set_num_threads(1)


def test_rounding_keeps_sixteen_bits_and_the_order() -> None:
    values = np.sort(np.random.default_rng(15).normal(size=10_000)) * 1e3
    found = rounded(values)
    assert (np.diff(found) >= 0).all()
    np.testing.assert_allclose(found, values, rtol=2.0**-15)
    np.testing.assert_array_equal(rounded(found), found)
    mantissa, _ = np.frexp(found)
    np.testing.assert_array_equal(mantissa * 2**16, np.round(mantissa * 2**16))
    assert rounded(np.array([0.0, np.inf, -np.inf])).tolist() == [0, np.inf, -np.inf]
