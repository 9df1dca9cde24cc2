"""Embeddings and logits as streams: each version by itself, at any batch cut, and across a restart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.series import Series
from tocsin.consumers.vectors import VectorMonitor, Vectors
from tocsin.core.columns import Strings
from tocsin.core.verdict import Verdict

SECOND = 10**9
Name = Literal["embedding", "logits"]
NAMES: tuple[Name, ...] = ("embedding", "logits")
Row = tuple[Sequence[float], str | None, int]
"""A vector, its version, and the number of its event."""


def monitor(name: Name = "embedding", **drift: Any) -> VectorMonitor:
    settings = ModelSettings(drift={"warmup_values": 64} | drift)
    found: VectorMonitor = getattr(Series("m", "production", 0, settings), name)
    return found


def vectors(rows: Sequence[Row]) -> Vectors:
    numbers = np.array([number for _, _, number in rows])
    values = np.array([vector for vector, _, _ in rows], np.float64)
    return Vectors(
        vectors=values,
        versions=Strings.of(version for _, version, _ in rows),
        classes=np.where(numbers % 5 == 0, np.nan, numbers % 3),
        offsets=numbers // 2,
        rows=numbers % 2,
        times=numbers * SECOND,
        numbers=numbers,
    )


def cut(rows: Sequence[Row], most: int) -> Iterator[Vectors]:
    """Yield batches of at most so many rows of one width, as batches of events are."""
    begin = 0
    for end in range(1, len(rows) + 1):
        is_last = end == len(rows) or len(rows[end][0]) != len(rows[begin][0])
        if is_last or end - begin == most:
            yield vectors(rows[begin:end])
            begin = end


def feed(of: VectorMonitor, rows: Sequence[Row], most: int = 1000) -> list[Verdict]:
    found = [verdict for batch in cut(rows, most) for verdict in of.update(batch)]
    return sorted(found, key=lambda v: (v.offset, v.row, v.subject, v.detector))


def state(of: VectorMonitor) -> dict[str, bytes]:
    """Everything that would be stored, written or not."""
    return {
        of._field(part, key): snapshot()
        for key, version in of._versions.kept.items()
        for part, (_, snapshot) in version.parts().items()
    }


def normal(
    seed: int, count: int, versions: Sequence[str | None] = (None,), width: int = 6, begin: int = 0
) -> list[Row]:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, width))
    which = rng.integers(0, len(versions), count).tolist()
    return [(values[k].tolist(), versions[which[k]], begin + k) for k in range(count)]


def shifted(rows: Sequence[Row], size: float, since: int, version: str | None = None) -> list[Row]:
    """Move the first coordinate of a version's vectors from an event on."""
    return [
        ([v[0] + size, *v[1:]], w, k) if k >= since and w == version else (v, w, k)
        for v, w, k in rows
    ]


def opened(found: Sequence[Verdict]) -> list[Verdict]:
    return [v for v in found if v.phase == "opened" and not v.advisory]


def messy(seed: int) -> list[Row]:
    """Two versions side by side, junk among them, other widths for a while, and then one of them moves."""
    rng = np.random.default_rng(seed)
    rows = shifted(normal(seed, 7_000, ("v1", "v2")), 2.0, 6_500, "v2")
    for k in rng.choice(len(rows), 80, replace=False).tolist():
        vector, version, number = rows[k]
        rows[k] = ([*vector[:-1], float(rng.choice([np.nan, np.inf, -1e300]))], version, number)
    for k in range(1_400, 1_440):
        rows[k] = (rows[k][0][: 4 if k < 1_420 else 1], *rows[k][1:])
    return rows


# ---- what is found ----


