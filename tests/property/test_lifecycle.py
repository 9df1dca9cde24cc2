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

    def __init__(self, about: tuple[str, str], severe: bool) -> None:
        self.about, self.severe = about, severe
        self.ends: dict[str, int] = {}  # when each stream's part in it ends

    def end(self) -> int:
        return max(self.ends.values())


class Expected:
    """The open incidents as they should be."""

    def __init__(self) -> None:
        self.open: list[One] = []
        self.came: dict[tuple[str, str], int] = {}

    def claim(self, clock: int, subject: str, how: str) -> bool:
        """Take a claim in; return whether there is an alert."""
        about = ("drift", "") if "drift" in KINDS[subject] else (KINDS[subject], subject)
        own = [i for i in self.open if i.about == about]
        home = next((i for i in own if i.ends.get(subject, -1) > clock), None)
        severe = KINDS[subject] in SEVERE
        if how == "settled":
            if home is not None:
                home.ends[subject] = clock + RESOLVE
            return False
        if home is None and how == "advisory":
            home = own[-1] if own else None
            if home is None:
                return False
        is_new = home is None
        if home is None:
            joins = bool(own) and clock - self.came[about] <= MERGE
            home = own[-1] if joins else One(about, severe)
            self.came[about] = clock
            if not joins:
                self.open.append(home)
        if how != "advisory":
            home.ends[subject] = clock + (1000 * RESOLVE if how == "lasting" else RESOLVE)
        if is_new and not joins:
            return True
        worse = severe and not home.severe and how != "advisory"
        home.severe = home.severe or worse
        return worse

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
