"""Evaluating a model in the midst of training: no mode, buffer or random number is another one afterwards."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

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
        if buffer is not None
    ]
    drawn = random_states.taken()
    own = [(one, one.get_state()) for one in _generators(dataloader)]
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
        for generator, state in own:
            generator.set_state(state)
        # Weights that autocast has cast without gradients are of no use to a pass with them.
        torch.clear_autocast_cache()


@contextmanager
def same_randomness() -> Generator[None]:
    """Leave the generators of Python, numpy and torch as they were."""
    states = random_states.taken()
    try:
        yield
    finally:
        random_states.restore(states)


def _generators(data: Iterable[Any]) -> list[torch.Generator]:
    """Return the generators of random numbers that a loader and its samplers have of their own."""
    samplers = [getattr(data, "sampler", None), getattr(data, "batch_sampler", None)]
    holders = [data, *samplers, *(getattr(one, "sampler", None) for one in samplers)]
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
