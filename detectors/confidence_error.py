"""How far a classifier's confidence is from its accuracy, bin by bin, and how much of that chance makes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..core.columns import Floats
from .binary_metrics import Metric


class ConfidenceError(NamedTuple):
    """The expected calibration error with its bounds, mean confidence less accuracy, the accuracy, and of how many answers."""

    error: Metric
    excess: float
    accuracy: float
    answers: int


def confidence_error(bins: Floats, level: float = 0.05) -> ConfidenceError | None:
    """Return the expected calibration error of binned answers, None without answers.

    Parameters
    ----------
    bins
        (3, k) by confidence: how many answers, how many were right, and the sum of confidences.
    level
        Chance that the bounds do not hold.

    Notes
    -----
    Chance makes an error of what has none: in bin b the hits have a standard deviation s_b, in shares of all answers, so the error is off by at
    most the sum of s_b |Z_b|, with Z normal. Its mean is sqrt(2 / pi) times the sum of s_b, and it is above that by more than t at most
    with chance exp(-t^2 / (2 sum s_b^2)), as a function of Z with that constant of Lipschitz (Boucheron, Lugosi and Massart 2013,
    "Concentration inequalities", theorem 5.6). The rate of a bin is taken with one hit and one miss more, so that no s_b is 0.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks", equation 3 (arXiv:1706.04599).

    Examples
    --------
    >>> bins = np.array([[500.0, 500.0], [300.0, 350.0], [300.0, 475.0]])
    >>> found = confidence_error(bins)
    >>> round(found.error.value, 3), round(found.error.low, 3), round(found.excess, 3)
    (0.125, 0.067, 0.125)
    """
    count, hits, confidence = bins
    answers = float(count.sum())
    if not answers:
        return None
    rate = (hits + 1) / (count + 2)
    spread = np.sqrt(count * rate * (1 - rate)) / answers
    chance = math.sqrt(2 / math.pi) * float(spread.sum())
    # Two bounds, each of half the level.
    chance += math.sqrt(2 * math.log(2 / level) * float((spread**2).sum()))
    value = float(np.abs(hits - confidence).sum()) / answers
    error = Metric(value, max(value - chance, 0.0), min(value + chance, 1.0))
    excess = float((confidence - hits).sum()) / answers
    return ConfidenceError(error, excess, float(hits.sum()) / answers, int(answers))
