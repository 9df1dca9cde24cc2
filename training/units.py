"""Means and variances of the units of each layer, added up on the device while a model is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import nn

from ..detectors.activation_shift import Units
from .hooks import Hook
from .layers import layers_of

INPUT: Final = "input"
"""What the inputs of the model are called among its layers."""
_LAST: Final = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.EmbeddingBag)
"""Modules whose units are the last dimension; of others they are dimension 1."""


class LayerUnits:
    """Sums over passes, by layer, of the means of units and of their squares.

    Notes
    -----
    16 bytes a unit. A layer is a module that has parameters of its own; of one that gives several tensors the first is looked at.
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._passes: dict[str, int] = {}

    def hooks(
        self, model: nn.Module, wants: Callable[[], bool], failed: Callable[[Exception], None]
    ) -> Iterator[Any]:
        """Hang hooks on a model and its layers; yield their handles."""

        def hook(layer: str, *, last: bool) -> Hook:
            return Hook(wants, lambda values: self._take(layer, values, last=last), failed)

        yield model.register_forward_pre_hook(hook(INPUT, last=False))
        for name, module in layers_of(model).items():
            yield module.register_forward_hook(hook(name, last=isinstance(module, _LAST)))

    def _take(self, layer: str, values: Any, *, last: bool) -> None:
        tensor = values[0] if isinstance(values, (tuple, list)) and values else values
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            return
        if tensor.ndim < 2 or not tensor.numel():
            return
        units = tensor.detach().movedim(-1 if last else 1, -1).flatten(0, -2).float()
        variance, mean = torch.var_mean(units, 0, correction=0)
        sums = torch.stack([mean, variance + mean.square()]).double()
        before = self._sums.get(layer)
        if before is None or before.shape != sums.shape:
            self._sums[layer], self._passes[layer] = sums, 1
        else:
            self._sums[layer] = before + sums.to(before.device)
            self._passes[layer] += 1

    def taken(self, least: int) -> dict[str, Units]:
        """Return of the layers that had so many passes at least the means and variances, in the order of the pass, and begin anew."""
        found: dict[str, Units] = {}
        for layer, sums in self._sums.items():
            if self._passes[layer] >= least:
                mean, square = (sums / self._passes[layer]).cpu().numpy()
                found[layer] = Units(mean, (square - mean * mean).clip(0.0))
        self._sums, self._passes = {}, {}
        return found
