"""A binary classifier's metrics before its labels are there: what each is expected to be, given the scores.

Confidence-based performance estimation, as running sums in whole numbers: order, cuts and merges change nothing. It is
right as long as the probability of the label at a score is what it was in the reference; docs/estimation.md says more.
"""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from ..core.columns import Floats, Ints
from .binary_counts import BINS, LOG_UNIT, SMALLEST, UNIT
from .binary_metrics import Metric, Z
from .calibration import GROUPS, Calibration, block_of
from .compiled import compiled

POSITIVES: Final = 0
"""The first of the sums of c, the probability of the label 1: where 0 was predicted (false negatives), then where 1 was
(true positives)."""
DOUBTS: Final = 2
"""The first of the sums of c (1 - c), the variance of a label, by prediction as well."""
BRIER, BRIER_DOUBT, LOG_LOSS, LOG_LOSS_DOUBT = range(4, 8)
"""Expected losses and their variances; the last two in units of `LOG_UNIT`, all others of `UNIT`."""
SAID: Final = 8
"""The first of the counts by prediction and group of the calibration."""
SCORED: Final = SAID + 2 * GROUPS
"""The first of the counts of scores by bin."""
EXPECTED: Final = SCORED + BINS
"""The first of the sums of c by bin."""
WIDTH: Final = EXPECTED + BINS
_MIDDLES: Final = (np.arange(BINS) + 0.5) / BINS
_LOG_ODDS: Final = np.log((1 - _MIDDLES) / _MIDDLES)
_CUTS: Final = 256
_INVERSES: Final = 1 / (1 + (np.arange(_CUTS) + 0.5) / _CUTS)
_LOGS: Final = -np.log(_INVERSES)
_LN2: Final = float(np.log(2.0))


def count(
    table: Ints, cells: Ints, predicted: Floats, score: Floats, calibration: Calibration, sign: int
) -> None:
    """Add n events to a table, or take them away.

    Parameters
    ----------
    table
        (cells, WIDTH) int64, what is changed. A row has room for 8 million events.
    cells
        (n,) int64, which row of the table each event belongs to; below 0 for none.
    predicted
        (n,) 0 or 1; with anything else an event counts for the metrics of scores only.
    score
        (n,) the probability of 1 as the model has it, within [0, 1]; an event with anything else is not counted.
    calibration
        What a score means; the same one for all of a table.
    sign
        1, or -1 to take away what was added before.
    """
    _count(
        table, cells, predicted, score, calibration.edges, calibration.guide, calibration.values,
        calibration.group, sign,
    )  # fmt: skip


@compiled
def _count(
    table: Ints, cells: Ints, predicted: Floats, score: Floats, edges: Floats, guide: Ints,
    values: Floats, group: Ints, sign: int,
) -> None:  # fmt: skip
    for i in range(len(cells)):
        k, s = cells[i], score[i]
        if k < 0 or not 0.0 <= s <= 1.0:
            continue
        block = block_of(edges, guide, s)
        c = values[block]
        doubt = c * (1.0 - c)
        mass = sign * np.int64(np.rint(c / UNIT))
        said = predicted[i]
        if said * (1.0 - said) == 0.0:  # 0 or 1, without a branch that guesses which
            p = int(said)
            table[k, POSITIVES + p] += mass
            table[k, DOUBTS + p] += sign * np.int64(np.rint(doubt / UNIT))
            table[k, SAID + p * GROUPS + group[block]] += sign
        tilt = 1.0 - 2.0 * s  # how much larger the squared error is with the label 1
        table[k, BRIER] += sign * np.int64(np.rint((s * s + c * tilt) / UNIT))
        table[k, BRIER_DOUBT] += sign * np.int64(np.rint(doubt * tilt * tilt / UNIT))
        if_0 = -_log(max(1.0 - s, SMALLEST))
        tilt = -_log(max(s, SMALLEST)) - if_0
        table[k, LOG_LOSS] += sign * np.int64(np.rint((if_0 + c * tilt) / LOG_UNIT))
        table[k, LOG_LOSS_DOUBT] += sign * np.int64(np.rint(doubt * tilt * tilt / LOG_UNIT))
        place = min(int(s * BINS), BINS - 1)
        table[k, SCORED + place] += sign
        table[k, EXPECTED + place] += mass


