"""Queued events to Kafka records, and what became of them. All of it runs on the publisher's thread."""

from __future__ import annotations

import itertools
import logging
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from ..core import cloudevents as ce

_log = logging.getLogger(__name__)

_IN_FLIGHT_BYTES: Final = (
    16 << 20
)  # on its way: with more than this, nothing further is handed over
_CONNECT_MS: Final = 3_000
_RETRY_SECONDS: Final = 1.0, 8.0  # between attempts to connect: first, and most after doubling
_CLOSE_SECONDS: Final = 1.0
_WARN_SECONDS: Final = 60.0
_DEFAULTS: Final[dict[str, Any]] = {
    "acks": "all",
    "linger_ms": 0,  # events are gathered before they get here
    "max_block_ms": 5_000,
    "request_timeout_ms": 10_000,
    "delivery_timeout_ms": 120_000,
    "reconnect_backoff_max_ms": 2_000,  # of 30 s: a broker that is back must not wait for us
    "bootstrap_timeout_ms": _CONNECT_MS,
    "metrics_enabled": False,  # kept and read by nobody; a third of a request's cost
}


class Table(NamedTuple):
    """Many events as one Arrow stream."""

    data: bytes
    events: int


Item: TypeAlias = bytes | Table
"""What is handed over: one event as JSON, or many as Arrow."""


class Deferred(NamedTuple):
    """Events that the publisher's thread is to encode: about how many bytes, how many events, and how."""

    size: int
    events: int
    make: Callable[[], Iterable[bytes]]


class Delivered(NamedTuple):
    """Events acknowledged, events given up, and records on their way."""

    sent: int
    failed: int
    in_flight: int


class Delivery:
    """Packs events into records, sends them and counts.

    Parameters
    ----------
    bootstrap, topic
        Where to.
    record_bytes
        Largest value of a record.
    source
        CloudEvents' source.
    client
        Settings of `kafka.KafkaProducer` that win over the ones here.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        record_bytes: int,
        source: str,
        client: Mapping[str, Any],
    ) -> None:
        self._settings: dict[str, Any] = {
            **_DEFAULTS,
            "bootstrap_servers": bootstrap.split(","),
            **client,
        }
        self._topic = topic
        self._record_bytes = record_bytes
        self._source = source
        self._name = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._sent = self._failed = 0
        self._records = self._bytes = 0
        self._producer: Any = None
        self._broken = False
        self._retry = _RETRY_SECONDS[0]
        self._warned = -_WARN_SECONDS

    def counts(self) -> Delivered:
        """What became of what was handed over."""
        return Delivered(self._sent, self._failed, self._records)

    def is_ready(self) -> bool:
        """Whether records can be handed over now: connected, and not too much on its way."""
        if self._broken:
            # After a broker has lost its state an idempotent producer fails for ever: build anew.
            self.close()
        if self._producer is None and not self._connect():
            return False
        return self._bytes < _IN_FLIGHT_BYTES

    def wait(self, hurry: threading.Event) -> None:
        """Wait before `is_ready` is asked again."""
        if self._producer is not None or hurry.is_set():
            time.sleep(0.01)
        else:
            hurry.wait(self._retry)
            self._retry = min(2 * self._retry, _RETRY_SECONDS[1])

    def _connect(self) -> bool:
        from kafka import KafkaProducer
        from kafka.errors import KafkaError
        from kafka.net.compat import KafkaNetClient

        _draw_apart()
        made: list[Any] = []

        def client(**settings: Any) -> Any:
            made.append(KafkaNetClient(**settings))
            return made[0]

        given: dict[str, Any] = {"kafka_client": client, **self._settings}
        try:
            self._producer = KafkaProducer(**given)
        except (KafkaError, OSError, ValueError, TypeError) as error:
            for left in made:  # a producer that cannot be made leaves its sockets to the collector
                left.close()
            now = time.monotonic()
            if now - self._warned >= _WARN_SECONDS:
                self._warned = now
                _log.warning("not connected to Kafka yet: %s: %s", type(error).__name__, error)
            return False
        self._broken = False
        self._retry = _RETRY_SECONDS[0]
        return True

    def send(self, model: str, items: Sequence[Item]) -> None:
        """Hand over events of one model, packed into one record as far as they fit."""
        for value, events, is_arrow in _packed(items, self._record_bytes):
            kind, content = (ce.PREDICTIONS, ce.ARROW) if is_arrow else (ce.EVENTS, ce.LINES)
            headers = ce.headers(
                type=kind,
                source=self._source,
                id=f"{self._name}-{next(self._numbers)}",
                content_type=content,
            )
            self._hand_over(model.encode(), value, headers, events)

    def _hand_over(self, key: bytes, value: bytes, headers: ce.Headers, events: int) -> None:
        from kafka.errors import KafkaError, MessageSizeTooLargeError

        size = len(value)
        with self._lock:
            self._records += 1
            self._bytes += size

        def settle(sent: int, failed: int) -> None:
            with self._lock:
                self._records -= 1
                self._bytes -= size
                self._sent += sent
                self._failed += failed

        def give_up(error: object) -> None:
            settle(0, events)
            is_ours = isinstance(error, MessageSizeTooLargeError)  # the connection is well
            self._broken = not (is_ours or getattr(error, "retriable", False))
            _log.warning("%d events were not delivered: %s", events, error)

        if self._producer is None:
            give_up("the publisher was closed before Kafka was reached")
            return
        try:
            future = self._producer.send(self._topic, value=value, key=key, headers=headers)
        except (KafkaError, OSError, ValueError, AssertionError) as error:
            give_up(error)
            return
        future.add_callback(lambda _: settle(events, 0))
        future.add_errback(give_up)

    def close(self) -> None:
        """Let go of the connection; what is on its way gets a second."""
        from kafka.errors import KafkaError

        producer, self._producer, self._broken = self._producer, None, False
        if producer is None:
            return
        try:
            producer.close(timeout=_CLOSE_SECONDS)
        except KafkaError:
            # It gives up at what it could not deliver, before it ends its thread: end that too.
            producer._sender.force_close()
            producer._sender.join(_CLOSE_SECONDS)


def _draw_apart() -> None:
    """Give kafka-python a generator of its own: it draws nodes and waits, and Python's is what the caller draws from, a training say."""
    for name, module in sys.modules.copy().items():  # another thread may import meanwhile
        if name.startswith("kafka.") and getattr(module, "random", None) is random:
            module.random = random.Random()  # type: ignore[attr-defined] # noqa: S311 - no secret


def _packed(items: Sequence[Item], record_bytes: int) -> Iterator[tuple[bytes, int, bool]]:
    """Yield value, number of events and whether it is Arrow, of each record to send.

    Events keep their order; a single event that is larger than a record goes alone.
    """
    lines: list[bytes] = []
    size = 0
    for item in items:
        if isinstance(item, Table):
            if lines:
                yield b"\n".join(lines), len(lines), False
                lines, size = [], 0
            yield item.data, item.events, True
            continue
        if lines and size + len(item) + 1 > record_bytes:
            yield b"\n".join(lines), len(lines), False
            lines, size = [], 0
        lines.append(item)
        size += len(item) + 1
    if lines:
        yield b"\n".join(lines), len(lines), False
