"""Keys of rows by their bytes alone: equal rows have equal keys, others hardly ever."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false, reportOperatorIssue=false
# mypy: disable-error-code="arg-type,assignment,operator"

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled
from .fingerprint_kernel import Keys, mixed


def content_keys(rows: NDArray[Any]) -> Keys:
    """Return (n,) keys of 64 bits of (n, ...) rows of one type.

    Two different rows have one key with a probability of about 2^-64; 0.0 and -0.0 are different.
    """
    n = len(rows)
    flat = np.ascontiguousarray(rows).reshape(n, -1).view(np.uint8)
    over = -flat.shape[1] % 8
    if over:
        flat = np.pad(flat, ((0, 0), (0, over)))
    keys = np.empty(n, np.uint64)
    _keys(flat.view(np.uint64), keys)
    return keys


@compiled
def _keys(words: Keys, keys: Keys) -> None:
    """Fill the keys of (n, w) words: each step is one to one in the word and in what came before."""
    for i in range(words.shape[0]):
        h = np.uint64(0x9E3779B97F4A7C15)
        for j in range(words.shape[1]):
            h = (h ^ words[i, j]) * np.uint64(0xBF58476D1CE4E5B9)
            h ^= h >> np.uint64(32)
        keys[i] = mixed(h)
