"""What a metric that is given to a checkpoint must be."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import torch

from ..core.errors import ConfigError, NonFiniteError

_log = logging.getLogger(__name__)


def as_number(name: str, value: Any) -> float:
    """Return a metric as a number.

    Raises
    ------
    ConfigError
        It is none: several values, or text.
    """
    try:
        return float(value.detach() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{name} is no number ({error}); step() takes numbers and tensors of one element"
        ) from error


def taken(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return metrics as they are now: tensors on their devices, without what they were made of."""
    return {name: _copied(one) for name, one in metrics.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return np.copy(value) if isinstance(value, np.ndarray) else value


def check_nan(
    monitor: str | None, value: float | None, epoch: int, step: int, *, refuse: bool
) -> None:
    """Refuse a NaN, or say in the log what it counts as.

    Raises
    ------
    NonFiniteError
        The value is NaN, with `refuse`.
    """
    if monitor is None or value is None or not math.isnan(value):
        return
    said = (
        f"{monitor} is NaN at epoch {epoch}, step {step}: the loss diverged, or a batch is broken"
    )
    if refuse:
        raise NonFiniteError(
            f"{said}; nothing was saved. nan='worst' counts it as the worst value, and goes on",
            monitor,
        )
    _log.warning("%s; it counts as the worst value", said)
