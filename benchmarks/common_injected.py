"""Drifts put into a real stream, as in the KDD 2026 benchmark, and how alarms about them are scored.

A Hoeffding tree predicts each row and then learns from it; one drift is put into each trial, at once or
over a ramp. An alarm is true if it comes between the drift's onset and `tolerance` rows later, gradual
drifts included. After Cerqueira et al. 2026 (arXiv 2606.07789) and their public code,
vcerqueira/experiments-drift_evaluation at 7c2af93.
"""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.detectors.adwin import Adwin
from tocsin.detectors.base import Observations
from tocsin.detectors.compiled import compiled

from .common_data import data_file
from .common_hoeffding import predict

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

KINDS: Final = ("y_prior", "y_swap", "x_perm", "x_exceed")
"""Three quarters of one label's rows are dropped; one label becomes the other; features are permuted;
rows with one feature above its median are dropped."""
MODES: Final = ("abrupt", "gradual")
WATCHED_FROM: Final = 0.25  # of the rows; before, the tree learns and alarms do not count
_SKIPPED: Final = 0.75
_ELEC2_ROWS_A_DAY: Final = 48
_ELEC2_BEGIN: Final = date(1996, 5, 7)  # a Tuesday


@dataclass(frozen=True)
class Table:
    """A labelled stream.

    Parameters
    ----------
    name
        Of the data.
    columns
        Names of the features.
    x, y
        (n, f) features and (n,) labels 0 or 1.
    tolerance
        Rows after the onset within which an alarm is true; also the width of a ramp.
    calendar
        Features that are a date, a weekday or a time: what is dropped shows there as an artefact.
    """

    name: str
    columns: tuple[str, ...]
    x: Floats
    y: Ints
    tolerance: int
    calendar: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.y)

    @property
    def values(self) -> list[int]:
        """Columns of the features that are no calendar."""
        return [j for j, name in enumerate(self.columns) if name not in self.calendar]


def electricity(path: Path | None = None) -> Table:
    """Return Elec2, with the columns `date` and `day` that the file lacks.

    They are rebuilt as in the original: 48 rows a day from 7 May 1996, the date as (yymmdd - 960507) /
    22603.2, the day of the week from 0 to 6.
    """
    file = path or data_file("electricity.csv.gz")
    columns, x, y = _read(file)
    days = np.arange(len(y)) // _ELEC2_ROWS_A_DAY
    dates = [_ELEC2_BEGIN + timedelta(days=day) for day in range(int(days[-1]) + 1)]
    numbers = np.array([int(f"{day:%y%m%d}") for day in dates])
    added = np.column_stack([(numbers[days] - 960507) / 22603.2, (days + 1) % 7])
    return Table(
        name="elec2",
        columns=("date", "day", *columns),
        x=np.ascontiguousarray(np.column_stack([added, x])),
        y=y,
        tolerance=2500,
        calendar=("date", "day", "period"),
    )


def table(path: Path, tolerance: int) -> Table:
    """Return another file of the same family: a header, numeric features, the class of two in the last column."""
    columns, x, y = _read(path)
    return Table(path.name.partition(".")[0], columns, x, y, tolerance)


def _read(file: Path) -> tuple[tuple[str, ...], Floats, Ints]:
    """Return names and values of the features, and the class; a first column without a name is an index."""
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
        header, *rows = csv.reader(lines)
    first = 0 if header[0] else 1
    y, classes = _numbered([row[-1] for row in rows])
    if classes != 2:
        raise ValueError(f"{file}: the last column must have two classes, it has {classes}")
    x = np.array([row[first:-1] for row in rows], np.float64)
    return tuple(header[first:-1]), x, y


def _numbered(names: Sequence[str]) -> tuple[Ints, int]:
    known, numbers = np.unique(names, return_inverse=True)
    return numbers.astype(np.int64), len(known)


class Trial(NamedTuple):
    """A stream with one drift in it; n rows are left.

    Parameters
    ----------
    kind, mode
        Of the drift.
    onset
        The row at which it begins.
    watched
        Alarms count in rows after this one.
    rows
        (n,) numbers of the rows, rising: where some are dropped, numbers are missing.
    x, y, predicted
        (n, f) features, (n,) labels and (n,) the tree's predictions.
    """

    kind: str
    mode: str
    onset: int
    watched: int
    rows: Ints
    x: Floats
    y: Ints
    predicted: Ints

    @property
    def errors(self) -> Floats:
        """(n,) 1 where the tree was wrong."""
        return (self.y != self.predicted).astype(np.float64)


