"""The monitor of activations: units that are never above zero, or always at their bounds, and layers whose distribution jumps, by epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import nn

from ..core.verdict import Verdict
from ..detectors import activation_shift
from ..detectors.activation_shift import ActivationShift, Move
from ..detectors.first_claims import FirstClaims
from .alerts import TrainingAlerts, begun
from .hooks import Hook, takes_hooks, warn_of_scripted
from .layers import name_of
from .loop import Loop, Place
from .monitor import BaseMonitor
from .rectifiers import by_channel, is_rectified, look_at
from .units import INPUT, LayerUnits
from .uses import Uses

_log = logging.getLogger(__name__)

_RECTIFIERS: Final = (nn.ReLU, nn.ReLU6)
_BOUNDS: Final[tuple[tuple[type[nn.Module], float, float], ...]] = (
    (nn.Sigmoid, 0.0, 1.0), (nn.Tanh, -1.0, 1.0), (nn.Hardtanh, -1.0, 1.0), (nn.Hardsigmoid, 0.0, 1.0),
)  # fmt: skip
_NEAR: Final = 0.01
"""Of the distance between the bounds: a sigmoid's gradient is less than 4 percent of its largest there."""
_LEAST: Final = 10  # passes looked at in an epoch before it is judged
_MODAL: Final = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
"""Modules that do something else in evaluation."""
_CONVOLUTIONS: Final = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
_TAKES: Final = (
    *_CONVOLUTIONS, nn.Linear, nn.LayerNorm, nn.modules.batchnorm._NormBase, nn.GroupNorm,
)  # fmt: skip
"""Layers at which rectifiers that are functions are looked at: by what goes in."""


