"""A map from text to small integers, over numpy arrays: class names, clients, pending prediction ids."""

# numba decides what is an integer and what an array's element:
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import secrets
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Bytes, Ints, Strings
from .compiled import compiled

_FNV_PRIME: Final = 0x100000001B3
_LOW: Final = 0xFFFFFFFF
_TOP: Final = 1 << 63


@compiled
def _hash(data: Bytes, at: int, end: int, seed: np.uint64) -> np.uint64:
    """FNV-1a (Fowler, Noll and Vo), seeded, with a final mix so that the low bits serve as index."""
    value = seed
    for i in range(np.uint64(at), np.uint64(end)):
        value = (value ^ np.uint64(data[i])) * np.uint64(_FNV_PRIME)
    return value ^ (value >> np.uint64(32))


@compiled
def _equal(a: Bytes, i: np.uint64, b: Bytes, j: np.uint64, size: np.uint64) -> bool:
    for k in range(size):
        if a[i + k] != b[j + k]:
            return False
    return True


@compiled
def _hashes(
    data: Bytes, start: Ints, end: Ints, seed: np.uint64, hashes: NDArray[np.uint64]
) -> int:
    """Fill `hashes` (n,), 0 where there is no text; return how many bytes there are."""
    length = 0
    for i in range(start.shape[0]):
        hashes[i] = _hash(data, start[i], end[i], seed) if start[i] >= 0 else np.uint64(0)
        length += end[i] - start[i] if start[i] >= 0 else 0
    return length


@compiled
def _lookup(
    data: Bytes, start: Ints, end: Ints, hashes: NDArray[np.uint64], add: bool, codes: Ints,
    slots: NDArray[np.uint64], arena: Bytes, at: Ints, count: int, first: int,
) -> int:  # fmt: skip
    """Fill `codes` (n,); return how many codes there are afterwards.

    A slot holds the upper half of a text's hash, its top bit set, over the lower half of its code; 0 is
    free. `at` (codes + 1,) bounds the text of code `first + i`. Codes below `first` are forgotten: their
    slots stay in the way of a probe until the next rebuild.
    """
    mask = np.uint64(slots.shape[0] - 1)
    low = np.uint64(_LOW)
    live = np.uint64(count - first)
    # All slots first: reading them from all over memory overlaps as long as nothing depends on what they hold.
    for i in range(start.shape[0]):
        codes[i] = np.int64(slots[hashes[i] & mask])
    for i in range(start.shape[0]):
        codes[i] = -1
        if start[i] < 0:
            continue
        wanted, begin = hashes[i], np.uint64(start[i])
        size = np.uint64(end[i]) - begin
        if (
            i > 0
            and hashes[i - 1] == wanted
            and codes[i - 1] >= 0
            and np.uint64(end[i - 1] - start[i - 1]) == size
            and _equal(data, begin, data, np.uint64(start[i - 1]), size)
        ):
            codes[i] = codes[i - 1]  # names of models and classes come in runs
            continue
        tag = (wanted | np.uint64(_TOP)) & ~low
        slot = wanted & mask
        while slots[slot] != 0:
            place = (slots[slot] - np.uint64(first)) & low
            if slots[slot] & ~low == tag and place < live:
                known = np.uint64(at[place])
                if np.uint64(at[place + np.uint64(1)]) - known == size and _equal(
                    data, begin, arena, known, size
                ):
                    codes[i] = first + np.int64(place)
                    break
            slot = (slot + np.uint64(1)) & mask
        if codes[i] < 0 and add:
            new = np.uint64(at[live])
            for k in range(size):
                arena[new + k] = data[begin + k]
            at[live + np.uint64(1)] = np.int64(new + size)
            slots[slot] = tag | (np.uint64(count) & low)
            codes[i] = count
            count += 1
            live += np.uint64(1)
    return count


@compiled
def _refill(
    slots: NDArray[np.uint64], arena: Bytes, at: Ints, first: int, count: int, seed: np.uint64
) -> None:
    """Put all live codes into empty slots."""
    mask = np.uint64(slots.shape[0] - 1)
    low = np.uint64(_LOW)
    for i in range(count - first):
        wanted = _hash(arena, at[i], at[i + 1], seed)
        slot = wanted & mask
        while slots[slot] != 0:
            slot = (slot + np.uint64(1)) & mask
        tag = (wanted | np.uint64(_TOP)) & ~low
        slots[slot] = tag | (np.uint64(first + i) & low)


