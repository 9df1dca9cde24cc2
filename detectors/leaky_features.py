"""Features that tell the label too well: counts of labels by feature, as whole numbers, and what follows from them."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from ..core.columns import Floats, Ints
from ..core.snapshot import check, pack, reading, unpack
from .binary_metrics import Metric, Z, wilson
from .compiled import compiled
from .leaky_kernel import AREA, INFORMATION, LOGS, measure

EDGES: Final = 16
"""Quantiles of the reference between which the values of a feature are told apart."""
CELLS: Final = 2 * EDGES + 2
"""Below, on and above each quantile, and one for missing values."""
FEWEST: Final = 30
"""Labels of each of two classes, at the least (chosen)."""
GAIN: Final = 0.15
"""An area under the curve, or a share of information, that grew by less is nobody's concern (chosen)."""
HIGH: Final = {"auc": 0.85, "information": 0.6}
"""One that stays below this is a change of the concept rather than a leak (chosen: Elec2's own changes reach 0.82)."""
SURE: Final = 0.99
"""From this value on a feature is near to the label itself ..."""
SURELY: Final = 0.95
"""... if its bound is above this ..."""
USUAL: Final = 0.9
"""... and half of the other features are below this: where all of them tell the label, the task is easy."""
CLOSER: Final = 4.0
"""One that was near to it in the reference is honest, unless what it lacks to 1 is surely less by such a factor (chosen)."""
MORE: Final = "more than in the reference"
COPY: Final = "as a copy of it"
MAYBE: Final = "near the label"
"""Why a feature is named; the last is a leak, or honest."""
_QUANTILES: Final = (np.arange(EDGES) + 0.5) / EDGES
_MANY: Final = 1 << 20  # values a feature of which quantiles are taken
_KIND: Final = "leaky features"
_VERSION: Final = 1


class Leaky(NamedTuple):
    """A feature that tells the label too well.

    Parameters
    ----------
    feature
        Its name.
    by
        `auc` or `information`.
    value
        How well it tells the label, with the interval at 95 %.
    before
        The same in the reference, None where it is not known.
    why
        `MORE`, `COPY` or `MAYBE`.
    """

    feature: str
    by: str
    value: Metric
    before: Metric | None
    why: str


@compiled
def _count(table: Ints, values: Floats, edges: Floats, used: Ints, labels: Ints, sign: int) -> None:
    for i in range(len(values)):
        y = labels[i]
        if y < 0 or y >= table.shape[2]:
            continue
        for j in range(values.shape[1]):
            x, cell = values[i, j], CELLS - 1
            if not np.isnan(x):
                low, high = 0, used[j]
                while low < high:
                    middle = (low + high) // 2
                    if edges[j, middle] < x:
                        low = middle + 1
                    else:
                        high = middle
                cell = 2 * low + (1 if low < used[j] and edges[j, low] == x else 0)
            table[j, cell, y] += sign


