"""Performance in training, of all rows and by segment: the part of a training reference that metrics are shown beside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from ..core.batch import EventBatch
from ..core.columns import Floats, Ints, take
from ..core.errors import ConfigError
from ..core.metric_row import MetricRow, Value, decode
from . import training_reference
from .join import Pairs, Predictions
from .model_settings import ModelSettings
from .performance import Performance

PART: Final = "performance"
"""The part's name in the file."""
Expected = dict[str, dict[str, Value]]
"""By group, as a row of the series names it, and metric."""
_decoder: Final = msgspec.json.Decoder(Expected)


class PerformanceCollector:
    """Counts rows with labels as a worker counts served ones: in one cohort, which all of them are of.

    Parameters
    ----------
    settings
        The model's: its segments, and the class that is asked about.
    """

    def __init__(self, settings: ModelSettings) -> None:
        never = {"maturity": None, "unlabelled": "unknown"}  # all labels are there
        self._performance = Performance(settings.performance.model_copy(update=never))
        self._rows = 0

    def add(
        self, batch: EventBatch, predicted: Floats, label: Floats, *, is_regression: bool | None
    ) -> None:
        """Take rows in, with their (n,) predictions and labels as `ClassNumbers` has them."""
        count = len(batch)
        (segments,), (scores,) = self._performance.columns([batch], [predicted])
        offsets, none = self._rows + np.arange(count), np.zeros(count, np.int64)
        environment = np.zeros(count, np.uint8)
        met = np.empty((count, 0), np.int64)
        seen = Predictions(
            batch.prediction_id, offsets, none, none, environment, predicted, label, segments, scores, met,
        )  # fmt: skip
        pairs = Pairs(
            offsets, offsets, none, environment, predicted, label, none, none, segments, scores
        )
        known: Ints = np.flatnonzero(~np.isnan(label))
        self._performance.add(seen, np.ones(count, np.bool_), [take(pairs, known)], [], [])
        self._performance.flush({0: is_regression})
        self._rows += count

    def part(self, name: Callable[[float], str]) -> dict[str, bytes]:
        """Return the part by its name; none where no row has a label. `name` returns the name of a class by its number."""
        self._performance.dirty()
        rows: list[MetricRow] = []
        while self._performance.is_behind:
            fields = self._performance.series(name, 0)
            rows += [decode(row) for row in fields.values() if row is not None]
        found = {row.group: row.metrics for row in rows if not row.window and row.labels}
        return {PART: msgspec.json.encode(found)} if found else {}


@training_reference.remembered
def read(file: Path) -> Expected:
    """Return the performance in training; empty where the file does not know it.

    Raises
    ------
    ConfigError
        The file, or its part, cannot be read.
    """
    part = training_reference.read(file).parts.get(PART)
    if part is None:
        return {}
    try:
        return _decoder.decode(part)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"drift.reference {file}: what it says of performance cannot be read ({error}): write it anew"
        ) from None
