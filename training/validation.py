"""A pass over data of which training knows nothing: no mode, buffer or random number is another one afterwards."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from . import random_states
from .parts import parts

Forward = Callable[[Any], Any]


def answered(
    model: nn.Module, dataloader: Iterable[Any], forward: Forward | None = None
) -> Generator[tuple[Any, Any]]:
    """Yield what a model in evaluation gives for each batch, and the batch.

    Parameters
    ----------
    model
        It is as it was once all batches are through, or this is closed: modes, buffers, and the states of the
        generators of Python, numpy, torch and the loader.
    dataloader
        Batches.
    forward
        Gives the outputs of a batch; None for `model(inputs)`, with the inputs that `parts` finds on the device of the model.

    Raises
    ------
    ValueError
        No inputs are found in a batch.
    """
    with _untouched(model, dataloader):
        device = next((p.device for p in model.parameters()), None)
        for batch in dataloader:
            yield (forward(batch) if forward else model(_inputs(batch, device))), batch


def _inputs(batch: Any, device: torch.device | None) -> torch.Tensor:
    inputs, _ = parts(batch)
    if inputs is None:
        raise ValueError(
            f"found no inputs in a batch of validation, a {type(batch).__name__}; expected a tensor, or one first in a tuple or "
            "under a usual name: give forward=, a function of the batch that returns the outputs"
        )
    return inputs if device is None else inputs.to(device)


@contextmanager
def _untouched(model: nn.Module, dataloader: Iterable[Any]) -> Generator[None]:
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
        for module, name, buffer, was in buffers:
            module._buffers[name] = buffer
            if not torch.equal(buffer, was):
                buffer.copy_(was)
        random_states.restore(drawn)
        for generator, state in own:
            generator.set_state(state)
        # Weights that autocast has cast without gradients are of no use to a pass with them.
        torch.clear_autocast_cache()


def _generators(dataloader: Any) -> list[torch.Generator]:
    sampler = getattr(dataloader, "sampler", None)
    found = [getattr(one, "generator", None) for one in (dataloader, sampler)]
    return [one for one in found if isinstance(one, torch.Generator)]
