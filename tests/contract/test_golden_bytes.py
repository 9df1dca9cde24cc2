"""The bytes of every form on the wire: what was written once still decodes, and is written the same today.

Run this file as a script to write `golden/` anew. A changed file means a changed wire: give the new form
a name of its own (`v2`) and keep the old files, which then only have to decode.
"""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tocsin.consumers.dead_letters import KafkaDeadLetters
from tocsin.consumers.decode import Decoder
from tocsin.consumers.pipeline import DeadLetter
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.consumers.settings import KafkaSettings
from tocsin.core import alert as alerts
from tocsin.core import cloudevents as ce
from tocsin.core import wire
from tocsin.core.alert import Alert, Member
from tocsin.core.batch import EventBatch, Origin
from tocsin.core.errors import NonFiniteError
from tocsin.core.events import Event, Label, Prediction, Tensor
from tocsin.core.lifecycle import State
from tocsin.core.limits import Limits
from tocsin.core.verdict import Summary
from tocsin.core.wire import Kind
from tocsin.producers.delivery import _packed
from tocsin.producers.packing import pack_table

GOLDEN = Path(__file__).parent / "golden"
NOON = datetime(2026, 1, 2, 12, 0, 0, 250_000, tzinfo=UTC)

PREDICTION = Prediction(
    prediction_id="req-1", model="fraud", version="2026-01", time=NOON, client="key-7", prediction="yes",
    features={"amount": 12.5, "items": 3, "country": "CÔTE", "new": True, "age": None},
    scores={"no": 0.125, "yes": 0.875}, logits=[-1.0, 1e-7], embedding=[0.1, 2.0],
    segments={"region": "eu"}, environment="shadow", label="no", sample_rate=0.5,
)  # fmt: skip
PIXELS = Prediction(
    prediction_id="req-2",
    prediction=7,
    input=Tensor(dtype="uint8", shape=[1, 3], data=b"\0\x80\xff"),
)
LABEL = Label(
    prediction_id="req-1", label="no", model="fraud", revision=1,
    observed_at=datetime(2026, 1, 9, 8, 0, tzinfo=timezone(timedelta(hours=2))),
)  # fmt: skip
SMALL_LABEL = Label(prediction_id="req-2", label=0.5)
ALERT = Alert(
    id="fraud:adwin:feature:amount:3:41.2", incident="fraud:adwin:feature:amount:3:41.2",
    fingerprint=alerts.fingerprint("fraud", "production", "data drift", "feature:amount"),
    state=State.FIRING, severity="critical", kind="data drift", model="fraud", version="2026-01",
    subject="feature:amount", detector="adwin", statistic=4.5, threshold=1.25, unit="amount",
    evidence="1 in 10^9", started_at=NOON - timedelta(seconds=9), detected_at=NOON, delay_events=31,
    prediction_id="req-1", partition=3, offset=41, row=2, samples=["req-1"], summary="amount rose",
    reference=Summary(count=100, mean=1.5, std=0.5, edges=[0.0, 2.0, 4.0], counts=[90, 10]),
    current=Summary(count=31, mean=3.0, std=0.5, edges=[0.0, 2.0, 4.0], counts=[1, 30]),
    members=[Member(subject="feature:amount", detector="adwin", statistic=4.5, threshold=1.25)],
    runbook="docs/runbook.md#data-drift", silence="tocsin silence fraud",
)  # fmt: skip
LETTER = DeadLetter(
    Partition("tocsin.events", 3), 41, 2, 42, b"fraud", b'{"prediction_id":"req-3","logits":[NaN]}',
    [("content-type", b"application/x-ndjson"), ("traceparent", None)],
    NonFiniteError("$.logits[0] is not a finite number", "$.logits[0]"),
)  # fmt: skip

