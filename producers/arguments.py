"""What callers hand to the publisher, checked and made uniform."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from numbers import Real
from typing import Any


def check_mapping(name: str, value: Any) -> None:
    """Raise TypeError for what is neither a mapping nor None."""
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of names, got {type(value).__name__}")


def check_client(settings: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise ValueError for a setting that KafkaProducer has not; `known` are the publisher's own."""
    from kafka import KafkaProducer

    for name in settings:
        if name not in KafkaProducer.DEFAULT_CONFIG:
            names = [*known, *KafkaProducer.DEFAULT_CONFIG]
            near = get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"Publisher has no setting {name}, and KafkaProducer has none{hint}")


def moment(time: datetime | float) -> datetime:
    """Return a time with a zone; one without is this machine's, a number is seconds since 1970.

    Raises
    ------
    TypeError
        It is neither.
    """
    if isinstance(time, datetime):
        return time if time.tzinfo is not None else time.astimezone()
    if not isinstance(time, Real):
        raise TypeError(f"a time must be a datetime or seconds since 1970, got {time!r}")
    return datetime.fromtimestamp(float(time), UTC)
