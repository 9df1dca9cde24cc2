"""Rows of files that were predicted and labelled, and the groups that they are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from ..core.columns import Floats, Ints
from ..core.errors import ConfigError
from ..core.events import ClassOrNumber, Label, Prediction
from ..core.names import CROSS, check_crossings
from ..producers.files import Columns, rows

FILE: Final = "file"
"""The segment that says which file a row is from, where there are two."""
_MOST_CLASSES: Final = 50
_MOST_VALUES: Final = 62  # of a segment, as in the worker

_HALF: Final = 0.5  # the area under the curve of scores that say nothing
_SURELY: Final = 5.0  # standard deviations of it then (Mann and Whitney 1947)

Names = tuple[str, ...]


class Crossing(NamedTuple):
    """The groups of a segment, or of several that are crossed.

    Parameters
    ----------
    codes
        (n,) group of each row, -1 for none.
    names
        By group, as people say it.
    strata
        By group what but the file it is of, None with one file.
    """

    codes: Ints
    names: list[str]
    strata: list[str] | None


class Judged(NamedTuple):
    """n rows of one file or two.

    Parameters
    ----------
    rows
        By file its number of rows.
    predicted, label
        (n,) numbers of classes, NaN for none.
    score
        (n,) probability of the positive class, NaN for none.
    classes
        Names of classes by their numbers.
    positive
        The number of the class that is asked about; None where there are more than two and none was named.
    crossings
        What is compared, by the names that are crossed.
    """

    rows: dict[str, int]
    predicted: Floats
    label: Floats
    score: Floats
    classes: list[str]
    positive: int | None
    crossings: dict[Names, Crossing]

    def __len__(self) -> int:
        return len(self.predicted)

    def is_positive(self, classes: Floats) -> Floats:
        """Return (n,) 1 for the class that is asked about, 0 for others, NaN for none."""
        return np.where(np.isnan(classes), np.nan, classes == self.positive)

    @property
    def metrics(self) -> list[str]:
        """What can be compared."""
        is_labelled = bool((~np.isnan(self.label)).any())
        if self.positive is None:
            return ["accuracy"]
        found = ["positive_rate"]
        if is_labelled:
            found += ["recall", "false_positive_rate", "precision", "accuracy"]
        if is_labelled and bool((~np.isnan(self.score)).any()):
            found.append("calibration")
        return found


def read(
    files: Sequence[Path],
    label: str | None,
    prediction: str | None,
    score: str | None,
    segments: Sequence[str],
    positive: str | None,
) -> Judged:
    """Read one file or two.

    Parameters
    ----------
    files
        See `producers.files.rows`.
    label, prediction, score
        Columns; None for none, or where the files hold events.
    segments
        Columns or segments of events, with `*` between those that are crossed.
    positive
        The class that is asked about; where not given that of the score's name, or of two the one that is 1, or whose name sorts last.

    Raises
    ------
    ConfigError
        A file cannot be read, or there is nothing to compare.
    """
    if len(files) == 2 and files[0].resolve() == files[1].resolve():
        raise ConfigError(f"{files[0]} is compared with itself")
    try:
        check_crossings(segments)
    except ValueError as error:
        raise ConfigError(f"--segment {error}") from None
    names = list(dict.fromkeys(name for one in segments for name in one.split(CROSS)))
    if len(files) == 2 and FILE in names:
        raise ConfigError(f"a segment cannot be called {FILE} where two files are compared")
    if len(files) == 1 and not segments:
        raise ConfigError("nothing to compare: give two files, or --segment with one")
    columns = Columns(label=label, prediction=prediction, scores=[score] if score else [])
    columns_of: dict[str, list[str | None]] = {name: [] for name in names}
    answers: list[ClassOrNumber | None] = []
    truths: list[ClassOrNumber | None] = []
    scores: list[Mapping[str, float]] = []
    sizes: dict[str, int] = {}
    for file in files:
        begin, places = len(answers), dict[str, int]()
        late: list[Label] = []
        for event in rows(file, columns):
            if isinstance(event, Label):
                late.append(event)
                continue
            places[event.prediction_id] = len(answers)
            answers.append(event.prediction)
            truths.append(event.label)
            scores.append(event.scores or {})
            for name, column in columns_of.items():
                column.append(_segment(file, event, name))
        for one in late:
            if one.prediction_id in places:
                truths[places[one.prediction_id]] = one.label
        if len(answers) == begin:
            raise ConfigError(f"{file.name} has no rows")
        name = file.name if file.name not in sizes else str(file)
        sizes[name] = len(answers) - begin
    predicted, true, classes = _numbered(answers, truths)
    number = _positive(classes, positive if positive is not None or score not in classes else score)
    if number is not None and score in classes and score != classes[number]:
        raise ConfigError(
            f"--score {score} is named as another class than --positive {positive}: it would be taken for the probability of that"
        )
    if number is not None:
        key = score or classes[number]
        of = np.array([found.get(key, np.nan) for found in scores], np.float64)
    else:
        of = np.full(len(answers), np.nan)
    if score and number is not None:
        _check_score(
            score, of, true, number, classes, is_guess=positive is None and score not in classes
        )
    values = {name: _coded(name, found) for name, found in columns_of.items()}
    crossed = [tuple(one.split(CROSS)) for one in dict.fromkeys(segments)]
    if len(files) == 2:
        codes = np.repeat(np.arange(2), list(sizes.values()))
        values[FILE] = codes.astype(np.int64), list(sizes)
        crossed = [(FILE,), *((FILE, *one) for one in crossed)]
    crossings = {one: _crossing(one, values) for one in crossed}
    return Judged(sizes, predicted, true, of, classes, number, crossings)


def _segment(file: Path, event: Prediction, name: str) -> str | None:
    """Return the value of a segment: of a column, or of an event."""
    if event.segments and name in event.segments:
        return event.segments[name]
    if name in event.features:
        value = event.features[name]
    elif name in ("version", "environment"):
        value = getattr(event, name)
    elif event.segments is not None:
        return None
    else:
        raise ConfigError(
            f"{file.name} has no column {name} beside those of label, prediction and score; it has "
            f"{', '.join(event.features) or 'none'}"
        )
    return None if value is None else str(value)


def _class(value: ClassOrNumber) -> str:
    if isinstance(value, (bool, float)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _numbered(
    answers: list[ClassOrNumber | None], truths: list[ClassOrNumber | None]
) -> tuple[Floats, Floats, list[str]]:
    """Return (n,) predictions and labels as numbers of classes, and their names in order."""
    both = [[None if v is None else _class(v) for v in of] for of in (answers, truths)]
    classes = sorted({value for of in both for value in of if value is not None})
    if all(value is None for value in both[0]):
        raise ConfigError("no row has a prediction: --prediction names the column")
    if len(classes) > _MOST_CLASSES:
        raise ConfigError(
            f"predictions and labels have {len(classes):,} different values, {_MOST_CLASSES} are the most: "
            "classes are compared, not numbers"
        )
    number = {name: float(k) for k, name in enumerate(classes)}
    predicted, true = (
        np.array([np.nan if v is None else number[v] for v in of], np.float64) for of in both
    )
    return predicted, true, classes


def _positive(classes: list[str], wanted: str | None) -> int | None:
    """Return the number of the class that is asked about."""
    if wanted is not None:
        if wanted not in classes:
            raise ConfigError(f"no class is called {wanted!r}; there are {', '.join(classes)}")
        return classes.index(wanted)
    if len(classes) > 2:
        return None
    return classes.index("1") if "1" in classes else len(classes) - 1


def _check_score(
    name: str, score: Floats, true: Floats, positive: int, classes: list[str], *, is_guess: bool
) -> None:
    """Raise ConfigError for scores that are no probabilities, or surely those of the other class than was guessed."""
    outside = score[(score < 0) | (score > 1)]
    if len(outside):
        raise ConfigError(
            f"--score {name} has {len(outside):,} numbers outside 0 to 1, the first is {outside[0]:g}: it names the column with "
            "the probability of the positive class"
        )
    known = ~(np.isnan(score) | np.isnan(true))
    is_positive = true[known] == positive
    ours = int(is_positive.sum())
    others = len(is_positive) - ours
    if not is_guess or len(classes) != 2 or not ours or not others:
        return
    _, place, count = np.unique(score[known], return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]  # ties have their mean
    area = (ranks[is_positive].sum() - ours * (ours + 1) / 2) / (ours * others)
    if area + _SURELY * np.sqrt((ours + others + 1) / (12 * ours * others)) < _HALF:
        raise ConfigError(
            f"--score {name} is lower where the label is {classes[positive]} (area under the curve {area:.3f}), as the probability of "
            f"{classes[1 - positive]} would be: say whose it is, --positive {classes[1 - positive]} or --positive {classes[positive]}"
        )


def _coded(name: str, values: list[str | None]) -> tuple[Ints, list[str]]:
    """Return (n,) numbers of values, -1 for none, and their names in the order in which they came."""
    names = list(dict.fromkeys(value for value in values if value is not None))
    if len(names) > _MOST_VALUES:
        raise ConfigError(
            f"{name} has {len(names):,} different values; a segment has {_MOST_VALUES} at most: put them into groups"
        )
    number = {value: k for k, value in enumerate(names)}
    return np.array([-1 if v is None else number[v] for v in values], np.int64), names


def _crossing(names: Names, values: Mapping[str, tuple[Ints, list[str]]]) -> Crossing:
    columns = np.stack([values[name][0] for name in names], axis=1)
    is_known = np.asarray((columns >= 0).all(axis=1))
    distinct, first, place = np.unique(
        columns[is_known], axis=0, return_index=True, return_inverse=True
    )
    order = np.argsort(first)
    codes = np.full(len(columns), -1)
    codes[is_known] = np.argsort(order)[place.reshape(-1)]
    texts = [
        [values[name][1][k] for name, k in zip(names, row, strict=True)]
        for row in distinct[order].tolist()
    ]
    strata = [",".join(of[1:]) for of in texts] if names[0] == FILE else None
    return Crossing(codes, [",".join(of) for of in texts], strata)