@pytest.mark.parametrize("name", NAMES)
def test_a_shift_of_one_version_is_found_in_its_own_streams_only(name: Name) -> None:
    rows = shifted(normal(0, 8_000, ("v1", "v2")), 2.0, 7_000, "v2")
    found = opened(feed(monitor(name), rows))
    assert found
    assert {v.subject.partition(":")[0] for v in found} == {name}
    assert {v.subject.partition("@")[2] for v in found} == {"v2"}
    first = found[0]
    event = 2 * first.offset + first.row
    assert 7_000 < event < 7_200


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_claimed_of_vectors_that_do_not_change(name: Name) -> None:
    assert opened(feed(monitor(name), normal(1, 20_000, ("v1", "v2")))) == []


@pytest.mark.parametrize("name", NAMES)
def test_false_alarms_of_all_versions_together_stay_within_the_share(name: Name) -> None:
    """Heavy tails, coordinates that go together, and a budget small enough for some alarms to be due."""
    rng = np.random.default_rng(23)
    of = monitor(name, budget_events=1e3, tolerance=0, rate_tolerance=0)
    mixing = rng.normal(size=(10, 10))
    alarms = 0
    for begin in range(0, 100_000, 1_000):
        numbers = np.arange(begin, begin + 1_000)
        batch = Vectors(
            vectors=rng.standard_t(4, size=(1_000, 10)) @ mixing,
            versions=Strings.of(np.where(rng.random(1_000) < 0.5, "v1", "v2").tolist()),
            classes=rng.integers(0, 10, 1_000).astype(np.float64),
            offsets=numbers,
            rows=np.zeros_like(numbers),
            times=numbers * SECOND,
            numbers=numbers,
        )
        alarms += sum(v.detector == "e_detector" for v in opened(of.update(batch)))
    allowed = of.figures()["false_alarms_allowed"]
    assert 9 < allowed < 10.001
    assert of.figures()["drift_alarms"] == alarms
    assert 0 < alarms <= allowed + 2.33 * np.sqrt(allowed)  # 99 % of a Poisson law


def test_events_without_a_version_have_streams_without_one() -> None:
    found = opened(feed(monitor(), shifted(normal(2, 4_500), 3.0, 4_000)))
    assert found
    assert all("@" not in v.subject and v.subject.startswith("embedding:") for v in found)


def test_a_class_that_goes_missing_is_another_share_of_cells() -> None:
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(8, 6)) * 6
    which = np.where(np.arange(8_000) < 6_000, rng.integers(0, 8, 8_000), rng.integers(0, 7, 8_000))
    values = centres[which] + rng.normal(size=(8_000, 6))
    found = opened(feed(monitor(), [(v.tolist(), None, k) for k, v in enumerate(values)]))
    assert "embedding:cell" in {v.subject for v in found if v.change == "shares"}


@pytest.mark.parametrize(("name", "constant"), [("embedding", 0), ("logits", 2)])
def test_a_direction_without_variance_is_no_stream_and_misses_nothing(
    name: Name, constant: int
) -> None:
    """Three coordinates of which one never changes have two directions."""
    rows: list[Row] = [
        ([*v[:constant], 1.0, *v[constant:]], w, k) for v, w, k in normal(4, 3_000, width=2)
    ]
    of = monitor(name)
    feed(of, rows)
    unusable = of._versions.kept["/3"].monitor.unusable()
    assert {stream for stream in unusable if ":pc" in stream} == {f"{name}:pc1", f"{name}:pc2"}
    assert not any(unusable.values())


def test_before_the_map_is_learnt_logits_have_their_confidence() -> None:
    of = monitor("logits")
    feed(of, normal(5, 1_000))
    names = {"logits:energy", "logits:margin", "logits:entropy"}
    assert set(of._versions.kept["/6"].monitor.unusable()) == names
    feed(of, normal(6, 1, begin=1_000))
    assert len(of._versions.kept["/6"].monitor.unusable()) == 9


# ---- blocks ----


