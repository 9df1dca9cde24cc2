"""Where a block of the join is cut, so that environments that share ids may be joined many events at a time."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Bytes, Floats, Ints, Strings
from ..detectors.compiled import compiled
from ..detectors.string_index import StringIndex
from .pending import PendingTable


class Events(Protocol):
    """Events in the order of the log, (n,) each."""

    @property
    def ids(self) -> Strings:
        """Prediction ids."""
        ...

    @property
    def offsets(self) -> Ints:
        """Of the record."""
        ...

    @property
    def rows(self) -> Ints:
        """Within the record."""
        ...


class Made(Events, Protocol):
    """Predictions."""

    @property
    def environment(self) -> Bytes:
        """Codes."""
        ...

    @property
    def label(self) -> Floats:
        """What came with them, NaN for none."""
        ...


def cuts(predictions: Made, labels: Events, table: PendingTable, waiting: StringIndex) -> list[int]:
    """Return the places of the predictions before which a block is cut, ascending.

    A prediction that is new in its environment takes the label that its id has in another one. Where that label may be of
    this block it must be in the table first. A cut serves all predictions whose labels stand before it: there are few, unless label
    and prediction follow one another closely.

    Parameters
    ----------
    predictions, labels
        The block's.
    table
        The predictions before it.
    waiting
        Ids of labels that wait.
    """
    own = ~np.isnan(predictions.label)
    if not len(own) or not (len(labels.offsets) or waiting.live or own.any()):
        return []
    index = StringIndex()
    codes, of_labels = index.add(predictions.ids), index.find(labels.ids)
    is_waiting = np.zeros(len(index), np.bool_)
    if waiting.live:
        is_waiting[codes[waiting.find(predictions.ids) >= 0]] = True
    gets_one = is_waiting.copy()
    gets_one[of_labels[of_labels >= 0]] = True
    for code in table.environments:
        # A label that comes with a prediction changes that of a known one, or of another environment's, which a third may take.
        is_taken = own if len(table.environments) > 2 else own & (predictions.environment == code)
        ours = np.flatnonzero(is_taken)
        gets_one[codes[ours[table.find(predictions.ids.take(ours), code) >= 0]]] = True
    made, truth = np.flatnonzero(gets_one[codes]), np.flatnonzero(of_labels >= 0)
    if not len(made):
        return []
    known = np.zeros(len(index), np.int64)  # bits of the environments that have the id
    for code in table.environments:
        known[codes[made[table.find(predictions.ids.take(made), code) >= 0]]] |= 1 << code
    order = np.lexsort(
        (
            np.concatenate([predictions.rows[made], labels.rows[truth]]),
            np.concatenate([predictions.offsets[made], labels.offsets[truth]]),
        )
    )
    ids = np.concatenate([codes[made], of_labels[truth]])
    found = np.empty(len(made), np.int64)
    bits = np.int64(1) << predictions.environment[made].astype(np.int64)
    count = _cuts(order, ids, bits, own[made], known, is_waiting, found)
    places: list[int] = made[found[:count]].tolist()
    return places


@compiled
def _cuts(
    order: Ints, ids: Ints, bits: Ints, own: NDArray[np.bool_], known: Ints,
    is_waiting: NDArray[np.bool_], found: Ints,
) -> int:  # fmt: skip
    """Go through predictions, the first of `ids`, and labels in the log's order; fill the predictions before which to cut, return how many.

    `known` are the environments that have an id, as bits; it is written to.
    """
    last = np.full(len(known), -1)  # the event at which an id's predictions got a label
    count = cut = 0
    for step in range(len(order)):
        event = order[step]
        name = ids[event]
        if event >= len(bits):
            last[name] = step
        elif known[name] & bits[event]:
            if own[event]:
                last[name] = step
        else:
            if known[name] and last[name] >= cut:
                found[count] = event
                count += 1
                cut = step
            if is_waiting[name] or last[name] >= 0 or (own[event] and known[name]):
                last[name] = step
            known[name] |= bits[event]
    return count
