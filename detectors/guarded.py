"""The e-detector where its promise holds: the guard says of each stream how, and takes the ordered ones off it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Ints
from ..core.snapshot import pack, unpack
from ..core.verdict import Verdict
from .autocorrelation import WINDOW
from .base import Observations, usable
from .e_detector import EDetector
from .guard import DependenceGuard, Kind

_log = logging.getLogger(__name__)


def holds_value(batch: Observations) -> NDArray[np.bool_]:
    """Return (n,) whether a row holds a usable value."""
    return np.asarray(usable(batch.values).any(axis=1))


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
        self._in_effect: dict[str, tuple[Kind, int]] = {}
        self._decided: dict[str, tuple[Kind, int]] = {}  # regimes that are not in effect yet

    def update(self, batch: Observations) -> list[Verdict]:
        """Take the rows in; return what has opened, moved and settled, in the order of the rows."""
        values = self.detector.reference.learn(batch)
        found: list[Verdict] = []
        for rows in self.spans(batch, holds_value(batch)):
            found += self.detector.judge(batch.take(rows), values[rows])
        return found

    def spans(self, batch: Observations, counted: NDArray[np.bool_] | None) -> Iterator[slice]:
        """Show the rows to the guard, and yield them in spans within which no regime takes effect.

        Whoever asks is to judge each span before the next one. Of (n,) rows those count that are `counted`, or all.
        """
        begin, upto = 0, 0
        places = None if counted is None else np.cumsum(counted, dtype=np.int64)
        changes = self.guard.changed(batch)
        while upto < len(batch):
            upto, rows = self._window(places, upto, len(batch))
            while changes and changes[0].row < upto:
                _, name, kind, lag = changes.pop(0)
                self._decided[name] = kind, lag
            self._rows += rows
            takes_effect = bool(rows and self._rows % WINDOW == 0 and self._decided)
            if takes_effect or upto == len(batch):
                yield slice(begin, upto)
                begin = upto
            if takes_effect:
                self._apply()

    def _window(self, places: Ints | None, begin: int, count: int) -> tuple[int, int]:
        """Return up to which row, from `begin`, regimes cannot take effect, and how many rows on the way count."""
        wanted = WINDOW - self._rows % WINDOW
        if places is None:
            end = min(begin + wanted, count)
            return end, end - begin
        before = int(places[begin - 1]) if begin else 0
        end = min(int(np.searchsorted(places, before + wanted)) + 1, count)
        return end, int(places[end - 1]) - before

    def _apply(self) -> None:
        """Let the guard's regimes take effect, of the streams that have their reference."""
        for name in sorted(self._decided.keys() & self.detector.streams()):
            kind, lag = self._decided.pop(name)
            if kind == "ordered" != self.kind(name) and self.detector.reference.is_trained(name):
                _log.warning(
                    "ordered in time, so not compared with training", extra={"stream": name}
                )
            self._in_effect[name] = kind, lag
            _log.info("regime of a stream", extra={"stream": name, "regime": kind, "lag": lag})
            # Nothing else watches whether values are missing: what is ordered has the most copies.
            is_left = kind == "ordered" and not name.startswith("missing:")
            self.detector.bet_on(name, 0 if is_left else lag)

    def kind(self, name: str) -> Kind:
        """Return the kind of regime that is in effect for a stream."""
        return self._in_effect[name][0] if name in self._in_effect else "unknown"

    def kinds(self) -> dict[str, Kind]:
        """Return the kind of regime that is in effect, by stream, of those that have one."""
        return {name: kind for name, (kind, _) in self._in_effect.items()}

    def snapshot(self) -> bytes:
        """Return the whole state."""
        parts = {"detector": self.detector.snapshot(), "volatile": self.guard_state()}
        return pack("guarded_e_detector", 1, parts, {})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot."""
        parts, _ = unpack("guarded_e_detector", 1, state)
        unpack("guarded", 3, parts["volatile"])  # so that nothing is changed if that fails
        self.detector.restore(parts["detector"])
        self.restore_guard(parts["volatile"])

    def guard_state(self) -> bytes:
        """Return the guard's part of the state."""
        meta = {
            "rows": self._rows, "in_effect": self._in_effect, "decided": self._decided,
            "guard": self.guard.snapshot(),
        }  # fmt: skip
        return pack("guarded", 3, meta, {})

    def restore_guard(self, state: bytes) -> None:
        """Go on from `guard_state`."""
        meta, _ = unpack("guarded", 3, state)
        self.guard.restore(meta["guard"])
        self._rows = meta["rows"]
        self._decided, self._in_effect = (
            {name: (kind, lag) for name, (kind, lag) in meta[regimes].items()}
            for regimes in ("decided", "in_effect")
        )
