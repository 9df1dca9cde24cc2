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

FIELDS: Final = (
    "model", "environment", "time",
    "prediction_id", "version", "client", "prediction", "label", "sample_rate", "revision",
)  # fmt: skip
_MODEL, _ENVIRONMENT, _TIME, _ID, _PREDICTION, _RATE = 0, 1, 2, 3, 6, 8


class Layout(NamedTuple):
    """Where the shapes have what, and what it may be.

    Parameters
    ----------
    fields
        (shapes, fields) scalars of `FIELDS`, -1 where a shape has none; the time of labels is `observed_at`.
    first_rule
        (shapes + 1,) where the rules of a shape begin.
    scalar, tags
        (rules,) which scalar a rule is of, and the bits of the tags that it may have.
    low, high
        (rules,) bounds of a number, and of the bytes of a text.
    """

    fields: Ints
    first_rule: Ints
    scalar: Ints
    tags: Ints
    low: Floats
    high: Floats


@compiled
def judge(
    data: Bytes, shape: Ints, first: Ints, tags: Bytes, numbers: Floats, start: Int32s, end: Int32s,
    fields: Ints, first_rule: Ints, scalar: Ints, allowed: Ints, low: Floats, high: Floats,
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
        cell = first[i] + fields[of, _TIME]
        if fields[of, _TIME] >= 0 and start[cell] >= 0:
            time = parse_time(data, start[cell], end[cell])
            if time == NO_TIME:
                shape[i] = -1
            else:
                times[i] = time
        if shape[i] < 0:
            continue
        for field in (_MODEL, _ENVIRONMENT):
            if fields[of, field] >= 0:
                cell = first[i] + fields[of, field]
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
def plain_columns(
    order: Ints, shape: Ints, first: Ints, tags: Bytes, numbers: Floats, start: Int32s, end: Int32s,
    fields: Ints, out_start: Ints, out_end: Ints, out_tags: Bytes, out_numbers: Floats,
) -> None:  # fmt: skip
    """Fill columns of rows `order`, each a row of these matrices.

    Of prediction_id, version, client, prediction and label their spans, -1 where there is no text; of
    prediction, label, sample_rate and revision tags and numbers, NULL and NaN where there is none.
    """
    for k in range(order.shape[0]):
        i = order[k]
        for field in range(_ID, len(FIELDS)):
            scalar = fields[shape[i], field]
            cell = first[i] + scalar
            if field < _RATE:
                out_start[field - _ID, k] = start[cell] if scalar >= 0 else -1
                out_end[field - _ID, k] = end[cell] if scalar >= 0 else -1
            if field >= _PREDICTION:
                out_tags[field - _PREDICTION, k] = tags[cell] if scalar >= 0 else NULL
                out_numbers[field - _PREDICTION, k] = numbers[cell] if scalar >= 0 else np.nan
