"""Every drift detector of River through one adapter: River's own flags, and a state that goes on exactly."""

from __future__ import annotations

import inspect
import re
from collections import Counter, deque
from random import Random, SystemRandom

import numpy as np
import pytest
from river import base, drift

from tocsin.core.errors import DetectorError, StateError
from tocsin.core.snapshot import pack, unpack
from tocsin.detectors.base import Observations
from tocsin.detectors.river_bank import RIVER_NAMES, RiverBank, river_detector, stream_seed
from tocsin.detectors.river_codec import dump, load
from tocsin.detectors.river_kinds import KINDS

JUNK = (np.nan, np.inf, -np.inf, 1e308)
NO_BITS = (*JUNK, 0.5, -1.0, 2.0, 1 + 1e-9)

PARAMETERS = [
    ("adwin", {}),
    ("adwin", {"delta": 0.05, "clock": 1, "max_buckets": 3, "grace_period": 0}),
    ("ddm", {}),
    ("ddm", {"warm_start": 5, "warning_threshold": 1.0, "drift_threshold": 2.0}),
    ("dummy_drift_detector", {"t_0": 90, "w": 40}),
    ("dummy_drift_detector", {"trigger_method": "random", "t_0": 90, "w": 40, "seed": 5}),
    ("eddm", {}),
    ("eddm", {"warm_start": 3, "alpha": 0.8, "beta": 0.7}),
    ("fhddm", {"sliding_window_size": 60, "confidence_level": 1e-3}),
    ("fhddm", {"short_window_size": 20, "confidence_level": 1e-3}),
    ("hddm_a", {}),
    ("hddm_a", {"drift_confidence": 0.05, "warning_confidence": 0.1, "two_sided_test": True}),
    ("hddm_w", {}),
    ("hddm_w", {"drift_confidence": 0.05, "lambda_val": 0.2, "two_sided_test": True}),
    ("kswin", {}),
    ("kswin", {"alpha": 0.01, "window_size": 40, "stat_size": 20, "seed": 3}),
    ("page_hinkley", {}),
    ("page_hinkley", {"threshold": 8, "alpha": 0.99, "mode": "down", "min_instances": 1}),
]


def streams(name: str, seed: int) -> Observations:
    """Return three streams that change every 200 values, with values between that are not usable."""
    rng = np.random.default_rng(seed)
    n = 700 if name == "kswin" else 4000
    levels = np.repeat(rng.random((n // 200 + 1, 3)), 200, axis=0)[:n]
    bits = (rng.random((n, 3)) < levels).astype(float)
    values = bits if KINDS[name].bits else rng.normal(3 * levels, 1)
    junk = rng.random(values.shape) < 0.02
    values[junk] = rng.choice(NO_BITS if KINDS[name].bits else JUNK, junk.sum())
    return Observations.of(values, ("error", "score", "été"))


def plain(name: str, parameters: dict, stream: str):
    """Return River's own object."""
    chosen = dict(parameters)
    if "seed" in KINDS[name].ranges:
        chosen["seed"] = stream_seed(stream, parameters.get("seed", 0))
    return KINDS[name].make(**chosen)


def of_river(name: str, parameters: dict, rows: Observations):
    """Return (row, stream) of what plain River objects flag, and the objects."""
    found, detectors = [], {}
    for k, stream in enumerate(rows.names):
        river = detectors[stream] = plain(name, parameters, stream)
        for row, value in enumerate(rows.values[:, k].tolist()):
            good = value in (0.0, 1.0) if KINDS[name].bits else abs(value) <= 1e100
            if good:
                river.update(bool(value) if KINDS[name].bits else value)
                if river.drift_detected:
                    found.append((row, stream))
    return sorted(found), detectors


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS, ids=str)
def test_flags_and_state_are_those_of_plain_river_objects(name, parameters) -> None:
    """At any batch cut, and with values between that are not usable."""
    rows = streams(name, 1)
    expected, detectors = of_river(name, parameters, rows)
    assert len(expected) > 3
    bank, found, rng = river_detector(name, **parameters), [], np.random.default_rng(2)
    begin = 0
    while begin < len(rows):
        end = begin + int(rng.integers(1, 300))
        found += bank.update(rows.take(slice(begin, end)))
        begin = end
    assert [(v.offset, v.subject) for v in found] == expected
    for stream, river in detectors.items():
        assert dump(bank._detectors[stream]) == dump(river)


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS, ids=str)
def test_a_restored_bank_goes_on_as_the_one_that_was_not_interrupted(name, parameters) -> None:
    rows = streams(name, 3)
    through = river_detector(name, **parameters)
    expected = through.update(rows)
    part, found = river_detector(name, **parameters), []
    step = 47 if name == "kswin" else 97
    for begin in range(0, len(rows), step):
        found += part.update(rows.take(slice(begin, begin + step)))
        state = part.snapshot()
        part = river_detector(name, **parameters)
        part.restore(state)
        assert part.snapshot() == state
    assert found == expected
    assert part.snapshot() == through.snapshot()


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS, ids=str)
def test_a_verdict_says_what_was_compared(name, parameters) -> None:
    found = river_detector(name, **parameters).update(streams(name, 4))
    assert found
    for verdict in found:
        assert verdict.detector == name
        assert verdict.unit
        if name in ("kswin", "eddm"):
            assert verdict.statistic <= verdict.threshold
        elif name not in ("adwin", "dummy_drift_detector"):  # River does not tell ADWIN's distance
            assert verdict.statistic >= verdict.threshold > 0
        assert verdict.delay_events is None or verdict.delay_events > 0


