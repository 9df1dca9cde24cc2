"""Topics: made, and measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import KafkaError, OffsetOutOfRangeError, TopicAlreadyExistsError
from kafka.structs import TopicPartition

from ..core.errors import TransportError
from .records import Partition

_FETCH_SECONDS: Final = 5.0


def create_topics(
    bootstrap: str,
    names: Sequence[str],
    partitions: int,
    *,
    replication: int = 1,
    settings: Mapping[str, str] | None = None,
    connection: Mapping[str, Any] | None = None,
) -> list[str]:
    """Create topics; return those that were not there before.

    Parameters
    ----------
    bootstrap
        `host:port`.
    names
        Of the topics.
    partitions, replication
        Of each.
    settings
        Topic settings, in Kafka's names.
    connection
        Further settings of the client.

    Raises
    ------
    TransportError
        Kafka does not answer, or refuses.
    """
    made = []
    try:
        given: dict[str, Any] = {"bootstrap_servers": bootstrap, **(connection or {})}
        admin: Any = KafkaAdminClient(**given)
        try:
            for name in names:
                options = {
                    "num_partitions": partitions,
                    "replication_factor": replication,
                    "configs": dict(settings or {}),
                }
                try:
                    admin.create_topics({name: options}, wait_for_metadata=True)
                except TopicAlreadyExistsError:
                    continue
                made.append(name)
        finally:
            admin.close()
    except (KafkaError, OSError) as error:
        raise TransportError(f"topics cannot be created at {bootstrap}: {error}") from error
    return made


def end_offsets(
    connection: Mapping[str, Any], partitions: Sequence[Partition]
) -> dict[Partition, int]:
    """Return the offset after the last record of each partition.

    What ListOffsets says is checked by a fetch: the embedded broker answers with one past the *first*
    record of the last batch.

    Parameters
    ----------
    connection
        Settings of the client.
    partitions
        Which.

    Raises
    ------
    TransportError
        Kafka does not answer.
    """
    try:
        consumer: Any = KafkaConsumer(**connection, fetch_max_wait_ms=100)
        try:
            return _ends(consumer, partitions)
        finally:
            consumer.close()
    except (KafkaError, OSError) as error:
        raise TransportError(f"Kafka does not tell offsets: {error}") from error


def begins_at_zero(connection: Mapping[str, Any], partition: Partition) -> bool:
    """Return whether the first record of a partition can still be read, whatever ListOffsets says.

    Two producers that write to a new partition at once make the embedded broker list its beginning
    as 1, for good, while both records are there.

    Raises
    ------
    TransportError
        Kafka does not answer.
    """
    tp = TopicPartition(*partition)
    try:
        given: dict[str, Any] = {**connection, "auto_offset_reset": "none"}
        consumer: Any = KafkaConsumer(**given)
        try:
            consumer.assign([tp])
            consumer.seek(tp, 0)
            deadline = time.monotonic() + _FETCH_SECONDS
            while time.monotonic() < deadline:
                if consumer.poll(timeout_ms=200):
                    return True
            return False
        except OffsetOutOfRangeError:
            return False
        finally:
            consumer.close()
    except (KafkaError, OSError) as error:
        raise TransportError(f"Kafka does not tell offsets: {error}") from error


def _ends(consumer: Any, partitions: Sequence[Partition]) -> dict[Partition, int]:
    found = {TopicPartition(*p): p for p in partitions}
    listed = consumer.end_offsets(list(found))
    asked = [tp for tp in found if listed[tp]]
    ends = {found[tp]: end for tp, end in listed.items()}
    consumer.assign(asked)
    for tp in asked:
        consumer.seek(tp, listed[tp] - 1)
    deadline = time.monotonic() + _FETCH_SECONDS
    while asked and time.monotonic() < deadline:
        consumer.poll(timeout_ms=200)
        for tp in [tp for tp in asked if consumer.highwater(tp) is not None]:
            ends[found[tp]] = max(listed[tp], consumer.highwater(tp))
            asked.remove(tp)
            consumer.pause(tp)
    return ends


def partitions_of(connection: Mapping[str, Any], topic: str) -> list[Partition]:
    """Return the partitions of a topic, none if there is no such topic."""
    consumer: Any = KafkaConsumer(**connection)
    try:
        return [Partition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
    finally:
        consumer.close()
