"""What is unusual among vectors: how few are named, that healthy ones are not, and the law of how many are beyond by chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import nhypergeom

from tocsin.training.finding import ADVERSARIAL, OUTLIER
from tocsin.training.unusual import LEAST, _chance, unusual

_SAMPLES = 1000


def _vectors(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and embeddings of three classes."""
    classes = rng.integers(0, 3, rows)
    logits = 6 * np.eye(3)[classes] + rng.normal(size=(rows, 3))
    return logits, 5 * np.eye(6)[classes] + rng.normal(size=(rows, 6))


def _named(seed: int, **planted: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits, embedding = _vectors(rng, _SAMPLES)
    for rows, value in planted.get("logits", ()):
        logits[rows] = value
    for rows, value in planted.get("embedding", ()):
        embedding[rows] *= value
    reference = _vectors(rng, _SAMPLES)
    found = unusual("validation", reference, np.arange(_SAMPLES), logits, embedding)
    return {one.kind: one.samples for one in found}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("length", [0.05, -1, 10])
def test_two_hundredths_that_are_far_too_long_or_too_short_are_named(
    seed: int, length: float
) -> None:
    found = _named(seed, embedding=[(slice(20), length)])
    assert set(found) == {OUTLIER}
    assert np.isin(np.arange(20), found[OUTLIER]).mean() >= 0.9
    assert (found[OUTLIER] >= 20).sum() <= 0.03 * _SAMPLES


@pytest.mark.parametrize("seed", range(4))
def test_two_hundredths_at_a_boundary_or_over_confident_are_named(seed: int) -> None:
    found = _named(seed, logits=[(slice(20), [3.0, 3.0, 0.0]), (slice(20, 40), [30.0, 0.0, 0.0])])
    assert set(found) == {ADVERSARIAL}
    assert np.isin(np.arange(40), found[ADVERSARIAL]).mean() >= 0.9
    assert (found[ADVERSARIAL] >= 40).sum() <= 0.03 * _SAMPLES


def test_of_healthy_samples_none_is_named() -> None:
    named = 0
    for seed in range(60):
        rng = np.random.default_rng([seed, 1])
        reference, own = _vectors(rng, LEAST), _vectors(rng, 500)
        named += bool(unusual("validation", reference, np.arange(500), *own))
    assert named <= 1  # 0.12 at the most are expected


def test_so_many_are_beyond_by_chance_as_precede_in_a_random_order() -> None:
    for samples, others, k in ((1500, 1500, 15), (300, 900, 1), (4000, 600, 6)):
        law = nhypergeom(samples + others, samples, k)
        for count in (1, 3, 10, 40):
            assert _chance(count, samples, k, others) == pytest.approx(law.sf(count - 1), rel=1e-6)
