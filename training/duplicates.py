"""Samples that come twice: within a data set, in another split, and from two workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Ints
from ..detectors.fingerprint_kernel import Keys
from .contents import Contents
from .finding import CONFLICT, DUPLICATE, LEAK, NEAR, SHARD, Finding, counted

_COMMON: Final = 0.01
"""Of a table's rows that come three times or more: with so many, rows of few values coincide by chance (chosen)."""
_MOSTLY: Final = 0.5
"""The same of whole numbers, which may be texts, of which some are common (chosen)."""
_BY_CHANCE: Final = 0.02
"""Of the pairs of rows that are equal, those that chance explains: with so many, it may explain all, as columns know of each other (chosen)."""
_SHARD: Final = 0.5
"""Of a worker's samples that were there before: so many are a shard that is repeated (chosen)."""
_LEAST: Final = 8  # different samples of a worker, of which the share is taken

Read = Callable[[Ints], NDArray[Any] | None]
_CONFIRMED: Final = 8192
"""Pairs that are looked at once more at the most; with more, the data set is full of what looks alike (chosen)."""
_AT_ONCE: Final = 512


def is_chance(expected: float, pairs: float) -> bool:
    """Return whether chance, by which so many are expected, may explain the pairs of equal rows."""
    return expected >= _BY_CHANCE * max(pairs, 1)


def within(contents: Contents, label_of: Ints, read: Read | None = None) -> list[Finding]:
    """Return samples that equal an earlier one, those of equal inputs with other labels, and those nearly equal.

    Parameters
    ----------
    label_of
        (m,) the label of each sample, -1 for an unknown one.
    read
        Gives inputs of the data set, to make sure of samples that may be nearly equal; None to take them as they are.
    """
    samples, keys = contents.samples, contents.exact
    if not len(samples):
        return []
    _, first, group, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    found: list[Finding] = []
    original = first[group]
    labels = label_of[samples]
    differs = (labels >= 0) & (labels != labels[original]) & (labels[original] >= 0)
    conflicts = np.isin(group, group[differs])
    again = original != np.arange(len(samples))
    is_common = _is_common(contents, counts[group])
    pairs = _pairs(counts)
    by_chance = is_common or is_chance(contents.chance() * _pairs(len(samples)), pairs)
    if differs.any() and not by_chance:
        text = f"{counted(int(conflicts.sum()))} with the inputs of one that has another label"
        other = np.zeros(len(first), np.int64)
        other[group[differs]] = np.flatnonzero(differs)  # than the first one's label
        against = np.where(differs, original, other[group])
        found.append(_finding(CONFLICT, text, samples[conflicts], samples[against[conflicts]]))
    if again.any() and not by_chance:
        text = f"{counted(int(again.sum()))} equal to an earlier one"
        found.append(_finding(DUPLICATE, text, samples[again], samples[original[again]]))
    near = contents.near(sure=read is None)
    if is_common or not len(near):
        return found
    is_near = (near >= 0) & ~again[: len(near)]
    if is_chance(contents.chance(near=True) * _pairs(len(near)), int(is_near.sum())):
        return found
    if read is not None:
        confirm(contents, is_near, samples, near, read)
    if is_near.any():
        text = f"{counted(int(is_near.sum()))} nearly equal to an earlier one"
        rows = np.flatnonzero(is_near)
        found.append(_finding(NEAR, text, samples[rows], samples[near[rows]]))
    return found


def confirm(
    contents: Contents, is_near: NDArray[np.bool_], samples: Ints, near: Ints, read: Read
) -> None:
    """Take those out of `is_near` whose inputs, read once more, are further away."""
    rows = np.flatnonzero(is_near)
    for first in range(0, min(len(rows), _CONFIRMED), _AT_ONCE):
        part = rows[first : first + _AT_ONCE]
        x, z = read(samples[part]), read(samples[near[part]])
        if x is not None and z is not None and x.shape == z.shape:
            is_near[part] = contents.is_near(x, z)


