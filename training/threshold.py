"""A threshold on a monitored quantity, and when it is crossed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, cast

import msgspec
import torch

from ..core.errors import ConfigError

# Values on a GPU are read together; chosen, so that what waits stays small however seldom checkpoints are.
_MOST_WAITING = 128


class Crossing(msgspec.Struct, frozen=True, kw_only=True):
    """A monitored quantity has left its bounds.

    Parameters
    ----------
    monitor, value
        The quantity, and what it is now; NaN is outside of any bounds.
    bound, limit
        `max_value` or `min_value`, and what that is.
    epoch, step
        When.
    """

    monitor: str
    value: float
    bound: Literal["max_value", "min_value"]
    limit: float
    epoch: int
    step: int

    @property
    def summary(self) -> str:
        """One line for people."""
        if math.isnan(self.value):
            side = "which is within no bounds"
        else:
            side = "above" if self.bound == "max_value" else "below"
        return f"{self.monitor} is {self.value:.6g}, {side} ({self.bound}={self.limit:g}), epoch {self.epoch}, step {self.step}"


Action: TypeAlias = Literal["alert", "save", "stop"] | Callable[[Crossing], object]


class Threshold:
    """Says when a quantity goes out of its bounds: once, and again only after it was within them.

    Parameters
    ----------
    monitor
        Name of the quantity.
    min_value, max_value
        The least and the greatest value that is within the bounds; None for no bound.

    Raises
    ------
    ConfigError
        Bounds that leave no value, or that are no numbers.
    """

    def __init__(self, monitor: str, min_value: float | None, max_value: float | None) -> None:
        for name, limit in (("min_value", min_value), ("max_value", max_value)):
            if limit is not None and math.isnan(limit):
                raise ConfigError(f"{name} is NaN; give a number, or None for no bound")
        if min_value is not None and max_value is not None and min_value > max_value:
            raise ConfigError(
                f"min_value={min_value} is above max_value={max_value}: no value lies between"
            )
        self.monitor = monitor
        self.min_value, self.max_value = min_value, max_value
        self.outside = False
        self._waiting: list[tuple[int, int, torch.Tensor]] = []

    def __bool__(self) -> bool:
        return self.min_value is not None or self.max_value is not None

    def waits(self, value: Any, epoch: int, step: int) -> bool:
        """Whether a value is left on its device to be read with others."""
        if not isinstance(value, torch.Tensor) or value.device.type == "cpu":
            return False
        self._waiting.append((epoch, step, value.detach().clone()))
        return len(self._waiting) < _MOST_WAITING

    def crossings(self, value: float | None, epoch: int, step: int) -> list[Crossing]:
        """Take the values that waited, and the next one; return the crossings among them."""
        if not self or value is None:
            return []
        waiting, self._waiting = self._waiting, []
        if waiting and waiting[-1][1] == step:
            waiting.pop()
        read = torch.stack([v.reshape(()) for _, _, v in waiting]).tolist() if waiting else []
        values = [(float(v), e, s) for (e, s, _), v in zip(waiting, read, strict=True)]
        found = [self.crossed(*one) for one in (*values, (value, epoch, step))]
        return [one for one in found if one is not None]

    def crossed(self, value: float, epoch: int, step: int) -> Crossing | None:
        """Take the next value; return the crossing, if it is one."""
        bound: Literal["max_value", "min_value"] | None = None
        limit = math.nan
        # Written so that NaN is outside.
        if self.max_value is not None and not value <= self.max_value:
            bound, limit = "max_value", self.max_value
        elif self.min_value is not None and not value >= self.min_value:
            bound, limit = "min_value", self.min_value
        was, self.outside = self.outside, bound is not None
        if bound is None or was:
            return None
        return Crossing(
            monitor=self.monitor, value=value, bound=bound, limit=limit, epoch=epoch, step=step
        )


def actions(action: Action | Sequence[Action]) -> tuple[Action, ...]:
    """Return the actions one by one, each known.

    Raises
    ------
    ConfigError
        A word that is no action.
    """
    one_only = isinstance(action, str) or callable(action)
    several = (cast("Action", action),) if one_only else tuple(cast("Sequence[Action]", action))
    for one in several:
        if not callable(one) and one not in {"alert", "save", "stop"}:
            raise ConfigError(
                f"action={one!r} is not known; expected 'alert', 'save', 'stop' or a function of a Crossing"
            )
    return several
