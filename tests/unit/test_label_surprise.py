"""The label less what the features say."""

from __future__ import annotations

import numpy as np

from tocsin.detectors.label_surprise import LabelSurprise


def explained(n: int = 8000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2)) * [1, 50] + [0, 1000]
    return np.column_stack([x, rng.random(n) < 1 / (1 + np.exp(-4 * x[:, 0]))])


def residuals(values: np.ndarray, surprise: LabelSurprise | None = None) -> np.ndarray:
    blocks = np.arange(len(values)) // 24
    rates = np.concatenate([[np.inf], np.full(blocks[-1], 24.0)])
    known = surprise or LabelSurprise()
    return known.residuals(values, 2, {"feature:a": 0, "feature:b": 1}, blocks, 0, rates)


def test_it_learns_what_the_features_explain() -> None:
    values = explained()
    found = residuals(values)
    assert np.isnan(found[:32]).all()  # until the features have a scale
    assert np.isfinite(found[32:]).all()
    best = values[4000:, 2] - 1 / (1 + np.exp(-4 * values[4000:, 0]))
    assert np.mean(found[4000:] ** 2) < 1.05 * np.mean(best**2)
    assert abs(found[4000:].mean()) < 0.01


def test_a_residual_is_of_the_model_from_before_its_row() -> None:
    values = explained(500)
    other = values.copy()
    other[300, 2] = 1 - other[300, 2]
    a, b = residuals(values), residuals(other)
    assert np.array_equal(a[:300], b[:300], equal_nan=True)
    assert abs(a[300] - b[300]) == 1
    assert a[301] != b[301]


def test_labels_that_are_no_label_and_features_that_are_junk_do_not_blind_it() -> None:
    values = explained()
    rng = np.random.default_rng(1)
    dirty = values.copy()
    dirty[rng.random(len(values)) < 0.05, 2] = np.nan
    dirty[rng.random(len(values)) < 0.02, 2] = 7
    dirty[rng.random(len(values)) < 0.05, 0] = np.nan
    dirty[rng.random(len(values)) < 0.01, 1] = 1e99
    dirty[:5, 0] = 1e99, -1e99, np.inf, -np.inf, 1e308
    found = residuals(dirty)
    bits = (dirty[:, 2] == 0) | (dirty[:, 2] == 1)
    assert np.isnan(found[~bits]).all()
    known = np.isfinite(found) & (np.arange(len(found)) > 4000)
    assert known.sum() > 3500
    assert np.mean(found[known] ** 2) < 1.25 * np.mean(residuals(values)[known] ** 2)
    assert np.abs(found[known]).max() <= 1


def test_a_constant_feature_says_nothing() -> None:
    values = explained()
    values[:, 1] = 3.0
    assert np.isfinite(residuals(values)[32:]).all()
    values[:, 0] = 3.0
    assert np.isnan(residuals(values)).all()


def test_its_state_goes_on() -> None:
    values = explained(2000)
    whole = residuals(values)
    first, second = LabelSurprise(), LabelSurprise()
    blocks = np.arange(2000) // 24
    rates = np.concatenate([[np.inf], np.full(blocks[-1], 24.0)])
    names = {"feature:a": 0, "feature:b": 1}
    found = [first.residuals(values[:1001], 2, names, blocks[:1001], 0, rates)]
    labels, arrays = first.state()
    second.load(labels, {key: array.copy() for key, array in arrays.items()})
    found.append(second.residuals(values[1001:], 2, names, blocks[1001:], 0, rates))
    assert np.array_equal(np.concatenate(found), whole, equal_nan=True)
