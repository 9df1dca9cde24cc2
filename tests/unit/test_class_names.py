"""Alerts about categories name them, whenever the worker was started."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.consumers.class_names import ClassNames, feature_column
from tocsin.consumers.class_numbers import ClassNumbers
from tocsin.consumers.model_monitor import ModelMonitor
from tocsin.consumers.model_settings import ModelSettings
from tocsin.core.alert import Alert
from tocsin.core.batch import EventBatch, LabelBatch, Origin
from tocsin.core.columns import Strings
from tocsin.core.events import Label, Prediction
from tocsin.core.verdict import Summary, Verdict

USUAL = {"NL": 0.5, "DE": 0.3, "FR": 0.2}
LATER = {"NL": 0.2, "DE": 0.6, "FR": 0.2}
NEWCOMER = {"NL": 0.4, "DE": 0.3, "FR": 0.2, "Österreich": 0.1}


def remember(names: ClassNames, *texts: str, stream: str = "category:c") -> list[str]:
    column = Strings.of(texts)
    numbers = ClassNumbers().of_text(column)
    names.add(feature_column("production", stream), numbers, column)
    return [f"{number:.17g}" for number in numbers.tolist()]


def named(names: ClassNames, numbers: list[str], stream: str = "category:c") -> list[str]:
    summary = Summary(count=1, categories=numbers)
    verdict = Verdict(
        detector="e_detector", subject=stream, offset=0, row=0, statistic=1, threshold=1,
        reference=summary, current=summary, newcomers=numbers,
    )  # fmt: skip
    told = names.tell("production", verdict)
    assert told.reference == told.current
    assert told.reference is not None
    assert told.reference.categories == told.newcomers
    return told.newcomers


def test_numbers_have_the_names_that_they_came_with_and_integers_their_own() -> None:
    names = ClassNames()
    numbers = remember(names, "a", "7", "b", "a")
    assert named(names, numbers) == ["a", "7", "b", "a"]
    assert named(names, numbers, "category:other") == ["?", "7", "?", "?"]


def test_the_first_of_very_many_have_names_however_they_are_cut() -> None:
    texts = [f"text {k}" for k in range(1000)]
    whole, parts = ClassNames(), ClassNames()
    numbers = remember(whole, *texts)
    for begin in range(0, 1000, 70):
        remember(parts, *texts[begin : begin + 70])
    assert whole.snapshot() == parts.snapshot()
    assert named(whole, numbers)[:257] == [*texts[:256], "?"]
    for column in range(100):
        remember(whole, "x", stream=f"category:{column}")
    known = [named(whole, remember(ClassNames(), "x"), f"category:{k}") for k in range(100)]
    assert known.count(["x"]) == 63  # and the one of before


def test_long_texts_are_cut() -> None:
    names = ClassNames()
    (name,) = named(names, remember(names, "é" * 5000))
    assert name == "é" * 59 + "…"


def run(shares: dict[str, float], restart: int | None, step: int = 100) -> list[Alert]:
    """Alerts of a model whose country, class and label have other shares from event 3,000 on."""
    settings = ModelSettings(drift={"warmup_values": 40}, leakage={"enabled": False})
    monitor = ModelMonitor("m", 0, settings)
    stored: dict[str, bytes] = {}
    alerts = []
    for begin in range(0, 5000, step):
        predictions, labels = [], []
        for offset in range(begin, begin + step):
            now = shares if offset >= 3000 else USUAL
            at = Origin(offset, 0, offset * 10**9)
            country = np.random.default_rng(offset).choice(list(now), p=list(now.values()))
            event = Prediction(
                prediction_id=f"p{offset}", features={"country": str(country)},
                prediction=str(country), model="m",
            )  # fmt: skip
            predictions.append((at, event))
            labels.append((at, Label(prediction_id=f"p{offset}", label=str(country), model="m")))
        alerts += monitor.update(
            list(EventBatch.of("m", predictions)), [LabelBatch.of("m", labels)]
        )
        stored |= {name: state for name, state in monitor.dirty().items() if state is not None}
        if restart is not None and begin + step == restart:
            monitor = ModelMonitor("m", 0, settings)
            assert monitor.restore(stored) == []
    return alerts


def test_an_alert_says_which_categories_have_changed_and_how_much() -> None:
    alert = run(LATER, None)[0]
    assert alert.subject in ("category:country", "prediction", "label")
    assert alert.reference is not None
    assert sorted(alert.reference.categories) == ["DE", "FR", "NL"]
    assert len(alert.reference.counts) == 4
    assert alert.reference.categories == (alert.current and alert.current.categories)
    assert alert.change == "shares"
    assert abs(alert.size or 0) == pytest.approx(0.3, abs=0.1)
    assert abs(alert.size_sigmas or 0) == pytest.approx(0.3 / 0.5, abs=0.25)
    name, _, said = alert.summary.partition(": ")
    assert name in ("country", "prediction", "label")
    first, second, *_ = said.split(", ")
    assert {first[:2], second[:2]} == {"DE", "NL"}
    assert "DE 3" in said or "DE 2" in said


@pytest.mark.parametrize("restart", [1000, 3000])
def test_names_outlive_a_restart(restart: int) -> None:
    assert run(LATER, restart) == run(LATER, None, step=50)


def test_a_new_category_is_called_by_its_name() -> None:
    alert = run(NEWCOMER, None)[0]
    assert alert.change == "new category"
    assert alert.newcomers == ["Österreich"]
    assert "new category Österreich in " in alert.summary
