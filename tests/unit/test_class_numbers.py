"""Classes as numbers: equal for equal classes, however they are spelled, whatever came before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.consumers import class_numbers
from tocsin.consumers.class_numbers import ClassNumbers, numbers_only
from tocsin.core.columns import Values

CHECKED = settings(derandomize=True, deadline=None, database=None, max_examples=200)
CLASSES = st.text(max_size=6) | st.integers(-(10**14), 10**14) | st.booleans()


def numbers(*values, of: ClassNumbers | None = None) -> list[float]:
    return (of or ClassNumbers()).numbers(Values.of(values)).tolist()


def test_a_class_is_the_same_as_text_integer_float_or_boolean() -> None:
    found = numbers("1", 1, 1.0, True, "0", 0, -0.0, False)
    assert found == [1.0] * 4 + [0.0] * 4
    assert numbers("-12", -12) == [-12.0, -12.0]


@pytest.mark.parametrize(
    "text", ["", " 1", "01", "+1", "1.0", "1e3", "-", "--1", "1\n", "१", "1_000", "9" * 16, "True"]
)
def test_a_text_that_is_no_plain_integer_is_a_class_of_its_own(text: str) -> None:
    (found,) = numbers(text)
    assert found <= -(2.0**52)
    assert found == int(found)
    assert numbers_only(np.array([found, 5.0])).tolist() == pytest.approx(
        [np.nan, 5.0], nan_ok=True
    )


def test_nothing_is_no_number() -> None:
    assert np.isnan(numbers(None, None)).all()
    assert np.isnan(numbers("a", None, 3)).tolist() == [False, True, False]
    assert numbers() == []


@CHECKED
@given(st.lists(CLASSES, max_size=20), st.lists(CLASSES, max_size=20), st.randoms())
def test_a_number_is_of_its_class_alone_and_not_of_what_came_before(
    some: list, others: list, random
) -> None:
    of = ClassNumbers()
    first = dict(zip(map(repr, some), numbers(*some, of=of), strict=True))
    random.shuffle(others)
    numbers(*others, of=of)
    assert numbers(*some, of=of) == list(map(first.get, map(repr, some))) == numbers(*some)
    spelled = {
        repr(value): str(int(value)) if not isinstance(value, str) else value for value in some
    }
    for one in some:
        for other in some:
            is_same = spelled[repr(one)] == spelled[repr(other)]
            plain = {spelled[repr(one)], spelled[repr(other)]} != {"0", "-0"}
            assert not plain or (first[repr(one)] == first[repr(other)]) == is_same


def test_ten_thousand_classes_have_ten_thousand_numbers() -> None:
    found = numbers(*(f"class {i}" for i in range(10_000)))
    assert len(set(found)) == 10_000
    assert max(found) <= -(2.0**52)
    assert min(found) > -(2.0**53)


def test_what_is_remembered_is_bounded_and_forgetting_changes_no_number(monkeypatch) -> None:
    monkeypatch.setattr(class_numbers, "_REMEMBERED", 100)
    of = ClassNumbers()
    for begin in range(0, 5000, 50):
        texts = [f"free text {i}" for i in range(begin, begin + 50)]
        assert numbers("yes", *texts, of=of) == numbers("yes", *texts)
        assert len(of._index) == len(of._values) <= 151
