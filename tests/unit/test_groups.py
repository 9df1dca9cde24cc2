"""Segments as one number a row, and the groups that follow."""

from __future__ import annotations

from typing import Any

import pytest

from tocsin.consumers.groups import MOST_SEGMENTS, MOST_VALUES, Groups
from tocsin.core.columns import Strings
from tocsin.core.errors import StateError


def codes(groups: Groups, **segments: list[str | None]) -> list[list[str]]:
    """Return the names of each row's groups."""
    columns = {name: Strings.of(texts) for name, texts in segments.items()}
    version = columns.pop("version", Strings.missing(len(next(iter(segments.values())))))
    found = groups.of(groups.codes(columns, version))
    return [[groups.name(group) for group in row if group >= 0] for row in found.tolist()]


def test_all_segments_that_come_make_groups_and_versions_too() -> None:
    groups = Groups()
    assert codes(groups, sex=["F", "M", None], version=["1", None, "1"]) == [
        ["", "sex=F", "version=1"], ["", "sex=M"], ["", "version=1"],
    ]  # fmt: skip
    assert codes(groups, age=["30"], sex=["F"]) == [["", "sex=F", "age=30"]]


def test_named_ones_and_crossings_only() -> None:
    groups = Groups(["sex*race", "sex"])
    assert codes(groups, sex=["F", "M", "F"], race=["1", "1", None], other=["x", "y", "z"]) == [
        ["", "sex=F", "sex=F race=1"], ["", "sex=M", "sex=M race=1"], ["", "sex=F"],
    ]  # fmt: skip


def test_values_and_segments_beyond_the_bound_are_in_no_group() -> None:
    groups = Groups()
    texts = [f"v{i}" for i in range(MOST_VALUES + 5)]
    found = codes(groups, s=texts)
    assert found[MOST_VALUES - 1] == ["", f"s=v{MOST_VALUES - 1}"]
    assert found[MOST_VALUES] == found[-1] == [""]
    assert codes(groups, s=["v0", "new"]) == [["", "s=v0"], [""]]
    many = codes(Groups(), **{f"n{i}": ["x"] for i in range(MOST_SEGMENTS + 3)})
    assert len(many[0]) == 1 + MOST_SEGMENTS


def test_long_values_and_names_make_no_groups() -> None:
    groups = Groups()
    assert codes(groups, s=["x" * 101, "y"], **{"n" * 101: ["a", "b"]}) == [[""], ["", "s=y"]]
    assert groups.unusable == 2


@pytest.mark.parametrize("of", ["all", ["sex", "a"]])
def test_names_that_stand_for_crossings_make_no_groups_and_are_counted(of: Any) -> None:
    groups = Groups(of)
    rows: dict[str, list[str | None]] = {"sex": ["F", "M", "F"], "a*b": ["x", None, "y"]}
    assert codes(groups, **rows) == [["", "sex=F"], ["", "sex=M"], ["", "sex=F"]]
    again = Groups(of)
    again.restore(groups.snapshot())
    codes(again, **{"a*b": ["x"]})
    assert (groups.unusable, again.unusable) == (2, 3)


def test_cuts_and_restarts_change_nothing() -> None:
    rows = {"a": ["x", None, "y", "x"], "b": [None, "1", None, "2"]}
    whole, parts = Groups(), Groups()
    expected = codes(whole, **rows)
    found = []
    for i in range(4):
        found += codes(parts, **{name: texts[i : i + 1] for name, texts in rows.items()})
        state = parts.snapshot()
        parts = Groups()
        parts.restore(state)
    assert found == expected
    assert parts.snapshot() == whole.snapshot()


def test_segments_that_are_wanted_later_come_after_those_that_were() -> None:
    before = Groups(["sex"])
    number = before.codes({"sex": Strings.of(["F"])}, Strings.missing(1))
    after = Groups(["race", "sex"])
    after.restore(before.snapshot())
    assert after.codes({"sex": Strings.of(["F"])}, Strings.missing(1)) == number
    assert codes(after, sex=["F"], race=["2"]) == [["", "race=2", "sex=F"]]


def test_groups_of_segments_that_are_named_no_more_are_not_wanted() -> None:
    before = Groups(["sex", "race", "sex*race", "race*age"])
    one = {"sex": Strings.of(["F"]), "race": Strings.of(["1"]), "age": Strings.of(["30"])}
    made = before.of(before.codes(one, Strings.missing(1)))[0].tolist()
    wanted = {
        "sex": ["", "sex=F"], "sex*race": ["", "sex=F race=1"], "race*sex": ["", "sex=F race=1"],
        "age": [""], "all": ["", "sex=F", "race=1"],
    }  # fmt: skip
    assert [before.is_wanted(group) for group in made] == [True] * 5
    for name, expected in wanted.items():
        after = Groups("all" if name == "all" else [name])
        after.restore(before.snapshot())
        assert [after.name(group) for group in made if after.is_wanted(group)] == expected


def test_a_state_that_cannot_be_is_refused() -> None:
    full = Groups([f"n{i}" for i in range(MOST_SEGMENTS)])
    with pytest.raises(StateError, match="1 others are wanted"):
        Groups(["other"]).restore(full.snapshot())
