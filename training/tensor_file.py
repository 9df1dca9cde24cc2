"""Writes a safetensors file tensor by tensor. Reading is the library's.

The library's own `save_file` writes under a name of its own choice first, which stays when the process is killed, and lets only
its user read the file; its `serialize` holds a second copy of everything in memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import _TYPES

from ..core.errors import ConfigError

_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors by name, and text about them.

    Parameters
    ----------
    path
        Is written from its beginning.
    tensors
        Dense ones of any shape and device; each is copied to the CPU by itself.
    metadata
        Text by name.

    Raises
    ------
    ConfigError
        A tensor of a type that safetensors does not know.
    OSError
        The disk is full, or refuses.

    References
    ----------
    The format: https://huggingface.co/docs/safetensors, "Format".
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    # The widest first, so that each begins at a multiple of its width, as the format asks of writers.
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise ConfigError(f"{name} is of {tensor.dtype}, which safetensors does not know")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end],
        }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            if tensors[name].numel():
                flat = tensors[name].detach().cpu().contiguous().reshape(-1)
                file.write(flat.view(torch.uint8).numpy().data)
