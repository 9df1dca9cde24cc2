"""Scalars on their way from the device: put where they are made, read in one go, waited for by nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

import torch

T = TypeVar("T")

_ON_THEIR_WAY: Final = 64
"""Steps whose numbers are still on the device; with more the oldest are waited for. A copy takes less than a step, so this is never reached
but where the device itself has stopped."""


WAITING: Final = 1024
"""Batches whose numbers wait on an accelerator for the end of the epoch, at most; chosen, so that an epoch without end does not fill its memory."""


class _Copy(NamedTuple):
    of: Any
    parts: list[torch.Tensor]
    done: list[Any]  # events of the devices


class Readings(Generic[T]):
    """Tensors of one number each, and what they are of.

    Notes
    -----
    On a GPU each step's numbers are stacked there and copied to pinned memory behind the kernels that make them; `ready` gives those whose copy
    is done and asks for no more, so numbers come a step or two later. On a CPU they are there at once.
    """

    def __init__(self) -> None:
        self._copies: deque[_Copy] = deque()

    def put(self, of: T, scalars: Sequence[torch.Tensor]) -> None:
        """Send off the numbers of a step; their order is kept, also where they lie on several devices."""
        places: dict[torch.device, list[int]] = {}
        for place, scalar in enumerate(scalars):
            places.setdefault(scalar.device, []).append(place)
        parts: list[torch.Tensor] = []
        done: list[Any] = []
        order: list[int] = []
        for device, own in places.items():
            stacked = torch.stack([_plain(scalars[k]) for k in own])
            order += own
            if device.type == "cuda":
                pinned = torch.empty(len(own), dtype=torch.float32, pin_memory=True)
                pinned.copy_(stacked, non_blocking=True)
                with torch.cuda.device(device):
                    done.append(torch.cuda.current_stream(device).record_event())
                stacked = pinned
            parts.append(stacked)
        self._copies.append(_Copy((of, order), parts, done))

    def ready(self, *, wait: bool = False) -> list[tuple[T, list[float]]]:
        """Return what has arrived, in order; with `wait` all of it."""
        found: list[tuple[T, list[float]]] = []
        while self._copies:
            copy = self._copies[0]
            must_wait = wait or len(self._copies) > _ON_THEIR_WAY
            if not must_wait and not all(event.query() for event in copy.done):
                break
            for event in copy.done:
                event.synchronize()
            self._copies.popleft()
            of, order = copy.of
            flat = [value for part in copy.parts for value in part.tolist()]
            numbers = [0.0] * len(flat)
            for place, value in zip(order, flat, strict=True):
                numbers[place] = value
            found.append((of, numbers))
        return found


def _plain(scalar: torch.Tensor) -> torch.Tensor:
    """Return a number as those that it is stacked with."""
    if scalar.ndim == 0 and scalar.dtype == torch.float32 and not scalar.requires_grad:
        return scalar
    return scalar.detach().reshape(()).float()
