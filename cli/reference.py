"""`tocsin reference FILE OUT`: what streams were like in training, for workers to compare with; `tocsin reference FILE.npz` shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from ..consumers.model_settings import ModelSettings
from ..consumers.reference_sentences import described
from ..consumers.reference_writer import ReferenceWriter, check_name
from ..consumers.settings import load
from ..core.batch import EventBatch, Origin
from ..core.errors import ConfigError
from ..core.events import Prediction
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
    check_name(out)
    writer = ReferenceWriter(_settings(model, config))
    for batch in _batches(file, columns):
        writer.add(batch)
        if trained_on is None:
            writer.add_trained(batch)
    if trained_on is not None:
        for batch in _batches(trained_on, columns):
            writer.add_trained(batch)
    if not writer.rows:
        raise ConfigError(f"{file.name} has no rows")
    print(writer.write(out, fingerprints=fingerprints))
    return 0


def show(file: Path) -> int:
    """Say what a reference file holds."""
    if file.suffix != ".npz":
        raise ConfigError(
            f"{file}: expected a reference to show, ending in .npz, or OUT, where to write one"
        )
    print("\n".join(described(file)))
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


__all__ = ["Columns", "run", "show"]
