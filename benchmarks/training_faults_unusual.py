"""Adversarial inputs and ones out of distribution among CIFAR pictures: which are named, by what the given network makes of others, and which besides."""

from __future__ import annotations

from concurrent.futures import Executor
from functools import lru_cache, partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tocsin.training.audit import Pass
from tocsin.training.unusual import unusual

from .common import Figures
from .common_cifar import split
from .common_data import mnist
from .common_resnet import STD, given, normalised

_SAMPLES: Final = 1_500  # and as many others for a reference
_BARS: Final = {"white noise": 0.95, "MNIST digits": 0.7, "PGD": 0.8}
"""Least share named of 100, in the mean of seeds."""
_PLANTED: Final = (100, 20)
_EPSILON: Final = 8 / 255
_STEPS: Final = 7

Vectors = tuple[NDArray[np.float64], NDArray[np.float64]]


@lru_cache
def _network() -> Pass:
    return Pass(given())


@lru_cache
def _pictures() -> tuple[torch.Tensor, torch.Tensor]:
    pixels, classes = split("test3k")
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return normalised(x), torch.from_numpy(classes)


def _vectors(x: torch.Tensor) -> Vectors:
    logits, embedding = zip(*(_network().outputs(part) for part in x.split(250)), strict=True)
    return np.concatenate(logits), np.concatenate(embedding)


@lru_cache
def _clean() -> Vectors:
    return _vectors(_pictures()[0])


def _attacked(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return pictures after seven steps of a quarter of the largest change, 8/255 (Madry, Makelov, Schmidt, Tsipras and Vladu 2018, arXiv 1706.06083)."""
    change, largest = torch.zeros_like(x), _EPSILON / STD
    for _ in range(_STEPS):
        change.requires_grad_()
        loss = functional.cross_entropy(_network()(x + change), y)
        (gradient,) = torch.autograd.grad(loss, change)
        change = (change + largest / 4 * gradient.sign()).detach().clamp(-largest, largest)
    return x + change


def _plants(what: str, own: NDArray[np.int64], rng: np.random.Generator) -> torch.Tensor:
    """Return pictures to put in the place of those numbered so."""
    if what == "PGD":
        x, y = _pictures()
        return _attacked(x[own], y[own])
    if what == "MNIST digits":
        digits = torch.from_numpy(rng.choice(mnist()[0], len(own), replace=False)).float() / 255
        x = functional.pad(digits[:, None], (2, 2, 2, 2)).expand(-1, 3, -1, -1)
    else:
        x = torch.from_numpy(rng.random((len(own), 3, 32, 32))).float()
    return normalised(x)


def named(what: str, planted: int, seed: int) -> tuple[float, float]:
    """Return which shares are named of what was planted, and of others."""
    rng = np.random.default_rng([seed, 6])
    order = rng.permutation(2 * _SAMPLES)
    own, others = order[:_SAMPLES], order[_SAMPLES:]
    logits, embedding = (values[own] for values in _clean())
    if planted:
        logits[:planted], embedding[:planted] = _vectors(_plants(what, own[:planted], rng))
    reference = (_clean()[0][others], _clean()[1][others])
    is_named = np.zeros(_SAMPLES, np.bool_)
    for one in unusual("validation", reference, np.arange(_SAMPLES), logits, embedding):
        is_named[one.samples] = True
    found = float(is_named[:planted].mean()) if planted else 0.0
    return found, float(is_named[planted:].mean())


def unusuals(figures: Figures, seeds: range, pool: Executor) -> None:
    """Report which of 100 and of 20 pictures planted among 1,500 are named, and which others; and in how many healthy runs any is."""
    for what, least in _BARS.items():
        for planted in _PLANTED:
            runs = list(pool.map(partial(named, what, planted), seeds))
            name = f"{what} in {planted} of {_SAMPLES:,}"
            found, others = (float(np.mean(shares)) for shares in zip(*runs, strict=True))
            bar = least if planted == _PLANTED[0] else None
            figures.report(f"{name}: named, mean", found, least=bar)
            figures.report(f"{name}: others named, mean", others, most=0.03)
    healthy = list(pool.map(partial(named, "", 0), seeds))
    figures.report("unusual: healthy runs in which any is named", sum(o > 0 for _, o in healthy), most=1)  # fmt: skip
