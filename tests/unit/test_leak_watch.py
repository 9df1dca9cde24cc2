"""Features that tell the label too well, in labels as they come: found soon, none where there is none, the same in any pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tocsin.core.errors import StateError
from tocsin.core.snapshot import pack, unpack
from tocsin.core.verdict import Verdict
from tocsin.detectors.leak_watch import MOST_CLASSES, LeakWatch
from tocsin.detectors.leaky_features import area, information, measured

NAMES = [f"feature:x{k}" for k in range(40)]


def drawn(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 40))
    weights = np.where(np.arange(40) % 4 == 0, 0.5, 0)
    return x, (rng.random(n) < 1 / (1 + np.exp(-x @ weights))).astype(np.float64)


def feed(
    watch: LeakWatch,
    x: np.ndarray,
    y: np.ndarray,
    begin: int,
    end: int,
    cuts: Sequence[int] = (),
    **fields: Any,
) -> list[Verdict]:
    found = []
    for a, b in zip([begin, *cuts], [*cuts, end], strict=True):
        place = np.arange(a, b)
        values = np.ascontiguousarray(x[a:b].T, np.float32)
        found += watch.add(
            values, y[a:b], place, place * 0, place // 5_000, **({"is_regression": False} | fields)
        )
    return found


def told(found: Sequence[Verdict]) -> list[tuple[str, str, str]]:
    return [(v.subject, v.detector, v.phase) for v in found]


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_all_features_at_once_are_as_one_after_another(classes: int) -> None:
    rng = np.random.default_rng(classes)
    for _ in range(50):
        counts = rng.poisson(rng.gamma(0.3, 10, size=(6, 34, classes)))
        counts[0] = 0
        counts[0, 3, 0], counts[0, 7, 1] = 9_000, 40
        found = measured(counts.astype(np.int64))
        for j in range(6):
            pair = area(counts[j]) if classes == 2 else None
            np.testing.assert_allclose(found[j, :2], pair or (np.nan, np.nan), rtol=1e-9)
            known = information(counts[j]) or (np.nan, np.nan)
            np.testing.assert_allclose(found[j, 2:], known, rtol=1e-9, atol=1e-12)


LEAKS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "the label": lambda y, _: y,
    "noise": lambda y, rng: y + 0.1 * rng.normal(size=len(y)),
    "1 in 20 wrong": lambda y, rng: np.abs(y - (rng.random(len(y)) < 0.05)),
    "two humps": lambda y, rng: np.where(y == 1, rng.normal(size=len(y)), 5.0),
}


@pytest.mark.parametrize("kind", LEAKS)
@pytest.mark.parametrize("at", [4_010, 7_777])
def test_one_of_forty_is_found_within_2_000_labels_and_settles_when_it_is_gone(
    kind: str, at: int
) -> None:
    x, y = drawn(at, 14_000)
    x[at : at + 2_000, 7] = LEAKS[kind](y[at : at + 2_000], np.random.default_rng(1))
    watch = LeakWatch()
    watch.see(NAMES)
    found = feed(watch, x, y, 0, 14_000)
    assert {v.subject for v in found} == {"leak:x7"}
    assert found[0].phase == "opened"
    assert at < found[0].offset < at + 2_000
    assert found[-1].phase == "settled"
    assert [v.phase for v in found].count("opened") == [v.phase for v in found].count("settled")
    if kind == "the label":
        assert "equal_to_label" in {v.detector for v in found}


def test_a_leak_that_is_there_from_the_start_is_near_the_label_or_equal_to_it() -> None:
    x, y = drawn(3, 4_000)
    x[:, 7], x[:, 9] = y, y + 0.1 * np.random.default_rng(0).normal(size=len(y))
    watch = LeakWatch()
    watch.see(NAMES)
    found = feed(watch, x, y, 0, 4_000)
    assert told(found) == [
        ("leak:x7", "equal_to_label", "opened"), ("leak:x9", "leaky_features", "opened"),
    ]  # fmt: skip
    assert [v.offset for v in found] == [249, 999]
    assert "near the label: area under the curve 0.999" in found[1].evidence
    best = list(watch.told(0))
    assert set(best[:2]) == {"feature:x7", "feature:x9"}
    assert len(best) == 5


def test_without_a_leak_nothing_is_said() -> None:
    for seed in range(4):
        x, y = drawn(seed, 30_000)
        watch = LeakWatch()
        watch.see(NAMES)
        assert feed(watch, x, y, 0, 30_000) == []


def test_agreement_by_chance_is_not_being_equal() -> None:
    rng = np.random.default_rng(4)
    y = (rng.random(20_000) < 0.003).astype(np.float64)
    x = (rng.random((20_000, 40)) < 0.003).astype(np.float64)
    watch = LeakWatch()
    watch.see(NAMES)
    assert feed(watch, x, y, 0, 20_000) == []


def test_a_number_that_is_the_label_of_a_regression_is_found_and_so_is_one_that_tells_it() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(4_000, 40)), np.round(rng.gamma(2, 30, 4_000), 2)
    x[:, 3], x[:, 4] = y, np.log(y + 1) + 0.01 * rng.normal(size=len(y))
    watch = LeakWatch()
    watch.see(NAMES)
    found = feed(watch, x, y, 0, 4_000, is_regression=True)
    assert told(found) == [
        ("leak:x3", "equal_to_label", "opened"), ("leak:x4", "leaky_features", "opened"),
    ]  # fmt: skip


@pytest.mark.parametrize("at", [4_010, 5_499, 7_777, 7_860])
@pytest.mark.parametrize("scale", [(1e4, 3e3), (-50.0, 1.0)])
def test_a_leak_on_another_scale_than_before_is_found_as_soon(
    at: int, scale: tuple[float, float]
) -> None:
    x, y = drawn(at, at + 2_000)
    rng = np.random.default_rng(1)
    x[at:, 7] = scale[0] + scale[1] * (y[at:] + 0.1 * rng.normal(size=2_000))
    x[at:, 9] = scale[0] + scale[1] * rng.normal(size=2_000)  # one that only moves
    watch, cut = LeakWatch(), LeakWatch()
    for one in (watch, cut):
        one.see(NAMES)
    found = feed(watch, x, y, 0, at + 2_000)
    assert told(found) == [("leak:x7", "leaky_features", "opened")]
    assert "more than in the reference" in found[0].evidence
    assert at < found[0].offset < at + 2_000
    for begin in range(0, at + 2_000, 97):
        feed(cut, x, y, begin, min(begin + 97, at + 2_000))
        cut.flush()
        block, windows = cut.snapshot(), cut.snapshot_windows()
        cut = LeakWatch()
        cut.restore(block, windows)
    watch.flush()
    assert cut.snapshot() == watch.snapshot()
    assert cut.snapshot_windows() == watch.snapshot_windows()


def test_labels_beyond_single_precision_are_counted() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(3_000, 40)), rng.normal(size=3_000)
    y[::7], y[1::7] = 1.7e308, -1.7e308
    watch = LeakWatch()
    watch.see(NAMES)
    assert feed(watch, x, y, 0, 3_000, is_regression=True) == []
    assert watch.middle == np.sort(y[:1_000])[499]


def motley(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of more and more classes, some missing; features that begin late, are constant at first, or rare."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2 + np.arange(n) // 400).astype(np.float64)
    y[rng.random(n) < 0.05] = np.nan
    x = rng.normal(size=(n, 40))
    x[:1_700, 38] = np.nan
    x[:3_600, 39] = np.nan
    x[:2_300, 1] = 4.0
    x[rng.random(n) < 0.98, 2] = np.nan
    x[:, 3] = np.inf
    x[:, 4] = y
    x[:, 5] = np.nan
    x[:900, 6] = np.nan
    return x, y


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("restarts", [False, True])
def test_pieces_and_restarts_change_nothing(seed: int, restarts: bool) -> None:
    x, y = motley(seed, 9_000)
    rng = np.random.default_rng([seed, 1])
    whole = LeakWatch()
    whole.see(NAMES)
    expected = feed(whole, x, y, 0, 9_000)
    assert expected
    watch, found, seen = LeakWatch(), [], 0
    cuts = [0, *np.sort(rng.choice(np.arange(1, 9_000), 60, replace=False)).tolist(), 9_000]
    for begin, end in pairwise(cuts):
        features = 38 + (end > 1_700) + (end > 3_600)  # they are known when they have come
        watch.see(NAMES[seen:features])
        seen = features
        found += feed(watch, x[:, :features], y, begin, end)
        if restarts:
            watch.flush()
            block, windows = watch.snapshot(), watch.snapshot_windows()
            watch = LeakWatch()
            watch.restore(block, windows)
    for one in (watch, whole):
        one.flush()
    assert len(whole.classes) == MOST_CLASSES
    assert found == expected
    assert watch.snapshot() == whole.snapshot()
    assert watch.snapshot_windows() == whole.snapshot_windows()


def test_the_state_is_the_same_in_any_pieces() -> None:
    x, y = motley(7, 5_300)
    states = []
    for cuts in ([], list(range(37, 5_300, 37)), list(range(501, 5_300, 501))):
        watch = LeakWatch()
        watch.see(NAMES)
        feed(watch, x, y, 0, 5_300, cuts)
        watch.flush()
        states.append((watch.snapshot(), watch.snapshot_windows()))
    assert states[0] == states[1] == states[2]


def test_damaged_state_is_refused() -> None:
    x, y = drawn(8, 3_100)
    watch = LeakWatch()
    watch.see(NAMES)
    feed(watch, x, y, 0, 1_900)
    earlier = watch.snapshot_windows()
    feed(watch, x, y, 1_900, 3_100)
    watch.flush()
    block, windows = watch.snapshot(), watch.snapshot_windows()
    LeakWatch().restore(block, windows)
    with pytest.raises(StateError, match="3100 labels were counted, but 1 blocks"):
        LeakWatch().restore(block, earlier)
    for state, kind in ((block, "leakage_labels"), (windows, "leakage_windows")):
        meta, arrays = unpack(kind, 1, state)
        for name, array in arrays.items():
            wrong = pack(kind, 1, meta, arrays | {name: array[..., None]})
            with pytest.raises((StateError, ValueError)):
                LeakWatch().restore(*((wrong, windows) if state is block else (block, wrong)))
