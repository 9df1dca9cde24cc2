"""Gaps between groups of one model: which are tested, as groups come up, within the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final, Protocol

import numpy as np

from ..core.columns import Floats, Ints
from ..core.names import CROSS
from ..core.snapshot import pack, unpack
from ..core.verdict import Verdict
from ..detectors import gaps
from ..detectors.base import Observations
from ..detectors.gap_progress import Progress
from ..detectors.gap_test import GapTests, Pair
from .estimators import Seen
from .groups import VERSION
from .join import Pairs
from .model_settings import BiasSettings, ModelSettings
from .score_columns import ScoreColumns

OF_PREDICTIONS: Final = "positive_rate"
"""The metric that needs no label; all others are of pairs."""
BUDGET_EVENTS: Final = 1e6
SHARE: Final = 0.1
"""Of the model's budget, which the errors give up: of groups within environments and of environments, half each where both are
compared."""
_OF_LABELS_ALONE: Final = ("recall", "false_positive_rate", "accuracy", "calibration")
"""Metrics whose outcomes all predictions of one labelled request have, whatever they say. Of precision some would have one and some
none, and those that both have are all alike."""
_MOST: Final = 20  # groups of a segment that are compared, or strata of it: the first ones

Events = Seen | Pairs
Names = tuple[str, ...]
_FIGURES: Final = ("gap", "low", "high", "a", "b")
Stratum = Callable[[int], int]
"""Returns the stratum of a group: only groups of one stratum are compared, each two of them."""


class TellsApart(Protocol):
    """What knows which group an event is of; see `Groups`."""

    def group(self, codes: Ints, names: Names) -> Ints:
        """Return the (n,) groups of rows by these segments, -1 for none."""
        ...

    def value(self, group: int, names: Names) -> str:
        """Return a group's values of these segments, with commas between."""
        ...


def budget_of(settings: ModelSettings) -> float:
    """Return in how many events gaps may raise one false alarm: within environments, or between them."""
    bias = settings.bias
    parts = bool(bias.within) + bool(bias.between)
    return (settings.drift.budget_events or BUDGET_EVENTS) / SHARE * max(parts, 1)


def crossings(segments: Sequence[str]) -> list[Names]:
    """Return the names that are crossed, by segment."""
    return [tuple(name.split(CROSS)) for name in segments]


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
    stratum
        Where only groups of one stratum are compared.

    Notes
    -----
    A group is compared from the first row that is in it, and shares of the budget are looked at anew there. Of pairs those
    count whose prediction is not older than that row's: of older ones, which other groups have, only labels that take long are
    still to come, and these may tell of other outcomes than quick ones. Where a label is of the same request in several strata, its
    outcomes are compared with one another.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        segments: Sequence[Names],
        groups: TellsApart,
        outcomes: Callable[[Events], dict[str, Floats]],
        budget_events: float,
        epsilon: float,
        stratum: Stratum | None = None,
    ) -> None:
        self.changes = 0
        """Goes up whenever the state does; a store need not write it again in between."""
        self._metrics, self._groups, self._outcomes = metrics, groups, outcomes
        self._stratum = stratum
        self._known: dict[Names, list[int]] = {names: [] for names in segments}
        self._since: dict[Names, int] = dict.fromkeys(self._known, 0)
        """Time of the prediction from which on all groups that are known were there, ns since 1970."""
        self._watched: list[Pair] = []
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
                if self._has_room(self._known[names], value):
                    self._known[names].append(value)
                    if isinstance(events, Pairs):
                        time = int(events.times[begin] - events.lag[begin])
                        self._since[names] = max(self._since[names], time)
            if begin in new:
                self._watch()
            rows = slice(begin, end)
            found += self._tests.update(self._observations(events, members, outcomes, rows))
        return found

    def _has_room(self, known: list[int], value: int) -> bool:
        if self._stratum is None:
            return len(known) < _MOST
        strata = {self._stratum(group) for group in known}
        return len(strata) < _MOST or self._stratum(value) in strata

    def _watch(self) -> None:
        known = self._known
        strata = None
        if self._stratum is not None:  # in one order, whichever came first
            known = {names: sorted(groups) for names, groups in known.items()}
            strata = {names: [self._stratum(group) for group in of] for names, of in known.items()}
        segments = {
            names: [self._groups.value(group, names) for group in groups]
            for names, groups in known.items()
        }
        self._watched = gaps.pairs(segments, self._metrics, strata)
        self._tests.watch(self._watched)

    def progress(self) -> Iterator[tuple[str, Progress]]:
        """Yield what is known of versions, or of strata, by the subject of the test: how far a decision between these is."""
        for pair in self._watched:
            segment = pair.subject.split(":", 2)[2].partition("=")[0]
            if self._stratum is not None or segment == VERSION:
                found = self._tests.progress(pair.subject)
                if found is not None:
                    yield pair.subject, found

    def _observations(
        self,
        events: Events,
        members: dict[Names, Ints],
        outcomes: dict[str, Floats],
        rows: slice,
    ) -> Observations:
        """Return the outcomes of each group, and of all others where one is compared with these."""
        names, columns = [], []
        leader = None
        if self._stratum is not None and isinstance(events, Pairs):
            leader = _leaders(events.offsets[rows], events.rows[rows])
        for of, known in self._known.items():
            segment, group = ",".join(of), members[of][rows]
            if isinstance(events, Pairs):
                made = events.times[rows] - events.lag[rows]
                group = np.where(made >= self._since[of], group, -1)
            for metric in self._metrics:
                outcome = outcomes[metric][rows]
                for number in known:
                    value, inside = self._groups.value(number, of), group == number
                    names.append(f"{metric}:{segment}={value}")
                    column = np.where(inside, outcome, np.nan)
                    if leader is not None and metric in _OF_LABELS_ALONE:
                        column[leader[inside]] = column[inside]
                        column[inside & (leader != np.arange(len(leader)))] = np.nan
                    columns.append(column)
                    if self._stratum is None and len(known) > gaps.FEW:
                        names.append(f"{metric}:{segment}!={value}")
                        columns.append(np.where((group >= 0) & ~inside, outcome, np.nan))
        values = np.stack(columns, axis=1) if columns else np.empty((rows.stop - rows.start, 0))
        return Observations(
            names=tuple(names), values=values, offsets=events.offsets[rows], rows=events.rows[rows]
        )

    def snapshot(self) -> bytes:
        """Return the whole state."""
        known = [[list(names), of, self._since[names]] for names, of in self._known.items()]
        return pack("gaps", 2, {"known": known, "tests": self._tests.snapshot()}, {})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot; segments that were not configured then begin."""
        meta, _ = unpack("gaps", 2, state)
        self._tests.restore(meta["tests"])
        for names, groups, since in meta["known"]:
            if tuple(names) in self._known:
                self._known[tuple(names)] = [int(group) for group in groups]
                self._since[tuple(names)] = int(since)
        self._watch()


def _leaders(offsets: Ints, rows: Ints) -> Ints | None:
    """Return (n,) the first row of each row's event; None where each has one row."""
    follows = (np.diff(offsets) == 0) & (np.diff(rows) == 0)
    if not follows.any():
        return None
    place = np.arange(len(offsets))
    place[1:][follows] = 0
    return np.maximum.accumulate(place)


