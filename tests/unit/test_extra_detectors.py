"""Detectors that a user adds: they join or open by `only_budget`, and none that fails takes the rest with it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tocsin.core.columns import Floats
from tocsin.core.verdict import Verdict
from tocsin.detectors.base import Observations
from tocsin.detectors.extra_detectors import ExtraDetectors
from tocsin.detectors.registry import make_detector
from tocsin.detectors.stream_monitor import StreamMonitor

NAMES = ("kswin:alpha=1e-3", "hddm_a:drift_confidence=1e-4")

MINE = """
from tocsin.core.verdict import Verdict
from tocsin.core.errors import StateError

class Mine:
    def __init__(self, fails_at: int = -1, elsewhere: bool = False, mute: bool = False) -> None:
        self.fails_at, self.elsewhere, self.mute, self.seen = fails_at, elsewhere, mute, 0
    def update(self, batch):
        found = []
        for offset, row, value in zip(batch.offsets, batch.rows, batch.values[:, 0]):
            if self.seen == self.fails_at:
                raise ZeroDivisionError("of its own")
            self.seen += 1
            if value > 50:
                found.append(Verdict(
                    detector="mine", subject="y" if self.elsewhere else batch.names[0],
                    offset=int(offset), row=int(row), statistic=float(value), threshold=50.0,
                    lasts=True,
                ))
                found.append(Verdict(
                    detector="mine", subject=batch.names[0], offset=int(offset), row=int(row),
                    statistic=1.0, threshold=1.0, phase="settled",
                ))
        return found
    def snapshot(self):
        if self.mute:
            raise RuntimeError("no state")
        return str(self.seen).encode()
    def restore(self, state):
        if not state.isdigit():
            raise StateError("no number")
        self.seen = int(state)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mine_of_tests.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return "mine_of_tests:Mine"


def rows(values: Floats, begin: int = 0) -> Observations:
    found = Observations.of(values, ("x", "error")[: values.reshape(len(values), -1).shape[1]])
    return Observations(
        names=found.names, values=found.values, offsets=found.offsets + begin, rows=found.rows
    )


def drifting(count: int = 2400, at: int = 1700) -> Floats:
    """A number whose spread trebles, which ADWIN does not see, and errors that come more often."""
    rng = np.random.default_rng(5)
    number = rng.normal(size=count) * np.where(np.arange(count) < at, 1, 3)
    error = rng.random(count) < np.where(np.arange(count) < at, 0.05, 0.5)
    return np.column_stack([number, error])


def fed(monitor: StreamMonitor, values: Floats, cuts: Sequence[int] = ()) -> list[Verdict]:
    edges = [0, *sorted(cuts), len(values)]
    found: list[Verdict] = []
    for begin, end in pairwise(edges):
        found += monitor.update(rows(values[begin:end], begin))
    return found


def of(found: Sequence[Verdict], *detectors: str) -> list[Verdict]:
    return [verdict for verdict in found if verdict.detector in detectors]


# ---- what they add ----


def test_their_flags_are_those_of_the_detectors_by_themselves() -> None:
    values = drifting()
    said = of(fed(StreamMonitor(extra=NAMES), values), "kswin", "hddm_a")
    # As all others they hear nothing of a stream before it has its reference.
    alone = [v for name in NAMES for v in make_detector(name).update(rows(values[256:], 256))]
    assert {v.subject for v in alone} == {"x", "error"}
    keys = [(v.offset, v.subject, v.detector, v.statistic, v.threshold, v.unit) for v in said]
    assert keys == sorted(
        (v.offset, v.subject, v.detector, v.statistic, v.threshold, v.unit) for v in alone
    )


def test_their_verdicts_show_the_stream_before_and_after() -> None:
    said = of(fed(StreamMonitor(extra=NAMES), drifting()), "hddm_a")[0]
    assert said.change == "rate up"
    assert said.reference is not None
    assert said.current is not None
    assert said.reference.mean == pytest.approx(0.05, abs=0.03)
    assert said.current.mean == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("step", [50, 600])
