"""Classes and numbers on one scale, so that predictions and labels are compared without being parsed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from ..core.columns import FALSE, TEXT, TRUE, Floats, Strings, Values
from ..detectors.string_index import StringIndex

_TEXT: Final = -(2.0**52)
"""Text classes are this and below: exact in a 64-bit float, and no prediction of a number."""
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,14})")


class ClassNumbers:
    """Text to numbers; a text that is an integer is that integer, so that "1" and 1 are one class.

    Parameters
    ----------
    names
        Text classes seen before, in order of appearance.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._index = StringIndex()
        self._values = np.empty(0)
        self._of_text(Strings.of(names))

    @property
    def names(self) -> list[str]:
        """The text classes, in order of appearance."""
        return [name or "" for name in self._index.texts(0, len(self._index)).to_list()]

    def numbers(self, values: Values) -> Floats:
        """Return (n,) numbers: equal for equal classes, NaN where a row has none."""
        if not values.tags.any():
            return np.full(len(values), np.nan)
        found = np.where(values.tags >= FALSE, values.tags == TRUE, values.numbers)
        text = np.flatnonzero(values.tags == TEXT)
        if len(text):
            found[text] = self._of_text(values.strings.take(text))
        return np.asarray(found, np.float64)

    def _of_text(self, texts: Strings) -> Floats:
        codes = self._index.add(texts)
        known = len(self._values)
        if len(self._index) > known:
            new = [self._value(code) for code in range(known, len(self._index))]
            self._values = np.concatenate([self._values, new])
        return np.asarray(self._values[codes])

    def _value(self, code: int) -> float:
        text = self._index[code]
        return float(int(text)) if _INTEGER.fullmatch(text) else _TEXT - code


def numbers_only(values: Floats) -> Floats:
    """Return (n,) values with NaN for text classes: a regression cannot compare those."""
    return np.where(values <= _TEXT, np.nan, values)
