"""Refuses settings of `ModelCheckpoint` that are none."""

from __future__ import annotations

from numbers import Integral

from ..core.errors import ConfigError
from .template import fields_of


def check_settings(
    filename: str, monitor: str | None, mode: str, k: int, save_last: object, every: int | None, nan: str
) -> None:  # fmt: skip
    """Raise a ConfigError that names what was found, what was expected and the fix."""
    if mode not in {"min", "max"}:
        raise ConfigError(f"mode={mode!r} is not known; expected 'min' or 'max'")
    fields_of(filename)
    if not isinstance(k, Integral) or k < -1:
        raise ConfigError(
            f"save_top_k={k!r} is no number of models; expected a whole number, 0 for none, or -1 for all"
        )
    if monitor is None and k not in {-1, 0, 1}:
        raise ConfigError(
            f"save_top_k={k} needs a quantity to rank models by; give monitor, or save_top_k -1, 0 or 1"
        )
    if save_last not in {None, True, False, "link"}:
        raise ConfigError(f"save_last={save_last!r} is not known; expected True, False or 'link'")
    if every is not None and every < 0:
        raise ConfigError(
            f"every_n_train_steps={every} is too small; expected 1 or more, or None or 0 to save at the end of epochs"
        )
    if nan not in {"worst", "raise"}:
        raise ConfigError(f"nan={nan!r} is not known; expected 'worst' or 'raise'")
