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
    expected = [whole.at(number, claimed) for number, claimed in asked]
    assert None in expected
    for size in (1, 7, 640, 5000, 29_999):
        line, found = Timeline(), {}
        for begin in range(0, len(times), size):
            line.trim()
            line.add(times[begin : begin + size], times[begin : begin + size] + 1)
            for number, claimed in asked:
                if begin < claimed <= line.count:
                    found[number, claimed] = line.at(number, claimed)
            copy = Timeline()
            copy.load(line.state())
            line = copy
        assert [found[pair] for pair in asked] == expected, size


def test_an_answer_is_the_time_and_offset_of_an_event_nearby() -> None:
    line = Timeline()
    line.add(np.arange(10_000), np.arange(10_000) * 2)
    for number in (9_999, 9_000, 2_000):
        found = line.at(number, 10_000)
        assert found is not None
        assert number - Timeline.EVERY < found[0] <= number
        assert found[1] == 2 * found[0]
    assert line.at(1_000, 10_000) is None
