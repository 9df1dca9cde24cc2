"""Streams in units of their own beginning: what is found, what it says, and what touches nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.core.errors import StateError
from tocsin.detectors.adwin import Adwin
from tocsin.detectors.base import Observations
from tocsin.detectors.budget import Budget
from tocsin.detectors.page_hinkley import PageHinkley
from tocsin.detectors.reference import Reference
from tocsin.detectors.stream_monitor import StreamMonitor

CHANGE = 1500


def laws(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Stationary, one unit wide, in no particular place."""
    return {
        "normal": 20 + rng.normal(size=n),
        "uniform": rng.uniform(-2, 2, n),
        "log-normal": np.exp(rng.normal(size=n)),
        "exponential": rng.exponential(1, n),
        "student": rng.standard_t(2, n),
        "counts": rng.poisson(4, n).astype(np.float64),
        "rare": (rng.random(n) < 0.05).astype(np.float64),
        "constant": np.full(n, 7.0),
    }


def test_nothing_is_said_before_a_stream_has_its_reference() -> None:
    values = np.repeat([0.0, 1e6, -50.0, 3.0], 64)
    monitor = StreamMonitor(Reference(256))
    assert monitor.update(Observations.of(values, ("x",))) == []
    assert monitor.reference.is_ready("x")


@pytest.mark.parametrize("seed", range(3))
def test_each_detector_sees_the_streams_in_the_scale_made_for_it(seed: int) -> None:
    columns = laws(np.random.default_rng(seed), 2500)
    values = np.column_stack([*columns.values(), 30 * columns["rare"] + 1])
    values[CHANGE:] += np.diff(np.quantile(values[:CHANGE], [0.1, 0.97], axis=0), axis=0)[0]
    rows = Observations.of(values)
    reference = Reference()
    scaled = reference.scale(rows.names, reference.learn(rows))
    alone = Adwin(1e-4).update(Observations.of(scaled.bounded))
    alone += PageHinkley(delta=0.15, threshold=60, alpha=1).update(
        Observations.of(scaled.deviation)
    )
    advised = [v for v in StreamMonitor().update(rows) if v.detector != "e_detector"]
    assert sorted((v.offset, v.subject, v.detector, v.statistic) for v in alone) == sorted(
        (v.offset, v.subject, v.detector, v.statistic) for v in advised
    )


def test_nothing_is_said_of_what_does_not_change() -> None:
    for seed in range(20):
        columns = laws(np.random.default_rng(seed), 4000)
        values = np.column_stack(list(columns.values()))
        found = StreamMonitor().update(Observations.of(values, tuple(columns)))
        assert found == [], seed


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e60])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    "law", ["normal", "uniform", "exponential", "student", "counts", "constant"]
)
def test_a_shift_is_found_in_both_directions_at_any_scale(
    law: str, sign: int, scale: float
) -> None:
    """Of one and a half units, by either of the two detectors, within 100 values."""
    for seed in range(3):
        values = laws(np.random.default_rng(seed), 2000)[law]
        values[CHANGE:] += 1.5 * sign
        found = StreamMonitor().update(Observations.of(values * scale, ("x",)))
        assert CHANGE <= found[0].offset < CHANGE + 100


@pytest.mark.parametrize(("before", "after"), [(0.02, 0.3), (0.5, 0.8), (0.0, 0.2), (0.3, 0.02)])
def test_a_change_of_an_error_rate_is_found(before: float, after: float) -> None:
    rng = np.random.default_rng(3)
    bits = rng.random(3000) < np.where(np.arange(3000) < CHANGE, before, after)
    found = StreamMonitor().update(Observations.of(bits.astype(np.float64), ("error",)))
    assert CHANGE <= found[0].offset < CHANGE + 200


def test_a_verdict_shows_the_stream_before_and_after_and_since_when() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(50, 4, size=(2000, 2))
    values[CHANGE:, 1] += 8
    for verdict in StreamMonitor().update(Observations.of(values, ("feature:a", "feature:b"))):
        assert verdict.subject == "feature:b"
        assert verdict.detector in ("adwin", "page_hinkley")
        assert verdict.statistic > verdict.threshold
        before, now = verdict.reference, verdict.current
        assert (before.count, before.mean, before.std) == pytest.approx(
            (256, values[:256, 1].mean(), values[:256, 1].std())
        )
        onset = verdict.offset + 1 - verdict.delay_events
        assert abs(onset - CHANGE) <= 10
        latest = values[onset : verdict.offset + 1, 1]
        assert (now.count, now.mean) == pytest.approx((len(latest), latest.mean()))
        assert now.edges == before.edges
        assert sum(now.counts) == now.count
        assert verdict.evidence.startswith("+")
        shift = float(verdict.evidence.split()[0])
        assert shift == pytest.approx((now.mean - before.mean) / before.std, abs=0.15)


