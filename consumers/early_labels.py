"""Labels whose predictions have not come yet; bounded, in order of arrival."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..core.columns import Floats, Ints, Strings
from ..detectors.string_index import StringIndex


class Early(NamedTuple):
    """A label that waits, one for each id: the one with the greatest (revision, observed)."""

    label: float
    revision: int
    observed: int


class EarlyLabels:
    """Labels that wait for their predictions.

    Parameters
    ----------
    seconds
        How long a label waits, in event time.
    most
        How many may wait.

    Attributes
    ----------
    ids
        Of those that wait, and of those among them whose prediction has come since.
    """

    def __init__(self, seconds: float, most: int) -> None:
        self.ids = StringIndex()
        self._wait = int(seconds * 1e9)
        self._most = most
        self._labels: list[Early | None] = []  # None: its prediction came

    def add(self, ids: Strings, label: Floats, revision: Ints, observed: Ints) -> int:
        """Keep (n,) labels for a while; return of how many the id has one that waits already."""
        repeated = 0
        codes = (self.ids.add(ids) - self.ids.first).tolist()
        for code, *new in zip(
            codes, label.tolist(), revision.tolist(), observed.tolist(), strict=True
        ):
            early = Early(*new)
            if code == len(self._labels):
                self._labels.append(early)
                continue
            other = self._labels[code]
            if other is None or early[1:] > other[1:]:
                self._labels[code] = early
            repeated += other is not None
        return repeated

    def take(self, ids: Strings) -> tuple[Ints, list[Early]]:
        """Return which of (n,) ids a label has waited for, and these labels, which wait no longer."""
        codes = self.ids.find(ids)
        at: list[int] = []
        labels: list[Early] = []
        for i in np.flatnonzero(codes >= 0).tolist():
            place = int(codes[i]) - self.ids.first
            early, self._labels[place] = self._labels[place], None
            if early is not None:
                at.append(i)
                labels.append(early)
        return np.array(at, np.int64), labels

    def expire(self, watermark: int) -> int:
        """Forget what is too much or too old; return how many of these waited in vain."""
        drop = max(0, len(self._labels) - self._most)
        while drop < len(self._labels):
            early = self._labels[drop]
            if early is not None and early.observed + self._wait >= watermark:
                break
            drop += 1
        unmatched = sum(early is not None for early in self._labels[:drop])
        del self._labels[:drop]
        self.ids.forget(self.ids.first + drop)
        return unmatched

    def state(self) -> dict[str, Any]:
        """Return the whole state."""
        waiting = self.ids.texts(self.ids.first, len(self.ids)).to_list()
        return {"first": self.ids.first, "waiting": waiting, "early": self._labels}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.ids.restore(Strings.of(state["waiting"]), state["first"])
        self._labels = [None if early is None else Early(*early) for early in state["early"]]
