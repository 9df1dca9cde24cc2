"""The documents in docs/ are what the types generate, and the decoder keeps to them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

import tocsin
from tocsin.cli import schema as command
from tocsin.core import alert as alerts
from tocsin.core import wire
from tocsin.core.alert import Alert, Member
from tocsin.core.errors import EventError
from tocsin.core.events import ENVIRONMENTS, TENSOR_ITEMSIZE, Event, Label, Prediction, Tensor
from tocsin.core.lifecycle import State
from tocsin.core.limits import Limits
from tocsin.core.schema import documents
from tocsin.core.verdict import Summary
from tocsin.core.wire import Kind

DOCS = Path(tocsin.__file__).parent / "docs"
SCHEMAS = {
    name: json.loads(documents()[f"schemas/{name}.json"])
    for name in ("prediction", "label", "alert")
}
VALID = {name: jsonschema.Draft202012Validator(schema) for name, schema in SCHEMAS.items()}
NOW = datetime(2026, 1, 1, 12, 30, 0, 250_000, tzinfo=UTC)


def test_the_documents_are_what_the_command_writes(tmp_path: Path, capsys: Any) -> None:
    assert command.run(tmp_path) == 0
    written = {str(p.relative_to(tmp_path)): p for p in tmp_path.rglob("*.json")}
    kept = [*DOCS.glob("schemas/*"), DOCS / "asyncapi.json"]
    assert sorted(written) == sorted(str(path.relative_to(DOCS)) for path in kept)
    for name, path in written.items():
        assert path.read_bytes() == (DOCS / name).read_bytes(), (
            f"run `tocsin schema --write docs`: {name}"
        )
    capsys.readouterr()
    assert command.run(None) == 0
    assert capsys.readouterr().out.rstrip() == (DOCS / "asyncapi.json").read_text().rstrip()


def test_the_documents_are_schemas_and_every_reference_in_asyncapi_leads_somewhere() -> None:
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    document = json.loads(documents()["asyncapi.json"])

    def references(node: Any) -> list[str]:
        if isinstance(node, list):
            return [ref for child in node for ref in references(child)]
        if not isinstance(node, dict):
            return []
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for child in node.values() for ref in references(child)]

    found = references(document)
    assert len(found) > 10
    for reference in found:
        file, _, pointer = reference.partition("#")
        target = json.loads(documents()[file]) if file else document
        for part in filter(None, pointer.split("/")):
            target = target[part]
        assert target


EVENTS: list[Event] = [
    Prediction(prediction_id="p"),
    Prediction(
        prediction_id="é" * 256, model="m" * 200, version="", time=NOW, client="c", prediction=1,
        features={"number": 1.5, "integer": 7, "text": "t", "yes": True, "none": None, "nan": float("nan")},
        scores={"0": 0.25, "1": 0.75}, logits=[1.0, -2.0], embedding=[0.0], segments={"region": "eu"},
        environment="shadow", label=False, sample_rate=0.25,
    ),
    *(Prediction(prediction_id="p", environment=name, prediction="cat") for name in ENVIRONMENTS),
    *(
        Prediction(prediction_id="p", input=Tensor(dtype=dtype, shape=[2, 3], data=bytes(6 * size)))
        for dtype, size in TENSOR_ITEMSIZE.items()
    ),
    Label(prediction_id="p", label="cat"),
    Label(prediction_id="p", label=0.5, model="m", observed_at=NOW, revision=2**31 - 1),
]  # fmt: skip


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_as_encoded_is_valid_and_decodes(event: Event) -> None:
    name = "prediction" if isinstance(event, Prediction) else "label"
    raw = wire.encode(event)
    VALID[name].validate(json.loads(raw))
    found = wire.decode(raw, Kind.BARE, Limits())
    assert wire.encode(found) == raw


def test_an_alert_as_published_is_valid() -> None:
    summary = Summary(count=9, mean=0.5, std=0.1, edges=[0.0, 1.0], counts=[9])
    fields: dict[str, Any] = {
        "id": "m:adwin:score:0:7.1", "incident": "m:adwin:score:0:7.1", "fingerprint": "00ff",
        "model": "m", "subject": "score", "detector": "adwin", "severity": "critical", "summary": "s",
        "kind": "data drift", "detected_at": NOW, "partition": 0, "offset": 7,
    }  # fmt: skip
    member = Member(
        subject="score", detector="adwin", statistic=2.0, threshold=1.0, delay_events=5,
        change="scale up", size_sigmas=0.5, outcome="unsettled",
    )  # fmt: skip
    more = {
        "version": "3", "environment": "shadow", "statistic": 2.0, "threshold": 1.0, "unit": "u",
        "evidence": "e", "started_at": NOW, "resolved_at": NOW, "delay_events": 3, "prediction_id": "p",
        "row": 1, "reference": summary, "current": summary, "samples": ["p"], "members": [member],
        "change": "location up", "size": 1.5, "size_sigmas": 2.5, "chance_events": 2e7,
        "newcomers": ["x"],
        "started_earliest": NOW, "started_latest": NOW, "started_offset": 4, "outcome": "returned",
        "runbook": "r", "silence": "s", "stream_id": "1-0", "previous_id": "0-0",
    }  # fmt: skip
    for state in State:
        for alert in (Alert(state=state, **fields), Alert(state=state, **fields, **more)):
            VALID["alert"].validate(json.loads(alerts.encode(alert)))
    assert {*fields, *more, "state"} == set(Alert.__struct_fields__)


ODD: list[Any] = [
    None, True, 0, 7, -1, 0.5, 2.5, "", "x", "a b", "shadow", "x" * 201, "x" * 257, "x\n", [], [1], ["x"],
    [None], [True], [[1]], {}, {"a": 1}, {"a": "x"}, {"a": None}, {"a": True}, {"a": []}, {"a": {}},
    "2026-01-01T00:00:00Z", "2026-01-01T00:00:00", "prediction", "label", 2**31, 2**70,
    {"dtype": "int8", "shape": [3], "data": "AAAA"}, {"dtype": "int8", "shape": [3]},
    {"dtype": "int9", "shape": [3], "data": "AAAA"}, {"dtype": "int8", "shape": [0], "data": ""},
    {"dtype": "int8", "shape": [1] * 9, "data": "AA=="}, {"dtype": "int8", "shape": [1.5], "data": "AA=="},
    {"dtype": "int8", "shape": [3], "data": "AAAA", "order": "C"}, {"dtype": "int8", "shape": 3, "data": ""},
]  # fmt: skip
BEYOND_SCHEMAS = ("RFC3339", "timezone", "must lie between", "base64", "ask for")


@pytest.mark.parametrize(("name", "of"), [("prediction", Prediction), ("label", Label)])
def test_decoder_and_schema_refuse_the_same_values_of_each_field(name: str, of: type) -> None:
    kind = Kind.PREDICTION if of is Prediction else Kind.LABEL
    whole = {"prediction_id": "p"} if of is Prediction else {"prediction_id": "p", "label": "x"}
    accepted = 0
    for field in [*of.__struct_fields__, "type", "unknown", "Features"]:
        for odd in [*ODD, ...]:
            event = {**whole, field: odd}
            if odd is ...:
                del event[field]
            said = ""
            try:
                wire.decode(json.dumps(event).encode(), kind, Limits())
            except EventError as error:
                said = str(error)
            is_valid = VALID[name].is_valid(event)
            accepted += not said
            if is_valid:
                assert not said or any(word in said for word in BEYOND_SCHEMAS), (event, said)
            else:
                assert said, f"the schema forbids what the decoder takes: {event}"
    assert accepted > 40


def test_the_schemas_forbid_fields_that_the_types_do_not_have() -> None:
    for name, of in (("prediction", Prediction), ("label", Label), ("alert", Alert)):
        fields = {field.encode_name for field in msgspec.structs.fields(of)}
        assert set(SCHEMAS[name]["properties"]) - {"type"} == fields
        assert (SCHEMAS[name].get("additionalProperties") is False) == (name != "alert")
