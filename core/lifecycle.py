"""The life of an alert, as a table.

Rule 1: every state, every event and every allowed step stands in this file.
Rule 2: a step that is not in the table is an error, never a guess.
Rule 3: nothing here knows time, detectors or channels.
"""

from __future__ import annotations

from enum import StrEnum

from .errors import TocsinError


class State(StrEnum):
    """Where an alert is in its life."""

    PENDING = "pending"  # claimed, not yet announced
    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"  # a person has taken it
    SNOOZED = "snoozed"  # silent until a time that a person chose
    NO_DATA = "no_data"  # what it watches has gone quiet
    RESOLVED = "resolved"


class Step(StrEnum):
    """What can happen to an alert."""

    CONFIRM = "confirm"  # the claim is strong enough to announce
    ACKNOWLEDGE = "acknowledge"
    SNOOZE = "snooze"
    WAKE = "wake"  # a snooze is over
    STARVE = "starve"  # no events any more
    FEED = "feed"  # events again
    RESOLVE = "resolve"


class LifecycleError(TocsinError):
    """A step that the table does not have."""

    reason = "lifecycle"


_OPEN = (State.FIRING, State.ACKNOWLEDGED, State.SNOOZED, State.NO_DATA)

TABLE: dict[tuple[State, Step], State] = {
    (State.PENDING, Step.CONFIRM): State.FIRING,
    (State.PENDING, Step.RESOLVE): State.RESOLVED,
    (State.FIRING, Step.ACKNOWLEDGE): State.ACKNOWLEDGED,
    (State.FIRING, Step.SNOOZE): State.SNOOZED,
    (State.ACKNOWLEDGED, Step.SNOOZE): State.SNOOZED,
    (State.SNOOZED, Step.WAKE): State.FIRING,
    (State.SNOOZED, Step.ACKNOWLEDGE): State.ACKNOWLEDGED,
    (State.FIRING, Step.STARVE): State.NO_DATA,
    (State.ACKNOWLEDGED, Step.STARVE): State.NO_DATA,
    (State.NO_DATA, Step.FEED): State.FIRING,
    **{(state, Step.RESOLVE): State.RESOLVED for state in _OPEN},
}
"""What each step makes of each state. RESOLVED is final: a new claim is a new alert."""


def advance(state: State, step: Step) -> State:
    """Return the state after `step`.

    Raises
    ------
    LifecycleError
        `step` is not allowed in `state`.
    """
    try:
        return TABLE[state, step]
    except KeyError:
        raise LifecycleError(f"an alert that is {state} cannot {step}") from None
