"""What a cohort's counts will be once its labels are there, learned from how late those of earlier cohorts were."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from ..core.columns import Floats, Ints
from .binary_metrics import Metric, Z

DELAYS: Final = 128
"""Bins of a delay, of one width each."""
_LEAST: Final = 30
"""Labels that a curve is drawn from, at least; it is known within about 0.18 then (2 standard errors at 1/2)."""
_EARLIEST: Final = 0.05
"""The share of labels that must have come for a cohort to be told of: before, it would be told what others were like."""


class Arrival(NamedTuple):
    """How soon labels of one kind come.

    Parameters
    ----------
    share
        (DELAYS + 1,) the share of labels that have come at each edge of the bins, from 0 to 1.
    labels
        How many it was learned from.
    """

    share: Floats
    labels: int

    def mean(self, youngest: float, oldest: float) -> float:
        """Return the mean share at ages of `youngest` to `oldest`, in bins, of predictions spread evenly between."""
        edges = np.arange(len(self.share))
        area = np.concatenate([[0.0], np.cumsum((self.share[1:] + self.share[:-1]) / 2)])

        def upto(age: float) -> float:
            beyond = max(age - edges[-1], 0.0)
            at = min(max(age, 0.0), float(edges[-1]))
            k = min(int(at), len(self.share) - 2)
            part = at - k
            here = self.share[k] * part + (self.share[k + 1] - self.share[k]) * part * part / 2
            return float(area[k] + here + beyond)

        mean = (upto(oldest) - upto(youngest)) / max(oldest - youngest, 1e-9)
        return min(max(mean, 0.0), 1.0)  # which rounding may pass


def arrival(delays: Ints, ages: Floats) -> Arrival | None:
    """Return how soon labels come, None where too few have.

    Parameters
    ----------
    delays
        (cohorts, DELAYS) labels that have come, by their delay.
    ages
        (cohorts,) age of the youngest prediction of each cohort, in bins.

    Notes
    -----
    A label is seen if its delay is less than its prediction's age, so late ones of young cohorts are missing: the product-limit
    estimate in reverse time, F(d) = product over u > d of 1 - m(u) / R(u), with m(u) labels of delay u and R(u) of delay u or less,
    both of cohorts older than u (Lagakos, Barraj and De Gruttola 1988, equation 2.2, doi:10.1093/biomet/75.3.515). Where all
    cohorts are as old as the last bin it is the share of labels that have come. Delays longer than the oldest cohort are not
    known of, nor labels that never come: F is 1 where no cohort is older.
    """
    is_seen = ages[:, None] >= np.arange(1, DELAYS + 1)
    came = np.where(is_seen, delays, 0).sum(axis=0)
    at_risk = np.where(is_seen, np.cumsum(delays, axis=1), 0).sum(axis=0)
    labels = int(came.sum())
    if labels < _LEAST:
        return None
    left = 1 - np.divide(came, at_risk, out=np.zeros(DELAYS), where=at_risk > 0)
    return Arrival(np.append(np.cumprod(left[::-1])[::-1], 1.0), labels)


class Rate(NamedTuple):
    """How many pairs of one kind a prediction leads to, over cohorts: gamma distributed, of a mean and a variance.

    Parameters
    ----------
    mean, variance
        Of the cohorts' rates.
    exposure
        Predictions that it was learned from, each as far as its label must have come.
    """

    mean: float
    variance: float
    exposure: float


def rate(pairs: Ints, exposure: Floats) -> Rate:
    """Return how many pairs of one kind a prediction leads to.

    Parameters
    ----------
    pairs
        (cohorts,) pairs that have come.
    exposure
        (cohorts,) predictions times the share of labels that have come.

    Notes
    -----
    By moments: pairs have the variance mean * exposure + variance * exposure^2 (negative binomial).
    """
    whole = float(exposure.sum())
    mean = float(pairs.sum()) / whole if whole else 0.0
    beyond = float(((pairs - mean * exposure) ** 2).sum()) - mean * whole
    squares = float((exposure**2).sum())
    return Rate(mean, max(beyond / squares, 0.0) if squares else 0.0, whole)


class Expected(NamedTuple):
    """What the pairs of some cohorts are expected to be: true and false negatives and positives, and variances.

    Parameters
    ----------
    counts
        (4,) tn, fn, fp, tp as `binary_counts` has them.
    variances
        (4,) of these, given how soon labels come and how many there are; independent of one another.
    shared
        (4,) standard errors that come from how well these are known: cohorts have them in common.
    """

    counts: Floats
    variances: Floats
    shared: Floats


def expected(
    pairs: Ints,
    said: Ints,
    shares: Floats,
    curves: list[Arrival | None],
    rates: list[Rate],
    *,
    unlabelled_are_negative: bool,
) -> Expected | None:
    """Return what a cohort's pairs are expected to be once all labels are there; None where it cannot be told.

    Parameters
    ----------
    pairs
        (4,) pairs so far: tn, fn, fp, tp.
    said
        (2,) predictions of 0 and of 1, with a label or without.
    shares
        (4,) share of the labels of each kind that have come at the cohort's age.
    curves, rates
        Of the four kinds.
    unlabelled_are_negative
        Whether a prediction that never has a label is a negative one: then only positives are looked at, and the rest are
        negatives.

    Notes
    -----
    Each label that has come stands for 1 / F of them, F the share that have come at its prediction's age (inverse probability
    weighting: Horvitz and Thompson 1952, equation 4, doi:10.1080/01621459.1952.10483446), drawn towards the mean of all
    cohorts as far as these are alike: to the pairs P that are there come N (1 - F) (a + P) / (b + N F) of N predictions,
    a and b the parameters of the rates' gamma distribution (empirical Bayes: Robbins 1956, section 2).
    Assumed: given prediction and label, labels take as long as those of other cohorts.
    """
    counts, variances, shared = np.zeros(4), np.zeros(4), np.zeros(4)
    for k in (1, 3) if unlabelled_are_negative else range(4):
        curve, share, of = curves[k], float(shares[k]), float(said[k // 2])
        if not of:
            continue
        if curve is None or share < _EARLIEST:
            return None
        mean, variance, exposure = rates[k]
        doubt = mean / max(exposure, 1.0)
        if variance > 0:
            a, b = mean * mean / variance, mean / variance
            mean = (a + pairs[k]) / (b + of * share)
            doubt = mean / (b + of * share)
        left = of * (1 - share)
        counts[k] = pairs[k] + left * mean
        variances[k] = left * mean
        of_curve = share * (1 - share) / curve.labels  # F is a rate itself
        shared[k] = math.sqrt(left**2 * doubt + (of * mean) ** 2 * of_curve)
    if unlabelled_are_negative:
        for negative, positive in ((0, 1), (2, 3)):
            counts[positive] = min(counts[positive], float(said[positive // 2]))
            counts[negative] = said[positive // 2] - counts[positive]
    return Expected(counts, variances, shared)


def total(parts: list[Expected]) -> Expected:
    """Return what several cohorts are expected to be together."""
    return Expected(*(np.sum(column, axis=0) for column in zip(*parts, strict=True)))


def metrics(of: Expected, *, unlabelled_are_negative: bool) -> dict[str, Metric]:
    """Return accuracy, precision, recall and F1 as expected, with intervals by the delta method; none that is not known."""
    tn, fn, fp, tp = of.counts.tolist()
    found = {}
    # Hits, of how many, and how each changes with one more of tn, fn, fp, tp.
    for name, hits, among, of_hits, of_among in (
        ("accuracy", tn + tp, tn + fn + fp + tp, (1, 0, 0, 1), (1, 1, 1, 1)),
        ("precision", tp, fp + tp, (0, 0, 0, 1), (0, 0, 1, 1)),
        ("recall", tp, fn + tp, (0, 0, 0, 1), (0, 1, 0, 1)),
        ("f1", 2 * tp, fn + fp + 2 * tp, (0, 0, 0, 2), (0, 1, 1, 2)),
    ):
        if among < 1:
            continue
        value = hits / among
        slopes = (np.array(of_hits) - value * np.array(of_among)) / among
        if unlabelled_are_negative:  # one positive more is one negative less
            slopes[[1, 3]] -= slopes[[0, 2]]
            slopes[[0, 2]] = 0.0
        half = Z * math.sqrt(float(slopes**2 @ (of.variances + of.shared**2)))
        found[name] = Metric(value, max(value - half, 0.0), min(value + half, 1.0))
    return found
