"""Which claims of detectors make one incident: streams that change together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from ..core.verdict import Verdict

PAUSE: Final = 1000
"""What opens so soon after an incident's end is more of it: an e-detector's window, in which a ramp may rest."""
JOIN: Final = 5000
"""A stream that opens so long after the latest one came in is another change: without it, one stream that never
rests would hide all that is to come. The weakest streams of one change on Elec2 come in 2,700 events after
the ones before them (`bench kdd --seeds 1`)."""

Key = tuple[str, str]
"""Stream and detector."""


class _Part(msgspec.Struct, array_like=True):
    """A stream's part in an incident."""

    number: int
    last: int  # its latest claim
    rested: int | None  # when it settled, or was claimed for a moment; None while it moves


class Merging:
    """Tells for one claim after another which incident it belongs to.

    A stream is part of an incident from its claim until it has settled, and for a pause more; where a detector
    only raises alarms, each lasts for a moment. An incident lasts as long as one of its streams is part of it.
    What opens meanwhile belongs to it, unless the latest stream came in too long ago.

    Parameters
    ----------
    pause
        Events after a stream's rest within which what it does, or what opens, is more of the same.
    join
        Events after the latest stream came in for the first time within which another may come in.
    patience
        Events after its latest claim when a stream that has not settled is taken for one that is gone; None
        for never.

    Raises
    ------
    ValueError
        `pause` is negative, `join` or `patience` not positive.

    Examples
    --------
    >>> from tocsin.core.verdict import Verdict
    >>> from tocsin.detectors.merging import Merging
    >>> claim = Verdict(detector="adwin", subject="error", offset=0, row=0, statistic=1, threshold=1)
    >>> merging = Merging(pause=100)
    >>> [merging.add(at, claim) for at in (10, 90, 200)]
    [1, 1, 2]
    """

    def __init__(self, pause: int = PAUSE, join: int = JOIN, patience: int | None = None) -> None:
        if pause < 0 or join < 1 or (patience is not None and patience < 1):
            raise ValueError(
                "pause must be 0 events or more, join and patience 1 or more, so that streams that change together "
                f"are one incident; got {pause}, {join} and {patience}"
            )
        self.pause = pause
        self.join = join
        self.patience = patience
        self.begun = 0
        """Incidents so far."""
        self._parts: dict[Key, _Part] = {}
        self._came = 0  # when the latest stream came in

    def add(self, at: int, claim: Verdict) -> int | None:
        """Take a claim in; return the number of its incident, from 1 on, None if there is none.

        Where that is greater than the last claim's number, the claim begins the incident.

        Parameters
        ----------
        at
            How many events there were up to this one; none comes before the one before.
        claim
            Of any detector; an advisory one joins what lasts, and prolongs nothing.
        """
        lasting = {part.number for part in self._parts.values() if not self._is_over(part, at)}
        self._parts = {k: part for k, part in self._parts.items() if part.number in lasting}
        key = (claim.subject, claim.detector)
        part = was = self._parts.get(key)
        if part is not None and claim.phase != "moved" and self._is_over(part, at):
            part = None  # a stream that others hold open must not hide what it does later
        if claim.phase == "settled":
            if part is None:
                return None
            part.rested = at
            return part.number
        if claim.advisory:
            return max(lasting, default=None) if part is None else part.number
        if part is not None:
            part.last, part.rested = at, None if claim.lasts else at
            return part.number
        if claim.phase != "opened":
            return None  # more of what is over, or it moves since before we looked
        number = max(lasting, default=0)
        if not number or at - self._came > self.join:
            self.begun += 1
            number = self.begun
        if was is None or was.number != number:
            self._came = at  # a stream that comes and goes must not keep the door open for others
        self._parts[key] = _Part(number, at, None if claim.lasts else at)
        return number

    def _is_over(self, part: _Part, at: int) -> bool:
        end = self._end(part)
        return end is not None and at >= end

    def _end(self, part: _Part) -> int | None:
        if part.rested is not None:
            # What takes place at one event is one thing, also without a pause.
            return part.rested + max(self.pause, 1)
        return None if self.patience is None else part.last + self.patience

    def end_of(self, number: int) -> int | None:
        """Return at which event an incident ends that lasts, if no more is claimed; None while its end is not to be seen."""
        ends = [self._end(part) for part in self._parts.values() if part.number == number]
        known = [end for end in ends if end is not None]
        return max(known) if len(known) == len(ends) else None

    def rest(self) -> None:
        """Take all streams for settled since their latest claims: what would say so is gone."""
        for part in self._parts.values():
            part.rested = part.last if part.rested is None else part.rested

    def state(self) -> dict[str, Any]:
        """Return what `load` takes."""
        parts = [[*key, part] for key, part in self._parts.items()]
        return {"begun": self.begun, "came": self._came, "parts": parts}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.begun, self._came = state["begun"], state["came"]
        self._parts = {
            (subject, detector): msgspec.convert(part, _Part)
            for subject, detector, part in state["parts"]
        }


def beginnings(
    claims: Iterable[tuple[int, Verdict]], *, pause: int = PAUSE, join: int = JOIN
) -> list[int]:
    """Return the events at which incidents begin, of claims in the order of events.

    A backtest counts alarms by `matching.episodes`, for which each is a moment.

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
