"""One model in one partition: what fails, is lost or is set otherwise does not take the rest with it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tocsin.consumers.model_monitor import ModelMonitor
from tocsin.consumers.model_settings import IncidentSettings, ModelSettings
from tocsin.core.alert import Alert
from tocsin.core.batch import EventBatch, LabelBatch, Origin
from tocsin.core.errors import DetectorError
from tocsin.core.events import Label, Prediction
from tocsin.core.snapshot import pack, unpack

SECOND = 10**9
SETTINGS = ModelSettings(
    # With so low a threshold Page-Hinkley finds something in logits too, while they are new.
    drift={"warmup_values": 40, "page_hinkley_threshold": 15, "logits": False},
    attack={"fit_events": 20, "calibration_events": 200, "alpha": 0.05},
    incidents={"merge_events": 50, "resolve_events": 200},
)


def events(
    begin: int, end: int, *, drift_from: int = 10**9, **fields: Any
) -> tuple[list[EventBatch], list[LabelBatch]]:
    """Predictions and their labels, of which some come early, some much later."""
    predictions, labels = [], []
    for offset in range(begin, end):
        rng = np.random.default_rng(offset)
        logits = rng.normal(size=3).tolist()
        event = Prediction(
            prediction_id=f"p{offset}", prediction="a" if rng.random() < 0.8 else "b",
            features={"x": float(rng.normal() + 4 * (offset >= drift_from))}, logits=logits,
            environment="shadow" if offset % 5 == 0 else "production", **fields,
        )  # fmt: skip
        predictions.append((Origin(offset, 0, offset * SECOND), event))
        of = offset - int(rng.choice([-3, 0, 40]))
        label = Label(prediction_id=f"p{of}", label="a")
        labels.append((Origin(offset, 1, offset * SECOND), label))
    return list(EventBatch.of("m", predictions)), [LabelBatch.of("m", labels)]


def monitor(settings: ModelSettings = SETTINGS) -> ModelMonitor:
    return ModelMonitor("m", 0, settings)


def feed(of: ModelMonitor, begin: int, end: int, *, step: int = 50, **fields: Any) -> list[Alert]:
    found = []
    for at in range(begin, end, step):
        found += of.update(*events(at, min(end, at + step), **fields))
    return found


def told(alerts: Sequence[Alert]) -> list[tuple[str, str, str]]:
    return [(alert.kind, alert.state, alert.environment) for alert in alerts]


def merged(stored: dict[str, bytes], of: ModelMonitor) -> dict[str, bytes]:
    found: dict[str, bytes | None] = {**stored, **of.dirty()}
    return {name: state for name, state in found.items() if state is not None}


# ---- a detector that fails ----


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> ModelMonitor:
    """A monitor whose drift detector fails at the first event after the 300th."""
    found = monitor()
    feed(found, 0, 300)
    inputs = found._series[0].inputs
    monkeypatch.setattr(inputs, "update", lambda batch: fail())
    return found


def fail() -> None:
    raise DetectorError("it has lost its way among secret-4711")


def test_a_detector_that_fails_is_set_aside_and_an_alert_says_so(
    failing: ModelMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        alerts = feed(failing, 300, 400)
    (alert,) = alerts
    assert (alert.kind, alert.state, alert.severity) == ("pipeline", "firing", "critical")
    assert alert.subject == "detector:drift"
    assert "DetectorError" in alert.evidence
    assert "detector set aside" in caplog.text
    assert b"4711" not in b"".join(state or b"" for state in failing.dirty().values())


def test_the_other_detectors_and_environments_go_on(failing: ModelMonitor) -> None:
    alerts = told(feed(failing, 300, 900, drift_from=400))
    assert ("pipeline", "firing", "production") in alerts
    assert ("data drift", "firing", "shadow") in alerts
    assert ("data drift", "firing", "production") not in alerts
    whole = monitor()
    feed(whole, 0, 900, drift_from=400)
    for environment, figures in failing.metrics().items():
        expected = whole.metrics()[environment]
        for name in ("accuracy", "labels_joined", "suspicious_ratio", "predictions", "pairs"):
            assert figures.get(name) == expected.get(name), (environment, name)


def test_what_was_set_aside_stays_so_after_a_restart_until_another_version_comes(
    failing: ModelMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(failing, 300, 320)
    stored = merged({}, failing)
    again = monitor()
    assert again.restore(stored) == []
    assert again._series[0].broken == {"drift": "DetectorError"}
    assert told(feed(again, 320, 500, drift_from=320)) == [("data drift", "firing", "shadow")]
    monkeypatch.setattr("tocsin.consumers.series.__version__", "99")
    newer = monitor()
    (lost,) = newer.restore(stored)
    assert lost.startswith("drift: it failed in tocsin")
    alerts = told(feed(newer, 320, 900, drift_from=600))
    assert alerts.count(("data drift", "firing", "production")) == 1


# ---- state that cannot be read ----


def written() -> tuple[ModelMonitor, dict[str, bytes]]:
    """A monitor, and the store after several commits."""
    found, stored = monitor(), {}
    for begin in range(0, 300, 60):
        feed(found, begin, begin + 60)
        stored = merged(stored, found)
    return found, stored


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
@pytest.mark.parametrize("name", sorted(written()[1].keys() - {"told_by"}))
def test_a_field_that_cannot_be_read_is_named_and_the_rest_goes_on(name: str, damage: str) -> None:
    """And once it is written anew, the next restart finds nothing wrong."""
    _, stored = written()
    damaged = dict(stored)
    if damage == "gone":
        del damaged[name]
    else:
        other = stored["join" if name != "join" else "0/series"]
        damaged[name] = stored[name][:-3] if damage == "cut" else other
    again = monitor()
    (lost,) = again.restore(damaged)
    assert lost.startswith(PART_OF.get(name.partition(":")[0].partition("/")[2] or name, "join"))
    alerts = feed(again, 300, 420)
    third = monitor()
    stored = merged(damaged, again)
    assert third.restore(stored) == []
    alerts = feed(again, 420, 700, drift_from=500)
    assert ("data drift", "firing", "production") in told(alerts)
    assert feed(third, 420, 700, drift_from=500) == alerts
    assert third.metrics() == again.metrics()


@pytest.mark.parametrize("said", [None, b"", b"other"])
def test_where_it_is_not_known_who_told_of_the_series_it_is_looked_through(
    said: bytes | None,
) -> None:
    _, stored = written()
    again = monitor()
    assert again.restore(stored) == []
    assert not again.is_told_otherwise
    damaged = stored | {"told_by": said or b""}
    if said is None:
        del damaged["told_by"]
    again = monitor()
    assert again.restore(damaged) == []
    assert again.is_told_otherwise
    assert merged(damaged, again)["told_by"] == stored["told_by"]


PART_OF = {
    "series": "series", "inputs": "inputs", "inputs_reference": "inputs", "errors": "errors",
    "errors_reference": "errors", "performance": "performance", "incidents": "incidents",
    "attack//3": "attack//3", "attack_steady//3": "attack//3", "names": "names",
    "leakage": "leakage", "leakage_sample": "leakage", "leakage_waiting": "leakage",
    "leakage_windows": "leakage", "leakage_times": "leakage",
    "groups": "performance", "score_columns": "performance", "cohorts": "performance", "cohort": "performance", "served": "performance",
}  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [{"counts": {"x": 1}}, {"waiting": [1]}, {"early": [[1]]}, {"fields": 5}, {"first_row": None}],
    ids=str,
)  # fmt: skip
def test_a_join_whose_state_is_crafted_starts_clean(damage: dict[str, Any]) -> None:
    _, stored = written()
    meta, arrays = unpack("join", 1, stored["join"])
    again = monitor()
    lost = again.restore(stored | {"join": pack("join", 1, meta | damage, arrays)})
    assert [what.partition(":")[0] for what in lost] == ["join"]
    assert len(again.join.table) == 0
    feed(again, 300, 420)


# ---- settings that change between two runs ----


@pytest.mark.parametrize(
    "changed",
    [
        {"incidents": {"resolve_events": 10, "merge_events": 5}},
        {"incidents": {"resolve_events": 100_000, "merge_events": 100_000}},
        {"labels": {"max_pending": 10, "max_early": 1, "window": 1, "early": 1}},
        {"features": "none"}, {"features": ["other"]}, {"performance_window": 10},
        {"performance_window": 5000}, {"task": "regression"}, {"attack": {"enabled": False}},
        {"attack": {"max_clients": 1}}, {"drift": {"engine": "river"}},
        {"drift": {"warmup_values": 500, "adwin_delta": 0.1}},
    ],
    ids=str,
)  # fmt: skip
def test_a_run_may_go_on_with_other_settings(changed: dict[str, Any]) -> None:
    before = monitor()
    alerts = feed(before, 0, 420, drift_from=300)
    stored = merged({}, before)
    base = SETTINGS.model_dump()
    merge = {k: base[k] | v if isinstance(v, dict) else v for k, v in changed.items()}
    again = monitor(ModelSettings(**(base | merge)))
    lost = again.restore(stored)
    assert all("engine" in changed.get("drift", ()) for _ in lost), lost
    alerts += again.update([], events(420, 421)[1])  # a label may be the first that comes
    alerts += feed(again, 421, 1700, drift_from=300)
    if changed.get("incidents", {}).get("resolve_events", 0) < 100_000:
        states = [alert.state for alert in alerts if alert.kind == "data drift"]
        assert states.count("firing") == states.count("resolved") > 0
    third = monitor(again.settings)
    third.restore(merged(stored, again))
    assert third.metrics() == again.metrics()


def test_fewer_events_to_the_end_of_an_incident_end_it_with_the_next_prediction() -> None:
    before = monitor()
    (alert, *_) = [a for a in feed(before, 0, 420, drift_from=300) if a.kind == "data drift"]
    assert alert.state == "firing"
    quick = SETTINGS.model_copy(update={"incidents": IncidentSettings(resolve_events=10)})
    again = monitor(quick)
    again.restore(merged({}, before))
    assert again.update([], events(600, 601)[1]) == []
    resolved = [alert for alert in feed(again, 601, 606) if alert.state == "resolved"]
    assert {(alert.environment, alert.offset) for alert in resolved} == {
        ("production", 601), ("shadow", 605),
    }  # fmt: skip


def test_each_environment_is_watched_by_itself() -> None:
    found = monitor()
    feed(found, 0, 400)
    assert set(found.metrics()) == {"production", "shadow"}
    only = monitor()
    for batches, labels in (events(at, at + 50) for at in range(0, 400, 50)):
        rows = [np.flatnonzero(batch.environment == 0) for batch in batches]
        only.update([b.take(r) for b, r in zip(batches, rows, strict=True)], labels)
    ours, alone = found.metrics()["production"], only.metrics()["production"]
    for name in ("accuracy", "pairs", "suspicious_ratio", "unusable_values"):
        assert ours[name] == alone[name], name


def test_nothing_at_all_is_nothing() -> None:
    found = monitor()
    assert found.update([], []) == []
    assert found.metrics() == {}
    again = monitor()
    assert again.restore(merged({}, found)) == []


# ---- a model that learns while it serves ----


@pytest.mark.parametrize("learning", [False, True])
def test_fewer_errors_of_a_model_that_learns_are_no_alarm(learning: bool) -> None:
    rng = np.random.default_rng(8)
    wrong = rng.random(9000) < np.repeat([0.4, 0.2], [4000, 5000])
    pairs = [
        (
            Origin(offset, 0, offset * SECOND),
            Prediction(
                prediction_id=f"p{offset}", prediction="a", label="b" if wrong[offset] else "a"
            ),
        )
        for offset in range(len(wrong))
    ]
    of = monitor(ModelSettings(drift={"learning": learning, "adwin_delta": 1e-12}))
    alerts = of.update(list(EventBatch.of("m", pairs)), [])
    errors = [a for a in alerts if a.state == "firing" and a.subject == "error"]
    assert (not errors) == learning


def test_a_loss_that_is_not_the_detectors_ends_no_incident() -> None:
    first = monitor()
    feed(first, 0, 500, drift_from=400)
    fields = merged({}, first)
    assert first.metrics()["production"]["open_incidents"] == 1
    without = {name: state for name, state in fields.items() if name != "0/performance"}
    for stored, lost in ((fields, 0), (without, 1)):
        again = monitor()
        assert len(again.restore(stored)) == lost
        assert "resolved" not in [a.state for a in feed(again, 500, 510, drift_from=400)]
    again = monitor()
    begun = {name: state for name, state in fields.items() if name != "0/inputs"}
    assert len(again.restore(begun)) == 1
    assert ("data drift", "resolved", "production") in told(feed(again, 500, 900, drift_from=10**9))


# ---- detectors that a user has added ----


@pytest.mark.parametrize("alarms", ["all", "budget"])
def test_a_detector_of_rivers_opens_an_incident_where_it_may(alarms: str) -> None:
    """While a stream is new; ADWIN and Page-Hinkley as they are set here see it later, if at all."""
    drift = {
        "warmup_values": 40, "adwin_delta": 1e-12, "page_hinkley_threshold": 1e6, "logits": False,
        "alarms": alarms, "extra_detectors": ["kswin:alpha=1e-5"],
    }  # fmt: skip
    rng = np.random.default_rng(2)
    found, stored = [], {}
    of = monitor(ModelSettings(drift=drift))
    for begin in range(0, 600, 100):
        pairs = [
            (Origin(offset, 0, offset * SECOND), Prediction(
                prediction_id=f"p{offset}", features={"x": rng.normal() + 8 * (offset > 400)},
            ))
            for offset in range(begin, begin + 100)
        ]  # fmt: skip
        found += of.update(list(EventBatch.of("m", pairs)), [])
        stored = merged(stored, of)
        of = monitor(ModelSettings(drift=drift))
        assert of.restore(stored) == []
    # The first to see it opens the incident, and what comes after it joins.
    assert [alert.detector for alert in found] == ["kswin" if alarms == "all" else "adwin"]
    assert all(400 < alert.offset < 500 and alert.kind == "data drift" for alert in found)
