"""Conformal p-values of scores, and the flag level that keeps its promise with confidence."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.special import betainc

from ..core.columns import Floats

CONFIDENCE: Final = 0.95


class Calibration:
    """The scores of clean samples; new scores are ranked among them.

    Parameters
    ----------
    scores
        (n,) scores of clean samples that the score was not fitted on; larger is more suspicious.

    References
    ----------
    Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world", equation 2.20; Bates,
    Candes, Lei, Romano and Sesia 2023, "Testing for outliers with conformal p-values"
    (doi:10.1214/22-AOS2244).
    """

    def __init__(self, scores: Floats) -> None:
        self.scores: Floats = np.sort(scores)

    def p(self, scores: Floats) -> Floats:
        """Return (m,) p-values (1 + #{calibration >= s}) / (n + 1), at most uniform if clean."""
        above = len(self.scores) - np.searchsorted(self.scores, scores, side="left")
        return np.asarray((1 + above) / (len(self.scores) + 1))


def level(alpha: float, calibration: int, confidence: float = CONFIDENCE) -> float:
    """Return the largest p-value to flag so that the flag rate is at most `alpha`, with confidence.

    A p-value at most `alpha` flags clean samples at rate `alpha` on average over calibration sets;
    for one given set the rate of p <= k / (n + 1) is Beta(k, n + 1 - k) distributed (Vovk 2012,
    "Conditional validity of inductive conformal predictors", Proposition 2a). This takes the largest
    k whose rate exceeds `alpha` with probability at most 1 - `confidence`.

    Parameters
    ----------
    alpha
        Share of clean samples that may be flagged, in (0, 1).
    calibration
        Number n of calibration scores.
    confidence
        Probability, over calibration sets, that the promise holds.

    Raises
    ------
    ValueError
        So few calibration scores cannot promise `alpha`; the message says how many can.
    """
    k = 0
    while k < calibration and 1 - betainc(k + 1, calibration - k, alpha) <= 1 - confidence:
        k += 1
    if k == 0:
        needed = int(np.ceil(np.log(1 - confidence) / np.log1p(-alpha)))
        raise ValueError(
            f"{calibration} calibration scores cannot keep the flag rate at {alpha:g} with "
            f"confidence {confidence:g}; {needed} can"
        )
    return k / (calibration + 1)
