"""The one way in which tocsin compiles a kernel: numba, cached on disk, typed for the checkers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar, cast
from uuid import uuid4

import numba

P = ParamSpec("P")
R = TypeVar("R")

_OWN: Final = uuid4().hex[:12]
"""In the names of the files that this process writes kernels to."""


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` at its first call with given types; later processes load it from disk.

    Floating-point arithmetic stays IEEE 754 in source order (no fastmath), so that a kernel gives
    the same bits on every machine of one architecture and at any batch cut. A division by zero is infinite or NaN, as numpy's is:
    an exception would be a branch, which keeps loops of divisions from becoming vectors.
    """
    return cast(
        Callable[P, R],
        _in_files_of_its_own(numba.njit(cache=True, nogil=True, error_model="numpy")(function)),
    )


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` into each compiled function that calls it.

    For what runs once a value: a call that passes a dozen arrays costs more than the work it does.
    """
    whole = numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")(function)
    return cast(Callable[P, R], _in_files_of_its_own(whole))


def _in_files_of_its_own(kernel: Any) -> Any:
    """Let a kernel be stored under names that no other process writes to.

    numba 0.68 numbers these files anew in each process, and writes the index before them. So a process that died in between, after
    an upgrade, would leave an index that leads to the kernel of before; and of two that store other types of one kernel at the
    same time, the index of one leads to the machine code of the other. A name that is not there is compiled again.
    """
    files = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
    if files is None:  # NUMBA_DISABLE_JIT
        return kernel
    files._data_name_pattern = (
        f"{files._data_name_pattern.removesuffix('{number:d}.nbc')}{_OWN}.{{number:d}}.nbc"
    )
    return kernel
