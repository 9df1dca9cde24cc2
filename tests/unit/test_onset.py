"""The onset of a change: an estimate that is right in the middle, and an interval that covers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri

from tocsin.core.columns import Floats
from tocsin.detectors import bets
from tocsin.detectors.onset import Onset, of_mean, onset


def gains(values: Floats) -> Floats:
    """What the bets on numbers win by N(0,1) values whose law is known."""
    cells = np.searchsorted(ndtri(np.arange(1, bets.CELLS) / bets.CELLS), values)
    return np.column_stack([np.log(bets.table())[cells], np.zeros(len(values))])


def estimate(values: Floats, best: int, counts: np.ndarray | None = None) -> Onset:
    ones = np.ones(len(values), np.int64) if counts is None else counts
    return onset(gains(values), ones, np.ones(len(bets.BETS)), best)


def best_for(shift: float) -> int:
    return next(k for k, b in enumerate(bets.BETS) if b.size == shift and "location" in b.change)


@pytest.mark.parametrize(("shift", "after"), [(1.0, 35), (2.0, 12), (0.5, 130), (-1.0, 35)])
def test_the_interval_covers_the_onset(shift: float, after: int) -> None:
    rng, covered, errors = np.random.default_rng(3), 0, []
    for _ in range(400):
        values = rng.normal(size=800)
        values[-after:] += shift
        found = estimate(values, best_for(shift))
        assert 1 <= found.low <= found.delay <= found.high <= 800
        covered += found.low <= after <= found.high
        errors.append(found.delay - after)
    assert covered / 400 >= 0.88  # 95 % of beginnings if they were as likely as bets are staked
    assert abs(np.median(errors)) <= max(2, after / 10)


def test_an_abrupt_change_is_placed_to_the_value() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=500), np.full(20, 2.5)])
    found = estimate(values, best_for(2.0))
    assert found.delay == pytest.approx(20, abs=1)
    assert found.high - found.low <= 6


def test_rows_that_are_sums_count_as_so_many_values() -> None:
    """What lies further back is known by blocks only: the delay is in values all the same."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=1024)
    values[-300:] += 1
    fine = gains(values)
    blocks = np.add.reduceat(fine[:896], np.arange(0, 896, 128))
    counts = np.concatenate([np.full(7, 128), np.ones(128, np.int64)])
    found = onset(
        np.concatenate([blocks, fine[896:]]), counts, np.ones(len(bets.BETS)), best_for(1.0)
    )
    assert abs(found.delay - 300) <= 128
    assert found.low <= 300 + 128


def test_one_value_is_enough() -> None:
    assert estimate(np.array([5.0]), best_for(2.0)) == Onset(1, 1, 1, 1)


def with_posterior(share: Floats, counts: np.ndarray) -> Floats:
    """What one bet wins by rows, (n,) the newest first, for the change to have begun in each with these shares."""
    prior = counts / np.sqrt(np.cumsum(counts))
    return np.diff(np.log(share / prior), prepend=0.0)[::-1, None]


def spike(size: int, at: int, height: float) -> Floats:
    """Any of the latest values alike, but for some more about one of them."""
    return 1 + height * np.exp(-np.abs(np.arange(1, size + 1) - at) / 3)


def test_the_estimate_is_where_most_is_near_and_not_the_median() -> None:
    share, ones = spike(1000, 380, 30), np.ones(1000, np.int64)
    upto = np.cumsum(share) / share.sum()
    assert upto[379] < 0.45
    assert 1 + np.searchsorted(upto, 0.5) >= 410
    assert onset(with_posterior(share, ones), ones, np.ones(1), 0).delay == 380


def test_what_is_outside_of_the_middle_is_not_the_estimate_however_much_is_near() -> None:
    share, ones = spike(1000, 20, 10), np.ones(1000, np.int64)
    assert np.cumsum(share)[30] < 0.1 * share.sum()
    found = onset(with_posterior(share, ones), ones, np.ones(1), 0)
    assert 30 < 1 + np.searchsorted(np.cumsum(share), 0.1 * share.sum()) <= found.delay


