"""Rows find what is kept for their version, in their order, and the least used version makes room."""

from __future__ import annotations

from itertools import count, pairwise

import numpy as np
import pytest

from tocsin.consumers.versions import FEWEST, MOST, Versions, escaped, parts
from tocsin.core.columns import Strings
from tocsin.core.errors import StateError

Column = list[str | None]
Log = list[tuple[str, int, int]]
"""Of each row: the version it was given to, how many had been made then, and the row."""


class Routed:
    """Routes columns of versions, one after another."""

    def __init__(self) -> None:
        self.log: Log = []
        self.forgotten: list[str] = []
        self.made: list[str] = []
        self.rows = 0
        self.versions = self._versions()

    def _versions(self) -> Versions[tuple[str, int]]:
        return Versions(self._make, lambda key, _: self.forgotten.append(key))

    def _make(self, version: str, width: int) -> tuple[str, int]:
        self.made.append(f"{version}/{width}")
        return version, len(self.made)

    def route(self, column: Column) -> None:
        rows = np.arange(self.rows, self.rows + len(column))
        for (version, number), some in self.versions.route(Strings.of(column), 3):
            self.log += [(version, number, row) for row in rows[some].tolist()]
        self.rows += len(column)

    def restart(self) -> None:
        kept, state = self.versions.kept, self.versions.state()
        self.versions = self._versions()
        assert self.versions.restore(state, kept.__getitem__) == []
        assert self.versions.state() == state


def routed(columns: list[Column], *, restarts: bool = False) -> Routed:
    found = Routed()
    for column in columns:
        found.route(column)
        if restarts:
            found.restart()
    found.log.sort(key=lambda entry: entry[2])
    return found


