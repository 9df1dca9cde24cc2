"""Exact sums against the standard library's `fsum`, in any order and after values were taken away."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tocsin.detectors.exact_sum import LIMBS, add, total


def summed(*values: float) -> np.ndarray:
    limbs = np.zeros(LIMBS, np.int64)
    for value in values:
        add(limbs, value, 1)
    return limbs


@pytest.mark.parametrize("seed", range(60))
def test_it_is_fsum_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 300))
    values = rng.normal(size=n) * 10.0 ** (rng.uniform(-320, 300, n) if seed % 2 else 12)
    if seed % 3 == 0:
        values = np.concatenate([values, -values[::2]])
    limbs = summed(*values.tolist())
    assert total(limbs) == math.fsum(values)
    assert total(summed(*rng.permutation(values).tolist())) == total(limbs)
    half = len(values) // 2
    assert total(summed(*values[:half].tolist()) + summed(*values[half:].tolist())) == total(limbs)
    for value in values[half:].tolist():
        add(limbs, value, -1)
    assert total(limbs) == math.fsum(values[:half])


@pytest.mark.parametrize("value", [5e-324, -2.2e-308, 1.7976931348623157e308, 0.0, -0.0, 1.0, -0.1])
def test_one_value_comes_back_as_it_is(value: float) -> None:
    assert total(summed(value)) == value


def test_beyond_the_largest_float_it_is_infinite_and_comes_back() -> None:
    limbs = summed(1.7e308, 1.7e308)
    assert total(limbs) == math.inf
    assert total(-limbs) == -math.inf
    add(limbs, 1.7e308, -1)
    assert total(limbs) == 1.7e308
