"""The false-alarm budget of a model: how much evidence an alarm needs, and which stream may stake how much."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from .compiled import compiled

EPOCH: Final = 4096
"""Events after which shares and the rate of events are looked at anew."""
_IDLE_EPOCHS: Final = 4  # a stream without a value for so long gives its share back
_DAY: Final = 86_400e9  # ns
_UNKNOWN_EVENTS: Final = 1e6  # what a budget in days is taken for until a rate is known
_FEWEST_EVENTS, _MOST_EVENTS = 1e3, 1e12
_STEP: Final = 4.0
_EVERY: Final = (
    64  # events of which one's time is looked at: an epoch's middle is then known to a 64th
)


class Budget:
    """At most one false alarm in so many events, or days, over everything that is watched.

    Parameters
    ----------
    events
        A: the expected number of false alarms in n events is at most n / A.
    days
        The same in days of event time: A is so many days at the rate of late. Set one of both.

    Raises
    ------
    ValueError
        Both or neither are given, or one is not positive.

    Notes
    -----
    Each stream d stakes v_d / A on each of its values, and an alarm needs evidence of 1. What a stream has
    won, less what it has staked, is a martingale while nothing changes, and an alarm takes at least 1 from
    it: so the expected number of false alarms is at most what has been staked, and that is at most n / A
    as long as the shares v_d known before each event are at most 1 together, whatever the dependence
    between streams (Shin, Ramdas and Rinaldo 2023, Theorem 2.4, arXiv 2203.03532, for one stream and equal
    stakes; the sum over streams by linearity). So shares may move at any time, and parts of a log that
    are watched apart, such as partitions, each keep the whole budget for their own events.

    The rate is that from the median time of an epoch to the median of the next: wrong clocks and late events, which
    may be far off, move it only where they are half of all.
    """

    def __init__(self, events: float | None = None, *, days: float | None = None) -> None:
        if (events is None) == (days is None):
            raise ValueError("a budget is so many events or so many days: give one of both")
        if not (events or days or 0) > 0:
            raise ValueError(f"a budget must be positive, got {events if days is None else days}")
        self.days = days
        self.events = float(events) if events is not None else _UNKNOWN_EVENTS
        self.seen = 0
        """Events so far."""
        self._allowed = 0.0  # up to the end of the last epoch
        self.alarms = 0
        """Alarms so far, true ones included."""
        self._times: list[int] = []  # of every 64th event of the epoch
        self._middle: int | None = None  # median of those of the last epoch
        self._is_known = False  # whether some epoch has shown the rate

    @property
    def allowed(self) -> float:
        """False alarms that are to be expected so far, at most."""
        return self._allowed + self.seen % EPOCH / self.events

    def room(self) -> int:
        """Return how many events may come before the epoch ends."""
        return EPOCH - self.seen % EPOCH

    def take(self, events: int, times: Ints | None = None) -> bool:
        """Count events, at most `room` of them; return whether an epoch ends with the last one."""
        if times is not None and self.days is not None:
            self._times += times[-self.seen % _EVERY :: _EVERY].tolist()
        self.seen += events
        if self.seen % EPOCH or not events:
            return False
        self._allowed += EPOCH / self.events
        if self.days is not None and self._times:
            self._follow(self.days * _DAY * EPOCH)
        return True

    def _follow(self, wanted: float) -> None:
        """Follow the rate of an epoch; one whose time stood still or went back says nothing.

        By a factor of 4 at most: times that are far off must neither blind nor flood.
        """
        times, count = sorted(self._times), len(self._times)
        middle = times[count // 2]
        if self._middle is None:
            took = 2 * (times[3 * count // 4] - times[count // 4])
        else:
            took = middle - self._middle
        self._times, self._middle = [], middle
        if took > 0:
            most = _STEP if self._is_known else np.inf
            near = min(max(wanted / took, self.events / most), self.events * most)
            self.events = min(max(near, _FEWEST_EVENTS), _MOST_EVENTS)
            self._is_known = True

    def figures(self, streams: int) -> dict[str, float]:
        """Return what is published: the budget, how it is shared, what was allowed and what was raised."""
        return {
            "false_alarm_budget_events": self.events,
            "false_alarms_allowed": self.allowed,
            "false_alarm_budget_streams": float(streams),
            "drift_alarms": float(self.alarms),
            "false_alarm_budget_remaining": self.allowed - self.alarms,
        }

    def state(self) -> dict[str, Any]:
        """Return what `load` takes."""
        return {
            "events": self.events, "seen": self.seen, "allowed": self._allowed,
            "alarms": self.alarms, "times": list(self._times), "middle": self._middle,
            "known": self._is_known,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`; a budget in events that was set anew since stands."""
        if self.days is not None:
            self.events = min(max(float(state["events"]), _FEWEST_EVENTS), _MOST_EVENTS)
        self.seen, self._allowed = int(state["seen"]), float(state["allowed"])
        self.alarms, self._is_known = int(state["alarms"]), bool(state["known"])
        self._times = [int(time) for time in state["times"]]
        self._middle = None if state["middle"] is None else int(state["middle"])


@compiled
def shares(
    started: Ints, bets: Ints, idle_epochs: Ints, apart: NDArray[np.bool_], reserved: float
) -> Floats:
    """Return (k,) shares, at most 1 together, of the streams that are bet on.

    Those that are apart have equal shares of what is reserved for them, the others of the rest: of all that
    have started and still come, so that what is not bet on leaves its share to whatever else watches it.
    """
    found = np.zeros(len(started))
    alone = others = 0
    for k in range(len(started)):
        if started[k] != 0 and idle_epochs[k] < _IDLE_EPOCHS:
            alone += apart[k]
            others += not apart[k]
    for k in range(len(started)):
        if started[k] != 0 and idle_epochs[k] < _IDLE_EPOCHS and bets[k] != 0:
            found[k] = reserved / alone if apart[k] else (1.0 - reserved) / others
    return found
