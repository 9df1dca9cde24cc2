"""Files as events: what stands in them is what is published, and what cannot be read is named."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tocsin import Label, Prediction
from tocsin.core.errors import ConfigError
from tocsin.core.wire import encode
from tocsin.producers.files import Columns, rows


def read(path: Path, text: str, **columns: Any) -> list[Any]:
    path.write_text(text)
    return list(rows(path, Columns(**columns)))


def test_cells_become_numbers_text_or_nothing(tmp_path: Path) -> None:
    (found,) = read(tmp_path / "a.csv", "i,f,t,e,n,u,x\n7, 1.5e3 ,NL,,NaN,1_000,inf\n")
    assert found.prediction_id == "row-0"
    assert found.features == {
        "i": 7, "f": 1500.0, "t": "NL", "e": None, "n": None, "u": "1_000", "x": float("inf"),
    }  # fmt: skip


def test_columns_hold_what_they_are_said_to(tmp_path: Path) -> None:
    text = "key,truth,said,when,ok,bad,x\n0012,none,NA,2026-01-31T12:00:00+01:00,0.9,0.1,1\n"
    (found,) = read(
        tmp_path / "a.csv", text, id="key", label="truth", prediction="said", time="when",
        scores=["ok", "bad"],
    )  # fmt: skip
    assert found == Prediction(
        prediction_id="0012", label="none", prediction="NA", features={"x": 1},
        scores={"ok": 0.9, "bad": 0.1}, time=datetime(2026, 1, 31, 11, tzinfo=UTC),
    )  # fmt: skip


@pytest.mark.parametrize(
    "said", ["1767225600", "1767225600.0", "1767225600000", "2026-01-01", "2026-01-01 00:00:00"]
)
def test_times_are_iso_or_numbers_since_1970(tmp_path: Path, said: str) -> None:
    (found,) = read(tmp_path / "a.csv", f"t\n{said}\n", time="t")
    assert found.time == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_with_an_id_are_events_as_they_stand(tmp_path: Path, name: str) -> None:
    events = [
        Prediction(
            prediction_id="a", model="m", version="2", features={"x": 1.5}, prediction="ok",
            scores={"ok": 0.5}, logits=[1.0, 2.0], embedding=[0.5], client="c",
            segments={"s": "t"}, environment="shadow",
        ),
        Label(prediction_id="a", label="no", revision=2),
    ]  # fmt: skip
    text = b"\n".join(encode(event) for event in events) + b"\n\n"
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    assert list(rows(tmp_path / name, Columns())) == events


def test_other_json_lines_and_parquet_are_rows_of_features(tmp_path: Path) -> None:
    table = [{"x": 1.5, "t": "a", "deep": [1]}, {"x": None, "t": "b", "deep": [2]}]
    found = read(tmp_path / "a.jsonl", "\n".join(json.dumps(row) for row in table))
    parquet.write_table(pa.Table.from_pylist(table), tmp_path / "a.parquet")
    assert [e.features for e in found] == [
        {"x": 1.5, "t": "a", "deep": "[1]"},
        {"x": None, "t": "b", "deep": "[2]"},
    ]
    assert list(rows(tmp_path / "a.parquet", Columns())) == found


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_a_table_is_the_same_events_in_every_form(tmp_path: Path, name: str) -> None:
    columns = Columns(id="key", label="truth", prediction="said", time="when")
    table = [
        {"key": k, "truth": k % 2, "said": 1, "when": f"2026-01-31T12:0{k}:00+00:00", "x": k / 4, "c": "NL"}
        for k in range(1, 4)
    ]  # fmt: skip
    text = "\n".join(
        ["key,truth,said,when,x,c", *(",".join(map(str, row.values())) for row in table)]
    )
    (tmp_path / "a.csv").write_text(text)
    if name.endswith("parquet"):
        parquet.write_table(pa.Table.from_pylist(table), tmp_path / name)
    else:
        lines = text if ".csv" in name else "\n".join(json.dumps(row) for row in table)
        written = lines.encode()
        (tmp_path / name).write_bytes(gzip.compress(written) if name.endswith("gz") else written)
    found = list(rows(tmp_path / name, columns))
    assert [e.prediction_id for e in found] == ["1", "2", "3"]
    assert found == list(rows(tmp_path / "a.csv", columns))


@pytest.mark.parametrize(
    ("name", "text", "columns", "says"),
    [
        ("a.csv", "x\n1\n", {"label": "y"}, "no column y; it has x"),
        ("a.csv", "x,y\n1,2\n1,2,3\n", {}, "a.csv, row 2: more cells"),
        ("a.csv", "x,y,x\n1,2,3\n", {}, "a.csv: more than one column is called 'x'"),
        ("a.csv", "k,x\na,1\n,2\n", {"id": "k"}, "row 2: column k is empty"),
        ("a.csv", "t\n02/08/2015 03:59\n", {"time": "t"}, "row 1: t is '02/08/2015 03:59'; a time"),
        ("a.csv", "s\nbenign\n", {"scores": ["s"]}, "row 1: s is 'benign', a number"),
        ("a.jsonl", '{"x":1}\n{"x":\n', {}, "a.jsonl, line 2"),
        ("a.jsonl", '{"prediction_id":"a","featuers":{}}\n', {}, "did you mean `features`?"),
        ("a.jsonl", "[1]\n", {}, "a.jsonl, line 1"),
        ("a.parquet", "no parquet", {}, "is not a Parquet file"),
        ("a.txt", "x", {}, "must end in .csv"),
        ("a", "x", {}, "must end in .csv"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, name: str, text: str, columns: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path / name, text, **columns)
    assert says in str(error.value)


def test_a_file_in_another_encoding_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("x,y\n1,Zürich\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        list(rows(tmp_path / "a.csv", Columns()))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_columns_may_be_segments(tmp_path: Path, name: str) -> None:
    table = [{"sex": "F", "age": "007", "x": 1}, {"sex": None, "age": " 30 ", "x": 2}]
    if name == "a.csv":
        (tmp_path / name).write_text("sex,age,x\nF,007,1\nNA, 30 ,2\n")
    elif name == "a.jsonl":
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        parquet.write_table(pa.Table.from_pylist(table), tmp_path / name)
    found = list(rows(tmp_path / name, Columns(segments=["sex", "age"])))
    assert [event.segments for event in found if isinstance(event, Prediction)] == [
        {"sex": "F", "age": "007"}, {"age": "30"},
    ]  # fmt: skip
    assert [event.features for event in found if isinstance(event, Prediction)] == [
        {"x": 1},
        {"x": 2},
    ]
    with pytest.raises(ConfigError, match=f"{name} has no column race"):
        list(rows(tmp_path / name, Columns(segments=["race"])))