def test_every_drift_detector_of_river_is_known() -> None:
    kinds = {
        kind
        for module in (drift, drift.binary)
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, base.DriftDetector | base.BinaryDriftDetector)
    }
    # NoDrift never fires: it turns off the detection inside a model of River's.
    assert kinds - {drift.NoDrift} == {kind.make for kind in KINDS.values()}
    assert set(RIVER_NAMES) == set(KINDS)


@pytest.mark.parametrize("name", RIVER_NAMES)
def test_parameters_are_rivers_with_rivers_defaults(name) -> None:
    kind = KINDS[name]
    offered = {n: p.default for n, p in inspect.signature(kind.make).parameters.items()}
    if name == "kswin":
        del offered["window"]  # the collected data of one stream; a bank has many
    assert kind.defaults == offered
    fresh = river_detector(name)._make("a")
    for parameter, default in offered.items():
        expected = stream_seed("a") if parameter == "seed" else default
        assert getattr(fresh, parameter) == expected


@pytest.mark.parametrize("name", [name for name in RIVER_NAMES if KINDS[name].bits])
def test_values_that_are_no_bits_leave_the_state_as_it_was(name) -> None:
    bank = river_detector(name)
    bank.update(Observations.of((np.arange(500) % 7 == 0).astype(float)))
    before = bank.snapshot()
    for junk in NO_BITS:
        assert bank.update(Observations.of(np.full(100, junk))) == []
    assert bank.snapshot() == before
    fresh = river_detector(name)
    fresh.update(Observations.of(np.full(100, 0.5)))
    assert fresh.snapshot() == river_detector(name).snapshot()


def test_a_warning_is_no_verdict() -> None:
    rows = streams("ddm", 5)
    bank, warned = river_detector("ddm"), 0
    for row in range(1000):
        found = bank.update(rows.take(slice(row, row + 1)))
        warned += any(d.warning_detected for d in bank._detectors.values())
        detected = {name for name, d in bank._detectors.items() if d.drift_detected}
        assert {verdict.subject for verdict in found} <= detected
        assert not any(bank._detectors[v.subject].warning_detected for v in found)
    assert warned > 10


