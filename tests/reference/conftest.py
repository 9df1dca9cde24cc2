"""Streams of many shapes, for what must agree with a reference on any of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

Streams = Callable[[int, int], dict[str, NDArray[np.float64]]]


@pytest.fixture(scope="session")
def streams() -> Streams:
    """A function of a seed and a number n of events to (n,) values by the name of their shape."""
    return make


def make(seed: int, n: int) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=n)
    steps = np.repeat(rng.normal(scale=2, size=n // 250 + 1), 250)[:n]
    return {
        "normal": normal,
        "bernoulli": (rng.random(n) < 0.1).astype(np.float64),
        "bernoulli that drifts": (rng.random(n) < np.linspace(0.02, 0.6, n)).astype(np.float64),
        "counts": rng.poisson(3, n).astype(np.float64),
        "steps": normal + steps,
        "small steps": normal + 0.2 * steps,
        "ramp": normal + np.linspace(0, 5, n),
        "saw": normal + 3 * (np.arange(n) % 700) / 700,
        "scale changes": normal * np.repeat([0.3, 1.0, 3.0, 0.1], n // 4 + 1)[:n],
        "random walk": np.cumsum(0.05 * normal),
        "log-normal": np.exp(1.5 * normal),
        "cauchy": rng.standard_cauchy(n),
        "constant": np.full(n, 3.7),
        "constant, then another": np.where(np.arange(n) < n // 2, 0.1, 0.2),
        "zeros": np.zeros(n),
        "alternating": np.tile([1.0, -1.0], n // 2 + 1)[:n],
        "huge": 1e12 * (normal + steps),
        "far from zero": 1e12 + normal + steps,
        "tiny": 1e-12 * (normal + steps),
        "at the limit": 1e100 * np.sign(normal),
        "rare giants": np.where(rng.random(n) < 0.003, 1e50, normal),
        "subnormal": 5e-324 * rng.integers(0, 9, n),
    }
