"""Blocks of event time, whatever the events' clocks say."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.detectors.block_clock import FAR_BLOCKS, MOST_EMPTY, BlockClock, BlockRows

DAY = 86_400_000_000_000


def placed(clock: BlockClock, days: list[float]) -> list[int]:
    times = np.array([round(day * DAY) for day in days], np.int64)
    return clock.place(times, np.ones(len(days), bool)).tolist()


def test_blocks_begin_at_midnight_and_are_numbered_from_the_first() -> None:
    assert placed(BlockClock(86_400), [100.9, 100.99, 101.0, 101.5, 104.2]) == [0, 0, 1, 1, 4]
    assert placed(BlockClock(86_400), [-1.5, -0.5, 0.5]) == [0, 1, 2]


def test_late_events_count_into_the_open_block() -> None:
    assert placed(BlockClock(86_400), [10, 11, 9, 10.5, 11.5, 12]) == [0, 1, 1, 1, 1, 2]


def test_rows_without_anything_in_them_move_nothing() -> None:
    times = np.array([10, 12, 14, 11]) * DAY
    counted = np.array([True, False, False, True])
    assert BlockClock(86_400).place(times, counted).tolist() == [0, 0, 0, 1]


def test_a_far_time_is_believed_after_32_in_a_row() -> None:
    for leap, block in (
        (FAR_BLOCKS, FAR_BLOCKS),
        (FAR_BLOCKS + 1, FAR_BLOCKS + 1),
        (9999, MOST_EMPTY),
    ):
        found = placed(BlockClock(86_400), [0.0] + [leap] * 40 + [leap + 1] * 2)
        if leap == FAR_BLOCKS:
            assert found[1] == FAR_BLOCKS
        else:
            assert found[1:32] == [0] * 31
            assert found[32:41] == [block] * 9
        assert found[41:] == [block + 1] * 2


def test_a_clock_that_was_wrong_at_first_is_set_right() -> None:
    found = placed(BlockClock(86_400), [9999.0] + [day / 10 for day in range(400)])
    assert found[:32] == [0] * 32
    assert found[32] == 1
    assert found[-1] == 1 + 39 - 3  # the 32nd event is of day 3
    extremes = np.array([np.iinfo(np.int64).max, 0, np.iinfo(np.int64).min, 1])
    assert BlockClock(86_400).place(extremes, np.ones(4, bool)).tolist() == [0, 0, 0, 0]


def test_any_cut_gives_the_same_blocks() -> None:
    rng = np.random.default_rng(0)
    days = np.sort(rng.uniform(0, 300, 2000)) + rng.choice(
        [0, -5, 90, -90], 2000, p=[0.9, 0.06, 0.02, 0.02]
    )
    days[1000:] += 500
    whole = placed(BlockClock(86_400), days.tolist())
    clock = BlockClock(86_400)
    found = []
    for begin in range(0, 2000, 7):
        other = BlockClock(86_400)
        other.load(clock.state().copy())
        clock = other
        found += placed(clock, days[begin : begin + 7].tolist())
    assert found == whole
    assert np.diff(whole).min() == 0


def test_a_length_must_be_a_length() -> None:
    for length in (0, -1, 1e11, float("nan")):
        with pytest.raises(ValueError, match="a block must be"):
            BlockClock(length)


def test_rows_of_blocks_are_counted_and_the_ring_forgets() -> None:
    rows = BlockRows(2)
    counted = np.array([True, True, False, True, True, True])
    sums, rates = rows.count(np.array([0, 0, 0, 1, 3, 3]), counted)
    assert sums.tolist() == [0, 2, 3, 3]
    assert rates.tolist() == [0, 2, 1.5, 0.5]
    sums, rates = rows.count(np.array([3]), np.array([True]))
    assert len(sums) == 0
    assert rates.tolist() == [0.5]
    other = BlockRows(2)
    other.load(rows.state())
    sums, rates = other.count(np.array([4]), np.array([True]))
    assert sums.tolist() == [0, 1, 1, 4]
    assert rates.tolist() == [0.5, 1.5]
    assert other.block == 4