def test_the_latest_values_of_a_slow_change_are_a_picture_of_bounded_size() -> None:
    values = np.random.default_rng(5).normal(size=5000) + np.linspace(0, 3, 5000)
    found = StreamMonitor().update(Observations.of(values, ("x",)))
    advised = [verdict for verdict in found if verdict.detector != "e_detector"]
    assert len(advised) > 2
    assert all(5 <= verdict.current.count <= 128 for verdict in advised)


@pytest.mark.parametrize("seed", range(3))
def test_river_and_the_compiled_detectors_say_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = laws(rng, 3000)
    values = np.column_stack(list(columns.values()))
    values[1000:] += rng.normal(size=values.shape[1])
    values[2000:] *= rng.uniform(0.5, 2, values.shape[1])
    values[rng.random(values.shape) < 0.02] = rng.choice([np.nan, np.inf, -1e308])
    rows = Observations.of(values, tuple(columns))
    ours, rivers = StreamMonitor().update(rows), StreamMonitor(river=True).update(rows)
    claims = [[(v.detector, v.subject, v.offset) for v in found] for found in (ours, rivers)]
    assert claims[0] == claims[1]
    assert {detector for detector, *_ in claims[0]} == {"adwin", "page_hinkley"}
    assert len(claims[0]) > 10
    shown = [
        [
            (v.delay_events, v.evidence, v.reference, v.current)
            for v in found
            if v.detector == "adwin"
        ]
        for found in (ours, rivers)
    ]
    assert shown[0] == shown[1]


@settings(derandomize=True, deadline=None, database=None, max_examples=40)
@given(st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 1e308, -1e101]), max_size=400), st.data())
def test_dirty_values_are_counted_and_change_no_verdict(dirty, data) -> None:
    values = np.random.default_rng(6).normal(size=1200)
    values[700:] += 2
    expected = StreamMonitor().update(Observations.of(values, ("x",)))
    places = sorted(data.draw(st.integers(0, 1200)) for _ in dirty)
    mixed = np.insert(values, places, dirty)
    monitor = StreamMonitor()
    found = [v for v in monitor.update(Observations.of(mixed, ("x",))) if v.subject == "x"]
    assert monitor.unusable() == {"x": len(dirty)}
    moved = np.flatnonzero(np.abs(mixed) <= 1e100)
    assert [v.offset for v in found] == [moved[v.offset] for v in expected]
    assert [(v.current, v.reference) for v in found] == [(v.current, v.reference) for v in expected]


def test_only_the_count_changes_with_dirty_values() -> None:
    monitor = StreamMonitor()
    monitor.update(Observations.of(np.random.default_rng(7).normal(size=(600, 2))))
    reference = monitor.reference.snapshot()
    members = [monitor._adwin.snapshot(), monitor._page_hinkley.snapshot()]
    for junk in (np.nan, np.inf, -np.inf, 1e308):
        found = monitor.update(Observations.of(np.full((50, 2), junk)))
        assert {v.subject for v in found} <= {"missing:stream:0", "missing:stream:1"}
    assert monitor.reference.snapshot() == reference
    assert [monitor._adwin.snapshot(), monitor._page_hinkley.snapshot()] == members
    assert monitor.unusable() == {"stream:0": 200, "stream:1": 200}


@pytest.mark.parametrize("size", [9000, 512, 97])
def test_what_ordered_streams_may_spend_does_not_depend_on_the_batch_cut(size: int) -> None:
    """Of three streams the second is found to be ordered 1,024 rows after the first."""
    count = 9000
    values = np.random.default_rng(0).normal(size=(count, 3))
    values[:, :2] += 10 * np.sin(2 * np.pi * np.arange(count) / 24)[:, None]
    values[:1024, 1] = np.nan
    rows = replace(Observations.of(values, ("a", "b", "c")), times=np.arange(count) * 3600 * 10**9)
    monitor = StreamMonitor(budget=Budget(9e5))
    for begin in range(0, count, size):
        monitor.update(rows.take(slice(begin, begin + size)))
    assert monitor._natural is not None
    assert monitor._natural.budget_events == pytest.approx(1.5e6)


@pytest.mark.parametrize("size", [6000, 512, 97])
def test_what_they_may_spend_follows_a_budget_in_days(size: int) -> None:
    hours = np.arange(12_000)
    values = 3 * np.sin(2 * np.pi * hours / 24) + np.random.default_rng(1).normal(size=len(hours))
    rows = replace(Observations.of(values, ("load",)), times=hours * 3600 * 10**9)
    monitor = StreamMonitor(budget=Budget(days=100), season_seconds=604_800)
    for begin in range(0, len(hours), size):
        monitor.update(rows.take(slice(begin, begin + size)))
    assert monitor._natural is not None
    assert monitor._natural.budget_events == pytest.approx(2400 / 0.9, rel=0.01)


