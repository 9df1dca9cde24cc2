"""The natural-size test: verdicts and their course, event time, kinds of streams, snapshots."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.signal import lfilter

from tocsin.core.errors import StateError
from tocsin.core.verdict import Verdict
from tocsin.detectors.base import Observations
from tocsin.detectors.natural_size import SURPRISE, NaturalSize, horizons
from tocsin.testing.cases import seasonal_case

HOUR = 3_600_000_000_000
CASE = seasonal_case(shift=3)


def observed(values: np.ndarray, *names: str, every: int = HOUR) -> Observations:
    rows = np.arange(len(values))
    return Observations(
        names=names,
        values=np.ascontiguousarray(values.reshape(len(values), -1), np.float64),
        offsets=rows,
        rows=np.zeros_like(rows),
        times=rows * every,
    )


def days(count: int, seed: int = 0) -> np.ndarray:
    """Hourly values of so many days: a season of a day, and noise."""
    hours = np.arange(24 * count)
    return np.sin(hours * 2 * np.pi / 24) + np.random.default_rng(seed).normal(size=len(hours))


def phases(verdicts: list[Verdict], change: str = "location") -> list[tuple[str, int]]:
    return [(v.phase, v.offset // 24) for v in verdicts if v.change.startswith(change)]


def test_a_change_opens_moves_and_settles_as_a_new_regime() -> None:
    values = days(700)
    values[24 * 300 :] += 3
    found = [v for v in NaturalSize().update(observed(values, "x")) if "location" in v.change]
    opened, moved, settled = found[0], found[1:-1], found[-1]
    assert opened.phase == "opened"
    assert opened.subject == "x"
    assert opened.change == "location up"
    assert 300 < opened.offset // 24 <= 304
    assert opened.offset % 24 == 0  # the first row of the next block
    assert opened.statistic == opened.size_sigmas > opened.threshold > 4
    assert opened.unit == "natural sizes"
    assert opened.evidence == f"{opened.size_sigmas:+.1f} natural sizes over 7 days"
    assert opened.chance_events is not None
    assert opened.chance_events > 1e5
    delay = opened.offset - 24 * 300 + 1
    assert abs((opened.delay_events or 0) - delay) <= 24
    assert {v.phase for v in moved} == {"moved"}
    assert settled.phase == "settled"
    assert settled.outcome == "new regime"
    assert settled.offset // 24 - moved[-1].offset // 24 == 104
    assert settled.evidence == "at rest for 104 days"
    assert settled.size == pytest.approx(3, abs=0.3)  # in the stream's own unit


@pytest.mark.parametrize("alike", [0.0, 0.8])
def test_the_interval_of_the_onset_covers_it(alike: float) -> None:
    covered = []
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(size=420)
        level = lfilter([np.sqrt(1 - alike**2)], [1, -alike], noise)
        values = days(420, seed) + np.repeat(level, 24)
        begin = 24 * 300 + seed % 24
        values[begin:] += 8
        for v in NaturalSize().update(observed(values, "x")):
            if v.phase == "opened" and v.offset >= begin:
                low, delay, high = v.delay_low or 0, v.delay_events or 0, v.delay_high or 0
                assert 1 <= low <= delay <= high
                covered.append(low <= v.offset + 1 - begin <= high)
                break
    assert len(covered) >= 30
    assert np.mean(covered) >= 0.85


def test_a_change_that_goes_back_has_returned() -> None:
    values = days(700)
    values[24 * 300 : 24 * 330] += 3
    found = [v for v in NaturalSize().update(observed(values, "x")) if "location" in v.change]
    assert [v.phase for v in found].count("opened") == 1
    assert found[-1].outcome == "returned"
    assert found[-1].size == pytest.approx(0, abs=0.3)


def test_a_stream_that_never_rests_is_given_up_and_opens_again() -> None:
    values = days(900) + 3 * np.maximum(0, np.arange(24 * 900) // 24 - 300)
    found = phases(NaturalSize(gap_blocks=20, longest_blocks=20).update(observed(values, "x")))
    starts = [day for phase, day in found if phase == "opened"]
    ends = [day for phase, day in found if phase == "settled"]
    assert len(starts) >= 3
    assert [end - start for start, end in zip(starts, ends, strict=True)] == [20] * len(ends)
    assert [b - a for a, b in zip(ends, starts[1:], strict=False)] == [1] * (len(starts) - 1)


def test_what_cuts_off_high_values_is_a_fall_of_the_spread_of_maxima() -> None:
    values = days(500)
    values[24 * 350 :] = np.minimum(values[24 * 350 :], 1.5)
    found = NaturalSize().update(observed(values, "x"))
    falls = [v for v in found if v.change == "scale down"]
    assert falls[0].phase == "opened"
    assert 350 < falls[0].offset // 24 < 365
    assert falls[0].size is None
    assert falls[0].size_sigmas is not None
    assert falls[0].size_sigmas < -falls[0].threshold
    assert "highest values" in falls[0].evidence


def test_a_rise_of_the_spread_of_maxima_does_not_count() -> None:
    values = np.minimum(days(500), 1.5 + 0.05 * days(500, 1))
    values[24 * 350 :] = days(500)[24 * 350 :]
    found = NaturalSize().update(observed(values, "x"))
    assert not [v for v in found if v.change.startswith("scale")]


def test_shares_and_flips_of_zeros_and_ones() -> None:
    rng = np.random.default_rng(0)
    bits = (rng.random(24 * 500) < 0.3).astype(float)
    bits[24 * 300 :] = rng.random(24 * 200) < 0.6
    found = NaturalSize().update(observed(bits, "error"))
    assert {v.change for v in found} == {"rate up"}
    assert found[0].reference is not None
    assert found[0].current is not None
    assert found[0].reference.mean == pytest.approx(0.3, abs=0.05)
    assert found[0].current.mean > 0.35
    assert found[0].current.count == 7 * 24

    runs = (rng.random(24 * 500) < 0.5).astype(float)
    runs[24 * 300 :] = np.tile(np.repeat([0.0, 1.0], 4), 24 * 25)  # as many ones, in runs
    assert {v.change for v in NaturalSize().update(observed(runs, "label"))} == {"flip rate down"}
    assert NaturalSize().update(observed(runs, "bits")) == []
    assert NaturalSize(flips=frozenset({"bits"})).update(observed(runs, "bits")) != []


def test_a_constant_column_is_a_notice_when_it_first_varies_and_a_stream_then() -> None:
    values = days(800)
    values[: 24 * 300] = 0.5
    values[24 * 600 :] += 4
    found = NaturalSize().update(observed(values, "x"))
    notice, *others = found
    assert (notice.change, notice.phase, notice.offset) == ("schema", "opened", 24 * 300)
    assert notice.statistic == 24 * 300
    assert [v.change for v in found].count("schema") == 1
    assert others[0].phase == "opened"
    assert 600 < others[0].offset // 24 <= 605


def test_a_column_that_varies_early_is_no_notice() -> None:
    values = days(100)
    values[:499] = 0.5
    assert NaturalSize().update(observed(values, "x")) == []
    values[499] = 0.5
    assert [v.change for v in NaturalSize().update(observed(values, "x"))] == ["schema"]


def test_a_label_against_its_features_is_watched_as_a_stream_of_its_own() -> None:
    rng = np.random.default_rng(1)
    x = days(500, 1)
    label = rng.random(len(x)) < 1 / (1 + np.exp(-3 * x))
    label[24 * 350 :] = rng.random(24 * 150) < 1 / (1 + np.exp(3 * x[24 * 350 :]))
    batch = observed(np.column_stack([x, label]), "feature:x", "label")
    found = [v for v in NaturalSize().update(batch) if v.subject == SURPRISE]
    assert found == [] or found[0].offset > 24 * 350
    label[24 * 350 :] |= rng.random(24 * 150) < 0.7
    batch = observed(np.column_stack([x, label]), "feature:x", "label")
    found = [v for v in NaturalSize().update(batch) if v.subject == SURPRISE]
    assert found[0].change == "rate up"
    assert 350 < found[0].offset // 24 < 358
    assert not [v for v in NaturalSize(label="").update(batch) if v.subject == SURPRISE]


def test_late_events_count_into_the_open_block() -> None:
    rows = CASE.changed(0, CASE.events)
    assert rows.times is not None
    times = rows.times.copy()
    late = np.random.default_rng(0).random(len(times)) < 0.05
    times[late] -= 30 * 24 * HOUR
    found = NaturalSize().update(dataclasses.replace(rows, times=times))
    assert found[0].phase == "opened"
    assert 200 < found[0].offset // 24 <= 203


def test_a_wrong_clock_does_not_blind_it() -> None:
    rows = CASE.changed(0, CASE.events)
    assert rows.times is not None
    times = rows.times.copy()
    times[1000], times[3000] = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    times[np.random.default_rng(0).random(len(times)) < 0.02] += 3000 * 24 * HOUR
    found = NaturalSize().update(dataclasses.replace(rows, times=times))
    assert found[0].phase == "opened"
    assert 200 < found[0].offset // 24 <= 203


def with_burst(batch: Observations, at: int, off_days: int, count: int) -> Observations:
    """Insert so many events, values as they come anywhere and times so many days off."""
    assert batch.times is not None
    drawn = np.random.default_rng(at).choice(len(batch), count)
    order = np.insert(np.arange(len(batch)), at, drawn)
    times = np.insert(batch.times, at, np.full(count, batch.times[at] + off_days * 24 * HOUR))
    found = observed(batch.values[order], *batch.names)
    return dataclasses.replace(found, times=times)


@pytest.mark.parametrize("off_days", [-400, -20, 400])
@pytest.mark.parametrize("per_day", [24, 288])
def test_some_events_with_other_times_are_no_change_and_hide_none(off_days, per_day) -> None:
    rows = np.arange(per_day * 450)
    noise = np.random.default_rng(0).normal(size=len(rows))
    values = 5 * np.sin(rows * 2 * np.pi / per_day) + noise
    changed = values.copy()
    changed[per_day * 400 :] += 5
    for at in (per_day * 300 + 5, per_day * 310 + per_day // 2):
        stationary = with_burst(observed(values, "x", every=24 * HOUR // per_day), at, off_days, 32)
        assert NaturalSize().update(stationary) == []
        batch = with_burst(observed(changed, "x", every=24 * HOUR // per_day), at, off_days, 32)
        first = NaturalSize().update(batch)[0]
        assert first.phase == "opened"
        assert 0 < (first.offset - 32) / per_day - 400 < 5


@pytest.mark.parametrize("share", [0.01, 0.1])
@pytest.mark.parametrize("off_days", [-400, 20, 400, None])
def test_a_share_of_wrong_times_is_no_change_and_hides_none(off_days, share: float) -> None:
    rows = CASE.changed(0, CASE.events)
    assert rows.times is not None
    rng = np.random.default_rng(3)
    off = rng.integers(-500, 500, len(rows)) if off_days is None else off_days
    times = rows.times + (rng.random(len(rows)) < share) * off * 24 * HOUR
    expected = NaturalSize().update(rows)
    found = NaturalSize().update(dataclasses.replace(rows, times=times))
    opened = [[v.subject for v in of if v.phase == "opened"] for of in (expected, found)]
    assert set(opened[0]) == set(opened[1])
    assert abs(found[0].offset - expected[0].offset) <= 24


@pytest.mark.parametrize("pause", [10, 40, 5000])
def test_a_gap_is_empty_blocks(pause: int) -> None:
    values = days(700)
    values[24 * 600 :] += 3
    batch = observed(values, "x")
    assert batch.times is not None
    times = batch.times.copy()
    times[24 * 200 :] += pause * 24 * HOUR
    found = NaturalSize().update(dataclasses.replace(batch, times=times))
    assert found[0].phase == "opened"
    assert 600 < found[0].offset // 24 <= 605


def test_an_open_change_settles_in_a_gap() -> None:
    values = days(320)
    values[24 * 300 : 24 * 310] += 3
    batch = observed(values, "x")
    assert batch.times is not None
    times = batch.times.copy()
    times[24 * 310 :] += 150 * 24 * HOUR
    found = NaturalSize().update(dataclasses.replace(batch, times=times))
    assert found[-1].phase == "settled"
    assert found[-1].outcome == "unsettled"  # nobody knows
    assert found[-1].offset < 24 * 312  # two days' rows say that it was one


def test_streams_of_categories_are_not_watched() -> None:
    values = days(500)
    values[24 * 300 :] += 5
    batch = dataclasses.replace(observed(values, "x"), categories=frozenset({"x"}))
    assert NaturalSize().update(batch) == []


def test_streams_may_come_late_and_stop() -> None:
    values = days(900)
    values[24 * 700 :] += 3
    first, second = values.copy(), values.copy()
    first[24 * 500 :] = np.nan
    second[: 24 * 300] = np.nan
    found = NaturalSize().update(observed(np.column_stack([first, second]), "first", "second"))
    assert {v.subject for v in found} == {"second"}
    assert 700 < found[0].offset // 24 <= 705


def test_streams_of_one_batch_may_be_missing_in_the_next() -> None:
    rows = CASE.changed(0, CASE.events)
    holes = rows.values.copy()
    holes[4000:4200, 1] = np.nan
    whole = NaturalSize()
    expected = whole.update(dataclasses.replace(rows, values=holes))
    cut = NaturalSize()
    found = cut.update(rows.take(slice(0, 4000)))
    part = rows.take(slice(4000, 4200))
    found += cut.update(
        dataclasses.replace(
            part, names=(part.names[0], part.names[2]), values=part.values[:, [0, 2]]
        )
    )
    found += cut.update(rows.take(slice(4200, None)))
    assert found == expected
    assert len(expected) > 10


def test_a_higher_budget_raises_the_threshold_and_rows_a_block_lower_it() -> None:
    values = days(400)
    values[24 * 300 :] += 5
    first = NaturalSize(1e5).update(observed(values, "x"))[0].threshold
    assert NaturalSize(1e7).update(observed(values, "x"))[0].threshold > first + 1
    half = NaturalSize(1e5).update(observed(values[::2], "x", every=2 * HOUR))[0].threshold
    assert half > first


def test_however_many_rows_a_block_has_there_is_a_threshold() -> None:
    values = days(400)
    values[24 * 300 :] += 5
    found = NaturalSize(1).update(observed(values, "x"))
    assert (
        min(v.threshold for v in found if v.unit == "natural sizes") > 2.4
    )  # of 1 / 80, two-sided


def test_horizons_are_whole_seasons() -> None:
    assert horizons(86_400, 604_800).tolist() == [7, 14]
    assert horizons(2_629_800, 31_557_600).tolist() == [12, 24]
    assert horizons(3600, 86_400).tolist() == [24, 48]
    assert horizons(86_400, 2 * 86_400).tolist() == [8, 16]
    for block, season in ((86_400, 100_000), (86_400, 3600), (3600, 604_800), (0, 1), (-1, 1)):
        with pytest.raises(ValueError, match="a season must be 1 to 60 whole blocks, got"):
            horizons(block, season)


def test_a_month_is_said_as_months() -> None:
    values = days(500)
    values[24 * 300 :] += 3
    month = NaturalSize(block_seconds=2_629_800, season_seconds=31_557_600)
    found = month.update(observed(values, "x", every=int(2_629_800e9) // 24))
    assert found[0].evidence.endswith("natural sizes over 12 months")


def test_bad_parameters_and_missing_times_are_refused() -> None:
    with pytest.raises(ValueError, match="budget_events must be positive, got 0"):
        NaturalSize(0)
    with pytest.raises(ValueError, match="got 5 and 3"):
        NaturalSize(gap_blocks=5, longest_blocks=3)
    with pytest.raises(ValueError, match="100 to 32000 values, got 5"):
        NaturalSize(first_values=5)
    with pytest.raises(ValueError, match="needs the events' times, found none"):
        NaturalSize().update(Observations.of(np.zeros(3)))


def test_a_snapshot_of_other_blocks_is_refused() -> None:
    state = NaturalSize().snapshot()
    other = NaturalSize(block_seconds=3600, season_seconds=86_400)
    before = other.snapshot()
    with pytest.raises(StateError, match="begin anew, or set them so"):
        other.restore(state)
    assert other.snapshot() == before


def test_state_is_small_and_does_not_grow() -> None:
    batch = observed(np.stack([days(300, k) for k in range(20)], axis=1), *map(str, range(20)))
    detector = NaturalSize()
    detector.update(batch.take(slice(0, 1500)))
    assert len(detector.snapshot()) < 20 * 9000
    detector.update(batch.take(slice(1500, 5000)))
    size = len(detector.snapshot())
    assert size < 20 * 5800
    detector.update(batch.take(slice(5000, None)))
    assert len(detector.snapshot()) < size + 2000


def test_auto_finds_a_cycle_of_an_hour_and_only_then_goes_over_to_hours() -> None:
    rng = np.random.default_rng(0)
    minutes = np.arange(60 * 24 * 40)
    hourly = np.sin(minutes * 2 * np.pi / 60) + 0.5 * rng.normal(size=len(minutes))
    daily = hourly + 2 * np.sin(minutes * 2 * np.pi / 1440)
    wander = np.convolve(rng.normal(size=len(minutes) + 999), np.ones(1000) / 30, "valid")
    for values, block in (
        (hourly, 3600.0), (daily, 86_400.0), (wander, 86_400.0), (rng.normal(size=len(minutes)), 86_400.0),
    ):  # fmt: skip
        detector = NaturalSize(season_seconds="auto")
        detector.update(observed(values, "x", every=HOUR // 60))
        assert detector.block_seconds == block


def test_after_auto_has_found_hours_they_are_what_it_says() -> None:
    rng = np.random.default_rng(0)
    minutes = np.arange(60 * 24 * 40)
    values = np.sin(minutes * 2 * np.pi / 60) + 0.5 * rng.normal(size=len(minutes))
    values[60 * 24 * 35 :] += 1
    rows = observed(values, "x", every=HOUR // 60)
    whole = NaturalSize(season_seconds="auto")
    expected = whole.update(rows)
    assert expected[0].evidence.endswith("over 7 hours")
    assert 0 < expected[0].offset - 60 * 24 * 35 < 60 * 8
    cut = NaturalSize(season_seconds="auto")
    found = []
    for begin in range(0, len(rows), 997):
        again = NaturalSize(season_seconds="auto")
        again.restore(cut.snapshot())
        cut = again
        found += cut.update(rows.take(slice(begin, begin + 997)))
    assert found == expected
    assert cut.snapshot() == whole.snapshot()
