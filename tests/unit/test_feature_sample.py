"""Features that wait for labels: the same rows however the log is cut, and never more than may wait."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tocsin.consumers.feature_sample import FeatureSample, Part
from tocsin.core.errors import StateError

NONE = np.empty(0, np.int64)
WINDOW = 10**12


class Log:
    """Rows 0, 1, 2, ..., one a position, and the positions at which labels of some of them come."""

    def __init__(self, seed: int, count: int, lag: int, share: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self.values = rng.normal(size=(count, 3))
        self.rows = np.arange(count)
        at = self.rows + rng.integers(0, lag, count)
        labelled = np.flatnonzero(rng.random(count) < share)
        order = labelled[np.argsort(at[labelled], kind="stable")]
        self.taken, self.taken_at = order, at[order]

    def feed(self, sample: FeatureSample, begin: int, end: int) -> tuple[list[int], list[float]]:
        """Return which rows came out, and a number of each."""
        rows = self.rows[begin:end]
        part = Part(rows, rows, rows, self.values[begin:end], np.arange(3), np.array([0, 2, 1]))
        of = (self.taken_at >= begin) & (self.taken_at < end)
        found, kept = sample.update([part], self.taken[of], self.taken_at[of])
        return self.taken[of][kept].tolist(), found[1].tolist()


def sample(rows: int = 1_000, max_pending: int = 10**6) -> FeatureSample:
    return FeatureSample(rows, max_pending, WINDOW, "m")


def run(
    log: Log, cuts: Sequence[int], *, restarts: bool = False
) -> tuple[list[int], FeatureSample]:
    of, stored, out = sample(), dict[str, bytes](), list[int]()
    count = len(log.rows)
    for begin, end in zip([0, *cuts], [*cuts, count], strict=True):
        rows, third = log.feed(of, begin, end)
        np.testing.assert_array_equal(third, log.values[rows, 2].astype(np.float32))
        out += rows
        if restarts:
            for name, state in of.dirty().items():
                if state is None:
                    stored.pop(name, None)
                else:
                    stored[name] = state
            of = sample()
            of.restore(stored)
    return out, of


def test_rows_come_back_once_with_their_features_while_there_is_room() -> None:
    log = Log(0, 5_000, 300, share=0.9)
    out, of = run(log, range(100, 5_000, 100))
    assert out == log.taken[log.taken_at < 5_000].tolist()
    assert of.share == 1.0
    assert of.waiting == 5_000 - len(out)


@pytest.mark.parametrize("lag", [50, 3_000, 20_000])
@pytest.mark.parametrize("restarts", [False, True])
def test_cuts_and_restarts_change_nothing(lag: int, restarts: bool) -> None:
    log = Log(1, 20_000, lag, share=0.7)
    rng = np.random.default_rng(2)
    expected, whole = run(log, [])
    cuts = np.sort(rng.choice(np.arange(1, 20_000), 40, replace=False)).tolist()
    out, of = run(log, cuts, restarts=restarts)
    assert out == expected
    for ours, theirs in zip(of.kept(), whole.kept(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert of.share == whole.share


def test_no_more_wait_than_may_and_those_are_a_fair_sample() -> None:
    log, of = Log(3, 60_000, 10**9, share=0.0), sample()
    most = 0
    for begin in range(0, 60_000, 500):
        log.feed(of, begin, begin + 500)
        most = max(most, of.waiting)
    assert 500 < of.waiting <= most <= 1_000
    assert of.share < 1 / 60
    rows, _, values = of.kept()
    assert abs(np.mean(rows) - 30_000) < 4 * 60_000 / np.sqrt(12 * len(rows))
    assert values.nbytes + sum(a.nbytes for a in (of._values, of._pending)) < 200_000


def room(of: FeatureSample) -> int:
    return sum(a.nbytes for a in (of._values, of._pending, of._time, of._waits))


def test_memory_of_a_backlog_is_given_back() -> None:
    """By the commit after it; what comes later is as it would have been."""
    log = Log(7, 60_000, 200)
    of, plain = FeatureSample(50_000, 10**6, WINDOW, "m"), FeatureSample(50_000, 10**6, WINDOW, "m")
    rows = np.arange(40_000)
    part = Part(rows, rows, rows, log.values[:40_000], np.arange(3), np.array([0, 2, 1]))
    for one in (of, plain):
        one.update([part], NONE, NONE)
        one.update([], rows[:39_000], np.full(39_000, 40_000))
    assert room(of) > 40_000 * 29
    of.dirty()
    assert room(of) > 40_000 * 29  # the next update may be as large
    for begin in range(40_000, 60_000, 500):
        assert log.feed(of, begin, begin + 500) == log.feed(plain, begin, begin + 500)
        of.dirty()
    assert room(of) < 12_000 * 29
    for ours, theirs in zip(of.kept(), plain.kept(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_too_old_for_a_label_goes_first_and_more_are_kept_when_labels_come() -> None:
    of = sample(max_pending=900)
    log = Log(4, 4_000, 10**9, share=0.0)
    for begin in range(0, 4_000, 100):
        log.feed(of, begin, begin + 100)
    rows, *_ = of.kept()
    assert rows.min() > 4_000 - 2_000
    assert 0.25 <= of.share < 1
    of.update([], rows, np.full(len(rows), 4_000))
    assert of.waiting == 0
    assert of.share == 1.0


def test_rows_whose_labels_come_before_a_commit_are_never_stored() -> None:
    log, of = Log(5, 1_000, 1), sample()
    log.feed(of, 0, 1_000)
    assert set(of.dirty()) == {"leakage_sample"}
    assert of.dirty() == {}


def test_stored_rows_that_have_gone_are_cleared_away() -> None:
    of, stored = sample(), dict[str, bytes | None]()
    log = Log(6, 40_000, 400)
    for begin in range(0, 40_000, 200):
        log.feed(of, begin, begin + 200)
        stored |= of.dirty()
    kept = {name: state for name, state in stored.items() if state is not None}
    assert sum(map(len, kept.values())) < 100_000
    again = sample()
    again.restore(kept)
    assert again.waiting == of.waiting


@pytest.mark.parametrize("name", ["leakage_sample", "leakage_waiting:0"])
def test_damaged_state_is_refused(name: str) -> None:
    of = sample()
    Log(7, 500, 10**6).feed(of, 0, 500)
    stored = {n: s for n, s in of.dirty().items() if s is not None}
    with pytest.raises(StateError):
        sample().restore(stored | {name: stored[name][:-2]})
    with pytest.raises(KeyError):
        sample().restore({n: s for n, s in stored.items() if n != name})
