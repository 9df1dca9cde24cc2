"""One environment's detectors: what reaches them, what is counted, and what is stored."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tocsin.consumers import series as series_module
from tocsin.consumers.class_numbers import ClassNumbers
from tocsin.consumers.join import Correction, Pairs
from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.score_columns import ScoreColumns, score
from tocsin.consumers.sentences import changed
from tocsin.consumers.series import Series
from tocsin.core.batch import EventBatch, Origin
from tocsin.core.events import Prediction
from tocsin.core.snapshot import pack, unpack
from tocsin.core.verdict import Verdict

SETTINGS = ModelSettings(drift={"warmup_values": 64})


def series(**changed: Any) -> Series:
    return Series("m", "production", 0, SETTINGS.model_copy(update=changed))


def batch(events: Sequence[dict[str, Any]], begin: int = 0) -> EventBatch:
    pairs = [
        (Origin(begin + i, 0, begin + i), Prediction(**({"prediction_id": "p"} | event)))
        for i, event in enumerate(events)
    ]
    (found,) = EventBatch.of("m", pairs)
    return found


def features(values: np.ndarray, begin: int = 0, name: str = "x") -> EventBatch:
    return batch([{"features": {name: float(value)}} for value in values], begin)


def observe(of: Series, events: EventBatch) -> list[Verdict]:
    return of.observe(events, ClassNumbers().numbers(events.prediction))


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count)


def streams(of: Series) -> set[str]:
    return set(of.inputs.unusable())


# ---- values that no detector can use ----


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 1e308, -1e200])
def test_a_value_of_no_use_is_counted_and_changes_no_verdict(junk: float) -> None:
    """NaN and infinity cannot come by the wire, but from whoever builds batches by hand."""
    values = np.concatenate([noise(400), noise(200, 1) + 4])
    clean, dirty = series(), series()
    expected = observe(clean, features(values))
    mixed = np.insert(values, np.arange(0, 600, 3), junk)
    found = observe(dirty, features(mixed))
    where = np.flatnonzero(np.abs(mixed) < 1e100)
    assert [where[v.offset] for v in expected] == [v.offset for v in found]
    assert [(v.detector, v.current) for v in found] == [(v.detector, v.current) for v in expected]
    assert len(expected) > 0
    counted = 199 if np.isnan(junk) else 200  # before its first value a stream is not missed
    assert dirty.metrics()["unusable_values"] == counted
    assert clean.metrics()["unusable_values"] == 0


@pytest.mark.parametrize("junk", [None, "a text", 1e300])
def test_a_stream_that_stops_is_counted_value_by_value(junk: object) -> None:
    of = series()
    observe(of, features(noise(100)))
    assert observe(of, batch([{"features": {"x": junk}}] * 30, 100)) == []
    assert of.inputs.unusable()["feature:x"] == 30
    observe(of, batch([{"features": {}}] * 12, 130))
    assert of.inputs.unusable()["feature:x"] == 42


def test_a_stream_is_missed_from_its_first_value_on_and_not_before() -> None:
    events = [{}, {"x": None}, {"x": 1.0}, {"y": 2.0}, {"x": "text", "y": 1}, {"z": None}]
    rows = [{"features": row} for row in events]
    whole, single = series(), series()
    observe(whole, batch(rows))
    for at, row in enumerate(rows):
        observe(single, batch([row], at))
    for of in (whole, single):
        assert of.inputs.unusable() == {"feature:x": 3, "feature:y": 1, "category:x": 1}
    assert whole.inputs.snapshot() == single.inputs.snapshot()


def test_a_constant_says_nothing_until_it_changes() -> None:
    of = series()
    assert observe(of, features(np.full(500, 7.0))) == []
    found = observe(of, features(np.full(100, 7.5), 500))
    assert found[0].subject == "feature:x"
    assert found[0].offset < 600


def test_text_is_a_category_and_a_single_new_one_no_alarm() -> None:
    of = series()
    rows = [{"features": {"color": "red", "x": 1.0}}] * 200 + [
        {"features": {"color": "mauve", "x": 1.0}}
    ]
    assert observe(of, batch(rows)) == []
    assert streams(of) == {"feature:x", "category:color"}


def test_made_up_names_do_not_fill_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(series_module, "_MAX_STREAMS", 50)
    of = series()
    observe(of, features(noise(300)))
    with caplog.at_level(logging.WARNING):
        for begin in range(300, 600, 10):
            rows = [{"features": {"x": 0.5, f"made-up-{begin + i}": 1.0}} for i in range(10)]
            observe(of, batch(rows, begin))
    assert len(streams(of)) == 50
    assert caplog.text.count("no more features are watched") == 1
    found = observe(of, features(noise(100) + 5, 600))
    assert {verdict.subject for verdict in found} == {"feature:x"}


# ---- what is watched ----


@pytest.mark.parametrize(
    ("wanted", "watched"),
    [
        ("all", {"feature:a", "feature:b", "score"}), ("none", {"score"}),
        (["b", "unheard of"], {"feature:b", "score"}),
    ],
)  # fmt: skip
def test_the_features_that_are_named_are_watched(wanted: Any, watched: set[str]) -> None:
    of = series(features=wanted)
    observe(of, batch([{"features": {"a": 1, "b": True}, "scores": {"y": 0.5}}] * 3))
    assert streams(of) == watched


@pytest.mark.parametrize(
    ("first", "is_regression"),
    [
        ({"prediction": 1.5}, True), ({"prediction": 3}, False), ({"prediction": "3.5"}, False),
        ({"prediction": True}, False), ({"prediction": 1.0, "scores": {"a": 0.5}}, False),
        ({"prediction": 1.0, "logits": [0.1, 0.2]}, False), ({}, None),
    ],
)  # fmt: skip
def test_the_first_prediction_decides_what_kind_of_task_it_is(first, is_regression) -> None:
    of = series()
    observe(of, batch([first]))
    assert of.is_regression is is_regression
    observe(of, batch([{"prediction": 2.5}], 1))
    assert of.is_regression is (True if is_regression is None else is_regression)
    assert ("prediction" in streams(of)) == (of.is_regression is not None)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_task_that_is_said_is_not_guessed(task: str) -> None:
    of = series(task=task)
    observe(of, batch([{"prediction": 1 if task == "regression" else 1.5}]))
    assert of.is_regression is (task == "regression")


NAN = float("nan")


@pytest.mark.parametrize(
    ("names", "row", "expected"),
    [
        (("y",), [0.3], 0.3), (("1", "0"), [0.7, 0.3], 0.7), (("0", "1"), [0.3, 0.7], 0.7),
        (("no", "yes"), [0.9, 0.1], 0.1), (("a", "b", "c"), [0.2, 0.5, 0.3], 0.5),
        (("a", "b", "c"), [NAN, 0.5, NAN], 0.5), (("a", "b", "c"), [0.9, 0.1, NAN], 0.1),
        (("c", "a"), [NAN, NAN], NAN),
    ],
)  # fmt: skip
def test_the_score_of_a_row_is_one_number_by_a_rule(names, row, expected: float) -> None:
    for others in ([], [[0.1] * len(names), [NAN] * len(names)]):
        found = score(np.array([row, *others]), names)
        assert found[0] == pytest.approx(expected, nan_ok=True)


# ---- labels ----


def pairs(predicted: Sequence[float], label: Sequence[float], begin: int = 0) -> Pairs:
    place = np.arange(begin, begin + len(label))
    zeros = np.zeros(len(label), np.int64)
    return Pairs(
        place, place, zeros, zeros.astype(np.uint8), np.array(predicted, float),
        np.array(label, float), zeros, zeros, zeros, np.empty((len(label), 0)),
    )  # fmt: skip


def judge(of: Series, found: Pairs) -> list[Verdict]:
    return of.judge(found, np.full(len(found.label), NAN))


def test_errors_are_bits_for_classes_and_distances_for_numbers() -> None:
    classes, numbers = series(task="classification"), series(task="regression")
    for of in (classes, numbers):
        judge(of, pairs([1, 2, 3, NAN, -(2.0**52) - 5], [1, 5, 3.5, 1, 1]))
    assert classes.metrics()["accuracy"] == 0.25
    assert numbers.metrics()["mae"] == pytest.approx((0 + 3 + 0.5) / 3)
    for of in (classes, numbers):
        of.correct(Correction(pairs([2], [5], begin=1), 2.0, 0))
    assert classes.metrics()["accuracy"] == 0.5
    assert numbers.metrics()["mae"] == pytest.approx(0.5 / 3)


def test_recall_that_falls_while_accuracy_stays_is_found() -> None:
    columns = ScoreColumns()
    columns.of(batch([{"prediction": 1}]))
    of = Series("m", "production", 0, SETTINGS, columns=columns)
    rng = np.random.default_rng(0)
    found = []
    for begin in range(0, 12_000, 500):
        label = rng.random(500) < 0.5
        missed, raised = (0.2, 0.2) if begin < 6_000 else (0.38, 0.02)
        wrong = rng.random(500) < np.where(label, missed, raised)
        found += judge(of, pairs(label ^ wrong, label, begin))
    opened = [v for v in found if v.phase == "opened" and not v.advisory]
    told = {v.subject: changed(v, is_regression=False) for v in opened}
    assert "error" not in told
    assert told["false_negative_rate"].startswith("recall 0.8")
    assert "specificity 0." in told["false_positive_rate"]  # to the better, which is a change too
    assert min(v.offset for v in opened) > 6_000


def test_labels_that_turn_wrong_are_an_error_that_drifts() -> None:
    of = series(task="classification")
    rng = np.random.default_rng(0)
    assert judge(of, pairs(np.ones(600), rng.random(600) < 0.95)) == []
    found = judge(of, pairs(np.ones(200), rng.random(200) < 0.4, 600))
    assert {verdict.subject for verdict in found} == {"error"}


# ---- a detector that fails, and what is stored ----


def test_a_detector_is_set_aside_once_and_the_error_s_text_stays_in_the_log() -> None:
    of = series()
    of.inputs.update = lambda _: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    (verdict,) = observe(of, features(noise(5), 40))
    assert isinstance(verdict, Verdict)
    assert (verdict.subject, verdict.offset) == ("detector:drift", 44)
    assert verdict.evidence == "ZeroDivisionError; see the worker's log"
    assert observe(of, features(noise(5), 45)) == []
    assert of.broken == {"drift": "ZeroDivisionError"}


def test_a_part_is_stored_when_it_changed_and_only_then() -> None:
    of = series(task="classification")
    observe(of, features(noise(30)))
    everything = {
        "series", "inputs", "inputs_reference", "errors", "errors_reference", "performance", "incidents",
    }  # fmt: skip
    assert set(of.dirty()) == everything
    assert set(of.dirty()) == {"series"}
    judge(of, pairs([1.0], [1.0]))
    assert set(of.dirty()) == {"series", "errors", "errors_reference", "performance"}
    observe(of, features(noise(100), 30))
    assert set(of.dirty()) == {"series", "inputs", "inputs_reference"}
    observe(of, features(noise(100), 130))  # the reference is made: it is not written again
    assert set(of.dirty()) == {"series", "inputs"}


# ---- embeddings and logits ----


def vectors(count: int, seed: int = 0, begin: int = 0, **more: Any) -> EventBatch:
    rng = np.random.default_rng(seed)
    events = [
        {"embedding": rng.normal(size=4).tolist(), "logits": rng.normal(size=5).tolist()} | more
        for _ in range(count)
    ]
    return batch(events, begin)


def with_drift(**changed: Any) -> Series:
    return Series("m", "production", 0, ModelSettings(drift={"warmup_values": 64} | changed))


def test_vectors_are_streams_of_their_version() -> None:
    of = with_drift()
    observe(of, vectors(3_100, version="v7"))
    observe(of, vectors(100, 1, 3_100))
    assert of.metrics()["streams_exchangeable"] == (3 + 4) + (3 + 5)  # mmd is by itself
    assert list(of.embedding.state()["versions"]["kept"]) == ["v7/4", "/4"]
    assert list(of.logits.state()["versions"]["kept"]) == ["v7/5", "/5"]


@pytest.mark.parametrize(("off", "left"), [("embeddings", "logits"), ("logits", "embedding")])
def test_either_kind_of_vectors_can_be_switched_off(off: str, left: str) -> None:
    of = with_drift(**{off: False})
    observe(of, vectors(10))
    of_vectors = {name for name in of.dirty() if name.startswith(("embedding", "logits"))}
    assert {name.partition("/")[0].partition("_")[0] for name in of_vectors} == {left}
    assert "attack//5" in of.dirty()


def test_a_monitor_of_vectors_that_fails_is_set_aside_and_the_others_go_on() -> None:
    of = with_drift()
    of.embedding.update = lambda _: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    (verdict,) = observe(of, vectors(5, begin=40))
    assert (verdict.subject, verdict.offset) == ("detector:embedding", 44)
    assert observe(of, vectors(5, 1, 45)) == []
    assert of.broken == {"embedding": "ZeroDivisionError"}
    assert list(of.logits.state()["versions"]["kept"]) == ["/5"]


def test_the_budget_is_the_sum_of_its_shares() -> None:
    of = with_drift(budget_events=1e5)
    for begin in range(0, 5_000, 1_000):
        observe(of, vectors(1_000, begin, begin, features={"x": 1.0}))
    figures = of.metrics()
    assert figures["false_alarm_budget_events"] == pytest.approx(1e5)
    # Embeddings are watched once their map is learnt, and 80 of their blocks have come.
    expected = 5_000 * 0.5 + 4_000 * 0.08 + 4_000 * 0.02 + 5_000 * 0.1
    assert figures["false_alarms_allowed"] == pytest.approx(expected / 1e5)
    assert figures["drift_alarms"] == 0
    assert "unusable_vectors" not in figures


def test_vectors_of_no_use_are_counted_together() -> None:
    of = with_drift()
    observe(of, vectors(10))
    observe(of, batch([{"embedding": [1e300, 0, 0, 0], "logits": [0.0]}] * 3, 10))
    assert of.metrics()["unusable_vectors"] == 6


def test_goes_on_with_its_vectors_and_from_state_that_is_older_than_they_are() -> None:
    of = with_drift()
    observe(of, vectors(2_000, version="v1"))
    stored = {name: state for name, state in of.dirty().items() if state is not None}
    again = with_drift()
    assert again.restore(stored) == []
    assert again.metrics() == of.metrics()
    assert set(again.dirty()) == {"series", "attack/v1/5"}
    more = vectors(700, 1, 2_000, version="v1")
    assert observe(again, more) == observe(of, more)
    assert again.dirty() == of.dirty()
    meta, _ = unpack("series", 1, stored["series"])
    del meta["embedding"], meta["logits"]
    older = {name: s for name, s in stored.items() if not name.startswith(("embedding", "logits"))}
    older["series"] = pack("series", 1, meta, {})
    fresh = with_drift()
    assert fresh.restore(older) == []
    assert list(fresh.embedding.state()["versions"]["kept"]) == []
    observe(fresh, more)


def test_what_failed_in_another_version_of_tocsin_begins_anew() -> None:
    of = with_drift()
    observe(of, vectors(100))
    of.broken["logits"] = "ZeroDivisionError"
    stored = {name: state for name, state in of.dirty().items() if state is not None}
    meta, _ = unpack("series", 1, stored["series"])
    stored["series"] = pack("series", 1, meta | {"version": "0.0.1"}, {})
    again = with_drift()
    assert again.restore(stored) == ["logits: it failed in tocsin 0.0.1"]
    assert list(again.logits.state()["versions"]["kept"]) == []
    assert list(again.embedding.state()["versions"]["kept"]) == ["/4"]
    assert again.broken == {}
