"""The rules for names: the types on the wire say the same, and settings are told what to write instead."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable
from contextlib import nullcontext

import msgspec
import pytest

from tocsin.consumers.model_settings import BiasSettings, ModelSettings, PerformanceSettings
from tocsin.core import names
from tocsin.core.errors import EventError
from tocsin.core.events import Prediction
from tocsin.core.limits import Limits
from tocsin.core.names import LENGTHS, CheckedNames, check_crossings, is_segment
from tocsin.core.wire import Kind, decode, encode


def test_examples() -> None:
    assert doctest.testmod(names).failed == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["sex**race"], "'sex**race' has no name on one side of a *: write sex*race"),
        (["*sex"], "'*sex' has no name on one side of a *: write sex"),
        (["*"], "'*' has no name on one side of a *: name a segment, or leave it out"),
        ([""], "'' is no name: name a segment, or leave it out"),
        (["sex * race"], "'sex * race' has blanks around a name: write sex*race"),
        (["sex*sex"], "'sex*sex' crosses sex with itself: write sex"),
        (["sex*race*sex"], "'sex*race*sex' crosses sex with itself: write sex*race"),
        (["sex", "sex"], "'sex' is there twice: leave one of them out"),
        (["a*b", "b*a"], "'b*a' is the same as 'a*b': leave one of them out"),
    ],
)
def test_what_crosses_nothing_is_refused_with_what_to_write(wrong: list[str], said: str) -> None:
    of: list[Callable[[], object]] = [
        lambda: check_crossings(wrong), lambda: BiasSettings(segments=wrong),
        lambda: PerformanceSettings(segments=wrong),
    ]  # fmt: skip
    for refuses in of:
        with pytest.raises(ValueError, match=re.escape(said)):
            refuses()


def test_crossings_of_several_are_let_pass() -> None:
    ModelSettings(bias=BiasSettings(segments=["environment", "environment*sex", "a*b", "a*b*c"]))
    check_crossings([])


GOOD: dict[str, object] = {"prediction_id": "p"}
EDGES: list[tuple[str, object]] = [
    ("prediction_id", ""), ("prediction_id", "x" * 256), ("prediction_id", "x" * 257),
    ("model", ""), ("model", "é" * 200), ("model", "x" * 201), ("model", "a b"), ("model", "a\n"),
    ("model", "a\u2003b"), ("model", "a\x7f"), ("model", "a/b|c:d*"), ("version", ""), ("version", "x y"),
    ("version", "x" * 201), ("client", ""), ("client", "x" * 256), ("client", "x" * 257),
    ("environment", "shadow"), ("environment", "prod"), ("segments", {"sex": "F"}), ("segments", {"sex": 1}),
    ("segments", {"sex": None}), ("segments", {}), ("version", 7), ("client", 7), ("model", 7),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), EDGES)
def test_what_is_refused_is_what_workers_refuse(field: str, value: object) -> None:
    event = Prediction(**{**GOOD, field: value})  # type: ignore[arg-type]
    try:
        decode(encode(event), Kind.BARE, Limits())
        refused = False
    except EventError:
        refused = True
    found = CheckedNames()
    for _ in range(2):  # what was refused is refused again
        names = (event.model, event.version, event.environment, event.client, event.segments)
        with pytest.raises((TypeError, ValueError)) if refused else nullcontext():
            found.check(event.prediction_id, *names)


def test_lengths_are_those_of_the_types() -> None:
    fields = {field.name: field.type for field in msgspec.inspect.type_info(Prediction).fields}
    for name, (low, high) in LENGTHS.items():
        found = fields[name]
        text = next(of for of in getattr(found, "types", [found]) if hasattr(of, "max_length"))
        assert (text.min_length or 0, text.max_length) == (low, high), name


@pytest.mark.parametrize("name", ["a*b", "", "x" * 101])
def test_a_segment_by_which_no_groups_are_told_apart_is_refused(name: str) -> None:
    assert not is_segment(name)
    with pytest.raises(ValueError, match="name of a segment must have 1 to 100 characters and no"):
        CheckedNames().check("p", "m", None, "production", None, {name: "x"})


def test_messages_hold_no_personal_data_and_memory_is_bounded() -> None:
    found = CheckedNames()
    for of in ({"client": "secret" * 99}, {"segments": {"sex": b"secret"}}):
        with pytest.raises((TypeError, ValueError)) as error:
            found.check("p", "m", None, "production", **of)  # type: ignore[arg-type]
        assert "secret" not in str(error.value)
    for k in range(20_000):
        found.check("p", f"m{k}", None, "production", None, {f"s{k}": "x"})
    assert max(len(found._sources), len(found._segments)) <= 4096