class LabelCounts:
    """How often each class came with each part of each feature.

    Parameters
    ----------
    names
        (k,) the features; a category is its number.
    edges
        (k, 16) quantiles of each feature, ascending, all different; NaN where there are fewer.
    classes
        Classes of labels, 2 or more.

    Notes
    -----
    Bounded: 34 cells of 8 bytes for each feature and class. Order, corrections and merges change nothing.
    """

    def __init__(self, names: Sequence[str], edges: Floats, classes: int = 2) -> None:
        if classes < 2:
            raise ValueError(f"classes must be 2 or more, got {classes}")
        if edges.shape != (len(names), EDGES):
            raise ValueError(f"expected edges of shape ({len(names)}, {EDGES}), got {edges.shape}")
        self.names = tuple(names)
        self.table = np.zeros((len(names), CELLS, classes), np.int64)
        self.edges = np.ascontiguousarray(edges, np.float64)
        self._used = np.isfinite(edges).sum(axis=1).astype(np.int64)

    @classmethod
    def fit(cls, names: Sequence[str], values: Floats, classes: int = 2) -> LabelCounts:
        """Return empty counts with the quantiles of (n, k) values, infinities and NaN left out."""
        if values.ndim != 2 or values.shape[1] != len(names):
            raise ValueError(f"expected (n, {len(names)}) values, got {values.shape}")
        edges = np.full((len(names), EDGES), np.nan)
        for j in range(len(names)):
            column = values[:_MANY, j]
            column = column[np.isfinite(column)]
            if len(column):
                places = np.ceil(_QUANTILES * len(column)).astype(np.int64) - 1
                found = np.unique(np.sort(column)[places])
                edges[j, : len(found)] = found
        return cls(names, edges, classes)

    def like(self) -> LabelCounts:
        """Return empty counts of the same features, parts and classes."""
        return LabelCounts(self.names, self.edges, self.table.shape[2])

    def add(self, values: Floats, labels: Ints, sign: int = 1) -> None:
        """Add n rows, or take them away.

        Parameters
        ----------
        values
            (n, k) float64, NaN where one is missing.
        labels
            (n,) numbers of classes; a row whose label is anything else is not counted.
        sign
            1, or -1 to take away what was added before.
        """
        if values.shape != (len(labels), len(self.names)):
            raise ValueError(
                f"expected values of shape ({len(labels)}, {len(self.names)}), got {values.shape}"
            )
        _count(
            self.table, np.ascontiguousarray(values, np.float64), self.edges, self._used,
            np.ascontiguousarray(labels, np.int64), sign,
        )  # fmt: skip

    def merge(self, other: LabelCounts) -> None:
        """Add what another has counted of the same features and parts."""
        if self.names != other.names or not np.array_equal(self.edges, other.edges, equal_nan=True):
            raise ValueError("expected counts of the same features with the same quantiles")
        self.table += other.table

    def snapshot(self) -> bytes:
        """Return the counts: versioned, checksummed, no pickle."""
        arrays: dict[str, NDArray[Any]] = {"edges": self.edges, "table": self.table}
        return pack(_KIND, _VERSION, {"names": self.names}, arrays)

    @classmethod
    def restore(cls, state: bytes) -> LabelCounts:
        """Return the counts of a snapshot.

        Raises
        ------
        StateError
            The bytes are damaged or of another version.
        """
        meta, arrays = unpack(_KIND, _VERSION, state)
        with reading(_KIND):
            table = arrays["table"]
            check(arrays["edges"], "edges", (len(meta["names"]), EDGES), np.dtype(np.float64))
            found = cls(tuple(meta["names"]), arrays["edges"], table.shape[2])
            check(table, "table", found.table.shape, found.table.dtype)
            found.table = table
            return found


def area(counts: Ints) -> tuple[float, float] | None:
    """Return how well a feature's order tells two classes apart, and its variance; None where that is not known.

    The larger of the area under the curve and what it lacks to 1, of (CELLS, 2) counts; equal values count half and
    missing ones not. The variance is DeLong's (1988, doi:10.2307/2531595), or that of half a pair where it is 0.
    """
    negatives, positives = counts[:-1].astype(np.float64).T
    n, p = negatives.sum(), positives.sum()
    if min(n, p) < FEWEST:
        return None
    above = (np.cumsum(negatives) - negatives / 2) / n
    below = 1 - (np.cumsum(positives) - positives / 2) / p
    found = float(positives @ above / p)
    variance = float(positives @ (above - found) ** 2) / (p * (p - 1))
    variance += float(negatives @ (below - found) ** 2) / (n * (n - 1))
    return max(found, 1 - found), max(variance, 1 / (4 * min(n, p) ** 2))


