"""`tocsin demo`: the arguments of the demo."""

from __future__ import annotations

import logging

from ..core.errors import ConfigError


def run(*, headless: bool, speed: str, seed: int) -> int:
    """Play the demo; see `tocsin.demo.run.run`."""
    factor = None if speed == "max" else _factor(speed)
    logging.basicConfig(level=logging.ERROR)
    from ..demo.run import run as play

    return play(headless=headless, speed=factor, seed=seed)


def _factor(speed: str) -> float:
    try:
        factor = float(speed)
    except ValueError:
        factor = 0.0
    if factor <= 0:
        raise ConfigError(f"--speed must be a number above 0, or max, got {speed}")
    return factor
