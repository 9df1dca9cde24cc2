"""The loss of each batch: what the criterion gave in the loop, else what it gives for outputs and targets."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from copy import copy
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from .hooks import Hook
from .loop import aligned, logits_of, loss_of, wide
from .targets import Targets
from .untouched import same_randomness

_log = logging.getLogger(__name__)
_MOST: Final = 1024
"""Losses between two ends of batches: more are of a loop that does not say when a batch ends."""


@contextmanager
def _as_it_was(criterion: Callable[..., Any]) -> Generator[None]:
    """Leave what a criterion holds, and all random numbers, as they were."""
    if str(getattr(criterion, "__module__", "")).startswith("torch.nn."):
        # torch's own remember nothing and draw torch's numbers at most; numpy's state alone takes 0.07 ms a batch.
        with torch.random.fork_rng(devices=[]):
            yield
        return
    holder = getattr(criterion, "__self__", criterion)  # of a method
    holders = list(holder.modules()) if isinstance(holder, nn.Module) else [holder]
    # Of a module the parameters are left out: without gradients nothing changes them.
    tables = [
        table
        for one in holders
        for table in (getattr(one, "__dict__", None), getattr(one, "_buffers", None))
        if table is not None
    ]
    kept = [(table, dict(table), {name: _copied(value) for name, value in table.items()}) for table in tables]  # fmt: skip
    try:
        with same_randomness(criterion):
            yield
    finally:
        for table, was, copies in kept:
            for name, value in was.items():
                _put_back(value, copies[name])
            for name in [name for name in table if name not in was]:
                del table[name]
            table.update(was)


def _copied(value: Any) -> Any:
    """Return a copy of what a call may change in place, of a tensor with the version that it is of; None of anything else."""
    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
        return value.detach().clone(), value._version
    return copy(value) if type(value) in (list, dict, set, deque) else None


def _put_back(value: Any, was: Any) -> None:
    if isinstance(value, torch.Tensor) and was is not None:
        copied, version = was
        if value._version != version:  # a comparison would wait for the device
            value.copy_(copied)
    elif isinstance(value, list | deque) and was is not None:
        value.clear()
        value.extend(was)
    elif isinstance(value, dict | set) and was is not None:
        value.clear()
        value.update(was)


def is_of_two(criterion: object) -> bool:
    """Return whether a single output is about two classes: it is binary cross-entropy."""
    functions = (functional.binary_cross_entropy, functional.binary_cross_entropy_with_logits)
    return isinstance(criterion, nn.BCELoss | nn.BCEWithLogitsLoss) or criterion in functions


def is_of_shares(criterion: object) -> bool:
    """Return whether targets of the shape of the outputs are a share of each class: it is cross-entropy."""
    return isinstance(criterion, nn.CrossEntropyLoss) or criterion is functional.cross_entropy


def is_of_numbers(criterion: object) -> bool:
    """Return whether targets are numbers, whole ones too."""
    functions = (
        functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss, functional.poisson_nll_loss,
    )  # fmt: skip
    kinds = nn.MSELoss | nn.L1Loss | nn.SmoothL1Loss | nn.HuberLoss | nn.PoissonNLLLoss
    return isinstance(criterion, kinds) or criterion in functions


def is_of_distances(criterion: object) -> bool:
    """Return whether outputs are compared with one another: then they are of no classes."""
    functions = (
        functional.triplet_margin_loss, functional.triplet_margin_with_distance_loss, functional.cosine_embedding_loss,
        functional.margin_ranking_loss, functional.hinge_embedding_loss,
    )  # fmt: skip
    kinds = (
        nn.TripletMarginLoss | nn.TripletMarginWithDistanceLoss | nn.CosineEmbeddingLoss | nn.MarginRankingLoss | nn.HingeEmbeddingLoss
    )  # fmt: skip
    return isinstance(criterion, kinds) or criterion in functions


def takes_probabilities(criterion: object) -> bool:
    """Return whether a single output is a probability and no logit."""
    return isinstance(criterion, nn.BCELoss) or criterion is functional.binary_cross_entropy


class BatchLoss:
    """Sees the loss of each batch.

    Parameters
    ----------
    criterion
        Of outputs and targets; of a module a forward hook takes what it gives, so under AMP it is not scaled and with accumulation not
        divided. One with `reduction="sum"` is divided by the rows.
    wants
        Whether this batch is looked at.
    failed
        Given what went wrong in the hook.
    targets
        Which part of a batch they are; None for one's own.
    """

    def __init__(
        self,
        criterion: Callable[..., Any] | None,
        wants: Callable[[], bool],
        failed: Callable[[Exception], None],
        targets: Targets | None = None,
    ) -> None:
        self._criterion = criterion
        self._seen: list[torch.Tensor] = []
        self._was_called = self._is_refused = False
        self._is_wide = True  # whether it takes half precision as single
        self.targets = targets or Targets(criterion)
        self._handles: list[Any] = []
        if isinstance(criterion, nn.Module):
            self._handles = [
                Hook(wants, self._see, failed, both=True).hang(criterion.register_forward_hook)
            ]

    def take(self, outputs: Any, batch: Any) -> torch.Tensor | None:
        """Return the loss of the batch that ends, a number on its device; None if there is no way to know it."""
        seen, self._seen = self._seen, []
        was_called, self._was_called = self._was_called, False
        if seen:
            return seen[0] if len(seen) == 1 else torch.stack(seen).mean()
        if (
            was_called
        ):  # what it gave is no loss that can be read: a second call would give no other
            loss = loss_of(outputs)
            return None if loss is None else loss.detach().float().mean()
        return self.of(outputs, batch)

    def of(self, outputs: Any, batch: Any) -> torch.Tensor | None:
        """Return the loss that comes with outputs, or what the criterion gives for them and the targets; None if there is neither."""
        loss, logits = loss_of(outputs), logits_of(outputs)
        if loss is not None:
            return loss.detach().float().mean()
        targets = None if logits is None else self.targets.of(batch, logits)
        if self._criterion is None or logits is None or targets is None or self._is_refused:
            return None
        x, y = aligned(logits.detach(), targets), targets.to(logits.device)
        try:
            try:
                loss = self._given(wide(x) if self._is_wide else x, y)
            except Exception:
                if not self._is_wide or wide(x) is x:
                    raise
                self._is_wide = False  # weights of classes are half too, say
                loss = self._given(x, y)
        except Exception as error:  # it takes other things than outputs and targets
            self._is_refused = True
            _log.warning(
                "the criterion cannot be called with outputs of shape %s and targets of shape %s, so its loss is not known where the loop "
                "does not call it as a module: expected one of these two, or outputs that have a `loss` (%s: %s)",
                tuple(x.shape), tuple(y.shape), type(error).__name__, error,
            )  # fmt: skip
            return None
        if loss is None:
            return None
        return self._mean(loss, y)

    def _given(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor | None:
        """Return what the criterion gives, and leave it as it was."""
        assert self._criterion is not None
        if not y.is_floating_point() and (is_of_two(self._criterion) or is_of_numbers(self._criterion)):  # fmt: skip
            y = y.to(x.dtype)
        with torch.no_grad(), _as_it_was(self._criterion):
            return _loss_in(self._criterion(x, y))

    def close(self) -> None:
        """Remove the hook."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.targets.close()

    def _see(self, given: tuple[tuple[Any, ...], Any]) -> None:
        self._was_called = True
        arguments, made = given
        loss = _loss_in(made)
        if loss is not None:
            self._seen.append(self._mean(loss.detach(), arguments[-1] if arguments else None))
            del self._seen[:-_MOST]

    def _mean(self, loss: torch.Tensor, targets: Any) -> torch.Tensor:
        """Return the mean of a loss, of one that is a sum over the rows of the targets."""
        if getattr(self._criterion, "reduction", None) != "sum":
            return loss.float().mean()
        is_rows = isinstance(targets, torch.Tensor) and targets.ndim > 0
        return loss.float().sum() / (max(len(targets), 1) if is_rows else 1)


def _loss_in(given: Any) -> torch.Tensor | None:
    """Return the loss in what a criterion gives: a tensor, the first of several, or what a dictionary calls so."""
    if isinstance(given, tuple | list) and given:
        given = given[0]
    return given if isinstance(given, torch.Tensor) else loss_of(given)
