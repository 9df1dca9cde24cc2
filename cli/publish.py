"""`tocsin publish FILE`: rows of a file as predictions, without writing code."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ..consumers.settings import load
from ..core.errors import ConfigError, SchemaError
from ..core.events import Event, Label, Prediction
from ..core.names import CheckedNames, check_source
from ..core.wire import check_time
from ..producers.files import Columns, rows
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
    try:
        check_source(model, version, "production")
    except ValueError as error:
        raise ConfigError(f"--model and --version: {error}") from None
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
        try:
            for event in rows(file, columns):
                if isinstance(event, Prediction):
                    _check(file, columns, event, published, events.names)
                while not _publish(events, event):
                    time.sleep(0.01)  # a file can wait, where a model server would drop
                published += 1
                if rate is not None:
                    time.sleep(max(0.0, begin + published / rate - time.monotonic()))
        except ConfigError as error:
            if not published:
                raise
            events.flush(_FLUSH_SECONDS)
            raise ConfigError(f"{error}; the {published:,} rows before it are published") from None
        if not published:
            raise ConfigError(f"{file.name} has no rows")
        done = events.flush(_FLUSH_SECONDS)
        counts = events.counts
    seconds = time.monotonic() - begin
    print(
        f"{published:,} row{'' if published == 1 else 's'} of {file.name} in {seconds:.1f} s: {counts.sent:,} events sent, "
        f"{counts.failed:,} failed"
    )
    if not done:
        print(
            f"{counts.queue_depth:,} events still waited after {_FLUSH_SECONDS:.0f} s; is Kafka running "
            f"at {bootstrap or kafka.bootstrap}? tocsin doctor says more",
            file=sys.stderr,
        )
    return int(counts.failed > 0 or not done)


def _check(file: Path, columns: Columns, event: Prediction, row: int, names: CheckedNames) -> None:
    """Refuse times and names that workers would refuse."""
    where = f"{file.name}, row {row + 1}"
    try:
        check_time(event.time, columns.time or "time")
    except SchemaError as error:
        raise ConfigError(f"{where}: {error}; found {event.time}") from None
    try:
        names.check(
            event.prediction_id, event.model, event.version, event.environment, event.client,
            event.segments,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _publish(events: Publisher, event: Event) -> bool:
    """Publish an event; False if the queue is full."""
    failed = events.counts.failed
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    identity = fields.pop("prediction_id")
    if fields["model"] == "default":
        fields["model"] = None  # the one on the command line
    if isinstance(event, Label):
        queued = events.label(identity, **fields)
    else:
        del fields["sample_rate"]
        queued = events.prediction(identity, **fields)
    return queued or events.counts.failed > failed


__all__ = ["Columns", "run"]
