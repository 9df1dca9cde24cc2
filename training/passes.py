"""What a model gave in its latest pass, for loops that do not tell: those of trainers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from torch import nn

from .hooks import Hook, has_no_numbers, takes_hooks, warn_of_scripted

_log = logging.getLogger(__name__)
T = TypeVar("T")

Read = Callable[[dict[str, Any], Any], T | None]


class LatestPass(Generic[T]):
    """Remembers what was read of the latest pass, with gradients or without, until it is taken.

    Parameters
    ----------
    model
        Whose passes they are.
    parts
        Modules in it: the latest pass of one of them counts where the model itself is not called, but only its parts are.
    read
        What is kept of a pass, given its arguments by name and what the module gave; None for nothing. An error of its is logged, and
        then no pass is looked at any more.
    """

    def __init__(self, model: nn.Module, parts: Iterable[nn.Module], read: Read[T]) -> None:
        self._read = read
        self._of_model: T | None = None
        self._of_part: T | None = None
        sees = [(model, self._see_model), *((part, self._see_part) for part in parts)]
        self._handles = [
            _PassHook(see, self._failed).hang(module.register_forward_hook, with_kwargs=True)
            for module, see in sees
            if takes_hooks(module)
        ]
        warn_of_scripted(model, "what that part gives is not seen")

    def take(self) -> T | None:
        """Return what was read since the last call; None if nothing was."""
        found = self._of_part if self._of_model is None else self._of_model
        self._of_model = self._of_part = None
        return found

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _see_model(self, given: Any) -> None:
        found = self._read(*given)
        self._of_model = self._of_model if found is None else found

    def _see_part(self, given: Any) -> None:
        found = self._read(*given)
        self._of_part = self._of_part if found is None else found

    def _failed(self, error: Exception) -> None:
        _log.error("a pass could not be read, the monitors get no outputs", exc_info=error)
        self.close()


class _PassHook(Hook):
    """Looks at the arguments by name and the output of every pass."""

    def __init__(self, look: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
        super().__init__(lambda: True, look, failed)

    def __call__(self, _module: object, *values: Any) -> None:
        """Look at what a hook with `with_kwargs=True` is given."""
        if has_no_numbers():
            return
        self._see(values[-2:])

    def __reduce__(self) -> tuple[Callable[..., Callable[..., None]], tuple[bool, ...]]:
        return _no_hook, ()


def _no_hook() -> Callable[..., None]:
    return _nothing


def _nothing(*_values: object) -> None:
    """What a copy has in place of a hook."""