def information(counts: Ints) -> tuple[float, float] | None:
    """Return which share of the label's entropy a feature tells, and its variance; None where that is not known.

    The uncertainty coefficient I(X; Y) / H(Y) of (CELLS, classes) counts (Theil 1970, "On the estimation of
    relationships involving qualitative variables", doi:10.1086/224909), both with the correction of Miller (1955,
    "Note on the bias of information estimates"), within [0, 1]. The variance is that of the delta method.
    """
    n = int(counts.sum())
    if (counts.sum(axis=0) >= FEWEST).sum() < 2:
        return None
    joint = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0] / n
    x, y = joint.sum(axis=1, keepdims=True), joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    gain = np.log(np.where(seen, joint, 1.0) / np.where(seen, x * y, 1.0))
    bits = -np.log(y)
    mutual, entropy = float((joint * gain).sum()), float((y * bits).sum())
    value = mutual / entropy
    variance = float((joint * (gain - value * bits) ** 2).sum()) / (n * entropy**2)
    # Cells beyond those of its rows and columns: each makes independent ones look informed by half a count.
    more = (int(seen.sum()) - joint.shape[0] - joint.shape[1] + 1) / (2 * n)
    corrected = (mutual - more) / (entropy + (joint.shape[1] - 1) / (2 * n))
    fewest = float(counts.sum(axis=0)[counts.sum(axis=0) > 0].min())
    return min(max(corrected, 0.0), 1.0), max(variance, 1 / (4 * n * fewest))


_MEASURES: Final = {"auc": AREA, "information": INFORMATION}


def told(counts: LabelCounts) -> dict[str, dict[str, Metric]]:
    """Return by `auc` (where there are two classes) and `information` how well each feature tells the label."""
    found: dict[str, dict[str, Metric]] = {}
    values = _values(counts.names, measured(counts.table), two=counts.table.shape[2] == 2)
    for by, value in values.items():
        found[by] = {name: _metric(*pair) for name, pair in value.items()}
    return found


def _values(
    names: Sequence[str], found: Floats, *, two: bool
) -> dict[str, dict[str, tuple[float, float]]]:
    return {
        by: {
            name: (float(row[at]), float(row[at + 1]))
            for name, row in zip(names, found, strict=True)
            if not np.isnan(row[at])
        }
        for by, at in _MEASURES.items()
        if by != "auc" or two
    }


def measured(table: Ints) -> Floats:
    """Return `area` and `information` of (k, CELLS, classes) counts, (k, 4) with variances; NaN where it is not known."""
    found = np.empty((len(table), 4))
    measure(table, FEWEST, LOGS, found)
    return found


def high(found: Floats) -> NDArray[np.bool_]:
    """Return (k,) which features tell so much, of what `measured` has returned, that they may be named."""
    with np.errstate(invalid="ignore"):
        by = [found[:, at] > HIGH[name] for name, at in _MEASURES.items()]
    return np.asarray(by[0] | by[1])


def leaky(
    current: LabelCounts,
    reference: LabelCounts | None = None,
    error: float = 0.01,
    look: int = 1,
    known: Mapping[str, bool] | None = None,
) -> list[Leaky]:
    """Return the features that tell the label too well, each once.

    Parameters
    ----------
    current, reference
        Counts with the same quantiles; None where there is no reference.
    error
        The probability of a wrong claim over all features, both measures and all looks (Bonferroni).
    look
        The number of this look, 1, 2, ...: it has `error` / (look (look + 1)), which sums to `error`.
    known
        Features whose reference is training, and whether they are copies of the label there; a reference of others may leak itself.

    Notes
    -----
    A feature tells more than in the reference where the difference is surely above `GAIN`, and what it tells above `HIGH`; or
    where it is near the label and lacks surely less than 1 / `CLOSER` of what it lacked. It is near the label where it tells at
    least 0.99 and its lower bound is above 0.95, while half of the others tell less than 0.9; a copy needs no others. One that
    is near the label, as it was in training, is honest, if it is no copy.
    """
    then = None if reference is None else measured(reference.table)
    found = measured(current.table)
    return claims(current.names, current.table, found, then, error, look, known)


