"""The one way in which tocsin compiles a kernel: numba, cached on disk, typed for the checkers."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` at its first call with given types; later processes load it from disk.

    Floating-point arithmetic stays IEEE 754 in source order (no fastmath), so that a kernel gives
    the same bits on every machine of one architecture and at any batch cut.
    """
    return cast(Callable[P, R], numba.njit(cache=True, nogil=True)(function))


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` into each compiled function that calls it.

    For what runs once a value: a call that passes a dozen arrays costs more than the work it does.
    """
    return cast(Callable[P, R], numba.njit(cache=True, nogil=True, inline="always")(function))
