"""Rates of groups of a classifier of several classes, of which two are compared at a level of chance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from ..core.columns import Floats, Ints
from .binary_metrics import Metric, Z, wilson
from .gaps import difference
from .looks import deviations

METRICS: Final = ("accuracy", "recall", "precision", "positive_rate", "loss")
"""What groups may be compared in. Of two classes `recall:1` is equal opportunity, both recalls are equalised odds, `positive_rate:1` is demographic
parity and `precision` predictive parity; see `gaps`."""
_CLASSES: Final = 20  # rates by class are of so many at most; chosen, of more each has few rows
_LEAST: Final = 30  # rows of either side; chosen, as in `gaps`


class Group(NamedTuple):
    """Counts of one group, or of several added up.

    Parameters
    ----------
    by_class
        (3, classes) hits, labels and predictions of each class.
    loss
        (3,) how many rows have a loss, the sum of losses, and of their squares.
    """

    by_class: Ints
    loss: Floats

    @property
    def rows(self) -> int:
        """How many there are."""
        return int(self.loss[0])

    def minus(self, other: Group) -> Group:
        """Return the rows that are not in another group."""
        return Group(self.by_class - other.by_class, self.loss - other.loss)


class Difference(NamedTuple):
    """A metric of one group less that of another: with its interval at 95 %, both values, and whether that is more than chance."""

    metric: str
    gap: Metric
    values: tuple[float, float]
    rows: tuple[int, int]
    is_sure: bool


def differences(
    sides: list[tuple[Group, Group]], metrics: tuple[str, ...], level: float
) -> list[list[Difference]]:
    """Return what can be compared of each two groups, at one level of chance for all together.

    Parameters
    ----------
    sides
        The two groups of each comparison.
    metrics
        Some of `METRICS`; of numbers, which have no classes, only the loss is compared, whether it is among them or not.
    level
        The chance of any false claim, shared among comparisons (Bonferroni).

    Notes
    -----
    Rates have Newcombe's interval, see `gaps.difference`, which at the level of a comparison does not hold 0; mean losses the normal one of Welch.
    Sides of fewer than 30 rows are not compared.
    """
    pairs = [
        [
            both
            for both in zip(_named(a, metrics), _named(b, metrics), strict=True)
            if min(both[0][2], both[1][2]) >= _LEAST
        ]
        for a, b in sides
    ]
    z = deviations(level, sum(map(len, pairs)))
    return [[_compared(*both, z) for both in of] for of in pairs]


Rate = tuple[str, float, int, Floats | None]
"""Its metric; hits, of how many; or a mean loss, of how many, and the sums it is of."""


def _named(group: Group, metrics: tuple[str, ...]) -> Iterator[Rate]:
    hits, true, said = group.by_class
    count = int(true.sum())
    for name in metrics if len(true) else ():
        if name == "accuracy":
            yield name, float(hits.sum()), count, None
        if name == "positive_rate":
            yield from ((f"{name}:{k}", float(said[k]), count, None) for k in _first(true))
        if name in {"recall", "precision"}:
            of = true if name == "recall" else said
            yield from ((f"{name}:{k}", float(hits[k]), int(of[k]), None) for k in _first(true))
    if "loss" in metrics or not len(true):
        yield "loss", 0.0, group.rows, group.loss


def _first(of: Ints) -> range:
    return range(min(len(of), _CLASSES))


def _compared(a: Rate, b: Rate, z: float) -> Difference:
    ours, theirs = _metric(a, Z), _metric(b, Z)
    sure = difference(_metric(a, z), _metric(b, z))
    is_sure = not sure.low <= 0 <= sure.high
    return Difference(
        a[0], difference(ours, theirs), (ours.value, theirs.value), (a[2], b[2]), is_sure
    )


def _metric(of: Rate, z: float) -> Metric:
    _, hits, count, sums = of
    if sums is None:
        return Metric(hits / count, *wilson(hits, count, z))
    mean, error = mean_and_error(sums)
    return Metric(mean, mean - z * error, mean + z * error)


def mean_and_error(sums: Floats) -> tuple[float, float]:
    """Return the mean of (count, sum, sum of squares), and its standard error; NaN where that is not known."""
    count, total, squares = (float(x) for x in sums)
    if count < 2:
        return (total / count if count else math.nan), math.nan
    mean = total / count
    variance = max(squares / count - mean * mean, 0.0)
    return mean, float(np.sqrt(variance / (count - 1)))
