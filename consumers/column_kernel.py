"""Compiled passes over the cells of JSON rows: whether they are as their types ask, whose they are, and plain fields as columns."""

# numba decides what is an integer and what an array's element:
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from ..core.columns import NULL, TEXT, Bytes, Floats, Ints
from ..detectors.compiled import compiled
from .json_kernel import Int32s
from .time_kernel import NO_TIME, parse_time

TEXTS: Final = ("model", "environment", "prediction_id", "version", "client", "time")
VALUES: Final = ("prediction", "label", "sample_rate", "revision")
_MODEL, _ENVIRONMENT, _TIME = 0, 1, 5


class Layout(NamedTuple):
    """Where the shapes have what, and what it may be.

    Parameters
    ----------
    texts, values
        (shapes, fields) scalars of `TEXTS` and `VALUES`, -1 where a shape has none.
    first_rule
        (shapes + 1,) where the rules of a shape begin.
    scalar, tags
        (rules,) which scalar a rule is of, and the bits of the tags that it may have.
    low, high
        (rules,) bounds of a number, and of the bytes of a text.
    """

    texts: Ints
    values: Ints
    first_rule: Ints
    scalar: Ints
    tags: Ints
    low: Floats
    high: Floats


@compiled
def judge(
    data: Bytes, shape: Ints, first: Ints, tags: Bytes, numbers: Floats, start: Int32s, end: Int32s,
    texts: Ints, first_rule: Ints, scalar: Ints, allowed: Ints, low: Floats, high: Floats,
    times: Ints, spans: Ints,
) -> None:  # fmt: skip
    """Take the shape from rows that break a rule; set the times of those that say theirs.

    Fills `spans` (4, n): where names of models and environments begin and end, -1 where there is none.
    """
    spans[:] = -1
    for i in range(shape.shape[0]):
        of = shape[i]
        if of < 0:
            continue
        for rule in range(first_rule[of], first_rule[of + 1]):
            cell = first[i] + scalar[rule]
            value = np.float64(end[cell] - start[cell]) if tags[cell] == TEXT else numbers[cell]
            if (allowed[rule] >> tags[cell]) & 1 == 0 or value < low[rule] or value > high[rule]:
                shape[i] = -1
                break
        cell = first[i] + texts[of, _TIME]
        if texts[of, _TIME] >= 0 and start[cell] >= 0:
            time = parse_time(data, start[cell], end[cell])
            if time == NO_TIME:
                shape[i] = -1
            else:
                times[i] = time
        if shape[i] < 0:
            continue
        for field in (_MODEL, _ENVIRONMENT):
            if texts[of, field] >= 0:
                cell = first[i] + texts[of, field]
                spans[2 * field, i] = start[cell]
                spans[2 * field + 1, i] = end[cell]


@compiled
def sort_rows(codes: Ints, order: Ints, bounds: Ints) -> None:
    """Fill `order` with the rows of each code in turn, and `bounds` (codes + 1,), zeros, with where they begin; below 0 is none."""
    for i in range(codes.shape[0]):
        if codes[i] >= 0:
            bounds[codes[i] + 1] += 1
    for code in range(bounds.shape[0] - 1):
        bounds[code + 1] += bounds[code]
    free = bounds.copy()
    for i in range(codes.shape[0]):
        if codes[i] >= 0:
            order[free[codes[i]]] = i
            free[codes[i]] += 1


@compiled
def text_column(
    order: Ints, shape: Ints, first: Ints, start: Int32s, end: Int32s, scalars: Ints,
    out_start: Ints, out_end: Ints,
) -> None:  # fmt: skip
    """Fill the spans of rows `order`, whose cells are the (shapes,) `scalars`; -1 where there is no text."""
    for k in range(order.shape[0]):
        i = order[k]
        scalar = scalars[shape[i]]
        out_start[k] = start[first[i] + scalar] if scalar >= 0 else -1
        out_end[k] = end[first[i] + scalar] if scalar >= 0 else -1


@compiled
def value_column(
    order: Ints, shape: Ints, first: Ints, tags: Bytes, numbers: Floats, scalars: Ints,
    out_tags: Bytes, out_numbers: Floats,
) -> None:  # fmt: skip
    """Fill the tags and numbers of rows `order`; NULL and NaN where a shape has no such scalar."""
    for k in range(order.shape[0]):
        i = order[k]
        scalar = scalars[shape[i]]
        out_tags[k] = tags[first[i] + scalar] if scalar >= 0 else NULL
        out_numbers[k] = numbers[first[i] + scalar] if scalar >= 0 else np.nan
