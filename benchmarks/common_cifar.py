"""CIFAR-10 images, corruptions of them, and what a ResNet-20 makes of both: embeddings and logits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
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


def _file(name: str) -> Path:
    found = Path(os.environ.get("TOCSIN_BENCH_DATA", "../shared/data")) / "cifar10" / name
    if not found.is_file():
        raise FileNotFoundError(
            f"no file {found}; TOCSIN_BENCH_DATA must name the folder that holds cifar10/{name}"
        )
    return found


def images() -> tuple[torch.Tensor, Ints]:
    """Return (9000, 3, 32, 32) images in [0, 1], of the test files and of training files, and classes."""
    import torch

    pixels: list[NDArray[np.uint8]] = []
    classes: list[Ints] = []
    for name in ("test3k.npz", "train6k.npz"):
        with np.load(_file(name), allow_pickle=False) as file:
            pixels.append(file["X"])
            classes.append(file["Y"].astype(np.int64))
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
    """The CIFAR ResNet-20 with option A shortcuts, from a file of weights.

    He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition", section 4.2
    (arXiv 1512.03385).
    """

    def __init__(self) -> None:
        import torch

        self._weights: dict[str, torch.Tensor] = torch.load(
            _file("resnet20.pt"), map_location="cpu", weights_only=True
        )

    def __call__(self, x: torch.Tensor) -> Vectors:
        """Return what it makes of (n, 3, 32, 32) images in [0, 1]."""
        import torch

        embedding: list[torch.Tensor] = []
        with torch.inference_mode():
            embedding = [self._embedding(part) for part in x.split(250)]
            rows = torch.cat(embedding)
            logits = rows @ self._weights["linear.weight"].T + self._weights["linear.bias"]
        return Vectors(rows.double().numpy(), logits.double().numpy())

    def _embedding(self, x: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn import functional

        x = (x - torch.tensor(_MEAN).view(3, 1, 1)) / torch.tensor(_STD).view(3, 1, 1)
        h = functional.relu(self._normed(x, "", 1, 1))
        for name, stride, wider in _blocks():
            z = functional.relu(self._normed(h, name, 1, stride))
            z = self._normed(z, name, 2, 1)
            if stride == 2:
                h = functional.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, wider, wider))
            h = functional.relu(z + h)
        return h.mean(dim=(2, 3))

    def _normed(self, x: torch.Tensor, block: str, number: int, stride: int) -> torch.Tensor:
        """Convolve and normalise."""
        from torch.nn import functional

        w, norm = self._weights, f"{block}bn{number}."
        z = functional.conv2d(x, w[f"{block}conv{number}.weight"], stride=stride, padding=1)
        return functional.batch_norm(
            z,
            w[norm + "running_mean"],
            w[norm + "running_var"],
            w[norm + "weight"],
            w[norm + "bias"],
        )


def _blocks() -> Iterator[tuple[str, int, int]]:
    """Yield prefix, stride and channels to pad on either side of the nine blocks."""
    for layer in (1, 2, 3):
        for block in range(3):
            stride = 2 if layer > 1 and block == 0 else 1
            yield f"layer{layer}.{block}.", stride, 4 << (layer - 1) if stride == 2 else 0
