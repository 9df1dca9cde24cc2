"""Rows by time and group: bounded, made by predictions only, stored one by one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tocsin.consumers.cohort_table import MOST_GROUPS, Cohort, CohortTable
from tocsin.core.errors import StateError

DAY = 86_400 * 10**9


def table(most: int = 3, width: int = 5) -> CohortTable:
    return CohortTable(width, 86_400.0, most)


def count(of: CohortTable, days: list[float], groups: list[list[int]] | None = None) -> None:
    """Count predictions of these days in column 0."""
    times = (np.array(days) * DAY).astype(np.int64)
    places = of.open(times)
    rows = of.rows(places, np.array(groups or [[0]] * len(days)), make=True)
    for row in rows.ravel().tolist():
        if row >= 0:
            of.counts[row, 0] += 1


def content(of: CohortTable) -> dict[tuple[int, int], list[int]]:
    return {(cohort.span, cohort.group): row.tolist() for cohort, row in of.cohorts()}


def firsts(of: CohortTable) -> dict[tuple[int, int], int]:
    return {cohort: row[0] for cohort, row in content(of).items()}


def test_the_latest_cohorts_are_kept_and_what_is_earlier_is_not_counted() -> None:
    of = table()
    count(of, [1.5, 1.9, 2, 4, 4.1])
    assert firsts(of) == {(1, 0): 2, (2, 0): 1, (4, 0): 2}
    count(of, [3, 1, 0.5])  # 3 takes the place of 1, which is then too early, as is 0
    assert firsts(of) == {(2, 0): 1, (3, 0): 1, (4, 0): 2}
    assert of.beyond == 2


def test_one_event_of_the_far_future_takes_one_place() -> None:
    of = table()
    count(of, [1, 2, 3, 1e5, 4])
    assert set(firsts(of)) == {(3, 0), (4, 0), (100_000, 0)}


def test_labels_find_rows_and_make_none() -> None:
    of = table()
    count(of, [1, 2], [[0, 7], [0, -1]])
    places = of.place(np.array([1, 2, 5]) * DAY)
    rows = of.rows(places, np.array([[0, 7], [0, 7], [0, 7]]), make=False)
    assert (rows >= 0).tolist() == [[True, True], [True, False], [False, False]]
    assert len(of) == 3


def test_groups_beyond_the_bound_have_no_rows() -> None:
    of = table()
    count(of, [1] * 100, [[0, k + 1] for k in range(100)])
    assert set(firsts(of)) == {(1, k) for k in range(MOST_GROUPS)}
    count(of, [2], [[0, 99]])
    assert set(firsts(of)) == {(1, k) for k in range(MOST_GROUPS)} | {(2, 0)}


@pytest.mark.parametrize("seed", range(5))
def test_any_cut_and_restart_gives_the_same_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    days = (rng.normal(0, 1.5, 300) + np.arange(300) / 20 + 10).tolist()
    groups = rng.integers(-1, 80, (300, 2)).tolist()
    whole = table(most=6)
    count(whole, days, groups)
    parts, stored = table(most=6), {}
    cuts = [0, *sorted(rng.choice(np.arange(1, 300), 20, replace=False).tolist()), 300]
    for begin, end in pairwise(cuts):
        count(parts, days[begin:end], groups[begin:end])
        changed, gone = parts.changed()
        stored.update((cohort, parts.snapshot(cohort)) for cohort in changed)
        for cohort in gone:
            del stored[cohort]
        assert set(stored) == {cohort for cohort, _ in parts.cohorts()}
        if rng.random() < 0.5:
            state, parts = parts.state(), table(most=6)
            parts.restore(state, list(stored.values()))
    assert content(parts) == content(whole)
    assert parts.state() == whole.state()


def test_a_row_that_was_given_up_is_clean_when_it_is_used_again() -> None:
    of = table(most=1)
    count(of, [1, 1, 1])
    count(of, [2])
    assert content(of) == {(2, 0): [1, 0, 0, 0, 0]}
    of.widen(8)
    count(of, [2])
    assert content(of) == {(2, 0): [2, 0, 0, 0, 0, 0, 0, 0]}


def test_fewer_cohorts_than_were_stored_keep_the_latest() -> None:
    of = table()
    count(of, [1, 2, 3])
    rows = [of.snapshot(Cohort(day, 0)) for day in (1, 2, 3)]
    small = table(most=1)
    small.restore(of.state(), rows)
    assert set(firsts(small)) == {(3, 0)}
    assert small.changed() == ([], [Cohort(1, 0), Cohort(2, 0)])


def test_groups_that_are_wanted_no_more_leave_their_room_to_others() -> None:
    of = table()
    count(of, [1, 1, 2], [[0, 5, 7], [0, 5, -1], [0, 7, 9]])
    stored, _ = of.changed()
    again = table()
    again.restore(of.state(), [of.snapshot(cohort) for cohort in stored])
    again.drop_groups(lambda group: group in (0, 9))
    assert firsts(again) == {(1, 0): 2, (2, 0): 1, (2, 9): 1}
    assert again.groups == [0, 9]
    assert again.changed() == ([], [Cohort(1, 5), Cohort(1, 7), Cohort(2, 7)])
    count(again, [2, 1], [[0, 3], [0, 9]])
    assert firsts(again) == {(1, 0): 3, (1, 9): 1, (2, 0): 2, (2, 3): 1, (2, 9): 1}
    third = table()
    third.restore(again.state(), [again.snapshot(cohort) for cohort, _ in again.cohorts()])
    assert content(third) == content(again)


def broken(of: CohortTable) -> dict[str, tuple[bytes, list[bytes]]]:
    row = of.snapshot(Cohort(1, 0))
    other: Any = CohortTable(5, 3600.0, 3)
    wide = table(width=50)
    count(wide, [1])
    wide.counts[:, 40] = 1
    return {
        "another length": (other.state(), [row]),
        "damaged": (of.state(), [row[:-1] + b"x"]),
        "not known": (table().state(), [row]),
        "other columns": (of.state(), [wide.snapshot(Cohort(1, 0))]),
    }


@pytest.mark.parametrize("says", ["another length", "damaged", "not known", "other columns"])
def test_what_cannot_be_read_is_refused(says: str) -> None:
    of = table()
    count(of, [1])
    with pytest.raises(StateError, match=says):
        table().restore(*broken(of)[says])


@pytest.mark.parametrize(("span", "most"), [(0.0, 3), (60.0, 0)])
def test_a_bound_of_nothing_is_refused(span: float, most: int) -> None:
    with pytest.raises(ValueError, match="above 0"):
        CohortTable(1, span, most)
