"""The budget: what it allows, in events or days, and how it is shared."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.detectors.budget import EPOCH, Budget, shares

SECOND = 1_000_000_000
DAY_EVENTS = 86_400.0  # in a day of one event a second


def seconds(begin: int, count: int, every: float = 1.0) -> np.ndarray:
    return ((begin + np.arange(count) * every) * SECOND).astype(np.int64)


@pytest.mark.parametrize("given", [{}, {"events": 1e6, "days": 7}])
def test_a_budget_is_in_one_unit(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="one of both"):
        Budget(**given)


@pytest.mark.parametrize("given", [{"events": 0}, {"events": -1}, {"days": 0}, {"days": -0.5}])
def test_a_budget_is_positive(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        Budget(**given)


def test_what_is_allowed_grows_with_the_events() -> None:
    budget = Budget(1e4)
    assert budget.allowed == 0
    assert budget.room() == EPOCH
    assert not budget.take(1000)
    assert budget.allowed == pytest.approx(0.1)
    assert budget.room() == EPOCH - 1000
    assert budget.take(budget.room())
    assert budget.allowed == pytest.approx(EPOCH / 1e4)
    assert budget.room() == EPOCH


def test_an_empty_part_ends_no_epoch() -> None:
    budget = Budget(1e4)
    assert not budget.take(0)
    budget.take(EPOCH)
    assert not budget.take(0)
    assert budget.allowed == pytest.approx(EPOCH / 1e4)


def test_days_become_events_at_the_rate_of_late() -> None:
    budget = Budget(days=2)
    before = budget.events
    assert budget.take(EPOCH, seconds(0, EPOCH))
    assert budget.events == pytest.approx(2 * DAY_EVENTS, rel=1e-3)
    assert budget.allowed == pytest.approx(EPOCH / before), "an epoch counts by what was known then"
    # Ten times as many a second.
    budget.take(EPOCH, seconds(EPOCH, EPOCH, 0.1))
    assert budget.events == pytest.approx(2 * DAY_EVENTS / 0.55, rel=1e-2), "from middle to middle"
    assert budget.allowed == pytest.approx(EPOCH / before + EPOCH / (2 * DAY_EVENTS), rel=1e-3)
    budget.take(EPOCH, seconds(int(1.1 * EPOCH), EPOCH, 0.1))
    found = 4 * 2 * DAY_EVENTS / 0.55
    assert budget.events == pytest.approx(found, rel=1e-2), "a factor of 4 at a time"
    budget.take(EPOCH, seconds(int(1.2 * EPOCH), EPOCH, 0.1))
    assert budget.events == pytest.approx(20 * DAY_EVENTS, rel=1e-2)


def rates(times: np.ndarray, days: float = 2) -> np.ndarray:
    budget, found = Budget(days=days), []
    for begin in range(0, len(times), EPOCH):
        budget.take(EPOCH, times[begin : begin + EPOCH])
        found.append(budget.events)
    return np.array(found)


YEAR = 365 * 86_400 * SECOND


@pytest.mark.parametrize("share", [0.01, 0.1])
@pytest.mark.parametrize("off", [[YEAR], [-10 * YEAR], [YEAR, -10 * YEAR], [100 * YEAR]])
@pytest.mark.parametrize("seed", range(5))
def test_times_that_are_far_off_neither_blind_nor_flood(seed, off, share) -> None:
    rng = np.random.default_rng(seed)
    times = seconds(10**9, 40 * EPOCH)
    honest = rates(times)
    times += np.where(rng.random(len(times)) < share, rng.choice(off, len(times)), 0)
    times[EPOCH - 1 :: EPOCH] += off[0]
    ratio = rates(times) / honest
    assert ratio.min() > 1 / 2
    assert ratio.max() < 2


def test_an_epoch_that_is_all_wrong_is_got_over() -> None:
    times = seconds(10**9, 10 * EPOCH)
    times[4 * EPOCH : 5 * EPOCH] += YEAR
    ratio = rates(times) / rates(seconds(10**9, 10 * EPOCH))
    assert ratio.min() == pytest.approx(1 / 4, rel=1e-3)
    assert ratio[7:] == pytest.approx(1, rel=1e-3)
    stopped = seconds(10**9, EPOCH)  # the same times again and again say nothing
    assert np.ptp(rates(np.tile(stopped, 5))) == 0


def test_days_do_not_depend_on_how_events_come() -> None:
    times = seconds(0, 3 * EPOCH, 0.37)
    whole, cut = Budget(days=1), Budget(days=1)
    for budget, size in ((whole, EPOCH), (cut, 333)):
        at = 0
        while at < len(times):
            taken = min(size, budget.room(), len(times) - at)
            budget.take(taken, times[at : at + taken])
            at += taken
    assert whole.state() == cut.state()


def test_events_that_stand_still_are_no_reason_for_endless_alarms() -> None:
    """All events at one instant: a rate without bound; a few events a day: a budget below any sense."""
    budget = Budget(days=1)
    budget.take(EPOCH, np.zeros(EPOCH, np.int64))
    assert budget.events == 1e6  # as long as no rate is known
    slow = Budget(days=0.01)
    slow.take(EPOCH, seconds(0, EPOCH, 3600.0))
    assert slow.events == 1e3


def test_a_budget_goes_on_from_its_state() -> None:
    for make in (lambda: Budget(1e5), lambda: Budget(days=3)):
        first, second = make(), make()
        first.take(EPOCH, seconds(0, EPOCH))
        first.alarms += 2
        first.take(50, seconds(EPOCH, 50))
        second.load(first.state())
        assert second.state() == first.state()
        assert second.allowed == first.allowed


def test_a_budget_set_anew_stands() -> None:
    old, new = Budget(1e5), Budget(1e6)
    old.take(EPOCH)
    new.load(old.state())
    assert new.events == 1e6
    assert new.allowed == pytest.approx(EPOCH / 1e5), "what has been allowed stays so"


def test_figures_say_what_is_left() -> None:
    budget = Budget(1e4)
    budget.take(EPOCH)
    budget.alarms = 1
    figures = budget.figures(7)
    assert figures["false_alarm_budget_streams"] == 7
    assert figures["false_alarms_allowed"] == pytest.approx(0.4096)
    assert figures["false_alarm_budget_remaining"] == pytest.approx(0.4096 - 1)
    assert figures["drift_alarms"] == 1


def share(
    started: list[int], bets: list[int], idle: list[int], apart: list[int], reserved: float
) -> list[float]:
    arrays = (np.array(started), np.array(bets), np.array(idle), np.array(apart, bool))
    return list(shares(*arrays, reserved))


def test_shares_are_equal_and_one_together() -> None:
    assert share([1, 2, 3, 0], [1, 1, 1, 0], [0, 3, 0, 0], [0] * 4, 0.0) == [1 / 3] * 3 + [0]


def test_a_stream_that_comes_no_more_gives_its_share_back() -> None:
    assert share([1, 1], [1, 1], [0, 100], [0, 0], 0.0) == [1, 0]


def test_what_is_not_bet_on_keeps_its_share_from_the_others() -> None:
    """It is watched by something else, whose budget that is."""
    assert share([1, 1], [1, 0], [0, 0], [0, 0], 0.0) == [0.5, 0]


def test_streams_apart_share_what_is_reserved() -> None:
    found = share([1, 1, 2, 2], [1, 1, 1, 1], [0] * 4, [0, 0, 1, 1], 0.1)
    assert found == pytest.approx([0.45, 0.45, 0.05, 0.05])


def test_no_shares_without_streams() -> None:
    assert share([], [], [], [], 0.1) == []
    assert share([0, 0], [0, 0], [0, 0], [0, 0], 0.0) == [0, 0]
