"""Means and variances of the units of each layer, added up on the device while a model is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import nn

from ..detectors.batch_means import BatchMeans
from .hooks import Hook, takes_hooks
from .layers import layers_of
from .uses import Uses

INPUT: Final = "input"
"""What the inputs of the model are called among its layers."""
_CHANNELS: Final = 4  # of a picture
_LAST: Final = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.EmbeddingBag)
"""Modules whose units are the last dimension; of others they are dimension 1."""


def _nothing(_layer: str, _module: nn.Module, _given: Any) -> None:
    """What is shown to nobody."""


class LayerUnits:
    """Sums over passes, by layer, of the means of units and of their squares.

    Parameters
    ----------
    uses
        Told of each layer that has run, and whether its units are the last dimension of what it gave, else dimension 1.

    Notes
    -----
    32 bytes a unit. A layer is a module that has parameters of its own; of one that gives several tensors the first is looked at. What the backward
    pass makes once more is not.
    """

    def __init__(self, uses: Uses | None = None) -> None:
        self._uses = uses or Uses()
        self._sums: dict[str, torch.Tensor] = {}
        self._passes: dict[str, int] = {}
        self._rows: dict[str, int] = {}

    def hooks(
        self,
        model: nn.Module,
        wants: Callable[[], bool],
        failed: Callable[[Exception], None],
        take_given: Callable[[str, nn.Module, Any], None] = _nothing,
    ) -> Iterator[Any]:
        """Hang hooks on a model and its layers; yield their handles. What a layer is given by place is shown to `take_given`."""

        def see(layer: str, values: Any, *, last: bool) -> None:
            self._uses.come_to(layer, last=last)
            if not self._uses.is_again(layer):
                self._take(layer, values, last=last)

        def hook(layer: str, module: nn.Module) -> Hook:
            def look(values: Any) -> None:
                given, gave = values
                take_given(layer, module, given)
                see(layer, gave, last=isinstance(module, _LAST))

            return Hook(wants, look, failed, both=True)

        if takes_hooks(model):
            first = Hook(wants, lambda given: see(INPUT, given, last=False), failed, before=True)
            yield first.hang(model.register_forward_pre_hook)
        for name, module in layers_of(model).items():
            if takes_hooks(module):
                yield hook(name, module).hang(module.register_forward_hook)

    def _take(self, layer: str, values: Any, *, last: bool) -> None:
        tensor = values[0] if isinstance(values, (tuple, list)) and values else values
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            return
        if tensor.ndim < 2 or not tensor.numel():
            return
        tensor = tensor.detach()
        if layer == INPUT and tensor.ndim == 4 and 1 < tensor.shape[1] <= _CHANNELS:
            # How bright pictures are hides which channel is which; what each is beyond the others' mean does not.
            tensor = torch.cat([tensor, tensor - tensor.mean(1, keepdim=True)], 1)
        mean, square = _moments(tensor, last=last or tensor.ndim == 2)
        rows = len(tensor)
        sums = torch.stack([mean, mean.square(), rows * mean, rows * square])
        before = self._sums.get(layer)
        if before is None or before.shape != sums.shape:
            self._sums[layer], self._passes[layer], self._rows[layer] = sums, 1, rows
        else:
            self._sums[layer] = before + sums.to(before.device)
            self._passes[layer] += 1
            self._rows[layer] += rows

    def taken(self, least: int) -> dict[str, BatchMeans]:
        """Return what was added up of the layers that had so many passes at least, in the order of the pass, and begin anew."""
        found = {
            layer: BatchMeans.of(self._passes[layer], self._rows[layer], *sums.cpu().numpy())
            for layer, sums in self._sums.items()
            if self._passes[layer] >= least
        }
        self._sums, self._passes, self._rows = {}, {}, {}
        return found


def _moments(tensor: torch.Tensor, *, last: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the (k,) means of units, and of their squares.

    Sums and norms by row are some twenty times as fast on a CPU as `torch.var_mean` over several dimensions; they are of single precision
    at least, and added up in double.
    """
    parts = tensor.flatten(0, -2) if last else tensor.flatten(2)
    along = 0 if last else 2
    wide = torch.promote_types(tensor.dtype, torch.float32)
    total = parts.sum(along, dtype=wide).double()
    square = torch.linalg.vector_norm(parts, dim=along, dtype=wide).double().square()
    if not last:
        total, square = total.sum(0), square.sum(0)
    count = tensor.numel() // len(total)
    return total / count, square / count
