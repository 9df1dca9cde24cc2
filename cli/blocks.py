"""The rows of a file as blocks of observations: which columns are watched, which are left out and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Final

import numpy as np

from ..core.cloudevents import to_nanoseconds
from ..core.errors import ConfigError
from ..core.events import ClassOrNumber, Prediction, Scalar
from ..detectors.base import Observations
from ..producers.files import Columns, rows

_BLOCK_ROWS: Final = 65_536  # chosen: 10 MB at 20 columns
_HEAD_ROWS: Final = 1_000  # chosen: enough to tell a column of numbers from one of text
_COUNTER_ROWS: Final = 100  # chosen: so many equal steps are no measurement


class Blocks:
    """A file, read once, a bounded number of rows at a time.

    Parameters
    ----------
    file
        CSV, JSON lines or Parquet; see `producers.files.rows`.
    columns
        What its columns hold. Where predictions and labels are known, the errors are watched.
    watched
        The columns to watch; all with numbers where empty.
    block_rows
        Rows of a block.

    Raises
    ------
    ConfigError
        While it is read: the file cannot be, or a column is missing or holds text.

    Notes
    -----
    The first 1,000 rows decide which columns there are and which hold numbers.
    """

    def __init__(
        self,
        file: Path,
        columns: Columns,
        watched: Sequence[str] = (),
        block_rows: int = _BLOCK_ROWS,
    ) -> None:
        self._file = file
        self._columns = columns
        self._watched = list(dict.fromkeys(watched))
        self._block_rows = block_rows
        self.rows = 0
        """How many were read."""
        self.streams: tuple[str, ...] = ()
        """What is watched, in the worker's names: `feature:amount`, `error`."""
        self.left_out: dict[str, str] = {}
        """Column to the reason."""
        self.texts: dict[str, int] = {}
        """Watched column to how many of its cells held text; those count as missing."""
        self._features: list[str] = []
        self._has_errors = False
        self._is_regression: bool | None = None

    def __iter__(self) -> Iterator[Observations]:
        read = (event for event in rows(self._file, self._columns) if isinstance(event, Prediction))
        head = list(islice(read, _HEAD_ROWS))
        if not head:
            raise ConfigError(f"{self._file.name} has no rows")
        self._choose(head)
        events = chain(head, read)
        while True:
            values = np.empty((self._block_rows, len(self.streams)))
            times = np.empty(self._block_rows, np.int64) if self._columns.time else None
            count = 0
            for event in islice(events, self._block_rows):
                values[count] = self._row(event)
                if times is not None:
                    times[count] = self._time(event, count)
                count += 1
            if not count:
                return
            numbers = np.arange(self.rows, self.rows + count)
            self.rows += count
            yield Observations(
                names=self.streams,
                values=values[:count],
                offsets=numbers,
                rows=np.zeros_like(numbers),
                times=None if times is None else times[:count],
            )

    def _time(self, event: Prediction, row: int) -> int:
        if event.time is None:
            raise ConfigError(
                f"{self._file.name}: row {self.rows + row} has no {self._columns.time}"
            )
        return to_nanoseconds(event.time)

    def _choose(self, head: list[Prediction]) -> None:
        names = list(dict.fromkeys(name for event in head for name in event.features))
        for name in self._watched or names:
            if name not in names:
                raise ConfigError(
                    f"--column {name}: {self._file.name} has no such feature; it has "
                    f"{', '.join(names)}"
                )
            reason = _reason([event.features.get(name) for event in head])
            if not reason or (self._watched and reason != "holds text"):
                self._features.append(name)
            elif self._watched:
                raise ConfigError(f"--column {name}: it {reason}, and only numbers can be watched")
            else:
                self.left_out[name] = reason
        self._has_errors = self._columns.label is not None or any(
            event.label is not None and event.prediction is not None for event in head
        )
        found = [f"feature:{name}" for name in self._features]
        self.streams = (*found, "error") if self._has_errors else tuple(found)
        if not self.streams:
            raise ConfigError(
                f"{self._file.name} has nothing to watch: no column of numbers, and no labels with "
                "predictions; name these with --label and --prediction"
            )

    def _row(self, event: Prediction) -> list[float]:
        found: list[float] = []
        for name in self._features:
            value = event.features.get(name)
            if isinstance(value, str):
                self.texts[name] = self.texts.get(name, 0) + 1
            found.append(_number(value))
        if self._has_errors:
            found.append(self._error(event))
        return found

    def _error(self, event: Prediction) -> float:
        """Return 1 for a wrong class and 0 for a right one, or a regression's absolute error."""
        predicted, label = event.prediction, event.label
        if self._is_regression is None and predicted is not None:
            # As a worker decides it: by the first prediction.
            self._is_regression = isinstance(predicted, float) and not event.scores
        if predicted is None or label is None:
            return np.nan
        if self._is_regression:
            return abs(_number(predicted) - _number(label))
        return float(_class(predicted) != _class(label))


def _reason(values: list[Scalar]) -> str:
    """Return why a column with such values is left out; empty where it is not."""
    texts = sum(isinstance(value, str) for value in values)
    numbers = sum(value is not None for value in values) - texts
    if texts > numbers:
        return "holds text"
    with np.errstate(invalid="ignore"):  # of two infinities there is no difference
        steps = np.diff([_number(value) for value in values])
    if len(values) >= _COUNTER_ROWS and steps[0] != 0 and (steps == steps[0]).all():
        return "counts the rows"
    return ""


def _number(value: Scalar) -> float:
    """Return a number, NaN for none and for text."""
    if value is None or isinstance(value, str):
        return np.nan
    try:
        return float(value)
    except OverflowError:  # an integer beyond 1e308: there, but of no use
        return np.inf


def _class(value: ClassOrNumber) -> str:
    """Return a class as text, so that "1", 1, 1.0 and true are one."""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    return str(value)
