"""Hooks that see and change nothing: not in what is compiled or traced, not in a copy of the model, and no error of theirs reaches the pass."""

# torch exports these without saying so:
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from threading import RLock
from typing import Any, Final, ParamSpec, TypeVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

_log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

_ONE_AT_A_TIME: Final = RLock()
"""`DataParallel` runs replicas in a thread each, and they share their hooks: what these add up would be lost where two read it before one writes."""


class Handle:
    """A hook that hangs: it is taken away when `remove` is called, or when nothing holds this any more.

    Parameters
    ----------
    handle
        What torch gave for it; None for none, as a copy has it.
    kept
        What the hook calls, and does not hold itself.
    """

    def __init__(self, handle: RemovableHandle | None = None, kept: object = None) -> None:
        self._kept = kept
        self._end = weakref.finalize(self, _nothing if handle is None else handle.remove)
        self._end.atexit = False

    def remove(self) -> None:
        """Take the hook away; may be called twice."""
        self._end()

    def __reduce__(self) -> tuple[type[Handle], tuple[()]]:
        return Handle, ()


class _Eyes:
    """What a hook calls."""

    def __init__(
        self,
        wants: Callable[[], bool],
        look: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.wants = wants
        self.look = look
        self.failed = failed


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
    before
        Whether it is one before the pass.
    both
        Whether `look` is given the arguments by place and what the module gave, as a pair.

    Notes
    -----
    Within `torch.compile` it is traced as nothing at all, and does nothing where there are no numbers to keep: in `torch.jit.trace`, and within
    `vmap` and the other transforms of `torch.func`. A copy of the model, or a file of it, has a hook that does nothing: what is averaged or
    stored is not watched. Threads look one after the other. What is called is held by the handle alone: a monitor that is dropped does not
    live on with the model, and the hook goes with it.
    """

    def __init__(
        self,
        wants: Callable[[], bool],
        look: Callable[[Any], None],
        failed: Callable[[Exception], None],
        *,
        before: bool = False,
        both: bool = False,
    ) -> None:
        self._kept: _Eyes | None = _Eyes(wants, look, failed)
        self._eyes = weakref.ref(self._kept)
        self._before = before
        self._both = both

    def hang(self, register: Callable[..., RemovableHandle], **options: bool) -> Handle:
        """Hang it where `register` does, a module's `register_forward_hook` say, for as long as the handle is held."""
        kept, self._kept = self._kept, None
        return Handle(register(self, **options), kept)

    def __call__(self, _module: object, *values: Any) -> None:
        """Look at the last of what the hook is given."""
        if has_no_numbers() or not torch.is_grad_enabled():
            return
        self._see(values[-2:] if self._both else values[-1])

    def _see(self, given: Any) -> None:
        eyes = self._eyes()
        if eyes is None:
            return
        with _ONE_AT_A_TIME:
            try:
                if eyes.wants():
                    eyes.look(given)
            except Exception as error:  # the pass must not fail for it
                eyes.failed(error)

    @property
    def __name__(self) -> str:
        """What `torch.jit.script` asks for first.

        Raises
        ------
        AttributeError
            Always: a hook cannot be scripted.
        """
        raise AttributeError(
            "a model cannot be scripted while monitors watch it: script copy.deepcopy(model), or close the monitors first"
        )

    def __reduce__(self) -> tuple[Callable[..., Callable[..., None]], tuple[bool, ...]]:
        return _no_hook, (self._before,)


def has_no_numbers() -> bool:
    """Return whether a pass is one of a compiler, a tracer or a transform, whose tensors are none that can be kept."""
    return bool(
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        or torch._C._are_functorch_transforms_active()  # torch has no public name for it
    )


def in_backward() -> bool:
    """Return whether a module runs in a backward pass, as where activations that were not kept are made again."""
    return (
        torch._C._current_graph_task_id() >= 0
    )  # torch has no public name for it, and asks so itself


def weakly(method: Callable[P, R]) -> Callable[P, R | None]:
    """Return what calls a method for as long as its object is there, and does nothing afterwards."""
    of = weakref.WeakMethod(method)

    def call(*args: P.args, **kwargs: P.kwargs) -> R | None:
        own = of()
        return None if own is None else own(*args, **kwargs)

    return call


def takes_hooks(module: nn.Module) -> bool:
    """Return whether a module takes forward hooks: one that is scripted does not."""
    return not isinstance(module, torch.jit.RecursiveScriptModule)  # type: ignore[attr-defined]


def warn_of_scripted(model: nn.Module, what: str) -> None:
    """Log what is not seen of a model, if a part of it is scripted."""
    if not all(map(takes_hooks, model.modules())):
        _log.warning("a part of the model is scripted, which takes no hooks: %s", what)


def _nothing() -> None:
    """Do nothing."""


def _no_hook(before: bool) -> Callable[..., None]:
    return _given if before else _given_and_gave


# What a copy has in place of a hook. Scripted, these fit modules that are given one tensor and give one.


def _given(self: Any, inputs: tuple[torch.Tensor]) -> None:
    """Do nothing."""


def _given_and_gave(self: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
    """Do nothing."""
