"""What an e-detector shows of a change: the values since, sizes in the terms of the change."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tocsin.core.verdict import Verdict
from tocsin.detectors.base import Observations
from tocsin.detectors.e_detector import EDetector


def first_of(values: np.ndarray) -> Verdict:
    found = EDetector().update(Observations.of(np.asarray(values, np.float64)))
    return next(v for v in found if v.phase == "opened")


@pytest.mark.parametrize("window", [300, 900])
def test_the_picture_of_a_slow_change_is_of_the_values_since(window: int) -> None:
    """Not of the latest 128 only, while a ramp goes on."""
    checked = 0
    for seed in range(8):
        values = np.random.default_rng(60 + seed).normal(size=6000)
        values[4000:] += np.minimum(np.arange(2000) / (3 * window), 1.0)
        values = np.exp(values / 2)  # a long tail, whose outer cell says little
        first = first_of(values)
        delay = first.delay_events or 0
        assert first.current is not None
        if delay > 140:
            since = values[first.offset + 1 - delay : first.offset + 1]
            error = 4 * since.std() / np.sqrt(delay) * np.sqrt(128 / delay)
            assert first.current.mean == pytest.approx(since.mean(), abs=error)
            assert first.current.std == pytest.approx(since.std(), rel=0.35)
            checked += 1
        msgspec.json.encode(first)  # plain numbers
    assert checked >= 3


def test_a_change_of_spread_has_its_size_in_spread_and_a_constant_no_sigmas() -> None:
    rng = np.random.default_rng(70)
    wider = np.append(rng.normal(20, 5, 4000), rng.normal(20, 10, 1000))
    first = first_of(wider)
    assert first.change == "scale up"
    assert first.size == pytest.approx(5, abs=2)
    assert first.size_sigmas == pytest.approx(1, abs=0.4)
    constant = np.full(5000, 5.0)
    constant[4000:] = 6.0
    first = first_of(constant)
    assert (first.size, first.size_sigmas) == (1.0, None)
    assert first.offset + 1 - (first.delay_events or 0) == 4000
