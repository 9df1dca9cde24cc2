"""The rows of a file as blocks of observations: which columns are watched, which are left out and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Final

import numpy as np

from ..consumers.class_names import ClassNames, feature_column
from ..consumers.class_numbers import ClassNumbers
from ..core.cloudevents import to_nanoseconds
from ..core.columns import Floats, Ints, Strings
from ..core.errors import ConfigError
from ..core.events import Prediction, Scalar
from ..detectors.base import Observations, usable
from ..producers.files import Columns, rows
from .answers import Answers

ENVIRONMENT: Final = "backtest"
"""Where the rows are said to come from."""
_OF_TEXT: Final = "category:"
_BLOCK_ROWS: Final = 65_536  # chosen: 10 MB at 20 columns
_HEAD_ROWS: Final = 1_000  # chosen: enough to tell a column of numbers from one of text
_COUNTER_ROWS: Final = 100  # chosen: so many equal steps are no measurement
_FEWEST_NAMES: Final = 10  # chosen: fewer may be categories that changed in the head


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
        The columns to watch; all but those that only count or name the rows where empty.
    block_rows
        Rows of a block.

    Raises
    ------
    ConfigError
        While it is read: the file cannot be, a column is missing, or times go back.

    Notes
    -----
    The first 1,000 rows decide which columns there are and which hold numbers, which text.
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
        """What is watched, in the worker's names: `feature:amount`, `category:country`, `error`."""
        self.errors: tuple[str, ...] = ()
        """Of these what a detector of errors can watch: the errors, or else the columns that were asked for."""
        self.left_out: dict[str, str] = {}
        """Column to the reason."""
        self.odd: dict[str, int] = {}
        """Watched column to how many of its cells held text among numbers, or no text among texts; they count as missing."""
        self.names = ClassNames()
        """Names of categories by their numbers."""
        self.has_gaps = False
        """Whether a watched stream had no usable value in some row."""
        self._numbers: list[str] = []
        self._categories: list[str] = []
        self._classes = ClassNumbers()
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
            values = np.empty((self._block_rows, len(self._numbers)))
            texts: list[list[str | None]] = [[] for _ in self._categories]
            times = np.empty(self._block_rows, np.int64) if self._columns.time else None
            count = 0
            for event in islice(events, self._block_rows):
                cells = event.features
                values[count] = [self._number(name, cells.get(name)) for name in self._numbers]
                for name, column in zip(self._categories, texts, strict=True):
                    column.append(self._text(name, cells.get(name)))
                if times is not None:
                    times[count] = self._time(event, self.rows + count)
                if self._answers is not None:
                    self._answers.add(event)
                count += 1
            if not count:
                return
            codes = [self._coded(*column) for column in zip(self._categories, texts, strict=True)]
            columns = np.column_stack([values[:count], *codes])
            yield self._block(columns, None if times is None else times[:count])

    def _block(self, values: Floats, times: Ints | None) -> Observations:
        categories = {_category(name) for name in self._categories}
        if self._answers is not None:
            values = np.column_stack([values, self._answers.take()])
            if self._answers.is_category:
                categories.add(self._answers.stream)
        self.has_gaps |= not usable(values).all()
        numbers = np.arange(self.rows, self.rows + len(values))
        self.rows += len(values)
        return Observations(
            names=self.streams,
            values=values,
            offsets=numbers,
            rows=np.zeros_like(numbers),
            categories=frozenset(categories),
            times=times,
        )

    def _number(self, name: str, value: Scalar) -> float:
        if isinstance(value, str):
            self.odd[name] = self.odd.get(name, 0) + 1
        return _number(value)

    def _text(self, name: str, value: Scalar) -> str | None:
        if isinstance(value, str):
            return value
        if value is not None:
            self.odd[name] = self.odd.get(name, 0) + 1
        return None

    def _coded(self, name: str, texts: list[str | None]) -> Floats:
        """Return (n,) numbers of texts, as a worker gives them."""
        column = Strings.of(texts)
        codes = self._classes.of_text(column)
        self.names.add(feature_column(ENVIRONMENT, _category(name)), codes, column)
        return codes

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
            values = [event.features.get(name) for event in head]
            reason = _reason(values)
            if reason and not self._watched:
                self.left_out[name] = reason
            elif _holds_text(values):
                self._categories.append(name)
            else:
                self._numbers.append(name)
        self._answers = self._watch_answers(head)
        found = [f"feature:{name}" for name in self._numbers]
        self.errors = tuple(found) if self._watched else ()
        found += map(_category, self._categories)
        if self._answers is not None:
            found.append(self._answers.stream)
            if self._answers.stream == "error":
                self.errors = ("error",)
        self.streams = tuple(found)
        if not self.streams:
            raise ConfigError(
                f"{self._file.name} has nothing to watch: no column but such as count or name the rows, "
                "and no labels or predictions; name these with --label and --prediction"
            )

    def _watch_answers(self, head: list[Prediction]) -> Answers | None:
        label, prediction = self._columns.label is not None, self._columns.prediction is not None
        if label != prediction:
            return Answers("label" if label else "prediction")
        in_pairs = any(event.label is not None and event.prediction is not None for event in head)
        return Answers("error") if label or in_pairs else None


def _reason(values: list[Scalar]) -> str:
    """Return why a column with such values is left out; empty where it is not."""
    if len(values) < _COUNTER_ROWS:
        return ""
    if _holds_text(values):
        return _reason_of_text([value for value in values if isinstance(value, str)])
    with np.errstate(invalid="ignore"):  # of two infinities there is no difference
        steps = np.diff([_number(value) for value in values])
    return "counts the rows" if steps[0] != 0 and (steps == steps[0]).all() else ""


def _reason_of_text(texts: list[str]) -> str:
    """Return why a column with such texts is left out; empty where they are categories."""
    if all(map(_is_time, texts)):
        return "tells the time of the rows"
    runs = 1 + sum(a != b for a, b in pairwise(texts))
    # Texts that come once each, in runs, name rows or parts of the file.
    return "names the rows" if _FEWEST_NAMES <= len(set(texts)) == runs else ""


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _holds_text(values: list[Scalar]) -> bool:
    """Whether a column with such values is one of categories."""
    texts = sum(isinstance(value, str) for value in values)
    return texts > sum(value is not None for value in values) - texts


def _category(name: str) -> str:
    """Return the stream of a column of text."""
    return f"{_OF_TEXT}{name}"


def is_of_text(stream: str) -> bool:
    """Whether a stream is of a column of text."""
    return stream.startswith(_OF_TEXT)


def _number(value: Scalar) -> float:
    """Return a number, NaN for none and for text."""
    if value is None or isinstance(value, str):
        return np.nan
    try:
        return float(value)
    except OverflowError:  # an integer beyond 1e308: there, but of no use
        return np.inf