def claims(
    names: Sequence[str],
    table: Ints,
    found: Floats,
    reference: Floats | None = None,
    error: float = 0.01,
    look: int = 1,
    known: Mapping[str, bool] | None = None,
) -> list[Leaky]:
    """Return what `leaky` does, of counts that have been `measured`, and of a reference's that have."""
    if not 0 < error < 1 or look < 1:
        raise ValueError(
            f"expected an error within (0, 1) and a look of 1 or more, got {error}, {look}"
        )
    two = table.shape[2] == 2
    known = known or {}
    now = _values(names, found, two=two)
    then = {} if reference is None else _values(names, reference, two=two)
    tests = 2 * max(sum(map(len, now.values())), 1)
    z = -float(ndtri(error / (look * (look + 1)) / tests))
    named: dict[str, Leaky] = {}
    for by, pairs in now.items():
        for name, (value, variance) in pairs.items():
            if value <= HIGH[by]:
                continue
            before = then.get(by, {}).get(name)
            others = [other for of, (other, _) in pairs.items() if of != name]
            is_alone = not others or bool(np.median(others) < USUAL)
            counts = table[names.index(name), : -1 if by == "auc" else None]
            labels = np.sort(counts.sum(axis=0))
            of = float(labels[-2] if by == "auc" else labels.sum())
            is_near = value >= SURE and _bound(value, of, z) > SURELY
            if before is not None and _rose(value, variance, before, z, HIGH[by]):
                why = MORE
            elif is_near and known.get(name):
                why = COPY
            elif (
                is_near and is_alone and before is not None and _closed(value, variance, before, z)
            ):
                why = MORE
            elif is_near and is_alone and (before is None or name not in known):
                why = MAYBE
            else:
                continue
            if name not in named or (named[name].why == MAYBE and why != MAYBE):
                earlier = None if before is None else _metric(*before)
                named[name] = Leaky(name, by, _metric(value, variance), earlier, why)
    return list(named.values())


def _rose(
    value: float, variance: float, before: tuple[float, float], z: float, least: float
) -> bool:
    """Whether a value is surely high, and surely more than before."""
    is_high = value - z * np.sqrt(variance) > least
    return bool(is_high and value - before[0] - z * np.sqrt(variance + before[1]) > GAIN)


def _closed(value: float, variance: float, before: tuple[float, float], z: float) -> bool:
    """Whether a value lacks surely less to 1 than a part of what it lacked before."""
    nearer = (1 - before[0]) / CLOSER - (1 - value)
    return bool(nearer > z * np.sqrt(variance + before[1] / CLOSER**2))


def _bound(value: float, of: float, z: float) -> float:
    """Return a lower bound of a share (Wilson's), with the variance that the area under a curve has at the most.

    Birnbaum and Klose 1957, "Bounds for the variance of the Mann-Whitney statistic", doi:10.1214/aoms/1177706794.
    """
    low, _ = wilson(value * of * (Z / z) ** 2, of * (Z / z) ** 2)
    return low


def _metric(value: float, variance: float) -> Metric:
    half = Z * float(np.sqrt(variance))
    return Metric(value, max(value - half, 0.0), min(value + half, 1.0))


def equal_to_label(values: Floats, labels: Floats, lags: Sequence[int] = (0,)) -> dict[int, Metric]:
    """Return by lag in which share of rows a feature equals the label so many rows later.

    Parameters
    ----------
    values, labels
        (n,) in the order of time; NaN for none.
    lags
        0 or more: 0 for the label of the row itself, 1 for the next one.
    """
    if values.shape != labels.shape or values.ndim != 1 or any(lag < 0 for lag in lags):
        raise ValueError(
            f"expected as many values as labels and lags of 0 or more, got {values.shape}, {labels.shape}, {lags}"
        )
    found = {}
    for lag in lags:
        early, later = values[: max(len(values) - lag, 0)], labels[lag:]
        known = ~(np.isnan(early) | np.isnan(later))
        if of := int(known.sum()):
            hits = int((early[known] == later[known]).sum())
            found[lag] = Metric(hits / of, *wilson(hits, of))
    return found


def after_event(feature: Ints, event: Ints) -> tuple[Ints, Metric | None]:
    """Return the rows whose feature is of a time after the event's, and their share; None where no row has both.

    Parameters
    ----------
    feature, event
        (n,) int64 nanoseconds since 1970; below 0 for none.
    """
    if feature.shape != event.shape or feature.ndim != 1:
        raise ValueError(f"expected as many times as events, got {feature.shape} and {event.shape}")
    known = (feature >= 0) & (event >= 0)
    rows = np.flatnonzero(known & (feature > event))
    of = int(known.sum())
    return rows, Metric(len(rows) / of, *wilson(len(rows), of)) if of else None
