"""Leakage's part in a row of the series: what its figures follow from, and one figure from those of several rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from ..core.metric_row import MetricRow, Value
from ..detectors.feature_times import shares
from ..detectors.leak_watch import TOLD
from . import leakage
from .row_counts import RowCounts, ServedCounts

TELLS: Final = "tells_label"
"""What the metrics of how well a feature tells the label begin with."""


class Beside(NamedTuple):
    """What is told of the features of all predictions in a cohort.

    Parameters
    ----------
    tells
        How well the best ones tell the label.
    times
        As `RowCounts` has them.
    """

    tells: Mapping[str, Value]
    times: Mapping[str, tuple[int, int]]

    @property
    def metrics(self) -> dict[str, Value]:
        """All of it, as metrics."""
        return {**self.tells, **shares(self.times)}


def figures(rows: Sequence[MetricRow], counts: Sequence[RowCounts]) -> dict[str, Value]:
    """Return the figures of several rows of one environment and group.

    Notes
    -----
    Rates of training rows, the data-leakage rate and the share of times that are after their event follow from whole numbers,
    which are added up: they are what one partition would say that had all events. Rows that were looked up in other rows of training
    than those with the most predictions are left out.

    How well a feature tells the label is measured by each partition on its own labels: the mean, weighed by the labels in each row,
    of those that say so, with an interval that takes them for independent. Of rows of different times there is none, as a window has none.
    """
    found: dict[str, Value] = {}
    served: dict[str, ServedCounts] = {}
    for kind in dict.fromkeys(kind for one in counts for kind in one.served):
        same = _of_one_training([one.served[kind] for one in counts if kind in one.served])
        row = np.sum([one.row for one in same], axis=0).tolist()
        served[kind] = ServedCounts(same[0].law, same[0].every, row)
    found |= leakage.figures(served, _losses([one.losses for one in counts if one.losses]))
    times: dict[str, tuple[int, int]] = {}
    for one in counts:
        for name, (n, k) in one.times.items():
            before = times.get(name, (0, 0))
            times[name] = before[0] + n, before[1] + k
    if len({row.begin for row in rows}) > 1:
        return found
    return found | shares(times) | _tells(rows)


def _of_one_training(served: list[ServedCounts]) -> list[ServedCounts]:
    """Return those that were looked up in one training: that of most of the rows that were."""
    often: dict[tuple[int, ...], int] = {}
    for one in served:
        often[*one.law, one.every] = often.get((*one.law, one.every), 0) + one.row[0]
    most = max(often, key=lambda law: (often[law], law))
    return [one for one in served if (*one.law, one.every) == most]


def _losses(losses: list[list[int]]) -> list[int]:
    """Return the sum of losses that were compared with those of one training."""
    often: dict[tuple[int, int], int] = {}
    for members, small, others, _ in losses:
        often[members, small] = often.get((members, small), 0) + others
    if not often:
        return []
    most = max(often, key=lambda members: (often[members], members))
    others, below = (sum(of[k] for of in losses if (of[0], of[1]) == most) for k in (2, 3))
    return [*most, others, below]


def _tells(rows: Sequence[MetricRow]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    names = dict.fromkeys(n for row in rows for n in row.metrics if n.startswith(f"{TELLS}:"))
    for name in names:
        told = [(row.metrics[name], row.labels) for row in rows if name in row.metrics]
        total = sum(labels for _, labels in told)
        if not total:
            continue
        value = sum(at * labels / total for (at, *_), labels in told)
        down, up = (
            math.hypot(*(_reach(metric, end) * labels / total for metric, labels in told))
            for end in (1, 2)
        )
        found[name] = (value, max(value - down, 0.0), min(value + up, 1.0), 0.0)
    best = sorted(found, key=lambda name: (-found[name][0], name))[:TOLD]
    return {name: found[name] for name in best}


def _reach(metric: Value, end: int) -> float:
    """Return how far a metric is from an end of its interval; without bound where that is not known."""
    bound = metric[1] if end == 1 else metric[2]
    return math.inf if bound is None else bound - metric[0]
