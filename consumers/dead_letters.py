"""What could not be processed goes to a topic of its own, with the original bytes and the reason."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from ..core.errors import TransportError
from .pipeline import DeadLetter
from .settings import KafkaSettings

_log = logging.getLogger(__name__)

_CUT_BYTES: Final = 64 << 10
"""What is kept of a value that the topic refuses for its size."""
_TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)


class DeadLetters(Protocol):
    """Takes dead letters, for good."""

    def write(self, letters: Sequence[DeadLetter]) -> None:
        """Write them all before returning; one that is written twice has the same id.

        Raises
        ------
        TransportError
            They may not have been written; write them again.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class MemoryDeadLetters:
    """Dead letters in memory, for tests and replays."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []

    def write(self, letters: Sequence[DeadLetter]) -> None:
        """Keep them."""
        self.letters += letters

    def close(self) -> None:
        """Nothing to let go of."""


class KafkaDeadLetters:
    """Dead letters in a Kafka topic.

    The key and the headers are the original's; what tocsin adds stands in headers that begin with
    `tocsin_`: `id`, `topic`, `partition`, `offset`, `next_offset`, `row`, `reason`, `error`, `events`, how
    many it is about where that is not one, and for a value that the topic refuses for its size `cut`, `bytes` and `sha256`.

    Parameters
    ----------
    settings
        Where Kafka is and the topic's name.
    timeout_seconds
        How long one write may take; a stop of the worker waits for it.
    """

    def __init__(self, settings: KafkaSettings, timeout_seconds: float = 3.0) -> None:
        self._settings = settings
        self._timeout = timeout_seconds
        self._producer: KafkaProducer | None = None

    def write(self, letters: Sequence[DeadLetter]) -> None:
        """Write them all, and wait until they are."""
        if not letters:
            return
        try:
            if self._producer is None:
                self._producer = self._connect()
            self._send(self._producer, letters)
        except (KafkaError, OSError) as error:
            # After a broker has lost its state an idempotent producer fails for ever: build anew.
            self.close(0.0)
            raise TransportError(
                f"dead letters cannot be written to {self._settings.dead_letters}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _connect(self) -> KafkaProducer:
        milliseconds = int(self._timeout * 1000)
        given: dict[str, Any] = self._settings.connection()
        given["bootstrap_timeout_ms"] = milliseconds
        return KafkaProducer(
            **given,
            acks="all",
            linger_ms=0,
            max_request_size=80 << 20,
            max_block_ms=milliseconds,
            delivery_timeout_ms=milliseconds,
            request_timeout_ms=milliseconds,
            allow_auto_create_topics=False,
        )

    def _send(self, producer: KafkaProducer, letters: Sequence[DeadLetter]) -> None:
        sent = [(letter, self._one(producer, letter, letter.value)) for letter in letters]
        producer.flush(timeout=self._timeout)
        for letter, future in sent:
            try:
                future.get(timeout=self._timeout)
            except _TOO_LARGE:
                value = letter.value or b""
                extra = {
                    "cut": b"true",
                    "bytes": str(len(value)).encode(),
                    "sha256": hashlib.sha256(value).hexdigest().encode(),
                }
                _log.warning("a dead letter of %d bytes was cut", len(value))
                try:
                    again = self._one(producer, letter, value[:_CUT_BYTES], extra)
                    again.get(timeout=self._timeout)
                except _TOO_LARGE:  # the key or the headers are too large as well
                    bare = letter._replace(key=None, headers=[])
                    again = self._one(producer, bare, value[:_CUT_BYTES], extra)
                    again.get(timeout=self._timeout)

    def _one(
        self,
        producer: KafkaProducer,
        letter: DeadLetter,
        value: bytes | None,
        extra: Mapping[str, bytes] | None = None,
    ) -> Any:
        headers = [(name, data if data is not None else b"") for name, data in letter.headers]
        headers += [(f"tocsin_{name}", data) for name, data in _about(letter).items()]
        headers += [(f"tocsin_{name}", data) for name, data in (extra or {}).items()]
        # A client that sends neither key nor value gets a key, since a record must have one.
        key = letter.key if letter.key is not None or value is not None else b""
        return producer.send(self._settings.dead_letters, value=value, key=key, headers=headers)

    def close(self, seconds: float = 1.0) -> None:
        """Let go of the connections within `seconds`."""
        producer: Any = self._producer
        self._producer = None
        if producer is None:
            return
        try:
            producer.close(timeout=seconds)
        except KafkaError:
            # It gives up at what it could not deliver, before it ends its thread: end that too.
            producer._sender.force_close()


def _about(letter: DeadLetter) -> dict[str, bytes]:
    topic, number = letter.partition
    place = f"{letter.offset}" if letter.row < 0 else f"{letter.offset}.{letter.row}"
    found = {
        "id": f"{topic}:{number}:{place}", "topic": topic, "partition": str(number),
        "offset": str(letter.offset), "next_offset": str(letter.next_offset),
        "row": str(letter.row), "reason": letter.error.reason, "error": str(letter.error)[:1000],
    }  # fmt: skip
    if letter.events != 1:
        found["events"] = str(letter.events)
    return {name: text.encode() for name, text in found.items()}