def test_blocks_are_watched_from_the_sixtieth_on_and_speak_of_vectors() -> None:
    of = monitor(alarms="budget")
    rows = normal(7, 9_000, width=12)
    moved: list[Row] = [
        ([x * 1.5 for x in v], w, k) if k >= 6_000 else (v, w, k) for v, w, k in rows
    ]
    found = [v for v in opened(feed(of, moved)) if v.subject == "embedding:mmd"]
    (verdict, *_) = found
    event = 2 * verdict.offset + verdict.row
    assert (event - 1_000 + 1) % 50 == 0  # blocks begin once the map is learnt
    assert verdict.delay_events is not None
    assert verdict.delay_events % 50 == 0
    assert abs(event + 1 - verdict.delay_events - 6_000) <= 100
    assert verdict.chance_events is not None
    assert verdict.chance_events >= 1e6 / 0.02
    assert "embedding:mmd" not in of._versions.kept["/12"].monitor.unusable()
    assert verdict.evidence == f"would happen by chance once in {verdict.chance_events:.1g} events"


@pytest.mark.parametrize(
    ("budget", "streams", "blocks"),
    [
        ({"budget_events": 2e5}, (2e5 / 0.08, None), (2e5 / 0.02 / 50, None)),
        ({"budget_days": 3.0}, (1e6, 3.0 / 0.08), (1e6, 3.0 / 0.02)),
    ],
)
def test_blocks_have_a_fifth_of_the_share_of_embeddings(budget, streams, blocks) -> None:
    of = monitor(**budget)
    feed(of, normal(8, 10))
    version = of._versions.kept["/6"]
    assert version.blocks is not None
    for detector, expected in (
        (version.monitor.guarded.detector, streams), (version.blocks, blocks),
    ):  # fmt: skip
        assert (detector.budget.events, detector.budget.days) == pytest.approx(expected)


# ---- when it began ----


def test_delays_count_the_events_of_all_versions() -> None:
    """Nine events of another version come between two of this one."""
    mixed: list[Row] = [
        (v, "v1" if k % 10 == 3 else "v2", k)
        for v, _, k in shifted(normal(9, 45_000), 3.0, 40_000, None)
    ]
    found = [v for v in opened(feed(monitor(), mixed)) if v.subject.endswith("@v1")]
    assert found
    for verdict in found[:3]:
        event = 2 * verdict.offset + verdict.row
        assert event > 40_080
        assert verdict.delay_events is not None
        assert abs(event + 1 - verdict.delay_events - 40_000) <= 40  # four of its own
        assert verdict.delay_low is not None
        assert verdict.delay_high is not None
        assert verdict.delay_low <= verdict.delay_events <= verdict.delay_high


def test_delays_of_the_only_version_are_left_as_they_are() -> None:
    """Also where it came after events without vectors."""
    batch = vectors(shifted(normal(10, 4_500), 2.0, 4_000))
    later = replace(batch, numbers=batch.numbers + 3_000)
    found = monitor().update(batch)
    assert monitor().update(later) == found
    assert any(v.delay_events for v in found)


def test_a_change_too_long_ago_has_no_delay_where_other_events_came_in_between() -> None:
    of, alone = monitor("logits"), monitor("logits")
    rows = normal(11, 12_000)
    feed(of, [(v, w, 2 * k) for v, w, k in rows])
    feed(alone, [(v, w, 70 + k) for v, w, k in rows])
    version, other = of._versions.kept["/6"], alone._versions.kept["/6"]
    for delay, expected in ((None, None), (1, 1), (50, 99), (1_000, 1_999), (8_000, 15_999)):
        assert version._events(delay, 12_000, 23_999) == expected
    verdict = Verdict(
        detector="d", subject="s", offset=0, row=0, statistic=1, threshold=1,
        delay_events=9_000, delay_low=2, delay_high=11_000,
    )  # fmt: skip
    long_ago = version._recounted(verdict, 12_000, 23_999)
    assert (long_ago.delay_events, long_ago.delay_low, long_ago.delay_high) == (None, 3, None)
    assert other._recounted(verdict, 12_000, 12_070) == verdict
    for line in (version._own, other._own):
        assert len(line._kept) <= line.KEPT + 1_000 // line.EVERY + 1


# ---- cuts, restarts, versions that make room ----


