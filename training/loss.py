"""The monitor of the loss: spikes, divergence, a plateau, and the batch whose loss is no number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..detectors.loss_curve import LossCurve
from .alerts import TrainingAlerts
from .hooks import Hook
from .loop import Loop, Place, logits_of, loss_of, targets_of
from .monitor import BaseMonitor
from .readings import Readings


class LossMonitor(BaseMonitor):
    """Watches the loss of each batch.

    Parameters
    ----------
    every
        One batch in so many is looked at.
    plateau_steps
        See `LossCurve`, in batches looked at.
    alerts
        Where claims go; `Monitors` gives its own.

    Attributes
    ----------
    history
        (batch of the run, loss) of each batch looked at, as far as they have come from the device.

    Raises
    ------
    ValueError
        `every` is below 1.

    Notes
    -----
    The loss is what a criterion that is a module gives in the loop, seen by a forward hook, so under AMP it is not scaled and with
    gradient accumulation not divided. Of a criterion that is a function, or that is called within what `torch.compile` has compiled, it is
    the `loss` of the outputs, or is computed once more of outputs and targets, without a graph. Losses under `torch.no_grad`, of validation,
    are not taken.
    """

    def __init__(
        self, *, every: int = 1, plateau_steps: int = 300, alerts: TrainingAlerts | None = None
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be 1 batch or more, got {every}")
        self.every = every
        self.alerts = alerts
        self.history: list[tuple[int, float]] = []
        self._curve = LossCurve(plateau_steps)
        self._criterion: Callable[..., Any] | None = None
        self._loop = Loop()
        self._seen: list[torch.Tensor] = []
        self._readings: Readings[Place] = Readings()
        self._handles: list[Any] = []

    def initialize(
        self, model: nn.Module, dataloader: Iterable[Any], criterion: Callable[..., Any] | None
    ) -> None:
        """Begin: the hook on the criterion."""
        del model, dataloader
        self.close()
        self.alerts = self.alerts or TrainingAlerts()
        self._loop = Loop()
        self._curve = LossCurve(self._curve.plateau_steps)
        self.history = []
        self._criterion = criterion
        self._error: Exception | None = None
        if isinstance(criterion, nn.Module):
            hook = Hook(lambda: self._loop.step % self.every == 0, self._see, self._failed)
            self._handles.append(criterion.register_forward_hook(hook))

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Send the batch's loss off, and judge those that have come."""
        if self._error is not None:
            raise self._error
        sampled = self._loop.step % self.every == 0
        place = self._loop.end_batch(batch)
        seen, self._seen = self._seen, []
        if sampled:
            if not seen:
                loss = self._computed(outputs, batch)
                seen = [] if loss is None else [loss]
            if seen:
                self._readings.put(place, [seen[0] if len(seen) == 1 else torch.stack(seen).mean()])
        self._judge(self._readings.ready())
        if self.alerts is not None:
            self.alerts.end_batch(place)

    def on_epoch_end(self, epoch: int) -> None:
        """Count the epoch."""
        self._loop.end_epoch(epoch)

    def close(self) -> None:
        """Judge what is on its way, and remove the hook."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._seen = []
        self._judge(self._readings.ready(wait=True))

    def _see(self, loss: Any) -> None:
        if isinstance(loss, torch.Tensor):
            self._seen.append(loss.detach().float().mean())

    def _failed(self, error: Exception) -> None:
        self._error = error  # raised where it can be caught, not in the criterion

    def _computed(self, outputs: Any, batch: Any) -> torch.Tensor | None:
        loss = loss_of(outputs)
        logits, targets = logits_of(outputs), targets_of(batch)
        if loss is None and self._criterion is not None and logits is not None:
            if targets is None:
                return None
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                loss = self._criterion(logits.detach(), targets.to(logits.device))
        return None if not isinstance(loss, torch.Tensor) else loss.detach().float().mean()

    def _judge(self, numbers: list[tuple[Place, list[float]]]) -> None:
        for place, (loss,) in numbers:
            self.history.append((place.step, loss))
            for verdict in self._curve.update(place.step, loss):
                if self.alerts is not None:
                    self.alerts.claim(verdict, f"loss: {verdict.change}, {verdict.evidence}", place)
