"""Records from Kafka: kafka-python's consumer group, with what can go wrong in it expected."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from kafka import ConsumerRebalanceListener, KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import IllegalStateError, KafkaConfigurationError, KafkaError, KafkaTimeoutError
from kafka.structs import OffsetAndMetadata, TopicPartition

from ..core.errors import ConfigError, TransportError
from .columnar_fetch import install, read_batches, read_single
from .records import Partition, Poison, Records
from .settings import Settings
from .source import Bounds, Changes
from .topics import begins_at_zero, end_offsets

_log = logging.getLogger(__name__)

_BATCHES: Final = 500  # most batches a poll; they are not decompressed there
_BOUNDS_SECONDS: Final = 5.0
_STALL_SECONDS: Final = 1.0
_LONGEST_WAIT_MS: Final = 5_000


class KafkaSource:
    """A member of the consumer group.

    Parameters
    ----------
    settings
        Where Kafka is and what to read.
    extra
        Consumer settings that only suit the embedded broker.

    Raises
    ------
    ConfigError
        A setting is wrong, or the topic does not exist.
    TransportError
        Kafka does not answer.
    """

    def __init__(self, settings: Settings, extra: Mapping[str, Any] | None = None) -> None:
        kafka = settings.kafka
        self._decompressed_bytes = settings.limits.batch_bytes + (1 << 20)
        self._connection = kafka.connection()
        self._listener = _Notes()
        self._stalled_since: float | None = None
        chosen: dict[str, Any] = {
            # What a broker sends at most for a partition in one answer; 1 or 2 MiB keep the next
            # answer on its way while this one is worked on.
            "max_partition_fetch_bytes": 2 << 20,
            "fetch_max_bytes": settings.worker.buffer_bytes,
            "max_poll_records": _BATCHES,
            "auto_offset_reset": "earliest",
            "isolation_level": "read_committed",
            **(extra or {}),
            **kafka.client,
        }
        try:
            self._consumer: Any = KafkaConsumer(
                **kafka.connection(),
                **chosen,
                group_id=kafka.group,
                enable_auto_commit=False,
                allow_auto_create_topics=False,
                partition_assignment_strategy=[CooperativeStickyAssignor],
            )
        except (KafkaConfigurationError, TypeError) as error:
            raise ConfigError(f"kafka: {error}") from None
        except KafkaError as error:
            raise TransportError(unreachable(kafka.bootstrap, error)) from None
        self._columnar = settings.worker.columnar == "auto" and self._install()
        if not self._columnar:
            _log.warning("reading record by record: slower, the same results")
        if kafka.topic not in self._consumer.topics():
            self._consumer.close(timeout_ms=1000)
            raise ConfigError(
                f"the topic {kafka.topic} does not exist; create it with `tocsin topics create`"
            )
        self._consumer.subscribe([kafka.topic], listener=self._listener)
        self._listener.consumer = self._consumer
        # Where the log no longer holds a position, or never did, kafka-python would go on elsewhere
        # without a word: such a partition is claimed again instead, and that says what is missing.
        self._consumer._subscription.request_offset_reset = self._claim_again

    def _claim_again(self, tp: Any, _strategy: Any = None) -> None:
        self._listener.on_partitions_assigned([tp])

    def _install(self) -> bool:
        try:
            install(self._consumer)
        except AttributeError as error:
            _log.warning("this kafka-python is not one whose batches can be read whole: %s", error)
            return False
        return True

    def poll(self, seconds: float) -> Iterator[Records | Poison]:
        """Wait for records and yield them."""
        try:
            polled = self._consumer.poll(timeout_ms=int(seconds * 1000))
        except (KafkaError, OSError) as error:
            raise TransportError(
                f"Kafka does not answer: {type(error).__name__}: {error}"
            ) from error
        self._watch_stall(bool(polled))
        if self._columnar:
            yield from read_batches(polled, self._decompressed_bytes)
        else:
            yield from read_single(polled)

    def _watch_stall(self, is_answered: bool) -> None:
        """Let fetches wait longer when a broker answers nothing although there is something.

        One that scans its log for each fetch, as the embedded one does, gives up when the wait is over.
        """
        now = time.monotonic()
        if is_answered or not self._is_behind():
            self._stalled_since = None
        elif self._stalled_since is None:
            self._stalled_since = now
        elif now - self._stalled_since > _STALL_SECONDS:
            self._stalled_since = None
            fetcher = self._consumer._fetcher.config
            if fetcher["fetch_max_wait_ms"] < _LONGEST_WAIT_MS:
                fetcher["fetch_max_wait_ms"] = min(
                    2 * fetcher["fetch_max_wait_ms"], _LONGEST_WAIT_MS
                )
                _log.warning(
                    "the broker answers nothing in time; fetches wait for %d ms from here on",
                    fetcher["fetch_max_wait_ms"],
                )

    def _is_behind(self) -> bool:
        """Whether some partition is known to hold records that were not fetched."""
        reading = self._consumer.assignment() - self._consumer.paused()
        ends = {tp: self._consumer.highwater(tp) for tp in reading}
        return any(end and self._consumer.position(tp) < end for tp, end in ends.items())

    def changes(self) -> Changes:
        """Return what changed since the last call."""
        return self._listener.take()

    def bounds(self, partition: Partition, at: int | None) -> Bounds:
        """Return what a partition holds."""
        tp = TopicPartition(*partition)
        milliseconds = int(_BOUNDS_SECONDS * 1000)
        try:
            first = self._consumer.beginning_offsets([tp], timeout_ms=milliseconds)[tp]
            end = self._consumer.end_offsets([tp], timeout_ms=milliseconds)[tp]
        except (KafkaError, OSError) as error:
            raise TransportError(f"Kafka does not tell offsets: {error}") from error
        # Make sure: not every broker lists its bounds rightly.
        if first and (at is None or at < first) and begins_at_zero(self._connection, partition):
            first = 0
        if at is not None and at > end:
            end = end_offsets(self._connection, [partition])[partition]
        return Bounds(first, end)

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on from `offset`, and let the partition yield."""
        tp = TopicPartition(*partition)
        try:
            self._consumer.seek(tp, offset)
            self._consumer.resume(tp)
        except (IllegalStateError, KeyError):
            pass  # taken away in the meantime; the next look at changes says so

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Let partitions yield nothing until the next `seek`."""
        mine = self._consumer.assignment()
        self._consumer.pause(*(tp for p in partitions if (tp := TopicPartition(*p)) in mine))

    def mark(self, offsets: Mapping[Partition, int]) -> None:
        """Commit offsets to Kafka, for tools that show lag; nothing is read from there."""
        if not offsets:
            return
        self._consumer.commit_async(
            {TopicPartition(*p): OffsetAndMetadata(o, "", -1) for p, o in offsets.items()},
            callback=lambda _offsets, _answer: None,
        )

    def close(self, seconds: float) -> None:
        """Leave the group within `seconds`."""
        try:
            self._consumer.close(autocommit=False, timeout_ms=int(seconds * 1000))
        except (KafkaError, OSError) as error:
            _log.warning("leaving the group failed: %s", error)


class _Notes(ConsumerRebalanceListener):  # type: ignore[misc]
    """Takes notes on the client's IO thread, where committing or asking for offsets would raise."""

    def __init__(self) -> None:
        self.consumer: Any = None
        self._lock = threading.Lock()
        self._assigned: set[Partition] = set()
        self._revoked: set[Partition] = set()

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """Pause new partitions, so that nothing is read before the state is there, and note them."""
        found = list(assigned)
        if self.consumer is not None:
            self.consumer.pause(*found)
        with self._lock:
            self._assigned |= {Partition(tp.topic, tp.partition) for tp in found}

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """Note what is taken away."""
        gone = {Partition(tp.topic, tp.partition) for tp in revoked}
        with self._lock:
            self._revoked |= gone
            self._assigned -= gone

    on_partitions_lost = on_partitions_revoked

    def take(self) -> Changes:
        """Return the notes and begin anew."""
        with self._lock:
            found = Changes(self._assigned, self._revoked)
            self._assigned, self._revoked = set(), set()
        return found


def unreachable(bootstrap: str, error: Exception) -> str:
    """Return what to tell a user whose Kafka cannot be reached."""
    hint = ""
    if isinstance(error, KafkaTimeoutError):
        hint = "; is it running, and are user name and password right? both look the same from here"
    return f"no Kafka at {bootstrap}: {error}{hint}"
