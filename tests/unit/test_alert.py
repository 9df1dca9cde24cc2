"""Alerts: ids that a replay gives again, JSON that anyone reads, fields that pagers know."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec
import pytest

from tocsin.consumers.incidents import Claim, Incidents, Moment, Onset
from tocsin.core import alert as alerts
from tocsin.core.alert import Alert, Kind
from tocsin.core.verdict import Summary, Verdict

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NANOSECONDS = int(NOON.timestamp()) * 10**9
VERDICT = Verdict(
    detector="adwin", subject="feature:amount", offset=41, row=2, statistic=4.5, threshold=1.25,
    unit="amount", delay_events=31, evidence="+4.5 reference sigmas",
    reference=Summary(count=100, mean=1.5, std=0.5, edges=[0.0, 2.0, 4.0], counts=[90, 10]),
    current=Summary(count=31, mean=3.0, std=0.5, edges=[0.0, 2.0, 4.0], counts=[1, 30]),
    samples=["req-1"],
)  # fmt: skip


def incidents(**changed: Any) -> Incidents:
    about = {"model": "fraud", "environment": "production", "partition": 3}
    return Incidents(
        **(about | changed), merge_events=10, resolve_events=20, runbook="https://docs/{kind}"
    )


def opened(kind: Kind = "data drift", of: Incidents | None = None, **changed: Any) -> Alert:
    claim = Claim(
        clock=50, verdict=msgspec.structs.replace(VERDICT, **changed), kind=kind,
        summary="amount: mean 1.5 -> 3", time=NANOSECONDS, started=Onset(NANOSECONDS - 60 * 10**9),
        prediction_id="req-9", version="v2",
    )  # fmt: skip
    alert = (of or incidents()).claim(claim)
    assert alert is not None
    return alert


def test_an_id_names_the_model_the_claim_and_its_place_in_the_log() -> None:
    assert opened().id == "fraud:adwin:feature:amount:3:41.2"
    assert opened(row=0).id == "fraud:adwin:feature:amount:3:41"
    assert opened(of=incidents(environment="shadow")).id.startswith("fraud@shadow:adwin:")
    assert opened() == opened()


def test_an_alert_says_what_since_when_how_sure_what_changed_and_what_to_do() -> None:
    alert = opened()
    assert (alert.state, alert.kind, alert.severity) == ("firing", "data drift", "warning")
    assert (alert.model, alert.version, alert.environment) == ("fraud", "v2", "production")
    assert (alert.detected_at - alert.started_at).total_seconds() == 60
    assert alert.detected_at == NOON
    for name in ("statistic", "threshold", "unit", "evidence", "reference", "current", "samples"):
        assert getattr(alert, name) == getattr(VERDICT, name)
    assert (alert.partition, alert.offset, alert.row) == (3, 41, 2)
    assert (alert.prediction_id, alert.delay_events) == ("req-9", 31)
    assert alert.runbook == "https://docs/data-drift"
    assert alert.fingerprint in alert.silence
    assert [member.subject for member in alert.members] == ["feature:amount"]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_pager_opens_and_closes_one_incident_by_its_fingerprint(kind: Kind) -> None:
    """PagerDuty's `dedup_key` and Alertmanager's labels must be equal at both ends."""
    of = incidents()
    alert = opened(kind, of)
    (resolved,) = of.end(70, Moment(60, 0, NANOSECONDS + 10**9, "req-20"))
    assert alert.severity in ("critical", "error", "warning", "info")
    labels = ("fingerprint", "incident", "severity", "kind", "model", "environment", "subject")
    assert [getattr(alert, name) for name in labels] == [getattr(resolved, n) for n in labels]
    assert (alert.state, resolved.state) == ("firing", "resolved")
    assert (resolved.started_at, resolved.detected_at) == (alert.started_at, alert.detected_at)
    assert alert.resolved_at is None
    assert resolved.resolved_at > alert.detected_at
    assert alert.id == alert.incident != resolved.id
    assert (resolved.offset, resolved.row, resolved.prediction_id) == (60, 0, "req-20")


def test_a_fingerprint_is_of_what_an_alert_is_about_and_of_nothing_else() -> None:
    fields = [("m", "n"), ("production", "shadow"), ("data drift", "concept drift"), ("x", "nx")]
    found = {alerts.fingerprint(*about) for about in itertools.product(*fields)}
    assert len(found) == 16
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in found)
    assert alerts.fingerprint("mp", "roduction", "k", "x") != alerts.fingerprint(
        "m", "production", "k", "x"
    )
    assert opened(offset=7, statistic=1.0).fingerprint == opened().fingerprint


def test_plain_json_says_it_all_and_comes_back() -> None:
    alert = opened()
    plain = json.loads(alerts.encode(alert))
    assert plain["state"] == "firing"
    assert plain["detected_at"] == "2026-01-02T12:00:00Z"
    assert plain["reference"]["counts"] == [90, 10]
    assert not {"resolved_at", "stream_id", "previous_id"} & set(plain)
    assert alerts.decode(alerts.encode(alert)) == alert


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_json_cannot_say_is_left_out_and_the_rest_is_read(value: float) -> None:
    alert = opened(statistic=value, threshold=value)
    assert alert.statistic is alert.threshold is None
    assert alerts.decode(alerts.encode(alert)) == alert


def test_a_subscriber_of_an_older_version_reads_alerts_of_a_newer_one() -> None:
    text = alerts.encode(opened())
    assert alerts.decode(b'{"from_the_future":{"x":[1]},' + text[1:]) == opened()


def test_the_store_puts_its_place_in_front_and_a_reader_finds_it() -> None:
    text = alerts.encode(opened())
    published = b'{"stream_id":"5-1","previous_id":"5-0",' + text[1:]
    found = alerts.decode(published)
    assert (found.stream_id, found.previous_id) == ("5-1", "5-0")
    assert msgspec.structs.replace(found, stream_id=None, previous_id=None) == opened()


@pytest.mark.parametrize(
    "change", [{"state": "broken"}, {"severity": "loud"}, {"kind": "drift"}, {"detected_at": 5}]
)
def test_an_alert_with_words_that_nobody_knows_is_refused(change: dict[str, Any]) -> None:
    """`drift` alone is no kind: it does not say of what."""
    plain = json.loads(alerts.encode(opened())) | change
    with pytest.raises(msgspec.ValidationError):
        alerts.decode(json.dumps(plain).encode())
