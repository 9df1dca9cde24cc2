"""Which claims of detectors make one incident: streams that change together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ..core.verdict import Verdict

PAUSE: Final = 1000
"""What opens so soon after an incident's end is more of it: an e-detector's window, in which a ramp may rest."""
JOIN: Final = 5000
"""A stream that opens so long after the latest one came in is another change: without it, one stream that never
rests would hide all that is to come. The weakest streams of one change on Elec2 come in 2,700 events after
the ones before them (`bench kdd --seeds 1`)."""

Key = tuple[str, str]
"""Stream and detector."""


class Merging:
    """Tells for one claim after another which incident it belongs to.

    An incident is open from its first stream's `opened` until all its streams have settled; what opens
    meanwhile, or soon after, belongs to it. Where a detector only raises alarms, each lasts for a moment,
    so that alarms a pause apart are one incident.

    Parameters
    ----------
    pause
        Events after an incident's end within which what opens belongs to it.
    join
        Events after the latest stream came in within which another may come in.

    Raises
    ------
    ValueError
        `pause` is negative or `join` not positive.

    Examples
    --------
    >>> from tocsin.core.verdict import Verdict
    >>> from tocsin.detectors.merging import Merging
    >>> claim = Verdict(detector="adwin", subject="error", offset=0, row=0, statistic=1, threshold=1)
    >>> merging = Merging(pause=100)
    >>> [merging.add(at, claim) for at in (10, 90, 200)]
    [1, 1, 2]
    """

    def __init__(self, pause: int = PAUSE, join: int = JOIN) -> None:
        if pause < 0 or join < 1:
            raise ValueError(
                "pause must be 0 events or more and join 1 or more, so that streams that change together are one "
                f"incident; got {pause} and {join}"
            )
        self.pause = pause
        self.join = join
        self.begun = 0
        """Incidents so far."""
        self._open: dict[Key, int] = {}  # streams that have not settled, and their incidents
        self._came = 0  # when the latest stream came in
        self._ended: int | None = None  # when the latest incident came to its end

    @property
    def is_open(self) -> bool:
        """Whether a stream of the latest incident has not settled."""
        return self.begun in self._open.values()

    def add(self, at: int, claim: Verdict) -> int | None:
        """Take a claim in; return the number of its incident, from 1 on, None if there is none.

        Where that is greater than the last claim's number, the claim begins the incident.

        Parameters
        ----------
        at
            How many events there were up to this one; none comes before the one before.
        claim
            Of any detector; an advisory one joins what is open.
        """
        key = (claim.subject, claim.detector)
        own = self._open.get(key)
        if claim.phase == "settled":
            self._open.pop(key, None)
            if own == self.begun and not self.is_open:
                self._ended = at
            return own
        if own is not None:
            return own
        if claim.advisory:
            return self.begun if self.is_open else None
        if claim.phase == "opened":
            self.begun += self._is_new(at)
            self._came = at
        if not self.begun:
            return None  # it moves since before we looked
        if claim.lasts:
            self._open[key] = self.begun
        elif not self.is_open:
            self._ended = at
        return self.begun

    def _is_new(self, at: int) -> bool:
        if self.is_open:
            return at - self._came > self.join
        return self._ended is None or at - self._ended > self.pause

    def state(self) -> dict[str, Any]:
        """Return what `load` takes."""
        return {
            "begun": self.begun, "came": self._came, "ended": self._ended,
            "open": [[*key, number] for key, number in self._open.items()],
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.begun, self._came, self._ended = state["begun"], state["came"], state["ended"]
        self._open = {(subject, detector): number for subject, detector, number in state["open"]}


def beginnings(
    claims: Iterable[tuple[int, Verdict]], *, pause: int = PAUSE, join: int = JOIN
) -> list[int]:
    """Return the events at which incidents begin, of claims in the order of events.

    Parameters
    ----------
    claims
        Each with how many events there were up to it.
    pause, join
        See `Merging`.
    """
    merging = Merging(pause, join)
    begun = []
    for at, claim in claims:
        before = merging.begun
        merging.add(at, claim)
        if merging.begun > before:
            begun.append(at)
    return begun