class StringIndex:
    """Text to codes 0, 1, 2, ... in order of first appearance; the oldest can be forgotten.

    Codes depend on the order of the texts only; the hash is seeded at random, so that nobody can
    choose texts that collide. Memory is the texts' bytes plus some 24 bytes for each.
    """

    def __init__(self) -> None:
        self._seed = np.uint64(secrets.randbits(64) | 1)
        self._first = 0
        self._count = 0
        self._used = 0  # slots taken, forgotten codes included
        self._arena: Bytes = np.empty(1024, np.uint8)
        self._at: Ints = np.zeros(65, np.int64)
        self._slots = np.zeros(128, np.uint64)

    def __len__(self) -> int:
        """How many codes were ever given; the live ones are `first` to this."""
        return self._count

    @property
    def first(self) -> int:
        """The oldest code that is not forgotten."""
        return self._first

    @property
    def live(self) -> int:
        """How many codes are not forgotten."""
        return self._count - self._first

    @property
    def size(self) -> int:
        """Bytes of all live texts together."""
        return int(self._at[self.live])

    def add(self, texts: Strings) -> Ints:
        """Return (n,) codes, giving new texts the next ones; -1 where there is no text."""
        hashes, length = self._hashes(texts)
        self._reserve(len(texts), length)
        before = self._count
        codes = self._run(texts, hashes, True)
        self._used += self._count - before
        return codes

    def find(self, texts: Strings) -> Ints:
        """Return (n,) codes, -1 where the text is unknown or missing."""
        return self._run(texts, self._hashes(texts)[0], False)

    def _hashes(self, texts: Strings) -> tuple[NDArray[np.uint64], int]:
        """Return (n,) hashes, and the bytes of all texts together."""
        hashes = np.empty(len(texts), np.uint64)
        return hashes, _hashes(texts.data, texts.start, texts.end, self._seed, hashes)

    def _run(self, texts: Strings, hashes: NDArray[np.uint64], add: bool) -> Ints:
        codes = np.empty(len(texts), np.int64)
        self._count = _lookup(
            texts.data, texts.start, texts.end, hashes, add, codes, self._slots, self._arena,
            self._at, self._count, self._first,
        )  # fmt: skip
        return codes

    def __getitem__(self, code: int) -> str:
        """Return the text of a live code."""
        begin, end = self._at[code - self._first : code - self._first + 2]
        return self._arena[begin:end].tobytes().decode()

    def texts(self, begin: int, end: int) -> Strings:
        """Return the texts of live codes `begin` to `end`, as a column over this index's own buffer."""
        at = self._at[begin - self._first : end - self._first + 1]
        return Strings(self._arena, at[:-1], at[1:])

    def forget(self, before: int) -> None:
        """Forget all codes below `before`; memory is given back when half of it is unused."""
        drop = before - self._first
        if drop <= 0:
            return
        kept = self._count - before
        at = self._at[drop : drop + kept + 1].copy()
        if 2 * at[0] >= at[-1]:
            self._load(self._arena[at[0] : at[-1]].copy(), np.diff(at), before)
        else:
            self._at[: kept + 1] = at
            self._first = before

    def restore(self, texts: Strings, first: int) -> None:
        """Replace everything by `texts`, all different, with codes from `first` on."""
        data = [texts.data[s:e] for s, e in zip(texts.start, texts.end, strict=True)]
        joined = np.concatenate(data) if data else np.empty(0, np.uint8)
        self._load(joined, texts.end - texts.start, first)

    def _load(self, data: Bytes, lengths: Ints, first: int) -> None:
        self._first = self._count = first
        self._used = 0
        self._arena = np.empty(max(1024, 2 * len(data)), np.uint8)
        self._at = np.zeros(max(64, 2 * len(lengths)) + 1, np.int64)
        self._slots = np.zeros(128, np.uint64)
        end = np.cumsum(lengths)
        self.add(Strings(data, end - lengths, end))

    def _reserve(self, texts: int, length: int) -> None:
        """Make room for as many new texts and bytes."""
        need = self.live + texts + 1
        if need > len(self._at):
            self._at = _grown(self._at, 2 * need)
        need = int(self._at[self.live]) + length
        if need > len(self._arena):
            self._arena = _grown(self._arena, 2 * need)
        if 2 * (self._used + texts) > len(self._slots):
            size = len(self._slots)
            while size < 4 * (self.live + texts):
                size *= 2
            self._slots = np.zeros(size, np.uint64)
            self._used = self.live
            _refill(
                self._slots, self._arena, self._at, self._first, self._count,
                self._seed,
            )  # fmt: skip


def _grown(array: NDArray[Any], size: int) -> NDArray[Any]:
    """Return a larger array that begins with what this one holds."""
    grown = np.empty(size, array.dtype)
    grown[: len(array)] = array
    return grown