def cut(column: Column, seed: int, most: int) -> list[Column]:
    places = np.random.default_rng(seed).integers(0, len(column), len(column) // most)
    ends = [0, *np.unique(places).tolist(), len(column)]
    return [column[begin:end] for begin, end in pairwise(ends) if begin < end]


@pytest.mark.parametrize("seed", range(10))
def test_rows_go_where_they_would_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    texts = ["", None, "a", "b/3", "long-version", *(f"v{k}" for k in range(MOST))]
    weights = 0.7 ** np.arange(3 + seed)
    column: Column = []
    for _ in range(4):  # which of them are in use changes
        rng.shuffle(texts)
        of_texts = rng.choice(3 + seed, 1500, p=weights / weights.sum()).tolist()
        column += [texts[k] for k in of_texts]
    whole = routed([column])
    for other in (
        routed(cut(column, seed, 100)), routed(cut(column, seed, 7), restarts=True),
        routed([[text] for text in column]),
    ):  # fmt: skip
        assert other.log == whole.log
        assert other.made == whole.made
        assert other.forgotten == whole.forgotten
        assert other.versions.state() == whole.versions.state()
        assert list(other.versions.kept) == list(whole.versions.kept)
    assert all(version == (column[row] or "") for version, _, row in whole.log)
    if len({text or "" for text in column}) <= MOST:
        assert len(whole.log) == len(column)
    if seed == 9:
        assert len(whole.forgotten) > 3
        assert len(column) * 0.8 < len(whole.log) < len(column)


def test_where_there_is_room_a_version_comes_in_at_once() -> None:
    found = routed([[f"v{k}" for k in range(MOST)]])
    assert [version for version, _, _ in found.log] == [f"v{k}" for k in range(MOST)]
    assert found.forgotten == []


def test_the_least_used_makes_room_for_one_that_has_come_often_enough() -> None:
    first = [f"v{k}" for k in range(MOST) for _ in range(1 if k == 3 else 9)]
    found = routed([first, ["new"] * (FEWEST - 1)])
    assert found.forgotten == []
    found.route(["new"])
    assert found.forgotten == ["v3/3"]
    assert found.log[-1] == ("new", MOST + 1, len(first) + FEWEST - 1)
    found.route(["v3"] * FEWEST)
    assert found.forgotten == ["v3/3", "v0/3"], "of the least used the one that came in first"
    assert found.log[-1] == ("v3", MOST + 2, found.rows - 1), "it comes back as a new one"


def test_versions_in_equal_use_do_not_push_one_another_out() -> None:
    found = routed([[f"v{k}" for k in range(MOST + 2)] * 3000])
    assert found.forgotten == []
    assert len(found.log) == MOST * 3000


@pytest.mark.parametrize("share", [2, 20])
def test_versions_that_are_made_up_push_none_out_that_is_in_use(share: int) -> None:
    """One of two events, or 19 of 20, has a new one; then nine come in turn."""
    of_sender = (f"made-up-{k}" for k in count())
    column = ["real" if k % share == 0 else next(of_sender) for k in range(20_000)]
    nine = (f"nine-{k % 9}" for k in count())
    column += ["real" if k % 2 == 0 else next(nine) for k in range(20_000)]
    found = routed([column])
    assert "real/3" not in found.forgotten
    assert {number for version, number, _ in found.log if version == "real"} == {1}
    assert sum(version == "real" for version, _, _ in found.log) == column.count("real")
    assert len(found.versions.state()["new"]) <= 64


def test_a_version_that_is_rolled_out_comes_in_among_made_up_ones() -> None:
    made_up = (f"made-up-{k}" for k in count())
    column = ["old" if k % 2 else next(made_up) for k in range(5_000)]
    column += ["new" if k % 2 else next(made_up) for k in range(5_000)]
    found = routed([column])
    assert found.made[-1] == "new/3"
    assert sum(version == "new" for version, _, _ in found.log) == 2_500 - (FEWEST - 1)
    assert "old/3" not in found.forgotten


def test_versions_that_are_no_longer_in_use_make_room_for_one_that_is_rarely() -> None:
    column: Column = [f"v{k}" for k in range(MOST) for _ in range(2_000)]
    column += ["v7" if k % 20 else "rare" for k in range(10_000)]
    found = routed([column])
    assert found.forgotten == ["v0/3"]
    assert found.made[-1] == "rare/3"


STATE = routed([[f"v{k}" for k in range(MOST + 3)]]).versions.state()


@pytest.mark.parametrize(
    "damaged",
    [
        None, [], ["v1/3"], {}, STATE | {"kept": ["v1/3"]}, STATE | {"kept": {"v1/3": "3"}}, STATE | {"rows": -1},
        STATE | {"rows": 1e9}, STATE | {"kept": {f"v{k}/3": 1 for k in range(MOST + 1)}},
        STATE | {"new": {f"v{k}/3": 1 for k in range(1000)}}, STATE | {"more": 1},
        {name: part for name, part in STATE.items() if name != "new"},
    ],
    ids=str,
)  # fmt: skip
def test_a_state_that_is_none_is_refused(damaged: object) -> None:
    versions = Versions(lambda version, _: version, lambda *_: None)
    with pytest.raises(StateError, match="the snapshot of versions is not as it was written"):
        versions.restore(damaged, str)
    assert versions.kept == {}
    assert [version for version, _ in versions.route(Strings.of(["a"]), 3)] == ["a"]


def test_a_version_that_cannot_be_read_starts_clean() -> None:
    versions = Versions(lambda version, _: version, lambda *_: None)
    assert versions.restore(STATE, {f"v{k}/3": "old" for k in range(1, MOST)}.__getitem__) == [
        "v0/3: the snapshot of v0/3 is not as it was written: KeyError: 'v0/3'"
    ]
    assert [kept for kept, _ in versions.route(Strings.of(["v0", "v1"]), 3)] == ["v0", "old"]


def test_a_key_names_its_version_and_width_and_is_no_bar_in_a_field() -> None:
    assert parts("a/b/12") == ("a/b", 12)
    assert parts("/3") == ("", 3)
    assert escaped("a|b%7C/3") == "a%7Cb%257C/3"