@pytest.fixture(scope="module", params=NAMES)
def whole(request: pytest.FixtureRequest) -> tuple[Name, list[Verdict], VectorMonitor]:
    of = monitor(request.param)
    return request.param, feed(of, messy(12), 10**9), of


@pytest.mark.parametrize("most", [3, 64, 999])
def test_batches_may_be_cut_anywhere(whole, most: int) -> None:
    name, expected, of = whole
    parts = monitor(name)
    assert feed(parts, messy(12), most) == expected
    assert {v.subject.partition("@")[2] for v in opened(expected)} == {"v2"}
    assert state(parts) == state(of)
    assert parts.state() == of.state()
    assert parts.figures() == of.figures()


def test_goes_on_from_stored_fields(whole) -> None:
    name, expected, of = whole
    parts, stored, found = monitor(name), {}, []
    rows = messy(12)
    for begin in range(0, len(rows), 430):
        found += feed(parts, rows[begin : begin + 430], 100)
        stored |= parts.dirty()
        kept = parts.state()
        parts = monitor(name)
        assert parts.restore(kept, stored) == []
    assert sorted(found, key=lambda v: (v.offset, v.row, v.subject, v.detector)) == expected
    assert state(parts) == state(of)
    assert parts.figures() == of.figures()


def test_what_did_not_change_is_not_written_again() -> None:
    of = monitor()
    feed(of, normal(13, 100, ("v1",)))
    assert set(of.dirty()) == {
        "embedding/v1/6",
        "embedding_steady/v1/6",
        "embedding_reference/v1/6",
    }
    assert of.dirty() == {}
    feed(of, normal(14, 5, ("v2",)))
    of.dirty()
    feed(of, normal(15, 2_000, ("v2",)))
    assert not any("/v1/" in name for name in of.dirty())
    restored = monitor()
    feed(of, normal(16, 3_000, ("v2",)))
    assert restored.restore(of.state(), state(of)) == []
    assert restored.dirty() == {}
    of.dirty()
    feed(of, normal(17, 100, ("v2",)))
    assert set(of.dirty()) == {"embedding/v2/6"}


@pytest.mark.parametrize("name", NAMES)
def test_the_least_used_of_nine_versions_makes_room_and_what_it_spent_stays_counted(
    name: Name,
) -> None:
    of = monitor(name)
    junk: list[Row] = [([np.nan] * 6, "v0", 7_999)]
    assert opened(feed(of, shifted(normal(18, 5_500, ("v0",)), 4.0, 5_000, "v0") + junk))
    feed(of, normal(1, 14_000, [f"v{k}" for k in range(1, 8)], begin=8_000))
    stored, before = of.dirty(), of.figures()
    assert before["drift_alarms"] > 0
    assert before["unusable_vectors"] == 1
    others = [key.partition("/")[0] for key in of.state()["versions"]["kept"]][1:]
    feed(of, normal(19, 900, ("v8",), begin=40_000))
    assert [key.partition("/")[0] for key in of.state()["versions"]["kept"]] == [*others, "v8"]
    after = of.figures()
    for figure in ("false_alarms_allowed", "drift_alarms", "unusable_vectors"):
        assert after[figure] >= before[figure]
    remaining = after["false_alarms_allowed"] - after["drift_alarms"]
    assert after["false_alarm_budget_remaining"] == pytest.approx(remaining)
    written = of.dirty()
    gone = {field for field, value in written.items() if value is None}
    assert gone == {field for field in stored if "/v0/" in field}
    restored = monitor(name)
    assert restored.restore(of.state(), state(of)) == []
    assert restored.figures() == after


def test_a_version_that_comes_back_is_written_anew() -> None:
    of = monitor("logits")
    for k in range(8):
        feed(of, normal(k, 5, (f"v{k}",)))
    of.dirty()
    for k in (8, 0):  # v0 is the first of those that are used least, then v1
        feed(of, normal(k, 40, (f"v{k}",)))
    written = of.dirty()
    assert sum("/v0/" in field for field, value in written.items() if value is not None) == 3
    assert sum("/v1/" in field for field, value in written.items() if value is None) == 3


