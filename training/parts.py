"""Which part of a batch is the input, and which the label."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

Part = Callable[[Any], Any] | Hashable | None
"""How a part is found: a function of the batch, a key or place in it, or None for what `parts` takes it to be."""
INPUTS: Final = ("inputs", "input", "x", "pixel_values", "images", "image", "input_values", "features", "input_ids", "data")  # fmt: skip
LABELS: Final = ("labels", "label", "targets", "target", "y", "classes")
"""Names of parts of dicts and own types; the first that is there."""


COLUMNS: Final = 64
"""A table has no more; what is wider is a vector, of which not each number matters (chosen)."""


def parts(
    batch: Any, inputs: Part = None, labels: Part = None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the (n, ...) inputs and the (n,) labels of a batch, None for what is not there.

    By default inputs are the first tensor of a list or tuple, and labels the first of whole numbers after it that has one for
    each row; of a dict or an own type they are what is named so (`INPUTS`, `LABELS`).
    """
    named = _named(batch)
    if inputs is not None:
        x = _tensor(_get(batch, inputs))
    elif isinstance(batch, torch.Tensor | np.ndarray):
        x = _tensor(batch)
    else:
        x = _first(named, INPUTS) if named else _any(batch)
    if x is None or x.ndim == 0 or x.is_sparse or x.is_complex() or x.is_nested:
        return None, None
    if labels is not None:
        y = _tensor(_get(batch, labels))
    elif named:
        y = _first(named, LABELS)
    else:
        rest = [_tensor(part) for part in batch[1:]] if isinstance(batch, list | tuple) else []
        y = next((part for part in rest if part is not None and _is_class(part, len(x))), None)
    if y is None or not _is_class(y, len(x)):
        return x.detach(), None
    return x.detach(), y.detach().reshape(-1)


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


def _any(batch: Any) -> torch.Tensor | None:
    found = map(_tensor, batch) if isinstance(batch, list | tuple) else iter(())
    return next((part for part in found if part is not None), None)


def _tensor(part: Any) -> torch.Tensor | None:
    if isinstance(part, np.ndarray) and part.dtype.kind in "biuf":
        return torch.from_numpy(part)
    return part if isinstance(part, torch.Tensor) else None


def _is_class(part: torch.Tensor, rows: int) -> bool:
    is_whole = not part.is_floating_point() and not part.is_complex()
    return is_whole and part.ndim > 0 and part.numel() == rows == part.shape[0]
