"""The timeline of events: how many come in together changes no answer."""

from __future__ import annotations

import numpy as np

from tocsin.consumers.incidents import Timeline


def test_an_answer_does_not_depend_on_how_the_events_were_cut() -> None:
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.integers(1, 9, 30_000))
    asked = [(int(rng.integers(c)), int(c)) for c in rng.integers(1, 30_000, 300)]
    whole = Timeline()
    whole.add(times, times + 1)
    expected = [
        whole.at(number, claimed, (int(times[claimed - 1]), int(times[claimed - 1]) + 1))
        for number, claimed in asked
    ]
    assert None in expected
    for size in (1, 7, 640, 5000, 29_999):
        line, found = Timeline(), {}
        for begin in range(0, len(times), size):
            line.trim()
            line.add(times[begin : begin + size], times[begin : begin + size] + 1)
            for number, claimed in asked:
                if begin < claimed <= line.count:
                    found[number, claimed] = line.at(
                        number, claimed, (int(times[claimed - 1]), int(times[claimed - 1]) + 1)
                    )
            copy = Timeline()
            copy.load(line.state())
            line = copy
        assert [found[pair] for pair in asked] == expected, size


def test_an_answer_is_the_time_and_offset_of_the_event() -> None:
    line = Timeline()
    line.add(np.arange(10_000) * 3, np.arange(10_000) * 2)
    for claimed in (10_000, 9_985, 9_999):
        now = (3 * (claimed - 1), 2 * (claimed - 1))
        for number in (claimed - 1, claimed - 2, 9_900, 9_000, 2_000):
            assert line.at(number, claimed, now) == (3 * number, 2 * number)
    assert line.at(1_000, 10_000, (0, 0)) is None


def test_between_what_is_kept_it_lies_on_the_line() -> None:
    """Events that come in bursts: right to within the 64 events of which one is kept."""
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.exponential(1000, 5000)).astype(np.int64)
    line = Timeline()
    line.add(times, np.arange(5000))
    now = (int(times[-1]), 4999)
    for number in rng.integers(1000, 5000, 200).tolist():
        found = line.at(number, 5000, now)
        assert found is not None
        below, above = number // 64 * 64, min(number // 64 * 64 + 64, 4999)
        assert times[below] <= found[0] <= times[above]
        assert abs(found[0] - times[number]) <= 40_000
        assert found[1] == number
