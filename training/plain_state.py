"""Nested state, of optimizers and the like, as JSON and tensors: what safetensors can hold, so that nothing is pickled."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from typing import Any

import numpy as np
import torch

from ..core.errors import ConfigError, StateError

# A tagged list stands for what JSON has not: ["tensor", name], ["list", ...], ["map", kind, [key, value], ...].
_MAPS: dict[type, str] = {
    dict: "dict",
    OrderedDict: "ordered",
    Counter: "counter",
    defaultdict: "dict",
}
_MAKE: dict[str, type[Any]] = {"dict": dict, "ordered": OrderedDict, "counter": Counter}


def flatten(
    state: Any, where: str, fix: str = "save_weights_only=True leaves it out"
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Take nested state apart.

    Parameters
    ----------
    state
        Numbers, text, None, tensors and arrays of any shape, in dicts, lists, tuples and sets.
    where
        What it is the state of, for messages and as the beginning of the names of tensors.
    fix
        What can be done about state of another type.

    Returns
    -------
    What `json.dumps` takes, and the tensors by name, where they are.

    Raises
    ------
    ConfigError
        State of another type.
    """
    tensors: dict[str, torch.Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, int | float):
            return value
        if isinstance(value, torch.Tensor | np.ndarray):
            while path in tensors:  # of keys 1 and "1"
                path += "'"
            array = isinstance(value, np.ndarray)
            try:
                tensor = (
                    torch.from_numpy(value.copy())
                    if isinstance(value, np.ndarray)
                    else value.detach()
                )
            except TypeError as error:
                raise ConfigError(f"{path} is an array that is not saved ({error})") from error
            if tensor.layout != torch.strided:
                raise ConfigError(
                    f"{path} is a {tensor.layout} tensor, which safetensors cannot hold; {fix}"
                )
            tensors[path] = tensor
            return ["array" if array else "tensor", path]
        if type(value) in _MAPS:
            pairs = [[walk(k, path), walk(v, f"{path}.{k}")] for k, v in value.items()]
            return ["map", _MAPS[type(value)], *pairs]
        if isinstance(value, list | tuple | set):
            kind = (
                "list"
                if isinstance(value, list)
                else "tuple"
                if isinstance(value, tuple)
                else "set"
            )
            return [kind, *(walk(v, f"{path}.{i}") for i, v in enumerate(value))]
        raise ConfigError(
            f"{path} is of type {type(value).__qualname__}, which is not saved without pickle;"
            f" expected numbers, text and tensors in dicts and lists; {fix}"
        )

    return walk(state, where), tensors


def rebuild(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Put together what `flatten` took apart.

    Raises
    ------
    StateError
        The tree is of another make, or tensors are missing.
    """
    if not isinstance(tree, list):
        return tree
    try:
        kind, *rest = tree
        if kind == "tensor":
            return tensors[rest[0]].clone()  # of the file's memory map
        if kind == "array":
            return tensors[rest[0]].clone().numpy()
        if kind == "map":
            name, *pairs = rest
            made = _MAKE[name]()
            for key, value in pairs:
                made[rebuild(key, tensors)] = rebuild(value, tensors)
            return made
        parts = [rebuild(part, tensors) for part in rest]
        return {"list": list, "tuple": tuple, "set": set}[kind](parts)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise StateError(
            f"a saved state cannot be read: {error!r}; it was written by another program, or is damaged"
        ) from error
