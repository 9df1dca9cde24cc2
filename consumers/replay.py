"""Which alerts a subscriber has had, and what to do with what comes: no I/O, so that it can be proven.

Rule 1: an alert is delivered once, in the order of the stream.
Rule 2: pub/sub may lose and repeat; the stream decides. A message whose `previous_id` is not what was
        delivered last means that something is missing: read the stream.
Rule 3: a Redis that lost its last writes hands out the same alerts again under new stream ids; the
        alerts' own ids tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeGuard

import msgspec

from ..core import alert as alerts
from ..core.alert import Alert

BEGINNING: Final = "0-0"
_PLACE: Final = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")  # as the store writes them
_REMEMBERED: Final = (
    10_000  # alert ids; a store that is rolled back loses a second or two of alerts
)


class Entry(NamedTuple):
    """An entry of the alert stream: its id, the id before it, and the alert as JSON."""

    id: str
    previous: str
    text: bytes


class Replay:
    """Decides what of messages and entries is delivered.

    Parameters
    ----------
    after
        Stream id of the last alert that was handled; `0-0` for all that the stream still has.
    model
        Deliver this model's alerts only.
    """

    def __init__(self, after: str = BEGINNING, model: str | None = None) -> None:
        self.last = after
        self.model = model
        self.missed = 0
        """How often the stream no longer held what should have come next."""
        self._known: dict[str, None] = {}

    def message(self, text: bytes) -> tuple[list[Alert], bool]:
        """Take a message in; return what to deliver, and whether the stream must be read."""
        try:
            alert = alerts.decode(text)
        except msgspec.MsgspecError:
            return [], False  # someone else's message on the channel
        if not (_is_place(alert.stream_id) and _is_place(alert.previous_id)):
            return [], False
        if order(alert.stream_id) <= order(self.last):
            return [], False
        if order(alert.previous_id) > order(self.last):
            return [], True
        self.last = alert.stream_id
        return self._new([alert]), False

    def entries(self, found: Iterable[Entry]) -> list[Alert]:
        """Take entries of the stream after `last` in; return what to deliver."""
        new: list[Alert] = []
        for entry in found:
            if self.last != BEGINNING and order(entry.previous) > order(self.last):
                self.missed += 1
            self.last = entry.id
            try:
                alert = alerts.decode(entry.text)
            except msgspec.MsgspecError:
                continue
            new.append(
                msgspec.structs.replace(alert, stream_id=entry.id, previous_id=entry.previous)
            )
        return self._new(new)

    def _new(self, found: list[Alert]) -> list[Alert]:
        wanted = []
        for alert in found:
            if alert.id in self._known:
                continue
            self._known[alert.id] = None
            if len(self._known) > _REMEMBERED:
                del self._known[next(iter(self._known))]
            if self.model is None or alert.model == self.model:
                wanted.append(alert)
        return wanted


def _is_place(stream_id: str | None) -> TypeGuard[str]:
    return stream_id is not None and _PLACE.fullmatch(stream_id) is not None


def order(stream_id: str) -> tuple[int, int]:
    """Return what orders stream ids."""
    milliseconds, _, number = stream_id.partition("-")
    return int(milliseconds), int(number or 0)
