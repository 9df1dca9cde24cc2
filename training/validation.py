"""A pass over data of which training knows nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .layers import bare
from .parts import only_inputs
from .untouched import untouched

Forward = Callable[[Any], Any]


def answered(
    model: nn.Module, dataloader: Iterable[Any], forward: Forward | None = None
) -> Generator[tuple[Any, Any]]:
    """Yield what a model in evaluation gives for each batch, and the batch.

    Parameters
    ----------
    model
        It is as it was once all batches are through, or this is closed: modes, buffers, and the states of the
        generators of Python, numpy, torch and the loader. Of one in `DistributedDataParallel` the module itself is called, which waits for no other process.
    dataloader
        Batches.
    forward
        Gives the outputs of a batch; None for `model(inputs)`, with the inputs that `parts` finds on the device of the model. It is
        needed where the model is called with more than one tensor.

    Raises
    ------
    ValueError
        No inputs are found in a batch, or several.
    """
    with untouched(model, dataloader):
        device = next((p.device for p in model.parameters()), None)
        shared = isinstance(getattr(model, "_orig_mod", model), DistributedDataParallel)
        inner = bare(model) if shared else model
        for batch in dataloader:
            yield (forward(batch) if forward else inner(_inputs(batch, device))), batch


def _inputs(batch: Any, device: torch.device | None) -> torch.Tensor:
    inputs = only_inputs(batch)
    if inputs is None:
        raise ValueError(
            f"found no inputs in a batch of validation, a {type(batch).__name__}, or several; expected a tensor, or one first in a tuple or "
            "under a usual name: give forward=, a function of the batch that returns the outputs"
        )
    return inputs if device is None else inputs.to(device)
