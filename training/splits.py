"""Reading another split, without training's noticing: what it has of inputs, and what of these is known already."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, default_collate

from ..core.columns import Ints
from ..detectors.fingerprint_kernel import Keys
from .duplicates import Read
from .inspection import Inspection
from .parts import array_of, parts
from .pictures import Read as PageRead
from .untouched import same_randomness

Collate = Callable[[list[Any]], Any]
_ROWS: Final = 512  # read at a time; chosen


_log = logging.getLogger(__name__)


def can_be_read(loader: DataLoader[Any]) -> bool:
    """Return whether samples of a loader's data set have numbers."""
    return not isinstance(loader.dataset, IterableDataset) and loader.batch_sampler is not None


def samples_of(
    loader: DataLoader[Any], look: Inspection, samples: Ints
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return inputs and labels of samples, read once more from the loader's data set."""
    data: Any = loader.dataset
    with same_randomness(data, loader.collate_fn):
        batch = loader.collate_fn([data[int(k)] for k in samples])
    return parts(batch, look.inputs, look.labels)


def reader(loader: DataLoader[Any], look: Inspection) -> Read | None:
    """Return what reads inputs of a loader's data set by sample; None where samples have no numbers, or could not be read.

    Nothing is read before it is called: a file that is opened here is open in workers that are forked later.
    """
    if not look.is_readable or not can_be_read(loader):
        return None

    return lambda samples: _arrays_of(loader, look, samples)[0]


class Unreadable(Exception):  # noqa: N818 - it ends no training
    """Samples cannot be read outside of a loader's workers."""


def _arrays_of(
    loader: DataLoader[Any], look: Inspection, samples: Ints
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Return what `arrays_of` does.

    Raises
    ------
    Unreadable
        Of some data sets workers alone open the file. The inspection, and the log, know it from then on.
    """
    try:
        return arrays_of(loader, look, samples)
    except Exception as error:  # whatever a data set raises where it has no worker
        look.is_readable = False
        _log.warning(
            "samples cannot be read outside of the loader's workers (%s: %s), so inputs that are nearly equal are told by their signatures alone, and a "
            "report shows none; open what the data set reads in its __init__",
            type(error).__name__, str(error).partition("\n")[0],
        )  # fmt: skip
        raise Unreadable from error


def arrays_of(
    loader: DataLoader[Any], look: Inspection, samples: Ints
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Return inputs and labels of samples as arrays, None for what there is not one of for each."""
    x, y = samples_of(loader, look, samples)
    if x is None or len(x) != len(samples):
        return None, None
    return array_of(x), None if y is None else y.cpu().numpy()


def page_reader(
    loader: DataLoader[Any], look: Inspection, references: Mapping[str, Any]
) -> PageRead | None:
    """Return what reads inputs and labels by sample, or by row of a reference that is named; None where samples have no numbers, or could not be read."""
    if not look.is_readable or not can_be_read(loader):
        return None

    def read(rows: Ints, split: str = "") -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        if not split:
            try:
                return _arrays_of(loader, look, rows)
            except Unreadable:
                return None, None
        data, join = _opened(references[split], loader.collate_fn)
        if isinstance(data, torch.Tensor):
            return array_of(data[torch.as_tensor(rows)]), None
        with same_randomness(data, join):
            x, y = parts(join([data[int(k)] for k in rows]), look.inputs, look.labels)
        return None if x is None else array_of(x), None if y is None else y.cpu().numpy()

    return read


def rows_of(
    split: Any, look: Inspection, read: Read | None = None, collate: Collate = default_collate
) -> tuple[Keys, Ints]:
    """Return of the rows of a split their (n,) exact keys and the places in `look.contents` that they nearly equal.

    Random numbers are afterwards as they were before. `collate` is as in `batches_of`.
    """
    own = np.sort(look.contents.exact)
    found = [(own[:0], np.empty(0, np.int64))]
    with same_randomness(split):
        found += [_matches(look, own, array_of(x), read) for x in batches_of(split, look, collate)]
    return np.concatenate([k for k, _ in found]), np.concatenate([p for _, p in found])


def _matches(look: Inspection, own: Keys, x: NDArray[Any], read: Read | None) -> tuple[Keys, Ints]:
    keys, near = look.contents.matches(x, sure=read is None)
    rows = np.flatnonzero(near >= 0)
    rows = rows[np.searchsorted(own, keys[rows]) == np.searchsorted(own, keys[rows], "right")]
    for first in range(0, len(rows) if read is not None else 0, _ROWS):
        part = rows[first : first + _ROWS]
        z = None if read is None else read(look.contents.samples[near[part]])
        if z is not None and z.shape == x[part].shape:
            near[part[~look.contents.is_near(x[part], z)]] = -1
    return keys, near


def batches_of(
    split: Any, look: Inspection, collate: Collate = default_collate
) -> Iterator[torch.Tensor]:
    """Yield the inputs of a split, some rows at a time.

    Parameters
    ----------
    split
        A data set, a tensor, or a loader, whose own collate function is taken.
    collate
        Makes a batch of the samples of a data set that torch's default cannot join, as texts of several lengths.

    Raises
    ------
    ValueError
        A split without numbered samples, or without inputs.
    """
    split, join = _opened(split, collate)
    if isinstance(split, torch.Tensor):
        yield from torch.split(split, _ROWS)
        return
    if isinstance(split, IterableDataset) or not hasattr(split, "__getitem__"):
        raise ValueError(
            f"expected a data set with numbered samples or a tensor of inputs as a reference, got {type(split).__name__}"
        )
    for first in range(0, len(split), _ROWS):
        samples = [split[k] for k in range(first, min(first + _ROWS, len(split)))]
        x, _ = parts(join(samples), look.inputs, look.labels)
        if x is None or len(x) != len(samples):
            raise ValueError(
                "found no inputs in a reference, or not one row for each sample; say where they are with inputs="
            )
        yield x


def _opened(split: Any, collate: Collate) -> tuple[Any, Collate]:
    """Return the data set or the tensor that a split is, and what makes a batch of its samples."""
    # Of a watched loader; image folders have one of another kind.
    inner = getattr(split, "loader", None)
    split = inner if isinstance(inner, DataLoader) else split
    join: Collate = partial(_joined, collate=collate)
    if isinstance(split, DataLoader):
        if split.batch_sampler is not None:
            join = split.collate_fn
        split = split.dataset
    is_array = isinstance(split, torch.Tensor | np.ndarray)
    return torch.as_tensor(split).detach() if is_array else split, join


def _joined(samples: list[Any], collate: Collate) -> Any:
    try:
        return default_collate(samples)
    except (TypeError, RuntimeError):
        if collate is default_collate:
            raise
    return collate(samples)