def test_nothing_is_claimed_of_a_stream_that_has_no_reference_yet(step: int) -> None:
    """There would be no picture of before, or another one by how the rows are cut."""
    noise = np.random.default_rng(0).normal(size=600)
    values = noise + 9 * (np.arange(600) >= 120) + 9 * (np.arange(600) >= 400)
    monitor = StreamMonitor(extra=["kswin:alpha=1e-6"], only_budget=False)
    said = of(fed(monitor, values, range(step, 600, step)), "kswin")
    assert [400 <= verdict.offset < 450 for verdict in said] == [True]
    assert said[0].size is not None
    assert np.isfinite(said[0].size)


@pytest.mark.parametrize("only_budget", [True, False])
def test_they_are_advisory_at_any_time_where_only_the_budget_may_open(only_budget: bool) -> None:
    monitor = StreamMonitor(extra=NAMES, only_budget=only_budget)
    said = of(fed(monitor, drifting()), "kswin", "hddm_a")
    assert said
    assert all(verdict.advisory == only_budget for verdict in said)
    advised = of(fed(StreamMonitor(only_budget=only_budget), drifting()), "adwin", "page_hinkley")
    counted = sum(not verdict.advisory for verdict in [*said, *advised])
    assert monitor.figures()["drift_alarms_without_budget"] == counted


def test_what_the_others_say_does_not_depend_on_them() -> None:
    values = drifting()
    alone = fed(StreamMonitor(), values)
    beside = fed(StreamMonitor(extra=NAMES), values)
    assert [v for v in beside if v.detector not in ("kswin", "hddm_a")] == alone


@pytest.mark.parametrize(("cuts", "stop"), [([], 1), ([300], 1800), ([900, 1750], 2000)])
def test_cuts_and_snapshots_change_nothing(cuts: list[int], stop: int) -> None:
    values = drifting()
    whole = fed(StreamMonitor(extra=NAMES), values)
    first, second = StreamMonitor(extra=NAMES), StreamMonitor(extra=NAMES)
    found = fed(first, values[:stop], cuts)
    second.restore(first.snapshot())
    found += second.update(rows(values[stop:], stop))
    assert found == whole


def test_only_alarms_of_ones_own_class_count(mine: str) -> None:
    values = np.append(np.zeros(300), 99.0)
    said = of(fed(StreamMonitor(extra=[mine]), values), "mine")
    assert [(v.offset, v.phase, v.lasts, v.advisory) for v in said] == [
        (300, "opened", False, True)
    ]


# ---- one that fails ----


