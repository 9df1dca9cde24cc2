"""The loss of each batch: what diverges is found while the loss still falls, and single bad batches are no divergence."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.detectors.loss_curve import LossCurve
from tocsin.detectors.surges import Surges


def falling(seed: int, steps: int = 300) -> np.ndarray:
    """Return losses that fall to a tenth within a hundred steps, by batches that differ by a fifth."""
    rng = np.random.default_rng(seed)
    return 2.3 * (0.1 + 0.9 * np.exp(-np.arange(steps) / 40)) * np.exp(rng.normal(0, 0.2, steps))


def claims(losses: np.ndarray, plateau_steps: int = 300) -> list[tuple[int, str]]:
    curve = LossCurve(plateau_steps)
    return [
        (v.offset, v.change) for step, x in enumerate(losses) for v in curve.update(step, float(x))
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_falls_is_no_claim_and_one_that_leaves_its_fall_is(seed: int) -> None:
    losses = falling(seed)
    assert claims(losses) == []
    losses[120:] *= 6  # below what it began with, so that only its own past tells
    (step, change), *_ = claims(losses)
    assert 120 <= step <= 125
    assert change in {"spike", "divergence"}


# The losses of a healthy training: 3,000 digits of MNIST in batches of 16, a dense net, momentum. While they fall, batches differ by more and more.
FALLS = [
    2.34, 2.33, 2.3, 2.31, 2.3, 2.28, 2.26, 2.3, 2.3, 2.32, 2.29, 2.29, 2.3, 2.27, 2.29, 2.3, 2.25, 2.27, 2.28, 2.29, 2.26, 2.26,
    2.28, 2.31, 2.21, 2.28, 2.24, 2.18, 2.27, 2.21, 2.24, 2.26, 2.3, 2.26, 2.22, 2.15, 2.12, 2.24, 2.23, 2.17, 2.09, 2.11, 2.12, 2.15,
    2.12, 2.04, 2.05, 1.97, 1.97, 1.95, 1.91, 1.94, 1.92, 1.83, 2.04, 1.99, 1.88, 1.79, 1.64, 1.5, 1.82, 1.46, 1.48, 1.37, 1.45, 1.78,
    1.91, 1.31, 1.28, 1.39, 1.32, 1.42, 1.27, 1.08, 1.01, 1.21, 0.87, 1.23, 1.76, 0.99, 0.95, 0.97, 0.9, 1.27, 1.03, 0.78, 0.59, 0.72,
    1.04, 1.22, 1.2, 0.88, 0.94, 0.87, 0.66, 0.74, 0.77, 1.2, 0.92, 0.62, 0.78, 0.52, 0.73, 1.21, 0.67, 0.52, 1.32, 0.53, 0.85, 0.79,
    1.05, 0.87, 0.39, 0.46, 1.22, 0.7, 0.58, 0.72, 0.62, 1.59, 1.33, 0.78, 1.1, 1.26, 0.96, 0.36, 0.68, 0.37, 0.45, 0.91,
]  # fmt: skip


def test_batches_that_differ_more_and_more_while_the_loss_falls_are_no_divergence() -> None:
    curve = LossCurve()
    assert [v.change for step, loss in enumerate(FALLS) for v in curve.update(step, loss)] == []
    last = FALLS[-30:]
    found = [
        (step, v.change)
        for step in range(5)
        for v in curve.update(len(FALLS) + step, 2.0 ** (step + 1) * sum(last) / len(last))
    ]
    assert found == [(3, "divergence")], "one that doubles with each batch is"


def test_a_loss_that_had_learnt_and_is_back() -> None:
    losses = falling(0)
    losses *= np.exp(np.random.default_rng(1).normal(0, 1, len(losses)))  # batches differ by 3
    losses[200:] = losses[:5].max()
    assert (203, "divergence") in claims(losses)


def test_one_bad_batch_is_no_divergence() -> None:
    losses = falling(1)
    losses[250] = 60.0
    assert claims(losses) == [(250, "spike")]


def wide(seed: int) -> np.ndarray:
    """Return losses that fall to a fifth of 2.3 within fifty steps, by batches that differ by a factor of two once they are below."""
    rng = np.random.default_rng(seed)
    known = 1 - np.exp(-np.arange(300) / 20)
    return 2.3 * (1 - 0.82 * known) * np.exp(rng.normal(0, 0.05 + 0.55 * known).clip(None, 1.2))


@pytest.mark.parametrize("seed", range(20))
def test_a_step_that_unlearns_is_found_however_much_batches_differ(seed: int) -> None:
    """As a convolutional net does with Adam at a hundred times its rate: one loss of 14, and then those of no knowledge, about the first ones."""
    losses = wide(seed)
    assert claims(losses) == []
    losses[150] = 14.0
    losses[151:] = 2.25
    (step, _), *_ = claims(losses)
    assert step <= 155


def test_a_few_harder_batches_of_what_is_known_by_heart_are_no_divergence() -> None:
    rng = np.random.default_rng(0)
    losses = np.concatenate(
        [2.3 * np.exp(-np.arange(150) / 22), 0.003 * np.exp(rng.normal(0, 0.5, 150))]
    )
    losses[[250, 252, 253]] = 0.1, 0.09, 0.09  # 4.5 scales above
    assert claims(losses) == []
    losses[280:] = 2.0
    assert claims(losses)[0][0] <= 283


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_a_slow_climb_back_is_found(spread: float) -> None:
    """It carries its own window along."""
    rng = np.random.default_rng(0)
    learnt = np.full(300, 0.15)
    learnt[:60] = np.linspace(1, 0.15, 60)
    climb = 0.15 * np.exp(np.linspace(0, np.log(5 / 0.15), 2000))
    losses = 2.3 * np.concatenate([learnt, climb]) * np.exp(rng.normal(0, spread, 2300))
    steps = [step for step, change in claims(losses) if change == "divergence"]
    assert steps
    assert losses[steps[0] - 5 : steps[0]].mean() < 5


def test_batches_that_differ_much_come_where_they_began_by_chance() -> None:
    rng = np.random.default_rng(0)
    losses = np.concatenate([np.linspace(2.3, 1.0, 60), 1.0 * np.exp(rng.normal(0, 0.5, 400))])
    losses[[200, 201, 203, 204]] = 2.4, 2.5, 2.4, 2.6
    assert claims(losses) == []
    losses[300:] = 2.3 * np.exp(rng.normal(0, 0.5, 160)).clip(0.9)
    steps = [step for step, change in claims(losses) if change == "divergence"]
    assert steps
    assert steps[0] < 350


def test_five_that_are_far_in_the_mean_are_a_rise_of_a_loss() -> None:
    far = [6.5, 0.7, 2.9, 2.9, 3.8]  # scales: neither three of four nor four of three
    usual = np.exp(np.random.default_rng(0).normal(0, 0.3, 200))
    scale = np.quantile(np.log(usual[-128:]), 0.9) - np.median(np.log(usual[-128:]))
    values = [*usual, *np.exp(np.median(np.log(usual[-128:])) + scale * np.array(far))]
    kinds = []
    for mean in (True, False):
        surges = Surges(mean=mean)
        kinds.append([found.kind for x in values if (found := surges.update(float(x)))])
    assert kinds == [["rise"], []]


def noise(seed: int, spread: float, steps: int = 1000) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(0, spread, steps))


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_stays_where_it_began_is_a_plateau(seed: int, spread: float) -> None:
    losses = 2.3 * noise(seed, spread)
    first, *more = claims(losses, 100)
    assert first == (199, "plateau"), "as soon as there are twice as many batches"
    assert {change for _, change in more} == {"plateau"}
    assert min(np.diff([step for step, _ in [first, *more]])) >= 50, "not at each batch"
    assert claims(losses[:199], 100) == []


@pytest.mark.parametrize("seed", range(5))
def test_one_that_has_learnt_a_little_and_rests_is_a_plateau_from_where_it_rests(seed: int) -> None:
    losses = 2.3 * (0.7 + 0.3 * np.exp(-np.arange(1000) / 30)) * noise(seed, 0.05)
    (step, change), *_ = claims(losses, 100)
    assert change == "plateau"
    assert 250 <= step <= 350


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_one_that_has_learnt_and_rests_low_is_none(seed: int, spread: float) -> None:
    known = 0.2 + 0.8 * np.exp(-np.arange(1000) / 40)
    assert claims(2.3 * known * noise(seed, spread), 100) == []


@pytest.mark.parametrize(
    ("end", "spread", "plateau_steps"),
    [(1.5, 0.05, 100), (1.9, 0.02, 100), (1.3, 0.3, 300)],  # 2, 1.7 and 13 % in that many batches
)
@pytest.mark.parametrize("seed", range(5))
def test_one_that_falls_slowly_is_none(
    seed: int, end: float, spread: float, plateau_steps: int
) -> None:
    losses = np.linspace(2.3, end, 1000) * noise(seed, spread)
    assert claims(losses, plateau_steps) == []


def test_a_fall_of_less_than_a_hundredth_of_the_beginning_is_a_plateau() -> None:
    falls = {share: 2.3 * (1 - share * np.arange(600) / 100) for share in (0.008, 0.012)}
    assert [bool(claims(losses, 100)) for losses in falls.values()] == [True, False]


def test_a_plateau_that_ends_is_claimed_no_more_and_is_again_when_another_begins() -> None:
    falling_on = np.concatenate(
        [np.full(400, 2.3), np.linspace(2.3, 1.5, 400), np.full(400, 1.5)]
    ) * noise(0, 0.01, 1200)
    steps = np.array([step for step, change in claims(falling_on, 100) if change == "plateau"])
    assert ((steps < 500) | (steps > 950)).all()
    assert (steps < 500).any()
    assert (steps > 950).any()


HEAVY = [
    [3.616, 1.77, 0.63, 4.25, 28.0, 22.6, 5.42, 1.05],
    [1.42, 0.2388, 2.48, 2.96, 1.633, 19.3, 7.79],
]
"""The first losses of regressions on targets whose tail is heavy, in batches of 8."""


@pytest.mark.parametrize("losses", HEAVY)
def test_a_few_large_losses_among_the_first_are_no_divergence(losses: list[float]) -> None:
    assert claims(np.array(losses)) == []


def test_of_targets_with_a_heavy_tail_many_losses_are_where_they_began() -> None:
    for seed in range(20):
        losses = np.exp(np.random.default_rng(seed).normal(0, 1.5, 2000))
        losses[:5], losses[40:100] = (
            1.6,
            losses[40:100] / 3,
        )  # a start by chance, and some that look learnt
        found = [step for step, change in claims(losses) if change == "divergence"]
        assert found == []


def test_a_loss_that_is_where_it_began_again_is_so_for_as_long_as_it_stays_there() -> None:
    losses = np.concatenate(
        [np.geomspace(2.3, 0.1, 100), np.full(400, 0.1), np.full(400, 2.5)]
    ) * noise(0, 0.1, 900)
    steps = [step for step, change in claims(losses) if change == "divergence"]
    assert steps[0] < 505
    assert np.diff(steps).max() < 60
    assert steps[-1] >= 850


@pytest.mark.parametrize("plateau_steps", [19, 0])
def test_a_plateau_takes_twenty_batches_at_least(plateau_steps: int) -> None:
    with pytest.raises(ValueError, match="plateau_steps must be 20 batches or more"):
        LossCurve(plateau_steps)
