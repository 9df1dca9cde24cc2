"""The monitor of gradients: vanishing, exploding, dead layers, updates as large as the weights, the first layer that is not finite."""

# torch has no public name for its sums over lists of tensors, which its own optimizers use:
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from math import nan
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from ..core.columns import Floats
from ..core.verdict import Verdict
from ..detectors.gradient_flow import GradientFlow
from .alerts import TrainingAlerts, begun
from .curve import Curve
from .hooks import Handle, Hook, in_backward, takes_hooks, warn_of_scripted, weakly
from .layers import finite_hooks, layers_of, name_of
from .loop import Loop, Place
from .monitor import BaseMonitor, not_begun
from .readings import Readings

_SMALLEST: Final = 1e-12
_MOST: Final = 1 << 14
"""Outputs of layers between two ends of batches: more are of a loop that does not say when a batch ends."""
_POINTS: Final = 1000  # of the curve of a layer, of which there may be hundreds
_OF_A_RUN: Final = frozenset(
    [
        "_optimizers",
        "_norms_due",
        "_updates_due",
        "_layers",
        "_layer_of",
        "_parameters",
        "_number",
        "_order",
        "_flow",
    ]
)
"""Attributes that hold on to the model and its optimizers."""


class _Sent(NamedTuple):
    """What the numbers of a step are: of forward passes by layer, then of gradients, updates and weights by parameter."""

    place: Place
    passes: list[str]
    parameters: list[int]
    looked: list[int]  # parameters whose updates follow
    fed: list[str]  # then of layers that get no gradient whether what they are given varies
    scaled: bool  # then the scale of the loss and whether it overflowed come last


