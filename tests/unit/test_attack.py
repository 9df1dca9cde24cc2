"""Logits find the detector of their version, and its state survives a restart."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.consumers.attack import AttackMonitor
from tocsin.consumers.model_settings import AttackSettings
from tocsin.core.batch import EventBatch, Origin
from tocsin.core.events import Prediction
from tocsin.testing import logit_case

SETTINGS = AttackSettings(fit_events=100, calibration_events=400, alpha=0.02)


def events(seed: int, n: int, versions=(None,), classes: int = 4) -> list:
    """Predictions of several versions side by side; client-0 attacks from half of them on."""
    rng = np.random.default_rng(seed)
    case = logit_case(classes=classes, clients=5).changed(seed, n)
    return [
        (
            Origin(k, k % 3, 0),
            Prediction(
                prediction_id=f"p{k}",
                model="m",
                version=versions[rng.integers(len(versions))],
                client=case.clients[k],
                logits=case.values[k].tolist(),
            ),
        )
        for k in range(n)
    ]


def feed(monitor: AttackMonitor, rows: list, cut: int = 10**9) -> list:
    return [
        verdict
        for begin in range(0, len(rows), cut)
        for batch in EventBatch.of("m", rows[begin : begin + cut])
        for verdict in monitor.update(batch)
    ]


def state(monitor: AttackMonitor) -> dict[str, bytes]:
    return {
        name: value
        for key, detector in monitor._detectors.items()
        for name, value in (
            (f"attack/{key}", detector.volatile()), (f"attack_steady/{key}", detector.steady()),
        )
    }  # fmt: skip


@pytest.mark.parametrize(
    "versions", [("v1", "v2"), ("a-long-version", None), ("a/b", "ab", "a"), ("Ж", "zz")]
)
def test_versions_side_by_side_do_not_disturb_one_another(versions) -> None:
    rows = events(0, 4000, versions)
    while rows[0][1].version != versions[-1]:  # one that the others begin with, where there is one
        del rows[0]
    together = feed(AttackMonitor("m", SETTINGS), rows)
    alone = [
        verdict
        for version in versions
        for verdict in feed(
            AttackMonitor("m", SETTINGS), [row for row in rows if row[1].version == version]
        )
    ]
    assert sorted(together, key=lambda v: v.offset) == sorted(alone, key=lambda v: v.offset)
    assert {verdict.subject for verdict in together} == {"client:client-0"}


@pytest.mark.parametrize("cut", [1, 17, 256])
def test_batches_may_be_cut_anywhere_and_go_on_from_stored_fields(cut: int) -> None:
    rows = events(1, 2400, ("v1", "v2"))
    whole = AttackMonitor("m", SETTINGS)
    expected = feed(whole, rows)
    parts, stored, found = AttackMonitor("m", SETTINGS), {}, []
    for begin in range(0, len(rows), 400):
        found += feed(parts, rows[begin : begin + 400], cut)
        stored.update(parts.dirty())
        versions = parts.versions
        parts = AttackMonitor("m", SETTINGS)
        assert parts.restore(versions, stored) == []
    assert sorted(found, key=lambda v: v.offset) == sorted(expected, key=lambda v: v.offset)
    assert state(parts) == state(whole)
    assert (parts.checked, parts.flagged) == (whole.checked, whole.flagged)


def test_what_was_fitted_is_written_once() -> None:
    monitor = AttackMonitor("m", SETTINGS)
    feed(monitor, events(2, 300))
    assert set(monitor.dirty()) == {"attack//4", "attack_steady//4"}
    feed(monitor, events(3, 300))
    stored = monitor.dirty()
    assert "attack_steady//4" in stored
    feed(monitor, events(4, 300))
    assert set(monitor.dirty()) == {"attack//4"}
    restored = AttackMonitor("m", SETTINGS)
    restored.restore(monitor.versions, stored)
    assert set(restored.dirty()) == {"attack//4"}


def test_a_new_width_of_the_logits_is_fitted_anew() -> None:
    monitor = AttackMonitor("m", SETTINGS)
    feed(monitor, events(5, 600) + events(6, 600, classes=7))
    assert set(state(monitor)) == {
        "attack//4", "attack_steady//4", "attack//7", "attack_steady//7",
    }  # fmt: skip


@pytest.mark.parametrize("classes", [0, 1, 1025])
def test_logits_of_no_use_or_of_no_bound_are_left_alone(classes: int) -> None:
    monitor = AttackMonitor("m", SETTINGS)
    logits = [0.5] * classes or None
    rows = [(Origin(k, 0, 0), Prediction(prediction_id=str(k), logits=logits)) for k in range(3)]
    assert feed(monitor, rows) == []
    assert monitor.dirty() == {}


def test_versions_are_bounded_and_the_least_used_makes_room() -> None:
    monitor = AttackMonitor("m", SETTINGS)
    for k in range(8):
        feed(monitor, events(k, 5, (f"v{k}",)))
    assert len(monitor.dirty()) == 16
    feed(monitor, events(8, 40, ("v8",)))
    fields = monitor.dirty()
    assert fields["attack/v0/4"] is fields["attack_steady/v0/4"] is None
    assert all(state is not None for name, state in fields.items() if "/v0/" not in name)
    assert len(state(monitor)) == 16


def test_a_reference_serves_the_models_it_fits_and_no_others(tmp_path) -> None:
    clean = logit_case(classes=4).clean(9, 600).values
    np.savez(tmp_path / "clean.npz", logits=clean)
    settings = SETTINGS.model_copy(update={"reference": tmp_path / "clean.npz"})
    monitor = AttackMonitor("m", settings)
    feed(monitor, events(10, 50) + events(11, 50, classes=7))
    assert monitor._detectors["/4"].checked == 50
    assert monitor._detectors["/7"].checked == 0


def test_a_field_that_cannot_be_read_is_named_and_only_it_starts_clean() -> None:
    monitor = AttackMonitor("m", SETTINGS)
    feed(monitor, events(12, 2000, ("v1", "v2", "v3", "v4")))
    stored = monitor.dirty()
    stored["attack/v1/4"] = stored["attack/v1/4"][:-1]
    del stored["attack_steady/v2/4"]
    stored["attack_steady/v3/4"] = b""
    fresh = AttackMonitor("m", SETTINGS)
    lost = fresh.restore(monitor.versions, stored)
    assert sorted(name.partition(":")[0] for name in lost) == [
        "attack/v1/4", "attack/v2/4", "attack/v3/4",
    ]  # fmt: skip
    assert set(fresh._detectors) == {"v4/4"}
    feed(fresh, events(13, 50, ("v1",)))


def test_a_smaller_alpha_than_the_stored_scores_allow_starts_clean_and_says_so() -> None:
    monitor = AttackMonitor("m", SETTINGS)
    feed(monitor, events(14, 900))
    strict = SETTINGS.model_copy(update={"alpha": 0.001, "calibration_events": 4000})
    (lost,) = AttackMonitor("m", strict).restore(monitor.versions, monitor.dirty())
    assert "larger alpha" in lost


def test_which_version_is_forgotten_does_not_depend_on_the_batch() -> None:
    rows = [row for k in range(8) for row in events(k, 3, (f"v{k}",))]
    rows += [
        events(9, 3, (f"v{k}",))[0] for k in (0, 8, 0, 9, 2, 1, 8, 10) for _ in range(2 + 5 * k)
    ]
    whole, single = AttackMonitor("m", SETTINGS), AttackMonitor("m", SETTINGS)
    feed(whole, rows)
    feed(single, rows, 1)
    assert whole.versions == single.versions
    assert state(whole) == state(single)
    restored = AttackMonitor("m", SETTINGS)
    fields = {name: value for name, value in single.dirty().items() if value is not None}
    assert restored.restore(single.versions, dict(reversed(fields.items()))) == []
    assert restored.versions == single.versions
    assert "v0/4" in restored.versions["kept"]
    assert "v8/4" in restored.versions["kept"]


@pytest.mark.parametrize(
    "versions", [None, ["v1/4"], {}, {"kept": {"v1": 1}, "new": {}, "rows": 1}]
)
def test_versions_that_nobody_has_stored_start_clean(versions: object) -> None:
    (lost,) = AttackMonitor("m", SETTINGS).restore(versions, {})
    assert lost.startswith("attack")


def test_a_reference_named_while_a_version_was_learning_is_used(tmp_path) -> None:
    np.savez(tmp_path / "clean.npz", logits=logit_case(classes=4).clean(9, 600).values)
    monitor = AttackMonitor("m", SETTINGS)
    feed(monitor, events(0, 20))
    named = SETTINGS.model_copy(update={"reference": tmp_path / "clean.npz"})
    restored = AttackMonitor("m", named)
    assert restored.restore(monitor.versions, monitor.dirty()) == []
    feed(restored, events(1, 20))
    assert restored.checked == 20


def test_a_version_may_hold_the_bar_that_stands_before_the_model() -> None:
    monitor = AttackMonitor("m", SETTINGS)
    feed(monitor, events(0, 30, ("a|b", "a%7Cb")))
    fields = monitor.dirty()
    assert not any("|" in name for name in fields)
    restored = AttackMonitor("m", SETTINGS)
    assert restored.restore(monitor.versions, fields) == []
    assert state(restored) == state(monitor)
