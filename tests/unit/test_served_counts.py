"""Counts of what served rows have met: the same leak as with a count for each row of the reference."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.detectors import served_counts
from tocsin.detectors.coincidence import Law, leaked
from tocsin.detectors.served_counts import COMMON, NONE, ROWS, SKETCH, UNIQUE, UNKNOWN, WIDTH

LAW = Law(10_000, 9_900, 0, 50, 2500, 0, 19)


def counted(codes: np.ndarray) -> np.ndarray:
    counts = np.zeros((1, WIDTH), np.int64)
    served_counts.count(counts, np.zeros((len(codes), 1), np.int64), codes)
    return counts[0]


def test_rows_are_counted_by_what_they_met() -> None:
    row = counted(np.array([UNKNOWN, NONE, NONE, 2 * 5 + 1, 2 * 5 + 1, 2 * 7 + 1, 2 * 9]))
    assert row[[ROWS, UNIQUE, COMMON]].tolist() == [6, 3, 1]


def test_no_row_of_the_table_is_touched_for_a_group_that_is_none() -> None:
    counts = np.zeros((2, WIDTH), np.int64)
    served_counts.count(counts, np.array([[-1, 1]]), np.array([3]))
    assert not counts[0].any()
    assert counts[1, ROWS] == counts[1, UNIQUE] == 1


@pytest.mark.parametrize("again", [1, 4, 500])
def test_the_leak_is_that_of_counts_of_each_row(again: int) -> None:
    """The sketch tells the sum of squares to within a quarter, so ends of intervals are off by an eighth or so."""
    rng = np.random.default_rng(again)
    met = np.repeat(rng.choice(10_000, 500 // again, replace=False), again)
    codes = np.concatenate([2 * met + 1, np.full(10_000 - len(met), NONE)])
    rng.shuffle(codes)
    exact = leaked(LAW, 10_000, np.full(500 // again, again), 0)
    assert exact is not None
    found = served_counts.leak(counted(codes), LAW)
    assert found is not None
    assert found.matched == exact.matched
    assert found.rate.value == pytest.approx(exact.rate.value, rel=0.05)
    assert found.rate.high == pytest.approx(exact.rate.high, rel=0.2)


def test_the_sum_of_squares_is_unbiased() -> None:
    squares = []
    for seed in range(300):
        met = np.random.default_rng(seed).integers(0, 1 << 20, 200)
        squares.append(float((counted(2 * met + 1)[-SKETCH:] ** 2).sum()))
    assert np.mean(squares) == pytest.approx(200, rel=0.05)
    assert np.std(squares) == pytest.approx(200 * np.sqrt(2 / SKETCH), rel=0.15)


def test_parts_add_up() -> None:
    codes = 2 * np.random.default_rng(0).integers(0, 50, 400) + 1
    assert np.array_equal(counted(codes), counted(codes[:123]) + counted(codes[123:][::-1]))
