"""The events on the wire, as types. Encoding them lives in `wire.py`, columns in `batch.py`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta

Scalar: TypeAlias = str | int | float | bool | None
"""A feature's value; null means missing and is counted."""

ClassOrNumber: TypeAlias = str | int | float | bool
"""A prediction or a label: a class (text, integer, boolean) or a number (regression)."""

Identifier: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
ModelName: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=200, pattern=r"^[^\s\x00-\x1f\x7f]+$(?!\n)")
]
UtcTime: TypeAlias = Annotated[datetime, Meta(tz=True)]
Environment: TypeAlias = Literal["production", "shadow", "reference", "training"]
ENVIRONMENTS: tuple[str, ...] = get_args(Environment)
"""In the order of the codes that columns hold."""

TENSOR_ITEMSIZE = {
    "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "float16": 2, "float32": 4, "float64": 8, "bool": 1,
}  # fmt: skip
"""Bytes an element of each dtype that a raw input may have; little-endian, C order."""


class Tensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A raw model input.

    Parameters
    ----------
    dtype
        One of `TENSOR_ITEMSIZE`.
    shape
        Sizes of the axes, without a batch axis; each 1 or more, at most 8 axes.
    data
        The elements, little-endian, C order; base64 text in JSON.
    """

    dtype: Literal[
        "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bool"
    ]
    shape: Annotated[list[Annotated[int, Meta(ge=1)]], Meta(max_length=8)]
    data: bytes


class Prediction(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    gc=False,
    tag_field="type",
    tag="prediction",
):
    """One inference, as its model server saw it.

    Parameters
    ----------
    prediction_id
        Chosen by the caller; labels come back under it. 1 to 256 characters. It is one prediction of a model in each
        environment: a shadow may score the same request under the same id.
    model, version
        Which model answered. The Kafka key is the model's name, so that an event and its label
        meet in one partition.
    time
        When the inference happened, with a time zone; the record's timestamp where absent.
    features
        Name to number, text, boolean or null (missing). Numbers must be finite.
    prediction
        The class, or the number for a regression.
    scores
        Class name to score, usually probabilities.
    logits
        The model's last layer before the softmax, shape (classes,).
    embedding
        A hidden layer's output, shape (dimensions,).
    input
        The raw input, for detectors that look at it.
    client
        Who asked: an API key's name, an account. Attack alerts are about a client.
    segments
        Name to value, of few distinct values each: where performance is compared.
    environment
        Each environment of a model is monitored by itself.
    label
        The truth, when it is known at once; of this prediction alone.
    sample_rate
        The share of events that the publisher kept, in (0, 1].
    """

    prediction_id: Identifier
    model: ModelName = "default"
    version: Annotated[str, Meta(max_length=200)] | None = None
    time: UtcTime | None = None
    features: dict[str, Scalar] = {}
    prediction: ClassOrNumber | None = None
    scores: dict[str, float] | None = None
    logits: list[float] | None = None
    embedding: list[float] | None = None
    input: Tensor | None = None
    client: Annotated[str, Meta(max_length=256)] | None = None
    segments: dict[str, str] | None = None
    environment: Environment = "production"
    label: ClassOrNumber | None = None
    sample_rate: Annotated[float, Meta(gt=0, le=1)] = 1.0


class Label(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    gc=False,
    tag_field="type",
    tag="label",
):
    """The truth about one earlier prediction: late, in any order, perhaps twice, perhaps corrected.

    Parameters
    ----------
    prediction_id, model
        The prediction it belongs to; where several environments have one of that id, all of these.
    label
        The class or number, in the terms of `Prediction.prediction`.
    observed_at
        When the truth became known, with a time zone; the record's timestamp where absent.
    revision
        0 for the first label; a correction carries a higher one. Of two labels for one
        prediction the one with the greater (revision, observed_at) counts.
    """

    prediction_id: Identifier
    label: ClassOrNumber
    model: ModelName = "default"
    observed_at: UtcTime | None = None
    revision: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


Event: TypeAlias = Prediction | Label
