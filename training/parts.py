"""Which part of a batch is the input, and which the label."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

Part = Callable[[Any], Any] | Hashable | None
"""How a part is found: a function of the batch, a key or place in it, or None for what `parts` takes it to be."""
INPUTS: Final = ("inputs", "input", "x", "pixel_values", "images", "image", "input_values", "features", "input_ids", "data")  # fmt: skip
LABELS: Final = ("labels", "label", "targets", "target", "y", "classes")
"""Names of parts of dicts and own types; the first that is there."""


COLUMNS: Final = 64
"""A table has no more; what is wider is a vector, of which not each number matters (chosen)."""


def parts(
    batch: Any, inputs: Part = None, labels: Part = None, *, is_sample: bool = False
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the (n, ...) inputs and the (n,) labels of a batch, None for what is not there.

    By default inputs are what the first element of a list or tuple is, or has in it, and labels the first of whole numbers after
    it that has one for each row; a whole number for each row, as labels have, is no input itself, so then the first after it that
    has rows is. Of a dict or an own type they are what is named so (`INPUTS`, `LABELS`), or is in that. What is a
    sample without a batch counts as a batch of one.
    """
    if is_sample:
        inputs, labels = _of_one(inputs, batch), _of_one(labels, batch)
        batch = pytree.tree_map(_row, batch)
    own, rest = _inputs(batch)
    x = own if inputs is None else _tensor(_get(batch, inputs))
    if x is None or x.ndim == 0 or x.is_sparse or x.is_complex() or x.is_nested:
        return None, None
    if labels is not None:
        y = _tensor(_get(batch, labels))
    elif named := _named(batch):
        y = _first(named, LABELS)
    else:
        if inputs is not None:
            rest = batch[1:] if isinstance(batch, list | tuple) else ()
        y = next((y for y in map(_tensor, rest) if y is not None and _is_class(y, len(x))), None)
    if y is None or not _is_class(y, len(x)):
        return x.detach(), None
    return x.detach(), y.detach().reshape(-1)


def broken_beside(batch: Any, x: torch.Tensor, *, is_sample: bool = False) -> torch.Tensor | None:
    """Return the (n,) rows in which something of a batch other than the inputs is NaN or infinite, None where all there is are whole numbers.

    Minus infinity is none: masks are added to what they hide.
    """
    if isinstance(batch, torch.Tensor | np.ndarray):
        return None
    leaves = pytree.tree_leaves(
        batch if isinstance(batch, list | tuple | Mapping) else dict(_named(batch))
    )
    found: torch.Tensor | None = None
    for leaf in leaves:
        part = _row(leaf) if is_sample else leaf
        own = _tensor(part)
        if (
            own is None
            or not own.is_floating_point()
            or own.ndim == 0
            or own.is_nested
            or own.layout != torch.strided
        ):
            continue
        is_input = own.data_ptr() == x.data_ptr()
        if len(own) != len(x) or own.device != x.device or is_input or not own.numel():
            continue
        flat = own.detach().reshape(len(own), -1)
        top = (flat if flat.dtype in (torch.float32, torch.float64) else flat.float()).amax(1)
        broken = ~(top < torch.inf)  # amax gives NaN where there is one
        found = broken if found is None else found | broken
    return found


def only_inputs(batch: Any) -> torch.Tensor | None:
    """Return the inputs of a batch, None where there are none, or its first element has several tensors: a model is called with all."""
    first = batch[0] if isinstance(batch, list | tuple) and batch else None
    if isinstance(first, Mapping | list | tuple):
        found = [part for part in pytree.tree_leaves(first) if _tensor(part) is not None]
        if len(found) > 1:
            return None
    return parts(batch)[0]


def rows_of_item(item: Any, inputs: Part = None, labels: Part = None) -> int | None:
    """Return how many samples an item of an iterable data set without batches has, which are batches already; None for a sample.

    It is one where inputs have no label for each row, but a number beside them, or something of another length.
    """
    x, y = parts(item, inputs, labels)
    if x is None:
        return None
    if y is None:
        for part in pytree.tree_leaves(item):
            row = _row(part)
            if row is not part and (row.ndim < 2 or row.shape[1] != len(x)):
                return None
    return len(x)


def part_of(batch: Any, part: Part) -> torch.Tensor | None:
    """Return a part of a batch that is named, of whatever numbers; None where it is none of numbers."""
    return _tensor(_get(batch, part))


def array_of(x: torch.Tensor) -> NDArray[Any]:
    """Return a tensor as an array, of single precision where numpy knows no such numbers."""
    known = (torch.float16, torch.float32, torch.float64)
    return (x if not x.is_floating_point() or x.dtype in known else x.float()).cpu().numpy()


def _named(batch: Any) -> Mapping[str, Any]:
    if isinstance(batch, Mapping):
        return batch
    if isinstance(batch, list | tuple | torch.Tensor | np.ndarray):
        return {}
    return getattr(batch, "__dict__", {})


def _get(batch: Any, part: Any) -> Any:
    if callable(part):
        return part(batch)
    try:
        return batch[part]
    except (KeyError, IndexError, TypeError):
        raise ValueError(
            f"expected a part {part!r} in the batch, a {type(batch).__name__}; name another one, or give a function of it"
        ) from None


def _first(named: Mapping[str, Any], names: tuple[str, ...]) -> torch.Tensor | None:
    found = (_tensor(named[name]) for name in names if name in named)
    return next((part for part in found if part is not None), None)


def _inputs(batch: Any) -> tuple[torch.Tensor | None, Sequence[Any]]:
    """Return the inputs of a batch, and what comes after them in a list or tuple."""
    whole = _tensor(batch)
    if whole is not None:
        return whole, ()
    if isinstance(batch, list | tuple):
        x = _inputs(batch[0])[0] if batch else None
        if x is None or x.ndim != 1 or not _is_class(x, len(x)):
            return x, batch[1:]
        for k, part in enumerate(map(_tensor, batch)):
            if part is not None and part.ndim > 1:
                return part, batch[k + 1 :]
        return None, ()
    named = _named(batch)
    found = (_inputs(named[name])[0] for name in INPUTS if name in named)
    return next((x for x in found if x is not None), None), ()


def _of_one(part: Part, sample: Any) -> Part:
    """Return a part such that a function of one's own is given the sample as it came."""
    return (lambda _: _row(part(sample))) if callable(part) else part


def _row(part: Any) -> Any:
    """Return a number or a tensor as the only row of a tensor, all else as it is."""
    if isinstance(part, int | float | np.generic) and np.asarray(part).dtype.kind in "biuf":
        return torch.from_numpy(np.asarray(part)[None])
    tensor = _tensor(part)
    return part if tensor is None else tensor[None]


def _tensor(part: Any) -> torch.Tensor | None:
    if isinstance(part, np.ndarray) and part.dtype.kind in "biuf":
        return _from_array(part)
    return part if isinstance(part, torch.Tensor) else None


def _from_array(array: NDArray[Any]) -> torch.Tensor:
    """Return an array as a tensor, of one that goes backwards, of another byte order or of more than double precision a copy: torch takes none of these."""
    kind = np.dtype(np.float64) if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    array = np.require(array, kind, ["C"])
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():  # nothing is written to it
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)


def _is_class(part: torch.Tensor, rows: int) -> bool:
    is_whole = not part.is_floating_point() and not part.is_complex()
    return is_whole and part.ndim > 0 and part.numel() == rows == part.shape[0]
