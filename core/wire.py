"""Bytes to events and back, one record at a time: the reference that every faster path must equal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from difflib import get_close_matches
from enum import IntEnum
from typing import Any, NoReturn, TypeVar

import msgspec

from . import cloudevents as ce
from .errors import DecodeError, EventError, NonFiniteError, SchemaError, SizeError
from .events import TENSOR_ITEMSIZE, Event, Label, Prediction
from .json_scan import dotted, scalars
from .limits import Limits

E = TypeVar("E", Prediction, Label)


class Kind(IntEnum):
    """How a record's value is to be read; told by its headers."""

    BARE = 0  # JSON; an optional "type" says prediction (the default) or label
    PREDICTION = 1
    LABEL = 2
    LINES = 3
    ARROW = 4


_KINDS = {
    ce.PREDICTION: (Kind.PREDICTION, ce.JSON),
    ce.LABEL: (Kind.LABEL, ce.JSON),
    ce.EVENTS: (Kind.LINES, ce.LINES),
    ce.PREDICTIONS: (Kind.ARROW, ce.ARROW),
}
_BARE_TYPES = {"": Kind.BARE, ce.JSON: Kind.BARE, ce.LINES: Kind.LINES, ce.ARROW: Kind.ARROW}

_BLANKS = bytes(range(33))
_EXPLAINED_BYTES = (
    1 << 16
)  # chosen: the walk that explains costs 1 us a value, and garbage is cheap to send

_decode_prediction = msgspec.json.Decoder(Prediction).decode
_decode_label = msgspec.json.Decoder(Label).decode


def _plain(value: Any) -> Any:
    """Turn what numpy and torch hand out into what JSON has."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


_encoder = msgspec.json.Encoder(enc_hook=_plain)


def encode(event: Event) -> bytes:
    """Return `event` as JSON that names its own type; NaN and infinities become null (missing).

    Raises
    ------
    TypeError
        A value is of a type that JSON does not have.
    """
    return _encoder.encode(event)


def record_headers(event: Event, *, id: str, source: str) -> ce.Headers:  # noqa: A002
    """Return the CloudEvents headers of `event` as a record of its own."""
    if isinstance(event, Prediction):
        kind, time = ce.PREDICTION, event.time
    else:
        kind, time = ce.LABEL, event.observed_at
    return ce.headers(
        type=kind,
        source=source,
        id=id,
        content_type=ce.JSON,
        time=time,
        subject=event.prediction_id,
    )


def kind_of(headers: Iterable[tuple[str, bytes | None]]) -> Kind:
    """Return how the value under `headers` is to be read.

    Raises
    ------
    SchemaError
        The type, version or content type is none that tocsin reads.
    """
    found = ce.attributes(headers)
    content_type = found.get("datacontenttype", "")
    if "type" not in found:
        if content_type in _BARE_TYPES:
            return _BARE_TYPES[content_type]
        if content_type.startswith("application/cloudevents"):
            raise SchemaError(
                "structured CloudEvents are not read; send binary mode, attributes as headers"
            )
        raise SchemaError(f"content-type must be one of {_names(_BARE_TYPES)}, got {content_type}")
    if found.get("specversion") != "1.0":
        raise SchemaError("ce_specversion must be 1.0", "$headers.ce_specversion")
    if found["type"] not in _KINDS:
        raise SchemaError(f"ce_type must be one of {_names(_KINDS)}", "$headers.ce_type")
    kind, expected = _KINDS[found["type"]]
    if content_type not in ("", expected):
        raise SchemaError(f"content-type of {found['type']} must be {expected}, got {content_type}")
    return kind


def lines(value: bytes) -> list[bytes]:
    """Return the events' texts in a packed record; lines of blanks only are not counted."""
    return [line for line in value.split(b"\n") if line.strip(_BLANKS)]


def _names(of: Iterable[str]) -> str:
    return ", ".join(name for name in of if name)


def decode(raw: bytes | memoryview, kind: Kind, limits: Limits) -> Event:
    """Return the one event in `raw`.

    Parameters
    ----------
    raw
        JSON text.
    kind
        PREDICTION, LABEL, or BARE when the text itself says which.
    limits
        Bounds; see `Limits`.

    Raises
    ------
    EventError
        A subclass that says what is wrong, naming the field.
    """
    if len(raw) > limits.json_bytes:
        raise SizeError(
            f"the event has {len(raw)} bytes, more than limits.json_bytes = {limits.json_bytes}"
        )
    try:
        if kind == Kind.LABEL or (kind != Kind.PREDICTION and _says_label(raw)):
            label = _decode_label(raw)
            _check_class(label.label, "$.label")
            check_time(label.observed_at, "$.observed_at")
            return label
        prediction = _decode_prediction(raw)
    except EventError:
        raise
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        _refuse(bytes(raw), error, Label if kind == Kind.LABEL else Prediction)
    _check_prediction(prediction, limits)
    return prediction


