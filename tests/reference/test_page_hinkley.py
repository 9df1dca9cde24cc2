"""The compiled Page-Hinkley is River's: the same flags and sums, bit for bit, on a million values."""

from __future__ import annotations

import numpy as np
import pytest
from river import drift

from tocsin.detectors.base import HUGE, Observations
from tocsin.detectors.page_hinkley import PageHinkley

JUNK = (np.nan, np.inf, -np.inf, 1e308, -1e308)

PARAMETERS = [
    {},
    {"delta": 0.15, "threshold": 60.0, "alpha": 1.0},
    {"mode": "up"},
    {"mode": "down"},
    {"mode": "down", "alpha": 0.9, "threshold": 1.0},
    {"min_instances": 1, "threshold": 1e-3},
    {"min_instances": 1, "threshold": 5.0, "delta": 0.0},
    {"min_instances": 500, "threshold": 20.0},
    {"delta": 0.0, "threshold": 1e-11},
    {"delta": 1e10, "threshold": 1e13, "alpha": 0.9999},
    {"delta": 1.0, "threshold": 5.0, "alpha": 0.5, "mode": "up"},
    {"delta": 0.005, "threshold": 500.0, "alpha": 0.999},
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
def test_flags_and_sums_are_those_of_river(parameters, streams) -> None:
    """At any batch cut, through snapshots, and with values between that are not usable."""
    columns = streams(PARAMETERS.index(parameters), 4000)
    names, values = tuple(columns), np.column_stack(list(columns.values()))
    rng = np.random.default_rng(PARAMETERS.index(parameters))
    junk = rng.random(values.shape) < 0.01
    values[junk] = rng.choice(JUNK, junk.sum())

    ours = PageHinkley(**parameters)
    found, begin = [], 0
    while begin < len(values):
        rows = Observations.of(values[begin : begin + int(rng.integers(1, 900))], names)
        found += [
            (begin + v.offset, v.subject, v.statistic, v.delay_events) for v in ours.update(rows)
        ]
        begin += len(rows)
        if rng.random() < 0.3:
            state = ours.snapshot()
            ours = PageHinkley(**parameters)
            ours.restore(state)
            assert ours.snapshot() == state

    expected = []
    for k, name in enumerate(names):
        river = drift.PageHinkley(**parameters)
        low, high, lows, highs, count = np.inf, -1.0, 0, 0, 0
        for row, value in enumerate(values[:, k].tolist()):
            if abs(value) <= HUGE:
                river.update(value)
                count += 1
                if river._min_increase < low:
                    low, lows = river._min_increase, count
                if river._max_decrease > high:
                    high, highs = river._max_decrease, count
                if river.drift_detected:
                    statistic, is_rise = claim(river)
                    delay = count - (lows if is_rise else highs)
                    expected.append((row, name, statistic, delay))
                    low, high, lows, highs, count = np.inf, -1.0, 0, 0, 0
        number = ours._streams.number(name)
        sums = [
            ours._streams[column][number]
            for column in ("count", "mean", "sum_up", "sum_down", "low", "high", "detected")
        ]
        assert sums == [
            river._x_mean.n, river._x_mean.get(), river._sum_increase, river._sum_decrease,
            river._min_increase, river._max_decrease, river.drift_detected,
        ], name  # fmt: skip
    assert found == sorted(expected) != []


def claim(river: drift.PageHinkley) -> tuple[float, bool]:
    """Return the height that was above the threshold, and whether it is of a rise."""
    rise = river._sum_increase - river._min_increase
    is_rise = river.mode != "down" and rise > river.threshold
    return (rise if is_rise else river._max_decrease - river._sum_decrease), is_rise


def test_a_long_stream_has_the_flags_of_river() -> None:
    values = np.random.default_rng(0).normal(size=200_000)
    found = [v.offset for v in PageHinkley().update(Observations.of(values))]
    river, expected = drift.PageHinkley(), []
    for row, value in enumerate(values.tolist()):
        river.update(value)
        if river.drift_detected:
            expected.append(row)
    assert found == expected
    assert len(found) > 50


@pytest.mark.parametrize("sign", [1, -1])
def test_the_onset_is_estimated_and_the_direction_does_not_matter(sign) -> None:
    errors = []
    for seed in range(50):
        values = np.random.default_rng(seed).normal(size=2000)
        values[1000:] += sign
        (first, *_) = PageHinkley(delta=0.15, threshold=60, alpha=1).update(Observations.of(values))
        errors.append(first.offset - first.delay_events + 1 - 1000)
    # The last low before the change lies some values before it: the sum falls by 0.15 a value only.
    assert -15 <= np.median(errors) <= 0
    assert np.quantile(np.abs(errors), 0.9) <= 100


def test_values_that_are_not_usable_leave_the_state_as_it_was() -> None:
    values = np.random.default_rng(1).normal(size=1000)
    ours = PageHinkley()
    ours.update(Observations.of(values))
    before = ours.snapshot()
    for junk in JUNK:
        ours.update(Observations.of(np.full(500, junk)))
    assert ours.snapshot() == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_instances": 0}, {"delta": -1}, {"threshold": 0}, {"alpha": 0}, {"alpha": 1.5},
        {"mode": "sideways"},
    ],
    ids=str,
)  # fmt: skip
def test_parameters_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        PageHinkley(**wrong)
