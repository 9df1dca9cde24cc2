"""The compiled ADWIN is River's: the same flags, windows and sums, bit for bit, on two million values."""

from __future__ import annotations

import numpy as np
import pytest
from river import drift

from tocsin.core.errors import StateError
from tocsin.detectors.adwin import Adwin
from tocsin.detectors.base import HUGE, Observations

JUNK = (np.nan, np.inf, -np.inf, 1e308, -1e308)

PARAMETERS = [
    {},
    {"delta": 1e-4},
    {"delta": 0.3},
    {"delta": 1e-9, "clock": 1},
    {"clock": 1},
    {"clock": 7, "grace_period": 0},
    {"clock": 64, "min_window_length": 20},
    {"max_buckets": 2},
    {"max_buckets": 3, "clock": 1, "delta": 0.05},
    {"max_buckets": 64},
    {"min_window_length": 1, "grace_period": 1, "clock": 1},
    {"min_window_length": 50, "grace_period": 500},
    {"delta": 0.99, "clock": 3, "max_buckets": 10, "min_window_length": 2, "grace_period": 30},
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
def test_flags_windows_and_sums_are_those_of_river(parameters, streams) -> None:
    """At any batch cut, through snapshots, and with values between that are not usable."""
    columns = streams(PARAMETERS.index(parameters), 8000)
    names, values = tuple(columns), np.column_stack(list(columns.values()))
    rng = np.random.default_rng(PARAMETERS.index(parameters))
    junk = rng.random(values.shape) < 0.01
    values[junk] = rng.choice(JUNK, junk.sum())

    ours = Adwin(**parameters)
    found, begin = [], 0
    while begin < len(values):
        rows = Observations.of(values[begin : begin + int(rng.integers(1, 900))], names)
        found += [(begin + v.offset, v.subject, v.delay_events) for v in ours.update(rows)]
        begin += len(rows)
        if rng.random() < 0.3:
            state = ours.snapshot()
            ours = Adwin(**parameters)
            ours.restore(state)
            assert ours.snapshot() == state

    expected = []
    for k, name in enumerate(names):
        river = drift.ADWIN(**parameters)
        for row, value in enumerate(values[:, k].tolist()):
            if abs(value) <= HUGE:
                river.update(value)
                if river.drift_detected:
                    expected.append((row, name, river.width))
        number = ours._streams.number(name)
        window = [ours._streams[column][number] for column in ("width", "sum", "variance")]
        assert window == [river.width, river.total, river.variance], name
    assert found == sorted(expected)
    assert {"steps", "huge", "ramp", "bernoulli that drifts"} <= {name for _, name, _ in found}


def test_a_long_stream_ends_with_the_window_of_river() -> None:
    """300,000 values: buckets of 2**15 values, and cancellation in the sums."""
    rng = np.random.default_rng(0)
    values = 1000 + rng.normal(size=300_000)
    values[200_000:] += 0.02
    ours, river = Adwin(), drift.ADWIN()
    found = [(v.offset, v.delay_events) for v in ours.update(Observations.of(values))]
    expected = []
    for row, value in enumerate(values.tolist()):
        river.update(value)
        if river.drift_detected:
            expected.append((row, river.width))
    assert found == expected != []
    assert ours._streams["sum"][0] == river.total
    assert len(ours.snapshot()) < 4096


def test_values_that_are_not_usable_leave_the_state_as_it_was() -> None:
    values = np.random.default_rng(1).normal(size=1000)
    ours = Adwin()
    ours.update(Observations.of(values))
    before = ours.snapshot()
    for junk in JUNK:
        ours.update(Observations.of(np.full(500, junk)))
    assert ours.snapshot() == before


def test_streams_that_come_and_go_keep_their_own_windows() -> None:
    rng = np.random.default_rng(2)
    together, apart = Adwin(), {name: Adwin() for name in "abcd"}
    for _ in range(60):
        names = tuple(rng.permutation(list("abcd"))[: rng.integers(1, 5)].tolist())
        rows = Observations.of(rng.normal(rng.integers(0, 3), 1, size=(50, len(names))), names)
        found = {(v.offset, v.subject, v.statistic) for v in together.update(rows)}
        alone = set()
        for k, name in enumerate(names):
            alone |= {
                (v.offset, v.subject, v.statistic)
                for v in apart[name].update(Observations.of(rows.values[:, k], (name,)))
            }
        assert found == alone


def test_the_statistic_is_above_the_threshold_that_it_was_compared_with(streams) -> None:
    found = Adwin().update(Observations.of(streams(0, 4000)["steps"]))
    assert found
    assert all(verdict.statistic > verdict.threshold > 0 for verdict in found)


@pytest.mark.parametrize(
    "wrong",
    [
        {"delta": 0}, {"delta": 1}, {"clock": 0}, {"min_window_length": 0}, {"grace_period": -1},
        {"max_buckets": 1}, {"max_buckets": 65},
    ],
    ids=str,
)  # fmt: skip
def test_parameters_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        Adwin(**wrong)


def test_a_snapshot_of_another_bucket_size_is_refused() -> None:
    first, second = Adwin(max_buckets=5), Adwin(max_buckets=6)
    first.update(Observations.of(np.arange(100.0)))
    before = second.snapshot()
    with pytest.raises(StateError, match="max_buckets=5, this has 6"):
        second.restore(first.snapshot())
    assert second.snapshot() == before
