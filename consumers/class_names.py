"""Names of classes by their numbers, so that an alert can say which ones it is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from msgspec.structs import replace

from ..core.columns import Floats, Strings
from ..core.snapshot import pack, unpack
from ..core.verdict import Summary, Verdict
from .class_numbers import is_text

PREDICTION, LABEL, EARLY_LABEL = "prediction", "label", "early label"
"""Columns that all environments of a model have in common; the early ones came with their predictions."""
_COLUMNS, _NAMES = 64, 256  # as many as have names, and names of each; the first ones
_CHARACTERS: Final = 60
_UNNAMED: Final = "?"


class ClassNames:
    """Text by `ClassNumbers`' numbers, of the first 256 texts of each of an environment's first 64 columns.

    Notes
    -----
    State: which texts came first must not depend on when a worker was started.
    """

    def __init__(self) -> None:
        self.changes = 0
        """Goes up whenever the state does; a store need not write it again in between."""
        self._names: dict[str, dict[float, str]] = {}
        self._known: dict[str, Floats] = {}  # the numbers that have names, in their order

    def add(self, column: str, numbers: Floats, texts: Strings) -> None:
        """Remember the (n,) texts that have these numbers."""
        rows = np.flatnonzero(is_text(numbers))
        known = self._known.get(column, np.empty(0))
        if not len(rows) or len(known) >= _NAMES:
            return
        if column not in self._names and self._is_full(column):
            return
        if len(known):
            place = np.minimum(np.searchsorted(known, numbers[rows]), len(known) - 1)
            rows = rows[known[place] != numbers[rows]]
            if not len(rows):
                return
        _, first = np.unique(numbers[rows], return_index=True)
        names = dict(self._names.get(column, {}))
        for row in rows[np.sort(first)][: _NAMES - len(names)].tolist():
            text = texts[row] or ""
            is_long = len(text) > _CHARACTERS
            names[float(numbers[row])] = text[: _CHARACTERS - 1] + "…" if is_long else text
        self.begin(column, names)

    def _is_full(self, column: str) -> bool:
        """Whether its environment has as many columns as may be; of each apart, since rows come by environment."""
        environment = column.partition(" ")[0]
        return sum(of.partition(" ")[0] == environment for of in self._names) >= _COLUMNS

    def begin(self, column: str, names: Mapping[float, str]) -> None:
        """Begin a column with names that are known."""
        self._names[column] = dict(names)
        self._known[column] = np.sort(np.fromiter(names, np.float64))
        self.changes += 1

    def of(self, environment: str, stream: str) -> dict[float, str]:
        """Return the names of a stream's categories by their numbers, as far as they are kept."""
        columns = {PREDICTION: [PREDICTION], LABEL: [PREDICTION, EARLY_LABEL, LABEL]}
        own = columns.get(stream, [feature_column(environment, stream)])
        known: dict[float, str] = {}
        for column in (feature_column("training", stream), *own):
            known |= self._names.get(column, {})
        return known

    def namer(self) -> Callable[[float], str]:
        """Return what names a class by its number, of all environments: an integer is its own name."""
        known = self.of("training", LABEL)

        def name(number: float) -> str:
            return known.get(number) or (
                _UNNAMED if is_text(np.array([number]))[0] else f"{number:.15g}"
            )

        return name

    def tell(self, environment: str, verdict: Verdict) -> Verdict:
        """Return a verdict with names for the numbers of its categories; an integer is its own name."""
        before, now = verdict.reference, verdict.current
        if not verdict.newcomers and (before is None or not before.categories):
            return verdict
        known = self.of(environment, verdict.subject)

        def named(numbers: list[str]) -> list[str]:
            values = np.array([float(number) for number in numbers])
            return [
                known.get(float(value), _UNNAMED) if text else number
                for value, text, number in zip(values, is_text(values), numbers, strict=True)
            ]

        def shown(summary: Summary | None) -> Summary | None:
            return summary and replace(summary, categories=named(summary.categories))

        return replace(
            verdict, reference=shown(before), current=shown(now), newcomers=named(verdict.newcomers)
        )

    def snapshot(self) -> bytes:
        """Return the whole state."""
        names = {column: list(of.items()) for column, of in sorted(self._names.items())}
        return pack("class_names", 1, names, {})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot."""
        found, _ = unpack("class_names", 1, state)
        names = {column: {float(n): str(text) for n, text in of} for column, of in found.items()}
        self._names = {}
        for column, of in names.items():
            self.begin(column, of)


def feature_column(environment: str, stream: str) -> str:
    """Return where the names of an environment's stream are kept."""
    return f"{environment} {stream}"