def _second(pair: tuple[int, int]) -> int:
    return pair[1]


class Bias:
    """What compares groups in predictions, and in pairs of prediction and label.

    Parameters
    ----------
    settings
        Which metrics, and what gap is nobody's concern.
    segments
        Names, and names that are crossed.
    groups, columns
        The model's.
    budget_events
        At most one false alarm in so many events, of predictions and pairs together.
    stratum
        See `GapMonitor`.
    """

    def __init__(
        self,
        settings: BiasSettings,
        segments: Sequence[str],
        groups: TellsApart,
        columns: ScoreColumns,
        budget_events: float,
        stratum: Stratum | None = None,
    ) -> None:
        self._columns = columns
        of_pairs: list[str] = [name for name in settings.metrics if name != OF_PREDICTIONS]
        of_predictions: list[str] = [name for name in settings.metrics if name == OF_PREDICTIONS]
        parts = bool(of_pairs) + bool(of_predictions)

        def monitor(
            metrics: list[str], outcomes: Callable[[Events], dict[str, Floats]]
        ) -> GapMonitor:
            budget = budget_events * max(parts, 1)
            return GapMonitor(
                metrics, crossings(segments), groups, outcomes, budget, settings.epsilon, stratum
            )

        self.predictions = monitor(of_predictions, self._of_predictions)
        self.pairs = monitor(of_pairs, self._of_pairs)

    def monitors(self) -> dict[str, GapMonitor]:
        """Return those that compare anything, by what they are of."""
        both = {"predictions": self.predictions, "pairs": self.pairs}
        return {name: monitor for name, monitor in both.items() if monitor.compares}

    def figures(self) -> dict[str, float]:
        """Return how far a decision between versions, or between environments, is: of each test its `Progress`.

        Named by subject and figure, `gap:recall:version=v1|v2:low`; `claimed` is 1 for a gap up, -1 down and 0 for none.
        """
        found: dict[str, float] = {}
        for monitor in self.monitors().values():
            for subject, of in monitor.progress():
                found |= {f"{subject}:{name}": float(getattr(of, name)) for name in _FIGURES}
                claimed = 0 if of.decision != "gap" else 1 if of.is_up else -1
                found[f"{subject}:claimed"] = float(claimed)
                found[f"{subject}:within"] = float(of.decision == "within")
                if of.more is not None:
                    found[f"{subject}:more"] = float(of.more)
        return found

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
