"""The loss of each batch: what the criterion gave in the loop, else what it gives for outputs and targets."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn

from .hooks import Hook
from .loop import logits_of, loss_of, targets_of
from .untouched import same_randomness

_MOST: Final = 1024
"""Losses between two ends of batches: more are of a loop that does not say when a batch ends."""


@contextmanager
def _as_it_was(criterion: Callable[..., Any]) -> Generator[None]:
    """Leave the buffers of a criterion, and all random numbers, as they were."""
    if str(getattr(criterion, "__module__", "")).startswith("torch.nn."):
        # torch's own remember nothing and draw torch's numbers at most; numpy's state alone takes 0.07 ms a batch.
        with torch.random.fork_rng(devices=[]):
            yield
        return
    modules = criterion.modules() if isinstance(criterion, nn.Module) else ()
    buffers = [
        (m, name, b, b.clone()) for m in modules for name, b in m._buffers.items() if b is not None
    ]
    try:
        with same_randomness(criterion):
            yield
    finally:
        for module, name, buffer, was in buffers:
            module._buffers[name] = buffer.copy_(was)


def is_of_two(criterion: object) -> bool:
    """Return whether a single output is about two classes: it is binary cross-entropy."""
    return isinstance(criterion, nn.BCELoss | nn.BCEWithLogitsLoss)


def is_of_numbers(criterion: object) -> bool:
    """Return whether targets are numbers, whole ones too."""
    return isinstance(
        criterion, nn.MSELoss | nn.L1Loss | nn.SmoothL1Loss | nn.HuberLoss | nn.PoissonNLLLoss
    )


def takes_probabilities(criterion: object) -> bool:
    """Return whether a single output is a probability and no logit."""
    return isinstance(criterion, nn.BCELoss)


class BatchLoss:
    """Sees the loss of each batch.

    Parameters
    ----------
    criterion
        Of outputs and targets; of a module a forward hook takes what it gives, so under AMP it is not scaled and with accumulation not
        divided.
    wants
        Whether this batch is looked at.
    failed
        Given what went wrong in the hook.
    """

    def __init__(
        self,
        criterion: Callable[..., Any] | None,
        wants: Callable[[], bool],
        failed: Callable[[Exception], None],
    ) -> None:
        self._criterion = criterion
        self._seen: list[torch.Tensor] = []
        self._handles: list[Any] = []
        if isinstance(criterion, nn.Module):
            self._handles = [criterion.register_forward_hook(Hook(wants, self._see, failed))]

    def take(self, outputs: Any, batch: Any) -> torch.Tensor | None:
        """Return the loss of the batch that ends, a number on its device; None if there is no way to know it."""
        seen, self._seen = self._seen, []
        if seen:
            return seen[0] if len(seen) == 1 else torch.stack(seen).mean()
        return self.of(outputs, batch)

    def of(self, outputs: Any, batch: Any) -> torch.Tensor | None:
        """Return the loss that comes with outputs, or what the criterion gives for them and the targets; None if there is neither."""
        loss, logits, targets = loss_of(outputs), logits_of(outputs), targets_of(batch)
        if loss is None and self._criterion and logits is not None and targets is not None:
            with torch.no_grad(), _as_it_was(self._criterion):
                loss = self._criterion(logits.detach(), targets.to(logits.device))
        return loss.detach().float().mean() if isinstance(loss, torch.Tensor) else None

    def close(self) -> None:
        """Remove the hook."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _see(self, loss: Any) -> None:
        if isinstance(loss, torch.Tensor):
            self._seen.append(loss.detach().float().mean())
            del self._seen[:-_MOST]
