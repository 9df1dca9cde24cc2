"""Batches that know their number in the epoch and the numbers of their samples, and are else what they were."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..core.columns import Ints


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """Where a batch comes from.

    Parameters
    ----------
    epoch, index
        The epoch, and the batch's number in it, both counted from 0.
    samples
        (n,) indices of its samples in the data set; of an iterable data set their numbers in the order of arrival.
        -1 where the data set's keys are no whole numbers.
    worker
        Number of the worker process that made it; None without workers.
    """

    epoch: int
    index: int
    samples: Ints
    worker: int | None


def attribute_of(batch: Any, name: str) -> Any:
    """Return an attribute of a batch; None if it has none, whatever its type raises then: dictionaries read as attributes raise `KeyError`."""
    try:
        return getattr(batch, name, None)
    except Exception:  # a type of the user's own
        return None


def marked(batch: Any, info: BatchInfo) -> Any:
    """Return the batch with attributes `index` and `samples`.

    A list, tuple, named tuple or dict becomes one of a subclass; tensors and own types are the same objects, and carry
    the two as attributes. What can carry none (numbers, text, slots), and what has an `index` of its own that is no
    method (a data frame), is returned as it is.
    """
    kind: Any = type(batch)
    if kind in _BUILT_IN:
        return _with(_BUILT_IN[kind](batch), info)
    if isinstance(batch, tuple) and hasattr(kind, "_fields") and not hasattr(batch, "__dict__"):
        batch = tuple.__new__(_named(kind), batch)
    own = attribute_of(batch, "index")
    if hasattr(batch, "__dict__") and (own is None or callable(own)):
        _with(batch, info)
    return batch


def _with(batch: Any, info: BatchInfo) -> Any:
    # Past __setattr__, which in own types may count what is set among the data.
    batch.__dict__["index"] = info.index
    batch.__dict__["samples"] = info.samples
    return batch


class _Moving:
    """What a batch of a built-in type has beyond it: Lightning and accelerate move what has a `to` by calling it."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Return the batch with its tensors moved, as `torch.Tensor.to` does; it still knows its index."""
        moved = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(*args, **kwargs), self)
        moved.__dict__.update(self.__dict__)
        return moved


class WatchedList(list[Any], _Moving):
    """A list whose `index` and `samples` tell where the batch comes from."""


class WatchedTuple(tuple[Any, ...], _Moving):  # noqa: SLOT001 - room for attributes is its purpose
    """A tuple whose `index` and `samples` tell where the batch comes from."""


class WatchedDict(dict[Any, Any], _Moving):
    """A dict whose `index` and `samples` tell where the batch comes from."""


_BUILT_IN: dict[type, Any] = {list: WatchedList, tuple: WatchedTuple, dict: WatchedDict}


@lru_cache(maxsize=256)
def _named(kind: Any) -> Any:
    """Return the subclass of a named tuple that has room for attributes."""

    def reduce(self: Any) -> Any:
        return kind, tuple(self)

    def copy(self: Any) -> Any:
        again = tuple.__new__(type(self), self)
        again.__dict__.update(self.__dict__)
        return again

    members: dict[str, Any] = {"__reduce__": reduce, "__copy__": copy, "__doc__": kind.__doc__}
    if not hasattr(kind, "to"):
        members["to"] = _Moving.to
    return type(kind.__name__, (kind,), members)


def _register(kind: Any, parts: Any, build: Any) -> None:
    """Let `torch.utils._pytree` look into a subclass, as it does into the built-in type, and keep its attributes."""

    def flatten(batch: Any) -> tuple[list[Any], Any]:
        keys = list(batch) if isinstance(batch, dict) else None
        return list(parts(batch)), (keys, _Attributes(vars(batch)))

    def unflatten(leaves: Any, context: Any) -> Any:
        keys, attributes = context
        batch = build(leaves if keys is None else zip(keys, leaves, strict=True))
        batch.__dict__.update(attributes.found)
        return batch

    pytree.register_pytree_node(kind, flatten, unflatten)


class _Attributes:
    """Attributes in a tree's structure, which is equal to another's whatever they are."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = dict(found)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Attributes)

    def __hash__(self) -> int:
        return 0


_register(WatchedList, list, WatchedList)
_register(WatchedTuple, list, WatchedTuple)
_register(WatchedDict, dict.values, WatchedDict)
