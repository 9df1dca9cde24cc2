"""Blocks of event time, whatever the events' clocks say."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.core.errors import StateError
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
        found = placed(BlockClock(86_400), [-1.0, 0.0] + [leap] * 40 + [leap + 1] * 2)
        if leap == FAR_BLOCKS:
            assert found[2] == 1 + FAR_BLOCKS
        else:
            assert found[1:33] == [1] * 32
            assert found[33:42] == [1 + block] * 9
        assert found[42:] == [block + 2] * 2


def test_a_clock_that_was_wrong_at_first_is_set_right() -> None:
    for first in (9999.0, -9999.0):
        found = placed(BlockClock(86_400), [first] + [day / 10 for day in range(400)])
        assert found[:32] == [0] * 32
        assert found[-1] == 39 - 3  # the 32nd event is of day 3
    extremes = np.array([np.iinfo(np.int64).max, 0, np.iinfo(np.int64).min, 1])
    assert BlockClock(86_400).place(extremes, np.ones(4, bool)).tolist() == [0, 0, 0, 0]


# ---- events with times that are wrong, among honest ones of which a block has 24 ----

HONEST = [day / 24 for day in range(24 * 100)]
BEGIN = 24 * 50 + 7


def careful() -> BlockClock:
    return BlockClock(86_400, near=1, fewest=4)


def honest_blocks(times: list[float], is_honest: np.ndarray) -> np.ndarray:
    found = np.array(placed(careful(), times))
    assert np.diff(found).min() >= 0
    return found[is_honest]


EXPECTED = honest_blocks(HONEST, np.ones(len(HONEST), bool))


def test_honest_times_have_the_blocks_that_they_say() -> None:
    assert EXPECTED.tolist() == [int(day) for day in HONEST]


@pytest.mark.parametrize(
    "offs", [[-400], [400], [-5], [20], [2], [-400, 400], range(-40, 40), range(2, 40)], ids=str
)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.2])
def test_a_share_of_wrong_times_moves_nothing(offs, share: float) -> None:
    rng = np.random.default_rng(1)
    is_wrong = rng.random(len(HONEST)) < share
    is_wrong[:24] = False
    times = np.array(HONEST) + np.where(is_wrong, rng.choice(offs, len(HONEST)), 0)
    found = honest_blocks(times.tolist(), ~is_wrong)
    # One that is of the day to come opens that.
    assert np.abs(found - EXPECTED[~is_wrong]).max() <= (1 in offs)


@pytest.mark.parametrize(
    ("off", "count"), [(-400, 45), (400, 45), (-5, 45), (-2, 45), (20, 7), (3, 7)]
)
def test_neither_do_some_in_a_row(off: int, count: int) -> None:
    times, is_honest = list(HONEST), np.ones(len(HONEST), bool)
    for begin in range(len(HONEST) - 50, 100, -170):
        times[begin:begin] = [times[begin] + off] * count
        is_honest = np.insert(is_honest, begin, np.zeros(count, bool))
    assert (honest_blocks(times, is_honest) == EXPECTED).all()


def test_a_day_each_of_the_year_to_come_moves_nothing() -> None:
    times = list(HONEST)
    times[BEGIN : BEGIN + 700 : 2] = [50 + k for k in range(350)]
    is_honest = ~np.isin(np.arange(len(times)), np.arange(BEGIN, BEGIN + 700, 2))
    assert np.abs(honest_blocks(times, is_honest) - EXPECTED[is_honest]).max() <= 1


@pytest.mark.parametrize("back", [-400, -20])
@pytest.mark.parametrize("count", [60, 200, 1000])
def test_after_many_late_ones_numbers_go_on_where_they_were(back: int, count: int) -> None:
    """The clock is set back by so many that most of two blocks are late, and returns soon."""
    times = HONEST[:BEGIN] + [HONEST[BEGIN] + back] * count + HONEST[BEGIN:]
    found = np.array(placed(careful(), times))
    assert found[BEGIN : BEGIN + count].tolist() == [50] * count
    assert found[BEGIN + count + 8 :].tolist() == EXPECTED[BEGIN + 8 :].tolist()


def test_what_was_sent_again_by_the_day_opens_blocks_of_its_own() -> None:
    times = HONEST[:BEGIN] + [day - 40 for day in HONEST[BEGIN : BEGIN + 24 * 20]] + HONEST[BEGIN:]
    found = placed(careful(), times)
    assert found[BEGIN + 24 * 20] == 50 + 18  # the first two days do not count by themselves
    assert found[-1] == 50 + 18 + 99 - 50


def test_a_clock_that_was_set_on_by_most_is_set_right_again() -> None:
    times = HONEST[:BEGIN] + [HONEST[BEGIN] + 30] * 100 + HONEST[BEGIN:]
    found = placed(careful(), times)
    assert found[BEGIN + 99] == 50 + 30
    assert found[-1] - found[BEGIN + 100 + 24 * 3] == 99 - 53, "days are days again after some"


@pytest.mark.parametrize("pause", [2, 10, 40, 5000])
def test_a_pause_is_seen_soon_also_among_late_events(pause: int) -> None:
    rng = np.random.default_rng(2)
    late = np.where(rng.random(len(HONEST)) < 0.1, 30, 0)
    times = np.array(HONEST) + np.where(np.arange(len(HONEST)) < BEGIN, 0, pause) - late
    found = placed(careful(), times.tolist())
    # What comes until a pause is believed counts into the block before it.
    assert 99 + min(pause, MOST_EMPTY) - found[-1] == (2 if pause > MOST_EMPTY else 0)
    assert found[BEGIN + 71] > 50


@pytest.mark.parametrize("make", [lambda: BlockClock(86_400), careful])
def test_any_cut_gives_the_same_blocks(make) -> None:
    rng = np.random.default_rng(0)
    days = np.sort(rng.uniform(0, 300, 2000)) + rng.choice(
        [0, -5, 90, -90], 2000, p=[0.9, 0.06, 0.02, 0.02]
    )
    days[1000:] += 500
    whole = placed(make(), days.tolist())
    clock = make()
    found = []
    for begin in range(0, 2000, 7):
        other = make()
        other.load(clock.state().copy())
        clock = other
        found += placed(clock, days[begin : begin + 7].tolist())
    assert found == whole
    assert np.diff(whole).min() == 0


@pytest.mark.parametrize("a_day", [3, 4, 5, 8, 9, 10, 24])
@pytest.mark.parametrize("on_the_first", [1, 3, 24])
def test_few_events_a_day_end_blocks_too(a_day: int, on_the_first: int) -> None:
    first = [(k + 1) / (on_the_first + 2) for k in range(on_the_first)]
    days = [day + (k + 1) / (a_day + 2) for day in range(1, 60) for k in range(a_day)]
    found = np.array(placed(BlockClock(86_400, near=7, fewest=4), [*first, *days]))
    assert found[-1] >= 57
    if a_day >= 4:  # each day is a block, once the clock is in step
        later = found[len(first) + 20 * a_day :].reshape(-1, a_day)
        assert (later == later[:, :1]).all()
        assert (np.diff(later[:, 0]) == 1).all()
    else:  # eight that say a later time end one
        assert np.bincount(found).max() <= max(10, on_the_first + 10)


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


def test_a_state_of_another_shape_or_type_is_refused() -> None:
    clock, rows = BlockClock(86_400), BlockRows(2)
    for state in (np.zeros(4, np.int64), np.zeros(10), np.zeros((10, 1), np.int64)):
        with pytest.raises(StateError, match=r"expected int64 of shape \(11,\), found"):
            clock.load(state)
    for state in (np.zeros(2), np.zeros(6), np.zeros((4, 1)), np.zeros(4, np.int64)):
        with pytest.raises(StateError, match="rows of blocks: expected float64 of shape"):
            rows.load(state)
