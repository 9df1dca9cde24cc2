"""A loader that is another one, but for writing down which samples it asks for; data set, collate and workers know nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from operator import index
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..core.columns import Ints


class Recorder:
    """A sampler, or batch sampler, that remembers what it has given since it was last begun.

    Parameters
    ----------
    sampler
        What gives the samples.
    """

    def __init__(self, sampler: Any, log: list[Recorder]) -> None:
        self._sampler = sampler
        self._log = log
        self._sent: dict[int, Ints] = {}
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        # At once, as the loader does it: a sampler may draw its numbers here.
        given = iter(self._sampler)
        self._sent, self.count = {}, 0
        self._log[:] = [self]
        return _Given(given, self)

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        if name == "_sampler":  # while it is copied
            raise AttributeError(name)
        return getattr(self._sampler, name)

    def note(self, given: Any) -> None:
        """Take down what was given for one batch."""
        self._sent[self.count] = _numbers(given)
        self.count += 1

    def take(self, number: int) -> Ints | None:
        """Return the samples that were given for the batch of a number, once; None for an unknown one. One without a batch has no dimension."""
        return self._sent.pop(number, None)


class _Given(Iterator[Any]):
    """Passes on what a sampler gives."""

    def __init__(self, given: Iterator[Any], recorder: Recorder) -> None:
        self._given = given
        self._recorder = recorder

    def __next__(self) -> Any:
        found = next(self._given)
        self._recorder.note(found)
        return found


class Tasks(dict[int, Any]):
    """What a loader waits for of its workers, by number, and which it has returned last, of which worker.

    Batches may come in another order than they were asked for (`in_order=False`), and one whose sample raised an error
    does not come: the number under which the loader knows it tells which one it is.
    """

    last: tuple[int, int] | None = None

    def pop(self, key: int, *default: Any) -> Any:
        """Remove and return what is known of a batch."""
        found = super().pop(key, *default)
        self.last = (key, found[0])
        return found


def recording(
    loader: DataLoader[Any], log: list[Recorder] | None = None
) -> tuple[DataLoader[Any], list[Recorder]]:
    """Return a loader with all attributes of another one, shared for good, and where its latest recorder is to be found.

    Its class is one below the loader's, so that what a class of one's own overrides is in force. What accelerate has prepared
    asks another loader, which is recorded in its place; not one that deals out batches to other processes.
    """
    base: Any = type(loader)
    known: list[Recorder] = [] if log is None else log

    class Recording(base):  # type: ignore[misc]
        @property
        def _index_sampler(self) -> Recorder:
            return Recorder(super()._index_sampler, known)

    asked = loader.__dict__.get("base_dataloader")
    if isinstance(asked, DataLoader) and base.__name__ != "DataLoaderDispatcher":
        inner, _ = recording(asked, known)
        Recording.base_dataloader = property(lambda _: inner)  # goes before what is in __dict__

    found: Any = Recording.__new__(Recording)
    object.__setattr__(found, "__dict__", loader.__dict__)
    return found, known


def _numbers(given: Any) -> Ints:
    """Return the indices of a batch, or of the one sample, -1 for what is no whole number."""
    if isinstance(given, torch.Tensor | np.ndarray):
        given = given.tolist()
    is_one = not isinstance(given, list | tuple | range)
    numbers = [given] if is_one else given
    try:
        found = np.fromiter((index(one) for one in numbers), np.int64, len(numbers))
    except (TypeError, ValueError, OverflowError):
        found = np.full(len(numbers), -1, np.int64)
    return found[0:1].reshape(()) if is_one else found
