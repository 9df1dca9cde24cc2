"""What goes wrong in the first steps of a run, before there are losses enough to compare with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from tocsin.detectors.early_rise import UNTIL, EarlyRise
from tocsin.detectors.loss_curve import LossCurve
from tocsin.training import LossMonitor, TrainingAlerts


def falling(seed: int, spread: float = 0.15, steps: int = 100) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 2.3 * np.exp(-np.arange(steps) / 12) * np.exp(rng.normal(0, spread, steps)) + 0.02


def first(losses: np.ndarray) -> int | None:
    curve = LossCurve()
    return next(
        (
            k
            for k, x in enumerate(losses)
            for v in curve.update(k, float(x))
            if v.change == "divergence"
        ),
        None,
    )


@pytest.mark.parametrize("begin", [11, 14, 16, 17, 18, 19, 20, 21, 24, 28, 33, 40, 50, 58])
def test_a_run_that_goes_wrong_in_its_first_steps(begin: int) -> None:
    for seed in range(10):
        losses = falling(seed)
        wild = losses.copy()
        wild[begin:] = 2.4 + 600 * np.exp(-np.arange(100 - begin))
        higher = losses.copy()
        higher[begin:] = np.maximum(10 * losses[begin - 1], losses[begin:])  # not where it began
        for one in (wild, higher):
            found = first(one)
            assert found is not None
            assert begin <= found <= begin + 4


@pytest.mark.parametrize("spread", [0.02, 0.15, 0.4, 0.8])
def test_losses_that_fall_do_not_rise(spread: float) -> None:
    for seed in range(200):
        early = EarlyRise()
        assert not any(early.update(float(x)) for x in falling(seed, spread, UNTIL))


def test_later_values_and_ones_that_have_no_logarithm_are_not_judged() -> None:
    early = EarlyRise()
    assert not any(early.update(x) for x in [0.0, -1.0] * 40)
    assert not any(early.update(x) for x in [1.0] * UNTIL + [100.0] * 5)
    assert EarlyRise().update(100.0) is None


@pytest.mark.parametrize("at", [14, 17, 21, 28])
def test_a_rate_a_hundred_times_too_large_from_a_step_of_the_first_epoch_on(at: int) -> None:
    torch.manual_seed(at)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    model = nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    alerts = TrainingAlerts(show=False)
    monitor = LossMonitor(alerts=alerts)
    criterion = nn.CrossEntropyLoss()
    monitor.initialize(model, [], criterion)
    for step in range(60):
        if step == at:
            optimizer.param_groups[0]["lr"] = 1.0
        rows = torch.randint(len(x), (64,))
        outputs = model(x[rows])
        optimizer.zero_grad()
        criterion(outputs, y[rows]).backward()
        optimizer.step()
        monitor.on_batch_end(outputs, (x[rows], y[rows]))
    found = [claim.place.step for claim in alerts.claims if claim.verdict.change == "divergence"]
    assert at < found[0] <= at + 5  # the step after it is the first that shows
