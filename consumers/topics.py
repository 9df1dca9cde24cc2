"""Topics: made, and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import KafkaError, TopicAlreadyExistsError
from kafka.structs import TopicPartition

from ..core.errors import TransportError


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
        admin: Any = KafkaAdminClient(**{"bootstrap_servers": bootstrap, **(connection or {})})
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


def end_offsets(bootstrap: str, topic: str) -> dict[int, int]:
    """Return the end of each partition of a topic, by its number."""
    consumer: Any = KafkaConsumer(bootstrap_servers=bootstrap)
    try:
        found = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
        return {tp.partition: end for tp, end in consumer.end_offsets(found).items()}
    finally:
        consumer.close()