def test_bursts_of_missing_values_become_usual_and_an_outage_does_not() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(100_000, 2))
    at = 3000
    while at < len(values):
        at += int(rng.exponential(200))
        length = 1 + int(rng.exponential(5))
        values[at : at + length, 0] = np.nan
        at += length
    values[80_000:84_000, 0] = np.nan
    found = StreamMonitor(budget=Budget(1e5)).update(Observations.of(values, ("a", "b")))
    opened = [v.offset for v in found if (v.subject, v.phase) == ("missing:a", "opened")]
    assert sum(offset < 80_000 for offset in opened) <= 5  # 25 without the guard
    assert min(offset for offset in opened if offset >= 80_000) < 80_600


def test_a_stream_that_appears_late_is_warmed_up_by_itself() -> None:
    rng = np.random.default_rng(8)
    monitor, found = StreamMonitor(Reference(64)), []
    for begin in range(0, 3000, 50):
        names = ("old", "new") if begin >= 1000 else ("old",)
        values = rng.normal(size=(50, len(names))) + [0, 400][: len(names)]
        values[:, -1] += 3 * (begin >= 2000)
        found += [
            (begin + v.offset, v.subject) for v in monitor.update(Observations.of(values, names))
        ]
    assert {subject for _, subject in found} == {"new"}
    assert 2000 <= found[0][0] < 2060


def test_memory_depends_on_the_streams_and_not_on_the_values() -> None:
    monitor, rows = StreamMonitor(), np.random.default_rng(9).normal(size=(5000, 4))
    sizes = []
    for _ in range(20):
        monitor.update(Observations.of(rows))
        sizes.append(len(monitor.snapshot()))
    assert sizes[-1] < 1.1 * sizes[0]
    assert sizes[-1] < 4 * 13_000


def test_a_snapshot_of_the_other_engine_is_refused_and_changes_nothing() -> None:
    rng = np.random.default_rng(10)
    river, compiled = StreamMonitor(river=True), StreamMonitor()
    river.update(Observations.of(rng.normal(size=(500, 2))))
    compiled.update(Observations.of(rng.normal(size=(500, 2))))
    before = compiled.snapshot()
    with pytest.raises(StateError):
        compiled.restore(river.snapshot())
    assert compiled.snapshot() == before