@compiled
def _log(x: float) -> float:
    """Return the logarithm of a normal number above 0, to 1e-14, in half the C library's time and alike on all machines.

    x is 2^k m, and m = middle (1 + r) with the middle of the 256th of [1, 2) that m is in, so that |r| < 2^-9.
    """
    bits = np.float64(x).view(np.int64)
    m = np.int64((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64)
    place = (bits >> 44) & (_CUTS - 1)
    r = m * _INVERSES[place] - 1.0
    series = r * (1.0 - r * (0.5 - r * (1.0 / 3.0 - r * 0.25)))
    return float(((bits >> 52) - 1023) * _LN2 + (_LOGS[place] + series))


def estimates(row: Ints, calibration: Calibration) -> dict[str, Metric]:
    """Return what the metrics of one row's events are expected to be; one that cannot be told has no entry.

    Names are those of `binary_metrics.metrics`. A metric is left out where its denominator is expected to be below 1:
    without a prediction of a class its precision, with less than one expected label of a class its recall.

    The interval, at 95 %, is of the *realised* value: of what the metric of these very events will be once their labels
    are there. Its variance is the sum of two: labels are c or not by chance, each with its own c (a Poisson-binomial
    law), and c itself was learned from a sample (`Calibration.spread`). Both by the delta method, and half a count
    more on either side since counts are whole. What is not in it: that labels may have come to depend on scores in
    another way.

    References
    ----------
    NannyML 0.13, "Confidence-based performance estimation"; Bialek, Kivimaki, Kuberski and Perrakis 2024, "Estimating
    model performance under covariate shift without labels" (arXiv 2401.08348).
    """
    return _of_predictions(row, calibration) | _of_scores(row, calibration)


class Rate(NamedTuple):
    """A ratio of expected counts.

    Parameters
    ----------
    value
        The ratio.
    slopes
        By how much one label 1 more, in place of a 0, changes it: where 0 and where 1 was predicted.
    step
        By how much half a count does.
    """

    value: float
    slopes: tuple[float, float]
    step: float


def rates(row: Ints) -> dict[str, Rate]:
    """Return the ratios of a row that can be told."""
    said0, said1 = (int(row[of : of + GROUPS].sum()) for of in (SAID, SAID + GROUPS))
    fn, tp = (row[POSITIVES:DOUBTS] * UNIT).tolist()
    tn, fp = said0 - fn, said1 - tp
    found = {}
    # Hits, of how many, and by how much one label 1 more changes each, where 0 and where 1 was predicted.
    for name, hits, of, hits0, hits1, of0, of1 in (
        ("accuracy", tp + tn, said0 + said1, -1, 1, 0, 0),
        ("precision", tp, said1, 0, 1, 0, 0),
        ("recall", tp, tp + fn, 0, 1, 1, 1),
        ("specificity", tn, tn + fp, -1, 0, -1, -1),
        ("npv", tn, said0, -1, 0, 0, 0),
        ("f1", 2 * tp, said1 + tp + fn, 0, 2, 1, 1),
        ("f1:0", 2 * tn, said0 + tn + fp, -2, 0, -1, -1),
    ):
        if of >= 1:
            rate = hits / of
            slopes = (hits0 - rate * of0) / of, (hits1 - rate * of1) / of
            found[name] = Rate(rate, slopes, 0.5 * max(abs(hits0), abs(hits1)) / of)
    return found


def _of_predictions(row: Ints, calibration: Calibration) -> dict[str, Metric]:
    """Return the ratios of expected counts."""
    var0, both, var1 = _of_groups(row, calibration.spread)
    doubt0, doubt1 = (row[DOUBTS : DOUBTS + 2] * UNIT).tolist()
    var0, var1 = var0 + doubt0, var1 + doubt1
    found = {}
    for name, rate in rates(row).items():
        slope0, slope1 = rate.slopes
        variance = slope0**2 * var0 + slope1**2 * var1 + 2 * slope0 * slope1 * both
        found[name] = _interval(rate.value, variance, step=rate.step)
    return found


def difference(a: Ints, b: Ints, ours: Rate, theirs: Rate, calibration: Calibration) -> Metric:
    """Return a ratio of one row less that of another, with the interval of its realised value.

    Labels of the two rows come by chance each for themselves. The calibration is the same for both: what it is off by
    moves both, and of that only the difference counts.
    """
    variance, moved = 0.0, np.zeros(GROUPS)
    for row, rate, sign in ((a, ours, 1), (b, theirs, -1)):
        for said, slope in enumerate(rate.slopes):
            variance += slope**2 * float(row[DOUBTS + said]) * UNIT
            begin = SAID + said * GROUPS
            moved += sign * slope * row[begin : begin + GROUPS]
    variance += float(calibration.spread @ moved**2)
    value = ours.value - theirs.value
    half = Z * math.sqrt(variance) + ours.step + theirs.step
    return Metric(value, max(value - half, -1.0), min(value + half, 1.0))


@compiled
def _of_groups(row: Ints, spread: Floats) -> tuple[float, float, float]:
    """Return what the calibration gives to the sums of c where 0 and 1 was predicted: variance, covariance, variance."""
    var0, both, var1 = 0.0, 0.0, 0.0
    for g in range(GROUPS):
        of0, of1 = float(row[SAID + g]), float(row[SAID + GROUPS + g])
        var0 += spread[g] * of0 * of0
        both += spread[g] * of0 * of1
        var1 += spread[g] * of1 * of1
    return var0, both, var1


def _of_scores(row: Ints, calibration: Calibration) -> dict[str, Metric]:
    """Return the mean losses and the areas under curves."""
    c = calibration
    found = {}
    (scored, ones, of_brier, of_log_loss, area, ties, of_area, mean, order, of_mean) = _curves(
        row[SCORED:WIDTH], c.edges, c.guide, c.group, c.spread
    )
    if not scored:
        return {}
    for name, column, unit, of_map in (
        ("brier", BRIER, UNIT, of_brier),
        ("log_loss", LOG_LOSS, LOG_UNIT, of_log_loss),
    ):
        value, doubt = int(row[column]) * unit / scored, int(row[column + 1]) * unit / scored**2
        found[name] = _interval(value, doubt + of_map, most=math.inf)
    if min(ones, scored - ones) >= 1:
        found["roc_auc"] = _interval(area, of_area, error=ties)
    if ones >= 1:
        found["average_precision"] = _interval(mean, of_mean, error=order)
    return found


@compiled
def _curves(
    bins: Ints, edges: Floats, guide: Ints, group: Ints, spread: Floats
) -> tuple[float, float, float, float, float, float, float, float, float, float]:
    """Return what follows from the counts of scores and the expected ones by bin.

    How many and how many ones; the calibration's part of the variances of Brier score and log loss; the area under the
    ROC curve, half the share of ties, its variance; the average precision, what the order within bins makes of it at
    most, its variance. The sum of the precision over the p ones of a bin is p - wrong log(1 + p / (before + 1/2)), with
    `before` scores before them of which `wrong` are zeros: the digamma functions of `binary_metrics.average_precision`
    to second order.
    """
    n, p = 0.0, 0.0
    for b in range(BINS):
        n, p = n + bins[b], p + bins[BINS + b] * UNIT
    if n == 0.0:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    per_p, per_q = 1.0 / max(p, 1.0), 1.0 / max(n - p, 1.0)
    slope, share = np.zeros(BINS), np.zeros(BINS)  # of the sum of precisions, and of one score
    area, ties, best, worst, middle, hits, reached = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for b in range(BINS - 1, -1, -1):
        if bins[b] == 0:
            continue
        here, ones = float(bins[b]), bins[BINS + b] * UNIT
        zeros, wrong = here - ones, reached - hits
        area += zeros * (hits + ones / 2)
        ties += zeros * ones
        best += ones - wrong * _log(1.0 + ones / (reached + 0.5))
        worst += ones - (wrong + zeros) * _log(1.0 + ones / (reached + zeros + 0.5))
        share[b] = 1.0 / (reached + here / 2)
        slope[b] = (hits + ones / 2) * share[b]
        middle += ones * slope[b]
        hits, reached = hits + ones, reached + here
    area *= per_p * per_q
    # By how much each changes with one label 1 more, instead of a 0, in a bin: in sum over each group, and in variance.
    moved = np.zeros((GROUPS, 4))
    of_area, of_mean, later, below, above = 0.0, 0.0, 0.0, 0.0, p
    for b in range(BINS):
        if bins[b] == 0:
            continue
        here, ones = float(bins[b]), bins[BINS + b] * UNIT
        zeros, each = here - ones, ones * share[b]
        to_area = ((below + zeros / 2) * per_q - area) * per_p
        to_area -= ((above - ones / 2) * per_p - area) * per_q
        to_mean = (slope[b] - middle * per_p + later + each / 2) * per_p
        below, above, later = below + zeros, above - ones, later + each
        doubt = ones * zeros / here  # if c is one and the same in the bin; else this is too much
        of_area += doubt * to_area * to_area
        of_mean += doubt * to_mean * to_mean
        g = group[block_of(edges, guide, _MIDDLES[b])]
        moved[g, 0] += here * (1.0 - 2.0 * _MIDDLES[b])
        moved[g, 1] += here * _LOG_ODDS[b]
        moved[g, 2] += here * to_area
        moved[g, 3] += here * to_mean
    of_brier, of_log_loss = 0.0, 0.0
    for g in range(GROUPS):
        of_brier += spread[g] * (moved[g, 0] / n) ** 2
        of_log_loss += spread[g] * (moved[g, 1] / n) ** 2
        of_area += spread[g] * moved[g, 2] ** 2
        of_mean += spread[g] * moved[g, 3] ** 2
    return (
        n, p, of_brier, of_log_loss, area, ties * per_p * per_q / 2, of_area,
        (best + worst) * per_p / 2, (best - worst) * per_p / 2, of_mean,
    )  # fmt: skip


def _interval(
    value: float, variance: float, *, step: float = 0.0, error: float = 0.0, most: float = 1.0
) -> Metric:
    half = Z * math.sqrt(max(variance, 0.0)) + step
    value = min(max(value, 0.0), most)
    return Metric(value, max(value - half, 0.0), min(value + half, most), error)
