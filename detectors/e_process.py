"""Flags of many clients to alarms with a bound on false ones: an e-detector a client, compiled."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Bytes, Floats, Ints
from ..core.errors import StateError
from ..core.snapshot import check
from .compiled import compiled

RATES: Final = np.array([0.02, 0.05, 0.1, 0.25, 0.5, 0.9])
"""Flag rates of an attacked client that are bet on, in equal shares."""
MEMORY_EVENTS: Final = 2000.0
"""How far back the other clients' flag rate looks: an event's weight falls by 1/e over so many."""
_MARGIN: Final = (
    1.5  # the null may exceed the other clients' rate by half, and by two standard errors
)
_LARGEST: Final = 1e30


@compiled
def _run(
    flags: Bytes, clients: Ints, alpha: float, threshold: float, rates: Floats,
    evidence: Floats, recent: NDArray[np.uint64], seen: Ints,
    weight: Floats, flagged: Floats, touched: Ints, totals: Floats, clock: int,
    height: Floats,
) -> int:  # fmt: skip
    """Go through the events up to the first alarm; return how many were taken in.

    `height[0]` becomes the evidence of that alarm, at the last event taken in, or 0.

    `totals` holds the decayed number of events and flags of all clients, `weight` and `flagged` the
    same of each client as of event number `touched`.
    """
    decay = np.exp(-1.0 / MEMORY_EVENTS)
    height[0] = 0.0
    for i in range(flags.shape[0]):
        c = clients[i]
        flag = flags[i]
        faded = np.exp(-(clock + i - touched[c]) / MEMORY_EVENTS)
        weight[c] *= faded
        flagged[c] *= faded
        touched[c] = clock + i
        others = totals[0] - weight[c]
        null = alpha
        if others >= 50.0:
            rate = max(totals[1] - flagged[c], 0.0) / others
            error = np.sqrt(max(rate, 1e-4) / others)
            null = min(max(alpha, _MARGIN * rate + 2.0 * error), 0.95)
        mean = 0.0
        for r in range(rates.shape[0]):
            bet = min(max(rates[r], 1.5 * null), 0.99)
            factor = bet / null if flag else (1.0 - bet) / (1.0 - null)
            evidence[c, r] = min((evidence[c, r] + 1.0) * factor, _LARGEST)
            mean += evidence[c, r]
        mean /= rates.shape[0]
        recent[c] = (recent[c] << np.uint64(1)) | np.uint64(flag)
        seen[c] += 1
        weight[c] += 1.0
        flagged[c] += flag
        totals[0] = totals[0] * decay + 1.0
        totals[1] = totals[1] * decay + flag
        if mean >= threshold:
            height[0] = mean
            for r in range(rates.shape[0]):
                evidence[c, r] = 0.0
            return i + 1
    return flags.shape[0]


class ClientEvidence:
    """Evidence, client by client, that more of its inputs are flagged than clean ones would be.

    Each client has a Shiryaev-Roberts sum of likelihood ratios of a Bernoulli flag, for six alternative
    rates; an alarm is raised when their mean reaches the threshold A, and the client starts anew.

    Parameters
    ----------
    alpha
        Largest flag rate of a clean client.
    budget_events
        A: the expected number of events, over all clients, to a false alarm is at least this.

    Notes
    -----
    With a clean flag rate at most the null rate in use, the sum minus the number of events is a
    supermartingale, an alarm drops it by A, and each event advances one client only: so the expected
    number of false alarms in n events is at most n / A, however many clients there are.

    The null rate is `alpha`, or what the other clients show at the time, with a margin, if that is
    more: when inputs drift, all clients are flagged more often, and none of them is an attacker.
    That rate is estimated, so under drift the bound is a measured one, not a theorem.

    References
    ----------
    Shin, Ramdas and Rinaldo 2023, "E-detectors: a nonparametric framework for sequential change
    detection", section 3 and Theorem 2.4 (arXiv 2203.03532).
    """

    def __init__(self, alpha: float, budget_events: float) -> None:
        self.alpha = alpha
        self.budget_events = budget_events
        self.clock = 0
        self.totals = np.zeros(2)
        self._clients: dict[str, NDArray[Any]] = {}
        self.resize(0)

    def resize(self, clients: int) -> None:
        """Make room for clients numbered below `clients`."""
        new = _empty(clients)
        for name, array in self._clients.items():
            kept = min(len(array), clients)
            new[name][:kept] = array[:kept]
        self._clients = new

    def forget(self, clients: int) -> None:
        """Forget the first `clients` clients; those after them are renumbered from 0."""
        self._clients = {name: array[clients:] for name, array in self._clients.items()}

    def __len__(self) -> int:
        return len(self._clients["seen"])

    def update(self, flags: Bytes, clients: Ints) -> tuple[int, float]:
        """Take (n,) flags of (n,) client numbers in, up to the first alarm.

        Returns how many were taken in, and the evidence of the alarm that the last of them raised, 0
        for none. Call again with the others.
        """
        c = self._clients
        height = np.zeros(1)
        taken = _run(
            flags, clients, self.alpha, self.budget_events, RATES, c["evidence"], c["recent"],
            c["seen"], c["weight"], c["flagged"], c["touched"], self.totals, self.clock, height,
        )  # fmt: skip
        self.clock += taken
        return taken, float(height[0])

    def recent(self, client: int) -> tuple[int, int]:
        """Return how many of a client's last inputs, at most 64, were flagged, and how many those are."""
        size = min(int(self._clients["seen"][client]), 64)
        return int(self._clients["recent"][client]).bit_count(), size

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays, for a snapshot."""
        return {**self._clients, "totals": self.totals}

    def load(self, arrays: dict[str, NDArray[Any]], clock: int, clients: int) -> None:
        """Replace everything by what `state` gave of so many clients.

        Raises
        ------
        StateError
            An array is missing, or of another shape or type than compiled code takes.
        """
        for name, like in (_empty(clients) | {"totals": np.zeros(2)}).items():
            if name not in arrays:
                raise StateError(f"an array of clients is missing: expected {name}")
            check(arrays[name], f"{name} of clients", like.shape, like.dtype)
        self.totals = arrays["totals"]
        self._clients = {name: arrays[name] for name in _empty(0)}
        self.clock = clock


def _empty(clients: int) -> dict[str, NDArray[Any]]:
    """Return what is known of so many clients that have done nothing."""
    return {
        "evidence": np.zeros((clients, len(RATES))), "recent": np.zeros(clients, np.uint64),
        "seen": np.zeros(clients, np.int64), "weight": np.zeros(clients),
        "flagged": np.zeros(clients), "touched": np.zeros(clients, np.int64),
    }  # fmt: skip