def trial(
    data: Table,
    kind: str,
    mode: str,
    number: int,
    seed: int,
    *,
    ordered: bool,
    width: int | None = None,
) -> Trial:
    """Make one trial; abrupt and gradual ones of a number share onset, label and features.

    Parameters
    ----------
    data
        The stream.
    kind, mode
        Of `KINDS` and `MODES`.
    number, seed
        Which trial of which run.
    ordered
        Keep the rows in the order of time; the published protocol shuffles them.
    width
        Rows of a gradual drift's ramp; the tolerance where None.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind), number])
    n, features = data.x.shape
    order = np.arange(n) if ordered else rng.permutation(n)
    onset = int(n * rng.uniform(0.5, 0.8))
    label = int(rng.integers(2))
    permutation = rng.permutation(features)
    feature = int(rng.integers(features))
    ramp = (data.tolerance if width is None else width) if mode == "gradual" else 0
    rows, x, y = _inject(
        data.x, data.y, order, KINDS.index(kind), onset, ramp, label, permutation, feature,
        float(np.median(data.x[:, feature])), int(rng.integers(2**31)),
    )  # fmt: skip
    return Trial(kind, mode, onset, int(n * WATCHED_FROM), rows, x, y, predict(x, y))


def clean(data: Table) -> Trial:
    """Return the stream in the order of time without a drift; its onset lies after the end."""
    n = len(data)
    watched = int(n * WATCHED_FROM)
    return Trial("", "", n, watched, np.arange(n), data.x, data.y, predict(data.x, data.y))


def trials(data: Table, seed: int, count: int, *, ordered: bool) -> Iterator[Trial]:
    """Yield as many trials of each mode and kind."""
    for mode in MODES:
        for kind in KINDS:
            for number in range(count):
                yield trial(data, kind, mode, number, seed, ordered=ordered)


@compiled
def _inject(
    x: Floats, y: Ints, order: Ints, kind: int, onset: int, width: int,
    label: int, permutation: Ints, feature: int, limit: float, seed: int,
) -> tuple[Ints, Floats, Ints]:  # fmt: skip
    """Return the rows that are left, their features and labels."""
    np.random.seed(seed)  # noqa: NPY002 - the one generator that compiled code has
    n, features = x.shape
    rows, labels = np.empty(n, np.int64), np.empty(n, np.int64)
    values = np.empty((n, features))
    kept = 0
    for t in range(n):
        i = order[t]
        drifted = t >= onset + width
        if not drifted and t >= onset:
            drifted = np.random.random() < (t - onset) / width  # noqa: NPY002
        rows[kept], labels[kept], values[kept] = t, y[i], x[i]
        if drifted:
            if kind == 0 and y[i] == label and np.random.random() < _SKIPPED:  # noqa: NPY002
                continue
            if kind == 1 and y[i] == label:
                labels[kept] = 1 - label
            if kind == 2:
                for a in range(features):
                    values[kept, a] = x[i, permutation[a]]
            if kind == 3 and x[i, feature] > limit:
                continue
        kept += 1
    return rows[:kept].copy(), values[:kept].copy(), labels[:kept].copy()


@dataclass
class Tally:
    """Alarms of one detector on trials of one kind, pooled.

    Parameters
    ----------
    tolerance
        Rows after an onset within which an alarm is true.
    """

    tolerance: int
    true: int = 0
    false: int = 0
    late: int = 0  # of the false ones, those after the tolerance
    trials: int = 0
    found: int = 0
    found_by_twice: int = 0
    delays: list[int] = field(default_factory=list[int])

    def add(self, onset: int, alarms: Iterable[int]) -> None:
        """Count a trial's alarms, rising rows; each that lies in the window is true."""
        rows = list(alarms)
        end = onset + self.tolerance
        hits = [row for row in rows if onset <= row <= end]
        self.true += len(hits)
        self.false += len(rows) - len(hits)
        self.late += sum(row > end for row in rows)
        self.trials += 1
        self.found += bool(hits)
        self.found_by_twice += any(onset <= row <= end + self.tolerance for row in rows)
        self.delays += [hits[0] - onset] if hits else []

    @property
    def f1(self) -> float:
        """As published: several true alarms of one drift all count."""
        return self._f1(self.true)

    @property
    def episode_f1(self) -> float:
        """The same, but each drift counts once."""
        return self._f1(self.found)

    def _f1(self, true: int) -> float:
        missed = self.trials - self.found
        return 2 * true / max(1, 2 * true + self.false + missed)

    @property
    def recall(self) -> float:
        """Share of the drifts that were found in time."""
        return self.found / max(1, self.trials)

    @property
    def recall_by_twice(self) -> float:
        """Share of the drifts that were found within twice the tolerance."""
        return self.found_by_twice / max(1, self.trials)


class Contest:
    """Tallies of several detectors, by mode and kind."""

    def __init__(self, tolerance: int) -> None:
        self.tolerance = tolerance
        self.tallies: dict[tuple[str, str, str], Tally] = {}

    def add(self, detector: str, tried: Trial, alarms: Iterable[int]) -> None:
        """Count the alarms of a detector on a trial."""
        key = (detector, tried.mode, tried.kind)
        self.tallies.setdefault(key, Tally(self.tolerance)).add(tried.onset, alarms)

    def mean(self, detector: str, mode: str, figure: str) -> float:
        """Return the mean over kinds of a figure of `Tally`."""
        return float(
            np.mean([getattr(self.tallies[detector, mode, kind], figure) for kind in KINDS])
        )


def merged(alarms: Iterable[int], gap: int) -> list[int]:
    """Return the first of alarms, rising rows, that follow one another within `gap` rows."""
    first: list[int] = []
    last: int | None = None
    for alarm in alarms:
        if last is None or alarm - last > gap:
            first.append(alarm)
        last = alarm
    return first


def adwin(tried: Trial, streams: Floats, begin: int, delta: float = 0.002) -> list[int]:
    """Return the rows, of those watched, at which River's ADWIN flags any of (n, k) streams.

    Run compiled, as `tocsin.detectors.adwin`, which raises River's flags; `river_adwin` of `common_detection`
    says if it does.

    Parameters
    ----------
    begin
        The first position that it sees.
    delta
        Its significance; River's default.
    """
    found = Adwin(delta).update(Observations.of(streams[begin:]))
    rows = tried.rows[np.array([begin + verdict.offset for verdict in found], np.int64)]
    return rows[rows > tried.watched].tolist()


def adwin_alarms(tried: Trial, streams: Floats, begin: int, gap: int) -> list[int]:
    """Return the same with River's defaults, of alarms within `gap` rows the first."""
    return merged(adwin(tried, streams, begin), gap)
