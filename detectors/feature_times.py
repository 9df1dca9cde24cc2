"""Features that are times: which ones are, and how many are of a time after their event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from ..core.columns import Floats, Ints
from ..core.snapshot import pack, unpack
from ..core.verdict import Verdict
from .binary_metrics import Metric, wilson
from .leak_verdicts import RARE, TIMES, after_event, plain, settled

BLOCK: Final = 256
"""Times of a feature between two looks."""
_SURE: Final = 32
"""First values that must all be near their events (chosen)."""
_NEAR: Final = (
    366 * 86_400.0
)  # s: of whole numbers of today's seconds one in 50 is so near, of 32 in a row none
_MOST: Final = 64  # features that share the error
_TOLD: Final = 8  # features that have a share of their own in the series
_UNITS: Final = (1.0, 1e3, 1e6, 1e9)  # in a second
_TEXT: Final = -1
NONE: Final = -(2**63)
"""No time, in nanoseconds."""


class _Feature(msgspec.Struct, array_like=True):
    """What is known of a feature: its values so far, in which units they may be times, and which are after their events."""

    values: int = 0
    units: list[int] = msgspec.field(default_factory=lambda: [0, 1, 2, 3])
    block: int = 0
    after: int = 0
    looks: int = 0
    is_open: bool = False

    @property
    def is_sure(self) -> bool:
        return self.values >= _SURE


class Rows(NamedTuple):
    """(n,) events: where they are in the log, their times in nanoseconds, and their cohorts."""

    offsets: Ints
    rows: Ints
    times: Ints
    spans: Ints


class FeatureTimes:
    """Finds features that are times, and those that are of a time after their event.

    Parameters
    ----------
    names
        Features that are times; None to find them: those whose first 32 values are all within a year of their events, as text
        or in seconds, milliseconds, microseconds or nanoseconds since 1970.
    skew
        Seconds by which clocks may differ.
    error
        The probability of a false alarm, ever and over all features.
    spans
        Cohorts of which it is counted; the latest ones.

    Notes
    -----
    Looks are at blocks of 256 times of a feature; the null is that at most one in 100 is after its event, the test the
    binomial tail, look number k has 1 / (k (k + 1)) of the error.
    """

    def __init__(
        self,
        names: Sequence[str] | None = None,
        skew: float = 60.0,
        error: float = 0.01,
        spans: int = 90,
    ) -> None:
        self._names = None if names is None else frozenset(names)
        self._skew, self._error, self._spans = skew, error, spans
        self._known: dict[str, _Feature] = {}
        self._others: set[str] = set()
        self._cohorts: dict[
            int, dict[str, tuple[int, int]]
        ] = {}  # rows with a time, and those after the event
        self.changes = 0
        """Goes up whenever the state does."""

    def wanted(self, names: Sequence[str]) -> list[int]:
        """Return which of these streams may be times."""
        return [k for k, name in enumerate(names) if name not in self._others]

    def update(
        self, rows: Rows, numbers: Mapping[str, Floats], texts: Mapping[str, Ints]
    ) -> list[Verdict]:
        """Take rows in; return what is claimed.

        Parameters
        ----------
        rows
            Events, in the order of the log.
        numbers
            Stream to (n,) values, NaN for none.
        texts
            Stream to (n,) nanoseconds, `NONE` where a text is no time, -1 where there is none.
        """
        found: list[Verdict] = []
        for name, values in sorted(numbers.items()):
            there = np.flatnonzero(np.isfinite(values))
            if len(there):
                found += self._numbers(name, rows, there, values[there])
        for name, times in sorted(texts.items()):
            there = np.flatnonzero(times != -1)
            if len(there):
                found += self._texts(name, rows, there, times[there])
        return found

    def _numbers(self, name: str, rows: Rows, there: Ints, values: Floats) -> list[Verdict]:
        feature = self._of(name)
        if feature is None:
            return []
        seconds = rows.times[there] * 1e-9
        begin = 0
        if self._names is not None and not feature.is_sure:
            far = np.abs(np.log(np.abs(values[0] / np.array(_UNITS)) + 1) - np.log(seconds[0]))
            feature.units, feature.values = [int(far.argmin())], _SURE
        if not feature.is_sure:
            begin = min(_SURE - feature.values, len(there))
            head, near = values[:begin], seconds[:begin]
            feature.units = [
                unit for unit in feature.units if (np.abs(head / _UNITS[unit] - near) <= _NEAR).all()
            ]  # fmt: skip
            if not feature.units:
                return self._is_none(name)
            feature.values += begin
            self.changes += 1
            if not feature.is_sure:
                return []
        unit = _UNITS[feature.units[0]]
        late = values[begin:] / unit - seconds[begin:] > self._skew
        return self._count(name, feature, rows, there[begin:], late)

    def _texts(self, name: str, rows: Rows, there: Ints, times: Ints) -> list[Verdict]:
        feature = self._of(name)
        if feature is None:
            return []
        feature.units, events = [_TEXT], rows.times[there]
        begin = 0
        if self._names is not None:
            feature.values = _SURE
        if not feature.is_sure:
            begin = min(_SURE - feature.values, len(there))
            head = times[:begin].astype(np.float64)  # what is no time is far away
            if not (np.abs(head - events[:begin]) <= _NEAR * 1e9).all():
                return self._is_none(name)
            feature.values += begin
            self.changes += 1
            if not feature.is_sure:
                return []
        is_time = times != NONE
        is_time[:begin] = False
        of = np.flatnonzero(is_time)
        return self._count(
            name, feature, rows, there[of], times[of] - events[of] > self._skew * 1e9
        )

    def _of(self, name: str) -> _Feature | None:
        if name in self._others:
            return None
        if name not in self._known:
            if self._names is not None and plain(name) not in self._names:
                self._others.add(name)
                return None
            self._known[name] = _Feature()
            self.changes += 1
        return self._known[name]

    def _is_none(self, name: str) -> list[Verdict]:
        self.changes += 1
        del self._known[name]
        self._others.add(name)
        return []

    def _count(
        self, name: str, feature: _Feature, rows: Rows, there: Ints, late: NDArray[np.bool_]
    ) -> list[Verdict]:
        """Count times, and look at the blocks that they end."""
        if not len(there):
            return []
        self.changes += 1
        spans = rows.spans[there]
        for span in np.unique(spans).tolist():
            of = spans == span
            cohort = self._cohorts.setdefault(span, {})
            n, k = cohort.get(name, (0, 0))
            cohort[name] = n + int(of.sum()), k + int(late[of].sum())
        for gone in sorted(self._cohorts)[: -self._spans]:
            del self._cohorts[gone]
        found: list[Verdict] = []
        begin = 0
        while begin < len(there):
            end = min(begin + BLOCK - feature.block, len(there))
            feature.block += end - begin
            feature.after += int(late[begin:end].sum())
            if feature.block == BLOCK:
                row = there[end - 1]
                found += self._look(name, feature, (int(rows.offsets[row]), int(rows.rows[row])))
                feature.block = feature.after = 0
            begin = end
        return found

    def _look(self, name: str, feature: _Feature, at: tuple[int, int]) -> list[Verdict]:
        feature.looks += 1
        by_chance = float(bdtrc(feature.after - 1, BLOCK, RARE)) if feature.after else 1.0
        is_sure = by_chance < self._error / (feature.looks * (feature.looks + 1)) / _MOST
        if is_sure and not feature.is_open:
            feature.is_open = True
            share = Metric(feature.after / BLOCK, *wilson(feature.after, BLOCK))
            return [after_event(name, share, BLOCK, self._skew, at)]
        if feature.is_open and not is_sure and feature.after <= RARE * BLOCK:
            feature.is_open = False
            return [settled(name, TIMES, at)]
        return []

    def counts(self, span: int) -> dict[str, tuple[int, int]]:
        """Return of a cohort by stream how many times there were, and how many of them after their event."""
        return dict(self._cohorts.get(span, {}))

    def state(self) -> bytes:
        """Return the whole state."""
        meta = {
            "known": {name: msgspec.to_builtins(of) for name, of in sorted(self._known.items())},
            "others": sorted(self._others),
            "cohorts": [[span, sorted(of.items())] for span, of in sorted(self._cohorts.items())],
        }
        return pack("leakage_times", 1, meta, {})

    def restore(self, state: bytes) -> None:
        """Go on from `state`, of an object that is new."""
        meta: dict[str, Any] = unpack("leakage_times", 1, state)[0]
        self._known = {str(n): msgspec.convert(of, _Feature) for n, of in meta["known"].items()}
        self._others = {str(name) for name in meta["others"]}
        self._cohorts = {
            int(span): {str(name): (int(n), int(k)) for name, (n, k) in of}
            for span, of in meta["cohorts"]
        }


def shares(counts: Mapping[str, tuple[int, int]]) -> dict[str, Metric]:
    """Return the share of times that are after their event: of all streams, and of each of the first ones where there are more."""
    found = {f":{plain(name)}": counts[name] for name in sorted(counts)[:_TOLD]}
    if len(counts) == 1:
        found = {}
    if counts:
        n, k = (sum(part) for part in zip(*counts.values(), strict=True))
        found[""] = (n, k)
    return {
        f"feature_time_after_event{name}": Metric(k / n, *wilson(k, n))
        for name, (n, k) in found.items()
    }
