"""`tocsin topics create`."""

from __future__ import annotations

from pathlib import Path

from ..consumers.settings import load
from ..consumers.topics import create_topics


def run(config: Path | None, partitions: int, replication: int) -> int:
    """Create what is missing, and say what that was."""
    settings = load(config)
    kafka = settings.kafka
    connection = kafka.connection()
    # A dead letter is a whole record and what was wrong with it.
    room = str(settings.limits.batch_bytes + (1 << 20))
    made = create_topics(
        kafka.bootstrap, [kafka.topic], partitions, replication=replication, connection=connection
    )
    letters = max(1, min(partitions, 8))
    made += create_topics(
        kafka.bootstrap,
        [kafka.dead_letters],
        letters,
        replication=replication,
        settings={"max.message.bytes": room},
        connection=connection,
    )
    for name, count in ((kafka.topic, partitions), (kafka.dead_letters, letters)):
        print(f"{name}: " + (f"created, {count} partitions" if name in made else "was there"))
    return 0
