"""A detector under test: what it said about a file, and what that is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from ..consumers.class_names import ClassNames
from ..core.verdict import Verdict
from ..detectors.base import Observations
from ..detectors.dummy import Dummy
from ..detectors.evaluation import Score, score
from ..detectors.matching import Change, Judged, episodes, judge
from ..detectors.registry import make_detector
from .blocks import ENVIRONMENT, is_of_text

_LONGEST: Final = 10  # gaps in an episode; chosen, as the e-detector's patience is
_NEED_TIMES: Final = frozenset(["natural_size"])
_KNOW_CATEGORIES: Final = frozenset(["dummy", "e_detector", "stream_monitor"])


class Alarm(NamedTuple):
    """An alarm, kept instead of the verdict, which can be a hundred times larger."""

    row: int
    stream: str
    change: str
    newcomers: list[str]
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


def kind_of(text: str) -> str:
    """Return a detector's name without its parameters."""
    return text.partition(":")[0]


class Contestant:
    """A detector and its alarms.

    Parameters
    ----------
    text
        The detector and its parameters, as the user gave them.

    Raises
    ------
    ValueError
        There is no such detector, see `make_detector`, or it is a dummy whose parameters mean no alarm.
    """

    def __init__(self, text: str) -> None:
        self.name = text
        self._kind = kind_of(text)
        self._detector = make_detector(text)
        dummy = self._detector if isinstance(self._detector, Dummy) else None
        if dummy and ":" in text and not dummy.every and dummy.at < 0:
            raise ValueError(
                "it would raise no alarm: every must be 1 row or more, at a row from 0 on; "
                "for none on purpose it is dummy alone"
            )
        self._at = dummy.at if dummy else -1
        self._alarms: list[Alarm] = []

    @property
    def knows_categories(self) -> bool:
        """Whether it is given columns of text; a worker gives them to the e-detector only."""
        return self._kind in _KNOW_CATEGORIES

    def watch(self, rows: Observations, errors: Sequence[str], names: ClassNames) -> None:
        """Run the detector over rows; one of errors sees the streams `errors` only. Categories have `names`.

        Raises
        ------
        ValueError
            There is nothing in the rows that the detector could watch.
        """
        if self._kind in _NEED_TIMES and rows.times is None:
            raise ValueError("it needs the time of each row; name its column with --time")
        if getattr(self._detector, "bits", False) is True:
            seen = _bits(rows, errors)
        else:
            seen = rows if self.knows_categories else _without_texts(rows)
        self._keep(names.tell(ENVIRONMENT, verdict) for verdict in self._detector.update(seen))

    def _keep(self, verdicts: Iterable[Verdict]) -> None:
        """Keep the alarms: that a change goes on or has settled is none, and advice neither."""
        self._alarms += [
            Alarm(
                verdict.offset, verdict.subject, verdict.change,
                verdict.newcomers if is_of_text(verdict.subject) else [], _evidence(verdict),
            )
            for verdict in verdicts
            if verdict.phase == "opened" and not verdict.advisory
        ]  # fmt: skip

    def result(
        self, changes: Sequence[Change] | None, rows: int, tolerance: int, merge: int
    ) -> Result:
        """Merge the alarms into episodes and score these.

        Raises
        ------
        ValueError
            A change, or the row at which a dummy was to raise its alarm, lies beyond the rows.
        """
        if self._at >= rows:
            raise ValueError(
                f"{self.name}: row {self._at} lies beyond the last of {rows}; rows are counted from 0"
            )
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


def _without_texts(rows: Observations) -> Observations:
    """Return the streams but those of text."""
    kept = [j for j, name in enumerate(rows.names) if not is_of_text(name)]
    if not kept:
        raise ValueError(
            "it watches numbers, and there is only text; e_detector and stream_monitor watch that"
        )
    if len(kept) == len(rows.names):
        return rows
    names = tuple(rows.names[j] for j in kept)
    values = np.ascontiguousarray(rows.values[:, kept])
    return replace(rows, names=names, values=values, categories=rows.categories & set(names))


def _bits(rows: Observations, errors: Sequence[str]) -> Observations:
    """Return the streams of errors, zeros and ones."""
    if not errors:
        raise ValueError(
            "it watches errors, and the file has none; name the columns with the truth and the model's answer, "
            "--label and --prediction, or a column that is 1 for a wrong answer and 0 for a right one, --column"
        )
    values = rows.values[:, [rows.names.index(name) for name in errors]]
    odd = np.argwhere(~(np.isnan(values) | (values == 0) | (values == 1)))
    if len(odd):
        row, column = odd[0]
        raise ValueError(
            f"it watches errors, 1 for a wrong answer and 0 for a right one, and {errors[column]} is "
            f"{values[row, column]:g} at row {rows.offsets[row]}; kswin, adwin and others watch numbers"
        )
    return replace(rows, names=tuple(errors), values=values, categories=frozenset())


def _evidence(verdict: Verdict) -> str:
    if verdict.evidence:
        return verdict.evidence
    unit = verdict.unit or "statistic"
    return f"{unit} {verdict.statistic:.4g}, threshold {verdict.threshold:.4g}"
