"""Detectors by name: what is given as text is what they are made with, and what is wrong is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from river import drift

from tocsin.detectors.adwin import Adwin
from tocsin.detectors.base import Detector, Observations
from tocsin.detectors.dummy import Dummy
from tocsin.detectors.page_hinkley import PageHinkley
from tocsin.detectors.registry import known, make_detector
from tocsin.detectors.river_bank import RIVER_NAMES


@pytest.mark.parametrize("name", known())
def test_every_name_makes_a_detector_with_its_defaults(name: str) -> None:
    detector = make_detector(name)
    assert isinstance(detector, Detector)
    rows = replace(Observations.of(np.zeros((10, 1))), times=np.arange(10))
    assert detector.update(rows) == []
    assert make_detector(name) is not detector


def test_all_of_rivers_detectors_are_among_the_names() -> None:
    assert set(RIVER_NAMES) <= set(known())
    assert {"adwin", "page_hinkley", "stream_monitor", "dummy", "kswin", "ddm"} <= set(known())


def test_parameters_have_the_types_of_the_class() -> None:
    adwin = make_detector("adwin:delta=0.5,clock=1e1")
    assert isinstance(adwin, Adwin)
    assert (adwin.delta, adwin.clock) == (0.5, 10)
    assert type(adwin.clock) is int
    ph = make_detector(" page_hinkley : threshold = 60, alpha=1, mode=up ")
    assert isinstance(ph, PageHinkley)
    assert (ph.threshold, ph.alpha, ph.mode) == (60.0, 1.0, "up")
    assert type(ph.threshold) is float
    dummy = make_detector("dummy:every=10")
    assert isinstance(dummy, Dummy)
    assert (dummy.every, dummy.at) == (10, -1)


def test_rivers_detectors_get_their_parameters() -> None:
    bits = np.random.default_rng(0).random(4000) < np.repeat([0.1, 0.4], 2000)
    found = make_detector("ddm:drift_threshold=2.5").update(Observations.of(bits.astype(float)))
    ddm = drift.binary.DDM(drift_threshold=2.5)
    expected = []
    for row, bit in enumerate(bits.tolist()):
        ddm.update(bit)
        if ddm.drift_detected:
            expected.append(row)
    assert expected
    assert [verdict.offset for verdict in found] == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("adwni", "no detector is called 'adwni', did you mean adwin?"),
        ("zzz", "no detector is called 'zzz'; known: adwin, "),
        ("", "no detector is called ''; known"),
        (
            "adwin:dleta=1",
            "adwin has no parameter 'dleta', did you mean delta? it has delta, clock",
        ),
        ("kswin:aplha=1", "kswin has no parameter 'aplha', did you mean alpha?"),
        ("kswin:window=1", "kswin has no parameter 'window', did you mean window_size?"),
        ("stream_monitor:reference=1", "stream_monitor has no parameter 'reference'"),
        ("stream_monitor:extra=kswin", "stream_monitor has no parameter 'extra'"),
        ("adwin:delta", "'delta' is no parameter, expected NAME=VALUE"),
        ("adwin:delta=x", "adwin: delta must be a number, got 'x'"),
        ("adwin:clock=0.5", "adwin: clock must be an integer, got '0.5'"),
        ("adwin:clock=inf", "adwin: clock must be an integer, got 'inf'"),
        ("stream_monitor:river=1", "river must be true or false, got '1'"),
        ("adwin:delta=2", "Adwin needs 0 < delta < 1"),
        ("ddm:drift_threshold=-1", "drift_threshold of ddm must be in"),
        ("nowhere.at_all:Class", "no module 'nowhere'"),
        ("json.nowhere:Class", "no module 'json.nowhere'"),
        ("json:Class", "the module json has no class 'Class'"),
        ("json:dumps", "the module json has no class 'dumps'"),
        ("json:JSONDecoder", "json:JSONDecoder is no detector: it needs update, snapshot"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        make_detector(text)
    assert says in str(raised.value)


MINE = """
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from elsewhere import Thing


class Mine:
    def __init__(
        self, size: int, rate: float = 1, on: bool = False, most: int | None = 3,
        mode: Literal["up", "down"] = "up", untyped=None, **others: Any,
    ) -> None:
        self.given = (size, rate, on, most, mode, untyped)

    def update(self, batch): return []
    def snapshot(self): return b""
    def restore(self, state): pass


class Hidden(Mine):
    def __init__(self, thing: Thing = None) -> None:
        self.given = (thing,)


class Broken(Mine):
    def __init__(self) -> None:
        import not_installed
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    return "house.mine"


@pytest.mark.parametrize(
    ("parameters", "given"),
    [
        ("size=5", (5, 1, False, 3, "up", None)),
        ("size=5,rate=2,on=true,most=none,mode=down,untyped=x", (5, 2.0, True, None, "down", "x")),
        ("size=5,most=7,untyped=1.5", (5, 1, False, 7, "up", 1.5)),
        ("size=5,untyped=1", (5, 1, False, 3, "up", 1)),
    ],
)
def test_a_users_own_class_is_made(mine: str, parameters: str, given: tuple[object, ...]) -> None:
    found = make_detector(f"{mine}:Mine:{parameters}")
    assert found.given == given  # type: ignore[attr-defined]
    assert [type(value) for value in found.given] == [type(value) for value in given]  # type: ignore[attr-defined]


def test_types_that_cannot_be_looked_up_are_guessed(mine: str) -> None:
    assert make_detector(f"{mine}:Hidden:thing=2").given == (2,)  # type: ignore[attr-defined]


def test_what_a_users_class_lacks_is_said(mine: str) -> None:
    with pytest.raises(ValueError, match=r"house.mine:Mine needs a value for size: .*size=VALUE"):
        make_detector(f"{mine}:Mine")
    with pytest.raises(ValueError, match="did you mean size"):
        make_detector(f"{mine}:Mine:sise=1")
    with pytest.raises(ModuleNotFoundError, match="not_installed"):
        make_detector(f"{mine}:Broken")
