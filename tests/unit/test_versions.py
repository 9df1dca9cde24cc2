"""Rows find what is kept for their version, in their order, and the oldest version makes room."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.consumers.versions import MOST, Versions, escaped, parts
from tocsin.core.columns import Strings

Log = list[tuple[str, int, int]]
"""Of each row: the version it was given to, how many were made before that, and the row."""


def routed(columns: list[list[str | None]]) -> tuple[Log, list[str], list[str]]:
    """Route columns one after another; return the rows by version, what is kept and what was forgotten."""
    forgotten: list[str] = []
    made: list[str] = []

    def make(version: str, width: int) -> tuple[str, int]:
        made.append(f"{version}/{width}")
        return version, len(made)

    versions = Versions(make, lambda key, _: forgotten.append(key))
    log: Log = []
    begin = 0
    for column in columns:
        for (version, number), rows in versions.route(Strings.of(column), 3):
            log += [(version, number, begin + row) for row in np.arange(len(column))[rows].tolist()]
        begin += len(column)
    return sorted(log, key=lambda entry: entry[2]), list(versions.kept), forgotten


@pytest.mark.parametrize("seed", range(10))
def test_rows_go_where_they_would_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    texts = ["", None, "a", "b/3", "long-version", *(f"v{k}" for k in range(MOST))]
    column = [texts[k] for k in rng.integers(0, 3 + seed, 400)]
    cuts = np.sort(rng.integers(0, 401, 5)).tolist()
    parted = [part.tolist() for part in np.split(np.array(column, object), cuts) if len(part)]
    single = routed([[text] for text in column])
    assert routed([column]) == routed(parted) == single
    assert [version for version, _, _ in single[0]] == [text or "" for text in column]


def test_the_oldest_makes_room_and_comes_back_as_a_new_one() -> None:
    column = [f"v{k}" for k in range(MOST + 1)]
    log, kept, forgotten = routed([column, ["v1", "v0"]])
    assert kept == [*(f"v{k}/3" for k in range(2, MOST + 1)), "v0/3"]
    assert forgotten == ["v0/3", "v1/3"]
    assert [number for version, number, _ in log if version == "v0"] == [1, MOST + 2]
    assert [number for version, number, _ in log if version == "v1"] == [2, 2]


def test_a_key_names_its_version_and_width_and_is_no_bar_in_a_field() -> None:
    assert parts("a/b/12") == ("a/b", 12)
    assert parts("/3") == ("", 3)
    assert escaped("a|b%7C/3") == "a%7Cb%257C/3"
