"""Scores of logit vectors that adversarial inputs move, in torch. Larger is more suspicious.

Torch is imported by the functions, so that a worker without logits never loads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ..core.columns import Floats, Ints

if TYPE_CHECKING:
    import torch

_RIDGE: Final = 1e-3  # of the mean variance, added to the covariance: class counts may be small
_KEPT_BITS: Final = np.uint32(0xFFFFFF00)


def rounded(scores: Floats) -> Floats:
    """Return scores cut to 16 significant bits.

    A matrix product may differ in its last bits with the number of rows; cut scores do not, and so
    neither does what is decided from them.
    """
    with np.errstate(over="ignore"):  # beyond a 32-bit float is infinitely far
        narrow = np.ascontiguousarray(scores, np.float32)
    return (narrow.view(np.uint32) & _KEPT_BITS).view(np.float32).astype(np.float64)


def margin(logits: torch.Tensor) -> torch.Tensor:
    """Return (n,) second largest minus largest logit: near 0 on the decision boundary.

    Attacks of minimal norm and decision-based attacks stop there.
    """
    top = logits.topk(2, dim=1).values
    return top[:, 1] - top[:, 0]


class LogitGaussian:
    """Classes as Gaussians of one covariance in logit space; the score is the squared distance.

    Two-sided: over-confident samples, which softmax and energy take for the safest, are far as well.

    Parameters
    ----------
    mean
        (classes, classes) mean logit vector of each predicted class.
    whitening
        (classes, classes) inverse Cholesky factor of the tied covariance.
    seen
        (classes,) how many samples each mean comes from.

    References
    ----------
    Lee, Lee, Lee and Shin 2018, "A simple unified framework for detecting out-of-distribution samples
    and adversarial attacks", equation 2 (arXiv 1807.03888); on logits, and to the predicted class.
    """

    def __init__(self, mean: Floats, whitening: Floats, seen: Ints) -> None:
        import torch

        self.mean, self.whitening, self.seen = mean, whitening, seen
        self._whitening = torch.from_numpy(whitening)
        self._white_mean = torch.from_numpy(mean) @ self._whitening.T
        self._seen = torch.from_numpy(seen)

    @classmethod
    def fit(cls, logits: Floats) -> LogitGaussian:
        """Fit to (n, classes) clean logits."""
        import torch

        z = torch.from_numpy(logits)
        predicted = z.argmax(dim=1)
        classes = z.shape[1]
        seen = torch.bincount(predicted, minlength=classes)
        mean = torch.zeros(classes, classes, dtype=torch.float64)
        mean.index_add_(0, predicted, z)
        mean /= seen.clamp_min(1)[:, None]
        residual = z - mean[predicted]
        covariance = residual.T @ residual / len(z)
        ridge = _RIDGE * covariance.diagonal().mean().clamp_min(1e-12)
        covariance += ridge * torch.eye(classes, dtype=torch.float64)
        whitening = torch.linalg.inv(torch.linalg.cholesky(covariance))
        return cls(mean.numpy(), whitening.numpy(), seen.numpy())

    def score(self, logits: torch.Tensor) -> torch.Tensor:
        """Return (n,) squared distances; 0 where the predicted class was never seen."""
        predicted = logits.argmax(dim=1)
        distance = (logits @ self._whitening.T - self._white_mean[predicted]).pow(2).sum(dim=1)
        return distance.where(self._seen[predicted] > 0, 0.0)
