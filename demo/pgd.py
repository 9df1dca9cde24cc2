"""Projected gradient descent against the demo's own classifier."""

from __future__ import annotations

import torch
from torch import nn


def pgd(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    epsilon: float = 0.2,
    steps: int = 40,
) -> torch.Tensor:
    """Return (n, 64) images within `epsilon` (maximum norm) that the model takes for another class.

    An image is left alone once its class has changed, as an attacker does who wants to change little.

    Parameters
    ----------
    model
        The attacked model.
    images, labels
        Where to begin: (n, 64) in [0, 1] and (n,) true classes.
    epsilon
        Largest change of a pixel.
    steps
        Steps of size 2.5 epsilon / steps, from a random start.

    References
    ----------
    Madry, Makelov, Schmidt, Tsipras and Vladu 2018, "Towards deep learning models resistant to
    adversarial attacks", equation 2.2 (arXiv 1706.06083).
    """
    generator = torch.Generator().manual_seed(0)
    start = 0.1 * epsilon * (2 * torch.rand(images.shape, generator=generator) - 1)
    adversarial = (images + start).clamp(0, 1)
    for _ in range(steps):
        adversarial.requires_grad_(True)
        logits = model(adversarial)
        loss = nn.functional.cross_entropy(logits, labels)
        (gradient,) = torch.autograd.grad(loss, adversarial)
        unchanged = (logits.argmax(1) == labels)[:, None]
        step = adversarial.detach() + 2.5 * epsilon / steps * gradient.sign() * unchanged
        adversarial = (images + (step - images).clamp(-epsilon, epsilon)).clamp(0, 1).detach()
    return adversarial
