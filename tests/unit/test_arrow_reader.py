"""Arrow batches: the rows that single events give, and for what is not one the field and the reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.consumers import arrow_reader
from tocsin.consumers.arrow_reader import ArrowRows, read
from tocsin.core import wire
from tocsin.core.batch import EventBatch, Origin
from tocsin.core.errors import DecodeError, EventError, NonFiniteError, SchemaError, SizeError
from tocsin.core.events import ENVIRONMENTS, Prediction
from tocsin.core.limits import Limits
from tocsin.core.wire import Kind

LIMITS = Limits()
BASE = 1_767_225_600_000_000_000  # 2026-01-01
OFFSET = 7
NAN, INF = float("nan"), float("inf")


def stream(table: Any, rows: int = 3, **options: Any) -> bytes:
    """An Arrow stream whose record batches have some rows each."""
    table = table if isinstance(table, pa.Table) else pa.table(table)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return bytes(sink.getvalue())


def read_table(table: Any, limits: Limits = LIMITS, **options: Any) -> ArrowRows:
    return read(stream(table, **options), OFFSET, BASE, BASE, limits)


def ids(count: int = 2, **columns: Any) -> dict[str, Any]:
    return {"prediction_id": [f"p{i}" for i in range(count)], **columns}


def rows(batches: Sequence[EventBatch]) -> dict[tuple[str, int], Any]:
    """Each row by its model and place, without what is missing."""
    found = {}
    for batch in batches:
        for i in range(len(batch)):
            numbers = dict(zip(batch.feature_names, batch.features[i].tolist(), strict=True))
            scores = dict(zip(batch.score_names, batch.scores[i].tolist(), strict=True))
            texts = {name: column[i] for name, column in batch.texts.items()}
            segments = {name: column[i] for name, column in batch.segments.items()}
            found[batch.model, int(batch.rows[i])] = (
                int(batch.offsets[i]), int(batch.times[i]), batch.prediction_id[i], batch.version[i],
                batch.client[i], ENVIRONMENTS[batch.environment[i]], batch.sample_rate[i],
                batch.prediction.to_list()[i], batch.label.to_list()[i],
                {k: v for k, v in {**numbers, **scores, **segments, **texts}.items() if v == v is not None},
                None if batch.logits is None else batch.logits[i].tolist(),
                None if batch.embedding is None else batch.embedding[i].tolist(),
            )  # fmt: skip
    return found


def singly(events: Sequence[Prediction]) -> dict[tuple[str, int], Any]:
    """The same rows from events decoded one by one."""
    found = {}
    for row, event in enumerate(events):
        sent = wire.decode(wire.encode(event), Kind.PREDICTION, LIMITS)
        found |= rows(list(EventBatch.of(event.model, [(Origin(OFFSET, row, BASE), sent)])))
    return found


TEXT = st.text(st.characters(codec="utf-8"), max_size=4)
FLOAT = st.floats(allow_nan=False, allow_infinity=False, width=32)
EVENT = st.builds(
    Prediction,
    prediction_id=TEXT.filter(bool), model=st.sampled_from(["a", "b", "default"]),
    version=st.none() | TEXT, client=st.none() | TEXT, environment=st.sampled_from(ENVIRONMENTS),
    time=st.none() | st.integers(0, 10**9).map(lambda us: datetime(2025, 5, 5, tzinfo=UTC) + timedelta(0, 0, us)),
    features=st.fixed_dictionaries(
        {"f": st.none() | FLOAT, "i": st.integers(-(2**31), 2**31), "t": st.none() | TEXT, "b": st.booleans()}
    ),
    scores=st.fixed_dictionaries({"0": FLOAT, "é": FLOAT}),
    segments=st.fixed_dictionaries({"s": TEXT}), prediction=st.none() | TEXT, label=st.none() | FLOAT,
    logits=st.none() | st.lists(FLOAT, min_size=1, max_size=3), embedding=st.lists(FLOAT, min_size=2, max_size=2),
    sample_rate=st.sampled_from([1.0, 0.25]),
)  # fmt: skip

ENCODINGS = {
    "plain": lambda array: array,
    "dictionary": lambda array: array.dictionary_encode(),
    "large": lambda array: array.cast(pa.large_string()),
}


@settings(derandomize=True, deadline=None, database=None, max_examples=120)
@given(st.lists(EVENT, min_size=1, max_size=9), st.sampled_from(list(ENCODINGS)), st.booleans())
def test_a_batch_gives_the_rows_of_its_events_sent_singly(
    events, encoding: str, sliced: bool
) -> None:
    def text(values: list[str | None]) -> Any:
        return ENCODINGS[encoding](pa.array(values, pa.string()))

    def columns(of: str, names: str, kind: Any) -> Any:
        parts = [[getattr(event, of)[name] for event in events] for name in names]
        arrays = [
            text(p) if kind(n) == "t" else pa.array(p, kind(n))
            for n, p in zip(names, parts, strict=True)
        ]
        return pa.StructArray.from_arrays(arrays, list(names))

    feature = {
        "f": pa.float32(),
        "i": pa.int64(),
        "t": "t",
        "b": pa.bool_(),
    }
    whole = {
        **{
            name: text([getattr(event, name) for event in events])
            for name in ("prediction_id", "model", "version", "client", "environment", "prediction")
        },
        "time": pa.array([event.time for event in events], pa.timestamp("us", "Europe/Berlin")),
        "features": columns("features", "fitb", feature.get),
        "scores": columns("scores", "0é", lambda _: pa.float64()),
        "segments": columns("segments", "s", lambda _: "t"),
        "label": pa.array([event.label for event in events], pa.float32()),
        "logits": pa.array([event.logits for event in events], pa.list_(pa.float32())),
        "embedding": pa.array([event.embedding for event in events], pa.list_(pa.float64(), 2)),
        "sample_rate": pa.array([event.sample_rate for event in events]),
    }
    found = read_table(pa.table(whole))
    assert not found.refused
    assert rows(found.batches) == singly(events)
    for batch in found.batches:  # in the order of the log, all of one width
        assert (np.diff(batch.rows) > 0).all()


def test_absent_and_null_columns_are_absent_fields() -> None:
    bare = {
        ("default", i): row
        for (_, i), row in singly([Prediction(prediction_id=f"p{i}") for i in (0, 1)]).items()
    }
    nulls = pa.nulls(2)
    names = [
        name
        for name in arrow_reader.COLUMNS
        if name not in ("prediction_id", "features", "scores", "segments")
    ]
    empty = pa.StructArray.from_arrays([nulls, pa.array([None, None], pa.string())], ["x", "y"])
    assert rows(read_table(ids()).batches) == bare
    assert rows(read_table(ids(**dict.fromkeys(names, nulls))).batches) == bare
    assert rows(read_table(ids(features=empty, segments=empty, scores=nulls)).batches) == bare
    assert read_table({"prediction_id": pa.array([], pa.string())}) == ArrowRows([], [])


def test_what_lies_under_a_null_is_not_read() -> None:
    mask = pa.array([False, True])
    logits = pa.ListArray.from_arrays(pa.array([0, 1, 3]), pa.array([1.0, NAN, 2.0]), mask=mask)
    features = pa.StructArray.from_arrays(
        [pa.array([1.0, NAN]), pa.array(["a", "b"])], ["x", "y"], mask=mask
    )
    found = read_table(ids(logits=logits, features=features))
    assert not found.refused
    assert [row[-3:-1] for row in rows(found.batches).values()] == [
        ({"x": 1.0, "y": "a"}, [1.0]),
        ({}, None),
    ]


def test_rows_of_many_models_and_widths_keep_their_places() -> None:
    count = 3000
    models = [f"m{i % 700}" for i in range(count)]
    logits = [[float(i)] * (1 + i % 3) for i in range(count)]
    found = read_table(ids(count, model=models, logits=logits))
    assert {key: row[-2] for key, row in rows(found.batches).items()} == {
        (models[i], i): logits[i] for i in range(count)
    }


S = SchemaError
WHOLE: list[tuple[str, dict[str, Any] | Any, type[EventError], str]] = [
    ("unknown column", ids(featurs=[1, 2]), S, "unknown column 'featurs'; did you mean features?"),
    ("no id", {"model": ["a"]}, S, "no column prediction_id"),
    ("two of a name", pa.Table.from_arrays([pa.array(["a"])] * 2, ["prediction_id"] * 2), S, "two columns of one name"),
    ("id is a number", {"prediction_id": [1]}, S, "$.prediction_id must be text, got Arrow type int64"),
    ("model is bytes", ids(model=[b"a", b"b"]), S, "$.model must be text, got Arrow type binary"),
    ("client is a struct", ids(client=[{"a": "b"}] * 2), S, "$.client must be text"),
    ("time is a number", ids(time=[1, 2]), S, "$.time must be a timestamp with a time zone, got Arrow type int64"),
    ("time without zone", ids(time=pa.array([1, 2], pa.timestamp("s"))), S, "$.time must be a timestamp with a time zone"),
    ("time is a date", ids(time=pa.array([1, 2], pa.date32())), S, "$.time must be a timestamp"),
    ("time of year 9999", ids(time=pa.array([2**62, 0], pa.timestamp("s", "UTC"))), S, "$.time must lie between"),
    ("features are numbers", ids(features=[1, 2]), S, "$.features must be a struct, got Arrow type int64"),
    ("features are a map", ids(features=pa.array([[("a", 1)]] * 2, pa.map_(pa.string(), pa.int64()))), S, "$.features must be a struct"),
    ("feature is nested", ids(features=[{"a b": {"c": 1}}] * 2), S, "$.features['a b'] must be a number"),
    ("feature is a list", ids(features=[{"a": [1]}] * 2), S, "$.features.a must be a number"),
    ("feature is a decimal", ids(features=pa.StructArray.from_arrays([pa.array([1, 2]).cast(pa.decimal128(20))], ["a"])), S, "$.features.a must be a number"),
    ("feature twice", ids(features=pa.StructArray.from_arrays([pa.array([1, 2])] * 2, ["a", "a"])), S, "$.features has two fields of one name"),
    ("score is text", ids(scores=[{"a": "x"}] * 2), S, "$.scores.a must be a number"),
    ("segment is a number", ids(segments=[{"a": 1}] * 2), S, "$.segments.a must be text"),
    ("logits are text", ids(logits=[["a"]] * 2), S, "$.logits must be a list of numbers"),
    ("logits are nested", ids(logits=[[[1.0]]] * 2), S, "$.logits must be a list of numbers"),
    ("embedding is a number", ids(embedding=[1.0, 2.0]), S, "$.embedding must be a list of numbers, got Arrow type double"),
    ("prediction is a list", ids(prediction=[[1], [2]]), S, "$.prediction must be a number"),
    ("label is a struct", ids(label=[{"a": 1}] * 2), S, "$.label must be a number"),
    ("rate is text", ids(sample_rate=["a", "b"]), S, "$.sample_rate must be a number"),
    ("raw input", ids(input=[b"a", b"b"]), S, "unknown column 'input'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "error", "says"), [row[1:] for row in WHOLE], ids=[row[0] for row in WHOLE]
)
def test_a_batch_with_an_ill_typed_column_is_refused_and_the_column_named(
    table: Any, error: type[EventError], says: str
) -> None:
    with pytest.raises(error) as caught:
        read_table(table)
    assert says in str(caught.value)


ROW: list[tuple[str, dict[str, Any], type[EventError], str]] = [
    ("no id", {"prediction_id": ["p0", None, "p2"]}, S, "$.prediction_id is missing"),
    ("empty id", {"prediction_id": ["p0", "", "p2"]}, S, "$.prediction_id must have 1 to 256 characters"),
    ("long id", {"prediction_id": ["é" * 256, "é" * 257, "p2"]}, S, "$.prediction_id must have 1 to 256"),
    ("blank model", ids(3, model=["a", "a\u2003b", "a"]), S, "$.model must not hold blanks or controls"),
    ("long model", ids(3, model=["a", "a" * 201, "a"]), S, "$.model must have 1 to 200 characters"),
    ("empty model", ids(3, model=["a", "", "a"]), S, "$.model must have 1 to 200 characters"),
    ("long version", ids(3, version=["a", "a" * 201, None]), S, "$.version must have 0 to 200 characters"),
    ("environment", ids(3, environment=["shadow", "Shadow", None]), S, "$.environment must be one of production, shadow"),
    ("time 1970", ids(3, time=pa.array([10**9, 0, None], pa.timestamp("s", "UTC"))), S, "$.time must lie between"),
    ("feature NaN", ids(3, features=[{"x": 1.0}, {"x": NAN}, {"x": None}]), NonFiniteError, "$.features.x is not a finite"),
    ("score inf", ids(3, scores=[{"0": 1.0}, {"0": INF}, {"0": 0.0}]), NonFiniteError, "$.scores['0'] is not a finite"),
    ("logits inf", ids(3, logits=[[1.0], [0.0, -INF], None]), NonFiniteError, "$.logits holds a number that is not finite"),
    ("logits null", ids(3, logits=[[1.0], [None], [2.0]]), NonFiniteError, "$.logits holds a number"),
    ("embedding NaN", ids(3, embedding=pa.array([[1.0], [NAN], [2.0]], pa.list_(pa.float32(), 1))), NonFiniteError, "$.embedding"),
    ("prediction NaN", ids(3, prediction=[1.0, NAN, None]), NonFiniteError, "$.prediction is not a finite number"),
    ("rate 0", ids(3, sample_rate=[1.0, 0.0, 0.5]), S, "$.sample_rate must be above 0 and at most 1"),
    ("rate 2", ids(3, sample_rate=[1.0, 2.0, None]), S, "$.sample_rate must be above 0 and at most 1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "error", "says"), [row[1:] for row in ROW], ids=[row[0] for row in ROW]
)
def test_a_bad_row_is_refused_alone_as_a_stream_that_can_be_sent_again(
    table: dict[str, Any], error: type[EventError], says: str
) -> None:
    found = read_table(table)
    assert [row for _, row in rows(found.batches)] == [0, 2]
    ((row, raw, why),) = found.refused
    assert (row, type(why)) == (1, error)
    assert says in str(why)
    again = read(raw, OFFSET, BASE, BASE, LIMITS)
    assert (again.batches, [(r, str(e)) for r, _, e in again.refused]) == ([], [(0, str(why))])


def test_times_far_ahead_of_the_records_own_are_refused() -> None:
    ahead = pa.array([BASE + 10**10, BASE + 2 * 10**10], pa.timestamp("ns", "UTC"))
    found = read_table(ids(time=ahead), replace(LIMITS, future_seconds=15))
    assert [row for row, _, _ in found.refused] == [1]
    assert "limits.future_seconds = 15" in str(found.refused[0][2])
    # Under a record without a time any time could expire all that waits for labels.
    timeless = read(stream(ids(time=ahead)), OFFSET, -1_000_000, -1_000_000, LIMITS)
    assert [row for row, _, _ in timeless.refused] == [0, 1]
    assert not read(stream(ids()), OFFSET, -1_000_000, -1_000_000, LIMITS).refused


def bombs() -> dict[str, bytes]:
    count = 20_000
    text = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(count, np.int8)), pa.array(["x" * 10_000])
    )
    nothing = pa.StructArray.from_arrays([pa.nulls(count)] * 1000, [f"f{i}" for i in range(1000)])
    columns = {
        "a dictionary of one long text": {"client": text},
        "a feature of one long text": {"features": pa.StructArray.from_arrays([text], ["x"])},
        "a thousand columns of nothing": {"features": nothing},
    }
    return {name: stream(ids(count, **column), rows=count) for name, column in columns.items()}


BOMBS = bombs()


@pytest.mark.parametrize("name", BOMBS)
def test_a_batch_that_unpacks_to_more_than_its_bytes_let_expect_is_refused(name: str) -> None:
    raw = BOMBS[name]
    limits = replace(LIMITS, batch_bytes=len(raw))
    with pytest.raises(SizeError, match=r"unpacks to more than 8 times limits.batch_bytes"):
        read(raw, OFFSET, BASE, BASE, limits)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_stream_compressed_inside_is_refused(codec: str) -> None:
    with pytest.raises(SchemaError, match="compressed inside; send it plain"):
        read_table(ids(client=["x" * 999] * 2), compression=codec)


def test_limits_bound_rows_entries_and_what_is_kept_of_refused_rows() -> None:
    with pytest.raises(SizeError, match=r"4 rows, more than limits.batch_rows = 3"):
        read_table(ids(4), replace(LIMITS, batch_rows=3))
    few = replace(LIMITS, features=1)
    for name, value in [
        ("features", {"a": 1, "b": 2}),
        ("logits", [1, 2]),
        ("embedding", [1.0, 2.0]),
    ]:
        with pytest.raises(
            SizeError, match=f"{name} has .*more.* limits.features = 1|{name} has 2 entries"
        ):
            read_table(ids(**{name: [value] * 2}), few)
    bad = read_table(ids(50, sample_rate=[0.0] * 50), replace(LIMITS, batch_bytes=2000))
    assert [row for row, _, _ in bad.refused] == list(range(50))
    kept = [raw for _, raw, _ in bad.refused if raw is not None]
    assert 2000 <= sum(map(len, kept)) < 2000 + len(kept[0])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage",
        stream(ids())[:-60],
        b"\xff\xff\xff\xff\xff\xff\xff\x7f",
        json.dumps({}).encode(),
    ],
)
def test_what_is_no_arrow_stream_is_a_decode_error(raw: bytes) -> None:
    with pytest.raises(DecodeError, match="not a sound Arrow IPC stream"):
        read(raw, OFFSET, BASE, BASE, LIMITS)


DAMAGED = stream(
    pa.table(
        {
            "prediction_id": pa.array(["p", "q"]), "model": pa.array(["a", "b"]).dictionary_encode(),
            "features": pa.array([{"x": 1.5, "y": "t"}, {"x": None, "y": "u"}]),
            "logits": pa.array([[1.0], [1.0, 2.0]]), "time": pa.array([0, 1], pa.timestamp("ms", "UTC")),
        }
    )
)  # fmt: skip


@settings(derandomize=True, deadline=None, database=None, max_examples=800)
@given(st.data())
def test_a_damaged_stream_is_rows_and_refusals_and_raises_nothing_else(data) -> None:
    raw = bytearray(DAMAGED)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255))
    raw = raw[: data.draw(st.just(len(raw)) | st.integers(0, len(raw)))]
    try:
        found = read(bytes(raw), OFFSET, BASE, BASE, replace(LIMITS, batch_rows=1000))
    except EventError:
        return
    places = [row for _, row in rows(found.batches)] + [row for row, _, _ in found.refused]
    assert sorted(places) == list(range(len(places)))
