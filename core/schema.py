"""The contract of the wire, generated from the types: JSON Schemas and one AsyncAPI document.

`docs/` holds what this generates; a test compares the two. `tocsin schema --write docs` renews it.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from . import cloudevents as ce
from .alert import Alert
from .events import Label, Prediction
from .keys import Keys

_ID = "urn:tocsin:schema:"
_TYPES: dict[str, tuple[type, str]] = {
    "prediction": (Prediction, "One inference, as its model server saw it."),
    "label": (Label, "The truth about one earlier prediction."),
    "alert": (Alert, "One state change of one incident."),
}


def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of `prediction`, `label` or `alert`."""
    kind, description = _TYPES[name]
    (root,), components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    defs = dict(components)
    body = defs.pop(root["$ref"].rpartition("/")[2])
    found: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{_ID}{name}:v1",
        **body,
        "description": description,
    }
    if "type" in found.get("required", ()):
        # A record whose headers name the type need not repeat it.
        found["required"] = [field for field in found["required"] if field != "type"]
    if defs:
        found["$defs"] = defs
    return found


def _headers(kind: str, content: str) -> dict[str, Any]:
    constant = {"ce_specversion": "1.0", "ce_type": kind, "content-type": content}
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["ce_id", "ce_source", "ce_specversion", "ce_type"],
        "properties": {
            **{name: {"type": "string", "const": value} for name, value in constant.items()},
            "ce_id": text,
            "ce_source": text,
            "ce_time": {"type": "string", "format": "date-time"},
            "ce_subject": {**text, "description": "The prediction id."},
        },
    }


def asyncapi() -> str:
    """Return the AsyncAPI 3 document, as JSON text (which is YAML as well)."""
    keys = Keys()
    messages: dict[str, Any] = {
        "prediction": {
            "headers": _headers(ce.PREDICTION, ce.JSON),
            "contentType": ce.JSON,
            "payload": {"$ref": "schemas/prediction.json"},
        },
        "label": {
            "headers": _headers(ce.LABEL, ce.JSON),
            "contentType": ce.JSON,
            "payload": {"$ref": "schemas/label.json"},
        },
        "events": {
            "description": "A packed record: predictions and labels, one JSON text a line, each with "
            "its `type`; a line without one is a prediction.",
            "headers": _headers(ce.EVENTS, ce.LINES),
            "contentType": ce.LINES,
            "payload": {"type": "string"},
        },
        "predictions": {
            "description": "A batch: one Arrow IPC stream, not compressed inside, whose columns are "
            "fields of prediction.json; features, scores and segments are structs, logits and "
            "embedding lists.",
            "headers": _headers(ce.PREDICTIONS, ce.ARROW),
            "contentType": ce.ARROW,
            "payload": {"type": "string", "format": "binary"},
        },
        "bare": {
            "description": "A record without headers: JSON whose `type` is `prediction`, the "
            "default, or `label`.",
            "contentType": ce.JSON,
            "payload": {
                "oneOf": [
                    {"$ref": "schemas/prediction.json"},
                    {"$ref": "schemas/label.json"},
                ]
            },
        },
        "alert": {"contentType": ce.JSON, "payload": {"$ref": "schemas/alert.json"}},
    }
    inbound = [name for name in messages if name != "alert"]
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "tocsin",
            "version": "1.0.0",
            "description": "Inference events in, alerts out.",
            "license": {"name": "Apache-2.0"},
        },
        "servers": {
            "kafka": {"host": "localhost:9092", "protocol": "kafka"},
            "redis": {"host": "localhost:6379", "protocol": "redis"},
        },
        "channels": {
            "events": {
                "address": "tocsin.events",
                "description": "The key is the model's name, so that a label meets its prediction.",
                "servers": [{"$ref": "#/servers/kafka"}],
                "messages": {n: {"$ref": f"#/components/messages/{n}"} for n in inbound},
            },
            "alerts": {
                "address": keys.channel,
                "servers": [{"$ref": "#/servers/redis"}],
                "messages": {"alert": {"$ref": "#/components/messages/alert"}},
            },
            "modelAlerts": {
                "address": f"{keys.channel}:{{model}}",
                "parameters": {"model": {"description": "The model's name."}},
                "servers": [{"$ref": "#/servers/redis"}],
                "messages": {"alert": {"$ref": "#/components/messages/alert"}},
            },
        },
        "operations": {
            "watch": {"action": "receive", "channel": {"$ref": "#/channels/events"}},
            "alert": {"action": "send", "channel": {"$ref": "#/channels/alerts"}},
            "alertOfModel": {"action": "send", "channel": {"$ref": "#/channels/modelAlerts"}},
        },
        "components": {"messages": messages},
    }
    return _text(document)


def documents() -> dict[str, str]:
    """Return all documents by their path below `docs/`."""
    found = {f"schemas/{name}.json": _text(json_schema(name)) for name in _TYPES}
    found["asyncapi.json"] = asyncapi()
    return found


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
