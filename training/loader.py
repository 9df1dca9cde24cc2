"""A data loader that passes its batches through and tells of each which samples it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from ..core.columns import Ints
from .batch import BatchInfo, marked
from .recording import Recorder, Tasks, recording


class WatchedLoader:
    """Wraps a data loader: the same batches, in the same order, of the same random numbers, and each knows its samples.

    A batch has two attributes more, `index`, its number in the epoch, and `samples`, the (n,) int64 indices of its
    samples in the data set (of an iterable one their numbers in the order of arrival). It unpacks, is indexed and is a
    list, tuple, named tuple, dict or tensor as before. What can carry no attributes is passed through, and `last` tells of it.

    Parameters
    ----------
    loader
        Any `DataLoader`: of a map or an iterable data set, with workers that persist or not, with a sampler, batch
        sampler or collate function of one's own, without batches (`batch_size=None`), with pinned memory, `in_order` or not.

    Raises
    ------
    TypeError
        Something that is no `DataLoader`.

    Notes
    -----
    What the sampler gives is written down on its way to the workers; data set, collate function and workers are the
    loader's own. All other attributes are the loader's: `watched.sampler.set_epoch(3)` works.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from tocsin.training import WatchedLoader
    >>> inputs, labels = torch.arange(6.0).view(6, 1), torch.tensor([0, 1, 0, 1, 0, 1])
    >>> for batch in WatchedLoader(DataLoader(TensorDataset(inputs, labels), batch_size=4)):
    ...     x, y = batch
    ...     print(batch.index, batch.samples, tuple(x.shape))
    0 [0 1 2 3] (4, 1)
    1 [4 5] (2, 1)
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        if not isinstance(loader, DataLoader):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"expected a torch.utils.data.DataLoader, got {type(loader).__name__}; wrap the data in one"
            )
        self.loader = loader
        self.epoch = -1
        """The epoch that is going on, counted from 0; -1 before the first."""
        self.last: BatchInfo | None = None
        """Where the latest batch comes from."""
        self._recording, self._log = recording(loader)
        self._next_epoch = 0

    def __iter__(self) -> Iterator[Any]:
        kept = self.loader._iterator  # of persistent workers, begun before the loader was wrapped
        if kept is not None and not isinstance(kept._index_sampler, Recorder):
            kept._index_sampler = Recorder(kept._index_sampler, self._log)
        batches = iter(self._recording)
        self.epoch, self._next_epoch = self._next_epoch, self._next_epoch + 1
        return _Epoch(self, batches, self.epoch)

    def __len__(self) -> int:
        return len(self._recording)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # while it is copied
            raise AttributeError(name)
        return getattr(self.loader, name)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, to whatever of loader, samplers and data set has a `set_epoch`."""
        self._next_epoch = epoch
        inner: Any = self.loader
        sampler, batch_sampler = inner.sampler, inner.batch_sampler
        own: Any = getattr(batch_sampler, "sampler", None)
        told: list[Any] = []
        for part in (inner, batch_sampler, sampler, own, inner.dataset):
            if hasattr(part, "set_epoch") and not any(part is one for one in told):
                part.set_epoch(epoch)
                told.append(part)


class _Epoch(Iterator[Any]):
    """One pass over a watched loader."""

    def __init__(self, watched: WatchedLoader, batches: Any, epoch: int) -> None:
        self._watched = watched
        self._batches = batches
        self._epoch = epoch
        self._count = 0
        self._arrived = 0
        self._is_iterable = isinstance(watched.loader.dataset, IterableDataset)
        self._is_batched = watched.loader.batch_sampler is not None
        own = getattr(batches, "_index_sampler", None)
        self._recorder = own if isinstance(own, Recorder) else None
        self._tasks: Tasks | None = None
        if self._recorder is not None and hasattr(batches, "_task_info"):
            self._tasks = batches._task_info = Tasks(batches._task_info)

    def __len__(self) -> int:
        return len(self._batches)

    def __next__(self) -> Any:
        batch = next(self._batches)
        number, worker = self._which()
        if self._is_iterable:
            size = (size_of(batch) or 0) if self._is_batched else 1
            samples: Ints = np.arange(self._arrived, self._arrived + size)
            self._arrived += size
        else:
            recorder = self._recorder or self._watched._log[0]
            found = recorder.take(number)
            samples = np.empty(0, np.int64) if found is None else found
        info = BatchInfo(self._epoch, self._count, samples, worker)
        self._count += 1
        self._watched.last = info
        return marked(batch, info)

    def _which(self) -> tuple[int, int | None]:
        """Return the number of the batch among those asked for, and its worker."""
        if self._tasks is not None and self._tasks.last is not None:
            return self._tasks.last
        if self._recorder is not None and getattr(self._batches, "_num_workers", 1) == 0:
            return self._recorder.count - 1, None
        return self._count, None  # an iterator of the loader's own: in order, as far as is known


def size_of(batch: Any) -> int | None:
    """Return the number of samples of a batch: the length of the first tensor or array in it, else of the first list."""
    if isinstance(batch, torch.Tensor | np.ndarray):
        return batch.shape[0] if batch.ndim else None
    if isinstance(batch, dict):
        parts = list(batch.values())
    elif isinstance(batch, list | tuple):
        parts = list(batch)
    else:
        parts = list(getattr(batch, "__dict__", {}).values())
    sizes = [found for found in map(size_of, parts) if found is not None]
    if sizes:
        return sizes[0]
    return len(batch) if isinstance(batch, list | tuple) else None
