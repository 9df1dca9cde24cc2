"""Batches of one model, read in different ways, to batches in the order of the log. No decoding lives here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from .batch import MAX_CELLS, EventBatch, LabelBatch
from .columns import Floats, Ints, Strings, Values

B = TypeVar("B", EventBatch, LabelBatch)


def in_log_order(batches: Sequence[B]) -> Iterator[B]:
    """Yield the rows of `batches`, each of which is in the order of the log, in that order.

    Rows of several come in one batch, cut where the width of the logits or embedding changes, and where
    rows times names would pass `MAX_CELLS`.
    """
    if len(batches) < 2:
        yield from batches
        return
    which = np.repeat(np.arange(len(batches)), [len(batch) for batch in batches])
    place = np.concatenate([np.arange(len(batch)) for batch in batches])
    order = np.lexsort(
        (
            np.concatenate([batch.rows for batch in batches]),
            np.concatenate([batch.offsets for batch in batches]),
        )
    )
    which, place = which[order], place[order]
    widths: Ints = np.array([_widths(batch) for batch in batches])[which]
    cuts: Ints = np.flatnonzero((np.diff(widths, axis=0) != 0).any(axis=1)) + 1
    most = max(1, MAX_CELLS // max(1, len({name for b in batches for name in _names(b)})))
    for begin, stop in pairwise([0, *cuts.tolist(), len(which)]):
        for at in range(begin, stop, most):
            end = min(at + most, stop)
            yield _merged(batches, which[at:end], place[at:end])


def _widths(batch: EventBatch | LabelBatch) -> tuple[int, int]:
    if isinstance(batch, LabelBatch):
        return 0, 0
    logits, embedding = batch.logits, batch.embedding
    return (
        0 if logits is None else logits.shape[1],
        0 if embedding is None else embedding.shape[1],
    )


def _names(batch: EventBatch | LabelBatch) -> list[str]:
    if isinstance(batch, LabelBatch):
        return []
    return [*batch.feature_names, *batch.texts, *batch.score_names, *batch.segments]


def _merged(batches: Sequence[B], which: Ints, place: Ints) -> B:
    """Return the rows `place` of the batches `which`, both (n,), as one batch."""
    used = np.unique(which).tolist()
    parts: list[Any] = [batches[k].take(place[which == k]) for k in used]
    if len(parts) == 1:
        only: B = parts[0]
        return only
    order = np.argsort(np.concatenate([np.flatnonzero(which == k) for k in used]))
    columns: dict[str, Any] = {}
    for field in fields(parts[0]):
        values = [getattr(part, field.name) for part in parts]
        first = values[0]
        if isinstance(first, (Strings, Values)):
            columns[field.name] = type(first).concat(values).take(order)
        elif isinstance(first, dict):
            columns[field.name] = {
                name: Strings.concat(
                    [
                        found.get(name) or Strings.missing(len(part))
                        for found, part in zip(values, parts, strict=True)
                    ]
                ).take(order)
                for name in dict.fromkeys(name for found in values for name in found)
            }
        elif isinstance(first, np.ndarray) and field.name not in ("features", "scores", "inputs"):
            columns[field.name] = np.concatenate(values)[order]
        else:
            columns[field.name] = first
    if isinstance(parts[0], EventBatch):
        if any(part.inputs is not None for part in parts):
            inputs = [np.full(len(p), None) if p.inputs is None else p.inputs for p in parts]
            columns["inputs"] = np.concatenate(inputs)[order]
        for names, of in (("feature_names", "features"), ("score_names", "scores")):
            columns[names], matrix = _union(parts, names, of)
            columns[of] = matrix[order]
        # A name that is text in one part and null in all others is no number.
        is_text = np.array([name in columns["texts"] for name in columns["feature_names"]], bool)
        empty = is_text & np.isnan(columns["features"]).all(axis=0)
        kept = np.flatnonzero(~empty).tolist()
        columns["feature_names"] = tuple(columns["feature_names"][k] for k in kept)
        columns["features"] = np.ascontiguousarray(columns["features"][:, kept])
    kind: Any = type(parts[0])
    made: B = kind(**columns)
    return made


def _union(parts: Sequence[EventBatch], names: str, of: str) -> tuple[tuple[str, ...], Floats]:
    """Return all names, and the parts' matrices below one another, NaN where a part has no such name."""
    every = tuple(dict.fromkeys(name for part in parts for name in getattr(part, names)))
    column = {name: k for k, name in enumerate(every)}
    matrix = np.full((sum(map(len, parts)), len(every)), np.nan)
    at = 0
    for part in parts:
        own = [column[name] for name in getattr(part, names)]
        matrix[at : at + len(part), own] = getattr(part, of)
        at += len(part)
    return every, matrix
