"""Where a block of the join is cut, so that environments that share ids may be joined many events at a time."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..core.columns import Bytes, Floats, Ints, Strings
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
    found: list[int] = []
    last: dict[int, int] = {}  # the event at which an id's predictions got a label
    cut = 0
    for step, event in enumerate(order.tolist()):
        name = int(ids[event])
        if event >= len(made):
            last[name] = step
            continue
        at = int(made[event])
        bit = 1 << int(predictions.environment[at])
        if known[name] & bit:
            if own[at]:
                last[name] = step
            continue
        if known[name] and last.get(name, -1) >= cut:
            found.append(at)
            cut = step
        if is_waiting[name] or name in last or (own[at] and known[name]):
            last[name] = step
        known[name] |= bit
    return found
