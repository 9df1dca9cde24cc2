"""The rows of a file as blocks: which cells are numbers, what is watched, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tocsin.cli.blocks import Blocks
from tocsin.consumers.class_numbers import ClassNumbers
from tocsin.core.columns import Strings
from tocsin.core.errors import ConfigError
from tocsin.producers.files import Columns


def blocks(file: Path, text: str, size: int = 65_536, **columns: Any) -> tuple[Blocks, np.ndarray]:
    file.write_text(text)
    found = Blocks(file, Columns(**columns), block_rows=size)
    return found, np.concatenate([block.values for block in found])


def test_cells_become_numbers_or_are_missing(tmp_path: Path) -> None:
    text = "a,b,c\n1,true,x\n,2,\nNaN,1e400,y\ninf,oops,z\ninf,4,\n-2.5,3,1\n"
    found, values = blocks(tmp_path / "a.csv", text)
    assert found.streams == ("feature:a", "feature:b", "category:c")
    assert (found.left_out, found.odd) == ({}, {"b": 2, "c": 1})
    nan, inf = np.nan, np.inf
    expected = [[1, nan], [nan, 2], [nan, inf], [inf, nan], [inf, 4], [-2.5, 3]]
    np.testing.assert_array_equal(values[:, :2], expected)
    assert np.isnan(values[:, 2]).tolist() == [False, True, False, False, True, True]


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_rows_are_the_same_however_they_are_cut(tmp_path: Path, size: int) -> None:
    text = "a,b\n" + "".join(f"{k * k},{k % 3}\n" for k in range(20))
    _, values = blocks(tmp_path / "a.csv", text, size)
    np.testing.assert_array_equal(values, [[k * k, k % 3] for k in range(20)])
    offsets = [block.offsets for block in Blocks(tmp_path / "a.csv", Columns(), block_rows=size)]
    np.testing.assert_array_equal(np.concatenate(offsets), np.arange(20))
    assert max(map(len, offsets)) <= size


def test_numbers_that_later_are_text_count_as_missing(tmp_path: Path) -> None:
    found, values = blocks(tmp_path / "a.csv", "a\n1\n2\nx\ny\n3\n", 2)
    np.testing.assert_array_equal(values[:, 0], [1, 2, np.nan, np.nan, 3])
    assert found.odd == {"a": 2}


@pytest.mark.parametrize("size", [1, 2, 100])
def test_columns_of_text_are_categories_as_a_worker_numbers_them(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.csv").write_text("x,c\n1,NL\n2,BE\n3,\n4,NL\n5,7\n6,FR\n")
    read = Blocks(tmp_path / "a.csv", Columns(), block_rows=size)
    found = list(read)
    codes = np.concatenate([block.values for block in found])[:, 1]
    assert {block.names for block in found} == {("feature:x", "category:c")}
    assert {block.categories for block in found} == {frozenset(["category:c"])}
    expected = ClassNumbers().of_text(Strings.of(["NL", "BE", None, "NL", None, "FR"]))
    np.testing.assert_array_equal(codes, expected)
    assert read.odd == {"c": 1}  # the number
    names = read.names.of("backtest", "category:c")
    assert [names[code] for code in codes[[0, 1, 5]]] == ["NL", "BE", "FR"]


def test_columns_that_tell_the_time_or_parts_of_the_file_are_left_out(tmp_path: Path) -> None:
    """As categories their new values would be alarms, after which all other streams begin anew."""
    lines = "".join(f"2026-01-{1 + k // 100:02},part {k // 20},{k % 3}\n" for k in range(1500))
    (tmp_path / "a.csv").write_text(f"day,part,x\n{lines}")
    found = Blocks(tmp_path / "a.csv", Columns())
    assert [block.names for block in found] == [("feature:x",)]
    assert found.left_out == {"day": "tells the time of the rows", "part": "names the rows"}
    halves = "".join(f"{'old' if k < 500 else 'new'},1\n" for k in range(1000))
    (tmp_path / "b.csv").write_text(f"c,x\n{halves}")
    (block,) = Blocks(tmp_path / "b.csv", Columns())
    assert block.names == ("feature:x", "category:c")


def test_columns_that_only_name_the_rows_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    lines = "".join(f"row {k},{k % 7}\n" for k in range(150))
    (tmp_path / "a.csv").write_text(f"id,x\n{lines}")
    every = Blocks(tmp_path / "a.csv", Columns())
    assert [block.names for block in every] == [("feature:x",)]
    assert every.left_out == {"id": "names the rows"}
    (block,) = Blocks(tmp_path / "a.csv", Columns(), ["id"])
    assert block.names == ("category:id",)


def test_a_wrong_class_is_an_error_whatever_its_type(tmp_path: Path) -> None:
    rows = [("1", 1), (1, 1.0), (True, "1"), ("a", "b"), (2, "1"), (None, 1), ("a", None)]
    text = "".join(json.dumps({"y": y, "p": p, "x": 0}) + "\n" for y, p in rows)
    found, values = blocks(tmp_path / "a.jsonl", text, label="y", prediction="p")
    assert found.streams == ("feature:x", "error")
    np.testing.assert_array_equal(values[:, 1], [0, 0, 0, 1, 1, np.nan, np.nan])


def test_a_regression_has_absolute_errors(tmp_path: Path) -> None:
    text = "y,p\n1.5,1.0\n2,3.25\nx,1.5\n,2.5\n"
    _, values = blocks(tmp_path / "a.csv", text, label="y", prediction="p")
    np.testing.assert_array_equal(values[:, 0], [0.5, 1.25, np.nan, np.nan])


def test_an_error_is_there_whatever_was_answered(tmp_path: Path) -> None:
    text = "y,p\n1.5,inf\n-inf,-inf\n" + "9" * 400 + ",1.5\n2.5,2\n"
    _, values = blocks(tmp_path / "a.csv", text, label="y", prediction="p")
    np.testing.assert_array_equal(values[:, 0], [np.inf, np.nan, np.inf, 0.5])
    _, values = blocks(
        tmp_path / "a.csv", "y,p\n" + f"{'9' * 400},1\n" * 2, label="y", prediction="p"
    )
    np.testing.assert_array_equal(values[:, 0], [1, 1])


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("name", ["label", "prediction"])
def test_classes_that_are_known_alone_are_watched_themselves(
    tmp_path: Path, name: str, size: int
) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,b\n2,a\n3,\n4,b\n5,c\n")
    found = list(Blocks(tmp_path / "a.csv", Columns(**{name: "y"}), block_rows=size))
    values = np.concatenate([block.values for block in found])
    np.testing.assert_array_equal(values[:, 1], [0, 1, np.nan, 0, 2])
    assert {block.names for block in found} == {("feature:x", name)}
    assert {block.categories for block in found} == {frozenset([name])}


def test_a_regression_s_label_is_watched_as_a_number(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("y\n1.5\n2\nx\n")
    (block,) = Blocks(tmp_path / "a.csv", Columns(label="y"))
    np.testing.assert_array_equal(block.values[:, 0], [1.5, 2, np.nan])
    assert (block.names, block.categories) == (("label",), frozenset())


@pytest.mark.parametrize("size", [1, 2, 100])
def test_times_that_go_back_are_refused_at_any_cut(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.csv").write_text("t,x\n5,1\n7,2\n7,3\n9,4\n")
    found = list(Blocks(tmp_path / "a.csv", Columns(time="t"), block_rows=size))
    times = np.concatenate([block.times for block in found if block.times is not None])
    np.testing.assert_array_equal(times, np.array([5, 7, 7, 9]) * 10**9)
    (tmp_path / "a.csv").write_text("t,x\n5,1\n7,2\n6,3\n9,4\n")
    with pytest.raises(ConfigError, match=r"row 2 t goes back, to 1970-01-01 00:00:06; .*sort the"):
        list(Blocks(tmp_path / "a.csv", Columns(time="t"), block_rows=size))


def test_events_are_read_as_they_stand(tmp_path: Path) -> None:
    events = [
        {"prediction_id": "a", "features": {"x": 1}, "prediction": "u", "label": "v"},
        {"type": "label", "prediction_id": "a", "label": "u"},
        {"prediction_id": "b", "features": {"x": 2}, "prediction": "u", "label": "u"},
    ]
    found, values = blocks(tmp_path / "a.jsonl", "".join(json.dumps(e) + "\n" for e in events))
    assert found.streams == ("feature:x", "error")
    np.testing.assert_array_equal(values, [[1, 1], [2, 0]])


def test_only_the_columns_asked_for_are_watched_in_that_order(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,c\n" + "".join(f"{k},2,3\n" for k in range(200)))
    found = Blocks(tmp_path / "a.csv", Columns(), ["c", "a", "c"])
    (block,) = found
    assert block.names == ("feature:c", "feature:a")
    every = Blocks(tmp_path / "a.csv", Columns())
    (block,) = every
    assert block.names == ("feature:b", "feature:c")
    assert every.left_out == {"a": "counts the rows"}


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"--column z: a\.csv has no such feature; it has a, b"):
        list(Blocks(tmp_path / "a.csv", Columns(), ["z"]))


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize(
    ("cell", "expected"), [("2", False), ("", True), ("x", True), ("inf", True)]
)
def test_a_row_without_a_usable_value_is_a_gap(
    tmp_path: Path, cell: str, expected: bool, size: int
) -> None:
    found, _ = blocks(tmp_path / "a.csv", f"a,b\n1,1\n{cell},1\n5,2\n3,3\n", size)
    assert found.has_gaps == expected
