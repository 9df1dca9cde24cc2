"""Features that tell the label too well, or are it, in labels as they come: looks at windows that double, one error for all."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from ..core.columns import Floats, Ints, Singles, middle, singles
from ..core.errors import StateError
from ..core.snapshot import pack, unpack
from ..core.verdict import Verdict
from .binary_metrics import Metric, Z
from .label_windows import Trained, Window, checked
from .leak_verdicts import (
    FEATURES,
    SAME,
    SAME_AS_LABEL,
    agreement,
    equal_to_label,
    settled,
    tells_label,
)
from .leaky_features import CELLS, EDGES, LabelCounts, claims, high, measured
from .leaky_kernel import EQUAL, INFORMATION, VALUES, places, tally

BLOCK: Final = 1_000
"""Labels of the shortest window; a leak lies in a window of its own after twice as many at the latest."""
STEP: Final = BLOCK // 4
"""Labels between two looks for features that are equal to the label."""
LEVELS: Final = 6
"""Windows of 1, 2, 4, ... blocks: where one label in 1,000 is of the rarer class, 30 of them are in the longest."""
MOST_CLASSES: Final = 16
FEW: Final = 100
"""Values in a block that a feature needs for its quantiles (chosen) ..."""
_VARIED: Final = 5
"""... and of these so many that are not the most frequent one: one that is constant is waited for."""
_DIFFERS: Final = 0.9
"""Below such a share of agreement in a block a feature is equal to the label no more (chosen)."""
_BEYOND: Final = 0.2
"""A feature of which so many values lie beyond its quantiles, where a sixteenth belongs, has moved away from them (chosen)."""
_TELLS: Final = 1  # the level of the window by which it is said how well features tell the label
TOLD: Final = 5
"""Features of a cohort of which it is said how well they tell the label: the best ones."""
_KIND, _WINDOWS = "leakage_labels", "leakage_windows"


class LeakWatch:
    """Counts labels by feature, and looks whether some feature tells them too well.

    Parameters
    ----------
    error
        The probability of a false alarm, ever and over all features: half for those that tell too much, half for those
        that are equal.
    reference_labels
        A feature's first labels that later ones are compared with, where training is not known.
    trained
        What was counted in training.
    spans
        Cohorts of which it is kept what the best features tell; the latest ones.

    Notes
    -----
    Windows of 1,000, 2,000, ..., 32,000 labels begin at multiples of their length, so that whatever begins lies wholly within a
    window of any length after twice as many labels. Look number k has 1 / (k (k + 1)) of the error. A feature gets its
    quantiles, and its reference begins, in the first block in which it has 100 values that are not all one. Bounded: 9 tables of 34 cells a feature and class.
    """

    def __init__(
        self,
        error: float = 0.01,
        reference_labels: int = 2_000,
        trained: Trained | None = None,
        spans: int = 90,
    ) -> None:
        self._error = error / 2
        self._spans = spans
        self._known = {} if trained is None else trained.known
        self._blocks = -(-reference_labels // BLOCK)
        self.names: list[str] = []
        self.classes: list[float] = []
        self.middle: float | None = None
        self.count = 0
        """Labels so far."""
        self._looks = [0, 0]
        self._edges, self._used = np.empty((0, EDGES), np.float32), np.empty(0, np.int64)
        self._quiet = np.empty(0, np.float32)  # the only value so far of features without quantiles
        self._learned = np.empty(0, np.int64)  # blocks in the reference of each feature
        self._reference = np.empty((0, CELLS, 2), np.int64)
        self._block = Window.empty(0, 2)
        self._marked = Window.empty(0, 0)  # what `equal` and `same` were at the last step
        self._levels: list[Window | None] = [None] * LEVELS
        self._then: Floats | None = None  # what the reference tells, as far as it is complete
        self._before = np.nan
        self._open: dict[tuple[str, str], int] = {}
        self._told: dict[int, tuple[int, dict[str, Metric]]] = {}
        self._new: list[tuple[Singles, Floats]] = []  # of the block, of features without quantiles
        self._held: list[tuple[Singles, Floats]] = []
        self._waiting = 0
        self.changes = 0
        """Goes up whenever what is stored of windows does; a store need not write it again in between."""
        if trained is not None:
            self._begin(trained)

    def _begin(self, trained: Trained) -> None:
        counts = trained.counts
        self.classes, self.middle = list(trained.classes), trained.middle
        self.see(counts.names)
        self._edges[:], self._used[:] = counts.edges, np.isfinite(counts.edges).sum(axis=1)
        self._grow(counts.table.shape[2])
        self._reference[:] = counts.table
        self._learned[:] = self._blocks

    def see(self, names: tuple[str, ...] | list[str]) -> None:
        """Add features; they are numbered in this order."""
        self.names += names
        more = len(self.names) - len(self._used)
        self._edges = np.concatenate([self._edges, np.full((more, EDGES), np.nan, np.float32)])
        self._used = np.concatenate([self._used, np.full(more, -1)])
        self._quiet = np.concatenate([self._quiet, np.full(more, np.nan, np.float32)])
        self._learned = np.concatenate([self._learned, np.zeros(more, np.int64)])
        self._grow(self._block.table.shape[2])

    def _grow(self, classes: int) -> None:
        """Give all counts room for all features and so many classes."""
        k = len(self.names)
        self._block = self._block.padded(k, classes)
        self._levels = [level and level.padded(k, classes) for level in self._levels]
        more = (k - len(self._reference), classes - self._reference.shape[2])
        if any(more):
            self._reference = np.pad(self._reference, ((0, more[0]), (0, 0), (0, more[1])))
            self._then = None
            self.changes += 1

    def add(
        self,
        values: Singles,
        labels: Floats,
        offsets: Ints,
        rows: Ints,
        spans: Ints,
        *,
        is_regression: bool,
    ) -> list[Verdict]:
        """Take labels in; return what is claimed.

        Parameters
        ----------
        values
            (k, n) the features, NaN for none.
        labels
            (n,) as `ClassNumbers` has them.
        offsets, rows, spans
            (n,) at which event a label is known, and the cohort of its prediction.
        is_regression
            Whether labels are numbers.
        """
        self._held.append((values, labels))
        self._waiting += len(labels)
        first = self._waiting - len(labels)
        found: list[Verdict] = []
        while self.count % STEP + self._waiting >= STEP:
            size = STEP - self.count % STEP
            last = size - first - 1
            at = int(offsets[last]), int(rows[last])
            self._take(size)
            found += self._look_for_equal(self._step(), at)
            if self.count % (BLOCK // 2) == 0:
                self._follow()
            if self.count % BLOCK == 0:
                found += self._close(at, int(spans[last]), is_regression=is_regression)
            first -= size
        return found

    def _follow(self) -> None:
        """Count features that have moved beyond their quantiles by new ones; their reference stays.

        Twice a block, so that whatever leaks after a move is in a block that is counted so within 2,000 labels.
        """
        table, top = self._block.table, 2 * np.maximum(self._used, 0)
        beyond = (table[:, 0] + table[np.arange(len(top)), top]).sum(axis=1)
        if not len(beyond) or beyond.max() < FEW:
            return
        moved = (
            (beyond >= FEW)
            & (beyond > _BEYOND * table[:, :-1].sum(axis=(1, 2)))
            & (self._used >= 0)
        )
        for j in np.flatnonzero(moved & (self._learned >= self._blocks)).tolist():
            if (self.names[j], FEATURES) in self._open:
                continue
            place = int((self._used[:j] < 0).sum())
            self._new = [(np.insert(v, place, np.nan, axis=1), y) for v, y in self._new]
            self._used[j], self._edges[j] = -1, np.nan
            for window in (self._block, *filter(None, self._levels)):
                window.table[j] = 0
            self.changes += 1

    def flush(self) -> None:
        """Count what waits, so that the state is whole."""
        if self._waiting:
            self._take(self._waiting)

    def _take(self, size: int) -> None:
        """Count the first labels of those that wait."""
        k = len(self.names)
        values, labels, at = np.empty((k, size), np.float32), np.empty(size), 0
        while at < size:
            part, known = self._held.pop(0)
            end = min(at + len(known), size)
            values[: len(part), at:end] = part[:, : end - at]
            values[len(part) :, at:end] = np.nan
            labels[at:end] = known[: end - at]
            if end - at < len(known):
                self._held.insert(0, (part[:, end - at :], known[end - at :]))
            at = end
        self._waiting -= size
        y = self._numbers(labels) if self._is_known else np.full(size, -1)
        self._block = self._block.padded(k, max(len(self.classes), 2))
        if self._block.table.shape[2] != self._reference.shape[2]:
            self._grow(self._block.table.shape[2])
        single = np.empty(size + 1, np.float32)
        single[0], single[1:] = self._before, singles(labels)
        tally(*self._block, values, self._edges, self._used, y, single[1:], single[:-1])
        self._before = float(single[-1])
        self.count += size
        new = (self._used < 0).nonzero()[0]
        if len(new):
            own, quiet = values[new], self._quiet[new][:, None]
            differs = ~np.isnan(own) & (own != quiet)
            begins = np.where(differs.any(axis=1), differs.argmax(axis=1), size)
            own[np.arange(size) < begins[:, None]] = np.nan
            self._quiet[new[begins < size]] = np.nan
            begin = 0 if self._new else int(begins.min())
            if begin < size:
                self._new.append((own[:, begin:].T, labels[begin:]))

    @property
    def _is_known(self) -> bool:
        return bool(self.classes) or self.middle is not None

    def _numbers(self, labels: Floats) -> Ints:
        """Return (n,) numbers of classes, new ones in the order in which they come."""
        if self.middle is not None:
            return np.where(np.isnan(labels), -1, labels > self.middle).astype(np.int64)
        found = np.empty(len(labels), np.int64)
        new = places(labels, np.array(self.classes, np.float64), found)
        if new < len(labels) and len(self.classes) < MOST_CLASSES:
            self.classes.append(float(labels[new]))
            return self._numbers(labels)
        return found

    def _close(self, at: tuple[int, int], span: int, *, is_regression: bool) -> list[Verdict]:
        """End a block: give new features their quantiles, look at the windows that end here, and go on."""
        if self._new:
            self._fit(is_regression=is_regression)
        block, found = self._block, self._let_go_of_equal(at)
        number = self.count // BLOCK
        window = block
        for level in range(LEVELS):
            found += self._look(window, level, at, span)
            found += self._look_for_equal(window, at)
            before = self._levels[level]
            if number >> level & 1 or before is None:
                self._levels[level] = window
                break
            window, self._levels[level] = before + window, None
        learns = (self._learned < self._blocks) & (self._used >= 0)
        self._reference[learns] += block.table[learns]
        self._learned[learns] += 1
        self._then = None
        self._block = Window.empty(len(self.names), block.table.shape[2])
        self._marked = Window.empty(len(self.names), 0)
        self.changes += 1
        return found

    def _fit(self, *, is_regression: bool) -> None:
        """Give quantiles to features that have values, and count these."""
        width = max(values.shape[1] for values, _ in self._new)
        values = np.concatenate(
            [np.pad(v, ((0, 0), (0, width - v.shape[1])), constant_values=np.nan) for v, _ in self._new]
        )  # fmt: skip
        labels = np.concatenate([labels for _, labels in self._new])
        self._new = []
        if not self._is_known:
            self._meet(labels, is_regression=is_regression)
        y = self._numbers(labels)
        self._grow(max(len(self.classes), 2))
        of = np.flatnonzero(self._used < 0)[:width]
        usable = np.isfinite(values)
        for column, name in enumerate(of.tolist()):
            own = values[:, column : column + 1]
            found, often = np.unique(own[usable[:, column]], return_counts=True)
            if often.sum() < FEW or often.sum() - often.max() < _VARIED:
                if len(found):
                    self._quiet[name] = found[often.argmax()]
                continue
            begin = int(usable[:, column].argmax())  # what came before does not count
            counts = LabelCounts.fit(("",), own.astype(np.float64), self._block.table.shape[2])
            counts.add(own[begin:].astype(np.float64), y[begin:])
            self._edges[name] = counts.edges[0]
            self._used[name] = np.isfinite(counts.edges[0]).sum()
            self._block.table[name] = counts.table[0]

    def _meet(self, labels: Floats, *, is_regression: bool) -> None:
        """Decide what the classes are."""
        known = labels[~np.isnan(labels)]
        if is_regression and len(known):
            self.middle = middle(known)
        else:
            found, counts = np.unique(known, return_counts=True)
            self.classes = found[np.argsort(-counts, kind="stable")][:MOST_CLASSES].tolist()

    def _look(self, window: Window, level: int, at: tuple[int, int], span: int) -> list[Verdict]:
        """Return what a window of 2**level blocks shows."""
        self._looks[0] += 1
        found: list[Verdict] = []
        now = measured(window.table)
        self._tell(now, level, span)
        is_high = high(now)
        if is_high.any():
            if self._then is None:
                complete = (self._learned >= self._blocks)[:, None, None]
                self._then = measured(self._reference * complete)
            for claim in claims(
                self.names, window.table, now, self._then, self._error, self._looks[0], self._known
            ):
                name = claim.feature
                if (name, FEATURES) not in self._open and (name, SAME_AS_LABEL) not in self._open:
                    self._open[name, FEATURES] = level
                    is_trained = bool(self._known)
                    found.append(tells_label(claim, at, BLOCK << level, is_trained=is_trained))
        for (name, of), begun in list(self._open.items()):
            if of == FEATURES and begun == level and not is_high[self.names.index(name)]:
                del self._open[name, of]
                found.append(settled(name, of, at))
        return found

    def _tell(self, found: Floats, level: int, span: int) -> None:
        """Keep how well the best features tell the label, for their cohort: of 2,000 labels that end in it, if there are so many."""
        # Where the rarer class is too rare for these, longer ones will do.
        if _rank(self._told.get(span, (LEVELS, {}))[0]) > _rank(level):
            return
        value, variance = found[:, INFORMATION], found[:, INFORMATION + 1]
        best = np.argsort(-np.where(np.isnan(value), -1, value), kind="stable")[:TOLD]
        told = {}
        for j in best[~np.isnan(value[best])].tolist():
            of, half = float(value[j]), Z * float(np.sqrt(variance[j]))
            told[self.names[j]] = Metric(of, max(of - half, 0.0), min(of + half, 1.0))
        if told:
            self._told[span] = level, told
            for gone in sorted(self._told)[: -self._spans]:
                del self._told[gone]

    def told(self, span: int) -> dict[str, Metric]:
        """Return the share of the label's information that the best features tell, of a cohort."""
        return self._told.get(span, (0, {}))[1]

    def _step(self) -> Window:
        """Return what was counted since the last step, but for the table, and begin another."""
        block, begun = self._block, self._marked.padded(len(self.names), 0)
        self._marked = Window(begun.table, block.equal.copy(), block.same.copy())
        return Window(begun.table, block.equal - begun.equal, block.same - begun.same)

    def _look_for_equal(self, window: Window, at: tuple[int, int]) -> list[Verdict]:
        """Return which features are equal to the label in a window."""
        self._looks[1] += 1
        equal, found = window.equal, list[Verdict]()
        if not np.count_nonzero(equal[:, EQUAL]):
            return found
        alike = np.flatnonzero(equal[:, EQUAL] >= np.maximum(SAME * equal[:, VALUES], 1))
        if not len(alike):
            return found
        z = -float(
            ndtri(self._error / (self._looks[1] * (self._looks[1] + 1)) / max(len(self.names), 1))
        )
        for j in alike.tolist():
            name = self.names[j]
            agrees = agreement(equal[j], window.same, z)
            if agrees is None or (name, SAME_AS_LABEL) in self._open:
                continue
            self._open[name, SAME_AS_LABEL] = 0
            if self._open.pop((name, FEATURES), None) is not None:
                found.append(settled(name, FEATURES, at))
            found.append(equal_to_label(name, agrees, at))
        return found

    def _let_go_of_equal(self, at: tuple[int, int]) -> list[Verdict]:
        """Settle features that were equal to the label and differ from it in this block."""
        found = []
        for name, of in list(self._open):
            values, equal, _ = self._block.equal[self.names.index(name)].tolist()
            if of == SAME_AS_LABEL and values >= FEW and equal < _DIFFERS * values:
                del self._open[name, of]
                found.append(settled(name, of, at))
        return found

    def snapshot(self) -> bytes:
        """Return the state of the block, after `flush`."""
        width = max((v.shape[1] for v, _ in self._new), default=0)
        new = [
            np.pad(v, ((0, 0), (0, width - v.shape[1])), constant_values=np.nan)
            for v, _ in self._new
        ]
        arrays: dict[str, NDArray[Any]] = {
            "quiet": self._quiet, "new": np.concatenate([*new, np.empty((0, width), np.float32)]),
            **self._block.arrays("", np.int16), **self._marked.padded(len(self.names), 0).arrays(" marked", np.int16),
            "new_labels": np.concatenate([*(y for _, y in self._new), np.empty(0)]),
        }  # fmt: skip
        meta = {
            "names": self.names, "classes": self.classes, "middle": self.middle, "count": self.count,
            "looks": self._looks, "before": self._before,
            "open": [[*key, level] for key, level in self._open.items()],
        }  # fmt: skip
        return pack(_KIND, 1, meta, arrays)

    def snapshot_windows(self) -> bytes:
        """Return the state that changes with each block only."""
        arrays: dict[str, NDArray[Any]] = {
            "edges": self._edges, "used": self._used, "learned": self._learned,
            "reference": self._reference,
        }  # fmt: skip
        for level, window in enumerate(self._levels):
            if window is not None:
                arrays |= window.arrays(str(level), np.int32)
        told = [[span, level, dict(of)] for span, (level, of) in self._told.items()]
        return pack(_WINDOWS, 1, {"blocks": self.count // BLOCK, "told": told}, arrays)

    def restore(self, block: bytes, windows: bytes) -> None:
        """Go on from both, of an object that is new, of the same training.

        Raises
        ------
        StateError
            They are damaged, or not of one time.
        """
        meta, arrays = unpack(_KIND, 1, block)
        beside, stored = unpack(_WINDOWS, 1, windows)
        if meta["count"] // BLOCK != beside["blocks"]:
            raise StateError(
                f"{meta['count']} labels were counted, but {beside['blocks']} blocks of 1,000"
            )
        self.names = [str(name) for name in meta["names"]]
        self.classes = [float(number) for number in meta["classes"]]
        self.middle = None if meta["middle"] is None else float(meta["middle"])
        self.count, self._before = int(meta["count"]), float(meta["before"])
        self._looks = [int(n) for n in meta["looks"]]
        self._open = {(str(n), str(of)): int(level) for n, of, level in meta["open"]}
        self._told = {
            int(span): (int(level), {str(n): Metric(*map(float, m)) for n, m in of.items()})
            for span, level, of in beside["told"]
        }
        k, c = len(self.names), max(len(self.classes), 2)
        self._edges = checked(stored, "edges", (k, EDGES), np.float32)
        self._used = checked(stored, "used", (k,), np.int64)
        self._learned = checked(stored, "learned", (k,), np.int64)
        self._reference = checked(stored, "reference", (k, CELLS, c), np.int64)
        if ((self._used < -1) | (self._used > EDGES)).any() or len(self._looks) != 2:
            raise StateError(
                f"a feature has {self._used.min()} to {self._used.max()} quantiles, of 16"
            )
        self._block = Window.read(arrays, "", k, c, np.int16)
        self._marked = Window.read(arrays, " marked", k, 0, np.int16)
        self._levels = [
            Window.read(stored, str(level), k, c, np.int32) if f"table{level}" in stored else None
            for level in range(LEVELS)
        ]
        self._quiet = checked(arrays, "quiet", (k,), np.float32)
        labels = arrays["new_labels"]
        width = int((self._used < 0).sum())
        new = arrays["new"]
        checked(arrays, "new", (len(labels), min(new.shape[1], width)), np.float32)
        checked(arrays, "new_labels", (len(new),), np.float64)
        self._new = [(new, labels)] if len(labels) else []


def _rank(level: int) -> int:
    return level if level <= _TELLS else -level
