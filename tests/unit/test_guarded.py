"""The guarded e-detector: nothing is staked before a stream's regime is known, and then as it allows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import lfilter

from tocsin.core.errors import StateError
from tocsin.core.verdict import Verdict
from tocsin.detectors.autocorrelation import WINDOW
from tocsin.detectors.base import Observations
from tocsin.detectors.e_detector import EDetector
from tocsin.detectors.guarded import GuardedEDetector
from tocsin.detectors.reference import Reference

NAMES = ("noise", "echo", "load")
FIRST = 2 * WINDOW  # rows after which the first regimes are known


def rows(seed: int, count: int, shift: float = 0.0, begin: int = 0) -> Observations:
    """Noise; AR(1) of 0.5; a season of 24 rows; all of them shifted from row `begin` on."""
    rng = np.random.default_rng(seed)
    echo = lfilter([np.sqrt(0.75)], [1, -0.5], rng.normal(size=count + 200))[200:]
    load = 1.5 * np.sin(2 * np.pi * np.arange(count) / 24) + rng.normal(size=count)
    values = np.column_stack([rng.normal(size=count), echo, load])
    values[begin:] += shift
    return Observations.of(values, NAMES)


def opened(verdicts: list[Verdict]) -> list[tuple[str, int]]:
    return [(v.subject, v.offset) for v in verdicts if v.phase == "opened"]


def test_each_stream_is_bet_on_as_its_regime_allows() -> None:
    detector = GuardedEDetector()
    detector.update(rows(0, 5000))
    assert detector.kinds() == {
        "noise": "exchangeable", "echo": "autocorrelated", "load": "ordered",
    }  # fmt: skip
    lags = {name: detector.guard.regime(name).lag for name in NAMES}
    assert lags["noise"] == 1
    assert lags["echo"] in (4, 8, 16)
    later = replace(rows(1, 3000, shift=2.0), offsets=np.arange(5000, 8000))
    found = opened(detector.update(later))
    delays = {name: offset - 5000 for name, offset in reversed(found)}
    assert set(delays) == {"noise", "echo"}, "what is ordered is for another test"
    assert delays["noise"] < 40
    assert delays["echo"] < 20 * lags["echo"]


def test_nothing_is_claimed_before_the_regime_is_known() -> None:
    batch = rows(2, FIRST - 1, shift=3.0, begin=1000)
    detector = GuardedEDetector()
    assert detector.update(batch) == []
    assert detector.kind("noise") == "unknown"
    assert detector.kind("never seen") == "unknown"
    assert opened(EDetector().update(batch)), "too small a change for this test"


def test_regimes_take_effect_at_the_same_rows_however_they_are_cut() -> None:
    batch = rows(3, 6 * WINDOW + 100, shift=1.0, begin=5 * WINDOW)
    batch.values[::7, 0] = np.nan
    batch.values[300:500] = np.nan  # rows without any value do not count
    whole = GuardedEDetector()
    expected = whole.update(batch)
    for cut in (1000, WINDOW, 4097):
        detector = GuardedEDetector()
        found = []
        for begin in range(0, len(batch), cut):
            found += detector.update(batch.take(slice(begin, begin + cut)))
        assert found == expected
        assert detector.snapshot() == whole.snapshot()
    assert expected


def test_a_regime_comes_after_a_window_of_rows_with_values() -> None:
    batch = rows(4, FIRST + 500)
    batch.values[100:600] = np.nan
    detector = GuardedEDetector()
    detector.update(batch.take(slice(0, FIRST + 499)))
    assert detector.kind("noise") == "unknown"
    detector.update(batch.take(slice(FIRST + 499, None)))
    assert detector.kind("noise") == "exchangeable"


def test_dependence_does_not_cost_the_budget() -> None:
    rng = np.random.default_rng(5)
    values = lfilter([np.sqrt(0.75)], [1, -0.5], rng.normal(size=(40_000, 8)), axis=0)
    batch = Observations.of(values)
    guarded = GuardedEDetector(EDetector(2000, waits=True))
    assert len(opened(guarded.update(batch))) <= 36  # 20 and three standard deviations
    claims = [v for v in EDetector(2000).update(batch) if v.phase != "settled"]
    assert len(claims) > 100


def test_a_stream_that_begins_to_depend_is_taken_off() -> None:
    batch = rows(6, 20 * WINDOW)
    detector, at = GuardedEDetector(), 6 * WINDOW
    season = 2 * np.sin(2 * np.pi * np.arange(len(batch) - at) / 24)
    batch.values[at:, 0] += season
    detector.update(batch.take(slice(0, at)))
    assert detector.kind("noise") == "exchangeable"
    detector.update(batch.take(slice(at, None)))
    assert detector.kind("noise") == "ordered"
    shifted = replace(rows(7, 2000, shift=5.0), offsets=np.arange(2000) + len(batch))
    assert "noise" not in dict(opened(detector.update(shifted)))


def test_columns_may_come_in_any_order() -> None:
    batch = rows(8, 5000, shift=1.0, begin=4000)
    turned = replace(
        batch, names=NAMES[::-1], values=np.ascontiguousarray(batch.values[:, ::-1])
    )  # fmt: skip
    assert sorted(opened(GuardedEDetector().update(batch))) == sorted(
        opened(GuardedEDetector().update(turned))
    )


def test_it_goes_on_from_a_snapshot_in_the_midst_of_a_window() -> None:
    batch = rows(9, 6000, shift=1.0, begin=4500)
    whole = GuardedEDetector()
    expected = whole.update(batch)
    for at in (WINDOW + 17, FIRST, 4520):
        first, second = GuardedEDetector(), GuardedEDetector()
        found = first.update(batch.take(slice(0, at)))
        second.restore(first.snapshot())
        assert second.kinds() == first.kinds()
        found += second.update(batch.take(slice(at, None)))
        assert found == expected
        assert second.snapshot() == whole.snapshot()


def test_a_snapshot_of_something_else_changes_nothing() -> None:
    detector = GuardedEDetector()
    detector.update(rows(10, 3000))
    before = detector.snapshot()
    with pytest.raises(StateError):
        detector.restore(detector.detector.snapshot())
    assert detector.snapshot() == before


def test_a_stream_that_cannot_be_compared_with_training_is_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reference = Reference()
    training = np.random.default_rng(8).normal(size=5000)
    reference.train({"load": training, "noise": training}, 5000)
    detector = GuardedEDetector(EDetector(waits=True, reference=reference))
    detector.update(rows(0, 8000))
    said = [(r.getMessage(), r.__dict__["stream"]) for r in caplog.records]
    assert said == [("ordered in time, so not compared with training", "load")]
