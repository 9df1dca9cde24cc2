"""Prediction ids as keys of one index: an id is one prediction of a model in each environment."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from typing import Final

import numpy as np

from ..core.columns import Bytes, Ints, Strings
from ..detectors.compiled import compiled

_MARK: Final = 0xF8
"""Added to the code of an environment: a byte that no UTF-8 text holds, so that no id ends with it."""


@compiled
def _mark(
    data: Bytes, start: Ints, end: Ints, environment: Bytes, home: int, keys: Bytes, at: Ints
) -> None:
    """Write texts one after another to `keys`, `at` (n + 1,) bounds them; outside of `home` with a mark behind."""
    to = 0
    for i in range(start.shape[0]):
        for k in range(start[i], end[i]):
            keys[to] = data[k]
            to += 1
        if environment[i] != home:
            keys[to] = _MARK + environment[i]
            to += 1
        at[i + 1] = to


def marked(ids: Strings, environment: Bytes, home: int) -> Strings:
    """Return the (n,) keys of ids, none missing: an id itself in environment `home`, in another one with its mark behind."""
    keys = np.empty(int((ids.end - ids.start).sum()) + len(ids), np.uint8)
    at = np.zeros(len(ids) + 1, np.int64)
    _mark(ids.data, ids.start, ids.end, environment, home, keys, at)
    return Strings(keys, at[:-1], at[1:])


def unmarked(keys: Strings, environment: Bytes, home: int) -> Strings:
    """Return the ids of keys that stand one after another, as they were before `marked`."""
    is_marked = environment != home
    if not is_marked.any():
        return keys
    begin = int(keys.start[0])
    is_text = np.ones(int(keys.end[-1]) - begin, np.bool_)
    is_text[keys.end[is_marked] - 1 - begin] = False
    end = np.cumsum(keys.end - keys.start - is_marked)
    return Strings(
        keys.data[begin : int(keys.end[-1])][is_text],
        np.concatenate([np.zeros(1, np.int64), end[:-1]]),
        end,
    )