def test_what_lies_in_rows_that_are_sums_is_not_near_a_single_value() -> None:
    """The older tenth is known by blocks of 128, of which the next one holds nearly all."""
    counts = np.append(np.ones(300, np.int64), np.full(5, 128))
    share = np.append(spike(300, 200, 2), [30, 0.1, 0.1, 0.1, 0.1])
    below = np.cumsum(share) / share.sum()
    assert below[264] < 0.9 < below[299]
    found = onset(with_posterior(share, counts), counts[::-1], np.ones(1), 0)
    assert found.delay == 200


def test_more_estimates_are_within_5_values_than_medians_are() -> None:
    """Errors of 10 % become 30 %, by one who knows both rates: 53 % against 50 %."""
    hits, runs, after = np.zeros(2), 1000, 60
    for run in range(runs):
        rng = np.random.default_rng([run, 5])
        errors = np.append(rng.random(200) < 0.1, rng.random(after) < 0.3)
        won = np.where(errors, np.log(3), np.log(0.7 / 0.9))
        found = onset(won[:, None], np.ones(len(won), np.int64), np.ones(1), 0)
        share = np.exp(np.cumsum(won[::-1]))
        median = 1 + np.searchsorted(np.cumsum(share), share.sum() / 2)
        hits += abs(found.delay - after) <= 5, abs(median - after) <= 5
    assert hits[0] / runs >= 0.52
    assert hits[0] - hits[1] >= 0.02 * runs


def test_up_to_alone_lie_80_percent_of_the_beginnings_of_one_bet() -> None:
    rng = np.random.default_rng(9)
    for _ in range(50):
        won = rng.normal(-0.05, 0.4, (400, 3))
        won[-60:] += 0.15
        found = onset(won, np.ones(400, np.int64), np.array([0.1, 0.2, 0.3]), 1)
        share = np.array([np.exp(won[400 - delay :, 1].sum()) for delay in range(1, 401)])
        assert share[: found.alone - 1].sum() < 0.8 * share.sum() <= share[: found.alone].sum()


def test_long_evidence_does_not_overflow() -> None:
    found = estimate(np.full(5000, 3.0), best_for(2.0))
    assert found.delay == pytest.approx(5000, abs=5)


@pytest.mark.parametrize("after", [5, 20, 64, 100])
def test_the_change_point_is_the_split_that_explains_most(after: int) -> None:
    values = np.zeros(128)
    values[-after:] = 1
    assert of_mean(values).delay == after
    noisy = values * 3 + np.random.default_rng(11).normal(size=128)
    n, splits = 128, range(5, 124)
    residual = [noisy[: n - k].var() * (n - k) + noisy[n - k :].var() * k for k in splits]
    assert of_mean(noisy).delay == splits[int(np.argmin(residual))]


def test_too_few_values_for_a_split_are_all_taken() -> None:
    assert [of_mean(np.arange(float(n))).delay for n in (1, 9)] == [1, 9]
    assert of_mean(np.arange(10.0)).delay == 5
    # A mean of 128 values and 4 single ones: no split has 5 values on either side.
    assert of_mean(np.arange(5.0), np.array([128.0, 1, 1, 1, 1])) == Onset(132, 1, 132)


@pytest.mark.parametrize(("shift", "after"), [(1.0, 40), (3.0, 12), (0.5, 150)])
def test_the_interval_of_a_mean_covers_the_onset(shift: float, after: int) -> None:
    rng, covered = np.random.default_rng(4), 0
    for _ in range(400):
        values = rng.normal(5, 2, size=600)
        values[-after:] += 2 * shift
        # The oldest ones are known by the means of fifty only.
        means = values[:400].reshape(8, 50).mean(axis=1)
        counts = np.append(np.full(8, 50.0), np.ones(200))
        found = of_mean(np.append(means, values[400:]), counts)
        assert 1 <= found.low <= found.delay <= found.high <= 600
        covered += found.low <= after <= found.high
    assert covered / 400 >= 0.88
