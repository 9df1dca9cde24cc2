"""An alert: what a person acts on, as JSON on the channel and in the stream."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from .lifecycle import State
from .verdict import Summary

Severity: TypeAlias = Literal["info", "warning", "critical"]
Kind: TypeAlias = Literal[
    "data drift",
    "prediction drift",
    "concept drift",
    "bias",
    "leakage",
    "adversarial input",
    "pipeline",
    "training",
]


class Member(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One stream that takes part in an incident; `change` and the like as in its verdict."""

    subject: str
    detector: str
    statistic: float
    threshold: float
    delay_events: int | None = None
    change: str = ""
    size_sigmas: float | None = None
    outcome: str = ""


class Alert(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One state change of one incident.

    Parameters
    ----------
    id
        `model:detector:subject:partition:offset.row` of the state change, with `:resolved` at the end
        of an incident; a replay gives the same. Other environments than production follow the model, as
        `model@shadow`, and so does the run of a training, `model@training/run`.
    incident
        The id of the alert that opened the incident. An alert that is firing with another id says that the
        incident has become more severe.
    fingerprint
        Equal for incidents about the same thing: model, environment, kind and subject.
    state, severity, kind
        See `lifecycle.State`; `kind` never says "drift" alone.
    model, version, environment
        What it is about; `version` is that of the event that decided it.
    subject, detector, statistic, threshold, unit, evidence
        From the verdict that opened the incident.
    change, size, size_sigmas
        What kind of change, and how large: in the stream's own unit and in reference standard deviations.
    newcomers
        Of a new category what has come, the most frequent first.
    chance_events
        Evidence this strong comes by chance once in so many events, over everything watched.
    started_at, started_earliest, started_latest
        Estimated onset, event time, and about a 95 % interval for it.
    started_offset
        About where in the partition that was.
    detected_at
        Event time of the event that decided it.
    resolved_at
        Event time of the resolution.
    outcome
        Of a resolved incident: `returned`, `new regime`, `unsettled`, `gone`, or empty where it only fell quiet.
    delay_events
        Estimated number of events from onset to detection.
    prediction_id
        The event that decided it.
    partition, offset, row
        Where that event lies.
    reference, current
        The stream before and after, on the same bins.
    samples
        Prediction ids to look at.
    members
        All streams of the incident so far, strongest first.
    summary
        One line for people.
    runbook
        Where to read what to do.
    silence
        How to silence it.
    stream_id, previous_id
        Set by the store: this entry of the alert stream and the one before it, so that a
        subscriber sees a gap.
    """

    id: str
    incident: str
    fingerprint: str
    state: State
    severity: Severity
    kind: Kind
    model: str
    version: str | None = None
    environment: str = "production"
    subject: str
    detector: str
    statistic: float | None = None
    threshold: float | None = None
    unit: str = ""
    evidence: str = ""
    change: str = ""
    size: float | None = None
    size_sigmas: float | None = None
    newcomers: list[str] = []
    chance_events: float | None = None
    started_at: datetime | None = None
    started_earliest: datetime | None = None
    started_latest: datetime | None = None
    started_offset: int | None = None
    detected_at: datetime
    resolved_at: datetime | None = None
    outcome: str = ""
    delay_events: int | None = None
    prediction_id: str | None = None
    partition: int
    offset: int
    row: int = 0
    reference: Summary | None = None
    current: Summary | None = None
    samples: list[str] = []
    members: list[Member] = []
    summary: str
    runbook: str = ""
    silence: str = ""
    stream_id: str | None = None
    previous_id: str | None = None


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Alert).decode


def fingerprint(model: str, environment: str, kind: str, subject: str) -> str:
    """Return 16 hexadecimal digits that name what an alert is about."""
    text = f"{model}\0{environment}\0{kind}\0{subject}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