class _Due:
    """Says in which batches an optimizer's steps are looked at: one of so many, and where that has none, in the next that has."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._latest = -1
        self._next = 0

    def is_now(self, batch: int) -> bool:
        """Return whether a step of a batch is looked at, and of one batch all."""
        if batch >= self._next:
            self._latest, self._next = batch, batch - batch % self._every + self._every
        return batch == self._latest


class GradientMonitor(BaseMonitor):
    """Watches what the optimizer is given, and what it makes of the weights.

    Parameters
    ----------
    every
        The ratio of updates to weights, which takes a copy of the weights, is looked at in one batch of so many, or in the optimizer's next step where
        that batch has none, since gradients are accumulated or it takes its turns.
    finite_every
        So are the norms of gradients and the finiteness of what each layer gives: with 1 the first layer that is not finite can be named
        whenever that happens.
    alerts
        Where claims go; `Monitors` gives its own.

    Attributes
    ----------
    history
        (batch of the run, norm of all gradients together) of each step looked at, NaN where the pass was not finite; of more than 10,000 a part,
        see `Curve`.
    by_layer
        Likewise, of the steps whose updates are looked at: `norm:LAYER` of a layer's gradient, `update:LAYER` of its update by that of its weights; of
        more than 1,000 a part.

    Raises
    ------
    ValueError
        `every` or `finite_every` is below 1.

    Notes
    -----
    Gradients are read when an optimizer of torch steps that has parameters of the model: after accumulation, clipping and the unscaling of
    AMP, and before they are set to zero. A step that AMP leaves out, since its scale was too large, is not looked at. A layer is a module that
    has parameters of its own. Within what `torch.compile` or `torch.jit.script` has compiled the forward pass is not looked at, the gradients are.
    A copy of a monitor, or a file of it, has its settings and what it recorded, and watches nothing before `initialize`.
    """

    def __init__(
        self, *, every: int = 10, finite_every: int = 1, alerts: TrainingAlerts | None = None
    ) -> None:
        if every < 1 or finite_every < 1:
            raise ValueError(
                f"every and finite_every must be 1 batch or more, got {every} and {finite_every}"
            )
        self.every = every
        self.finite_every = finite_every
        self.alerts = alerts
        self._error: Exception | None = not_begun()
        self.history = Curve()
        self.by_layer: dict[str, Curve] = {}
        self._loop = Loop()
        self._readings: Readings[_Sent] = Readings()
        self._handles: list[Any] = []
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        new = GradientMonitor(every=self.every, finite_every=self.finite_every, alerts=self.alerts)
        new.history, new.by_layer = self.history, self.by_layer
        return {k: v for k, v in vars(self).items() if k not in _OF_A_RUN} | vars(new)

    def _forget(self) -> None:
        self._passes: list[tuple[str, torch.Tensor]] = []
        self._passed: set[str] = set()
        self._is_recomputed = False
        self._norms: dict[int, torch.Tensor] = {}
        self._ratios: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._before: dict[int, torch.Tensor] = {}
        self._fed: dict[str, torch.Tensor] = {}
        self._questions: list[Handle] = []
        self._scale: tuple[torch.Tensor, torch.Tensor] | None = None

    def initialize(
        self, model: nn.Module, dataloader: Iterable[Any], criterion: Callable[..., Any] | None
    ) -> None:
        """Begin: hooks on the layers, and on the steps of optimizers."""
        del dataloader, criterion
        self.close()
        self.alerts = begun(self)
        self._loop = Loop()
        self.history, self.by_layer = Curve(), {}
        self._error = None
        self._optimizers: WeakKeyDictionary[Optimizer, bool] = WeakKeyDictionary()
        self._norms_due: WeakKeyDictionary[Optimizer, _Due] = WeakKeyDictionary()
        self._updates_due: WeakKeyDictionary[Optimizer, _Due] = WeakKeyDictionary()
        self._layers = layers_of(model)
        owned = [
            (layer, p)
            for layer, module in self._layers.items()
            for p in module.parameters(recurse=False)
        ]
        self._layer_of: list[str] = [layer for layer, _ in owned]
        self._parameters = [p for _, p in owned]
        self._number = {id(p): k for k, p in enumerate(self._parameters)}
        self._order = {name_of(name): k for k, (name, _) in enumerate(model.named_modules())}
        self._flow: GradientFlow | None = None
        warn_of_scripted(model, "which of its layers is the first that is not finite is not seen")
        self._handles += finite_hooks(model, self._wants_passes, self._take_pass, self._failed)
        self._handles += [
            Handle(register_optimizer_step_pre_hook(weakly(self._before_step))),
            Handle(register_optimizer_step_post_hook(weakly(self._after_step))),
        ]

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Send the step's numbers off, and judge those that have come."""
        del outputs
        if self._error is not None:
            raise self._error
        place = self._loop.end_batch(batch)
        passes, norms, ratios, scale = self._passes, self._norms, self._ratios, self._scale
        fed = self._fed
        if (
            self._is_recomputed
        ):  # the backward pass made them, so their order is not that of a forward pass
            passes.sort(key=lambda one: self._order.get(one[0], -1))
        self._forget()
        if passes or norms or fed:
            sent = _Sent(
                place,
                [n for n, _ in passes],
                list(norms),
                list(ratios),
                list(fed),
                scale is not None,
            )
            numbers = [x for _, x in passes] + list(norms.values())
            numbers += [x for pair in ratios.values() for x in pair] + list(fed.values())
            self._readings.put(sent, [*numbers, *(scale or ())])
        self._judge(wait=False)
        self._ask()
        if self.alerts is not None:
            self.alerts.end_batch(place)

    def on_epoch_end(self, epoch: int) -> None:
        """Count the epoch."""
        self._loop.end_epoch(epoch)

    def close(self) -> None:
        """Judge what is on its way, and remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._forget()
        self._judge(wait=True)

    def _failed(self, error: Exception) -> None:
        self._error = error  # raised where it can be caught, not in the model's pass

    def _wants_passes(self) -> bool:
        return self._error is None and self._loop.step % self.finite_every == 0

    def _take_pass(self, layer: str, total: torch.Tensor) -> None:
        if len(self._passes) < _MOST:
            is_new = layer not in self._passed
            self._is_recomputed |= is_new and in_backward()  # by reentrant checkpoints
            self._passed.add(layer)
            self._passes.append((layer, total))

    def _ask(self) -> None:
        """Have the next pass say what layers without a gradient are given."""
        silent = [] if self._flow is None else self._flow.silent
        for layer in silent:
            if takes_hooks(self._layers[layer]):
                asked = Hook(_always, partial(self._take_fed, layer), self._failed, before=True)
                self._questions.append(asked.hang(self._layers[layer].register_forward_pre_hook))

    def _take_fed(self, layer: str, given: tuple[Any, ...]) -> None:
        for tensor in given:
            if isinstance(tensor, torch.Tensor) and tensor.dim() and len(tensor) > 1:
                x = tensor.detach()
                varies = (x != x[:1]).any().float()
                known = self._fed.get(layer)  # of an earlier use in the pass, or of another replica
                if known is not None and known.device == varies.device:
                    varies = torch.maximum(known, varies)
                self._fed[layer] = varies
                return

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Read what a step is given. One with a closure, as Lightning's, makes its gradients within: there they are read after it."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._read(optimizer)
            return None

        def then_read() -> Any:
            found = closure()
            self._read(optimizer)
            return found

        if len(args) > 1:
            return (args[0], then_read, *args[2:]), kwargs
        return args, {**kwargs, "closure": then_read}

    def _read(self, optimizer: Optimizer) -> None:
        try:
            step = self._loop.step
            if self._error is not None or not self._is_ours(optimizer):
                return
            looked = self._updates_due.setdefault(optimizer, _Due(self.every)).is_now(step)
            has_norms = self._norms_due.setdefault(optimizer, _Due(self.finite_every)).is_now(step)
            if not (looked or has_norms):
                return
            mine = [
                (self._number[id(p)], p, p.grad)
                for group in optimizer.param_groups
                for p in group["params"]
                if p.grad is not None and p.requires_grad and id(p) in self._number
            ]
            if not mine:
                return
            with torch.no_grad():
                norms = _norms([_dense(grad) for _, _, grad in mine])
                self._norms.update({k: norm for (k, _, _), norm in zip(mine, norms, strict=True)})
                scale = getattr(optimizer, "grad_scale", None)  # AMP's, of a fused optimizer
                if isinstance(scale, torch.Tensor):
                    self._scale = scale.clone(), optimizer.found_inf.clone()  # type: ignore[attr-defined]
                if looked and not self._before:  # the first call of a closure, of several
                    self._before = {k: p.detach().clone() for k, p, _ in mine}
        except Exception as error:  # the optimizer's step must not fail for it
            self._failed(error)

    def _after_step(self, _optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        before, self._before = self._before, {}
        if not before:
            return
        try:
            with torch.no_grad():
                old = list(before.values())
                weights = _norms(old)
                torch._foreach_sub_(old, [self._parameters[k].detach() for k in before])
                pairs = zip(_norms(old), weights, strict=True)
                self._ratios.update(dict(zip(before, pairs, strict=True)))
        except Exception as error:  # the optimizer's step must not fail for it
            self._failed(error)

    def _is_ours(self, optimizer: Optimizer) -> bool:
        if not self._optimizers.get(optimizer, False):
            self._optimizers[optimizer] = any(
                id(p) in self._number for group in optimizer.param_groups for p in group["params"]
            )
        return self._optimizers[optimizer]

    def _judge(self, *, wait: bool) -> None:
        for sent, numbers in self._readings.ready(wait=wait):
            for verdict in self._verdicts(sent, np.array(numbers)):
                if self.alerts is not None:
                    text = f"gradients: {verdict.change}, {verdict.evidence}"
                    self.alerts.claim(verdict, text, sent.place)

    def _verdicts(self, sent: _Sent, numbers: Floats) -> list[Verdict]:
        flow = self._flow_of(sent.passes)
        step, passed, seen = sent.place.step, len(sent.passes), len(sent.parameters)
        broken = np.flatnonzero(~np.isfinite(numbers[:passed]))
        if len(broken):
            first = sent.passes[broken[0]]
            where = "forward pass" if first else "forward pass, its input already,"
            layer = first or next((name for name in sent.passes if name), "input")
            if seen:
                self.history.add(step, nan)
            return flow.not_finite(step, layer, where)
        if sent.scaled and numbers[-1]:
            return []
        scale = numbers[-2] if sent.scaled else 1.0
        norms = self._by_layer(flow, sent.parameters, numbers[passed : passed + seen] / scale)
        at = passed + seen + 2 * len(sent.looked)
        flow.fed({name: x > 0 for name, x in zip(sent.fed, numbers[at:].tolist(), strict=False)})
        known = norms[~(norms < 0)]  # with what is NaN
        if seen:
            self.history.add(step, float(np.sqrt((known**2).sum())))
        found = flow.update(step, norms)
        if sent.looked:
            pairs = numbers[passed + seen :][: 2 * len(sent.looked)].reshape(-1, 2)
            change = self._by_layer(flow, sent.looked, pairs[:, 0])
            weight = self._by_layer(flow, sent.looked, pairs[:, 1])
            has_ratio = (change >= 0) & np.isfinite(weight)
            none = np.full(len(change), -1.0)
            ratios = np.divide(change, np.maximum(weight, _SMALLEST), out=none, where=has_ratio)
            found += flow.updated(step, ratios)
            self._record(step, "norm", flow.names, norms)
            self._record(step, "update", flow.names, ratios)
        return found

    def _record(self, step: int, what: str, names: list[str], values: Floats) -> None:
        for name, value in zip(names, values.tolist(), strict=True):
            if value >= 0:
                curve = self.by_layer.setdefault(f"{what}:{name}", Curve(_POINTS))
                curve.add(step, value)

    def _flow_of(self, passes: list[str]) -> GradientFlow:
        """Return the detector; the first pass says in which order the layers are."""
        if self._flow is None:
            order = {name: k for k, name in reversed(list(enumerate(passes)))}
            names = sorted(self._layers, key=lambda name: order.get(name, -1))
            sizes = dict.fromkeys(names, 0)
            for layer, p in zip(self._layer_of, self._parameters, strict=True):
                sizes[layer] += 0 if is_lazy(p) else p.numel()
            unplaced = sum(name not in order for name in names) if order else 0
            self._flow = GradientFlow(names, np.array(list(sizes.values()), np.int64), unplaced)
        return self._flow

    def _by_layer(self, flow: GradientFlow, parameters: list[int], norms: Floats) -> Floats:
        """Return (layers,) norms of those of parameters; -1 of a layer that has none among them."""
        place = {name: k for k, name in enumerate(flow.names)}
        squares = np.full(len(flow.names), -1.0)
        for k, norm in zip(parameters, norms, strict=True):
            at = place[self._layer_of[k]]
            squares[at] = max(squares[at], 0.0) + float(norm) ** 2 if not np.isnan(norm) else np.nan
        return np.where(squares < 0, -1.0, np.sqrt(np.abs(squares)))


def _always() -> bool:
    return True


def _norms(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return their 2-norms, of half precision in single: a sum of squares is soon beyond the largest half."""
    is_half = [one.dtype in (torch.float16, torch.bfloat16) for one in tensors]
    if not any(is_half):
        return list(torch._foreach_norm(tensors))
    half = [one for one, is_one in zip(tensors, is_half, strict=True) if is_one]
    rest = [one for one, is_one in zip(tensors, is_half, strict=True) if not is_one]
    of_half = iter(torch._foreach_norm(half, 2, torch.float32))
    of_rest = iter(torch._foreach_norm(rest) if rest else ())
    return [next(of_half if is_one else of_rest) for is_one in is_half]


def _dense(gradient: torch.Tensor) -> torch.Tensor:
    """Return the numbers of a gradient, of a sparse one each place's once."""
    return gradient.detach().coalesce().values() if gradient.is_sparse else gradient.detach()
