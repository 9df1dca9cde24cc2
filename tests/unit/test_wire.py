"""Refused events: which error, which field it names, and that nothing of the payload stands in it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest

from tocsin.consumers.decode import Decoder
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core import cloudevents as ce
from tocsin.core import wire
from tocsin.core.errors import DecodeError, EventError, NonFiniteError, SchemaError, SizeError
from tocsin.core.events import Label, Prediction
from tocsin.core.limits import Limits
from tocsin.core.wire import Kind, decode, encode

SECRET = "Jane-Doe-4111"
LIMITS = Limits()


def json_of(value: Any) -> str:
    """JSON; bytes stand in it as they are, and a field that is ... is left out."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        pairs = [f"{json.dumps(k)}:{json_of(v)}" for k, v in value.items() if v is not ...]
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(json_of, value)) + "]"
    return json.dumps(value)


def prediction(**fields: Any) -> str:
    return json_of({"prediction_id": "p", "client": SECRET, **fields})


def label(**fields: Any) -> str:
    return prediction(**{"type": "label", "client": ..., "label": SECRET, **fields})


def tensor(**fields: Any) -> dict[str, Any]:
    return {"input": {"dtype": "float32", "shape": [2], "data": "AAAAAAAAAAA=", **fields}}


BETWEEN = "must lie between 1971 and 2261"
CLASS = "Expected `bool | int | float | str | null`"
REFUSED: list[tuple[str, type[EventError], str, str]] = [
    # text, error, the field it names, what it says
    (prediction(features={"x": b"NaN"}), NonFiniteError, "$.features.x", "not a finite number"),
    (prediction(features={"x y": b"Infinity"}), NonFiniteError, "$.features['x y']", "not a finite"),
    (prediction(scores={"1": b"-Infinity"}), NonFiniteError, "$.scores['1']", "not a finite number"),
    (prediction(logits=[1, "1e999"]), SchemaError, "$.logits[1]", "Expected `float`, got `str`"),
    (prediction(logits=b"[0,1e999]"), NonFiniteError, "$.logits[1]", "too large for a 64-bit float"),
    (prediction(embedding=b"[1,2,nan]"), NonFiniteError, "$.embedding[2]", "not a finite number"),
    (prediction(prediction=b"9" * 400), NonFiniteError, "$.prediction", "too large for a 64-bit float"),
    (prediction(features={"x": b"9" * 400}), NonFiniteError, "$.features.x", "too large"),
    (prediction(features={"x": b"9" * 9999}), NonFiniteError, "$.features.x", "too large"),
    (label(label=b"9" * 400), NonFiniteError, "$.label", "too large for a 64-bit float"),
    (prediction(features={"x": [SECRET]}), SchemaError, "$.features.x", f"{CLASS}, got `array`"),
    (prediction(features=[SECRET]), SchemaError, "$.features", "Expected `object`, got `array`"),
    (prediction(features=None), SchemaError, "$.features", "Expected `object`, got `null`"),
    (prediction(scores={"a": SECRET}), SchemaError, "$.scores.a", "Expected `float`, got `str`"),
    (prediction(scores={"a": None}), SchemaError, "$.scores.a", "Expected `float`, got `null`"),
    (prediction(segments={"a": 41117}), SchemaError, "$.segments.a", "Expected `str`, got `int`"),
    (prediction(prediction={"a": SECRET}), SchemaError, "$.prediction", f"{CLASS}, got `object`"),
    (prediction(version=41117), SchemaError, "$.version", "Expected `str | null`, got `int`"),
    (prediction(version=SECRET * 99), SchemaError, "$.version", "of length <= 200"),
    (prediction(client=SECRET * 99), SchemaError, "$.client", "of length <= 256"),
    (prediction(model=f"{SECRET} x"), SchemaError, "$.model", "matching regex"),
    (prediction(model=""), SchemaError, "$.model", "of length >= 1"),
    (prediction(environment=SECRET), SchemaError, "$.environment", "Invalid enum value"),
    (prediction(sample_rate=0), SchemaError, "$.sample_rate", "Expected `float` > 0.0"),
    (prediction(sample_rate=1.5), SchemaError, "$.sample_rate", "Expected `float` <= 1.0"),
    (prediction(prediction_id=...), SchemaError, "$", "missing required field `prediction_id`"),
    (prediction(prediction_id=""), SchemaError, "$.prediction_id", "of length >= 1"),
    (prediction(prediction_id=None), SchemaError, "$.prediction_id", "Expected `str`, got `null`"),
    (prediction(type=SECRET), SchemaError, "$.type", "must be prediction or label"),
    (prediction(type=41117), SchemaError, "$.type", "Expected `str`, got `int`"),
    (prediction(featres={"x": SECRET}), SchemaError, "$", "unknown field `featres`; did you mean `features`?"),
    (prediction(time="2026-01-01T00:00:00"), SchemaError, "$.time", "with a timezone component"),
    (prediction(time=SECRET), SchemaError, "$.time", "Invalid RFC3339 encoded datetime"),
    (prediction(time="2026-02-30T00:00:00Z"), SchemaError, "$.time", "Invalid RFC3339"),
    (prediction(time=1767225600), SchemaError, "$.time", "Expected `datetime | null`, got `int`"),
    (prediction(time="1970-12-31T23:59:59Z"), SchemaError, "$.time", BETWEEN),
    (prediction(time="2262-01-01T00:00:00Z"), SchemaError, "$.time", BETWEEN),
    (prediction(**tensor(shape=[3])), SchemaError, "$.input.data", "8 bytes; its dtype and shape ask for 12"),
    (prediction(**tensor(shape=[2**62, 2**62])), SchemaError, "$.input.data", "8 bytes; its dtype"),
    (prediction(**tensor(dtype="int64")), SchemaError, "$.input.data", "ask for 16"),
    (prediction(**tensor(shape=[])), SchemaError, "$.input.data", "ask for 4"),
    (prediction(**tensor(shape=[0])), SchemaError, "$.input.shape[0]", ">= 1"),
    (prediction(**tensor(shape=[-2])), SchemaError, "$.input.shape[0]", ">= 1"),
    (prediction(**tensor(shape=[1] * 9)), SchemaError, "$.input.shape", "of length <= 8"),
    (prediction(**tensor(shape=[2.0])), SchemaError, "$.input.shape[0]", "Expected `int`"),
    (prediction(**tensor(dtype=SECRET)), SchemaError, "$.input.dtype", "Invalid enum value"),
    (prediction(**tensor(data=SECRET)), SchemaError, "$.input.data", "Invalid base64"),
    (prediction(**tensor(order="F")), SchemaError, "$.input", "unknown field `order`"),
    (prediction(logits=[0.5] * 10_001), SizeError, "logits", "10001 entries, more than limits.features = 10000"),
    (prediction(features=dict.fromkeys(map(str, range(10_001)), 41117)), SizeError, "features", "10001"),
    (prediction(client=SECRET * (1 << 17)), SizeError, "event", "more than limits.json_bytes = 1048576"),
    (label(label=None), SchemaError, "$.label", "Expected `bool | int | float | str`, got `null`"),
    (label(label=...), SchemaError, "$", "missing required field `label`"),
    (label(revision=-1), SchemaError, "$.revision", "Expected `int` >= 0"),
    (label(revision=2**31), SchemaError, "$.revision", "<= 2147483647"),
    (label(observed_at="1969-01-01T00:00:00Z"), SchemaError, "$.observed_at", BETWEEN),
    (label(features={}), SchemaError, "$", "unknown field `features`"),
    ("", DecodeError, "value", "empty"),
    (" \n", DecodeError, "value", "empty"),
    ("null", SchemaError, "$", "Expected `object`, got `null`"),
    (f'["{SECRET}"]', SchemaError, "$", "Expected `object`, got `array`"),
    (prediction()[:-1], DecodeError, "JSON", "truncated"),
    (prediction() + SECRET, DecodeError, "$", "malformed"),
    (prediction(features={"x": SECRET.encode()}), DecodeError, "$.features.x", "not a JSON value"),
    (prediction(features={"x": b"01"}), DecodeError, "$.features.x", "not a JSON value"),
    (prediction(features={"x": b'"\\ud800"'}), DecodeError, "JSON", ""),
    (prediction(features={"x": b"[" * 9999}), EventError, "", ""),
    # the field that is wrong stands before something worse
    (prediction(scores={"a": SECRET})[:-1] + ',"scores":7}', SchemaError, "$.scores", "got `str`"),
    (prediction(scores={"a": SECRET})[:-1] + ',"scores":{}}', SchemaError, "$.scores", "got `str`"),
    (prediction(scores={"a": SECRET}).replace("scores", "sc\\u006fres"), SchemaError, "$.scores", "got"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "error", "where", "says"), REFUSED, ids=[str(i) for i in range(len(REFUSED))]
)
def test_a_refusal_names_the_field_and_what_was_expected_and_holds_no_value(
    text: str, error: type[EventError], where: str, says: str
) -> None:
    with pytest.raises(error) as caught:
        decode(text.encode(), Kind.BARE, LIMITS)
    message = str(caught.value)
    assert where in message or where == getattr(caught.value, "path", None)
    assert says in message
    assert SECRET not in message
    assert "4111" not in message
    assert caught.value.__cause__ is None  # a traceback would show the value
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("value", [b"\xff", b"\xed\xa0\x80", b"\xc0\x80"])
def test_text_that_is_not_utf_8_is_a_decode_error(value: bytes) -> None:
    text = prediction(client="?", features={"x": []}).encode().replace(b"?", value)
    with pytest.raises(DecodeError, match="not UTF-8"):
        decode(text, Kind.BARE, LIMITS)


