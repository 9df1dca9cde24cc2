"""The monitor of activations: units that are never above zero, or always at their bounds, by layer and epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import nn

from ..core.verdict import Verdict
from .alerts import TrainingAlerts
from .hooks import Hook
from .layers import name_of
from .loop import Loop, Place
from .monitor import BaseMonitor

_RECTIFIERS: Final = (nn.ReLU, nn.ReLU6)
_BOUNDS: Final[tuple[tuple[type[nn.Module], float, float], ...]] = (
    (nn.Sigmoid, 0.0, 1.0), (nn.Tanh, -1.0, 1.0), (nn.Hardtanh, -1.0, 1.0), (nn.Hardsigmoid, 0.0, 1.0),
)  # fmt: skip
_NEAR: Final = 0.01
"""Of the distance between the bounds: a sigmoid's gradient is less than 4 percent of its largest there."""
_LEAST: Final = 10  # passes looked at in an epoch before it is judged


class ActivationMonitor(BaseMonitor):
    """Looks at what rectifiers, sigmoids and tanhs give.

    Parameters
    ----------
    every
        The passes of one batch in so many are looked at.
    dead, saturated
        The share of a layer's units that never were above zero in an epoch, and of its values within 1 % of the bounds, from which on it is claimed.
    alerts
        Where claims go; `Monitors` gives its own.

    Attributes
    ----------
    history
        Of each epoch a dictionary, of each layer's name to its share of dead units or of saturated values.

    Raises
    ------
    ValueError
        `every` is below 1, or a share not within (0, 1].

    Notes
    -----
    A unit is a column of a rectifier's output, or a channel: dimension 1. An epoch of fewer than ten passes that were looked at is not judged. Functions, such as
    `torch.relu`, and what is compiled are not seen.
    """

    def __init__(
        self, *, every: int = 10, dead: float = 0.9, saturated: float = 0.9, alerts: TrainingAlerts | None = None,
    ) -> None:  # fmt: skip
        if every < 1 or not 0 < dead <= 1 or not 0 < saturated <= 1:
            raise ValueError(
                "every must be 1 batch or more, dead and saturated within (0, 1], got "
                f"{every}, {dead} and {saturated}"
            )
        self.every = every
        self.dead = dead
        self.saturated = saturated
        self.alerts = alerts
        self.history: list[dict[str, float]] = []
        self._loop = Loop()
        self._handles: list[Any] = []
        self._error: Exception | None = None
        self._forget()

    def _forget(self) -> None:
        self._alive: dict[str, torch.Tensor] = {}
        self._shares: dict[str, torch.Tensor] = {}
        self._passes: dict[str, int] = {}

    def initialize(
        self, model: nn.Module, dataloader: Iterable[Any], criterion: Callable[..., Any] | None
    ) -> None:
        """Begin: hooks on the layers."""
        del dataloader, criterion
        self.close()
        self.alerts = self.alerts or TrainingAlerts()
        self._loop, self.history, self._error = Loop(), [], None
        self._forget()
        for name, module in model.named_modules():
            look = self._look_of(name_of(name), module)
            if look is not None:
                hook = Hook(lambda: self._loop.step % self.every == 0, look, self._failed)
                self._handles.append(module.register_forward_hook(hook))

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Count the batch."""
        del outputs
        if self._error is not None:
            raise self._error
        self._loop.end_batch(batch)

    def on_epoch_end(self, epoch: int) -> None:
        """Read what was counted, and judge it."""
        place = Place(self._loop.step, epoch, max(self._loop.place.batch - 1, 0))
        row: dict[str, float] = {}
        for layer, alive in self._alive.items():
            row[layer] = 1.0 - float(alive.float().mean())
            self._judge(place, layer, row[layer], self.dead, "dead units", "units were never above zero")  # fmt: skip
        for layer, total in self._shares.items():
            row[layer] = float(total) / self._passes[layer]
            self._judge(place, layer, row[layer], self.saturated, "saturation", "values are at the bounds")  # fmt: skip
        self.history.append(row)
        self._loop.end_epoch(epoch)
        self._forget()

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _failed(self, error: Exception) -> None:
        self._error = error

    def _look_of(self, layer: str, module: nn.Module) -> Callable[[Any], None] | None:
        """Return what looks at a module's output; None if it is of no kind that is looked at."""
        if isinstance(module, _RECTIFIERS):
            return lambda output: self._take_rectified(layer, output.detach())
        for kind, low, high in _BOUNDS:
            if isinstance(module, kind):
                return lambda output: self._take_bounded(layer, output.detach(), low, high)
        return None

    def _take_rectified(self, layer: str, output: torch.Tensor) -> None:
        units = output.transpose(0, 1).flatten(1) if output.ndim > 1 else output[None]
        alive = (units > 0).any(dim=1)
        before = self._alive.get(layer)
        is_like = before is not None and before.shape == alive.shape
        self._alive[layer] = alive if before is None or not is_like else before | alive.to(before.device)  # fmt: skip
        self._passes[layer] = self._passes.get(layer, 0) + 1

    def _take_bounded(self, layer: str, output: torch.Tensor, low: float, high: float) -> None:
        margin = _NEAR * (high - low)
        share = ((output < low + margin) | (output > high - margin)).float().mean()
        before = self._shares.get(layer)
        self._shares[layer] = share if before is None else before + share.to(before.device)
        self._passes[layer] = self._passes.get(layer, 0) + 1

    def _judge(
        self, place: Place, layer: str, share: float, most: float, change: str, what: str
    ) -> None:
        if share < most or self._passes[layer] < _LEAST or self.alerts is None:
            return
        verdict = Verdict(
            detector="activations", subject=f"activation:{layer}", offset=place.step, row=0, statistic=share,
            threshold=most, unit=f"share of {change}", change=change, evidence=f"{share:.0%} of its {what}",
        )  # fmt: skip
        self.alerts.claim(verdict, f"activations: {layer}, {verdict.evidence}", place)
