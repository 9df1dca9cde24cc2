"""Small parts of pictures that several of one class have at one place, number by number, and hardly any other picture has."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

SIDE: Final = 3
"""Rows and columns of a part: the smallest trigger that is looked for."""
_LEAST: Final = 5  # pictures that have it
_RARE: Final = 0.1  # of other pictures, that may have it; chosen
_PLAIN: Final = 0.2
"""Of all parts of other pictures that are the same: the ground that things are on."""
_SAMPLED: Final = 1 << 16  # parts, by which that is told
_STEPS: Final = 1000  # of the range of pictures' numbers, within one of which they are the same
_APART: Final = 2  # rows or columns, from which on two places are two


def frequent_places(
    inputs: torch.Tensor, others: torch.Tensor, most: int
) -> list[tuple[int, int, NDArray[np.bool_]]]:
    """Return where pictures have a part in common, what is most unlike the others first.

    Parameters
    ----------
    inputs, others
        (n, channels, height, width) of one class, and (m, channels, height, width) of all others.
    most
        So many places.

    Returns
    -------
    The first row and column of each, and the (n,) pictures that have the part there.
    """
    if len(inputs) < _LEAST or not len(others):
        return []
    width = inputs.shape[3] - SIDE + 1
    inputs, others = (x.detach().cpu().double().nan_to_num(0.0, 0.0, 0.0) for x in (inputs, others))
    span = max(float(x.max()) for x in (inputs, others)) - min(float(x.min()) for x in (inputs, others))  # fmt: skip
    own, rest = (_keys(x, _STEPS / (span or 1.0)) for x in (inputs, others))
    order = np.sort(own, axis=0)
    run, longest, key = np.ones(own.shape[1]), np.ones(own.shape[1]), order[0].copy()
    for before, now in pairwise(order):
        run = np.where(before == now, run + 1, 1)
        is_longer = run > longest
        longest[is_longer], key[is_longer] = run[is_longer], now[is_longer]
    some = rest.ravel()[:: -(-rest.size // _SAMPLED)]
    kinds, counts = np.unique(some, return_counts=True)
    plain = kinds[counts > _PLAIN * some.size]
    elsewhere = (rest == key).mean(axis=0)
    lift = longest / len(own) - elsewhere
    lift[(longest < _LEAST) | (elsewhere > _RARE) | np.isin(key, plain)] = 0.0
    found: list[tuple[int, int, NDArray[np.bool_]]] = []
    for at in np.argsort(-lift, kind="stable"):
        if len(found) == most or lift[at] <= 0.0:
            break
        row, column = divmod(int(at), width)
        if all(max(abs(row - r), abs(column - c)) > _APART for r, c, _ in found):
            found.append((row, column, own[:, at] == key[at]))
    return found


def _keys(x: torch.Tensor, scale: float) -> NDArray[Any]:
    """Return (n, places) whole numbers that are equal where parts are: sums of theirs, each times another number."""
    weights = torch.rand(
        1, x.shape[1], SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    sums = functional.conv2d(x, weights) * scale
    return sums.round().flatten(1).numpy()