# The same rows as columns, for the Arrow form.
TABLE: dict[str, Any] = {
    "prediction_id": ["req-1", "req-2"], "model": ["fraud", "fraud"], "version": ["2026-01", None],
    "time": [NOON, NOON + timedelta(seconds=1)], "client": ["key-7", "key-8"], "prediction": ["yes", "no"],
    "features": {"amount": np.array([12.5, np.nan]), "items": [3, 4], "country": ["CÔTE", None]},
    "scores": {"no": [0.125, 0.75], "yes": [0.875, 0.25]}, "logits": np.array([[-1.0, 1e-7], [0.5, 2.0]]),
    "segments": {"region": ["eu", "us"]}, "environment": ["shadow", "production"], "label": ["no", None],
    "sample_rate": [0.5, 1.0],
}  # fmt: skip
ROWS = [
    Prediction(
        prediction_id="req-1", model="fraud", version="2026-01", time=NOON, client="key-7",
        prediction="yes", features={"amount": 12.5, "items": 3, "country": "CÔTE"}, label="no",
        scores={"no": 0.125, "yes": 0.875}, logits=[-1.0, 1e-7], segments={"region": "eu"},
        environment="shadow", sample_rate=0.5,
    ),
    Prediction(
        prediction_id="req-2", model="fraud", time=NOON + timedelta(seconds=1), client="key-8",
        prediction="no", features={"amount": None, "items": 4}, scores={"no": 0.75, "yes": 0.25},
        logits=[0.5, 2.0], segments={"region": "us"},
    ),
]  # fmt: skip

SINGLE: dict[str, tuple[Event, Kind]] = {
    "prediction.v1.json": (PREDICTION, Kind.PREDICTION),
    "prediction-input.v1.json": (PIXELS, Kind.PREDICTION),
    "label.v1.json": (LABEL, Kind.LABEL),
    "label-small.v1.json": (SMALL_LABEL, Kind.LABEL),
}
HEADERS: dict[str, tuple[ce.Headers, Kind]] = {
    "prediction-headers.v1.json": (wire.record_headers(PREDICTION, id="n-1", source="svc"), Kind.PREDICTION),
    "label-headers.v1.json": (wire.record_headers(LABEL, id="n-2", source="svc"), Kind.LABEL),
    "events-headers.v1.json": (
        ce.headers(type=ce.EVENTS, source="svc", id="n-3", content_type=ce.LINES), Kind.LINES,
    ),
    "predictions-headers.v1.json": (
        ce.headers(type=ce.PREDICTIONS, source="svc", id="n-4", content_type=ce.ARROW), Kind.ARROW,
    ),
}  # fmt: skip
PACKED = [PREDICTION, LABEL, PIXELS, SMALL_LABEL]


def headers_as_text(headers: Any) -> bytes:
    text = [[name, None if value is None else value.decode()] for name, value in headers]
    return b"[\n" + b",\n".join(json.dumps(pair).encode() for pair in text) + b"\n]\n"


def headers_of(text: bytes) -> list[tuple[str, bytes | None]]:
    return [(name, None if value is None else value.encode()) for name, value in json.loads(text)]


class Sent:
    """In the place of a `KafkaProducer`."""

    def send(self, topic: str, **record: Any) -> None:
        self.record = {"topic": topic, **record}


def dead_letter() -> bytes:
    sent = Sent()
    KafkaDeadLetters(KafkaSettings())._one(sent, LETTER, LETTER.value)
    record = {
        k: v.decode() if isinstance(v, bytes) else v
        for k, v in sent.record.items()
        if k != "headers"
    }
    head = json.dumps(record, indent=1).removesuffix("\n}")
    return f'{head},\n "headers":\n{headers_as_text(sent.record["headers"]).decode()}}}\n'.encode()


def arrow() -> bytes:
    ((model, table),) = pack_table(TABLE, {"model": "fraud"}, 1 << 20, 2**32)
    assert (model, table.events) == ("fraud", 2)
    return table.data


def published(alert: bytes) -> bytes:
    """As `commit.lua` puts it on the channel: the ids of the stream's entries in front."""
    return b'{"stream_id":"1767355200000-1","previous_id":"1767355200000-0",' + alert[1:]


def today() -> dict[str, bytes]:
    """Every form as it is written now."""
    ((packed, count, _),) = _packed([wire.encode(event) for event in PACKED], 1 << 20)
    assert count == len(PACKED)
    return {
        **{name: wire.encode(event) for name, (event, _) in SINGLE.items()},
        **{name: headers_as_text(headers) for name, (headers, _) in HEADERS.items()},
        "events.v1.ndjson": packed,
        "predictions.v1.arrow": arrow(),
        "dead-letter.v1.json": dead_letter(),
        "alert.v1.json": alerts.encode(ALERT),
        "alert-published.v1.json": published(alerts.encode(ALERT)),
    }


