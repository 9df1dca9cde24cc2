"""The metrics of a binary classifier, each with an interval, from `binary_counts`."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from scipy.special import digamma, expit, logit, ndtri

from ..core.columns import Floats, Ints
from .binary_counts import (
    BINS,
    BRIER,
    BRIER_SQUARES,
    ECE_BINS,
    FN,
    FP,
    HISTOGRAM,
    LOG_LOSS,
    LOG_LOSS_SQUARES,
    LOG_UNIT,
    SCORED,
    SCORES,
    TN,
    TP,
    UNIT,
)

Z: Final = float(ndtri(0.975))
"""Standard errors on either side of an interval of 95 %."""
_PER_ECE_BIN: Final = BINS // ECE_BINS


class Metric(NamedTuple):
    """A number and how well it is known.

    Parameters
    ----------
    value
        The number.
    low, high
        Its interval at 95 %; NaN where that is not known, as of a mean of one event.
    error
        What the value itself may be off by, since scores are counted in bins; 0 where it is exact.
    """

    value: float
    low: float
    high: float
    error: float = 0.0


def metrics(row: Ints) -> dict[str, Metric]:
    """Return what follows from one row of a table of counts; a metric that is not known has no entry.

    Precision, recall and f1 are of the class 1; npv, specificity and `f1:0` are the same three of the class 0. A ratio
    without a denominator is unknown: without predictions of a class its precision, without labels of one its recall,
    and the area under the curve.
    """
    found: dict[str, Metric] = {}
    tn, fn, fp, tp = (int(row[k]) for k in (TN, FN, FP, TP))
    ratios = {
        "accuracy": (tp + tn, tp + tn + fp + fn), "precision": (tp, tp + fp), "recall": (tp, tp + fn),
        "specificity": (tn, tn + fp), "npv": (tn, tn + fn),
    }  # fmt: skip
    for name, (hits, of) in ratios.items():
        if of:
            found[name] = Metric(hits / of, *wilson(hits, of))
    for name, hits in (("f1", tp), ("f1:0", tn)):
        if tp + tn + fp + fn and hits + fp + fn:
            found[name] = _f1(hits, fp + fn)
    if row[SCORED]:
        found |= mean_losses(row)
        by_bin = row[HISTOGRAM:].reshape(2, ECE_BINS, _PER_ECE_BIN).sum(axis=2)
        scores = row[SCORES : SCORES + ECE_BINS]
        found["ece"] = calibration_error(by_bin, scores, int(row[SCORED]))
    negatives = row[HISTOGRAM : HISTOGRAM + BINS].astype(np.float64)
    positives = row[HISTOGRAM + BINS : HISTOGRAM + 2 * BINS].astype(np.float64)
    if negatives.sum() and positives.sum():
        found["roc_auc"] = roc_auc(negatives, positives)
    if positives.sum():
        found["average_precision"] = average_precision(negatives, positives)
    return found


def wilson(hits: float, of: float, z: float = Z) -> tuple[float, float]:
    """Return the interval of a rate, z standard deviations wide, at 95 % as it is (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    rate, shrink = hits / of, 1 / (1 + z * z / of)
    middle = shrink * (rate + z * z / (2 * of))
    half = shrink * z * np.sqrt(rate * (1 - rate) / of + z * z / (4 * of * of))
    low, high = float(max(middle - half, 0.0)), float(min(middle + half, 1.0))
    return (low if hits else 0.0), (high if hits < of else 1.0)  # as they would be without rounding


def _f1(hits: int, misses: int) -> Metric:
    """Return F1 of so many true positives, and false positives and negatives together.

    It is 2 J / (1 + J) of the share J of true positives among these three, which is a rate.
    """
    low, high = wilson(hits, hits + misses)
    return Metric(2 * hits / (2 * hits + misses), 2 * low / (1 + low), 2 * high / (1 + high))


def mean_losses(row: Ints) -> dict[str, Metric]:
    """Return the Brier score and the log loss of a row with scores; of one pair without an interval."""
    scored, found = int(row[SCORED]), {}
    for name, column, squares, unit in (
        ("brier", BRIER, BRIER_SQUARES, UNIT),
        ("log_loss", LOG_LOSS, LOG_LOSS_SQUARES, LOG_UNIT),
    ):
        mean = int(row[column]) * unit / scored
        variance = max(int(row[squares]) * unit / scored - mean * mean, 0.0)
        half = Z * np.sqrt(variance / scored) + 0.5 / scored  # also where all are alike
        half = half if scored > 1 else np.nan
        found[name] = Metric(mean, float(np.maximum(mean - half, 0.0)), float(mean + half))
    return found


def calibration_error(by_bin: Ints, scores: Ints, scored: int) -> Metric:
    """Return the expected calibration error over ten bins of the score (Naeini, Cooper and Hauskrecht 2015, equation 4).

    From (2, 10) counts by bin, of label 0 and of label 1, and (10,) sums of scores. Its interval is that of a sum of as many gaps
    between a rate and a mean score, each with its standard error.
    """
    count = by_bin.sum(axis=0)
    full = count > 0
    rate = by_bin[1][full] / count[full]
    score = scores[full] * UNIT / count[full]
    share = count[full] / scored
    value = float(share @ np.abs(rate - score))
    half = Z * float(np.sqrt(share**2 @ (rate * (1 - rate) / count[full]))) + 0.5 / scored
    return Metric(value, max(value - half, 0.0), min(value + half, 1.0))


def roc_auc(negatives: Floats, positives: Floats) -> Metric:
    """Return the area under the curve: the share of pairs of one of each in which the positive has the higher score.

    Pairs in one bin count half; it is wrong by half their share at most. The interval is DeLong's (DeLong, DeLong and
    Clarke-Pearson 1988, doi:10.2307/2531595), of the logit of the area.
    """
    n, p = negatives.sum(), positives.sum()
    above = (np.cumsum(negatives) - negatives / 2) / n  # of a positive in each bin, over negatives
    below = 1 - (np.cumsum(positives) - positives / 2) / p
    area = float(positives @ above / p)
    error = float(positives @ negatives / (2 * n * p))
    variance = 0.0
    for counts, of, part in ((positives, p, above), (negatives, n, below)):
        variance += float(counts @ (part - area) ** 2) / of / max(of - 1, 1)
    fewest = float(min(n, p))
    if variance == 0.0:  # as of a rate of so many: all in their order, or all against it
        inner = min(max(area, 0.5 / fewest), 1 - 0.5 / fewest)
        variance = inner * (1 - inner) / fewest
    return _logit_interval(area, np.sqrt(variance), 0.5 / fewest, error)


def average_precision(negatives: Floats, positives: Floats) -> Metric:
    """Return the mean precision over the positives, each as of its own threshold.

    Within a bin the order is not known: the value is the middle of what it is where all positives of each come first
    and where they come last. The interval is that of a rate at as many positives (Boyd, Eng and Page 2013,
    doi:10.1007/978-3-642-40994-3_29), the logit form.
    """
    p, n = positives[::-1], negatives[::-1]
    hits, misses = np.cumsum(p) - p, np.cumsum(n) - n  # above each bin
    total = p.sum()

    def precisions(wrong: Floats) -> float:
        # The sum over i = 1..p of (hits + i) / (hits + i + wrong) is p - wrong (psi(...) - psi(...)).
        full = p > 0
        first = hits[full] + wrong[full] + 1
        lost = wrong[full] * (digamma(first + p[full]) - digamma(first))
        return float((p[full] - lost).sum() / total)

    best, worst = precisions(misses), precisions(misses + n)
    value = (best + worst) / 2
    inner = min(max(value, 0.5 / total), 1 - 0.5 / total)
    deviation = float(np.sqrt(inner * (1 - inner) / total))
    return _logit_interval(value, deviation, 0.5 / total, (best - worst) / 2)


def _logit_interval(value: float, deviation: float, least: float, error: float) -> Metric:
    """Return a share with an interval that is symmetric in its logit; at 0 and 1 as if `least` were otherwise."""
    inner = min(max(value, least), 1 - least)
    half, middle = Z * deviation / (inner * (1 - inner)), logit(inner)
    low, high = float(expit(middle - half)), float(expit(middle + half))
    return Metric(value, min(low, value), max(high, value), error)
