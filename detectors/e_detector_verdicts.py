"""What an e-detector says: a stream has changed, still does, or has come to rest."""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

import numpy as np

from ..core.verdict import Summary, Verdict
from .onset import Onset

Outcome = Literal["returned", "new regime", "unsettled", "gone"]


class Change(NamedTuple):
    """A change of a stream: what kind, since when, and what was before and after it."""

    name: str
    place: tuple[int, int]  # offset and row of the event that decided it
    change: str
    began: Onset
    reference: Summary
    current: Summary
    sigma: float
    newcomers: list[str]


def changed(
    what: Change,
    *,
    opens: bool,
    is_learnt: bool,
    evidence: float,
    stake: float,
    threshold: float,
    budget_events: float,
    rarity: float,
) -> Verdict:
    """Claim that a stream has changed, where it opens, or else that it still does.

    Parameters
    ----------
    what
        The change.
    opens, is_learnt
        Whether it is a new one; whether it is owed to the model's learning.
    evidence, stake, threshold
        What was won on the stream, 1 for an alarm; what is staked on a value; what was to be reached, in
        stakes.
    budget_events
        The budget, in events.
    rarity
        Events for each of the stream's values so far: delays are told in events.
    """
    size, sigmas = _size(what)
    chance = evidence * budget_events
    return Verdict(
        detector="e_detector",
        subject=what.name,
        offset=what.place[0],
        row=what.place[1],
        statistic=evidence / stake,
        threshold=threshold,
        unit="Shiryaev-Roberts sum of bets",
        phase="opened" if opens else "moved",
        lasts=not is_learnt,
        advisory=is_learnt,
        change=what.change,
        size=size,
        size_sigmas=sigmas,
        newcomers=what.newcomers,
        delay_events=round(rarity * what.began.delay),
        delay_low=round(rarity * what.began.low),
        delay_high=round(rarity * what.began.high),
        chance_events=chance if opens else None,
        evidence=f"would happen by chance once in {chance:.1g} events" if opens else "",
        reference=what.reference,
        current=what.current,
    )


_ENDS: Final = {"unsettled": "restless", "gone": "no values any more"}


def _size(what: Change) -> tuple[float | None, float | None]:
    """Return how large a change is, in the stream's own unit and in sigmas."""
    before, after = what.reference, what.current
    if before.categories and before.count and after.count:
        shares, now = (np.array(of.counts) / of.count for of in (before, after))
        is_new = what.change == "new category"
        most = len(shares) - 1 if is_new else int(np.abs(now - shares).argmax())
        usual = (before.counts[most] + 0.5) / (before.count + 1)  # of none so far too
        size = float(now[most] - shares[most])
        return size, size / math.sqrt(usual * (1 - usual))
    old, new = before.mean, after.mean
    if what.change.startswith("scale"):
        old, new = before.std, after.std
    if what.change == "shape" or old is None or new is None:
        return None, None
    return new - old, (new - old) / what.sigma if what.sigma > 0 and before.std else None


def at_rest(
    name: str, place: tuple[int, int], values: int, window: int, outcome: Outcome,
    reference: Summary, current: Summary,
) -> Verdict:  # fmt: skip
    """Claim that a stream has come to rest, for so many values, or is given up."""
    return Verdict(
        detector="e_detector",
        subject=name,
        offset=place[0],
        row=place[1],
        statistic=float(values),
        threshold=float(window),
        unit="values at rest",
        phase="settled",
        lasts=True,
        outcome=outcome,
        evidence=_ENDS.get(outcome, f"at rest for {values} values"),
        reference=reference,
        current=current,
    )
