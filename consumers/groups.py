"""Groups of predictions by segment: values as small numbers in one integer a row, and what crossing them makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np

from ..core.columns import Ints, Strings
from ..core.errors import StateError
from ..core.names import CROSS, LONGEST_SEGMENT, is_segment
from ..core.snapshot import pack, unpack
from ..detectors.string_index import StringIndex

VERSION: Final = "version"
"""The segment that every model has: its version."""
ALL: Final = 0
"""The group of all predictions."""
_BITS: Final = 6
MOST_SEGMENTS: Final = 10  # of six bits each, in 63
MOST_VALUES: Final = (1 << _BITS) - 2
_BEYOND: Final = (1 << _BITS) - 1


class Groups:
    """Which groups a prediction belongs to.

    A row's segments are one number, six bits a segment: 0 for none, 1 to 62 for a value, 63 for one beyond these. A group
    is such a number of which all but the bits of its segments are 0, so it needs no table.

    Parameters
    ----------
    segments
        Names to be told apart, and names with `*` between them to be crossed; `all` for the first ten that come.

    Notes
    -----
    The first 62 values of a segment, of 100 bytes at most, are told apart; predictions with others are in no group of that segment. State: which
    came first must not depend on when a worker was started.
    """

    def __init__(self, segments: Literal["all"] | list[str] = "all") -> None:
        self._takes_all = segments == "all"
        wanted = [] if segments == "all" else segments
        names = dict.fromkeys(part for name in wanted for part in name.split(CROSS))
        self._names = list(names)
        self._values = [StringIndex() for _ in names]
        self._crossed = [tuple(name.split(CROSS)) for name in wanted if CROSS in name]
        self._single = [name for name in wanted if CROSS not in name]
        self.unusable = 0
        """Segments of predictions that make no group, since their names hold a `*` or are too long."""
        self.again: list[str] = []
        """What was not told apart before the state was restored, although earlier predictions are known to be in its groups."""
        self.changes = 0
        """Goes up whenever the state does; a store need not write it again in between."""

    def codes(self, segments: Mapping[str, Strings], version: Strings) -> Ints:
        """Return (n,) the segments of rows as one number each."""
        columns = {VERSION: version, **segments} if VERSION not in segments else segments
        for name, column in segments.items():
            if not is_segment(name):
                self.unusable += int(column.present.sum())
                self.changes += 1
        if self._takes_all:
            self._meet(columns)
        found = np.zeros(len(version), np.int64)
        for place, name in enumerate(self._names):
            texts = columns.get(name)
            if texts is not None and np.count_nonzero(texts.present):
                found |= self._numbers(place, texts) << (_BITS * place)
        return found

    def _meet(self, columns: Mapping[str, Strings]) -> None:
        """Take in new segments in the order of the first row that has each."""
        new = [
            (int(texts.present.argmax()), name)
            for name, texts in columns.items()
            if name not in self._names and np.count_nonzero(texts.present)
        ]
        for _, name in sorted(new):
            if len(self._names) < MOST_SEGMENTS and is_segment(name):
                self._names.append(name)
                self._values.append(StringIndex())
                self._single.append(name)
                self.changes += 1

    def _numbers(self, place: int, texts: Strings) -> Ints:
        index = self._values[place]
        found = index.find(texts) + 1
        is_long = texts.end - texts.start > LONGEST_SEGMENT
        found[is_long] = _BEYOND
        unknown = np.flatnonzero(texts.present & (found == 0))
        while len(unknown):
            if len(index) >= MOST_VALUES:
                found[unknown] = _BEYOND
                break
            index.add(texts.take(unknown[:1]))
            self.changes += 1
            found[unknown] = index.find(texts.take(unknown)) + 1
            unknown = unknown[found[unknown] == 0]
        return found

    def of(
        self, codes: Ints, spans: Ints | None = None, begins: Mapping[str, int] | None = None
    ) -> Ints:
        """Return the (n, k) groups of rows: all, then one of each segment and crossing that some row has; -1 for none.

        `begins` are segments and crossings that have groups from a span on only, `spans` the (n,) spans of rows.
        """
        found = [np.zeros(len(codes), np.int64)]
        there = int(np.bitwise_or.reduce(codes)) if self._names else 0
        if not there:
            return found[0][:, None]
        place = {name: k for k, name in enumerate(self._names)}
        for names in (*((name,) for name in self._single), *self._crossed):
            if all(there & (_BEYOND << (_BITS * place[name])) for name in names):
                group = self.group(codes, names)
                begin = (begins or {}).get(CROSS.join(names))
                if begin is not None and spans is not None:
                    group = np.where(spans >= begin, group, -1)
                found.append(group)
        return np.stack(found, axis=1)

    @property
    def wanted(self) -> list[str]:
        """Segments and crossings that are told apart."""
        return [*self._single, *(CROSS.join(names) for names in self._crossed)]

    def group(self, codes: Ints, names: tuple[str, ...]) -> Ints:
        """Return the (n,) groups of rows by one segment or several that are crossed, -1 for none."""
        if not set(names) <= set(self._names):
            return np.full(len(codes), -1)
        masks = [_BEYOND << (_BITS * self._names.index(name)) for name in names]
        inside = np.ones(len(codes), np.bool_)
        for mask in masks:
            inside &= (codes & mask != 0) & (codes & mask != mask)
        return np.where(inside, codes & sum(masks), -1)

    def is_wanted(self, group: int) -> bool:
        """Whether a group is of a segment, or a crossing, that is told apart now; settings may have named others before."""
        names = {
            name for k, name in enumerate(self._names) if group >> (_BITS * k) & _BEYOND
        }  # fmt: skip
        if len(names) <= 1:
            return names <= set(self._single)
        return any(names == set(crossed) for crossed in self._crossed)

    def value(self, group: int, names: tuple[str, ...]) -> str:
        """Return a group's values of these segments, with commas between."""
        places = [self._names.index(name) for name in names]
        numbers = [group >> (_BITS * place) & _BEYOND for place in places]
        return ",".join(self._values[p][n - 1] for p, n in zip(places, numbers, strict=True))

    def name(self, group: int) -> str:
        """Return a group's name: `sex=F`, `sex=F race=2`; empty for all."""
        parts = []
        for place, name in enumerate(self._names):
            value = group >> (_BITS * place) & _BEYOND
            if value:
                parts.append(f"{name}={self._values[place][value - 1]}")
        return " ".join(parts)

    def snapshot(self) -> bytes:
        """Return the whole state."""
        values = [index.texts(0, len(index)).to_list() for index in self._values]
        meta = {
            "names": self._names, "values": values, "unusable": self.unusable, "wanted": self.wanted,
        }  # fmt: skip
        return pack("groups", 1, meta, {})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot; segments that are wanted since come after those that were.

        Raises
        ------
        StateError
            It is damaged, or there would be too many segments.
        """
        meta, _ = unpack("groups", 1, state)
        names: list[str] = [str(name) for name in meta["names"]]
        values: list[StringIndex] = []
        for texts in meta["values"]:
            index = StringIndex()
            index.restore(Strings.of(texts), 0)
            values.append(index)
        wanted = [name for name in self._names if name not in names]
        if len(names) != len(values) or len(names) + len(wanted) > MOST_SEGMENTS:
            raise StateError(
                f"groups: {len(names)} segments with {len(values)} lists of values were stored, {len(wanted)} others are "
                f"wanted, and {MOST_SEGMENTS} is the most"
            )
        if self._takes_all:
            self._single = list(names)
        before = {str(name) for name in meta.get("wanted", self.wanted)}
        self.again = [
            name
            for name in self.wanted
            if name not in before and set(name.split(CROSS)) <= set(names)
        ]
        self.unusable = int(meta.get("unusable", 0))
        self._names = names + wanted
        self._values = values + [StringIndex() for _ in wanted]