@pytest.mark.parametrize("seed", range(4))
def test_a_slow_detection_says_when_it_began_all_the_same(seed: int) -> None:
    """ADWIN's window reaches back far beyond the onset; the estimate does not."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=6000)
    values[3000:] += 0.4
    monitor = StreamMonitor(ph_threshold=1e9)  # ADWIN alone
    found = [v for v in monitor.update(Observations.of(values)) if v.offset >= 3000]
    assert found[0].delay_events is not None
    onset = found[0].offset + 1 - found[0].delay_events
    assert abs(onset - 3000) <= 150


# ---- who speaks for which stream ----


def test_a_value_that_is_missing_is_a_stream_of_its_own_from_the_first_one_on() -> None:
    rng = np.random.default_rng(11)
    values = rng.normal(size=(3000, 2))
    values[1500:, 0][rng.random(1500) < 0.2] = np.nan
    found = StreamMonitor().update(Observations.of(values, ("a", "b")))
    first = found[0]
    assert (first.subject, first.change, first.phase) == ("missing:a", "missing", "opened")
    assert 1500 <= first.offset < 1600
    assert first.current.mean > 0.1 > first.reference.mean


def test_adwin_and_page_hinkley_advise_once_the_regime_is_known_and_decide_before() -> None:
    for change, advisory in ((1500, False), (4000, True)):
        values = np.random.default_rng(12).normal(size=5000)
        values[change:] += 2
        values = values[: change + 400]
        found = StreamMonitor().update(Observations.of(values, ("x",)))
        assert {v.advisory for v in found if v.detector != "e_detector"} == {advisory}
        assert not any(v.advisory for v in found if v.detector == "e_detector")
        assert any(v.detector == "e_detector" for v in found) == advisory
    every = StreamMonitor(only_budget=False).update(Observations.of(values, ("x",)))
    assert not any(v.advisory for v in every)


def test_a_category_is_watched_as_one_and_by_nothing_else() -> None:
    rng = np.random.default_rng(13)
    codes = rng.choice([-7e15, -6.5e15, 3.0], 5000, p=[0.6, 0.3, 0.1])
    codes[4000:][rng.random(1000) < 0.1] = -5e15
    rows = replace(Observations.of(codes, ("c",)), categories=frozenset(["c"]))
    found = StreamMonitor().update(rows)
    assert found[0].change == "new category"
    assert 4000 <= found[0].offset < 4060
    assert {v.detector for v in found} == {"e_detector"}


def test_an_ordered_stream_is_left_to_the_natural_size_test() -> None:
    rng = np.random.default_rng(14)
    hours = np.arange(24 * 500)
    values = 3 * np.sin(hours * 2 * np.pi / 24) + rng.normal(size=len(hours))
    values[24 * 400 :] += 3
    rows = replace(Observations.of(values, ("load",)), times=hours * 3_600 * 10**9)
    monitor, cut, parts = (
        StreamMonitor(season_seconds=604_800),
        StreamMonitor(season_seconds=604_800),
        [],
    )
    whole = monitor.update(rows)
    for begin in range(0, len(hours), 517):
        parts += cut.update(rows.take(slice(begin, begin + 517)))
    assert parts == whole
    found = [v for v in whole if not v.advisory and v.offset > 3000]
    assert found[0].detector == "natural_size"
    assert 24 * 400 <= found[0].offset < 24 * 415
    assert monitor.figures()["streams_ordered"] == 1
    before, after = found[0].reference, found[0].current
    assert before is not None is not after
    assert before.edges == after.edges
    assert before.count > 9000
    assert 1 <= after.count <= 15 * 24
    assert found[0].size == pytest.approx(3, abs=1)
    low, high = found[0].delay_low or 0, found[0].delay_high or 0
    assert low <= found[0].offset + 1 - 24 * 400 <= high


@pytest.mark.parametrize(("begin", "shift"), [(500, 3.0), (1000, 1.0), (1900, 3.0)])
def test_a_change_while_a_stream_is_new_is_claimed_once_whatever_the_cut(begin, shift) -> None:
    values = np.random.default_rng(18).normal(size=(4000, 2))
    values[begin:, 0] += shift
    whole = StreamMonitor().update(Observations.of(values, ("a", "b")))
    opened = {v.detector for v in whole if v.phase == "opened" and not v.advisory}
    assert opened
    assert opened <= {"adwin", "page_hinkley"}
    monitor, found = StreamMonitor(), []
    rows = Observations.of(values, ("a", "b"))
    for at in range(0, 4000, 111):
        found += monitor.update(rows.take(slice(at, at + 111)))
    assert found == whole


@pytest.mark.parametrize("cut", [1, 97, 1000])
def test_all_of_it_depends_on_no_batch_cut_and_no_restart(cut: int) -> None:
    rng = np.random.default_rng(15)
    n = 6000 if cut > 1 else 2600
    hours = np.arange(n)
    values = np.column_stack(
        [rng.normal(size=n), np.sin(hours / 4) + rng.normal(size=n) / 3, rng.choice(4, n)]
    )
    values[n // 2 :, 0] += 1
    values[rng.random((n, 3)) < 0.01] = np.nan
    rows = Observations(
        names=("a", "b", "c"), values=values, offsets=hours, rows=np.zeros_like(hours),
        times=hours * 3_600 * 10**9, categories=frozenset(["c"]),
    )  # fmt: skip
    whole = StreamMonitor()
    expected = whole.update(rows)
    found, monitor = [], StreamMonitor()
    for begin in range(0, n, cut):
        if begin % (50 * cut) == 0:
            state, monitor = monitor.snapshot(), StreamMonitor()
            monitor.restore(state)
        found += monitor.update(rows.take(slice(begin, begin + cut)))
    assert found == expected
    assert monitor.snapshot() == whole.snapshot()


def test_alarms_of_new_streams_are_counted_apart_from_the_budget() -> None:
    values = np.random.default_rng(17).normal(size=6000)
    values[1000:] += 3
    values[5000:] += 3
    monitor = StreamMonitor()
    found = monitor.update(Observations.of(values))
    before = [v for v in found if v.detector in ("adwin", "page_hinkley") and not v.advisory]
    within = [v for v in found if v.detector == "e_detector" and v.phase == "opened"]
    figures = monitor.figures()
    assert figures["drift_alarms_without_budget"] == len(before) >= 1
    # The change of row 1,000 is not claimed again when bets begin, at row 2,048.
    assert [v.offset // 1000 for v in within] == [5]
    assert figures["drift_alarms"] == 1
    again = StreamMonitor()
    again.restore(monitor.snapshot())
    assert again.figures() == figures


def test_adwin_tells_the_onset_of_a_rare_stream_in_events_too() -> None:
    rng = np.random.default_rng(19)
    values = rng.normal(size=(30_000, 2))
    values[20_000:, 0] += 2
    values[:, 0][rng.random(30_000) > 0.05] = np.nan
    first = StreamMonitor().update(Observations.of(values, ("rare", "x")))[0]
    assert first.subject == "rare"
    assert first.detector in ("adwin", "page_hinkley")
    assert abs(first.offset + 1 - (first.delay_events or 0) - 20_000) <= 100
