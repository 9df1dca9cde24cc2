"""How good alarms are: delay, false alarms, precision, recall, and what pools several streams.

No detector runs here, and nothing is read or printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..core.columns import Floats
from .matching import Change, judge

_RESAMPLES: Final = 2000  # chosen: the ends of a 95 % interval then move by about 0.005


@dataclass(frozen=True, slots=True)
class Score:
    """Figures of a detector's alarms on one stream, or on several together.

    A figure that is not defined is None: without annotation all but the number of alarms and the
    time between them, without an alarm the precision, without a hit the delay.

    Parameters
    ----------
    rows
        Of the streams.
    alarms
        How many were raised, less those that are ignored.
    changes
        How many were to be found; None where nothing is annotated.
    delays
        Of each hit, rows since the start of its change.
    waits
        Of each hit, the delay as a share of the rows in which the change could be found.
    late
        How many of the false alarms came late on a change that was missed.

    References
    ----------
    Bifet, Read, Pfahringer, Holmes, Zliobaite 2013, "CD-MOA: change detection framework for massive
    online analysis", Advances in Intelligent Data Analysis XII, 92-103
    (doi:10.1007/978-3-642-41398-8_9): MTFA, MTD, MDR and their ratio.
    """

    rows: int
    alarms: int
    changes: int | None = None
    delays: tuple[int, ...] = ()
    waits: tuple[float, ...] = ()
    late: int = 0

    @property
    def hits(self) -> int | None:
        """Changes that were found."""
        return None if self.changes is None else len(self.delays)

    @property
    def missed(self) -> int | None:
        """Changes that were not."""
        return None if self.changes is None else self.changes - len(self.delays)

    @property
    def false(self) -> int | None:
        """Alarms that hit nothing, late ones and repeated ones among them."""
        return None if self.changes is None else self.alarms - len(self.delays)

    @property
    def precision(self) -> float | None:
        """Share of the alarms that are hits."""
        return _ratio(self.hits, self.alarms)

    @property
    def recall(self) -> float | None:
        """Share of the changes that were found."""
        return _ratio(self.hits, self.changes)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; 0 with changes and no alarm, or alarms and no change."""
        if self.changes is None:
            return None
        return _ratio(2 * len(self.delays), self.alarms + self.changes)

    @property
    def rows_per_alarm(self) -> float | None:
        """Mean time between alarms."""
        return _ratio(self.rows, self.alarms)

    @property
    def mtfa(self) -> float | None:
        """Mean time between false alarms: rows for each; None without any, for then it is only above `rows`."""
        return _ratio(self.rows, self.false)

    @property
    def mtd(self) -> float | None:
        """Mean time to detection: the mean delay of the hits, in rows."""
        return float(np.mean(self.delays)) if self.delays else None

    @property
    def mdr(self) -> float | None:
        """Missed detection ratio: share of the changes that were not found."""
        return _ratio(self.missed, self.changes)

    @property
    def mtr(self) -> float | None:
        """Mean time ratio, MTFA / MTD * (1 - MDR), larger is better; None while the mean delay is not above 0."""
        mtfa, mtd, mdr = self.mtfa, self.mtd, self.mdr
        if mtfa is None or mtd is None or mdr is None or mtd <= 0:
            return None
        return mtfa / mtd * (1 - mdr)

    @property
    def delay_median(self) -> float | None:
        """Median delay of the hits, in rows."""
        return float(np.median(self.delays)) if self.delays else None

    @property
    def delay_p90(self) -> float | None:
        """The delay that nine of ten hits do not exceed, in rows."""
        return float(np.quantile(self.delays, 0.9)) if self.delays else None

    @property
    def normalised_detection_time(self) -> float | None:
        """Mean delay of the hits as a share of width + tolerance: 0 at once, 1 at the last moment."""
        return float(np.mean(self.waits)) if self.waits else None

    def figures(self) -> dict[str, float | None]:
        """Return all figures by name."""
        names = (
            "rows", "alarms", "changes", "hits", "missed", "false", "late", "precision", "recall",
            "f1", "delay_median", "delay_p90", "normalised_detection_time", "mtd", "mtfa", "mdr",
            "mtr", "rows_per_alarm",
        )  # fmt: skip
        found = {name: getattr(self, name) for name in names}
        return found if self.changes is not None else {**found, "late": None}


