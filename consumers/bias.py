"""Gaps between groups of one model in one environment: which are tested, as groups come up, within the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from ..core.columns import Floats, Ints
from ..core.snapshot import pack, unpack
from ..core.verdict import Verdict
from ..detectors import gaps
from ..detectors.base import Observations
from ..detectors.gap_test import GapTests
from .estimators import Seen
from .groups import Groups
from .join import Pairs
from .model_settings import BiasSettings
from .score_columns import ScoreColumns

OF_PREDICTIONS: Final = "positive_rate"
"""The metric that needs no label; all others are of pairs."""
_MOST: Final = 20  # groups of a segment that are compared: the first ones

Events = Seen | Pairs
Names = tuple[str, ...]


class GapMonitor:
    """Tests of some metrics between the groups of all configured segments.

    Parameters
    ----------
    metrics
        Names of `gaps.outcomes`.
    segments
        Names of segments, those that are crossed together.
    groups
        The model's.
    outcomes
        Returns the outcomes of events by metric.
    budget_events, epsilon
        See `GapTests`.

    Notes
    -----
    A group is compared from the first row that is in it, and shares of the budget are looked at anew there.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        segments: Sequence[Names],
        groups: Groups,
        outcomes: Callable[[Events], dict[str, Floats]],
        budget_events: float,
        epsilon: float,
    ) -> None:
        self.changes = 0
        """Goes up whenever the state does; a store need not write it again in between."""
        self._metrics, self._groups, self._outcomes = metrics, groups, outcomes
        self._known: dict[Names, list[int]] = {names: [] for names in segments}
        self._tests = GapTests(budget_events=budget_events, epsilon=epsilon)

    @property
    def compares(self) -> bool:
        """Whether there is anything to compare."""
        return bool(self._metrics and self._known)

    def update(self, events: Events) -> list[Verdict]:
        """Take events in; return the gaps that are claimed."""
        if not self.compares or not len(events.offsets):
            return []
        self.changes += 1
        members = {names: self._groups.group(events.segments, names) for names in self._known}
        outcomes = self._outcomes(events)
        new: dict[int, list[tuple[Names, int]]] = {}
        for names, group in members.items():
            values, first = np.unique(group, return_index=True)
            for value, row in sorted(
                zip(values.tolist(), first.tolist(), strict=True), key=_second
            ):
                if value >= 0 and value not in self._known[names]:
                    new.setdefault(row, []).append((names, value))
        found: list[Verdict] = []
        cuts = sorted({0, *new, len(events.offsets)})
        for begin, end in pairwise(cuts):
            for names, value in new.get(begin, ()):
                if len(self._known[names]) < _MOST:
                    self._known[names].append(value)
            if begin in new:
                self._watch()
            rows = slice(begin, end)
            found += self._tests.update(self._observations(events, members, outcomes, rows))
        return found

    def _watch(self) -> None:
        segments = {
            names: [self._groups.value(group, names) for group in known]
            for names, known in self._known.items()
        }
        self._tests.watch(gaps.pairs(segments, self._metrics))

    def _observations(
        self,
        events: Events,
        members: dict[Names, Ints],
        outcomes: dict[str, Floats],
        rows: slice,
    ) -> Observations:
        """Return the outcomes of each group, and of all others where one is compared with these."""
        names, columns = [], []
        for of, known in self._known.items():
            segment, group = ",".join(of), members[of][rows]
            for metric in self._metrics:
                outcome = outcomes[metric][rows]
                for number in known:
                    value, inside = self._groups.value(number, of), group == number
                    names.append(f"{metric}:{segment}={value}")
                    columns.append(np.where(inside, outcome, np.nan))
                    if len(known) > gaps.FEW:
                        names.append(f"{metric}:{segment}!={value}")
                        columns.append(np.where((group >= 0) & ~inside, outcome, np.nan))
        values = np.stack(columns, axis=1) if columns else np.empty((rows.stop - rows.start, 0))
        return Observations(
            names=tuple(names), values=values, offsets=events.offsets[rows], rows=events.rows[rows]
        )

    def snapshot(self) -> bytes:
        """Return the whole state."""
        known = [[list(names), groups] for names, groups in self._known.items()]
        return pack("gaps", 1, {"known": known, "tests": self._tests.snapshot()}, {})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot; segments that were not configured then begin."""
        meta, _ = unpack("gaps", 1, state)
        self._tests.restore(meta["tests"])
        for names, groups in meta["known"]:
            if tuple(names) in self._known:
                self._known[tuple(names)] = [int(group) for group in groups]
        self._watch()


def _second(pair: tuple[int, int]) -> int:
    return pair[1]


class Bias:
    """What compares groups in predictions, and in pairs of prediction and label.

    Parameters
    ----------
    settings
        Which segments and metrics, and what gap is nobody's concern.
    groups, columns
        The model's.
    budget_events
        At most one false alarm in so many events, of predictions and pairs together.
    """

    def __init__(
        self,
        settings: BiasSettings,
        groups: Groups,
        columns: ScoreColumns,
        budget_events: float,
    ) -> None:
        segments = [tuple(name.split("*")) for name in settings.segments]
        self._columns = columns
        of_pairs: list[str] = [name for name in settings.metrics if name != OF_PREDICTIONS]
        of_predictions: list[str] = [name for name in settings.metrics if name == OF_PREDICTIONS]
        parts = bool(of_pairs) + bool(of_predictions)

        def monitor(
            metrics: list[str], outcomes: Callable[[Events], dict[str, Floats]]
        ) -> GapMonitor:
            budget = budget_events * max(parts, 1)
            return GapMonitor(metrics, segments, groups, outcomes, budget, settings.epsilon)

        self.predictions = monitor(of_predictions, self._of_predictions)
        self.pairs = monitor(of_pairs, self._of_pairs)

    def monitors(self) -> dict[str, GapMonitor]:
        """Return those that compare anything, by what they are of."""
        both = {"predictions": self.predictions, "pairs": self.pairs}
        return {name: monitor for name, monitor in both.items() if monitor.compares}

    def _of_predictions(self, events: Events) -> dict[str, Floats]:
        return {OF_PREDICTIONS: self._is_positive(events.predicted)}

    def _of_pairs(self, events: Events) -> dict[str, Floats]:
        assert isinstance(events, Pairs)
        score = np.full(len(events.label), np.nan)
        if len(self._columns) == 1 and events.scores.shape[1] == 1:
            score = events.scores[:, 0]
        return gaps.outcomes(
            self._is_positive(events.predicted), self._is_positive(events.label), score
        )

    def _is_positive(self, classes: Floats) -> Floats:
        return np.where(np.isnan(classes), np.nan, classes == self._columns.positive)