def test_the_folder_holds_the_forms_of_today_and_may_hold_older_ones() -> None:
    assert {path.name for path in GOLDEN.iterdir()} >= set(today())


@pytest.mark.parametrize("name", [name for name in today() if not name.endswith(".arrow")])
def test_what_is_written_today_is_what_was_written_then(name: str) -> None:
    assert today()[name] == (GOLDEN / name).read_bytes()


@pytest.mark.parametrize("name", SINGLE)
def test_single_events_decode_with_and_without_headers(name: str) -> None:
    event, kind = SINGLE[name]
    raw = (GOLDEN / name).read_bytes()
    for how in (kind, Kind.BARE):
        assert wire.decode(raw, how, Limits()) == event
    bare = {k: v for k, v in json.loads(raw).items() if k != "type"}
    assert wire.decode(json.dumps(bare).encode(), kind, Limits()) == event


@pytest.mark.parametrize("name", HEADERS)
def test_headers_say_the_kind_and_the_time(name: str) -> None:
    found = headers_of((GOLDEN / name).read_bytes())
    assert wire.kind_of(found) == HEADERS[name][1]
    time = {
        "prediction-headers.v1.json": PREDICTION.time,
        "label-headers.v1.json": LABEL.observed_at,
    }
    said = ce.attributes(found).get("time")
    assert (said and datetime.fromisoformat(said)) == time.get(name)


def decode_record(name: str, headers: str) -> Any:
    raw = (GOLDEN / name).read_bytes()
    record = PlainRecord(
        5, 1_768_000_000_000_000_000, b"fraud", raw, headers_of((GOLDEN / headers).read_bytes())
    )
    found = Decoder().decode(Records.of(Partition("t", 0), [record]))
    assert not found.refused
    return found


def test_a_packed_record_decodes_to_its_events() -> None:
    lines = wire.lines((GOLDEN / "events.v1.ndjson").read_bytes())
    assert [wire.decode(line, Kind.BARE, Limits()) for line in lines] == PACKED
    found = decode_record("events.v1.ndjson", "events-headers.v1.json")
    assert sorted((b.model, b.rows.tolist()) for b in found.predictions) == [
        ("default", [2]),
        ("fraud", [0]),
    ]
    assert sorted((b.model, b.rows.tolist()) for b in found.labels) == [
        ("default", [3]),
        ("fraud", [1]),
    ]


def as_lists(batch: EventBatch) -> str:
    """A batch's columns as text, in which NaN equals NaN."""

    def plain(column: Any) -> Any:
        if isinstance(column, dict):
            return {name: plain(inner) for name, inner in column.items()}
        return next(
            (getattr(column, how)() for how in ("to_list", "tolist") if hasattr(column, how)),
            column,
        )

    return "\n".join(f"{f.name}: {plain(getattr(batch, f.name))}" for f in fields(batch))


def test_an_arrow_batch_decodes_to_the_rows_that_single_events_give() -> None:
    found = decode_record("predictions.v1.arrow", "predictions-headers.v1.json")
    (expected,) = EventBatch.of(
        "fraud", [(Origin(5, row, 0), event) for row, event in enumerate(ROWS)]
    )
    assert [as_lists(batch) for batch in found.predictions] == [as_lists(expected)]
    now = PlainRecord(
        5, 1_768_000_000_000_000_000, b"fraud", arrow(), HEADERS["predictions-headers.v1.json"][0]
    )
    (again,) = Decoder().decode(Records.of(Partition("t", 0), [now])).predictions
    assert as_lists(again) == as_lists(expected)


def test_alerts_decode_and_subscribers_find_their_place_in_the_stream() -> None:
    assert alerts.decode((GOLDEN / "alert.v1.json").read_bytes()) == ALERT
    found = alerts.decode((GOLDEN / "alert-published.v1.json").read_bytes())
    assert (found.stream_id, found.previous_id) == ("1767355200000-1", "1767355200000-0")
    assert alerts.decode(alerts.encode(found)) == found


def write() -> None:
    """Write `golden/` anew."""
    GOLDEN.mkdir(exist_ok=True)
    for name, data in today().items():
        (GOLDEN / name).write_bytes(data)


if __name__ == "__main__":
    write()
