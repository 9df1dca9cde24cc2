"""A detector under test: what it said about a file, and what that is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from ..core.verdict import Verdict
from ..detectors.base import Detector
from ..detectors.evaluation import Score, score
from ..detectors.matching import Change, Judged, episodes, judge

_LONGEST: Final = 10  # gaps in an episode; chosen, as the e-detector's patience is


class Alarm(NamedTuple):
    """An alarm, kept instead of the verdict, which can be a hundred times larger."""

    row: int
    stream: str
    change: str
    evidence: str


class Episode(NamedTuple):
    """Alarms that count as one.

    Parameters
    ----------
    first
        The one that is scored.
    members
        How many there are.
    judged
        What the first one is; None where nothing is annotated.
    """

    first: Alarm
    members: int
    judged: Judged | None


class Result(NamedTuple):
    """What a detector said, and what that is worth."""

    name: str
    episodes: list[Episode]
    score: Score


class Contestant:
    """A detector and its alarms.

    Parameters
    ----------
    name
        As the user gave it.
    detector
        A fresh one.
    """

    def __init__(self, name: str, detector: Detector) -> None:
        self.name = name
        self.detector = detector
        self._alarms: list[Alarm] = []

    def take(self, verdicts: Iterable[Verdict]) -> None:
        """Keep the alarms: that a change goes on or has settled is none, and advice neither."""
        self._alarms += [
            Alarm(verdict.offset, verdict.subject, verdict.change, _evidence(verdict))
            for verdict in verdicts
            if verdict.phase == "opened" and not verdict.advisory
        ]

    def result(
        self, changes: Sequence[Change] | None, rows: int, tolerance: int, merge: int
    ) -> Result:
        """Merge the alarms into episodes and score these.

        Raises
        ------
        ValueError
            A change lies beyond the rows.
        """
        alarms = sorted(self._alarms, key=lambda alarm: alarm.row)
        begins = episodes([alarm.row for alarm in alarms], merge, _LONGEST * merge)
        where = [alarms[k].row for k in begins]
        judged: Sequence[Judged | None] = [None] * len(begins)
        if changes is not None:
            judged = judge(where, changes, tolerance)
        ends = [*begins[1:], len(alarms)]
        return Result(
            self.name,
            [Episode(alarms[k], end - k, j) for k, end, j in zip(begins, ends, judged)],  # noqa: B905
            score(where, changes, rows, tolerance),
        )


def _evidence(verdict: Verdict) -> str:
    if verdict.evidence:
        return verdict.evidence
    unit = verdict.unit or "statistic"
    return f"{unit} {verdict.statistic:.4g}, threshold {verdict.threshold:.4g}"
