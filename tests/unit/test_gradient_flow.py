"""Gradients as they come: explosions however large the first steps were, layers that get nothing, updates as large as weights."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.detectors.gradient_flow import GradientFlow

LAYERS = ["first", "middle", "last"]
SHARES = np.array([0.5, 0.6, 0.6])


def settled(seed: int, steps: int = 250) -> np.ndarray:
    """Return norms that fall from 10 to 0.05 within fifty steps, by batches that differ by a third."""
    rng = np.random.default_rng(seed)
    usual = 0.05 + 9.95 * np.exp(-np.arange(steps) / 8)
    return usual * np.exp(rng.normal(0, 0.3, steps))


def flow() -> GradientFlow:
    return GradientFlow(LAYERS, np.array([100, 100, 100]))


def claims(norms: np.ndarray, shares: np.ndarray = SHARES) -> list[tuple[int, str, str]]:
    watched = flow()
    return [
        (v.offset, v.change, v.subject)
        for step, norm in enumerate(norms)
        for v in watched.update(step, norm * shares)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_an_explosion_far_below_the_first_steps_is_found(seed: int) -> None:
    norms = settled(seed)
    assert claims(norms) == []
    norms[200:] *= 12 + seed % 9  # 0.6 to 1.0: a tenth of what it began with
    (step, change, subject), *_ = claims(norms, np.array([0.3, 0.9, 0.3]))
    assert 200 <= step <= 205
    assert (change, subject) == ("exploding", "gradient:middle")


def test_one_large_step_is_no_explosion() -> None:
    norms = settled(0)
    norms[200] *= 1_000
    assert claims(norms) == []


@pytest.mark.parametrize("times", [2.0, 4.0])
def test_less_than_ten_times_is_no_explosion(times: float) -> None:
    norms = settled(1)
    norms[200:] *= times
    assert claims(norms) == []


def test_an_explosion_from_the_beginning() -> None:
    norms = 1e-2 * np.exp(np.random.default_rng(2).normal(0, 0.3, 15))
    norms[6:] *= 1e4
    assert claims(norms)[0][:2] == (8, "exploding")


def test_the_last_layer_without_a_gradient_is_named_and_how_many_are_before_it() -> None:
    watched = flow()
    found = [v for step in range(10) for v in watched.update(step, np.array([0.0, 0.0, 1.0]))]
    assert [(v.offset, v.change, v.subject) for v in found] == [(9, "dead", "gradient:middle")]
    assert "nor do 1 before it" in found[0].evidence


def test_of_dead_layers_the_one_before_that_which_is_given_the_same_in_all_rows_is_the_cause() -> (
    None
):
    watched = flow()
    found = []
    for step in range(10):
        found += watched.update(step, np.array([0.0, 0.0, 1.0]))
        assert watched.silent == (["first", "middle"] if 4 <= step < 9 else [])
        watched.fed({name: name == "first" for name in watched.silent})
    assert [(v.offset, v.change, v.subject) for v in found] == [(9, "dead", "gradient:first")]
    assert "nor do 1 after it" in found[0].evidence


def test_a_layer_that_is_left_out_now_and_then_is_not_dead() -> None:
    watched = flow()
    rows = [np.array([0.0 if step % 9 else 1.0, 1.0, 1.0]) for step in range(100)]
    assert [v for step, norms in enumerate(rows) for v in watched.update(step, norms)] == []


def test_frozen_layers_are_not_judged() -> None:
    watched = flow()
    assert [
        v for step in range(50) for v in watched.update(step, np.array([-1.0, -1.0, 1.0]))
    ] == []
    assert watched.update(50, np.full(3, -1.0)) == []


def test_the_faintest_layer_is_named() -> None:
    watched = flow()
    found = [v for step in range(20) for v in watched.update(step, np.array([1e-8, 1e-6, 1.0]))]
    assert [(v.offset, v.change, v.subject) for v in found] == [(9, "vanishing", "gradient:first")]
    assert "2 of 3 layers" in found[0].evidence


def test_a_faint_layer_after_one_that_gets_its_gradient_has_not_vanished() -> None:
    def found(norms: list[float], unplaced: int = 0) -> list[str]:
        watched = GradientFlow(LAYERS, np.array([100, 100, 100]), unplaced)
        return [v.subject for step in range(20) for v in watched.update(step, np.array(norms))]

    assert found([1e-2, 1e-8, 1.0]) == [], "queries of attention"
    assert found([2e-5, 1e-8, 1.0]) == ["gradient:middle"]
    assert found([-1.0, 1e-8, 1.0]) == ["gradient:middle"], "the first is frozen"
    assert found([1e-2, 1e-8, 1.0], unplaced=1) == ["gradient:middle"]
    assert found([1e-8, 1e-2, 1.0], unplaced=1) == ["gradient:first"]


def test_the_layer_whose_gradient_first_is_no_number_is_the_last_in_the_forward_order() -> None:
    (found,) = flow().update(7, np.array([np.nan, np.inf, 1.0]))
    assert (found.offset, found.change, found.subject) == (7, "non-finite", "gradient:middle")


def test_an_update_as_large_as_the_weights_in_three_looks_of_five() -> None:
    watched = flow()
    small, large = np.full(3, 1e-3), np.array([1e-3, 5.0, 1e-3])
    looks = [large, small, small, small, small, large, small, large, large]
    found = [v for step, ratios in enumerate(looks) for v in watched.updated(step, ratios)]
    assert [(v.offset, v.change, v.subject) for v in found] == [(8, "update", "gradient:middle")]


def test_what_lasts_is_claimed_once_and_again_after_a_rest() -> None:
    watched = flow()
    dead, live = np.array([0.0, 1.0, 1.0]), np.ones(3)
    rows = [dead] * 40 + [live] * 60 + [dead] * 20
    found = [v for step, norms in enumerate(rows) for v in watched.update(step, norms)]
    assert [v.offset for v in found] == [9, 109]
