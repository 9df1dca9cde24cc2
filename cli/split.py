"""The two files of a split, read a block at a time: what stands for their rows, groups, times and labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.cloudevents import to_nanoseconds
from ..core.columns import Floats, Ints, Strings, middle
from ..core.errors import ConfigError
from ..core.events import ClassOrNumber, Prediction, Scalar
from ..detectors.fingerprints import RowKeys, Scheme
from ..detectors.label_copies import copies
from ..detectors.leaky_features import LabelCounts
from ..detectors.string_index import StringIndex
from ..producers.files import Columns, rows

_BLOCK_ROWS: Final = 65_536  # chosen: 10 MB at 20 columns
_HEAD_ROWS: Final = 1_000  # chosen: enough to tell what a column holds
_MOST_CLASSES: Final = 16
_FEWEST_NAMES: Final = 20  # chosen: fewer are categories, whatever the column is called
_NAMES_SHARE: Final = 0.05
_NAME: Final = re.compile(
    r"(^|[^a-z])(id|uuid|guid|user|patient|customer|client|session|subject|account|device|household)s?$"
)
_NO_TIME: Final = np.iinfo(np.int64).min
_LABEL: Final = "label"
_PREDICTION: Final = "holds the model's predictions"
_SCORES: Final = "holds scores of the model"


class Roles(NamedTuple):
    """What the columns that both files have are for.

    Parameters
    ----------
    numbers, texts
        The columns in which rows are compared: features.
    groups
        Those that must not have a value in both files.
    time
        The one that tells the time, None for none.
    label
        The one with the truth, None for none.
    is_labelled
        Whether rows have a label, in that column or as events.
    left_out
        Column to the reason why rows are not compared in it.
    """

    numbers: list[str]
    texts: list[str]
    groups: list[str]
    time: str | None
    label: str | None
    is_labelled: bool
    left_out: dict[str, str]

    @classmethod
    def of(cls, train: Path, test: Path, columns: Columns, groups: Sequence[str] = ()) -> Roles:
        """Choose by the first 1,000 rows of both files.

        Columns that are not named are taken for what they are called, see `_answers`.

        Raises
        ------
        ConfigError
            A file cannot be read or has no rows, a named column is not there, or nothing is left to compare.
        """
        events = [_head(file, columns.label) for file in (train, test)]
        heads = [[event.features for event in some] for some in events]
        names = [list(dict.fromkeys(n for row in head for n in row)) for head in heads]
        for asked in (*groups, *([] if columns.time is None else [columns.time])):
            for file, there in zip((train, test), names, strict=True):
                if asked not in there:
                    raise ConfigError(
                        f"{file.name} has no column {asked}; it has {', '.join(there)}"
                    )
        every = list(dict.fromkeys([*names[0], *names[1]]))
        for asked in filter(None, (columns.prediction, columns.id, *columns.scores)):
            if asked not in every:
                raise ConfigError(
                    f"neither {train.name} nor {test.name} has a column {asked}; they have {', '.join(every)}"
                )
        both = [name for name in names[0] if name in names[1]]
        label = columns.label or (_LABEL if _LABEL in both and _LABEL not in groups else None)
        left_out = {n: "in one file only" for n in every if n not in both}
        left_out |= _answers(
            columns, {n: [row.get(n) for head in heads for row in head] for n in every if n != label}
        )  # fmt: skip
        rest = {
            name: [[row.get(name) for row in head] for head in heads]
            for name in both
            if name != label and (name not in left_out or name in groups)
        }
        times = [name for name in rest if all(map(_are_times, rest[name]))]
        clock = columns.time or (times[0] if len(times) == 1 else None)
        grouped, numbers, texts = list(dict.fromkeys(groups)), [], []
        for name, (first, second) in rest.items():
            if name in grouped:
                left_out[name] = "groups the rows"
            elif name == clock or name in times:
                left_out[name] = "tells the time of the rows"
            elif _counts(first) and _counts(second):
                left_out[name] = "counts the rows"
            elif _are_names(name, first):
                left_out[name] = "names the rows, or groups of them"
                grouped.append(name)
            elif sum(isinstance(v, str) for v in first) * 2 > sum(v is not None for v in first):
                texts.append(name)
            else:
                numbers.append(name)
        if not numbers and not texts:
            raise ConfigError(f"{train.name} and {test.name} have no columns to compare rows in")
        is_labelled = label is not None or all(any(e.label is not None for e in s) for s in events)
        return cls(numbers, texts, grouped, clock, label, is_labelled, left_out)


def _answers(columns: Columns, values: Mapping[str, list[Scalar]]) -> dict[str, str]:
    """Return which columns are no features, having come with a prediction or naming it, and why.

    Where none is named, what an event calls so: `prediction`, `prediction_id`, and `score` if it is within 0 and 1, since other
    scores are features (of credit, of risk).
    """
    found = {} if columns.prediction is None else {columns.prediction: _PREDICTION}
    found |= dict.fromkeys(columns.scores, _SCORES)
    if columns.id is not None:
        found[columns.id] = "names the rows"
    if columns.prediction is None and "prediction" in values:
        found["prediction"] = _PREDICTION
    if columns.id is None and "prediction_id" in values:
        found["prediction_id"] = "names the rows"
    if not columns.scores and "score" in values:
        known = [_number(value) for value in values["score"] if value is not None]
        if known and all(0 <= number <= 1 for number in known):
            found["score"] = _SCORES
    return found


class Side(NamedTuple):
    """What was kept of the n rows of a file.

    Parameters
    ----------
    keys
        Of the rows.
    groups
        (n,) codes by column, -1 for none.
    times
        (n,) nanoseconds since 1970, or the order of numbers; the least integer for none; empty without a column of times.
    labels
        How the features tell the label, None without labels.
    copies
        Features that are the label, or a copy of it, in the first 65,536 rows.
    """

    keys: RowKeys
    groups: dict[str, Ints]
    times: Ints
    labels: LabelCounts | None
    copies: frozenset[str]

    def __len__(self) -> int:
        return len(self.keys.exact)

    @property
    def timed(self) -> NDArray[np.bool_]:
        """(n,) which rows have a time."""
        return np.asarray(self.times != _NO_TIME)


class Split:
    """Reads the files of a split, the training file first; both are read once, after their heads.

    Parameters
    ----------
    roles
        What their columns are for.
    """

    def __init__(self, roles: Roles) -> None:
        self._roles = roles
        self.names = {name: StringIndex() for name in roles.groups}
        """By column the groups' names."""
        self._codes = {name: StringIndex() for name in roles.texts}
        self._scheme: Scheme | None = None
        self._counts: LabelCounts | None = None
        self._classes: dict[ClassOrNumber, int] = {}
        self._middle: float | None = None

    def read(self, file: Path) -> Side:
        """Return what is kept of a file.

        Raises
        ------
        ConfigError
            A row cannot be read.
        """
        keys: list[RowKeys] = []
        groups: dict[str, list[Ints]] = {name: [] for name in self.names}
        times: list[Ints] = []
        labels: LabelCounts | None = None
        same = frozenset[str]()
        for block in _blocks(file, self._roles.label):
            features = [event.features for event in block]
            numbers = np.array(
                [[_number(row.get(n)) for n in self._roles.numbers] for row in features], np.float64
            ).reshape(len(block), len(self._roles.numbers))
            texts = [Strings.of(_text(row.get(n)) for row in features) for n in self._roles.texts]
            if self._scheme is None:
                self._scheme = Scheme.fit(numbers, self._roles.numbers, self._roles.texts)
            keys.append(self._scheme.keys(numbers, texts))
            for name, index in self.names.items():
                groups[name].append(index.add(Strings.of(_text(row.get(name)) for row in features)))
            if self._roles.time is not None:
                found = [_time(file, self._roles.time, row) for row in features]
                times.append(np.array(found, np.int64))
            if self._roles.is_labelled:
                codes = [
                    self._codes[n].add(t) for n, t in zip(self._roles.texts, texts, strict=True)
                ]
                known = [np.where(c < 0, np.nan, c.astype(np.float64)) for c in codes]
                values = np.column_stack([numbers, *known])
                classes = self._class_numbers([event.label for event in block])
                if labels is None:
                    labels = self._empty(values)
                    same = self._copies(values, block, classes)
                labels.add(values, classes)
        return Side(
            RowKeys(*(np.concatenate(parts) for parts in zip(*keys, strict=True))),
            {name: np.concatenate(parts) for name, parts in groups.items()},
            np.concatenate(times) if times else np.empty(0, np.int64), labels, same,
        )  # fmt: skip

    def _copies(self, values: Floats, block: list[Prediction], classes: Ints) -> frozenset[str]:
        """Return the features that are the label in some rows; their names are those of `_empty`."""
        labels = np.where(classes < 0, np.nan, classes)
        if self._middle is not None:
            labels = np.array([_number(event.label) for event in block])
        same = copies(values, labels, is_regression=self._middle is not None).tolist()
        names = (*self._roles.numbers, *self._roles.texts)
        return frozenset(name for name, is_same in zip(names, same, strict=True) if is_same)

    def _empty(self, values: Floats) -> LabelCounts:
        """Return counts without rows, with the quantiles of the first block of the training file."""
        if self._counts is None:
            names = (*self._roles.numbers, *self._roles.texts)
            many = 2 if self._middle is not None else max(len(self._classes), 2)
            self._counts = LabelCounts.fit(names, values, many)
        return self._counts.like()

    def _class_numbers(self, labels: list[ClassOrNumber | None]) -> Ints:
        """Return (n,) numbers of classes; of a number with many values whether it is above its median."""
        if not self._classes and self._middle is None:
            known = [label for label in labels if label is not None]
            found, counts = np.unique(np.array(known, dtype=str), return_counts=True)
            numbers = [_number(label) for label in known if not isinstance(label, str)]
            if len(found) > _MOST_CLASSES and len(numbers) == len(known):
                self._middle = middle(np.array(numbers, np.float64))
            else:
                often = found[np.argsort(-counts, kind="stable")][:_MOST_CLASSES]
                self._classes = {str(name): k for k, name in enumerate(often)}
        if self._middle is not None:
            above = [-1 if v is None else int(_number(v) > self._middle) for v in labels]
            return np.array(above, np.int64)
        return np.array([self._classes.get(str(label), -1) for label in labels], np.int64)


