"""Features that are the label, whatever was done to it, and those that only tell it well."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tocsin.detectors.label_copies import copies

Make = Callable[[np.ndarray, np.random.Generator], np.ndarray]
OF_CLASSES: dict[str, Make] = {
    "equal": lambda y, _: y,
    "renamed": lambda y, _: np.array([7.0, -3.0, 100.0])[y.astype(int)],
    "scaled": lambda y, _: 5 - 2 * y,
    "a small noise": lambda y, rng: y + 0.05 * rng.normal(size=len(y)),
    "there for one class only": lambda y, rng: np.where(y == 1, rng.normal(size=len(y)), np.nan),
    "humps": lambda y, rng: np.where(y == 1, 5.0 * rng.choice([-1, 1], len(y)), rng.normal(size=len(y)) / 3),
    "infinite": lambda y, _: np.where(y == 1, np.inf, -np.inf),
}  # fmt: skip
OF_NUMBERS: dict[str, Make] = {
    "equal": lambda y, _: y,
    "scaled": lambda y, _: 30 - 1.19 * y,
    "rounded": lambda y, _: np.round(y, -1),
    "a logarithm": lambda y, _: np.log(y),
    "in ten parts": lambda y, _: np.floor(y / 30),
    "in single precision": lambda y, _: y.astype(np.float32).astype(np.float64),
    "a square": lambda y, _: (y - 50) ** 2,
    "some of it missing": lambda y, rng: np.where(rng.random(len(y)) < 0.3, np.nan, y),
    "with the largest infinite": lambda y, _: np.where(y > np.quantile(y, 0.999), np.inf, y),
}


@pytest.mark.parametrize("name", OF_CLASSES)
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.97, 0.03), (0.2, 0.3, 0.5)])
def test_a_copy_of_a_class_is_one(name: str, shares: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    y = rng.choice(len(shares), 10_000, p=shares).astype(np.float64)
    x = OF_CLASSES[name](y, rng)
    is_whole = len(shares) == 2 or name in ("equal", "renamed", "scaled", "a small noise")
    assert copies(x[:, None], y, is_regression=False).tolist() == [is_whole]


@pytest.mark.parametrize("name", OF_NUMBERS)
@pytest.mark.parametrize("rows", [1_000, 10_000])
def test_a_copy_of_a_number_is_one(name: str, rows: int) -> None:
    rng = np.random.default_rng(1)
    y = rng.gamma(2, 30, rows)
    assert copies(OF_NUMBERS[name](y, rng)[:, None], y, is_regression=True).all()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("rows", [500, 10_000])
def test_what_tells_a_label_well_is_no_copy(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, rows).astype(np.float64)
    rare = (rng.random(rows) < 0.05).astype(np.float64)
    noise = rng.normal(size=rows)
    x = np.column_stack([noise, noise + 3.3 * y, noise + 4.0 * y, np.where(noise < -2, 1 - y, y)])
    assert not copies(x, y, is_regression=False).any()  # areas of 0.5, 0.990, 0.998 and 0.977
    assert not copies(noise[:, None] + 3.3 * rare[:, None], rare, is_regression=False).any()
    price = rng.gamma(5, 60, rows)
    area = np.column_stack([price * (1 + s * noise) for s in (0.1, 0.05, 0.02)])
    assert not copies(area, price, is_regression=True).any()  # correlations of 0.98 to 0.999


def test_the_order_of_rows_says_nothing() -> None:
    y = np.sort(np.random.default_rng(2).integers(0, 2, 4_000)).astype(np.float64)
    x = np.column_stack([np.zeros(4_000), np.full(4_000, np.nan), np.arange(4_000) % 7])
    assert not copies(x, y, is_regression=False).any()
    assert not copies(x, np.arange(4_000.0), is_regression=True).any()


def test_few_rows_say_nothing() -> None:
    y = np.arange(499.0) % 2
    assert not copies(y[:, None], y, is_regression=False).any()
    assert not copies(y[:, None], y, is_regression=True).any()
    y = np.where(np.arange(10_000) < 499, np.arange(10_000) % 2, np.nan)
    assert not copies(y[:, None], y, is_regression=False).any()
    with pytest.raises(ValueError, match="expected"):
        copies(y, y, is_regression=False)


def test_of_two_classes_it_is_the_coefficient_of_the_paper() -> None:
    """Scipy's `chatterjeexi` but for one change of the label, which any two classes need."""
    from scipy.stats import chatterjeexi

    from tocsin.detectors.label_copies import _of_classes

    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 5_000).astype(np.float64)
    x = y + 0.3 * rng.normal(size=5_000)
    assert _of_classes(x, y) == pytest.approx(chatterjeexi(x, y).statistic, abs=1e-3)
