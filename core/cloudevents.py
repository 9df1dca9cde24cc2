"""CloudEvents 1.0 in the Kafka protocol binding, binary mode: attributes as record headers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

JSON = "application/json"
LINES = "application/x-ndjson"
ARROW = "application/vnd.apache.arrow.stream"

PREDICTION = "tocsin.prediction.v1"
LABEL = "tocsin.label.v1"
EVENTS = "tocsin.events.v1"
"""A packed record: JSON events, predictions and labels mixed, one a line."""
PREDICTIONS = "tocsin.predictions.v1"
"""A batch: one Arrow IPC stream whose columns are the fields of `Prediction`."""

Headers = list[tuple[str, bytes]]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def headers(
    *,
    type: str,  # noqa: A002  (the attribute's name in the specification)
    source: str,
    id: str,  # noqa: A002
    content_type: str,
    time: datetime | None = None,
    subject: str | None = None,
) -> Headers:
    """Return the record headers of one event.

    Parameters
    ----------
    type, source, id
        Attributes that CloudEvents requires; `id` is unique within `source`.
    content_type
        Media type of the record's value.
    time
        Event time, with a time zone.
    subject
        The prediction id, where the event is about one prediction.

    References
    ----------
    CloudEvents 1.0.2, "Kafka Protocol Binding", sections 3.2.2 and 3.2.3.
    """
    pairs: Headers = [
        ("content-type", content_type.encode()),
        ("ce_specversion", b"1.0"),
        ("ce_id", id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", type.encode()),
    ]
    if time is not None:
        pairs.append(("ce_time", time.isoformat().replace("+00:00", "Z").encode()))
    if subject is not None:
        pairs.append(("ce_subject", subject.encode()))
    return pairs


def attributes(pairs: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """Return the attributes in record headers, keyed as in the specification, lower case.

    The last of two equal headers wins; a header that is not UTF-8 is left out.
    """
    found: dict[str, str] = {}
    for key, value in pairs:
        name = key.lower()
        if value is None:
            continue
        try:
            text = value.decode()
        except UnicodeDecodeError:
            continue
        if name.startswith("ce_"):
            found[name[3:]] = text
        elif name == "content-type":
            found["datacontenttype"] = text.split(";")[0].strip().lower()
    return found


def to_nanoseconds(time: datetime) -> int:
    """Return integer nanoseconds since 1970-01-01 UTC of an aware `time`, exact to the microsecond."""
    return (time - _EPOCH) // _MICROSECOND * 1000


def from_nanoseconds(nanoseconds: int) -> datetime:
    """Return the aware UTC time of integer `nanoseconds` since 1970, cut to the microsecond."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