@pytest.mark.parametrize("name", NAMES)
def test_made_up_versions_do_not_make_one_in_use_begin_anew(name: Name) -> None:
    """One comes on each second event, a new one each time, then nine in turn; the drift is found as without them."""
    real = shifted(normal(25, 8_000, ("v1",)), 2.0, 7_500, "v1")
    made_up = normal(26, 8_000, (None,))
    rows: list[Row] = []
    for k in range(8_000):
        name_of_it = f"made-up-{k if k < 4_000 else k % 9}"
        rows += [(real[k][0], "v1", 2 * k), (made_up[k][0], name_of_it, 2 * k + 1)]
    alone = opened(feed(monitor(name), [(v, w, 2 * k) for v, w, k in real]))
    of = monitor(name)
    among = [v for v in opened(feed(of, rows)) if v.subject.endswith("@v1")]
    assert alone
    assert [(v.offset, v.subject, v.statistic) for v in among] == [
        (v.offset, v.subject, v.statistic) for v in alone
    ]
    parts = monitor(name)
    for begin in range(0, len(rows), 3_300):
        feed(parts, rows[begin : begin + 3_300], 77)
        again = monitor(name)
        assert again.restore(parts.state(), state(parts)) == []
        parts = again
    assert parts.state() == of.state()
    assert state(parts) == state(of)


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
@pytest.mark.parametrize("part", ["", "_steady", "_reference"])
def test_a_field_that_cannot_be_read_is_named_and_only_its_version_starts_clean(
    part: str, damage: str
) -> None:
    of = monitor()
    feed(of, normal(20, 4_500, ("v1", "v2", "a|b")))
    stored = state(of)
    field = f"embedding{part}/v2/6"
    if damage == "gone":
        del stored[field]
    else:
        other = stored[f"embedding{'_steady' if part != '_steady' else ''}/v1/6"]
        stored[field] = stored[field][:-3] if damage == "cut" else other
    again = monitor()
    (lost,) = again.restore(of.state(), stored)
    assert lost.startswith("embedding/v2/6: ")
    kept = of.state()["versions"]["kept"]
    assert again.state()["versions"]["kept"] == {k: n for k, n in kept.items() if k != "v2/6"}
    assert any("a%7Cb" in name for name in stored)
    feed(again, normal(21, 50, ("v2",), begin=5_000))


def test_state_from_before_there_were_these_streams_is_no_loss() -> None:
    of = monitor()
    assert of.restore(None, {}) == []
    assert of.dirty() == {}


# ---- vectors of no use ----


def test_vectors_of_no_use_are_counted_and_change_no_verdict() -> None:
    rows = shifted(normal(22, 5_000), 3.0, 4_600)
    clean, dirty = monitor(), monitor()
    expected = feed(clean, rows)
    mixed: list[Row] = []
    for k, row in enumerate(rows):
        if k % 100 == 7:
            mixed.append(([1.0, np.nan, 1e300, np.inf, 0.0, -np.inf], None, -1))
        if k == 2_000:
            mixed.append(([0.5] * 4_097, None, -1))
        mixed.append(row)
    found = feed(dirty, mixed)
    where = [(v.offset, v.row, v.subject, v.detector, v.statistic) for v in expected]
    assert [(v.offset, v.row, v.subject, v.detector, v.statistic) for v in found] == where
    assert where
    assert dirty.figures()["unusable_vectors"] == 51
    assert clean.figures()["unusable_vectors"] == 0


@pytest.mark.parametrize(("name", "width"), [("embedding", 4_097), ("logits", 1), ("logits", 0)])
def test_widths_that_nobody_looks_at_have_no_version(name: Name, width: int) -> None:
    of = monitor(name)
    batch = vectors([([0.0] * width, "v", k) for k in range(3)])
    assert of.update(batch) == []
    assert of.dirty() == {}
    assert of.figures()["unusable_vectors"] == 3