def test_one_that_fails_says_so_once_and_the_others_go_on(
    mine: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{mine}:fails_at=700"
    values = drifting()
    found = fed(StreamMonitor(extra=[name, *NAMES]), values, [400, 600, 800, 1900])
    (last,) = of(found, name)
    assert last.subject == f"detector:{name}"
    assert last.evidence == "ZeroDivisionError; see the worker's log"
    assert not last.advisory
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    others = fed(StreamMonitor(extra=NAMES), values, [400, 600, 800, 1900])
    assert [verdict for verdict in found if verdict.detector != name] == others


def test_a_claim_about_what_it_was_not_given_sets_it_aside(
    mine: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{mine}:elsewhere=true"
    found = fed(StreamMonitor(extra=[name]), np.append(np.zeros(300), 99.0))
    assert of(found, "mine") == []
    assert [verdict.subject for verdict in of(found, name)] == [f"detector:{name}"]
    assert "something of 'y' at offset 300, row 0" in caplog.text


def test_one_without_a_state_is_set_aside_and_the_others_are_stored(
    mine: str, caplog: pytest.LogCaptureFixture
) -> None:
    extra = ExtraDetectors([f"{mine}:mute=true", mine])
    extra.update(rows(np.zeros(5)))
    assert extra.state() == {mine: b"5"}
    assert "no state" in caplog.text
    assert extra.state() == {mine: b"5"}


# ---- its state ----


def test_those_that_were_added_begin_and_those_that_are_left_out_are_forgotten(mine: str) -> None:
    first = StreamMonitor(extra=[mine, "kswin"])
    fed(first, np.zeros(300))
    second = StreamMonitor(extra=[mine, "hddm_a"])
    second.restore(first.snapshot())
    states = second._extra.state()
    assert states[mine] == b"300"
    assert set(states) == {mine, "hddm_a"}


def test_state_that_it_cannot_read_begins_it_anew(
    mine: str, caplog: pytest.LogCaptureFixture
) -> None:
    extra = ExtraDetectors([mine, "kswin"])
    extra.update(rows(np.zeros(7)))
    states = extra.state()
    extra.restore({mine: b"x", "kswin": states["kswin"]})
    assert extra.state() == {mine: b"0", "kswin": states["kswin"]}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_state_of_before_there_were_any_is_gone_on_with() -> None:
    monitor = StreamMonitor()
    fed(monitor, np.random.default_rng(0).normal(size=400))
    later = StreamMonitor(extra=["kswin"])
    later.restore(monitor.snapshot())
    assert later._latest.unusable() == {"x": 0}


def test_a_name_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean kswin"):
        ExtraDetectors(["kswn"])


# ---- classes that are no model of care ----

CARELESS = """
import msgspec
import numpy as np
from tocsin.core.verdict import Verdict

class Careless:
    def __init__(self, how: str = "") -> None:
        self.how = how
    def update(self, batch):
        if self.how == "none":
            return None
        if self.how == "writes":
            batch.values[:] = 1e6
            batch.offsets[:] = 0
            return []
        return self.claims(batch)
    def claims(self, batch):
        for offset, row, value in zip(batch.offsets, batch.rows, batch.values[:, 0]):
            if value > 50:
                yield Verdict(
                    detector="careless", subject=batch.names[0], offset=offset, row=row, threshold=np.float32(50),
                    statistic=np.nan if self.how == "nan" else value,
                    delay_events="7" if self.how == "text" else np.int64(7),
                    change="scale up", size=np.float64(3.5), evidence="of its own",
                )
    def snapshot(self): return b""
    def restore(self, state): pass

class Picky(Careless):
    def __init__(self) -> None:
        raise KeyError("no such thing")
"""


@pytest.fixture
def careless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "careless_of_tests.py").write_text(CARELESS)
    (tmp_path / "broken_of_tests.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    return "careless_of_tests:Careless"


def test_numbers_of_numpys_become_pythons_and_what_it_says_itself_stands(careless: str) -> None:
    """Its claims come from a generator, of numbers that JSON knows nothing of."""
    said = of(fed(StreamMonitor(extra=[careless]), np.append(np.zeros(300), 99.0)), "careless")
    assert [(v.change, v.size, v.delay_events, v.evidence) for v in said] == [
        ("scale up", 3.5, 7, "of its own")
    ]
    assert all(type(v.statistic) is float and type(v.offset) is int for v in said)
    assert said[0].reference is not None
    msgspec.json.encode(said)


@pytest.mark.parametrize("how", ["none", "text", "nan"])
def test_one_that_claims_what_cannot_be_is_set_aside_alone(careless: str, how: str) -> None:
    values = drifting()
    values[2300, 0] = 99.0
    name = f"{careless}:how={how}"
    monitor = StreamMonitor(extra=[name])
    found = fed(monitor, values)
    assert [verdict.subject for verdict in of(found, name)] == [f"detector:{name}"]
    assert [v for v in found if v.detector != name] == fed(StreamMonitor(), values)
    assert monitor.figures()["detectors_set_aside"] == 1


def test_one_that_writes_into_its_rows_changes_nothing_for_the_others(careless: str) -> None:
    values = drifting()
    assert fed(StreamMonitor(extra=[f"{careless}:how=writes"]), values) == fed(
        StreamMonitor(), values
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("careless_of_tests:Picky", "Picky cannot be made: KeyError"),
        ("broken_of_tests:Any", "Any cannot be made: SyntaxError"),
        ("e_detector", "e_detector runs already"),
        ("natural_size:season_seconds=auto", "runs already; extra detectors are River's"),
    ],
)
def test_what_cannot_run_is_refused(careless: str, name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ExtraDetectors([name])