class ActivationMonitor(BaseMonitor):
    """Looks at what rectifiers, sigmoids and tanhs give, and at the distribution of what each layer gives.

    Parameters
    ----------
    every
        The passes of one batch in so many are looked at, or of more where the data loader has a length that gives fewer than ten in an epoch.
    dead, saturated
        The share of a layer's units that never were above zero in an epoch, and of its values within 1 % of the bounds, from which on it is claimed.
    shift
        How far a layer's units may be further from those of the reference epoch than they were in the epoch before, within (0, 1): half a standard
        deviation is 0.18, see `detectors.activation_shift.distance`.
    reference
        Number of the epoch that later ones are compared with; None for the one before each. Learning moves layers on and on, so a fixed one tells
        how far they have come, and the one before best whether this epoch is unlike the others.
    alerts
        Where claims go; `Monitors` gives its own.

    Attributes
    ----------
    history
        Of each epoch a dictionary: `epoch`, and by layer the shares `dead:2` and `saturated:4`, and the distance from the reference `shift:0`;
        the model's inputs are the layer `input`. Of a module that is used several times in a pass each use has a name, `dead:relu`, `dead:relu#2`; of
        a function, such as `torch.relu`, the layer that it goes into has: `dead:input of conv2`.

    Raises
    ------
    ValueError
        `every` is below 1, a share not within (0, 1], `shift` not within (0, 1), or `reference` below 0.

    Notes
    -----
    A unit is a column of an output, or a channel: dimension 1; of a linear layer, and of one that normalises rows, the last, and so of a rectifier that
    comes after one of these. An epoch of fewer than ten passes that were looked at is not judged, and a warning is logged once. What is compiled or
    scripted is not seen.

    Uses are told apart by the layer that ran last before them, see `Uses`: the steps of a sequence are one. A function is seen by the graph of gradients
    where what it gave goes into a linear layer, a convolution or a normalisation, past pooling, dropout, other shapes, sums and products: not where
    nothing before it is learnt, where part of what goes in is not rectified, or in place in a view. It is told of once, at the first such layer. What
    a checkpoint of activations makes again in the backward pass is not looked at again.

    A shift is judged from the third comparison of a layer on, and is claimed where it is three times the largest of the last five as well; of
    the inputs, which do not learn, the first is, and an eighth of `shift` is enough later where it is more than chance. The claim names the first layer of the pass. Claimed as well is an epoch in all of which a layer
    of normalisation or dropout is in evaluation that was not before: a `model.train()` that was forgotten.
    """

    def __init__(
        self,
        *,
        every: int = 10,
        dead: float = 0.9,
        saturated: float = 0.9,
        shift: float = 0.25,
        reference: int | None = None,
        alerts: TrainingAlerts | None = None,
    ) -> None:
        if every < 1 or not 0 < dead <= 1 or not 0 < saturated <= 1:
            raise ValueError(
                "every must be 1 batch or more, dead and saturated within (0, 1], got "
                f"{every}, {dead} and {saturated}"
            )
        self.every = every
        self.dead = dead
        self.saturated = saturated
        self.shift = shift
        self.reference = reference
        self.alerts = alerts
        self.history: list[dict[str, float]] = []
        self._loop = Loop()
        self._handles: list[Any] = []
        self._error: Exception | None = None
        self._begin()
        self._forget()

    def _begin(self) -> None:
        self._shift = ActivationShift(self.shift, self.reference)
        self._claims = FirstClaims()
        self._uses = Uses()
        self._units = LayerUnits(self._uses)
        self._trained: set[str] = set()  # layers that were in training once
        self._every = self.every
        self._has_warned = False

    def _forget(self) -> None:
        self._alive: dict[str, torch.Tensor] = {}
        self._shares: dict[str, torch.Tensor] = {}
        self._passes: dict[str, int] = {}
        self._in_evaluation: dict[str, int] = {}
        self._in_training: set[str] = set()
        self._looked = 0  # batches

    def initialize(
        self, model: nn.Module, dataloader: Iterable[Any], criterion: Callable[..., Any] | None
    ) -> None:
        """Begin: hooks on the layers."""
        del criterion
        self.close()
        self.alerts = begun(self)
        self._loop, self.history, self._error = Loop(), [], None
        self._begin()
        self._forget()
        self._every = _often_enough(self.every, dataloader)
        warn_of_scripted(model, "activations of it are not seen")
        self._handles += self._units.hooks(model, self._wants, self._failed, self._take_given)
        for name, module in model.named_modules():
            look = self._look_of(name_of(name), module)
            if look is not None and takes_hooks(module):
                hook = Hook(self._wants, look, self._failed)
                self._handles.append(hook.hang(module.register_forward_hook))

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Count the batch."""
        del outputs
        if self._error is not None:
            raise self._error
        self._looked += self._wants()
        self._uses.end_batch()
        self._loop.end_batch(batch)

    def on_epoch_end(self, epoch: int) -> None:
        """Read what was counted, and judge it."""
        place = self._loop.last_of(epoch)
        if self._looked < _LEAST and not self._has_warned:
            self._has_warned = True
            self._warn(epoch, self._loop.place.batch)
        row = {"epoch": float(epoch)}
        for layer, alive in self._alive.items():
            share = row[f"dead:{layer}"] = 1.0 - float(alive.float().mean())
            self._judge(place, layer, share, self.dead, "dead units", "units were never above zero")
        for layer, total in self._shares.items():
            share = row[f"saturated:{layer}"] = float(total) / self._passes[layer]
            self._judge(place, layer, share, self.saturated, "saturation", "values are at the bounds")  # fmt: skip
        far, moves = self._shift.update(epoch, self._units.taken(_LEAST), INPUT)
        row |= {f"shift:{layer}": size for layer, size in far.items()}
        self._judge_moves(place, moves, len(far))
        self._judge_modes(place)
        self.history.append(row)
        self._loop.end_epoch(epoch)
        self._forget()

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _wants(self) -> bool:
        return self._loop.step % self._every == 0

    def _warn(self, epoch: int, batches: int) -> None:
        advice = f"ActivationMonitor(every={batches // _LEAST}) looks at enough"
        if batches < _LEAST:
            advice = "make batches smaller, or call on_epoch_end once in several epochs"
        _log.warning(
            "activations of epoch %d are not judged: %d of its %d batches were looked at, of %d that it takes: %s",
            epoch, self._looked, batches, _LEAST, advice,
        )  # fmt: skip

    def _failed(self, error: Exception) -> None:
        self._error = error

    def _look_of(self, layer: str, module: nn.Module) -> Callable[[Any], None] | None:
        """Return what looks at a module's output; None if it is of no kind that is looked at."""
        if isinstance(module, _RECTIFIERS):
            return lambda output: self._take_rectified(layer, output)
        for kind, low, high in _BOUNDS:
            if isinstance(module, kind):
                return lambda output: self._take_bounded(layer, output.detach(), low, high)
        if isinstance(module, _MODAL):
            return lambda _: self._take_mode(layer, is_training=module.training)
        return None

    def _take_mode(self, layer: str, *, is_training: bool) -> None:
        if is_training:
            self._trained.add(layer)
            self._in_training.add(layer)
        elif layer in self._trained:
            self._in_evaluation[layer] = self._in_evaluation.get(layer, 0) + 1

    def _take_rectified(self, module: str, output: torch.Tensor) -> None:
        look_at(output)
        if not output.numel() or self._uses.is_again(module):
            return
        use, output = self._uses.of(module), output.detach()
        other = _all_but(output.ndim - 1 if use.last else 1, output)
        self._add_alive(use.name, output.amax(other) > 0)

    def _take_given(self, layer: str, module: nn.Module, given: Any) -> None:
        values = given[0] if given else None
        if not isinstance(module, _TAKES) or not isinstance(values, torch.Tensor):
            return
        if values.ndim < 2 or not values.numel() or self._uses.is_again(layer):
            return
        if is_rectified(values):
            channels = by_channel(values)
            unit = _unit_of(module, values) if channels is None else 1
            values = values.detach() if channels is None else channels
            other = _all_but(unit, values)
            # A gate or a scale after the rectifier may be below zero; what is dead is zero after them too.
            alive = (values.amax(other) != 0) | (values.amin(other) != 0)
            self._add_alive(self._uses.of(f"input of {layer}").name, alive)

    def _add_alive(self, use: str, alive: torch.Tensor) -> None:
        alive, before = alive.reshape(-1), self._alive.get(use)
        if before is not None and before.shape != alive.shape:  # other units: they begin anew
            before, self._passes[use] = None, 0
        self._alive[use] = alive if before is None else before | alive.to(before.device)
        self._passes[use] = self._passes.get(use, 0) + 1

    def _take_bounded(self, module: str, output: torch.Tensor, low: float, high: float) -> None:
        if not output.numel() or self._uses.is_again(module):
            return
        use = self._uses.of(module).name
        margin = _NEAR * (high - low)
        share = ((output < low + margin) | (output > high - margin)).float().mean()
        before = self._shares.get(use)
        self._shares[use] = share if before is None else before + share.to(before.device)
        self._passes[use] = self._passes.get(use, 0) + 1

    def _judge(
        self, place: Place, layer: str, share: float, most: float, change: str, what: str
    ) -> None:
        if share < most or self._passes[layer] < _LEAST:
            return
        self._claim(place, Verdict(
            detector="activations", subject=f"activation:{layer}", offset=place.step, row=0, statistic=share,
            threshold=most, unit=f"share of {change}", change=change, evidence=f"{share:.0%} of its {what}",
        ))  # fmt: skip

    def _judge_moves(self, place: Place, moves: list[Move], layers: int) -> None:
        if not moves:
            return
        first = moves[0]
        self._claim(place, Verdict(
            detector=activation_shift.NAME, subject=f"activation:{first.layer}", offset=place.step, row=0, statistic=first.size,
            threshold=first.threshold, unit="Hellinger distance from the reference epoch, more than before", change="shift",
            size=first.size, evidence=f"its distribution moved by {first.size:.2f} in an epoch, of {first.threshold:.2f} allowed; "
            f"{len(moves)} of {layers} layers did",
        ))  # fmt: skip

    def _judge_modes(self, place: Place) -> None:
        found = {k: n for k, n in self._in_evaluation.items() if k not in self._in_training}
        if not found:
            return
        layer, passes = next(iter(found.items()))
        self._claim(place, Verdict(
            detector="activation_mode", subject=f"activation:{layer}", offset=place.step, row=0, statistic=passes,
            threshold=0, unit="passes", change="evaluation", evidence=f"in evaluation in {passes} passes of training, and "
            f"{len(found) - 1} other layers: was model.train() forgotten?",
        ))  # fmt: skip

    def _claim(self, place: Place, verdict: Verdict) -> None:
        """Claim what was not there in the epoch before."""
        is_first = self._claims.is_first(f"{verdict.change}:{verdict.subject}", place.epoch, 1)
        if is_first and self.alerts is not None:
            layer = verdict.subject.removeprefix("activation:")
            self.alerts.claim(verdict, f"activations: {layer}, {verdict.evidence}", place)


def _unit_of(layer: nn.Module, given: torch.Tensor) -> int:
    """Return the dimension of units of what a layer is given."""
    if isinstance(layer, (nn.Linear, nn.LayerNorm)):
        return given.ndim - 1
    # A convolution takes a picture without a batch, too.
    return given.ndim - 1 - len(layer.kernel_size) if isinstance(layer, _CONVOLUTIONS) else 1


def _all_but(unit: int, tensor: torch.Tensor) -> list[int]:
    """Return the dimensions besides that of units; of a tensor of one dimension that."""
    return [k for k in range(tensor.ndim) if k != unit] if tensor.ndim > 1 else [0]


def _often_enough(every: int, dataloader: Any) -> int:
    """Return one batch in how many is looked at: fewer than `every` where an epoch has too few of those, if its length is known."""
    try:
        batches = len(dataloader)
    except (
        Exception
    ):  # of one's own, or without an end: whatever it raises, the length is not known
        return every
    return max(1, min(every, batches // _LEAST)) if batches else every
