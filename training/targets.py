"""Which part of a batch the targets are: what the criterion is given in the loop, else what the outputs may be about."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn

from .hooks import Hook
from .parts import LABELS

_log = logging.getLogger(__name__)
_TRIES: Final = 3
"""Batches in which the criterion's targets are looked for: where they are mixed, they are no part of any."""


class Targets:
    """Finds the targets of each batch.

    Parameters
    ----------
    criterion
        Of outputs and targets. In the first batch of which a module takes the targets as they are, a hook sees where they come from; then it is removed.

    Notes
    -----
    Of a dictionary targets are what it calls so. Of a tuple or list, as long as nothing else is known, they are the first after the inputs that
    outputs may be about: whole numbers for outputs of several classes, else numbers of their shape; else the last. Where several may be, that is said once.
    """

    def __init__(self, criterion: object = None) -> None:
        self._place: int | None = None
        self._tries = _TRIES
        self._seen: torch.Tensor | None = None
        self._is_warned = False
        self._handle: Any = None
        if isinstance(criterion, nn.Module):
            hook = Hook(lambda: True, self._see, lambda _: None)
            self._handle = hook.hang(criterion.register_forward_pre_hook)

    def of(self, batch: Any, logits: torch.Tensor | None = None) -> torch.Tensor | None:
        """Return the targets of a batch; None if there are none."""
        seen, self._seen = self._seen, None
        if isinstance(batch, Mapping):
            named = (batch[name] for name in LABELS if name in batch)
            return next((part for part in named if isinstance(part, torch.Tensor)), None)
        if not isinstance(batch, Sequence) or isinstance(batch, str | bytes):
            return None
        rest = {k: part for k, part in enumerate(batch) if k and isinstance(part, torch.Tensor)}
        if seen is not None:
            self._place = next((k for k, part in rest.items() if _is_same(part, seen)), None)
            self._tries -= 1
            if self._place is not None or not self._tries:
                self.close()
        if self._place in rest:
            return rest[self._place]
        return self._likely(rest, logits)

    def close(self) -> None:
        """Remove the hook."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self._seen = None

    def _see(self, given: Any) -> None:
        self._seen = given[1] if len(given) > 1 and isinstance(given[1], torch.Tensor) else None

    def _likely(
        self, rest: dict[int, torch.Tensor], logits: torch.Tensor | None
    ) -> torch.Tensor | None:
        fits = {k: 0 if logits is None else _fit(logits, part) for k, part in rest.items()}
        if not any(fits.values()):
            return next(reversed(rest.values()), None)
        best = [k for k, fit in fits.items() if fit == max(fits.values())]
        if len(best) > 1 and not self._is_warned:
            self._is_warned = True
            _log.warning(
                "parts %s of a batch may all be its targets, and %d is taken: expected a criterion that is a module and is given them as they "
                "are in the batch, or a batch that is a dictionary with `labels`",
                " and ".join(map(str, best)), best[0],
            )  # fmt: skip
        return rest[best[0]]


def _is_same(part: torch.Tensor, seen: torch.Tensor) -> bool:
    """Return whether a criterion was given a part of a batch, which may have been moved to a device; for that it is waited, once in a run."""
    if part is seen or (part.data_ptr() == seen.data_ptr() and part.numel() == seen.numel() > 0):
        return True
    return part.numel() == seen.numel() and torch.equal(
        part.detach().reshape(-1).to(seen), seen.detach().reshape(-1)
    )


def _fit(logits: torch.Tensor, part: torch.Tensor) -> int:
    """Return 3 for what may be classes of outputs, 2 for numbers of their shape, 1 for whole ones, 0 for what is no target of them."""
    shape, own = logits.shape, part.shape
    is_whole = not part.is_floating_point() and not part.is_complex()
    by_place = (shape[:1] + shape[2:], shape[:-1])  # with classes as dimension 1, or the last
    if is_whole and len(shape) == len(own) + 1 and shape[1] > 1 and own in by_place:
        return 3
    return (1 if is_whole else 2) if shape in (own, (*own, 1)) else 0
