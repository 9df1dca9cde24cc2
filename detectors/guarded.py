"""The e-detector where its promise holds: the guard says of each stream how, and takes the ordered ones off it."""

from __future__ import annotations

import numpy as np

from ..core.columns import Floats
from ..core.snapshot import pack, unpack
from ..core.verdict import Verdict
from .autocorrelation import WINDOW
from .base import Observations, usable
from .e_detector import EDetector
from .guard import DependenceGuard, Kind


class GuardedEDetector:
    """An e-detector that bets on a stream only in the way its dependence in time allows.

    Until a stream's regime is known nothing is staked on it. An exchangeable stream is bet on as it comes; an
    autocorrelated one in interleaved copies, as many as its dependence lasts values; an ordered one not
    at all: that is for `natural_size`.

    Parameters
    ----------
    detector
        The e-detector, made to wait; nobody else may feed it.
    guard
        Decides the regimes.

    Notes
    -----
    Regimes take effect after each 1,024th row that holds a value, so that they do not depend on how rows were cut
    into batches. When one changes, what was won on its stream is dropped, which can only take false alarms away.
    """

    def __init__(
        self, detector: EDetector | None = None, guard: DependenceGuard | None = None
    ) -> None:
        self.detector = detector or EDetector(waits=True)
        self.guard = guard or DependenceGuard()
        self._rows = 0
        self._kinds: dict[str, Kind] = {}

    def update(self, batch: Observations) -> list[Verdict]:
        """Take the rows in; return what has opened, moved and settled, in the order of the rows."""
        values = self.detector.reference.learn(batch)
        found: list[Verdict] = []
        begin = 0
        while begin < len(batch):
            end, counted = self.reach(batch, begin)
            found += self.judge(batch.take(slice(begin, end)), values[begin:end], counted)
            begin = end
        return found

    def judge(self, batch: Observations, values: Floats, counted: int) -> list[Verdict]:
        """Do the same with rows no more than `reach` says, of which so many count.

        Takes the (n, k) values that `Reference.learn` has left of the batch.
        """
        found = self.detector.judge(batch, values)
        self.guard.update(batch)
        self._rows += counted
        if counted and self._rows % WINDOW == 0:
            self._apply()
        return found

    def reach(
        self, batch: Observations, begin: int = 0, *, is_clean: bool = False
    ) -> tuple[int, int]:
        """Return up to which row, from `begin`, no regime can change, and how many rows on the way count.

        All do where the batch is clean: each value is usable.
        """
        values = batch.values[begin:]
        wanted = WINDOW - self._rows % WINDOW
        if is_clean:
            counted = min(wanted, len(values))
            return begin + counted, counted
        counts = np.cumsum(usable(values).any(axis=1))
        end = int(np.searchsorted(counts, wanted)) + 1
        if end > len(counts):
            return len(batch), int(counts[-1])
        return begin + end, wanted

    def _apply(self) -> None:
        """Let the guard's regimes take effect."""
        for name in self.detector.streams():
            kind, lag = self.guard.kind_and_lag(name)
            self._kinds[name] = kind
            # Nothing else watches whether values are missing: what is ordered has the most copies.
            is_left = kind == "ordered" and not name.startswith("missing:")
            if kind != "unknown":
                self.detector.bet_on(name, 0 if is_left else lag)

    def kind(self, name: str) -> Kind:
        """Return the kind of regime that is in effect for a stream."""
        return self._kinds.get(name, "unknown")

    def kinds(self) -> dict[str, Kind]:
        """Return the kind of regime that is in effect, by stream."""
        return dict(self._kinds)

    def snapshot(self) -> bytes:
        """Return the whole state."""
        parts = {"detector": self.detector.snapshot(), "volatile": self.guard_state()}
        return pack("guarded_e_detector", 1, parts, {})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot."""
        parts, _ = unpack("guarded_e_detector", 1, state)
        unpack("guarded", 1, parts["volatile"])  # so that nothing is changed if that fails
        self.detector.restore(parts["detector"])
        self.restore_guard(parts["volatile"])

    def guard_state(self) -> bytes:
        """Return the guard's part of the state."""
        meta = {"rows": self._rows, "kinds": self._kinds, "guard": self.guard.snapshot()}
        return pack("guarded", 1, meta, {})

    def restore_guard(self, state: bytes) -> None:
        """Go on from `guard_state`."""
        meta, _ = unpack("guarded", 1, state)
        self.guard.restore(meta["guard"])
        self._rows, self._kinds = meta["rows"], meta["kinds"]
