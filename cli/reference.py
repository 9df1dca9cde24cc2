"""`tocsin reference FILE OUT`: what streams were like in training, for workers to compare with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from ..consumers import trained_estimates, training_labels, training_reference
from ..consumers.model_settings import ModelSettings
from ..consumers.row_collector import RowCollector
from ..consumers.settings import load
from ..consumers.training_streams import TrainingStreams
from ..core.batch import EventBatch, Origin
from ..core.errors import ConfigError
from ..core.events import Prediction
from ..detectors.leak_verdicts import plain
from ..producers import files
from ..producers.files import Columns

_AT_ONCE: Final = 10_000
_BYTES: Final = 1 << 26  # of raw inputs


def run(
    file: Path,
    out: Path,
    columns: Columns,
    model: str | None,
    config: Path | None,
    *,
    trained_on: Path | None = None,
    fingerprints: bool = True,
) -> int:
    """Write what the streams of a file are like, and say which they are."""
    if out.suffix != ".npz":
        raise ConfigError(f"{out}: the reference's name must end in .npz")
    settings = _settings(model, config)
    streams, collector = TrainingStreams(settings), RowCollector(settings)
    for batch in _batches(file, columns):
        streams.add(batch)
        if trained_on is None:
            collector.add(batch)
    if trained_on is not None:
        for batch in _batches(trained_on, columns):
            collector.add(batch)
    if not streams.rows:
        raise ConfigError(f"{file.name} has no rows")
    rows = collector.rows(fingerprints=fingerprints)
    parts, why_not = rows.parts() | streams.parts(), ""
    try:
        parts |= {trained_estimates.PART: streams.estimates()}
    except ValueError as error:
        why_not = str(error)
    left_out = training_reference.write(
        out, streams.values(), streams.rows, streams.categories(), streams.names(), parts
    )
    written = training_reference.read(out)
    print(f"{out}: {streams.rows:,} rows of {file.name}, {len(written.samples)} streams:")
    print("  " + ", ".join(written.samples))
    for name, count in left_out.items():
        print(
            f"  left out: {name}, which has {count:,} values; a tenth of the rows and 1,000 are needed"
        )
    if "error" not in written.samples:
        print("  no errors: --label and --prediction name the columns that they follow from")
    if training_labels.PART in parts:
        for name in sorted(training_labels.read(parts[training_labels.PART]).copies):
            print(
                f"  {plain(name)} is the label or a copy of it in these rows: a leak, unless it is known before the "
                "label; workers will name it"
            )
    if rows.laws:
        print(
            "  fingerprints of rows, by which who holds the file can test whether a row was trained on; "
            "--without-fingerprints leaves them out"
        )
    if rows.losses is not None:
        print(f"  losses of {rows.losses.rows:,} rows, {rows.losses.mean:.4g} on average")
    if why_not:
        print(f"  no estimates of performance without labels: {why_not}")
    else:
        print(
            "  estimates of performance without labels: as good as these rows are new to the model; of rows "
            "that it was fitted on they promise too much"
        )
    print(f"name it as drift.reference: {out} in tocsin.yaml")
    return 0


def _settings(model: str | None, config: Path | None) -> ModelSettings:
    settings = load(config)
    return settings.defaults if model is None else settings.of(model)


def _batches(file: Path, columns: Columns) -> Iterator[EventBatch]:
    events = (event for event in files.rows(file, columns) if isinstance(event, Prediction))
    for some in _parts(events):
        yield from EventBatch.of("", [(Origin(i, 0, 0), event) for i, event in enumerate(some)])


def _parts(events: Iterable[Prediction]) -> Iterator[list[Prediction]]:
    """Yield events, some at once: fewer where they bring much."""
    some: list[Prediction] = []
    size = 0
    for event in events:
        some.append(event)
        size += 0 if event.input is None else len(event.input.data)
        if len(some) == _AT_ONCE or size >= _BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


__all__ = ["Columns", "run"]
