"""Every detector of the package passes the public checks."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import tocsin.detectors
from tocsin.detectors.adversarial import AdversarialInputs, Fitted
from tocsin.detectors.adwin import Adwin
from tocsin.detectors.base import Detector, Observations
from tocsin.detectors.dummy import Dummy
from tocsin.detectors.e_detector import EDetector
from tocsin.detectors.embedding import EmbeddingStreams
from tocsin.detectors.gap_test import GapTests, Pair
from tocsin.detectors.guard import DependenceGuard
from tocsin.detectors.guarded import GuardedEDetector
from tocsin.detectors.logit_streams import LogitStreams
from tocsin.detectors.natural_size import NaturalSize
from tocsin.detectors.page_hinkley import PageHinkley
from tocsin.detectors.reference import Reference
from tocsin.detectors.river_bank import (
    RIVER_NAMES,
    RiverBank,
    river_detector,
)
from tocsin.detectors.stream_monitor import StreamMonitor
from tocsin.testing import (
    Case,
    bit_case,
    category_case,
    check_detector,
    logit_case,
    normal_case,
    seasonal_case,
)

Make = Callable[[], Detector]


def with_reference() -> AdversarialInputs:
    clean = logit_case().clean(999, 5000).values
    return AdversarialInputs(reference=Fitted.fit(clean, 2000, 0.01))


def gap_tests(**settings: float) -> GapTests:
    found = GapTests(**settings)
    found.watch([Pair("gap:recall:sex=1|2", "recall:sex=1", "recall:sex=2", 1.0)])
    return found


def outcomes(seed: int, events: int, gap: float) -> Observations:
    """Outcomes of two groups between which a gap opens half-way."""
    rng = np.random.default_rng([5, seed])
    is_a = rng.random(events) < 0.4
    opened = (np.arange(events) >= events // 2) * gap
    right = (rng.random(events) < 0.8 - is_a * opened) * 1.0
    values = np.stack([np.where(is_a, right, np.nan), np.where(is_a, np.nan, right)], axis=1)
    return Observations.of(values, ("recall:sex=1", "recall:sex=2"))


def gap_case() -> Case:
    return Case(
        lambda seed, events: outcomes(seed, events, 0.0),
        lambda seed, events: outcomes(seed, events, 0.4),
        events=3_000, false_alarms=2, delay=600,
    )  # fmt: skip


REGISTER: dict[str, tuple[Make, Case]] = {
    "page_hinkley": (lambda: PageHinkley(delta=0.15, threshold=60, alpha=1), normal_case()),
    "page_hinkley upwards": (
        lambda: PageHinkley(1, delta=0.3, threshold=40, alpha=1, mode="up"), normal_case(),
    ),
    "adwin": (lambda: Adwin(1e-4), normal_case(delay=100)),
    "adwin on bits": (lambda: Adwin(1e-4), bit_case()),
    "adwin, checked at every value": (
        lambda: Adwin(1e-6, clock=1, max_buckets=2, min_window_length=1, grace_period=0),
        normal_case(delay=100),
    ),
    "river adwin": (lambda: river_detector("adwin", delta=1e-4), normal_case(delay=100)),
    "river page_hinkley": (lambda: river_detector("page_hinkley", delta=0.15, threshold=60, alpha=1), normal_case()),
    # KSWIN costs 160 us a value, so its runs are short: at River's defaults, and without false alarms.
    "river kswin": (
        lambda: river_detector("kswin"),
        replace(normal_case(1, 3, false_alarms=8, delay=60), events=400),
    ),
    "river kswin, strict": (
        lambda: river_detector("kswin", alpha=1e-6, window_size=60, stat_size=25, seed=7),
        replace(normal_case(1, 3, delay=30), events=320),
    ),
    # Allowed below is what River's defaults raise on 80,000 stationary bits, rounded up; EDDM's false
    # alarms are so many that it has always "found" a change soon.
    "river ddm": (lambda: river_detector("ddm"), bit_case(false_alarms=35, delay=200)),
    "river eddm": (lambda: river_detector("eddm"), bit_case(false_alarms=100, delay=200)),
    "river eddm, less eager": (
        lambda: river_detector("eddm", warm_start=100, beta=0.6),
        bit_case(false_alarms=8, delay=700),
    ),
    # FHDDM finds that ones become fewer: hits of a model, not errors.
    "river fhddm": (lambda: river_detector("fhddm"), bit_case(0.9, 0.4, delay=60)),
    "river fhddm, two windows": (
        lambda: river_detector("fhddm", short_window_size=25), bit_case(0.9, 0.4, delay=40),
    ),
    "river hddm_a": (lambda: river_detector("hddm_a"), bit_case(delay=150)),
    "river hddm_a, two-sided": (
        lambda: river_detector("hddm_a", two_sided_test=True),
        bit_case(0.3, 0.05, false_alarms=2, delay=150),
    ),
    "river hddm_w": (lambda: river_detector("hddm_w"), bit_case(delay=350)),
    "river hddm_w, two-sided": (
        lambda: river_detector("hddm_w", lambda_val=0.03, two_sided_test=True),
        bit_case(0.4, 0.05, false_alarms=50, delay=150),
    ),
    # It does not look at the values, so the change is where it fires for the first time in a run.
    "river dummy_drift_detector": (
        lambda: river_detector("dummy_drift_detector", t_0=2100), bit_case(false_alarms=20),
    ),
    "river dummy_drift_detector at random": (
        lambda: river_detector(
            "dummy_drift_detector", trigger_method="random", t_0=2200, w=100, seed=3
        ),
        bit_case(false_alarms=20),
    ),
    "stream_monitor": (StreamMonitor, normal_case(streams=5, delay=100)),
    "stream_monitor downwards": (StreamMonitor, normal_case(shift=-1, delay=100)),
    "stream_monitor on bits": (StreamMonitor, bit_case()),
    "stream_monitor, short warm-up": (lambda: StreamMonitor(Reference(30)), normal_case(shift=2)),
    "stream_monitor with river": (lambda: StreamMonitor(river=True), normal_case(delay=100)),
    "e_detector": (EDetector, normal_case(delay=100)),
    "e_detector on bits": (
        lambda: EDetector(1e5, rate_tolerance=0.02), bit_case(false_alarms=1, delay=150),
    ),
    "e_detector of a model that learns": (
        lambda: EDetector(1e5, rate_tolerance=0.02, learning=frozenset(["error"])),
        bit_case(false_alarms=1, delay=150),
    ),
    "e_detector with a tolerance": (lambda: EDetector(tolerance=0.1), normal_case(delay=100)),
    "e_detector that keeps its reference": (
        lambda: EDetector(policy="keep", window=200), normal_case(delay=100),
    ),
    "e_detector against a fixed reference": (
        lambda: EDetector(1e4, reference=Reference(1000), policy="keep", fixed=True),
        normal_case(shift=3, delay=200),
    ),
    "e_detector on categories": (EDetector, category_case()),
    "guarded e_detector": (GuardedEDetector, replace(normal_case(delay=100), events=9000)),
    "natural_size": (lambda: NaturalSize(1e7), seasonal_case()),
    "natural_size, season found": (
        lambda: NaturalSize(1e7, season_seconds="auto"), seasonal_case(),
    ),
    "gap_test with a level": (lambda: gap_tests(alpha=0.01), gap_case()),
    "gap_test with a budget": (lambda: gap_tests(budget_events=1e5), gap_case()),
    "dummy": (lambda: Dummy(every=400), normal_case(false_alarms=200, delay=400)),
    "dummy, once": (lambda: Dummy(at=2100), normal_case(false_alarms=20, delay=100)),
    "adversarial": (AdversarialInputs, logit_case()),
    "adversarial with reference": (with_reference, logit_case(classes=10)),
    "adversarial, two classes": (AdversarialInputs, logit_case(classes=2)),
    "adversarial, more clients than it remembers": (
        lambda: AdversarialInputs(max_clients=5), logit_case(clients=8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REGISTER)
def test_every_detector_passes_every_check(name: str) -> None:
    check_detector(*REGISTER[name])


def test_no_detector_of_the_package_is_left_out() -> None:
    modules = [
        importlib.import_module(f"tocsin.detectors.{module.name}")
        for module in pkgutil.iter_modules(tocsin.detectors.__path__)
    ]
    found = {
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Detector) and kind is not Detector
    }
    transforms = {DependenceGuard, EmbeddingStreams, LogitStreams}  # their updates are no verdicts
    assert found - transforms == {type(make()) for make, _ in REGISTER.values()}


def test_none_of_river_is_left_out() -> None:
    banks = [make() for make, _ in REGISTER.values()]
    assert {bank.name for bank in banks if isinstance(bank, RiverBank)} == set(RIVER_NAMES)
