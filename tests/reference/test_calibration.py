"""The calibration map, against scikit-learn's isotonic regression, and how well it says that it is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from tocsin.core.errors import StateError
from tocsin.core.snapshot import pack, unpack
from tocsin.detectors.calibration import ENTRIES, GROUPS, Calibration


def reference(seed: int, n: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and labels that are 1 more often than the scores say; of some seeds with ties."""
    rng = np.random.default_rng(seed)
    score = rng.beta(*rng.uniform(0.2, 2, 2), n)
    label = (rng.random(n) < score**0.7) * 1.0
    return (np.round(score, 2) if seed % 3 == 0 else score), label


@pytest.mark.parametrize("seed", range(9))
def test_it_is_scikit_learns(seed: int) -> None:
    score, label = reference(seed)
    found = Calibration.fit(score, label)
    expected = IsotonicRegression(out_of_bounds="clip").fit(score, label)
    np.testing.assert_allclose(found.apply(score), expected.predict(score), atol=1e-12)
    # In a gap between two blocks theirs is a line and ours a step.
    other = np.concatenate([[0.0, 1.0], np.random.default_rng(0).random(1000)])
    gap = np.concatenate([[0], np.diff(found.values), [0]])
    at = np.searchsorted(found.edges, other, "right")
    off = np.abs(found.apply(other) - expected.predict(other))
    assert (off <= np.maximum(gap[at], gap[at + 1]) + 1e-12).all()


def test_each_score_finds_its_block_wherever_the_edges_are() -> None:
    rng = np.random.default_rng(0)
    near = 0.3 + rng.random(500) * 1e-5  # hundreds in one cell of the guide
    edges = np.unique(np.concatenate([near, rng.random(500), [1 / 4096, 0.5, np.nextafter(1, 0)]]))
    values = np.linspace(0, 1, len(edges) + 1)
    found = Calibration(edges, values, np.ones(len(values), np.int64))
    around = (edges, np.nextafter(edges, 0), np.nextafter(edges, 1), [0.0, 1.0], rng.random(999))
    score = np.concatenate(around)
    np.testing.assert_array_equal(
        found.apply(score), values[np.searchsorted(edges, score, "right")]
    )


def test_what_is_no_score_has_no_probability() -> None:
    found = Calibration.fit(*reference(1))
    assert np.isnan(found.apply(np.array([np.nan, np.inf, -np.inf, -1e-9, 1.0000001]))).all()
    assert len(found.apply(np.zeros(0))) == 0


def test_rows_that_are_none_are_left_out() -> None:
    score, label = reference(1)
    bad = np.array([np.nan, 2.0, 0.5, 0.5])
    found = Calibration.fit(
        np.concatenate([bad, score]), np.concatenate([[1.0, 1.0, np.nan, 7.0], label])
    )
    assert found.snapshot() == Calibration.fit(score, label).snapshot()


def test_it_is_refused_without_rows_of_both_labels() -> None:
    score, label = reference(1)
    with pytest.raises(ValueError, match=r"found 299 reference rows .* expected 300"):
        Calibration.fit(score[:299], label[:299])
    with pytest.raises(ValueError, match="all have the label 1, expected both"):
        Calibration.fit(score, np.ones(len(score)))
    with pytest.raises(ValueError, match="all have the label 0, expected both"):
        Calibration.fit(score, np.zeros(len(score)))


def test_it_is_bounded_and_still_right_where_every_score_has_a_block() -> None:
    score = np.repeat(np.linspace(0, 1, 20_001), 50)
    label = (np.tile(np.arange(50) / 50, 20_001) < score) * 1.0  # a rising rate in each
    found = Calibration.fit(score, label)
    assert len(found.values) <= ENTRIES
    assert len(found.snapshot()) <= 100_000
    assert (np.diff(found.values) >= 0).all()
    assert found.apply(score).sum() == pytest.approx(label.sum(), rel=1e-12)
    assert np.abs(found.apply(score) - score).max() < 0.021


def test_a_snapshot_is_the_map() -> None:
    score, label = reference(2)
    found = Calibration.fit(score, label)
    again = Calibration.restored(found.snapshot())
    for name in ("edges", "values", "weights", "guide", "group", "spread"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    with pytest.raises(StateError):
        Calibration.restored(found.snapshot()[:-1])
    meta, arrays = unpack("calibration", 1, found.snapshot())
    arrays["edges"] = arrays["edges"][1:]
    with pytest.raises(StateError):
        Calibration.restored(pack("calibration", 1, meta, arrays))


def test_its_spread_is_that_of_maps_of_other_samples() -> None:
    """Mean probability of fixed scores, by thirds, over 200 references; scores are coarse so that groups are few."""
    at = np.arange(12) / 12 + 1 / 24
    means, said = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        score = rng.choice(at, 3000)
        found = Calibration.fit(score, (rng.random(3000) < score) * 1.0)
        means.append(found.apply(at).reshape(3, 4).mean(axis=1))
        shares = [
            np.bincount(found.group_of(part), minlength=GROUPS) / 4 for part in at.reshape(3, 4)
        ]
        said.append([found.spread @ share**2 for share in shares])
    ratio = np.var(means, axis=0) / np.mean(said, axis=0)
    assert (ratio > 0.75).all(), ratio
    assert (ratio < 1.33).all(), ratio
