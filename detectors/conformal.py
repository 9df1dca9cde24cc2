"""Conformal p-values of scores, and how often clean samples are flagged by them."""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv

from ..core.columns import Floats


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


def flag_rate_bound(level: float, calibration: int, confidence: float) -> float:
    """Return an upper bound of the share of clean samples with a p-value of at most `level`.

    On average over calibration sets that share is at most `level`. For the one set at hand it is
    Beta(k, n + 1 - k) distributed, where k is the whole part of level * (n + 1): Vovk 2012, "Conditional
    validity of inductive conformal predictors", Proposition 2a. This is that law's quantile.

    Parameters
    ----------
    level
        Largest p-value that is flagged, in (0, 1).
    calibration
        Number n of calibration scores.
    confidence
        Probability, over calibration sets, that the bound holds.

    Raises
    ------
    ValueError
        `level` is below the smallest p-value that so few calibration scores can give.
    """
    k = int(level * (calibration + 1) + 1e-9)
    if k == 0:
        raise ValueError(
            f"{calibration} calibration scores give no p-value below {1 / (calibration + 1):.2g}, "
            f"and {level:.2g} is asked for; {int(np.ceil(1 / level))} scores would do"
        )
    return float(betaincinv(k, calibration + 1 - k, confidence))
