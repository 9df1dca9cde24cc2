"""How soon labels come, and what cohorts will be, on laws that are known."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.detectors.late_labels import DELAYS, Arrival, arrival, expected, metrics, rate, total


def delays(seed: int, ages: np.ndarray, rows: int, scale: float = 20.0) -> np.ndarray:
    """Return (cohorts, DELAYS) labels that have come at these ages, of exponential delays cut at the last bin."""
    rng = np.random.default_rng(seed)
    found = []
    for age in ages:
        delay = rng.exponential(scale, 20 * rows)
        delay = delay[delay < DELAYS][:rows]
        found.append(np.histogram(delay[delay < age], bins=np.arange(DELAYS + 1))[0])
    return np.array(found)


def law(scale: float = 20.0) -> np.ndarray:
    return (1 - np.exp(-np.arange(DELAYS + 1) / scale)) / (1 - np.exp(-DELAYS / scale))


def test_of_old_cohorts_it_is_the_share_that_has_come() -> None:
    ages = np.full(5, float(DELAYS))
    table = delays(0, ages, 400)
    found = arrival(table, ages)
    assert found is not None
    assert found.labels == table.sum()
    expected_share = np.append(0, np.cumsum(table.sum(axis=0))) / table.sum()
    np.testing.assert_allclose(found.share, expected_share, atol=1e-12)


def test_of_young_cohorts_it_is_the_law_although_the_late_ones_are_not_there_yet() -> None:
    ages = np.arange(DELAYS, 0, -2).astype(float)
    table = delays(1, ages, 2000)
    found = arrival(table, ages)
    assert found is not None
    assert np.abs(found.share - law()).max() < 0.01
    plain = np.append(0, np.cumsum(table.sum(axis=0))) / table.sum()
    assert np.abs(plain - law()).max() > 0.05


def test_few_labels_tell_nothing() -> None:
    table = np.zeros((1, DELAYS), np.int64)
    table[0, :29] = 1
    assert arrival(table, np.array([DELAYS])) is None
    table[0, 29] = 1
    assert arrival(table, np.array([DELAYS])) is not None
    assert arrival(table, np.array([10.0])) is None  # of which only ten can have been seen


def test_the_mean_over_ages_is_the_curves_mean() -> None:
    curve = Arrival(law(), 100)
    for youngest, oldest in ((0.0, 1.0), (10.3, 17.9), (120.0, 140.0), (130.0, 131.0), (-1.0, 0.0)):
        at = np.linspace(youngest, oldest, 20_001)
        values = np.interp(at, np.arange(DELAYS + 1), curve.share)
        assert curve.mean(youngest, oldest) == pytest.approx(values.mean(), abs=1e-4)


def test_rates_of_cohorts_that_are_alike_have_no_variance_and_of_others_theirs() -> None:
    rng = np.random.default_rng(0)
    exposure = rng.uniform(500, 3000, 3000)
    alike = rate(rng.poisson(0.04 * exposure), exposure)
    assert alike.mean == pytest.approx(0.04, rel=0.01)
    assert alike.variance < 1e-5
    each = rng.gamma(16, 0.04 / 16, 3000)  # standard deviation 0.01
    apart = rate(rng.poisson(each * exposure), exposure)
    assert apart.mean == pytest.approx(0.04, rel=0.02)
    assert apart.variance == pytest.approx(1e-4, rel=0.15)


@pytest.mark.parametrize("is_negative", [True, False])
def test_intervals_hold_the_truth_of_a_cohort_that_is_half_there(is_negative: bool) -> None:
    """Predictions of which some flags are right, in cohorts the youngest of which are looked at."""
    held = dict.fromkeys(("accuracy", "precision", "recall", "f1"), 0)
    runs, of_kind = 200, np.array([0.5, 0.06, 0.3, 0.14])
    scales = (10.0, 40.0, 10.0, 15.0)
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        ages = np.linspace(DELAYS, 15, 20)
        truth = np.stack([rng.poisson(2000 * of_kind) for _ in ages])
        table = np.zeros((20, 4, DELAYS), np.int64)
        for c, age in enumerate(ages):
            for k in range(4):
                delay = rng.exponential(scales[k], 30 * truth[c, k])
                delay = delay[delay < DELAYS][: truth[c, k]]
                if is_negative and k % 2 == 0:
                    delay = delay[: len(delay) // 3]
                table[c, k] = np.histogram(delay[delay < age], bins=np.arange(DELAYS + 1))[0]
        curves = [arrival(table[:, k], ages) for k in range(4)]
        pairs = table.sum(axis=2)
        said = np.stack([truth[:, 0] + truth[:, 1], truth[:, 2] + truth[:, 3]], axis=1)
        shares = np.array([[c.mean(a, a + 0.01) if c else 0.0 for c in curves] for a in ages])
        rates = [rate(pairs[:, k], said[:, k // 2] * shares[:, k]) for k in range(4)]
        parts = [
            expected(p, s, f, curves, rates, unlabelled_are_negative=is_negative)
            for p, s, f in zip(pairs[-6:], said[-6:], shares[-6:], strict=True)
        ]
        found = metrics(total([p for p in parts if p]), unlabelled_are_negative=is_negative)
        tn, fn, fp, tp = truth[-6:].sum(axis=0).tolist()
        values = {
            "accuracy": (tn + tp) / (tn + fn + fp + tp), "precision": tp / (tp + fp),
            "recall": tp / (tp + fn), "f1": 2 * tp / (2 * tp + fn + fp),
        }  # fmt: skip
        for name, value in values.items():
            held[name] += found[name].low <= value <= found[name].high
    for name, times in held.items():
        assert times / runs >= 0.9, (name, times)


def test_what_is_complete_stays_as_it_is_and_what_is_too_young_is_not_told() -> None:
    curve = Arrival(np.ones(DELAYS + 1), 50)
    pairs, said = np.array([50, 5, 20, 25]), np.array([55, 45])
    rates = [rate(pairs[k : k + 1], said[k // 2 : k // 2 + 1].astype(float)) for k in range(4)]
    found = expected(pairs, said, np.ones(4), [curve] * 4, rates, unlabelled_are_negative=False)
    assert found is not None
    assert found.counts.tolist() == pairs.tolist()
    assert metrics(found, unlabelled_are_negative=False)["recall"] == (25 / 30, 25 / 30, 25 / 30, 0)
    for shares, curves in ((np.full(4, 0.04), [curve] * 4), (np.ones(4), [None] * 4)):
        assert expected(pairs, said, shares, curves, rates, unlabelled_are_negative=True) is None
