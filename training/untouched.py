"""Evaluating a model in the midst of training: no mode, buffer or random number is another one afterwards."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from . import random_states


@contextmanager
def untouched(model: nn.Module, dataloader: Iterable[Any]) -> Generator[None]:
    """Put a model in evaluation, and everything back at the end.

    Without gradients, not in inference mode: what a model keeps for itself in a pass, a table of positions say, must be of use in training.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module, _ in modes
        for name, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    drawn = random_states.taken()
    own = random_states.own([model, dataloader])
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, was in buffers:
                module._buffers[name] = buffer
                if not torch.equal(buffer, was):
                    buffer.copy_(was)
        random_states.restore(drawn)
        for back in own:
            back()
        # Weights that autocast has cast without gradients are of no use to a pass with them.
        torch.clear_autocast_cache()


@contextmanager
def same_randomness(*holders: Any) -> Generator[None]:
    """Leave the generators of Python, numpy and torch as they were, and those that data sets and other objects have of their own."""
    states, own = random_states.taken(), random_states.own(holders)
    try:
        yield
    finally:
        random_states.restore(states)
        for back in own:
            back()