@pytest.mark.parametrize("after", ["}}", "]", ',"scores":7}', ',"client":"\xff"}'])
def test_a_field_is_named_although_what_follows_it_is_no_json(after: str) -> None:
    text = prediction(scores={"a": SECRET})[:-1].encode() + after.encode("latin-1")
    with pytest.raises(EventError, match=r"scores.*got `str`|malformed") as caught:
        decode(text, Kind.PREDICTION, LIMITS)
    assert SECRET not in str(caught.value)


def test_a_headers_type_wins_and_a_text_that_contradicts_it_is_refused() -> None:
    with pytest.raises(SchemaError) as caught:
        decode(label().encode(), Kind.PREDICTION, LIMITS)
    assert caught.value.path == "$.type"
    assert isinstance(decode(label(type=...).encode(), Kind.LABEL, LIMITS), Label)


HEADERS: list[tuple[dict[str, str], Kind | str]] = [
    ({}, Kind.BARE),
    ({"content-type": "application/json"}, Kind.BARE),
    ({"Content-Type": "Application/JSON; charset=utf-8"}, Kind.BARE),
    ({"content-type": "application/x-ndjson"}, Kind.LINES),
    ({"content-type": "application/vnd.apache.arrow.stream"}, Kind.ARROW),
    ({"content-type": "text/csv"}, "content-type must be one of application/json, application/x-ndjson"),
    ({"content-type": "application/cloudevents+json"}, "structured CloudEvents are not read"),
    ({"ce_type": "tocsin.label.v1"}, "ce_specversion must be 1.0"),
    ({"ce_type": "tocsin.label.v1", "ce_specversion": "0.3"}, "ce_specversion must be 1.0"),
    ({"ce_type": "tocsin.label.v2", "ce_specversion": "1.0"}, "ce_type must be one of tocsin.prediction.v1"),
    ({"ce_type": "tocsin.label.v1", "ce_specversion": "1.0"}, Kind.LABEL),
    ({"CE_TYPE": "tocsin.prediction.v1", "Ce_SpecVersion": "1.0"}, Kind.PREDICTION),
    (
        {"ce_type": "tocsin.label.v1", "ce_specversion": "1.0", "content-type": "application/x-ndjson"},
        "content-type of tocsin.label.v1 must be application/json",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "expected"), HEADERS)
