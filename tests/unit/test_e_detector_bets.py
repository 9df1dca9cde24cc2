"""How an e-detector bets on streams: in copies, not at all, later, from known zeros."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tocsin.core.verdict import Verdict
from tocsin.detectors.base import Observations
from tocsin.detectors.e_detector import EDetector

CHANGE = 3000


def observed(values: np.ndarray, *names: str, run: int = 0, category: bool = False) -> Observations:
    """Rows whose ties are broken anew for each run."""
    batch = Observations.of(np.asarray(values, np.float64), names or None)
    return replace(
        batch,
        rows=np.full(len(batch), run),
        categories=frozenset(batch.names) if category else frozenset(),
    )


def opened(verdicts: list[Verdict]) -> list[Verdict]:
    return [v for v in verdicts if v.phase == "opened"]


def normal(seed: int, *shifts_and_lengths: tuple[float, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(by, 1, n) for by, n in shifts_and_lengths])


def autoregressive(seed: int, rho: float, rows: int, streams: int) -> np.ndarray:
    rng, values = np.random.default_rng(seed), np.empty((rows, streams))
    last = rng.normal(size=streams)
    for row in range(rows):
        last = rho * last + np.sqrt(1 - rho**2) * rng.normal(size=streams)
        values[row] = last
    return values


def test_copies_for_dependent_values_keep_the_budget() -> None:
    values = autoregressive(25, 0.5, 40_000, 5)
    claims = []
    for lanes in (1, 8):
        detector = EDetector(1000)
        detector.update(observed(values[:1000]))
        for name in detector.streams():
            detector.bet_on(name, lanes)
        found = detector.update(observed(values[1000:]))
        claims.append(sum(v.phase != "settled" for v in found))
    most = 55  # of a Poisson law with mean 40, in 99 % of runs
    assert len(opened(found)) <= most
    assert claims[1] <= most < claims[0]


def test_copies_find_a_change_later_but_they_find_it() -> None:
    values = normal(26, (0, CHANGE), (1, 2000))
    detector = EDetector()
    detector.update(observed(values[:1000]))
    detector.bet_on("stream:0", 8)
    rest = replace(observed(values[1000:]), offsets=np.arange(1000, len(values)))
    first = opened(detector.update(rest))[0]
    assert CHANGE + 100 < first.offset < CHANGE + 8 * 100


def test_what_was_won_is_dropped_when_the_copies_change() -> None:
    values = normal(27, (0, CHANGE), (1, 1000))
    at = opened(EDetector().update(observed(values)))[0].offset
    detector = EDetector()
    detector.update(observed(values[:at]))
    detector.bet_on("stream:0", 2)
    detector.bet_on("stream:0", 1)
    rest = replace(observed(values[at:]), offsets=np.arange(at, len(values)))
    later = opened(detector.update(rest))[0].offset
    assert later > at + 10


def test_the_same_number_of_copies_changes_nothing() -> None:
    values = normal(28, (0, CHANGE), (1, 300))
    plain, asked = EDetector(), EDetector()
    for at in range(0, len(values), 100):
        plain.update(observed(values[at : at + 100]))
        asked.update(observed(values[at : at + 100]))
        asked.bet_on("stream:0", 1)
    assert plain.snapshot() == asked.snapshot()


def test_a_stream_that_is_not_bet_on_is_never_claimed_to_change() -> None:
    values = np.random.default_rng(29).normal(size=(6000, 2))
    values[CHANGE:] += 3
    detector = EDetector()
    detector.update(observed(values[:1000]))
    detector.bet_on("stream:1", 0)
    found = detector.update(observed(values[1000:]))
    assert {v.subject for v in found} == {"stream:0"}
    detector.bet_on("stream:1", 1)
    back = np.random.default_rng(30).normal(size=(1000, 2))
    assert {v.subject for v in opened(detector.update(observed(back)))} == {"stream:0", "stream:1"}


def test_bets_that_wait_are_made_when_they_are_asked_for() -> None:
    values = normal(31, (0, CHANGE), (2, CHANGE), (-2, 500))
    detector = EDetector(waits=True)
    assert detector.update(observed(values[: 2 * CHANGE])) == []
    detector.bet_on("stream:0", 1)
    assert opened(detector.update(observed(values[2 * CHANGE :])))


def test_copies_of_one_stream_leave_the_others_theirs() -> None:
    """Evidence lies in one array: it moves when a stream before it has more copies."""
    values = np.random.default_rng(32).normal(size=(CHANGE + 300, 3))
    values[CHANGE:, 2] += 1
    plain, asked = EDetector(), EDetector()
    half = CHANGE + 15  # in the midst of the evidence
    plain.update(observed(values[:half]))
    asked.update(observed(values[:half]))
    asked.bet_on("stream:0", 16)
    asked.bet_on("stream:1", 4)
    rest = replace(observed(values[half:]), offsets=np.arange(half, len(values)))
    expected, found = plain.update(rest), asked.update(rest)
    assert opened(expected)
    assert found == expected


def test_a_stream_of_zeros_begins_with_what_is_known() -> None:
    """Nothing was missing in 5,000 values: twenty ones in a hundred are a change."""
    rng, detector = np.random.default_rng(33), EDetector(reserved=0.1)
    detector.begin_bits("missing:a", 5000)
    values = (rng.random(300) < 0.2).astype(float)
    values[0] = 1
    batch = observed(values, "missing:a")
    first = opened(detector.judge(batch, batch.values))[0]
    assert first.offset < 120
    assert first.change == "missing"
