"""Every detector of the package passes the public checks."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

import pytest
import torch

import tocsin.detectors
from tocsin.detectors.adversarial import AdversarialInputs, Fitted
from tocsin.detectors.adwin import Adwin
from tocsin.detectors.base import Detector
from tocsin.detectors.page_hinkley import PageHinkley
from tocsin.detectors.reference import Reference
from tocsin.detectors.river_bank import CODECS, RiverBank, river_adwin, river_page_hinkley
from tocsin.detectors.stream_monitor import StreamMonitor
from tocsin.testing import Case, bit_case, check_detector, logit_case, normal_case

Make = Callable[[], Detector]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for one another cost ten times the small matrix products of a check."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def with_reference() -> AdversarialInputs:
    clean = logit_case().clean(999, 5000).values
    return AdversarialInputs(reference=Fitted.fit(clean, 2000, 0.01))


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
    "river adwin": (lambda: river_adwin(1e-4), normal_case(delay=100)),
    "river page_hinkley": (lambda: river_page_hinkley(0.15, 60, 1), normal_case()),
    "stream_monitor": (StreamMonitor, normal_case(streams=5, delay=100)),
    "stream_monitor downwards": (StreamMonitor, normal_case(shift=-1, delay=100)),
    "stream_monitor on bits": (StreamMonitor, bit_case()),
    "stream_monitor, short warm-up": (lambda: StreamMonitor(Reference(30)), normal_case(shift=2)),
    "stream_monitor with river": (lambda: StreamMonitor(river=True), normal_case(delay=100)),
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
    assert found == {type(make()) for make, _ in REGISTER.values()}


def test_the_bank_runs_the_river_detectors_whose_state_it_can_keep_and_refuses_others() -> None:
    from river import drift

    banks = [make() for make, _ in REGISTER.values()]
    kinds = {type(bank._make()) for bank in banks if isinstance(bank, RiverBank)}
    assert kinds == set(CODECS)
    with pytest.raises(ValueError, match="KSWIN cannot be kept; known: ADWIN, PageHinkley"):
        RiverBank("kswin", drift.KSWIN, 0.005)