class _Peek(msgspec.Struct):
    type: str = "prediction"


_peek = msgspec.json.Decoder(_Peek).decode


def _says_label(raw: bytes | memoryview) -> bool:
    """Whether a bare event calls itself a label; raise if it calls itself something unknown."""
    said = _peek(raw).type
    if said not in ("prediction", "label"):
        raise SchemaError("type must be prediction or label", "$.type")
    return said == "label"


def _check_prediction(event: Prediction, limits: Limits) -> None:
    for name in ("features", "scores", "logits", "embedding", "segments"):
        values = getattr(event, name)
        if values is not None and len(values) > limits.features:
            raise SizeError(
                f"{name} has {len(values)} entries, more than limits.features = {limits.features}"
            )
    for key, value in event.features.items():
        if type(value) is int:
            _check_int(value, ("features", key))
    _check_class(event.prediction, "$.prediction")
    _check_class(event.label, "$.label")
    check_time(event.time, "$.time")
    if event.input is not None:
        expected = math.prod(event.input.shape) * TENSOR_ITEMSIZE[event.input.dtype]
        if len(event.input.data) != expected:
            raise SchemaError(
                f"$.input.data has {len(event.input.data)} bytes; its dtype and shape ask for "
                f"{expected}",
                "$.input.data",
            )


def _check_int(value: int, path: tuple[str | int, ...]) -> None:
    try:
        float(value)
    except OverflowError:
        where = dotted(path)
        raise NonFiniteError(f"{where} is an integer too large for a 64-bit float", where) from None


def _check_class(value: object, where: str) -> None:
    if type(value) is int:
        _check_int(value, (where.removeprefix("$."),))


def check_time(time: datetime | None, where: str) -> None:
    """Raise for a time that columns, which hold nanoseconds since 1970, cannot hold."""
    # Nanoseconds since 1970 fit 64 bits until 2262; a day of slack for the time zone.
    if time is not None and not 1970 < time.year < 2262:
        raise SchemaError(f"{where} must lie between 1971 and 2261", where)


def _refuse(raw: bytes, error: Exception, of: type[Prediction | Label]) -> NoReturn:
    """Raise the EventError that names the field which `error` is about."""
    for scalar in scalars(raw[:_EXPLAINED_BYTES]):
        if scalar.valid and scalar.finite:
            continue
        where = dotted(scalar.path)
        if scalar.valid:
            raise NonFiniteError(f"{where} is too large for a 64-bit float", where) from None
        if not scalar.finite:
            raise NonFiniteError(f"{where} is not a finite number", where) from None
        if scalar.end < _EXPLAINED_BYTES:
            raise DecodeError(f"{where} is not a JSON value; the text is malformed") from None
    if isinstance(error, msgspec.ValidationError):
        message, where = _without_values(str(error)), "$"
        if " - at `" in message:
            message, where = message.rstrip("`").split(" - at `")
        where = _full_path(raw, where, of)
        raise SchemaError(f"{where}: {message}{_nearest(message, of)}", where) from None
    if isinstance(error, UnicodeDecodeError):
        raise DecodeError("the text is not UTF-8") from None
    raise DecodeError(f"not JSON: {error}" if raw.strip() else "the value is empty") from None


def _nearest(message: str, of: type[Prediction | Label]) -> str:
    """Return a hint for an unknown field that looks like a known one."""
    unknown = message.rpartition("unknown field `")[2].rstrip("`")
    known = get_close_matches(unknown, of.__struct_encode_fields__, 1)
    return f"; did you mean `{known[0]}`?" if known else ""


def _without_values(message: str) -> str:
    """Drop the sender's value from a message of msgspec: it may be personal data."""
    for start in ("Invalid value ", "Invalid enum value "):
        if message.startswith(start):
            _, _, rest = message.partition(" - at ")
            return start.strip() + (f" - at {rest}" if rest else "")
    return message


def _full_path(raw: bytes, where: str, of: type[Prediction | Label]) -> str:
    """Complete msgspec's `$.features[...]` with the entry's own name."""
    field, bracket, _ = where.removeprefix("$.").partition("[...]")
    if not bracket:
        return where
    field_type = next((f.type for f in msgspec.structs.fields(of) if f.encode_name == field), None)
    if field_type is None:
        return where
    try:
        found: Any = msgspec.json.decode(raw)[field]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, LookupError, ValueError):
        return where  # what follows the field is broken too, or its name is escaped
    if not isinstance(found, (dict, list)):
        return where  # the field stands there twice
    entries: Iterable[tuple[Any, Any]] = (
        found.items() if isinstance(found, dict) else enumerate(found)
    )
    for key, value in entries:
        alone = {key: value} if isinstance(found, dict) else [value]
        try:
            msgspec.convert(alone, field_type)
        except msgspec.ValidationError:
            return dotted((field, key))
    return where
