"""CIFAR-10 images, corruptions of them, and what a ResNet-20 makes of both: embeddings and logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from .common_data import data_file

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SEVERITIES: Final = {
    "noise": {1: 0.04, 3: 0.08},  # standard deviation
    "blur": {1: 0.4, 3: 0.7},  # standard deviation in pixels
    "contrast": {1: 0.75, 3: 0.4},  # factor
}
"""Of CIFAR-10-C: Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common
corruptions and perturbations" (arXiv 1903.12261)."""
CORRUPTIONS: Final = tuple(f"{name}-{level}" for name in _SEVERITIES for level in (1, 3))


@dataclass(frozen=True)
class Vectors:
    """What the network makes of (n,) images.

    Parameters
    ----------
    embedding, logits
        (n, 64) of the last layer but one, and (n, 10).
    """

    embedding: Floats
    logits: Floats

    def take(self, rows: Ints) -> Vectors:
        """Return some rows."""
        return Vectors(self.embedding[rows], self.logits[rows])

    def then(self, other: Vectors) -> Vectors:
        """Return these rows and then the others."""
        return Vectors(
            np.concatenate([self.embedding, other.embedding]),
            np.concatenate([self.logits, other.logits]),
        )


def split(name: str) -> tuple[NDArray[np.uint8], Ints]:
    """Return (n, 32, 32, 3) pictures and (n,) classes of a file, `train6k` or `test3k`."""
    with np.load(data_file(f"cifar10/{name}.npz"), allow_pickle=False) as file:
        return file["X"], file["Y"].astype(np.int64)


def images() -> tuple[torch.Tensor, Ints]:
    """Return (9000, 3, 32, 32) images in [0, 1], of the test files and of training files, and classes."""
    import torch

    pixels, classes = zip(*(split(name) for name in ("test3k", "train6k")), strict=True)
    x = torch.from_numpy(np.concatenate(pixels)).permute(0, 3, 1, 2)
    return x.float() / 255, np.concatenate(classes)


def corrupted(x: torch.Tensor, name: str) -> torch.Tensor:
    """Return (n, 3, 32, 32) images with one of `CORRUPTIONS`."""
    import torch
    from torch.nn import functional

    kind, _, level = name.partition("-")
    size = _SEVERITIES[kind][int(level)]
    if kind == "noise":
        drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        return (x + size * drawn).clamp(0, 1)
    if kind == "contrast":
        mean = x.mean(dim=(2, 3), keepdim=True)
        return ((x - mean) * size + mean).clamp(0, 1)
    at = torch.arange(-4, 5)
    bell = torch.exp(-(at**2) / (2 * size**2))
    kernel = torch.outer(bell, bell) / bell.sum() ** 2
    padded = functional.pad(x, (4, 4, 4, 4), mode="reflect")
    return functional.conv2d(padded, kernel.expand(3, 1, 9, 9), groups=3)


class ResNet20:
    """What the given CIFAR ResNet-20 makes of images."""

    def __init__(self) -> None:
        from .common_resnet import given

        self._network = given().eval()

    def __call__(self, x: torch.Tensor) -> Vectors:
        """Return what it makes of (n, 3, 32, 32) images in [0, 1]."""
        import torch

        from .common_resnet import normalised

        with torch.inference_mode():
            parts = [self._network.embedding(normalised(part)) for part in x.split(250)]
            rows = torch.cat(parts)
            logits = self._network.linear(rows)
        return Vectors(rows.double().numpy(), logits.double().numpy())
