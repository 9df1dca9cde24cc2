"""Names that a sender makes up: what an event with one costs, and that state does not depend on the cut."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from tocsin.consumers.class_numbers import ClassNumbers
from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.series import Series
from tocsin.consumers.watched import pieces
from tocsin.core.batch import EventBatch, Origin
from tocsin.core.events import Prediction
from tocsin.core.verdict import Verdict
from tocsin.detectors.stream_monitor import MISSING_FOLLOWED

Event = tuple[Origin, Prediction]


def events(seed: int, count: int) -> list[Event]:
    """Some real features, of which one changes; new names, names that come again, texts, values of no use."""
    rng = np.random.default_rng(seed)
    found: list[Event] = []
    for i in range(count):
        features: dict[str, float | str | None] = {
            f"x{k}": float(rng.normal() + (4 if k == 0 and i > 0.8 * count else 0))
            for k in range(6)
            if rng.random() < 0.97
        }
        if rng.random() < 0.7:
            features[f"made-up-{i}"] = 1.0
        if rng.random() < 0.3:
            features[f"again-{rng.integers(300)}"] = float(rng.normal())
        if rng.random() < 0.1:
            features[f"text-{rng.integers(3)}"] = str(rng.integers(4))
        if rng.random() < 0.01:
            features["x1"] = 1e300
        found.append((Origin(i, 0, i), Prediction(prediction_id="p", features=features)))
    return found


def observed(rows: list[Event], most: int) -> tuple[Series, list[Verdict]]:
    of, found = Series("m", "production", 0, ModelSettings(drift={"warmup_values": 64})), []
    classes = ClassNumbers()
    for begin in range(0, len(rows), most):
        for batch in EventBatch.of("m", rows[begin : begin + most]):
            found += of.observe(batch, classes.numbers(batch.prediction))
    return of, found


def test_state_does_not_depend_on_the_cut_however_many_names_there_are() -> None:
    rows = events(0, 1_500)
    whole, expected = observed(rows, 1_500)
    assert len(whole.inputs.unusable()) > 3 * MISSING_FOLLOWED
    assert any(v.subject == "feature:x0" for v in expected)
    for most in (1, 37, 400):
        parts, found = observed(rows, most)
        assert found == expected
        assert parts.inputs.snapshot() == whole.inputs.snapshot()
        assert parts.inputs.unusable() == whole.inputs.unusable()
        assert list(parts._watched) == list(whole._watched)


@pytest.mark.parametrize("before", [0, 5_000])
def test_a_name_that_nobody_has_heard_of_costs_no_more_the_more_there_are(before: int) -> None:
    """Each event brings a new one: it is shown with what has a value, and the first 256."""
    watched = {f"old-{k}": k for k in range(before)}
    count = 600
    values = np.full((count, count + 20), np.nan)
    values[:, :20] = 0.5
    values[np.arange(count), 20 + np.arange(count)] = 1.0
    names = (*(f"x{k}" for k in range(20)), *(f"made-up-{k}" for k in range(count)))
    missed: dict[int, list[str]] = {}
    cells = 0
    for row, piece in enumerate(pieces(names, values, watched, 10_000, missed)):
        assert piece.rows == slice(row, row + 1)
        assert piece.values.shape == (1, len(piece.names))
        assert len(piece.names) <= MISSING_FOLLOWED + 21
        assert f"made-up-{row}" in piece.names
        cells += piece.values.size
    assert cells <= count * (MISSING_FOLLOWED + 21)
    counted = sum(rows * len(streams) for rows, streams in missed.items())
    # Each row misses, of what has begun, all that it does not show.
    assert counted + cells == sum(before + 20 + row + 1 for row in range(count))


def test_no_more_are_watched_than_may_be() -> None:
    values = np.eye(8) + np.where(np.eye(8) == 1, 0, np.nan)
    watched: dict[str, int] = {}
    found = list(pieces(tuple("hgfedcba"), values, watched, 5, {}))
    assert list(watched) == list("hgfed"), "the first to come"
    assert found[-1].names == tuple("hgfed")
    assert len(found[-1].values) == 4


@pytest.mark.parametrize("most", [7, 10, 12])
def test_that_no_more_are_watched_is_said_once(most: int, caplog: pytest.LogCaptureFixture) -> None:
    """As soon as it is so, also where those of a batch are exactly as many as may still come."""
    watched: dict[str, int] = {}
    for batch, count in enumerate((6, 4, 3, 3)):
        names = tuple(f"{batch}-{k}" for k in range(count))
        list(pieces(names, np.ones((2, count)), watched, most, {}))
        assert caplog.text.count("no more features are watched") == (len(watched) == most)
    assert len(watched) == most
    assert caplog.records[0].levelno == logging.WARNING
