"""Bounded fingerprints of the rows of a training reference, and how many served rows are among them; no raw row is kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints, Strings, middle
from ..core.snapshot import check, pack, reading, unpack
from .coincidence import Law, Leak, late, leaked
from .fingerprint_kernel import DIGITS, TIES, Keys, find, find_near, row_keys, text_keys
from .tie_break import key

MOST: Final = 1 << 20
"""Rows of which fingerprints are kept; of a larger reference a share, chosen by the keys themselves."""
KINDS: Final = ("exact", "near")
_KIND: Final = "fingerprints"
_SERVED: Final = "served fingerprints"
_VERSION: Final = 1
_COARSEST: Final = -DIGITS
_FINEST: Final = -290
_WAYS: Final = 3


_key = lru_cache(maxsize=4096)(key)  # they are asked for with every few rows


class RowKeys(NamedTuple):
    """The keys of n rows: `exact` and `near` (n,), and the other ways to round, as `row_keys` fills them."""

    exact: Keys
    near: Keys
    ties: Ints
    other: Keys


class Scheme(NamedTuple):
    """How rows become keys: the sum over columns of a hash of name and value, mixed; the order of columns is no matter.

    A near key is that of the row with each number rounded to three significant digits, or to three decimals where
    these are coarser, and it is looked up both ways where a number lies halfway. So it is that of the row after any
    rounding to three digits or more, half to even, and as float32. Of a column whose typical size is below 0.001,
    three digits of that size stand for three decimals.

    Parameters
    ----------
    numbers, texts
        Names of the columns of numbers, and of those of text.
    steps
        (k,) powers of ten below which the numbers of a column are not told apart; -3 or less.
    """

    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    steps: Ints

    @classmethod
    def fit(cls, values: Floats, numbers: Sequence[str], texts: Sequence[str] = ()) -> Scheme:
        """Return the scheme for columns of the typical sizes of (n, k) values."""
        if values.ndim != 2 or values.shape[1] != len(numbers):
            raise ValueError(
                f"expected (n, {len(numbers)}) values, a column for each name, got {values.shape}"
            )
        steps = np.full(len(numbers), _COARSEST)
        for j, column in enumerate(values.T):
            size = np.abs(column[np.isfinite(column) & (column != 0)])
            typical = middle(size) if len(size) else 1.0
            if typical < 10.0**_COARSEST:  # nobody rounds it to three decimals, which leave nothing
                steps[j] = max(int(np.floor(np.log10(typical))) - DIGITS + 1, _FINEST)
        return cls(tuple(numbers), tuple(texts), steps)

    def keys(self, values: Floats, texts: Sequence[Strings] = ()) -> RowKeys:
        """Return the keys of n rows.

        Parameters
        ----------
        values
            (n, k) numbers, NaN where one is missing, which is a value like others here.
        texts
            The columns of text, each of n rows.
        """
        n = len(values)
        if (
            values.ndim != 2
            or values.shape[1] != len(self.numbers)
            or len(texts) != len(self.texts)
        ):
            raise ValueError(
                f"expected (n, {len(self.numbers)}) numbers and {len(self.texts)} columns of text, "
                f"got {values.shape} and {len(texts)}"
            )
        if any(len(text) != n for text in texts):
            raise ValueError(f"expected columns of text of {n} rows, as there are of numbers")
        sums = np.zeros(n, np.uint64)
        for name, text in zip(self.texts, texts, strict=True):
            text_keys(text.data, text.start, text.end, np.uint64(_key(f"text:{name}")), sums)
        columns = np.array([_key(f"number:{name}") for name in self.numbers], np.uint64)
        found = RowKeys(
            np.empty(n, np.uint64), np.empty(n, np.uint64), np.empty(n, np.int64),
            np.zeros((n, TIES), np.uint64),
        )  # fmt: skip
        row_keys(np.ascontiguousarray(values, np.float64), columns, self.steps, sums, *found)
        return found


class KeyIndex:
    """The different keys of a reference, sorted, with whether each came once, and where first.

    Parameters
    ----------
    keys
        (m,) sorted, all different.
    unique
        (m,) whether it came once.
    first
        (m,) int32: the row of the reference that had the key first.
    law
        What they tell about chance.
    level
        Only keys whose lowest so many bits are 0 are kept, in the reference and in what is looked up.

    Notes
    -----
    13 bytes a key, and 4 to 8 more for a table that bounds the search, which is made anew after `restore`.
    """

    def __init__(
        self, keys: Keys, unique: NDArray[np.bool_], first: NDArray[np.int32], law: Law, level: int
    ) -> None:
        self.keys = keys
        self.unique = unique
        self.first = first
        self.law = law
        self.level = level
        bits = max(len(keys).bit_length(), 1)
        self._shift = 64 - bits
        top = (keys >> np.uint64(self._shift)).astype(np.int64)
        self._buckets = np.searchsorted(top, np.arange((1 << bits) + 1)).astype(np.int32)

    @classmethod
    def of(cls, keys: Keys, most: int = MOST) -> KeyIndex:
        """Return the index of the (n,) keys of a reference, in the order of its rows; of `most` rows at the most."""
        if most < 1:
            raise ValueError(f"most must be 1 or more, got {most}")
        level, rows = 0, np.arange(len(keys))
        while len(rows) > most:
            level += 1
            rows = rows[_sampled(keys[rows], level)]
        found, first, inverse, counts = np.unique(
            keys[rows], return_index=True, return_inverse=True, return_counts=True
        )
        is_late = late(len(keys))[rows]
        recent = np.bincount(inverse.ravel()[is_late > 0], minlength=len(found))
        law = Law.of(counts, recent)
        return cls(found, counts == 1, rows[first].astype(np.int32), law, level)

    @classmethod
    def of_near(cls, rows: RowKeys, most: int = MOST) -> KeyIndex:
        """Return the index of the near keys of n rows, and of what they are when halfway numbers are rounded otherwise.

        Half to even is one way of many, and what is printed with three digits is rounded by what it is in binary. The
        first `_WAYS` such numbers of a row are known both ways: 8 keys a row at the most, and one where
        none of its numbers ends in a 5 after its third digit.
        """
        plain = cls.of(rows.near, most)
        others, of = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for way in range(1, 1 << _WAYS):
            used = [k for k in range(_WAYS) if (way >> k) & 1]
            tied = np.flatnonzero(rows.ties > used[-1])
            others.append(rows.near[tied] + rows.other[tied][:, used].sum(axis=1))
            of.append(tied)
        keys, first, counts = np.unique(
            np.concatenate(others), return_index=True, return_counts=True
        )
        new = (plain.find(keys) < 0) & _sampled(keys, plain.level)
        row = np.concatenate(of)[first]
        places = plain.find(rows.near[row])
        # In a sample a row's own key may be left out: whether it came once is not known then.
        unique = (counts == 1) & (places >= 0)
        unique[unique] = plain.unique[places[unique]]
        order = np.argsort(np.concatenate([plain.keys, keys[new]]))
        return cls(
            np.concatenate([plain.keys, keys[new]])[order],
            np.concatenate([plain.unique, unique[new]])[order],
            np.concatenate([plain.first, row[new].astype(np.int32)])[order], plain.law, plain.level,
        )  # fmt: skip

    def find(self, keys: Keys) -> Ints:
        """Return (n,) places of keys, -1 where there is none."""
        places = np.empty(len(keys), np.int64)
        find(keys, self.keys, self._buckets, self._shift, places)
        return places

    def find_near(self, rows: RowKeys) -> Ints:
        """Return (n,) places of rows by their near keys, -1 where there is none."""
        places = np.empty(len(rows.near), np.int64)
        find_near(
            rows.near, rows.ties, rows.other, self.keys, self._buckets, self._shift, places
        )  # fmt: skip
        return places

    def looked_up(self, keys: Keys) -> int:
        """Return how many of (n,) keys are of the share that is kept."""
        return len(keys) if not self.level else int(self.keeps(keys).sum())

    def keeps(self, keys: Keys) -> NDArray[np.bool_]:
        """Return which of (n,) keys are of that share."""
        return _sampled(keys, self.level)


def _sampled(keys: Keys, level: int) -> NDArray[np.bool_]:
    """Return which keys belong to a share of 2**-level of all (Gibbons 2001, "Distinct sampling", VLDB)."""
    return np.asarray((keys & np.uint64((1 << level) - 1)) == 0)


class Fingerprints:
    """The rows of a training reference, of which nothing is kept but keys; it does not change.

    Parameters
    ----------
    scheme
        How rows become keys.
    exact, near
        The keys of the rows as they are and rounded.

    Notes
    -----
    26 bytes a row in a snapshot, `MOST` rows at the most: 27 MB. Keys are no secret: who can guess a whole row can
    find out whether it is there.
    """

    def __init__(self, scheme: Scheme, exact: KeyIndex, near: KeyIndex) -> None:
        self.scheme = scheme
        self.exact = exact
        self.near = near

    @classmethod
    def fit(
        cls,
        values: Floats,
        names: Sequence[str],
        texts: Sequence[Strings] = (),
        text_names: Sequence[str] = (),
        most: int = MOST,
    ) -> Fingerprints:
        """Take the rows of a reference, in their order in time where they have one.

        Parameters
        ----------
        values, names
            (n, k) numbers and (k,) names of their columns.
        texts, text_names
            Columns of text of n rows, and their names.
        most
            Rows of which keys are kept.
        """
        scheme = Scheme.fit(values, names, text_names)
        keys = scheme.keys(values, texts)
        return cls(scheme, KeyIndex.of(keys.exact, most), KeyIndex.of_near(keys, most))

    def snapshot(self) -> bytes:
        """Return the reference: versioned, checksummed, no pickle."""
        meta: dict[str, Any] = {"numbers": self.scheme.numbers, "texts": self.scheme.texts}
        arrays: dict[str, NDArray[Any]] = {"steps": self.scheme.steps}
        for kind, index in zip(KINDS, (self.exact, self.near), strict=True):
            meta[kind] = [*index.law, index.level]
            arrays |= {
                f"{kind}:keys": index.keys, f"{kind}:unique": index.unique,
                f"{kind}:first": index.first,
            }  # fmt: skip
        return pack(_KIND, _VERSION, meta, arrays)

    @classmethod
    def restore(cls, state: bytes) -> Fingerprints:
        """Return the reference of a snapshot.

        Raises
        ------
        StateError
            The bytes are damaged or of another version.
        """
        meta, arrays = unpack(_KIND, _VERSION, state)
        with reading(_KIND):
            numbers, texts = tuple(meta["numbers"]), tuple(meta["texts"])
            check(arrays["steps"], "steps", (len(numbers),), np.dtype(np.int64))
            found = []
            for kind in KINDS:
                keys, unique, first = (arrays[f"{kind}:{n}"] for n in ("keys", "unique", "first"))
                check(keys, f"{kind}:keys", (len(keys),), np.dtype(np.uint64))
                check(unique, f"{kind}:unique", (len(keys),), np.dtype(np.bool_))
                check(first, f"{kind}:first", (len(keys),), np.dtype(np.int32))
                *law, level = map(int, meta[kind])
                found.append(KeyIndex(keys, unique, first, Law(*law), level))
            return cls(Scheme(numbers, texts, arrays["steps"]), *found)


class Served:
    """How often served rows met the rows of a reference, as whole numbers: order and merges change nothing.

    Parameters
    ----------
    reference
        What they are looked up in.

    Notes
    -----
    Bounded: 8 bytes a row of the reference.
    """

    def __init__(self, reference: Fingerprints) -> None:
        self._reference = reference
        self._rows = np.zeros(len(KINDS), np.int64)
        self._hits = [
            np.zeros(len(index.keys), np.int32) for index in (reference.exact, reference.near)
        ]

    def add(self, values: Floats, texts: Sequence[Strings] = ()) -> tuple[Ints, Ints]:
        """Take n served rows in; return the (n,) rows of the reference that each equals exactly and nearly, or -1."""
        keys = self._reference.scheme.keys(values, texts)
        exact, near = self._reference.exact, self._reference.near
        places = exact.find(keys.exact), near.find_near(keys)
        for kind, (index, wanted) in enumerate(((exact, keys.exact), (near, keys.near))):
            self._rows[kind] += index.looked_up(wanted)
            np.add.at(self._hits[kind], places[kind][places[kind] >= 0], 1)
        return _rows_at(exact, places[0]), _rows_at(near, places[1])

    def merge(self, other: Served) -> None:
        """Add what another has counted of the same reference."""
        if [len(h) for h in self._hits] != [len(h) for h in other._hits]:
            raise ValueError("expected counts of the same reference, found those of another one")
        self._rows += other._rows
        self._hits = [a + b for a, b in zip(self._hits, other._hits, strict=True)]

    def leaks(self) -> dict[str, Leak]:
        """Return what is known under `exact` and `near`; an unknown one has no entry.

        Near matches count the exact ones as well.
        """
        found = {}
        indexes = (self._reference.exact, self._reference.near)
        for kind, index, rows, hits in zip(KINDS, indexes, self._rows, self._hits, strict=True):
            met = hits[index.unique & (hits > 0)].astype(np.int64)
            leak = leaked(index.law, int(rows), met, int(hits[~index.unique].sum()))
            if leak is not None:
                found[kind] = leak
        return found

    def snapshot(self) -> bytes:
        """Return the counts; the reference has a snapshot of its own."""
        arrays: dict[str, NDArray[Any]] = {"rows": self._rows}
        return pack(_SERVED, _VERSION, {}, arrays | dict(zip(KINDS, self._hits, strict=True)))

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot of counts against the same reference.

        Raises
        ------
        StateError
            The bytes are damaged, of another version or of another reference; the counts are as before.
        """
        _, arrays = unpack(_SERVED, _VERSION, state)
        with reading(_SERVED):
            check(arrays["rows"], "rows", self._rows.shape, self._rows.dtype)
            for kind, hits in zip(KINDS, self._hits, strict=True):
                check(arrays[kind], kind, hits.shape, hits.dtype)
            self._rows, self._hits = arrays["rows"], [arrays[kind] for kind in KINDS]


def _rows_at(index: KeyIndex, places: Ints) -> Ints:
    if not len(index.first):
        return places
    return np.where(places >= 0, index.first[places].astype(np.int64), -1)
