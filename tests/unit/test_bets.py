"""The bets: fair under uniform p-values, and under what a tolerance or an uncertain reference allows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from tocsin.detectors import bets

CELLS = bets.CELLS


def shifted(by: float, scale: float = 1.0) -> np.ndarray:
    """(64,) probabilities of a p-value's cells when a normal stream has shifted."""
    z = ndtri(np.arange(CELLS + 1) / CELLS)
    return np.diff(ndtr((z - by) / scale))


def test_every_bet_has_mean_one_under_uniform_p_values() -> None:
    table = bets.table()
    assert table.shape == (CELLS, len(bets.BETS) - 1)
    assert (table > 0).all()
    assert table.mean(axis=0) == pytest.approx(np.ones(table.shape[1]), abs=1e-12)


def test_the_stakes_are_all_that_is_staked() -> None:
    weights = bets.weights()
    assert len(weights) == len(bets.BETS)
    assert (weights > 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert bets.ODDS_STAKES.sum() == pytest.approx(
        1, abs=1e-12
    )  # of what is staked on either direction


@pytest.mark.parametrize("column", range(len(bets.BETS) - 1))
def test_a_bet_wins_most_under_the_change_that_it_is_named_after(column: int) -> None:
    bet = bets.BETS[column]
    cells = shifted(bet.size) if bet.change.startswith("location") else shifted(0, bet.size)
    gains = cells @ np.log(bets.table())
    assert gains.argmax() == column
    assert gains[column] > 0
    direction = "up" if bet.size > 1 or bet.change == "location up" else "down"
    assert bet.change.endswith(direction)


def test_no_bet_is_better_than_fair_under_a_tolerated_shift() -> None:
    tolerance = 0.2
    fair = bets.table() * bets.deflation(tolerance)
    for by in np.linspace(-tolerance, tolerance, 21):
        assert (shifted(by) @ fair <= 1 + 1e-9).all()
    # It is needed: undeflated bets are not, and the deflated ones still win beyond the tolerance.
    assert (shifted(tolerance) @ bets.table() > 1.01).any()
    assert (shifted(1.0) @ np.log(fair)).max() > 0.2


def test_deflation_is_that_of_a_normal_likelihood_ratio() -> None:
    tolerance = 0.1
    location = [b for b in bets.BETS if b.change.startswith("location")]
    expected = [np.exp(-tolerance * abs(b.size)) for b in location]
    assert bets.deflation(tolerance)[: len(location)] == pytest.approx(expected, rel=0.02)
    assert bets.deflation(0.0) == pytest.approx(np.ones(len(bets.BETS) - 1), abs=1e-12)


@pytest.mark.parametrize("tolerance", [0.05, 0.1, 0.5])
def test_no_shares_that_were_learnt_win_more_under_a_tolerated_shift_than_they_are_deflated_by(
    tolerance: float,
) -> None:
    slopes, bends = bets.slopes_and_bends(tolerance)
    rng = np.random.default_rng(0)
    worst = 0.0
    for by in np.linspace(-tolerance, tolerance, 11):
        coarse = shifted(by).reshape(bets.COARSE, -1).sum(axis=1)
        learnt = [*rng.dirichlet(np.ones(bets.COARSE), 50), coarse, *np.eye(bets.COARSE)]
        for shares in learnt:
            mean = coarse @ (bets.COARSE * shares)
            bound = 1 + tolerance * abs(shares @ slopes) + shares @ bends
            assert mean <= bound + 1e-9
            worst = max(worst, (mean - 1) / (bound - 1))
    assert worst > 0.9  # and it is little more than needed


def test_a_fixed_reference_may_be_wrong_by_what_its_size_allows() -> None:
    """Whatever the p-values' law within the bound's distance of the uniform one, no bet gains."""
    size = 1000
    eps, fair = (
        bets.distance_bound(size),
        bets.table() * bets.fixed_reference(bets.distance_bound(size)),
    )
    rng = np.random.default_rng(0)
    worst = 0.0
    uniform = np.arange(CELLS + 1) / CELLS
    for _ in range(300):
        # Distribution functions that run along the edge of the band, with jumps from one side to the other.
        side = np.repeat(rng.choice([-1, 1], 8), 8) * eps
        upto = np.clip(uniform + np.concatenate([[0], side]), 0, 1)
        upto[-1] = 1
        upto = np.maximum.accumulate(upto)
        assert np.abs(upto - uniform).max() <= eps + 1e-12
        worst = max(worst, float((np.diff(upto) @ fair).max()))
        assert (np.diff(upto) @ fair <= 1 + 1e-9).all()
    assert worst > 0.9, "the band was not used"


def test_the_distance_bound_holds_as_often_as_it_says() -> None:
    rng, size = np.random.default_rng(1), 200
    values = np.sort(rng.random((2000, size)), axis=1)
    steps = np.arange(size + 1) / size
    distance = np.maximum(steps[1:] - values, values - steps[:-1]).max(axis=1)
    exceeded = (distance > bets.distance_bound(size)).mean()
    assert 0.02 < exceeded <= 0.06  # 5 % at most, and nearly as many for large samples


def test_scores_are_those_of_normal_ranks() -> None:
    scores = bets.scores()
    assert (np.diff(scores) > 0).all()
    assert scores == pytest.approx(-scores[::-1], abs=1e-12)
    middle = ndtri((np.arange(CELLS) + 0.5) / CELLS)
    assert scores[1:-1] == pytest.approx(middle[1:-1], abs=0.02)