def _head(file: Path, label: str | None) -> list[Prediction]:
    found = list(islice(_events(file, label), _HEAD_ROWS))
    if not found:
        raise ConfigError(f"{file.name} has no rows")
    return found


def _events(file: Path, label: str | None) -> Iterator[Prediction]:
    columns = Columns(label=label)
    return (event for event in rows(file, columns) if isinstance(event, Prediction))


def _blocks(file: Path, label: str | None) -> Iterator[list[Prediction]]:
    events = _events(file, label)
    while block := list(islice(events, _BLOCK_ROWS)):
        yield block


def _are_times(values: list[Scalar]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(
        isinstance(value, str) and _moment(value) is not None for value in known
    )


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _time(file: Path, column: str, row: dict[str, Scalar]) -> int:
    value = row.get(column)
    if value is None:
        return _NO_TIME
    if not isinstance(value, str):
        return _place(_number(value))
    moment = _moment(value)
    if moment is None:
        raise ConfigError(
            f"{file.name}: {column} has {value!r}; a time was expected, as 2026-01-31T12:00:00Z, or a number"
        )
    return to_nanoseconds(moment)


def _place(number: float) -> int:
    """Return an integer that is the larger the larger a number is, of any size: seconds, milliseconds, or what else grows."""
    if np.isnan(number):
        return _NO_TIME
    bits = int(np.float64(number + 0.0).view(np.int64))  # 0.0 and -0.0 are one
    return bits if bits >= 0 else bits ^ ((1 << 63) - 1)


def _counts(values: list[Scalar]) -> bool:
    """Whether a column goes up, or down, by the same step from row to row."""
    if len(values) < 3 or not all(isinstance(value, int) for value in values):
        return False
    steps = {_number(b) - _number(a) for a, b in pairwise(values)}
    return len(steps) == 1 and steps != {0.0}


def _are_names(name: str, values: list[Scalar]) -> bool:
    """Whether a column names rows or groups of them: by what it is called, or because no text in it comes twice."""
    known = [value for value in values if value is not None]
    different = len(set(known))
    if different < max(_FEWEST_NAMES, _NAMES_SHARE * len(known)):
        return False
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    if _NAME.search(plain):
        return all(isinstance(value, (str, int)) for value in known)
    words = all(isinstance(value, str) and not re.search(r"\s", value) for value in known)
    return words and different == len(known) >= _FEWEST_NAMES


def _text(value: Scalar) -> str | None:
    return value if value is None or isinstance(value, str) else str(value)


def _number(value: Scalar) -> float:
    """Return a number, NaN for none and for text."""
    return np.nan if value is None or isinstance(value, str) else float(value)
