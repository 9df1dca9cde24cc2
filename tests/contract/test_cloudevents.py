"""Our record headers are the official SDK's, in both directions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from tocsin.consumers.decode import Decoded, Decoder
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core import cloudevents as ce
from tocsin.core.cloudevents import to_nanoseconds
from tocsin.core.errors import SchemaError
from tocsin.core.events import Event, Label, Prediction
from tocsin.core.wire import encode, record_headers

TIMES = [
    None,
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2026, 1, 1, 12, 30, 0, 250_000, tzinfo=UTC),
    datetime(2026, 1, 1, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
]
EVENTS: list[Event] = [
    *(Prediction(prediction_id="p-é-1", model="fraud", features={"x": 1.5}, time=t) for t in TIMES),
    *(Label(prediction_id="p-é-1", model="fraud", label=True, observed_at=t) for t in TIMES),
]


def theirs(event: Event, data: Any = None, **changed: Any) -> CloudEvent:
    is_prediction = isinstance(event, Prediction)
    attributes = {
        "specversion": "1.0", "id": "n-1", "source": "urn:server:1", "subject": event.prediction_id,
        "type": "tocsin.prediction.v1" if is_prediction else "tocsin.label.v1",
        "datacontenttype": "application/json",
        "time": event.time if is_prediction else event.observed_at,
        **changed,
    }  # fmt: skip
    return CloudEvent({k: v for k, v in attributes.items() if v is not None}, data)


def sent(event: CloudEvent, *, timed: bool = True) -> KafkaMessage:
    """What the SDK sends; without the time of sending, which it makes up for an event without time."""
    message = to_binary(event, JSONFormat())
    headers = {k: v for k, v in message.headers.items() if timed or k != "ce_time"}
    return KafkaMessage(headers, message.key, message.value)


def decoded(message: KafkaMessage) -> Decoded:
    record = PlainRecord(
        3, 1_767_350_000_000_000_000, b"fraud", message.value, [*message.headers.items()]
    )
    return Decoder().decode(Records.of(Partition("t", 0), [record]))


@pytest.mark.parametrize("event", EVENTS)
def test_headers_are_those_of_the_sdk_and_read_back_by_it(event: Event) -> None:
    ours = record_headers(event, id="n-1", source="urn:server:1")
    timed = (event.time if isinstance(event, Prediction) else event.observed_at) is not None
    message = sent(theirs(event, encode(event)), timed=timed)
    assert dict(ours) == message.headers
    assert len(ours) == len(message.headers)
    assert message.value == encode(event)
    back = from_binary(KafkaMessage(dict(ours), None, encode(event)), JSONFormat()).get_attributes()
    expected = theirs(event).get_attributes()
    assert {k: v for k, v in back.items() if timed or k != "time"} == {
        k: v for k, v in expected.items() if timed or k != "time"
    }


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("extension", [{}, {"traceparent": "00-1-2-03"}])
def test_what_the_sdk_writes_decodes_with_the_events_time_in_the_header(
    event: Event, extension: dict[str, str]
) -> None:
    field = "time" if isinstance(event, Prediction) else "observed_at"
    body = {k: v for k, v in msgspec.to_builtins(event).items() if k not in (field, "type")}
    said = getattr(event, field)
    found = decoded(sent(theirs(event, body, **extension), timed=said is not None))
    assert not found.refused
    (batch,) = found.predictions or found.labels
    assert (batch.model, batch.prediction_id.to_list()) == ("fraud", ["p-é-1"])
    assert batch.label.to_list() == [True if isinstance(event, Label) else None]
    assert batch.times.tolist() == [to_nanoseconds(said) if said else 1_767_350_000_000_000_000]


@pytest.mark.parametrize(
    ("kind", "content"), [(ce.EVENTS, ce.LINES), (ce.PREDICTIONS, ce.ARROW), (ce.LABEL, ce.JSON)]
)
def test_the_headers_of_batches_are_those_of_the_sdk(kind: str, content: str) -> None:
    attributes = {
        "specversion": "1.0",
        "id": "1",
        "source": "s",
        "type": kind,
        "datacontenttype": content,
    }
    message = sent(CloudEvent(attributes, b""), timed=False)
    assert dict(ce.headers(type=kind, source="s", id="1", content_type=content)) == message.headers


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (to_structured(theirs(EVENTS[0]), JSONFormat()), "structured CloudEvents are not read"),
        (to_binary(theirs(EVENTS[0], {}, type="other"), JSONFormat()), "ce_type must be one of"),
        (
            to_binary(theirs(EVENTS[0], {}, datacontenttype="text/xml"), JSONFormat()),
            "content-type of",
        ),
    ],
)
def test_other_messages_of_the_sdk_are_refused_with_the_reason(
    message: KafkaMessage, says: str
) -> None:
    (refused,) = decoded(message).refused
    assert isinstance(refused.error, SchemaError)
    assert says in str(refused.error)
