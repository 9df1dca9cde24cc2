"""The bounds on what a sender may put on the wire; every one is configurable."""

from __future__ import annotations

from dataclasses import dataclass, fields

MAX_BATCH_ROWS = 1 << 20
"""A row's place inside its record fits 20 bits, so that offset and row make one 64-bit position."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds checked while decoding, before memory is spent on a value.

    Parameters
    ----------
    json_bytes
        Largest JSON event, in bytes (one line of a packed record counts as one event).
    batch_bytes
        Largest packed record or Arrow batch, in bytes, after decompression by the client.
    features
        Most entries of `features`, `scores`, `segments`, `logits` or `embedding` in one event.
    batch_rows
        Most rows of one packed record or Arrow batch.
    models
        Most models in one partition; events of further ones are refused.
    future_seconds
        How far an event's `time` may lie ahead of the record's own timestamp. Kafka's brokers
        refuse records more than an hour ahead (`message.timestamp.after.max.ms`), so does this;
        without a bound one event could expire every pending prediction.

    Raises
    ------
    ValueError
        A bound is not above 0, or `batch_rows` above 1,048,576.
    """

    json_bytes: int = 1 << 20
    batch_bytes: int = 64 << 20
    features: int = 10_000
    batch_rows: int = 1_000_000
    models: int = 10_000
    future_seconds: float = 3600.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be above 0, got {getattr(self, field.name)}")
        if self.batch_rows > MAX_BATCH_ROWS:
            raise ValueError(f"batch_rows must be at most {MAX_BATCH_ROWS}, got {self.batch_rows}")
