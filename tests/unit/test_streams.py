"""A table of streams: numbered as they first appear, and no state but its own is loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tocsin.core.errors import StateError
from tocsin.detectors.streams import StreamTable

COLUMNS: dict[str, Any] = {"count": 0, "mean": np.nan, "ring": np.zeros(3), "on": False}


def table(*names: str) -> StreamTable:
    found = StreamTable(COLUMNS)
    found.numbers(names)
    return found


def test_streams_are_numbered_in_the_order_in_which_they_first_appear() -> None:
    of = table("b", "a")
    assert of.numbers(("a", "c", "b", "d")).tolist() == [1, 2, 0, 3]
    assert of.names == ["b", "a", "c", "d"]
    assert np.isnan(of["mean"][:4]).all()


def test_a_state_is_loaded_whole() -> None:
    of, other = table("a", "b"), table()
    of["ring"][1] = 7
    other.load(*of.state())
    assert other.names == ["a", "b"]
    assert other["ring"][:2].tolist() == [[0, 0, 0], [7, 7, 7]]
    assert other.numbers(("c", "a")).tolist() == [2, 0]


@pytest.mark.parametrize("name", COLUMNS)
def test_another_state_is_refused_and_changes_nothing(name: str) -> None:
    names, arrays = table("a", "b").state()
    array = arrays[name]
    of = table("x")
    others: list[np.ndarray] = [array[:1], array[:, None], array.astype(np.float32)]
    for other in others:
        with pytest.raises(StateError, match=f"{name} of streams: expected .* found "):
            of.load(names, arrays | {name: other})
    with pytest.raises(StateError, match=f"an array of streams is missing: expected {name}, found"):
        of.load(names, {key: kept for key, kept in arrays.items() if key != name})
    assert of.names == ["x"]


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], ["a", "a"], ["a", 3]], ids=str)
def test_names_are_texts_and_as_many_as_rows(names: list[Any]) -> None:
    with pytest.raises(StateError, match="streams: expected"):
        table().load(names, table("a", "b").state()[1])