def score(
    alarms: Iterable[int], changes: Iterable[Change] | None, rows: int, tolerance: int
) -> Score:
    """Return the figures of alarms on a stream of so many rows.

    Parameters
    ----------
    alarms
        Rows.
    changes
        None where nothing is annotated; none at all for a stream that is known not to change.
    rows
        Of the stream.
    tolerance
        Rows after the end of a change within which an alarm still is about it.

    Raises
    ------
    ValueError
        A change lies beyond the rows, or as `judge`.

    Examples
    --------
    >>> from tocsin.detectors.evaluation import score
    >>> from tocsin.detectors.matching import Change
    >>> found = score([40, 120, 130], [Change(100, 100), Change(300, 300)], rows=400, tolerance=50)
    >>> found.hits, found.missed, found.false, found.f1, found.mtfa, found.mtr
    (1, 1, 2, 0.4, 200.0, 5.0)
    """
    alarms = list(alarms)
    if changes is None:
        return Score(rows=rows, alarms=len(alarms))
    wanted = list(changes)
    beyond = [change for change in wanted if change.start >= rows]
    if beyond:
        raise ValueError(
            f"a change at row {beyond[0].start} lies beyond the last of {rows} rows, which is "
            f"{rows - 1}"
        )
    judged = judge(alarms, wanted, tolerance)
    hits = [(j.row - j.change.start, j.change) for j in judged if j.change and j.outcome == "hit"]
    return Score(
        rows=rows,
        alarms=sum(j.outcome != "ignored" for j in judged),
        changes=sum(not change.optional for change in wanted),
        delays=tuple(delay for delay, _ in hits),
        waits=tuple(
            delay / (change.width + tolerance) for delay, change in hits if change.width + tolerance
        ),
        late=sum(j.outcome == "late" for j in judged),
    )


def pool(scores: Sequence[Score]) -> Score:
    """Return the figures of several streams together: counts are added, delays put side by side."""
    changes = [s.changes for s in scores if s.changes is not None]
    return Score(
        rows=sum(s.rows for s in scores),
        alarms=sum(s.alarms for s in scores),
        changes=sum(changes) if len(changes) == len(scores) else None,
        delays=tuple(delay for s in scores for delay in s.delays),
        waits=tuple(wait for s in scores for wait in s.waits),
        late=sum(s.late for s in scores),
    )


def resampled_f1(scores: Sequence[Score], seed: int = 0) -> Floats:
    """Return (2000,) F1 of streams drawn anew, with replacement, from these; NaN where it is not defined.

    The same seed draws the same streams, so the difference of two detectors is one of pairs.

    References
    ----------
    Efron 1979, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1-26
    (doi:10.1214/aos/1176344552).
    """
    counts = np.array([(len(s.delays), s.alarms + (s.changes or 0)) for s in scores])
    draws = np.random.default_rng(seed).integers(0, len(scores), (_RESAMPLES, len(scores)))
    hits, total = counts[draws].sum(axis=1).T
    found = np.full(_RESAMPLES, np.nan)
    np.divide(2.0 * hits, total, out=found, where=total > 0)
    return found


def f1_interval(scores: Sequence[Score], seed: int = 0) -> tuple[float, float] | None:
    """Return a 95 % interval of the F1 of streams like these; None of fewer than two, or where it is not defined."""
    if len(scores) < 2 or pool(scores).f1 is None:
        return None
    low, high = np.nanquantile(resampled_f1(scores, seed), (0.025, 0.975)).tolist()
    return low, high


def _ratio(part: int | None, whole: int | None) -> float | None:
    return part / whole if part is not None and whole else None
