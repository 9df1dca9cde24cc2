"""How many events of a partition were refused, by model where that is known. What refuses them stands in `decode.py`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..core.errors import StateError
from ..core.snapshot import pack, reading, unpack

UNKNOWN = ""
"""In the place of a model's name: of no model that the partition has."""
FIELD = "refused"


class Refusals:
    """Refused events by the name of a model, that of their record's key; bounded by the models of the partition."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._stored: dict[str, int] = {}
        self._told: dict[str, int] = {}

    def add(self, model: str, events: int) -> None:
        """Count events, of a model of the partition or `UNKNOWN`."""
        self._counts[model] = self._counts.get(model, 0) + events

    def figures(self) -> Mapping[str, float] | None:
        """Return the counts by model if they have changed since the last call."""
        if self._counts == self._told:
            return None
        self._told = dict(self._counts)
        return {model: float(count) for model, count in self._counts.items()}

    def dirty(self) -> bytes | None:
        """Return the state if it has changed since the last call."""
        if self._counts == self._stored:
            return None
        self._stored = dict(self._counts)
        return pack(FIELD, 1, {"counts": self._counts}, {})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot.

        Raises
        ------
        StateError
            It is damaged.
        """
        with reading(FIELD):
            meta, _ = unpack(FIELD, 1, state)
            counts = msgspec.convert(meta["counts"], dict[str, int])
            if min(counts.values(), default=0) < 0:
                raise StateError(f"{FIELD}: a count is below 0")
        self._counts, self._stored = counts, dict(counts)