def test_headers_say_how_a_value_is_read(headers: dict[str, str], expected: Kind | str) -> None:
    pairs = [(name, value.encode()) for name, value in headers.items()]
    if isinstance(expected, Kind):
        assert wire.kind_of(pairs) == expected
    else:
        with pytest.raises(SchemaError, match=expected):
            wire.kind_of(pairs)


def refusals(value: bytes | None, limits: Limits, *headers: tuple[str, bytes]) -> list[str]:
    record = PlainRecord(0, 1_767_225_600_000_000_000, None, value, headers)
    found = Decoder(limits).decode(Records.of(Partition("t", 0), [record]))
    return [f"{type(refused.error).__name__}: {refused.error}" for refused in found.refused]


PACKED = ("content-type", ce.LINES.encode())


def test_every_limit_is_configurable_and_named_where_it_is_passed() -> None:
    event = prediction(client=..., logits=[1, 2]).encode()
    later = prediction(time="2026-01-01T00:00:11Z").encode()
    for limits, value, headers, says in [
        ({"json_bytes": len(event) - 1}, event, (), "SizeError: the value has 36 bytes, more than limits.json_bytes"),
        ({"json_bytes": len(event) - 1}, event, (PACKED,), "SizeError: the event has 36 bytes, more than limits.json"),
        ({"batch_bytes": len(event)}, event + b"\n", (PACKED,), "SizeError: the value has 37 bytes, more than limits.batch_bytes"),
        ({"batch_rows": 1}, event + b"\n\n" + event, (PACKED,), "SizeError: the record packs 2 events, more than limits.batch_rows"),
        ({"features": 1}, event, (), "SizeError: logits has 2 entries, more than limits.features = 1"),
        ({"future_seconds": 10}, later, (), "SchemaError: the event's time lies more than limits.future_seconds = 10 ahead"),
    ]:  # fmt: skip
        (refused,) = refusals(value, Limits(**limits), *headers)
        assert refused.startswith(says)
        assert (
            refusals(value, Limits(**{name: bound + 1 for name, bound in limits.items()}), *headers)
            == []
        )
    assert refusals(None, LIMITS) == ["DecodeError: the record has no value"]
    for name in ("json_bytes", "batch_bytes", "features", "batch_rows", "models", "future_seconds"):
        with pytest.raises(ValueError, match=f"{name} must be above 0"):
            Limits(**{name: 0})
    with pytest.raises(ValueError, match="batch_rows must be at most 1048576"):
        Limits(batch_rows=(1 << 20) + 1)


def test_what_numpy_and_torch_hand_out_is_written_as_json_and_not_finite_becomes_missing() -> None:
    event = Prediction(
        prediction_id="p",
        features={"x": np.float32(0.5), "y": float("nan"), "z": np.bool_(True)},
        logits=np.array([1.0, 2.0]),
    )
    found = decode(encode(event), Kind.BARE, LIMITS)
    assert found.features == {"x": 0.5, "y": None, "z": True}
    assert found.logits == [1.0, 2.0]
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        encode(Prediction(prediction_id="p", features={"x": object()}))


def test_nanoseconds_are_exact_to_the_microsecond_and_back() -> None:
    for time in [
        datetime(1971, 1, 1, tzinfo=UTC), datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2261, 12, 31, 23, 59, 59, 1, tzinfo=UTC),
    ]:  # fmt: skip
        assert ce.from_nanoseconds(ce.to_nanoseconds(time)) == time
        assert ce.to_nanoseconds(time) % 1000 == 0


def test_the_encoders_text_is_what_its_decoder_reads() -> None:
    event = Label(prediction_id="p", label=1, observed_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert decode(encode(event), Kind.BARE, LIMITS) == event
    assert msgspec.json.decode(encode(event))["type"] == "label"
