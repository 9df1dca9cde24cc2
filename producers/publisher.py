"""Publishes inference events without ever standing in the way of the inference."""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import socket
import threading
import time
import uuid
import weakref
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from ..core.events import ClassOrNumber, Environment, Label, Prediction, Scalar, Tensor
from ..core.names import LONGEST_ID, CheckedNames, check_source
from ..core.wire import encode
from .arguments import check_client, check_mapping, moment
from .delivery import Deferred, Delivery, Item
from .packing import pack_table

_log = logging.getLogger(__name__)

_WARN_SECONDS: Final = 60.0  # between two warnings of one publisher
_EXIT_SECONDS: Final = 2.0  # that the interpreter's end may wait for what is queued

RECORD_BYTES: Final = 1_000_000
"""Largest record sent by default: brokers refuse more than 1,048,588 bytes, headers included."""


class Counts(NamedTuple):
    """What became of the events given to a publisher.

    `sent` were acknowledged by the broker, `dropped` found the queue full, `failed` could not be encoded
    or delivered or have a name that workers would refuse, `sampled_out` were left out by `sample_rate`. `queue_depth` is what still waits or is
    on its way; a batch counts as one there.
    """

    sent: int
    dropped: int
    failed: int
    sampled_out: int
    queue_depth: int


class Publisher:
    """Publishes predictions and labels from a model server.

    Parameters
    ----------
    bootstrap
        `host:port` of Kafka, several separated by commas.
    topic
        Where events go.
    model, version, environment
        What is said of each event that does not say otherwise.
    sample_rate
        Share of the predictions to publish, in (0, 1]. Which ones depends on their ids only, so that
        a prediction and its label are kept or left out together.
    queue_events, queue_bytes
        What waits for the broker, at most; beyond, the newest is dropped and counted.
    linger
        Seconds for which events are gathered into one record.
    record_bytes
        Largest record; keep it below the broker's `message.max.bytes`.
    source
        CloudEvents' source: who publishes. The host's name by default.
    **client
        Further settings of `kafka.KafkaProducer`, such as `security_protocol`.

    Raises
    ------
    TypeError, ValueError
        A parameter is out of range, or neither this nor `kafka.KafkaProducer` has it; workers would refuse the name.

    Notes
    -----
    Guarantees, with a broker that is missing or hangs as well: `prediction`, `label` and
    `predictions` return at once, raise nothing and block on nothing. One thread does the rest; it starts
    with the first event. Safe after fork: the child begins with an empty queue and connects anew, and
    what the parent has queued is the parent's to send. At the interpreter's end what is queued is
    given two seconds; call `flush` or use `with` to give it more.

    Examples
    --------
    >>> from tocsin import Publisher
    >>> events = Publisher("localhost:9092", model="fraud", version="7")
    >>> events.prediction("p-1", features={"amount": 41.8, "country": "NL"}, prediction="ok")
    True
    """

    def __init__(
        self,
        bootstrap: str = "localhost:9092",
        *,
        topic: str = "tocsin.events",
        model: str = "default",
        version: str | None = None,
        environment: Environment = "production",
        sample_rate: float = 1.0,
        queue_events: int = 100_000,
        queue_bytes: int = 64 << 20,
        linger: float = 0.03,
        record_bytes: int = RECORD_BYTES,
        source: str | None = None,
        **client: Any,
    ) -> None:
        if not 0 < sample_rate <= 1:
            raise ValueError(f"sample_rate must be above 0 and at most 1, got {sample_rate}")
        if min(queue_events, queue_bytes, record_bytes) < 1 or linger < 0:
            raise ValueError(
                "queue_events, queue_bytes and record_bytes must be above 0 and linger at least 0, "
                f"got {queue_events}, {queue_bytes}, {record_bytes} and {linger}"
            )
        check_client(client, inspect.signature(Publisher).parameters)
        check_source(model, version, environment)
        self._good_model, self._good_version, self._good_environment = model, version, environment
        self.names = CheckedNames()
        self.model = model
        self.version = version
        self.environment: Environment = environment
        self.sample_rate = sample_rate
        self._threshold = int(sample_rate * 2**32)
        self._queue_events = queue_events
        self._queue_bytes = queue_bytes
        self._linger = linger
        self._record_bytes = record_bytes
        host = socket.gethostname()
        self._delivery_settings: dict[str, Any] = {
            "bootstrap": bootstrap, "topic": topic, "record_bytes": record_bytes,
            "source": source or f"//{host}/tocsin", "client": client,
        }  # fmt: skip
        self._reset()
        _publishers.add(self)

    def _reset(self) -> None:
        """Begin with nothing queued and no thread: at the start, and in a forked child."""
        # Raw bytes, which the garbage collector does not follow: a server's heap is large.
        self._queues: dict[str, deque[Item | Deferred]] = {}
        self._waiting = self._bytes = 0
        self._dropped = self._failed = self._sampled_out = 0
        self._counting = threading.Lock()  # never taken on the way of an event that is queued
        self._warned = -_WARN_SECONDS
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._busy = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self._delivery = Delivery(**self._delivery_settings)

    def prediction(
        self,
        id: str | int | None = None,  # noqa: A002  (what callers call it)
        *,
        features: Mapping[str, Scalar] | None = None,
        prediction: ClassOrNumber | None = None,
        scores: Mapping[str, float] | None = None,
        logits: Sequence[float] | None = None,
        embedding: Sequence[float] | None = None,
        input: Tensor | None = None,  # noqa: A002
        client: str | None = None,
        segments: Mapping[str, str] | None = None,
        label: ClassOrNumber | None = None,
        time: datetime | float | None = None,
        model: str | None = None,
        version: str | None = None,
        environment: Environment | None = None,
    ) -> bool:
        """Publish one prediction; see `tocsin.Prediction` for the fields.

        Numpy arrays and scalars and torch tensors on the CPU are taken as well. NaN and infinities are
        published as null, which means missing. Everything is copied before this returns.

        Parameters
        ----------
        id
            The prediction's id, under which its label will come; a random one where None. What is no
            text, such as a number, is published as text.
        time
            When; now where None. A time without a zone is this machine's, a number is seconds since
            1970.

        Returns
        -------
        bool
            Whether the event was queued. False is counted: the queue is full, the event was left out
            by sampling, cannot be encoded, or has a name that workers would refuse.
        """
        try:
            identity = uuid.uuid4().hex if id is None else id if isinstance(id, str) else str(id)
            if self.is_left_out(identity):
                return False
            chosen = model or self.model
            if type(features) is not dict:  # the usual case is told apart cheaply
                check_mapping("features", features)
            if scores is not None and type(scores) is not dict:
                check_mapping("scores", scores)
            if segments is not None and type(segments) is not dict:
                check_mapping("segments", segments)
            version, environment = version or self.version, environment or self.environment
            if not (  # the usual case is told apart cheaply here as well
                client is None
                and segments is None
                and 0 < len(identity) <= LONGEST_ID
                and chosen is self._good_model
                and version is self._good_version
                and environment is self._good_environment
            ):
                self.names.check(identity, chosen, version, environment, client, segments)
            event = Prediction(
                prediction_id=identity,
                model=chosen,
                version=version,
                time=_now() if time is None else moment(time),
                features=features or {},  # type: ignore[arg-type]
                prediction=prediction,
                scores=scores,  # type: ignore[arg-type]
                logits=logits,  # type: ignore[arg-type]
                embedding=embedding,  # type: ignore[arg-type]
                input=input,
                client=client,
                segments=segments,  # type: ignore[arg-type]
                label=label,
                environment=environment,
                sample_rate=self.sample_rate,
            )
            data = encode(event)
            return self._put(chosen, data, 1, len(data))
        except Exception as error:  # nothing may reach the caller: it is answering a request
            return self.failed(error)

    def label(
        self,
        id: str | int,  # noqa: A002
        label: ClassOrNumber,
        *,
        observed_at: datetime | float | None = None,
        revision: int = 0,
        model: str | None = None,
    ) -> bool:
        """Publish the truth about an earlier prediction; see `tocsin.Label` for the fields.

        Returns
        -------
        bool
            Whether the label was queued; False if its prediction was left out by sampling.
        """
        try:
            identity = id if isinstance(id, str) else str(id)
            if self.is_left_out(identity):
                return False
            if label is None:
                raise TypeError("a label must be a class or a number, got None")
            chosen = model or self.model
            self.names.check(identity, chosen, None, self.environment)
            event = Label(
                prediction_id=identity,
                label=label,
                model=chosen,
                observed_at=_now() if observed_at is None else moment(observed_at),
                revision=revision,
            )
            data = encode(event)
            return self._put(chosen, data, 1, len(data))
        except Exception as error:  # as above
            return self.failed(error)

    def predictions(self, batch: Any, *, model: str | None = None) -> bool:
        """Publish many predictions at once.

        Parameters
        ----------
        batch
            Columns by name, as a mapping of arrays or an Arrow table; the names are the fields of
            `tocsin.Prediction`, of which `prediction_id` is required. `features`, `scores` and
            `segments` are mappings of name to (n,) array, `logits` and `embedding` (n, width) arrays.
            `time` is numpy's datetime64, which is UTC, or datetimes with a time zone.
            With pyarrow installed it goes out as Arrow, else as JSON.

        Returns
        -------
        bool
            Whether all of it was queued.
        """
        try:
            chosen = model or self.model
            defaults = {
                "model": chosen, "version": self.version, "environment": self.environment,
            }  # fmt: skip
            pieces = pack_table(batch, defaults, self._record_bytes, self._threshold)
            # All are queued, also after one that found the queue full.
            queued = [
                self._put(of, piece, 1, len(piece))
                if isinstance(piece, bytes)
                else self._put(of, piece, piece.events, len(piece.data))
                for of, piece in pieces
            ]
            return all(queued)
        except Exception as error:  # as above
            return self.failed(error)

    def is_left_out(self, identity: str) -> bool:
        """Whether sampling leaves out the prediction with this id, and its label; counts it if so."""
        if self.sample_rate == 1 or zlib.crc32(identity.encode()) < self._threshold:
            return False
        with self._counting:
            self._sampled_out += 1
        return True

    def defer(self, deferred: Deferred) -> bool:
        """Queue events that this publisher's thread is to encode; for hooks."""
        return self._put(self.model, deferred, deferred.events, deferred.size)

    def failed(self, error: Exception) -> bool:
        """Count an event that could not be published, and warn once in a while; returns False."""
        with self._counting:
            self._failed += 1
        # What other libraries raise may hold values.
        ours = type(error).__module__ in ("builtins", "msgspec")
        detail = f": {error}"[:300] if ours else ""
        self._warn(f"an event was not published: {type(error).__name__}{detail}")
        return False

    def _put(self, model: Any, item: Item | Deferred, events: int, size: int) -> bool:
        if self._closed:
            raise RuntimeError("the publisher is closed")
        if not isinstance(model, str):
            raise TypeError(f"the model must be text, got {type(model).__name__}")
        # Added up without a lock: threads may miss one another's last additions, so the bounds are
        # kept to within a few events.
        if self._waiting >= self._queue_events or self._bytes + size > self._queue_bytes:
            with self._counting:
                self._dropped += events
            self._warn("the queue is full and events are dropped; is Kafka reachable?")
            return False
        self._waiting += events
        self._bytes += size
        queue = self._queues.get(model)
        if queue is None:
            queue = self._queues.setdefault(model, deque())
        queue.append(item)
        if not self._wake.is_set():
            if self._thread is None:
                self._start()
            self._wake.set()
        return True

    def _warn(self, message: str) -> None:
        now = time.monotonic()
        if now - self._warned >= _WARN_SECONDS:
            self._warned = now
            _log.warning("%s", message)

    def _start(self) -> None:
        with self._counting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tocsin", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        """The one thread: wait, gather, hand over. While Kafka is away, events wait in the queue."""
        delivery = self._delivery
        while not self._closed:
            self._wake.wait()
            self._hurry.wait(self._linger)
            self._busy = True
            self._wake.clear()
            while not self._closed and not delivery.is_ready():
                delivery.wait(self._hurry)
            self._waiting = self._bytes = 0
            for model, queue in list(self._queues.items()):
                items = [queue.popleft() for _ in range(len(queue))]
                try:
                    delivery.send(model, list(self._encoded(items)))
                except Exception as error:  # one model's events must not end the thread
                    with self._counting:
                        self._failed += len(items) - 1
                    self.failed(error)
            self._busy = False
        delivery.close()

    def _encoded(self, items: Iterable[Item | Deferred]) -> Iterator[Item]:
        for item in items:
            if isinstance(item, Deferred):
                yield from self._made(item)
            else:
                yield item

    def _made(self, deferred: Deferred) -> list[bytes]:
        try:
            return list(deferred.make())
        except Exception as error:  # one batch that cannot be encoded must not end the thread
            with self._counting:
                self._failed += deferred.events - 1
            self.failed(error)
            return []

    @property
    def counts(self) -> Counts:
        """What became of the events so far."""
        delivered = self._delivery.counts()
        return Counts(
            sent=delivered.sent,
            dropped=self._dropped,
            failed=self._failed + delivered.failed,
            sampled_out=self._sampled_out,
            queue_depth=self._depth(),
        )

    def _depth(self) -> int:
        busy = int(self._busy)  # before the queues' lengths: what is taken from there is busy
        waiting = sum(map(len, list(self._queues.values())))
        return waiting + self._delivery.counts().in_flight or busy

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything queued is acknowledged or failed.

        Parameters
        ----------
        timeout
            Seconds to wait at most.

        Returns
        -------
        bool
            Whether nothing is left.
        """
        deadline = time.monotonic() + timeout
        self._hurry.set()
        try:
            while self._depth():
                if time.monotonic() >= deadline:
                    return False
                self._wake.set()
                time.sleep(0.002)
            return True
        finally:
            if not self._closed:
                self._hurry.clear()

    def close(self, timeout: float = 10.0) -> bool:
        """Flush and stop; further events are counted as failed.

        Returns
        -------
        bool
            Whether everything queued was acknowledged or failed within `timeout` seconds.
        """
        done = self.flush(timeout)
        self._closed = True
        self._hurry.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(1.0)
        return done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_publishers: weakref.WeakSet[Publisher] = weakref.WeakSet()


def _after_fork() -> None:
    for publisher in list(_publishers):
        publisher._reset()


def _at_exit() -> None:
    deadline = time.monotonic() + _EXIT_SECONDS
    for publisher in list(_publishers):
        if publisher._thread is not None and not publisher._closed:
            publisher.close(max(0.0, deadline - time.monotonic()))


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)


def _now() -> datetime:
    return datetime.now(UTC)