def test_each_stream_has_its_own_seed_and_a_seed_changes_all() -> None:
    assert stream_seed("a") == stream_seed("a", 0) == 8281872861307171038
    assert len({stream_seed(name, seed) for name in "abcd" for seed in range(50)}) == 200
    values = np.random.default_rng(0).normal(size=300)
    rows = Observations.of(np.column_stack([values, values]), ("a", "b"))
    first, second = river_detector("kswin"), river_detector("kswin", seed=1)
    first.update(rows)
    second.update(rows)
    one, two = (first._detectors[name].p_value for name in "ab")
    assert len({one, two, second._detectors["a"].p_value}) == 3


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("kswim", {}, "'kswim' is not a drift detector of River's; did you mean 'kswin'? known: adwin"),
        ("HDDM-A", {}, "did you mean 'hddm_a'?"),
        ("PageHinkley", {}, "did you mean 'page_hinkley'?"),
        ("", {}, "is not a drift detector of River's; known: adwin, ddm"),
        ("kswin", {"windowsize": 10}, "'windowsize' is not a parameter of kswin; did you mean 'window_size'?"),
        ("kswin", {"window": [1.0]}, "'window' is not a parameter of kswin"),
        ("kswin", {"stat_size": 51}, "kswin needs 2 * stat_size <= window_size, got alpha=0.005"),
        ("kswin", {"alpha": 0}, "alpha of kswin must be in (0, 1), got 0"),
        ("kswin", {"seed": 1.5}, "seed of kswin must be a whole number, got 1.5"),
        ("adwin", {"clock": 0}, "clock of adwin must be in [1, 1e9], got 0"),
        ("adwin", {"clock": True}, "clock of adwin must be a whole number, got True"),
        ("adwin", {"max_buckets": 1}, "max_buckets of adwin must be in [2, 1000], got 1"),
        ("adwin", {"delta": "0.1"}, "delta of adwin must be a number, got '0.1'"),
        ("adwin", {"delta": float("nan")}, "delta of adwin must be in (0, 1), got nan"),
        ("page_hinkley", {"mode": "sideways"}, "page_hinkley needs mode up, down or both, got"),
        ("page_hinkley", {"mode": 3}, "mode of page_hinkley must be a str, got 3"),
        ("eddm", {"alpha": 0.8}, "eddm needs beta <= alpha, got"),
        ("fhddm", {"short_window_size": 101}, "fhddm needs short_window_size <= sliding_window_size"),
        ("hddm_w", {"lambda_val": 0.0}, "lambda_val of hddm_w must be in (0, 1], got 0.0"),
        ("hddm_a", {"two_sided_test": 1}, "two_sided_test of hddm_a must be a bool, got 1"),
        ("dummy_drift_detector", {"trigger_method": "random"}, "random and w > t_0 / 175"),
        ("dummy_drift_detector", {"trigger_method": "random", "t_0": 1000, "w": 1}, "t_0=1000, w=1"),
    ],
)  # fmt: skip
def test_what_is_not_known_or_out_of_range_is_refused(name, parameters, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        river_detector(name, **parameters)


def test_numbers_of_numpy_are_parameters_too() -> None:
    bank = river_detector("kswin", alpha=np.float32(0.25), window_size=np.int32(50), stat_size=20)
    assert bank._make("a").alpha == 0.25
    assert type(bank._make("a").window_size) is int


@pytest.mark.parametrize(
    ("name", "taken", "given", "message"),
    [
        ("adwin", {"delta": 0.1}, {}, "taken with delta=0.1, this has 0.002"),
        ("page_hinkley", {}, {"mode": "up"}, "taken with mode=both, this has up"),
        ("fhddm", {}, {"short_window_size": 10}, "other attributes: _epsilon_s, _short_window"),
        ("hddm_w", {"lambda_val": 0.1}, {}, "taken with lambda_val=0.1, this has 0.05"),
        ("kswin", {"seed": 1}, {"seed": 2}, "taken with seed="),
    ],
)
def test_a_snapshot_of_other_parameters_is_refused(name, taken, given, message) -> None:
    first, second = river_detector(name, **taken), river_detector(name, **given)
    rows = streams(name, 6).take(slice(0, 200))
    first.update(rows)
    second.update(rows)
    before = second.snapshot()
    with pytest.raises(StateError, match=message):
        second.restore(first.snapshot())
    assert second.snapshot() == before


def test_a_snapshot_of_another_river_or_another_layout_is_refused() -> None:
    bank = river_detector("ddm")
    bank.update(streams("ddm", 7))
    state = bank.snapshot()
    meta, _ = unpack("river:ddm", 2, state)

    def refused(changed: dict, message: str) -> None:
        with pytest.raises(StateError, match=message):
            bank.restore(pack("river:ddm", 2, changed, {}))
        assert bank.snapshot() == state

    refused(meta | {"river": "0.25.0"}, "taken with River 0.25.0, this is")
    for wrong, message in [
        (None, "expected the state of river.drift.binary.ddm.DDM, found a NoneType"),
        (["object", "os.path", {}], "expected the state of .*DDM, found os.path"),
        (["object", "river.drift.binary.ddm.DDM", {}], "kept with other attributes: _drift_detected"),
    ]:  # fmt: skip
        refused(meta | {"states": {"error": wrong}}, message)
    parts = meta["states"]["error"][2]
    for wrong in (["list", []], ["object", "builtins.dict", {}], ["rust", "RsEWMean", b""], 5, {}):
        changed = ["object", meta["states"]["error"][1], parts | {"_p": wrong}]
        refused(meta | {"states": {"error": changed}}, "_p is a Mean|expected the state of .*Mean")
    changed = ["object", meta["states"]["error"][1], parts | {"_ps_min": ["list", []]}]
    refused(
        meta | {"states": {"error": changed}}, "DDM._ps_min is a float, the snapshot has a list"
    )


def test_a_generator_of_another_length_is_refused() -> None:
    target = Holder()
    target.part = Random(1)
    saved = dump(target)
    saved[2]["part"][2] = saved[2]["part"][2][:-4]
    with pytest.raises(StateError, match="part cannot go on from the snapshot"):
        load(target, saved)


class Holder:
    """A plain class: what it holds is its state."""

    def __init__(self) -> None:
        self.part: object = None


class Mine:
    """A detector of a user's own: fires when the mean of its last values leaves that of its first."""

    def __init__(self, size: int = 20) -> None:
        self.size = size
        self.drift_detected = False
        self.first: list[float] = []
        self.last: deque[float] = deque(maxlen=size)
        self.sums = np.zeros(3)
        self.holder = Holder()
        self.random = Random(size)
        self.pair = (1, 2.5, None, "text", True)
        self.rule = self.apart

    def apart(self) -> bool:
        return abs(np.mean(self.first) - np.mean(self.last)) > 2 + self.random.random()

    def update(self, x: float) -> None:
        if len(self.first) < self.size:
            self.first.append(x)
        self.last.append(x)
        self.sums += (1, x, x * x)
        self.holder.part = np.float64(x)
        self.drift_detected = bool(self.rule())
        if self.drift_detected:
            self.first, self.pair = [], (x, self.pair[0])


def test_a_detector_of_ones_own_runs_in_a_bank_and_goes_on() -> None:
    rng = np.random.default_rng(8)
    rows = Observations.of(rng.normal(np.repeat([0.0, 4.0, -1.0, 6.0], 100), 1))
    through, part, found = (
        RiverBank("mine", lambda _: Mine()),
        RiverBank("mine", lambda _: Mine()),
        [],
    )
    expected = through.update(rows)
    assert expected
    assert expected[0].unit == "the detector's flag"
    for begin in range(0, len(rows), 30):
        found += part.update(rows.take(slice(begin, begin + 30)))
        state = part.snapshot()
        part = RiverBank("mine", lambda _: Mine())
        part.restore(state)
    assert found == expected
    assert part.snapshot() == through.snapshot()
    restored = part._detectors["stream:0"]
    assert restored.rule.__self__ is restored
    assert restored.last.maxlen == 20
    assert type(restored.holder.part) is np.float64


class Slotted:
    __slots__ = ("x",)


class Whole(int):
    pass


@pytest.mark.parametrize(
    "part",
    [
        print, lambda: 0, np, int, SystemRandom(), 2**63, {"a": 1}, {1}, Counter("a"), Slotted(), Whole(3),
        [[1]], deque([[1]]), (Holder(),), np.array(["text"]), np.array([None]), np.float32(1), 1j, Holder().__init__,
        np.random.default_rng(0), b"bytes",
    ],
    ids=lambda part: type(part).__name__,
)  # fmt: skip
def test_what_cannot_be_kept_exactly_is_refused(part) -> None:
    holder = Holder()
    holder.part = part
    with pytest.raises(DetectorError, match=r"Holder\.part cannot be kept"):
        dump(holder)


def test_what_is_held_in_two_places_is_refused() -> None:
    holder = Holder()
    holder.part = Holder()
    holder.part.part = shared = [1.0]  # type: ignore[attr-defined]
    holder.other = shared  # type: ignore[attr-defined]
    with pytest.raises(DetectorError, match=r"Holder\.other cannot be kept: it is held in another"):
        dump(holder)


def test_a_bank_refuses_a_detector_whose_state_cannot_be_kept() -> None:
    def make(_: str) -> Mine:
        detector = Mine()
        detector.rule = lambda: False
        return detector

    with pytest.raises(ValueError, match=r"mine cannot run in a bank: Mine\.rule cannot be kept"):
        RiverBank("mine", make)


def test_special_floats_and_the_limits_of_integers_are_kept() -> None:
    saved, target = Holder(), Holder()
    saved.part = [0.1, -0.0, 5e-324, float("inf"), -(2**63), 2**63 - 1, True, None, "ü"]
    target.part = []
    load(target, unpack("x", 1, pack("x", 1, {"state": dump(saved)}, {}))[0]["state"])
    assert repr(target.part) == repr(saved.part)
