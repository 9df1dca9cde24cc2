"""Where a training loop is, and what its batches and outputs hold: plain, wrapped or in dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Final, NamedTuple

import torch

from .batch import attribute_of

_LOGITS: Final = ("logits", "output", "outputs", "out", "prediction", "predictions", "scores")


class Place(NamedTuple):
    """A batch in a run: how many came before it, its epoch, and its number there; -1 for the epoch as a whole."""

    step: int
    epoch: int
    batch: int

    def __str__(self) -> str:
        epoch = f"epoch {self.epoch}"
        return epoch if self.batch < 0 else f"batch {self.batch} of {epoch}"


class Loop:
    """Counts batches and epochs from 0; a batch that knows its own `index` is called by that."""

    def __init__(self) -> None:
        self.step = 0
        self.epoch = 0
        self._begun = 0

    @property
    def place(self) -> Place:
        """The batch that runs, by count: it has not been seen yet."""
        return Place(self.step, self.epoch, self.step - self._begun)

    def place_of(self, batch: Any) -> Place:
        """Return the place of the batch that ends now."""
        index = attribute_of(batch, "index")  # of a list, that is a method
        place = self.place
        return place._replace(batch=int(index)) if isinstance(index, Integral) else place

    def end_batch(self, batch: Any) -> Place:
        """Count a batch; return its place."""
        place = self.place_of(batch)
        self.step += 1
        return place

    def last_of(self, epoch: int) -> Place:
        """Return the place of the last batch of the epoch that ends."""
        return Place(self.step, epoch, max(self.place.batch - 1, 0))

    def end_epoch(self, epoch: int) -> None:
        """Begin the epoch after `epoch`."""
        self.epoch = epoch + 1
        self._begun = self.step


def logits_of(outputs: Any) -> torch.Tensor | None:
    """Return the tensor that a loss is made of: the outputs, their `logits`, or the first of several; None if there is none."""
    if isinstance(outputs, torch.Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        found = [outputs[name] for name in _LOGITS if name in outputs]
    else:
        found = [getattr(outputs, name) for name in _LOGITS if hasattr(outputs, name)]
        if not found and isinstance(outputs, Sequence):
            found = list(outputs[:1])
    return next((tensor for tensor in found if isinstance(tensor, torch.Tensor)), None)


def loss_of(outputs: Any) -> torch.Tensor | None:
    """Return the `loss` that a model gives with its outputs, as those of Hugging Face do; None if it gives none."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    return loss if isinstance(loss, torch.Tensor) else None


def wide(x: torch.Tensor) -> torch.Tensor:
    """Return half precision as single, in which losses that differ are not equal, as autocast does."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def aligned(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return outputs as the criteria of torch take them for these targets: without a column that is one alone, classes as dimension 1."""
    if logits.ndim < 2 or logits.ndim != targets.ndim + 1:
        return logits
    if logits.shape[1] == 1:
        return logits.squeeze(1)
    is_last = logits.shape[:-1] == targets.shape and logits[:, 0].shape != targets.shape
    return logits.movedim(-1, 1) if is_last else logits
