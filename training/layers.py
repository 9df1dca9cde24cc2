"""The layers of a model by name, and hooks that see what each gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import nn

from .hooks import Hook, takes_hooks

_KEEPS: Final = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout,
    nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AvgPool2d,
)  # fmt: skip
"""Modules that give finite numbers for finite ones, and for others the same place or one after it: not worth a look."""
_WRAPPERS: Final = ("_orig_mod.", "module.")
"""What `torch.compile` and `DataParallel` put before the names of layers."""


def bare(model: nn.Module) -> nn.Module:
    """Return the module itself, of one that is compiled or run on several devices."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(
            model, nn.DataParallel | nn.parallel.DistributedDataParallel
        ):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that have parameters of their own, by name as in the model itself, whatever wraps it."""
    return {
        name_of(name): module
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    }


def name_of(name: str) -> str:
    """Return a module's name without what wrappers put before it; `model` for the model itself.

    Examples
    --------
    >>> name_of("_orig_mod.module.body.0"), name_of("")
    ('body.0', 'model')
    """
    while name.startswith(_WRAPPERS) or f"{name}." in _WRAPPERS:
        name = name.partition(".")[2]
    return name or "model"


def finite_hooks(
    model: nn.Module,
    wants: Callable[[], bool],
    take: Callable[[str, torch.Tensor], None],
    failed: Callable[[Exception], None],
) -> Iterator[Any]:
    """Hang hooks on a model that sum what goes in, and what each layer gives; yield their handles.

    Parameters
    ----------
    model
        On it and its layers that could make a number that is none of ones that are, but for those that are scripted.
    wants
        Whether this pass is looked at. One without gradients is not, nor is what is compiled.
    take
        Given the name of each layer in the order of the pass, empty for the input of all, and the sum, in single precision and on the device:
        it is finite where all of its parts are.
    failed
        Given what went wrong in a hook.
    """

    def hook(name: str, *, before: bool = False) -> Hook:
        def look(values: Any) -> None:
            several = values if isinstance(values, (tuple, list)) else (values,)
            for number, tensor in enumerate(several):
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                    # An argument after the first may be a mask, which is added: -inf, or the lowest number that there is.
                    seen = tensor.detach().clamp(min=0) if before and number else tensor.detach()
                    take(name, seen.sum(dtype=torch.float32))

        return Hook(wants, look, failed, before=before)

    if takes_hooks(model):
        yield hook("", before=True).hang(model.register_forward_pre_hook)
    for name, module in model.named_modules():
        is_leaf = next(module.children(), None) is None and not isinstance(module, _KEEPS)
        if is_leaf and takes_hooks(module):
            yield hook(name_of(name)).hang(module.register_forward_hook)
