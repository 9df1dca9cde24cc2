"""The hash of a model's weights: one number for what was trained, what is referred to, and what is served."""

from __future__ import annotations

import json
from hashlib import sha256

import torch
from torch import nn

from ..core.errors import ConfigError
from .layers import bare


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of a model's weights and buffers, in hexadecimal digits.

    Of the names in its `state_dict`, their types, shapes and bytes, by name: the same on any device, and compiled or on several
    devices as it is alone.

    Raises
    ------
    ConfigError
        Something in its `state_dict` is no dense tensor.

    Examples
    --------
    >>> import torch
    >>> from tocsin.training import weights_sha256
    >>> model = torch.nn.Linear(2, 1)
    >>> with torch.no_grad():
    ...     _ = model.weight.fill_(1.0), model.bias.fill_(0.0)
    >>> weights_sha256(model)[:16]
    '430baded5bb022d8'
    """
    digest = sha256()
    for name, tensor in sorted(bare(model).state_dict().items()):
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise ConfigError(
                f"{name} of {type(model).__qualname__} is a {type(tensor).__qualname__} whose bytes are no weights; expected "
                "dense tensors in its state_dict"
            )
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
