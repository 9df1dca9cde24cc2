"""How features told the label in training: the part of a training reference that live labels are compared with."""

from __future__ import annotations

from typing import Final

import numpy as np

from ..core.columns import Floats, middle, singles
from ..core.errors import StateError
from ..core.snapshot import pack, reading, unpack
from ..detectors.label_copies import copies
from ..detectors.label_windows import Trained
from ..detectors.leak_watch import MOST_CLASSES
from ..detectors.leaky_features import SURE, LabelCounts, told
from .class_numbers import is_text
from .feature_sample import COLUMNS

PART: Final = "labels by feature"
"""The part's name in the file."""
_FIRST: Final = 10_000  # rows that quantiles are taken of
_KIND: Final = "labels_by_feature"
_VERSION: Final = 2


class TrainingLabels:
    """Counts labels by feature in rows of training.

    Notes
    -----
    The first 64 features that have a value, with the quantiles of the first 10,000 rows, which also tell which features are the
    label; in single precision, as a worker keeps them.
    """

    def __init__(self) -> None:
        self._columns: dict[str, int] = {}
        self._first: list[tuple[Floats, Floats]] = []
        self._rows = 0
        self._trained: Trained | None = None

    def add(
        self, names: tuple[str, ...], values: Floats, labels: Floats, *, is_regression: bool | None
    ) -> None:
        """Take in n rows: (n, k) values of these streams and (n,) labels, NaN for none.

        `is_regression` says whether labels are numbers; where it is None, more than 16 different ones are.
        """
        if np.isnan(labels).all():
            return
        has: list[bool] = np.any(~np.isnan(values), axis=0).tolist()
        of = [c for c, n in enumerate(names) if n.startswith(("feature:", "category:")) and has[c]]
        if self._trained is None:
            for column in of:
                if len(self._columns) < COLUMNS:
                    self._columns.setdefault(names[column], len(self._columns))
        of = [column for column in of if names[column] in self._columns]
        rows = np.full((len(values), len(self._columns)), np.nan)
        rows[:, [self._columns[names[c]] for c in of]] = singles(values[:, of])
        if self._trained is not None:
            _count(self._trained, rows, labels)
            return
        self._first.append((rows, labels))
        self._rows += len(rows)
        if self._rows >= _FIRST:
            self._fit(is_regression=is_regression)

    def _fit(self, *, is_regression: bool | None) -> None:
        k = len(self._columns)
        wide = [
            np.pad(v, ((0, 0), (0, k - v.shape[1])), constant_values=np.nan) for v, _ in self._first
        ]
        values, labels = np.concatenate(wide), np.concatenate([of for _, of in self._first])
        known = labels[~np.isnan(labels)]
        found, often = np.unique(known, return_counts=True)
        if is_regression is None:
            is_regression = len(found) > MOST_CLASSES and not is_text(found).any()
        above = middle(known) if is_regression else None
        classes: list[float] = []
        if above is None:
            classes = found[np.argsort(-often, kind="stable")][:MOST_CLASSES].tolist()
        counts = LabelCounts.fit(tuple(self._columns), values, max(len(classes), 2))
        same = copies(values, labels, is_regression=is_regression)
        names = frozenset(np.array(counts.names, object)[same].tolist())
        self._trained = Trained(counts, classes, above, names)
        _count(self._trained, values, labels)
        self._first = []

    def part(self, *, is_regression: bool | None) -> dict[str, bytes]:
        """Return the part by its name; none where no row had a label and a feature."""
        if self._first and self._columns:
            self._fit(is_regression=is_regression)
        if self._trained is None:
            return {}
        counts, classes, above, same = self._trained
        near = {n for of in told(counts).values() for n, m in of.items() if m.value >= SURE}
        meta = {
            "counts": counts.snapshot(), "classes": classes, "middle": above, "copies": sorted(same & near),
        }  # fmt: skip
        return {PART: pack(_KIND, _VERSION, meta, {})}


def _count(trained: Trained, values: Floats, labels: Floats) -> None:
    if trained.middle is not None:
        y = np.where(np.isnan(labels), -1, labels > trained.middle).astype(np.int64)
    else:
        y = np.full(len(labels), -1)
        for number, label in enumerate(trained.classes):
            y[labels == label] = number
    trained.counts.add(values, y)


def read(part: bytes) -> Trained:
    """Return what `TrainingLabels` has counted.

    Raises
    ------
    StateError
        The bytes are damaged.
    """
    with reading(PART):
        meta, _ = unpack(_KIND, _VERSION, part)
        counts = LabelCounts.restore(meta["counts"])
        classes = [float(number) for number in meta["classes"]]
        above = None if meta["middle"] is None else float(meta["middle"])
        if len(counts.names) > COLUMNS or counts.table.shape[2] != max(len(classes), 2):
            raise StateError(f"{len(counts.names)} features and {len(classes)} classes")
        return Trained(counts, classes, above, frozenset(map(str, meta["copies"])))
