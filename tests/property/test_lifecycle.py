"""The life of an alert: whatever happens to it, it stays in its table, and each change is told once."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.consumers.incidents import Claim, Incidents, Moment, Onset
from tocsin.core.lifecycle import TABLE, LifecycleError, State, Step, advance
from tocsin.core.verdict import Verdict

CHECKED = settings(derandomize=True, deadline=None, database=None, max_examples=300)
PAIRS = list(itertools.product(State, Step))


@pytest.mark.parametrize(("state", "step"), PAIRS, ids=str)
def test_every_step_in_every_state_leads_where_the_table_says_or_is_refused(state, step) -> None:
    if (state, step) in TABLE:
        assert advance(state, step) is TABLE[state, step]
        return
    with pytest.raises(LifecycleError, match=f"that is {state} cannot {step}"):
        advance(state, step)


def test_the_table_has_no_dead_end_but_the_end() -> None:
    reached, waiting = set(), {State.PENDING}
    while waiting:
        state = waiting.pop()
        reached.add(state)
        waiting |= {TABLE[pair] for pair in TABLE if pair[0] is state} - reached
    assert reached == set(State)
    assert {step for _, step in TABLE} == set(Step)
    for state in State:
        can_resolve = (state, Step.RESOLVE) in TABLE
        assert can_resolve == (state is not State.RESOLVED)
    assert not any(state is State.RESOLVED for state, _ in TABLE)
    assert not any(made is State.PENDING for made in TABLE.values())
    assert all(made is not state for (state, _), made in TABLE.items())


@CHECKED
@given(st.lists(st.sampled_from(Step), max_size=30))
def test_a_life_never_leaves_the_table(steps: list[Step]) -> None:
    state, told = State.PENDING, [State.PENDING]
    for step in steps:
        try:
            after = advance(state, step)
        except LifecycleError:
            continue
        assert TABLE[state, step] is after
        state = after
        told.append(state)
    assert all(a is not b for a, b in itertools.pairwise(told))
    assert told.count(State.RESOLVED) <= 1
    assert State.RESOLVED not in told[:-1]
    assert State.PENDING not in told[1:]


# ---- what the incidents of a series tell, whatever is claimed ----

SUBJECTS = ("feature:a", "feature:b", "error", "client:x", "client:y", "score")
KINDS = {
    "feature:a": "data drift", "feature:b": "data drift", "error": "concept drift",
    "client:x": "adversarial input", "client:y": "adversarial input", "score": "prediction drift",
}  # fmt: skip
MERGE, RESOLVE = 5, 9


SEVERE = {"concept drift", "adversarial input"}


def claim(clock: int, subject: str, how: str) -> Claim:
    """A claim that is `plain`, `lasting`, `settled` or `advisory`."""
    verdict = Verdict(
        detector="adwin", subject=subject, offset=clock, row=0, statistic=2.0, threshold=1.0,
        phase="settled" if how == "settled" else "opened", lasts=how in ("lasting", "settled"),
        advisory=how == "advisory",
    )  # fmt: skip
    return Claim(
        clock=clock, verdict=verdict, kind=KINDS[subject], summary="it moved", time=clock,
        started=Onset(), prediction_id=None, version=None,
    )  # fmt: skip


class One:
    """An incident as it should be."""

    def __init__(self, about: tuple[str, str], clock: int, severe: bool) -> None:
        self.about, self.opened, self.last, self.severe = about, clock, clock, severe
        self.members: set[str] = set()
        self.moving: set[str] = set()
        self.rested: int | None = None

    def end(self) -> int:
        if self.moving:
            return self.last + 10 * RESOLVE
        return self.last + RESOLVE if self.rested is None else self.rested + RESOLVE // 4


class Expected:
    """The open incidents as they should be."""

    def __init__(self) -> None:
        self.open: list[One] = []

    def claim(self, clock: int, subject: str, how: str) -> bool:
        """Take a claim in; return whether there is an alert."""
        if how == "settled":
            for incident in self.open:
                if subject in incident.moving:
                    incident.moving.remove(subject)
                    incident.last = clock
                    incident.rested = None if incident.moving else clock
            return False
        drift = "drift" in KINDS[subject]
        about = ("drift", "") if drift else (KINDS[subject], subject)
        severe = KINDS[subject] in SEVERE
        for incident in self.open:
            since = incident.last if subject in incident.members else incident.opened
            if incident.about != about or (
                subject not in incident.moving and clock - since > MERGE
            ):
                continue
            incident.last = clock
            if how != "advisory" and subject not in incident.members:
                incident.opened = clock
            incident.members.add(subject)
            if how == "lasting":
                incident.moving.add(subject)
                incident.rested = None
            worse = severe and not incident.severe and how != "advisory"
            incident.severe = incident.severe or worse
            return worse
        if how == "advisory":
            return False
        new = One(about, clock, severe)
        new.members.add(subject)
        if how == "lasting":
            new.moving.add(subject)
        self.open.append(new)
        return True

    def end(self, clock: int) -> int:
        before = len(self.open)
        self.open = [i for i in self.open if i.end() > clock]
        return before - len(self.open)


HOW = st.sampled_from(["plain", "plain", "lasting", "settled", "advisory"])


@CHECKED
@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(SUBJECTS), HOW), max_size=60),
    st.sets(st.integers(0, 60)),
)
def test_each_incident_is_told_when_it_opens_and_when_it_ends_and_never_else(
    claims: list[tuple[int, str, str]], restarts: set[int]
) -> None:
    incidents, expected = fresh(), Expected()
    told, clock = [], 0
    for at, (gap, subject, how) in enumerate(claims):
        if at in restarts:
            state = incidents.snapshot()
            incidents = fresh()
            incidents.restore(state)
        for _ in range(gap):
            clock += 1
            ended = expected.end(clock)
            due = incidents.due(clock)
            assert (due == clock) == (ended > 0)
            if due is not None:
                over = incidents.end(due, Moment(clock, 1, clock, None))
                assert len(over) == ended
                told += over
        opened = incidents.claim(claim(clock, subject, how))
        assert (opened is not None) == expected.claim(clock, subject, how)
        told += [opened] if opened is not None else []
        assert incidents.open == len(expected.open)
    by_incident: dict[str, list[State]] = {}
    for alert in told:
        by_incident.setdefault(alert.incident, []).append(alert.state)
    lives = list(by_incident.values())
    firing = State.FIRING
    for states in lives:  # it opens, may become more severe, and ends
        assert states[:-1].count(firing) == len(states) - 1 <= 2
        assert states[-1] in (firing, State.RESOLVED)
    assert sum(states[-1] == firing for states in lives) == incidents.open


def fresh() -> Incidents:
    return Incidents(
        "m", "production", 0, merge_events=MERGE, resolve_events=RESOLVE, runbook="see {kind}"
    )
