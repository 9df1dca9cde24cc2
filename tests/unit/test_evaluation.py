"""Scores of alarms: examples worked out by hand, and what must hold of any alarms and changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from tocsin.detectors.base import Observations
from tocsin.detectors.dummy import Dummy
from tocsin.detectors.evaluation import Score, f1_interval, pool, resampled_f1, score
from tocsin.detectors.matching import Change, episodes, judge


def outcomes(alarms: list[int], changes: list[Change], tolerance: int) -> list[str]:
    return [judged.outcome for judged in judge(alarms, changes, tolerance)]


ABRUPT = [Change(100, 100), Change(300, 300)]


@pytest.mark.parametrize(
    ("alarms", "expected"),
    [
        ([], []),
        ([99], ["false"]),  # before anything changed
        ([100], ["hit"]),
        ([150], ["hit"]),  # the last row that counts
        ([151], ["late"]),
        ([151, 152], ["late", "false"]),  # one late alarm a change
        ([110, 120], ["hit", "false"]),  # a repeat
        ([110, 290], ["hit", "false"]),  # what was found is not found late again
        ([110, 310, 360], ["hit", "hit", "false"]),
        ([299], ["late"]),
        ([299, 300], ["late", "hit"]),
        ([399], ["late"]),  # of the second: the first is past
        ([310, 360, 340], ["hit", "false", "false"]),
    ],
)
def test_an_alarm_is_a_hit_a_late_one_or_false(alarms: list[int], expected: list[str]) -> None:
    assert outcomes(alarms, ABRUPT, 50) == expected


def test_a_gradual_change_can_be_found_from_half_a_width_before_its_start() -> None:
    ramp = [Change(1000, 1200)]
    assert outcomes([899], ramp, 50) == ["false"]
    assert outcomes([900, 1000], ramp, 50) == ["hit", "false"]
    assert outcomes([1250], ramp, 50) == ["hit"]
    assert outcomes([1251], ramp, 50) == ["late"]
    assert judge([900], ramp, 50)[0].delay == -100


def test_the_change_that_can_wait_less_gets_the_alarm() -> None:
    first, second = Change(0, 400), Change(420, 420)
    assert [j.change for j in judge([430, 440], [first, second], 50)] == [first, second]
    # The ramp's foot reaches back before the jump; given the first alarm, it would leave none for it.
    ramp, jump = Change(1000, 3000), Change(900, 900)
    assert [j.change for j in judge([950, 2000], [ramp, jump], 100)] == [jump, ramp]


def test_the_alarm_on_an_optional_change_is_neither_right_nor_wrong() -> None:
    small = Change(100, 100, optional=True)
    assert outcomes([110, 120], [small], 50) == ["ignored", "false"]
    assert outcomes([160], [small], 50) == ["false"]  # nothing to be late for
    found = score([110], [small, Change(300, 300)], 400, 50)
    assert (found.alarms, found.changes, found.hits, found.false) == (0, 1, 0, 0)


@pytest.mark.parametrize(
    "changes", [[Change(5, 5), Change(5, 5)], [Change(5, 9), Change(8, 8)], [Change(8, 8), Change(0, 9)]]
)  # fmt: skip
def test_changes_must_not_overlap(changes: list[Change]) -> None:
    with pytest.raises(ValueError, match="changes must not overlap"):
        judge([], changes, 10)


def test_changes_may_touch() -> None:
    assert outcomes([5, 9], [Change(5, 9), Change(9, 9)], 0) == ["hit", "hit"]


def test_what_cannot_be_scored_is_said() -> None:
    with pytest.raises(ValueError, match="0 <= start <= end, got start 7 and end 3"):
        Change(7, 3)
    with pytest.raises(ValueError, match="tolerance must be 0 or more"):
        judge([], [], -1)
    with pytest.raises(ValueError, match="row 400 lies beyond the last of 400 rows"):
        score([], [Change(400, 400)], 400, 50)


def test_figures_are_those_worked_out_by_hand() -> None:
    changes = [Change(1000, 1000), Change(2000, 2100), Change(4000, 4000)]
    found = score([500, 1010, 1020, 1990, 4150], changes, 6000, 100)
    assert found.figures() == pytest.approx(
        {
            "rows": 6000, "alarms": 5, "changes": 3, "hits": 2, "missed": 1, "false": 3, "late": 1,
            "precision": 2 / 5, "recall": 2 / 3, "f1": 2 * 2 / (5 + 3),
            "delay_median": 0.0, "delay_p90": 8.0, "normalised_detection_time": 0.025,
            "mtd": 0.0, "mtfa": 2000.0, "mdr": 1 / 3, "mtr": None, "rows_per_alarm": 1200.0,
        }
    )  # fmt: skip
    assert found.delays == (10, -10)
    assert found.waits == (0.1, -0.05)


def test_the_mean_time_ratio_is_bifets() -> None:
    found = score([40, 120, 130, 340], [Change(100, 100), Change(300, 300)], 400, 50)
    assert found.mtfa == 200
    assert found.mtd == 30
    assert found.mdr == 0
    assert found.mtr == pytest.approx(200 / 30 * 1)


def test_what_is_not_known_is_none_and_raises_nothing() -> None:
    silent = score([], [Change(100, 100)], 400, 50)
    assert silent.precision is None
    assert silent.recall == 0
    assert silent.f1 == 0
    assert silent.mdr == 1
    assert {silent.mtd, silent.delay_median, silent.delay_p90, silent.mtfa, silent.mtr} == {None}
    stationary = score([50, 250], [], 400, 50)
    assert stationary.mtfa == 200
    assert stationary.precision == 0
    assert {stationary.recall, stationary.mdr, stationary.mtr} == {None}
    quiet = score([], [], 400, 50)
    assert {quiet.f1, quiet.precision, quiet.recall, quiet.mtfa, quiet.rows_per_alarm} == {None}
    assert score([100], [Change(100, 100)], 400, 0).normalised_detection_time is None
    assert f1_interval([quiet, quiet]) is None


def test_without_annotation_only_the_time_between_alarms_is_known() -> None:
    figures = score([10, 20], None, 400, 50).figures()
    known = {name for name, value in figures.items() if value is not None}
    assert known == {"rows", "alarms", "rows_per_alarm"}
    assert figures["rows_per_alarm"] == 200


SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60), st.booleans()), max_size=8)
ALARMS = st.lists(st.integers(0, 500), max_size=20)


def laid_out(spans: list[tuple[int, int, bool]]) -> list[Change]:
    """Return changes of these gaps and widths, one after the other."""
    changes, at = [], 0
    for gap, width, optional in spans:
        changes.append(Change(at + gap, at + gap + width, optional))
        at += gap + width + 1
    return changes


@given(SPANS, ALARMS, st.integers(0, 80))
def test_no_change_is_counted_twice_and_no_matching_has_more_hits(
    spans: list[tuple[int, int, bool]], alarms: list[int], tolerance: int
) -> None:
    changes = laid_out(spans)
    judged = judge(alarms, changes, tolerance)
    matched = [j for j in judged if j.outcome in ("hit", "ignored")]
    assert len({j.change for j in matched}) == len(matched)
    for j in matched:
        assert j.change is not None
        assert j.change.start - j.change.width / 2 <= j.row <= j.change.end + tolerance
        assert j.change.optional == (j.outcome == "ignored")
    can = [[c.opens <= row <= c.end + tolerance for c in changes] for row in alarms]
    most = 0
    if alarms and changes:
        most = int((maximum_bipartite_matching(csr_matrix(np.array(can, int))) >= 0).sum())
    assert len(matched) == most
    late = [j.change for j in judged if j.outcome == "late"]
    assert len(set(late)) == len(late)
    assert set(late).isdisjoint(j.change for j in matched)
    assert sorted(alarms) == [j.row for j in judged]


@given(SPANS, ALARMS, st.integers(0, 80))
def test_counts_add_up_and_ratios_are_ratios(
    spans: list[tuple[int, int, bool]], alarms: list[int], tolerance: int
) -> None:
    found = score(alarms, laid_out(spans), 1000, tolerance)
    assert found == score(alarms[::-1], laid_out(spans)[::-1], 1000, tolerance)
    assert found.hits is not None
    assert found.missed is not None
    assert found.false is not None
    assert found.hits + found.missed == found.changes
    assert found.hits + found.false == found.alarms
    assert found.late <= min(found.false, found.missed)
    for ratio in (found.precision, found.recall, found.f1, found.mdr):
        assert ratio is None or 0 <= ratio <= 1
    if found.precision and found.recall:
        both = 2 * found.precision * found.recall / (found.precision + found.recall)
        assert found.f1 == pytest.approx(both)


def test_streams_are_pooled_by_their_counts() -> None:
    one = score([110], ABRUPT, 400, 50)
    other = score([120, 200, 310], ABRUPT, 600, 50)
    both = pool([one, other])
    assert both == Score(
        rows=1000, alarms=4, changes=4, delays=(10, 20, 10), waits=(0.2, 0.4, 0.2), late=0
    )
    assert both.f1 == 2 * 3 / (4 + 4)
    assert pool([one, score([], None, 400, 50)]).changes is None


def test_the_interval_is_that_of_streams_drawn_anew() -> None:
    rng = np.random.default_rng(0)
    scores = [
        score([110] * (rng.random() < 0.7) + [200] * (rng.random() < 0.3), ABRUPT[:1], 400, 50)
        for _ in range(200)
    ]
    whole = pool(scores).f1
    interval = f1_interval(scores)
    assert whole is not None
    assert interval is not None
    low, high = interval
    assert low < whole < high
    # The delta method's standard error of a ratio of means.
    hits = np.array([s.hits for s in scores], float)
    total = np.array([s.alarms + 1 for s in scores], float)
    error = (2 * hits - whole * total).std() / total.mean() / np.sqrt(len(scores))
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert f1_interval(scores) == interval
    assert f1_interval(scores, seed=1) != interval
    assert f1_interval(scores[:1]) is None


def test_differences_of_two_detectors_are_of_pairs() -> None:
    scores = [score([110] * k, ABRUPT, 400, 50) for k in (0, 1, 2, 3)]
    np.testing.assert_array_equal(resampled_f1(scores) - resampled_f1(list(scores)), 0)


def test_alarms_close_to_one_another_are_one_episode() -> None:
    alarms = [0, 10, 19, 29, 40, 200, 200]
    assert episodes(alarms, 0) == list(range(7))
    assert episodes(alarms, 10) == [0, 1, 3, 4, 5]
    assert episodes(alarms, 12) == [0, 5]
    assert episodes(alarms, 12, longest=20) == [0, 3, 5]
    assert episodes([], 10) == []


def test_dummies_raise_alarms_without_looking() -> None:
    rows = Observations.of(np.zeros((100, 2)))

    def raised(dummy: Dummy) -> list[int]:
        return [verdict.offset for verdict in dummy.update(rows)]

    assert raised(Dummy()) == []
    assert raised(Dummy(every=40)) == [39, 79]
    assert raised(Dummy(at=50)) == [50]
    with pytest.raises(ValueError, match="every must be 0 or more"):
        Dummy(every=-1)
