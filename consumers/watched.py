"""Rows cut where a stream has its first value: from there on it is watched, whatever else came in the same batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats
from ..detectors.latest_values import MISSING_FOLLOWED

_log = logging.getLogger(__name__)


class Piece(NamedTuple):
    """Consecutive rows within which no stream begins: which, and the (n, k) values of (k,) streams in them."""

    rows: slice
    names: tuple[str, ...]
    values: Floats


def pieces(
    names: tuple[str, ...],
    values: Floats,
    watched: dict[str, int],
    most: int,
    missed: dict[int, list[str]],
) -> Iterator[Piece]:
    """Yield values in pieces, and watch new streams as long as there are fewer than `most`.

    Parameters
    ----------
    names, values
        (k,) streams and their (n, k) values, NaN where there is none.
    watched
        Streams to their numbers, in the order of their first values; new ones are added.
    most
        How many may be watched. Once there are so many, a warning says that no more are.
    missed
        Filled at the end: by a number of rows, the streams that missed a value in so many without being shown.

    Notes
    -----
    The first 256 streams are shown in each row, since whether they miss a value is watched; of any other that is
    counted only. So an event with a name that nobody has heard of costs what those and its own values do, however
    many names came before.
    """
    if watched.keys() == set(names):
        yield Piece(slice(None), names, values)
        return
    present, count = ~np.isnan(values), len(values)
    starting = _starting(names, present, watched, most)
    number = np.array([watched.get(name, -1) for name in names], np.int64)
    absent = watched.keys() - set(names)
    dense = [name for name in absent if watched[name] < MISSING_FOLLOWED]
    left = np.where(number < 0, 0, count)  # rows in which a stream has not been shown
    for begin, end in pairwise(sorted({0, *starting, count})):
        for column in starting.get(begin, ()):
            number[column] = watched[names[column]] = len(watched)
            left[column] = count - begin
        rows = slice(begin, end)
        is_shown = (number < MISSING_FOLLOWED) | present[rows].any(axis=0)
        columns = np.flatnonzero((number >= 0) & is_shown)
        left[columns] -= end - begin
        shown = values[rows][:, columns]
        if dense:
            shown = np.column_stack([shown, np.full((end - begin, len(dense)), np.nan)])
        yield Piece(rows, (*(names[column] for column in columns.tolist()), *dense), shown)
    missed[count] = [name for name in absent if watched[name] >= MISSING_FOLLOWED]
    for column in np.flatnonzero(left).tolist():
        missed.setdefault(int(left[column]), []).append(names[column])


def _starting(
    names: tuple[str, ...], present: NDArray[np.bool_], watched: dict[str, int], most: int
) -> dict[int, list[int]]:
    """Return the columns of new streams by the row of their first value, in the order of their names."""
    first = np.where(present.any(axis=0), present.argmax(axis=0), len(present)).tolist()
    begins = sorted(
        (first[column], name, column)
        for column, name in enumerate(names)
        if name not in watched and first[column] < len(present)
    )
    room = most - len(watched)
    if 0 < room <= len(begins):  # said once, by who takes the last place
        _log.warning("no more features are watched", extra={"streams": most})
    starting: dict[int, list[int]] = {}
    for row, _, column in begins[: max(room, 0)]:
        starting.setdefault(row, []).append(column)
    return starting
