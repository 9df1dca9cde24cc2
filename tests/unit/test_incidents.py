"""Incidents: claims that belong together, one alert when they begin and one when they are over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tocsin.consumers.incidents import Claim, Incidents, Moment, Onset
from tocsin.consumers.model_monitor import ModelMonitor
from tocsin.consumers.model_settings import ModelSettings
from tocsin.core.alert import Kind
from tocsin.core.batch import EventBatch, LabelBatch, Origin
from tocsin.core.cloudevents import from_nanoseconds
from tocsin.core.errors import StateError
from tocsin.core.events import Label, Prediction
from tocsin.core.verdict import Verdict

SECOND = 10**9


def incidents(merge: int = 10, resolve: int = 30) -> Incidents:
    return Incidents(
        "m", "production", 0, merge_events=merge, resolve_events=resolve, runbook="{kind}"
    )


def claim(clock: int, subject: str = "feature:x", kind: Kind = "data drift", **of: Any) -> Claim:
    verdict = Verdict(
        **{"detector": "adwin", "subject": subject, "offset": clock, "row": 0, "statistic": 2.0,
           "threshold": 1.0} | of,
    )  # fmt: skip
    return Claim(clock, verdict, kind, f"{subject} moved", clock * SECOND, Onset(), None, None)


def moment(clock: int) -> Moment:
    return Moment(clock, 0, clock * SECOND, f"p{clock}")


@pytest.mark.parametrize(("gap", "opens"), [(0, False), (10, False), (11, True)])
def test_a_claim_joins_the_incident_of_its_kind_within_the_merge_window(gap, opens) -> None:
    found = incidents()
    assert found.claim(claim(100)) is not None
    assert (found.claim(claim(100 + gap, "feature:y")) is not None) == opens
    assert found.open == 1 + opens


def test_an_incident_ends_so_long_after_the_latest_claim_not_after_the_first() -> None:
    found = incidents()
    opened = [found.claim(claim(clock)) is not None for clock in range(0, 100, 10)]
    assert opened == [True] + [False] * 9
    assert found.due(119) is None
    assert found.due(120) == 120


def test_drifts_of_all_kinds_are_one_incident_and_clients_and_failures_have_their_own() -> None:
    found = incidents()
    about: list[tuple[str, Kind]] = [
        ("feature:x", "data drift"), ("client:a", "adversarial input"),
        ("client:b", "adversarial input"), ("detector:drift", "pipeline"),
    ]  # fmt: skip
    alerts = [found.claim(claim(5, *one)) for one in about]
    assert [alert.severity for alert in alerts if alert] == [
        "warning", "critical", "critical", "critical",
    ]  # fmt: skip
    assert not any(found.claim(claim(7, *one)) for one in about)
    assert found.claim(claim(7, "score", "prediction drift")) is None
    assert found.open == 4


def test_an_incident_that_becomes_more_severe_says_so_once_and_stays_one() -> None:
    found = incidents()
    opened = found.claim(claim(5))
    worse = found.claim(claim(8, "error", "concept drift"))
    assert opened is not None
    assert worse is not None
    assert (worse.state, worse.kind, worse.severity) == ("firing", "concept drift", "critical")
    assert worse.incident == opened.id != worse.id
    assert {m.subject for m in worse.members} == {"error", "feature:x"}
    assert found.claim(claim(9, "error", "concept drift")) is None
    (resolved,) = found.end(39, moment(39))
    assert resolved.incident == opened.id


def test_an_advisory_claim_joins_what_is_open_and_opens_nothing() -> None:
    found = incidents()
    assert found.claim(claim(0, advisory=True)) is None
    assert found.open == 0
    found.claim(claim(1, "feature:y"))
    assert found.claim(claim(2, detector="page_hinkley", advisory=True)) is None
    assert found.claim(claim(3, "error", "concept drift", advisory=True)) is None
    (resolved,) = found.end(33, moment(33))
    assert {m.subject for m in resolved.members} == {"feature:x", "feature:y", "error"}


def test_an_incident_lasts_until_the_last_of_its_streams_has_settled() -> None:
    found = incidents(resolve=40)
    found.claim(claim(0, lasts=True, detector="e_detector"))
    found.claim(claim(5, "feature:y", lasts=True, detector="e_detector"))
    about: Any = {"phase": "settled", "lasts": True, "detector": "e_detector"}
    found.claim(claim(100, outcome="returned", **about))
    assert found.due(200) is None
    found.claim(claim(120, "feature:y", outcome="new regime", **about))
    assert found.due(200) == 160
    # What goes on after its rest, but before the end, is the same.
    assert found.claim(claim(145, phase="moved", lasts=True, detector="e_detector")) is None
    assert found.due(200) is None
    found.claim(claim(150, outcome="new regime", **about))
    (resolved,) = found.end(190, moment(190))
    assert resolved.outcome == "new regime"
    assert resolved.summary.startswith("x, y: at rest at a new level")


def test_a_stream_that_never_comes_again_holds_its_incident_open_for_a_bounded_time() -> None:
    found = incidents(resolve=40)
    found.claim(claim(0, lasts=True))
    assert found.due(39_999) is None
    assert found.due(100_000) == 40_000
    found.let_go()  # nobody is left who would say that it has settled
    assert found.due(100_000) == 40
    kept = Incidents(
        "m", "production", 0, merge_events=10, resolve_events=40, runbook="", keeps=True
    )
    kept.claim(claim(0, lasts=True))
    assert kept.due(10**9) is None


def test_an_incident_that_is_over_says_who_took_part_the_strongest_first() -> None:
    found = incidents()
    opened = found.claim(claim(1, "feature:a", statistic=-1.5))
    found.claim(claim(2, "feature:b", statistic=8.0, threshold=2.0))
    found.claim(claim(3, "feature:c", statistic=3.0))
    found.claim(claim(4, "feature:a", statistic=-2.0))  # the latest of a stream counts
    found.claim(claim(4, "feature:a", statistic=1.0, detector="page_hinkley"))
    (resolved,) = found.end(34, moment(34))
    assert [(m.subject, m.detector, m.statistic) for m in resolved.members] == [
        ("feature:b", "adwin", 8.0), ("feature:c", "adwin", 3.0), ("feature:a", "adwin", -2.0),
        ("feature:a", "page_hinkley", 1.0),
    ]  # fmt: skip
    assert resolved.summary == "a, b, c: quiet for 30 events"
    assert opened is not None
    assert (resolved.incident, resolved.subject) == (opened.id, "feature:a")
    assert (resolved.offset, resolved.prediction_id) == (34, "p34")
    assert resolved.resolved_at == from_nanoseconds(34 * SECOND)


def test_streams_listed_are_bounded_and_known_ones_are_still_brought_up_to_date() -> None:
    found = incidents()
    for number in range(200):
        found.claim(claim(number // 50, f"feature:{number}"))
    found.claim(claim(4, "feature:0", statistic=99.0))
    (resolved,) = found.end(34, moment(34))
    assert len(resolved.members) == 50
    assert (resolved.members[0].subject, resolved.members[0].statistic) == ("feature:0", 99.0)


def test_only_what_is_due_ends_and_the_others_stay() -> None:
    found = incidents()
    found.claim(claim(0))
    found.claim(claim(5, "client:a", "adversarial input"))
    assert found.due(29) is None
    assert [alert.kind for alert in found.end(30, moment(30))] == ["data drift"]
    assert found.due(1000) == 35
    assert [alert.kind for alert in found.end(35, moment(35))] == ["adversarial input"]
    assert found.open == 0
    assert found.due(10**6) is None


def test_a_new_claim_after_the_end_is_a_new_incident_about_the_same_thing() -> None:
    found = incidents()
    first = found.claim(claim(0))
    found.end(30, moment(30))
    second = found.claim(claim(31))
    assert first is not None
    assert second is not None
    assert second.incident != first.incident
    assert second.fingerprint == first.fingerprint


def test_open_incidents_go_on_from_a_snapshot() -> None:
    found = incidents()
    found.claim(claim(0))
    found.claim(claim(3, "client:a", "adversarial input"))
    changes = found.changes
    again = incidents()
    again.restore(found.snapshot())
    assert again.snapshot() == found.snapshot()
    for of in (found, again):
        assert of.claim(claim(9, "feature:y")) is None
    assert again.end(40, moment(40)) == found.end(40, moment(40))
    assert found.changes > changes
    with pytest.raises(StateError):
        again.restore(found.snapshot()[:-1])


# ---- when and since when, in a model's stream ----


@pytest.mark.parametrize("late", [0, 37])
def test_an_alert_begins_where_the_change_began_and_ends_when_all_is_quiet(late: int) -> None:
    settings = ModelSettings(
        drift={"warmup_values": 64}, incidents={"merge_events": 100, "resolve_events": 300}
    )
    monitor, alerts = ModelMonitor("m", 0, settings), []
    rng = np.random.default_rng(3)
    change = 800
    for offset in range(2000):
        time = offset * SECOND
        value = float(rng.normal() + 4 * (offset >= change))
        event = Prediction(prediction_id=f"p{offset}", features={"x": value}, prediction=1)
        wrong = rng.random() < (0.9 if offset >= change else 0.05)
        label = Label(prediction_id=f"p{max(0, offset - late)}", label=0 if wrong else 1)
        alerts += monitor.update(
            list(EventBatch.of("m", [(Origin(offset, 0, time), event)])),
            [LabelBatch.of("m", [(Origin(offset, 1, time), label)])],
        )
    fired = {alert.kind: alert for alert in alerts if alert.state == "firing"}
    assert set(fired) <= {"data drift", "concept drift"}
    assert "concept drift" in fired
    for kind, alert in fired.items():
        assert alert.started_at is not None
        began = change * SECOND
        assert abs(alert.started_at.timestamp() * SECOND - began) <= 70 * SECOND, kind
        assert change <= alert.offset < change + 70
    (ended,) = [alert for alert in alerts if alert.state == "resolved"]
    assert change + 300 <= ended.offset < change + 600
    assert ended.resolved_at == from_nanoseconds(ended.offset * SECOND)
    assert {member.subject for member in ended.members} >= {"feature:x", "error"}
    assert {alert.incident for alert in alerts} == {ended.incident}


def test_a_restless_stream_hides_no_other() -> None:
    held = incidents(merge=10, resolve=30)
    assert held.claim(claim(0, "feature:restless"))
    for clock in range(5, 100, 5):
        assert held.claim(claim(clock, "feature:restless")) is None
        if clock == 5:
            assert held.claim(claim(clock, "feature:with it")) is None
    opened = held.claim(claim(100, "feature:later"))
    assert opened is not None
    assert opened.subject == "feature:later"
    assert held.open == 2
