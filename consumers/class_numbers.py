"""Classes and numbers on one scale, so that predictions and labels are compared without being parsed."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import FALSE, NULL, TEXT, TRUE, Bytes, Floats, Ints, Strings, Values
from ..detectors.base import usable
from ..detectors.compiled import compiled
from ..detectors.string_index import StringIndex

_TEXT: Final = -(2.0**52)
"""Text classes are this and below: exact in a 64-bit float, and no prediction of a number."""
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,14})")
_REMEMBERED, _REMEMBERED_BYTES = 1 << 16, 1 << 22  # texts; beyond either, that memory starts anew


class ClassNumbers:
    """Text to numbers; a text that is an integer is that integer, so that "1" and 1 are one class.

    Notes
    -----
    The number of any other text is 52 bits of its BLAKE2b hash, below `_TEXT`: it does not depend on which
    texts came before, so nothing here is state. What is remembered makes it faster.
    """

    def __init__(self) -> None:
        self._index = StringIndex()
        self._values = np.empty(0)

    def numbers(self, values: Values) -> Floats:
        """Return (n,) numbers: equal for equal classes, NaN where a row has none."""
        found, strings = np.empty(len(values)), values.strings
        if _plain(values.tags, values.numbers, strings.data, strings.start, strings.end, found):
            text = np.flatnonzero(values.tags == TEXT)
            found[text] = self.of_text(strings.take(text))
        return found

    def of_text(self, texts: Strings) -> Floats:
        """Return (n,) numbers of a column of text, NaN where a row has none."""
        if len(texts) and (texts.end - texts.start == 1).all():
            digits = texts.data[texts.start] - ord("0")
            if (digits < 10).all():  # `0` and `1`, which need not be looked up
                return digits.astype(np.float64)
        if len(self._index) > _REMEMBERED or self._index.size > _REMEMBERED_BYTES:
            self._index, self._values = StringIndex(), np.empty(0)
        codes = self._index.add(texts)
        new = [_number(self._index[code]) for code in range(len(self._values), len(self._index))]
        if new:
            self._values = np.concatenate([self._values, new])
        found = np.full(len(texts), np.nan)
        found[codes >= 0] = self._values[codes[codes >= 0]]
        return found


@compiled
def _plain(
    tags: Bytes, numbers: Floats, data: Bytes, start: Ints, end: Ints, found: Floats
) -> bool:
    """Fill the numbers of all values but texts other than `0` to `9`; return whether there are such."""
    is_other = False
    for i in range(tags.shape[0]):
        if tags[i] >= FALSE:
            found[i] = 1.0 if tags[i] == TRUE else 0.0
        elif tags[i] == TEXT:
            digit = np.int64(data[start[i]]) - 48 if end[i] - start[i] == 1 else -1
            found[i] = digit
            is_other = is_other or not 0 <= digit < 10
        else:
            found[i] = np.nan if tags[i] == NULL else numbers[i]
    return is_other


def _number(text: str) -> float:
    if _INTEGER.fullmatch(text):
        return float(int(text))
    return _TEXT - (int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 12)


def is_text(numbers: Floats) -> NDArray[np.bool_]:
    """Whether each of (n,) numbers stands for a text that is no integer."""
    return np.asarray(numbers <= _TEXT)


def numbers_only(values: Floats) -> Floats:
    """Return (n,) values with NaN for text classes: a regression cannot compare those."""
    return np.where(is_text(values), np.nan, values)


def difference(predicted: Floats, label: Floats) -> Floats:
    """Return (n,) predictions less labels, numbers only: NaN where either is missing, infinite where one is too large to compute with."""
    predicted, label = numbers_only(predicted), numbers_only(label)
    found = np.where(np.isnan(predicted) | np.isnan(label), np.nan, np.inf)
    return np.subtract(predicted, label, out=found, where=usable(predicted) & usable(label))
