"""`tocsin publish FILE`: rows of a file as predictions, without writing code."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ..consumers.settings import load
from ..core.errors import ConfigError
from ..producers.files import Columns, Row, rows
from ..producers.publisher import Publisher

_FLUSH_SECONDS = 30.0


def run(
    file: Path,
    model: str,
    columns: Columns,
    rate: float | None,
    bootstrap: str | None,
    topic: str | None,
    version: str | None,
    config: Path | None,
) -> int:
    """Publish the rows; return 1 if some could not be."""
    if rate is not None and rate <= 0:
        raise ConfigError(f"--rate must be above 0, got {rate}")
    kafka = load(config).kafka
    client = {k: v for k, v in kafka.connection().items() if k != "bootstrap_servers"}
    begin = time.monotonic()
    published = 0
    with Publisher(
        bootstrap or kafka.bootstrap,
        topic=topic or kafka.topic,
        model=model,
        version=version,
        **client,
    ) as events:
        for row in rows(file, columns):
            while not _publish(events, row):
                time.sleep(0.01)  # a file can wait, where a model server would drop
            published += 1
            if rate is not None:
                time.sleep(max(0.0, begin + published / rate - time.monotonic()))
        done = events.flush(_FLUSH_SECONDS)
        counts = events.counts
    seconds = time.monotonic() - begin
    print(
        f"{published} rows of {file.name} in {seconds:.1f} s: {counts.sent} events sent, "
        f"{counts.failed} failed"
    )
    if not done:
        print(f"{counts.queue_depth} still waited after {_FLUSH_SECONDS:.0f} s", file=sys.stderr)
    return int(counts.failed > 0 or not done)


def _publish(events: Publisher, row: Row) -> bool:
    """Publish a row; False if the queue is full."""
    failed = events.counts.failed
    queued = events.prediction(
        row.id,
        features=row.features,
        prediction=row.prediction,
        scores=row.scores,
        label=row.label,
        time=row.time,
    )
    return queued or events.counts.failed > failed


__all__ = ["Columns", "run"]
