"""The course of alarms: opened, moved, settled; and which of them begin an incident."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.detectors.episodes import NEVER, Episodes, incidents

KEY = (0, 0)


def levels(value: float) -> np.ndarray:
    return np.full((2, 2), value)


def test_an_alarm_opens_another_moves_silence_settles() -> None:
    episodes = Episodes(gap=5, longest=50)
    assert episodes.due == NEVER
    assert [s.phase for s in episodes.step(10, {KEY: (2.0, 0.0)}, levels(2))] == ["opened"]
    assert episodes.due == 15
    assert [s.phase for s in episodes.step(12, {KEY: (3.0, 1.0)}, levels(3))] == ["moved"]
    assert episodes.due == 17
    assert episodes.step(16, {}, levels(2)) == []
    (step,) = episodes.step(17, {}, levels(2.0))
    assert (step.phase, step.outcome, step.blocks, step.before) == ("settled", "new regime", 5, 0.0)
    assert episodes.open == {}
    assert [s.phase for s in episodes.step(18, {KEY: (2.0, 0.0)}, levels(2))] == ["opened"]


def test_an_alarm_in_the_block_of_the_gap_still_goes_on() -> None:
    episodes = Episodes(gap=5, longest=50)
    episodes.step(10, {KEY: (2.0, 0.0)}, levels(2))
    assert [s.phase for s in episodes.step(15, {KEY: (2.0, 0.0)}, levels(2))] == ["moved"]


@pytest.mark.parametrize(
    ("end", "outcome"),
    [(0.9, "returned"), (1.1, "new regime"), (-3.0, "returned"), (np.nan, "unsettled")],
)
def test_it_has_returned_if_nearer_to_before_than_to_the_furthest(end: float, outcome: str) -> None:
    episodes = Episodes(gap=5, longest=50)
    for block, level in ((10, 1.0), (11, 2.0), (12, 0.1)):
        episodes.step(block, {KEY: (level, 0.0)}, levels(level))
    assert [s.outcome for s in episodes.step(17, {}, levels(end))] == [outcome]


def test_what_goes_on_too_long_is_given_up() -> None:
    episodes = Episodes(gap=5, longest=6)
    steps = [s for b in range(20) for s in episodes.step(b, {KEY: (1.0, 0.0)}, levels(1))]
    ends = [s for s in steps if s.phase == "settled"]
    assert [(s.outcome, s.blocks) for s in ends] == [("unsettled", 6)] * 2
    assert [s.phase for s in steps].count("opened") == 3


def test_statistics_and_streams_have_courses_of_their_own() -> None:
    episodes = Episodes(gap=5, longest=50)
    episodes.step(10, {(1, 1): (2.0, 0.0), (0, 0): (2.0, 0.0)}, levels(2))
    (step,) = episodes.step(12, {(1, 1): (2.0, 0.0)}, levels(2))
    assert step.key == (1, 1)
    (step,) = episodes.step(15, {}, levels(2))
    assert step.key == (0, 0)


def test_a_state_goes_on() -> None:
    episodes = Episodes(gap=5, longest=50)
    episodes.step(10, {(1, 1): (2.0, 0.5), (0, 0): (3.0, 0.0)}, levels(2))
    other = Episodes(gap=5, longest=50)
    other.load(episodes.state())
    assert other.open == episodes.open
    assert other.due == episodes.due == 15


def test_streams_that_open_soon_after_an_incident_began_join_it() -> None:
    assert incidents([10, 10, 60, 62, 63, 114, 116], join=52) == [10, 63, 116]
    assert incidents([]) == []


def test_a_gap_longer_than_the_longest_is_refused() -> None:
    for gap, longest in ((0, 5), (6, 5)):
        with pytest.raises(ValueError, match=f"got {gap} and {longest}"):
            Episodes(gap, longest)
