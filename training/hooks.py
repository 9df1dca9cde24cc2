"""Hooks that see and change nothing: not in what is compiled, not in a copy of the model, and no error of theirs reaches the pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Hook:
    """A forward hook, or one before it.

    Parameters
    ----------
    wants
        Whether this pass is looked at; one without gradients, of validation, never is.
    look
        Given what the module gave, or was given.
    failed
        Given what `look` raised.

    Notes
    -----
    Within `torch.compile` it is traced as nothing at all. A copy of the model, or a file of it, has a hook that does nothing: what is
    averaged or stored is not watched.
    """

    def __init__(
        self,
        wants: Callable[[], bool],
        look: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._wants = wants
        self._look = look
        self._failed = failed

    def __call__(self, _module: object, *values: Any) -> None:
        """Look at the last of what the hook is given."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        try:
            if self._wants():
                self._look(values[-1])
        except Exception as error:  # the pass must not fail for it
            self._failed(error)

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _no_hook, ()


def _no_hook() -> Callable[..., None]:
    return _nothing


def _nothing(*_values: object) -> None:
    """What a copy has in place of a hook."""
