"""The rows of a file as blocks of observations: which columns are watched, which are left out and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Final

import numpy as np

from ..core.cloudevents import to_nanoseconds
from ..core.columns import Floats, Ints
from ..core.errors import ConfigError
from ..core.events import Prediction, Scalar
from ..detectors.base import Observations, usable
from ..producers.files import Columns, rows
from .answers import Answers

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
        What its columns hold. Where predictions and labels are known, the errors are watched; where only one of
        the two is named, that is.
    watched
        The columns to watch; all with numbers where empty.
    block_rows
        Rows of a block.

    Raises
    ------
    ConfigError
        While it is read: the file cannot be, a column is missing or holds text, or times go back.

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
        self.errors: tuple[str, ...] = ()
        """Of these what a detector of errors can watch: the errors, or else the columns that were asked for."""
        self.left_out: dict[str, str] = {}
        """Column to the reason."""
        self.texts: dict[str, int] = {}
        """Watched column to how many of its cells held text; those count as missing."""
        self.has_gaps = False
        """Whether a watched stream had no usable value in some row."""
        self._features: list[str] = []
        self._answers: Answers | None = None
        self._latest: int | None = None

    def __iter__(self) -> Iterator[Observations]:
        read = (event for event in rows(self._file, self._columns) if isinstance(event, Prediction))
        head = list(islice(read, _HEAD_ROWS))
        if not head:
            raise ConfigError(f"{self._file.name} has no rows")
        self._choose(head)
        events = chain(head, read)
        while True:
            values = np.empty((self._block_rows, len(self._features)))
            times = np.empty(self._block_rows, np.int64) if self._columns.time else None
            count = 0
            for event in islice(events, self._block_rows):
                values[count] = [
                    self._cell(name, event.features.get(name)) for name in self._features
                ]
                if times is not None:
                    times[count] = self._time(event, self.rows + count)
                if self._answers is not None:
                    self._answers.add(event)
                count += 1
            if not count:
                return
            yield self._block(values[:count], None if times is None else times[:count])

    def _block(self, values: Floats, times: Ints | None) -> Observations:
        categories: frozenset[str] = frozenset()
        if self._answers is not None:
            values = np.column_stack([values, self._answers.take()])
            if self._answers.is_category:
                categories = frozenset([self._answers.stream])
        self.has_gaps |= not usable(values).all()
        numbers = np.arange(self.rows, self.rows + len(values))
        self.rows += len(values)
        return Observations(
            names=self.streams,
            values=values,
            offsets=numbers,
            rows=np.zeros_like(numbers),
            categories=categories,
            times=times,
        )

    def _cell(self, name: str, value: Scalar) -> float:
        if isinstance(value, str):
            self.texts[name] = self.texts.get(name, 0) + 1
        return _number(value)

    def _time(self, event: Prediction, row: int) -> int:
        column = self._columns.time
        if event.time is None:
            raise ConfigError(f"{self._file.name}: row {row} has no {column}")
        found = to_nanoseconds(event.time)
        if self._latest is not None and found < self._latest:
            raise ConfigError(
                f"{self._file.name}: at row {row} {column} goes back, to {event.time:%Y-%m-%d %H:%M:%S}; "
                f"rows must be in the order in which they came: sort the file by {column}, or leave --time out"
            )
        self._latest = found
        return found

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
        self._answers = self._watch_answers(head)
        found = [f"feature:{name}" for name in self._features]
        self.errors = tuple(found) if self._watched else ()
        if self._answers is not None:
            found.append(self._answers.stream)
            if self._answers.stream == "error":
                self.errors = ("error",)
        self.streams = tuple(found)
        if not self.streams:
            raise ConfigError(
                f"{self._file.name} has nothing to watch: no column of numbers, and no labels or "
                "predictions; name these with --label and --prediction"
            )

    def _watch_answers(self, head: list[Prediction]) -> Answers | None:
        label, prediction = self._columns.label is not None, self._columns.prediction is not None
        if label != prediction:
            return Answers("label" if label else "prediction")
        in_pairs = any(event.label is not None and event.prediction is not None for event in head)
        return Answers("error") if label or in_pairs else None


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