def across(contents: Contents, name: str, keys: Keys, near: Ints) -> list[Finding]:
    """Return samples that are in another split as well.

    Parameters
    ----------
    keys, near
        (n,) of the rows of that split, as `Contents.matches` gives them.
    """
    samples, own = contents.samples, contents.exact
    order = np.argsort(keys, kind="stable")
    if not len(keys) or not len(own):
        return []
    left = np.searchsorted(keys[order], own)
    equal = np.searchsorted(keys[order], own, "right") - left
    is_equal = equal > 0
    _, group, counts = np.unique(own, return_inverse=True, return_counts=True)
    if _is_common(contents, counts[group]):
        return []
    pairs = len(keys) * len(own)
    row = np.where(is_equal, order[np.minimum(left, len(keys) - 1)], -1)
    rows = np.flatnonzero(near >= 0)
    rows = rows[row[near[rows]] < 0]
    if not is_chance(contents.chance(near=True) * pairs, len(rows)):
        row[near[rows]] = rows
    if is_chance(contents.chance() * pairs, int(equal.sum())):
        row[is_equal] = -1
        is_equal[:] = False
    leaked = row >= 0
    if not leaked.any():
        return []
    text = (
        f"{counted(int(leaked.sum()))} in {name} too, {is_equal.sum():,} exactly and "
        f"{leaked.sum() - is_equal.sum():,} nearly"
    )
    return [replace(_finding(LEAK, text, samples[leaked], row[leaked]), split=name)]


def repeated_shards(
    batches: Sequence[tuple[int | None, NDArray[np.uint64]]], epoch: int
) -> list[Finding]:
    """Return workers most of whose samples have come before in the epoch, of another worker or of itself.

    Parameters
    ----------
    batches
        The worker and the (n,) exact keys of each batch, in the order of arrival.
    """
    if not batches:
        return []
    keys = np.concatenate([k for _, k in batches])
    worker = np.concatenate([np.full(len(k), -1 if w is None else w) for w, k in batches])
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    original = first[group]
    again = original != np.arange(len(keys))
    numbers = [int(w) for w in np.unique(worker) if len(np.unique(keys[worker == w])) >= _LEAST]
    found: list[Finding] = []
    for at, w in enumerate(numbers):
        mine = worker == w
        name = "the data set" if w < 0 else f"worker {w}"
        own = mine & again & (worker[original] == w)
        if own.sum() >= _SHARD * mine.sum():
            share = own.sum() / mine.sum()
            text = f"{name} repeats its own samples: {share:.0%} of what it gives came before"
            one = _finding(SHARD, text, np.flatnonzero(own), original[own], epoch)
            found.append(replace(one, about=name))
        for v in numbers[:at]:
            theirs = worker == v
            common = np.isin(keys[mine], keys[theirs])
            if common.mean() < _SHARD:
                continue
            both = (mine | theirs) & again & np.isin(keys, np.intersect1d(keys[mine], keys[theirs]))
            text = (
                f"{name} gives samples that worker {v} gives: {common.mean():.0%} of its own; "
                "shard by torch.utils.data.get_worker_info()"
            )
            one = _finding(SHARD, text, np.flatnonzero(both), original[both], epoch)
            found.append(replace(one, about=f"{name} of worker {v}"))
    return found


def _is_common(contents: Contents, counts: Ints) -> bool:
    """Return whether rows of a table, which come so often each, are of few kinds."""
    if contents.form != "table" or contents.dtype is None:
        return False
    limit = _COMMON if contents.dtype.kind == "f" else _MOSTLY
    return bool((counts > 2).mean() > limit)


def _pairs(count: Any) -> float:
    """Return how many pairs there are in one group, or several, of so many."""
    return float(np.sum(count * (count - 1.0) / 2))


def _finding(kind: str, text: str, samples: Ints, of: Ints, epoch: int = 0) -> Finding:
    order = np.argsort(samples, kind="stable")
    return Finding(kind, text, samples[order], of[order], epoch)
