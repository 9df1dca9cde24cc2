"""The states of the random numbers that training draws: Python's, numpy's, torch's, each GPU's, and those of generators that objects have of their own."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch

_MOST: Final = 10_000  # objects that are looked into; chosen
_MANY: Final = 100  # parts of a container; what has more is data


def taken() -> dict[str, Any]:
    """Return all states; nothing is drawn."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 - the global generator is what loops draw from
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore(states: dict[str, Any]) -> None:
    """Go on where the numbers were; GPUs that are not there are passed over."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002 - as above
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, device)


def own(holders: Iterable[Any]) -> list[Callable[[], object]]:
    """Return what sets generators that objects have of their own to where they are now.

    Parameters
    ----------
    holders
        Data sets, loaders, modules; those in what they hold are found too, 10,000 objects at most. Of a wrapper the original's are its own.
    """
    found: list[Callable[[], object]] = []
    waiting, known = deque[Any](holders), dict[int, Any]()  # kept, so that no number is given anew
    while waiting and len(known) < _MOST:
        one = waiting.popleft()
        if id(one) in known:
            continue
        known[id(one)] = one
        back = _back(one)
        if back is not None:
            found.append(back)
        elif isinstance(one, list | tuple | dict):
            if len(one) <= _MANY:
                waiting.extend(one.values() if isinstance(one, dict) else one)
        elif not isinstance(one, type | ModuleType | torch.Tensor | np.ndarray):
            inner = getattr(one, "__dict__", None)
            waiting.extend(inner.values() if isinstance(inner, dict) else ())
    return found


def _back(one: Any) -> Callable[[], object] | None:
    if isinstance(one, torch.Generator):
        state = one.get_state()
        return lambda: one.set_state(state)
    if isinstance(one, np.random.Generator):
        numbers = one.bit_generator.state
        return lambda: setattr(one.bit_generator, "state", numbers)
    if isinstance(one, np.random.RandomState):
        drawn = one.get_state(legacy=False)
        return lambda: one.set_state(drawn)
    if isinstance(one, random.Random) and not isinstance(one, random.SystemRandom):
        python = one.getstate()
        return lambda: one.setstate(python)
    return None
