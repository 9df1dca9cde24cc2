"""Gaps between two groups in what a model does for them, with intervals, and which pairs of groups to test."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Final

import numpy as np

from ..core.columns import Floats, Ints
from . import cbpe, class_cbpe, regression_sums
from .binary_counts import (
    BINS,
    BRIER,
    ECE_BINS,
    FN,
    FP,
    HISTOGRAM,
    SCORED,
    SCORES,
    TN,
    TP,
    UNIT,
)
from .binary_metrics import Metric, Z, wilson
from .calibration import Calibration
from .gap_test import Pair

RATES: Final[dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "positive_rate": ((FP, TP), (TN, FN, FP, TP)), "recall": ((TP,), (FN, TP)),
    "false_positive_rate": ((FP,), (TN, FP)), "precision": ((TP,), (FP, TP)),
    "accuracy": ((TN, TP), (TN, FN, FP, TP)),
}  # fmt: skip
"""Rates that are compared: which cells are hits, of which cells."""
NAMES: Final = {
    "positive_rate": "demographic parity", "recall": "equal opportunity",
    "precision": "predictive parity", "equalised_odds": "equalised odds",
    "disparate_impact": "disparate impact", "calibration": "calibration within groups",
}  # fmt: skip
"""What gaps are called in the literature on fairness."""
_WIDER: Final = 2.2414 / Z  # standard errors of 97.5 % to those of 95 %
_ALIKE: Final = 4 * UNIT  # what rounding makes of no variance at all
_OF_LABELS: Final[tuple[str, ...]] = ("recall", "precision", "accuracy")
OF_NUMBERS: Final = ("mean_error", "mae", "rmse")
"""What is compared of a regression."""
_LEAST_NUMBERS: Final = 30  # pairs of a group: chosen, of fewer the interval of a mean says little
FEW: Final = 3
"""Groups of a segment of which each two are compared; of more, each with all others."""


def gaps(
    a: Ints, b: Ints, said: tuple[tuple[int, int], tuple[int, int]] | None = None
) -> dict[str, Metric]:
    """Return the gaps of two groups, a's less b's, at 95 %; a gap that is not known has no entry.

    Parameters
    ----------
    a, b
        (WIDTH,) the rows of two groups in a table of `binary_counts`.
    said
        Of either group how many predictions were 1, and how many there were, with a label or without; those with one where
        not given.

    Returns
    -------
    dict
        By rate its difference: `positive_rate` (demographic parity), `recall` (equal opportunity: Hardt, Price and
        Srebro 2016, definition 2.2, arXiv 1610.02413), `false_positive_rate`, `precision` (predictive parity:
        Chouldechova 2017, definition 2, doi:10.1089/big.2016.0047), `accuracy`; `calibration`, the difference of the
        mean label less the mean score; `equalised_odds`, the larger gap of recall and false positive rate in size
        (definition 2.1 there); `disparate_impact`, the ratio of positive rates, and `four_fifths`, the lower rate over
        the higher, which the rule of four fifths wants to be 0.8 or more (29 CFR 1607.4(D)).

    Notes
    -----
    Differences of rates have Newcombe's interval, see `difference`; the ratio that of `ratio`. The interval of
    `equalised_odds` goes from the larger of the two lower bounds to the larger of the two upper bounds. It is too high
    by chance if either lower bound is, so these are of 97.5 % (Bonferroni); too low it is hardly ever.
    """
    found: dict[str, Metric] = {}
    for name in RATES:
        ours, theirs = rate(a, name), rate(b, name)
        if said is not None and name == "positive_rate":
            ours, theirs = (Metric(k / n, *wilson(k, n)) if n else None for k, n in said)
        if ours and theirs:
            found[name] = difference(ours, theirs)
            if name == "positive_rate" and theirs.value:
                found["disparate_impact"] = ratio(ours, theirs)
            if name == "positive_rate" and (ours.value or theirs.value):
                is_lower = ours.value <= theirs.value
                found["four_fifths"] = _at_most_one(
                    ratio(ours, theirs) if is_lower else ratio(theirs, ours)
                )
    _add_equalised_odds(found)
    ours, theirs = calibration(a), calibration(b)
    if ours and theirs:
        found["calibration"] = difference(ours, theirs)
    return found


def estimated(a: Ints, b: Ints, of_scores: Calibration) -> dict[str, Metric]:
    """Return the gaps that need labels as they are expected from scores: what `gaps` will be once these events' labels are there.

    Parameters
    ----------
    a, b
        (`cbpe.WIDTH`,) the rows of two groups in a table of `cbpe`.
    of_scores
        What a score means, one and the same for both: a gap that it makes itself is not seen.

    Returns
    -------
    dict
        `recall`, `false_positive_rate`, `precision`, `accuracy` and `equalised_odds`, as `gaps` has them.
    """
    ours, theirs = cbpe.rates(a), cbpe.rates(b)
    found: dict[str, Metric] = {
        name: cbpe.difference(a, b, ours[name], theirs[name], of_scores)
        for name in _OF_LABELS
        if name in ours and name in theirs
    }
    name = "specificity"
    if name in ours and name in theirs:  # the false positive rate is 1 less this
        found["false_positive_rate"] = cbpe.difference(b, a, theirs[name], ours[name], of_scores)
    _add_equalised_odds(found)
    return found


def estimated_of_several(a: Ints, b: Ints, number: int) -> dict[str, Metric]:
    """Return what `estimated` does, of a class against all others.

    Parameters
    ----------
    a, b
        (classes + 1, classes) of two groups in a table of `class_cbpe`.
    number
        Of the class.
    """
    ours, theirs = (class_cbpe.against_rest(part, number) for part in (a, b))
    found: dict[str, Metric] = {
        name: class_cbpe.difference(ours[name], theirs[name])
        for name in (*_OF_LABELS, "false_positive_rate")
        if name in ours and name in theirs
    }
    _add_equalised_odds(found)
    return found


def of_numbers(a: Ints, b: Ints) -> dict[str, Metric]:
    """Return the gaps of a regression, a's less b's, at 95 %: `mean_error`, `mae` and `rmse`.

    Parameters
    ----------
    a, b
        (`regression_sums.WIDTH`,) the rows of two groups. None is known where either has fewer than two pairs.
    """
    if min(int(a[0]), int(b[0])) < 2:
        return {}
    ours, theirs = regression_sums.metrics(a), regression_sums.metrics(b)
    return {name: difference(ours[name], theirs[name]) for name in OF_NUMBERS}


def few_numbers(a: Ints, b: Ints, half_width: float = 0.05) -> list[str]:
    """Return which gaps of a regression cannot be judged: all, or none.

    A group has fewer than 30 pairs, or its mean absolute error is not known within `half_width` times itself. Of normal errors
    that is 878 pairs for 0.05.
    """
    for row in (a, b):
        if int(row[0]) < _LEAST_NUMBERS:
            return list(OF_NUMBERS)
        mae = regression_sums.metrics(row)["mae"]
        if mae.high - mae.value > half_width * mae.value:
            return list(OF_NUMBERS)
    return []


def _add_equalised_odds(found: dict[str, Metric]) -> None:
    if "recall" in found and "false_positive_rate" in found:
        sizes = [_size(found[name]) for name in ("recall", "false_positive_rate")]
        found["equalised_odds"] = Metric(*(max(column) for column in zip(*sizes, strict=True)))


def rate(row: Ints, name: str) -> Metric | None:
    """Return one of `RATES` of a group with Wilson's interval, None without events."""
    hits, of = (sum(int(row[k]) for k in cells) for cells in RATES[name])
    return Metric(hits / of, *wilson(hits, of)) if of else None


def calibration(row: Ints) -> Metric | None:
    """Return a group's mean label less its mean score, with the interval of a mean; None below two scored pairs.

    The variance is that of label less score: its mean square is the Brier score. Where all pairs are alike the interval is not
    known.
    """
    scored = int(row[SCORED])
    if scored < 2:
        return None
    ones = int(row[HISTOGRAM + BINS : HISTOGRAM + 2 * BINS].sum())
    score = int(row[SCORES : SCORES + ECE_BINS].sum()) * UNIT / scored
    value = ones / scored - score
    variance = max(int(row[BRIER]) * UNIT / scored - value * value, 0.0)
    half = Z * math.sqrt(variance / (scored - 1)) if variance > _ALIKE else math.nan
    return Metric(value, value - half, value + half)


def difference(a: Metric, b: Metric) -> Metric:
    """Return a less b, with the interval of squares of distances to their bounds, added.

    Of rates with Wilson's intervals this is Newcombe's hybrid score interval (1998, method 10,
    doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I), of means with their standard errors the usual
    one.
    """
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    return Metric(value, low, value + math.hypot(a.high - a.value, b.value - b.low))


def ratio(a: Metric, b: Metric) -> Metric:
    """Return the ratio of two rates, b above 0, with the interval MOVER-R from the bounds of both.

    The bounds are where `difference` of a and r b has one at 0 (Newcombe 2016, doi:10.1177/0962280213502144).
    """
    both = a.value * b.value
    bounds = []
    for ours, theirs in ((a.low, b.high), (a.high, b.low)):
        ours_part = ours * (2 * a.value - ours)
        theirs_part = theirs * (2 * b.value - theirs)
        bounds.append(
            (ours_part, theirs_part, math.sqrt(max(both**2 - ours_part * theirs_part, 0)))
        )
    (part, _, root), (_, below, upper_root) = bounds
    value = a.value / b.value
    low = part / (both + root) if both else 0.0
    return Metric(value, min(low, value), max((both + upper_root) / below, value))


def _at_most_one(of: Metric) -> Metric:
    """Return a ratio of the lower to the higher rate: which one is lower may be chance."""
    low = min(of.low, 1 / of.high)
    return Metric(of.value, low, min(of.high, 1.0))


def _size(gap: Metric) -> tuple[float, float, float]:
    """Return the size of a gap, a lower bound for one of two, and an upper one."""
    low = gap.value - _WIDER * (gap.value - gap.low)
    high = gap.value + _WIDER * (gap.high - gap.value)
    least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return abs(gap.value), least, max(abs(gap.low), abs(gap.high))


def events_needed(half_width: float) -> int:
    """Return how many events a group needs for its rate to be known within `half_width`, whatever the rate is.

    Wilson's interval is widest at a rate of 1/2, there Z / (2 sqrt(n + Z^2)) to either side.

    Raises
    ------
    ValueError
        `half_width` is not between 0 and 0.5.

    Examples
    --------
    >>> [events_needed(half_width) for half_width in (0.02, 0.05, 0.1)]
    [2398, 381, 93]
    """
    if not 0 < half_width < 0.5:
        raise ValueError(f"half_width must be between 0 and 0.5, got {half_width}")
    return math.ceil((Z / (2 * half_width)) ** 2 - Z * Z)


def too_small(a: Ints, b: Ints, half_width: float = 0.05) -> dict[str, tuple[int, int]]:
    """Return of which rates too few events came to judge a gap, and how many more a and b need each.

    Examples
    --------
    >>> from tocsin.detectors.binary_counts import WIDTH
    >>> few, many = np.zeros(WIDTH, np.int64), np.zeros(WIDTH, np.int64)
    >>> few[TP], few[TN], many[TP], many[TN] = 81, 400, 500, 500
    >>> too_small(few, many)["recall"]
    (300, 0)
    """
    needed, found = events_needed(half_width), {}
    for name, (_, cells) in RATES.items():
        more = tuple(max(needed - sum(int(row[k]) for k in cells), 0) for row in (a, b))
        if any(more):
            found[name] = (more[0], more[1])
    return found


def few(
    a: Ints,
    b: Ints,
    half_width: float = 0.05,
    said: tuple[tuple[int, int], tuple[int, int]] | None = None,
) -> list[str]:
    """Return which gaps cannot be judged since a group has too few events, see `too_small` and, for `said`, `gaps`.

    A gap that follows from others cannot where one of these cannot; `calibration`, where there are scores, if the interval of
    a group goes further than `half_width` to either side, or is not known.
    """
    small = set(too_small(a, b, half_width))
    if said is not None:
        enough = min(n for _, n in said) >= events_needed(half_width)
        small = small - {"positive_rate"} if enough else small | {"positive_rate"}
    of = [calibration(row) for row in (a, b)]
    is_scored = bool(a[SCORED] or b[SCORED])
    found = [name for name in RATES if name in small]
    if small & {"recall", "false_positive_rate"}:
        found.append("equalised_odds")
    if "positive_rate" in small:
        found += ["disparate_impact", "four_fifths"]
    if is_scored and not all(one and one.high - one.value <= half_width for one in of):
        found.append("calibration")
    return found


def outcomes(
    predicted: Floats, label: Floats, score: Floats
) -> dict[str, Floats]:  # what `GapTests` compares
    """Return by metric the (n,) outcomes the means of which are compared; NaN in rows that it is not about.

    Parameters
    ----------
    predicted, label
        (n,) 0 or 1; NaN for none.
    score
        (n,) the probability of 1, within [0, 1]; NaN for none.

    Notes
    -----
    Of `RATES` an outcome is 1 for a hit and 0 for none; of `calibration` it is (1 + label - score) / 2, so that a gap
    is twice the difference (`scale` of a `Pair`).
    """
    is_pair = np.isin(predicted, (0, 1)) & np.isin(label, (0, 1))
    cell = np.where(is_pair, 2 * predicted + label, -1)
    found = {
        name: np.where(np.isin(cell, cells), np.isin(cell, hits) * 1.0, np.nan)
        for name, (hits, cells) in RATES.items()
    }
    is_scored = np.isin(label, (0, 1)) & (score >= 0) & (score <= 1)
    found["calibration"] = np.where(is_scored, (1 + label - score) / 2, np.nan)
    return found


def pairs(
    segments: Mapping[tuple[str, ...], Sequence[str]],
    metrics: Sequence[str],
    strata: Mapping[tuple[str, ...], Sequence[Hashable]] | None = None,
) -> list[Pair]:
    """Return the tests of all segments, with shares that are 1 together.

    Parameters
    ----------
    segments
        By the names that are crossed, `("sex",)` or `("sex", "race")`, the groups: `["1", "2"]`, `["1,1", "1,2"]`.
    metrics
        Names of `outcomes`.
    strata
        By the names that are crossed of each group the stratum that it is of, see `compared`; none where not given.

    Notes
    -----
    A segment of two or three groups has a pair for each two of them, one of more a pair for each group and all others,
    one of a single group none. Segments of d names weigh 2^-d together, in equal parts; the weights are scaled to add
    up to 1 over the depths there are, and a segment's part is shared equally by its pairs and metrics. The stream of
    group 1 is `recall:sex=1`, that of all others `recall:race!=1`.

    Examples
    --------
    >>> segments = {("sex",): ["1", "2"], ("sex", "race"): ["1,1", "1,2"]}
    >>> for pair in pairs(segments, ["recall"]):
    ...     print(pair.subject, pair.a, pair.b, round(pair.share, 3))
    gap:recall:sex=1|2 recall:sex=1 recall:sex=2 0.667
    gap:recall:sex,race=1,1|1,2 recall:sex,race=1,1 recall:sex,race=1,2 0.333
    """
    strata = strata or {}
    both = {names: compared(list(groups), strata.get(names)) for names, groups in segments.items()}
    both = {names: found for names, found in both.items() if found}
    depths = [len(names) for names in both]
    whole = sum(0.5**depth for depth in set(depths))
    found = []
    for names, sides in both.items():
        weight = 0.5 ** len(names) / depths.count(len(names)) / whole
        for metric in metrics:
            segment = f"{metric}:{','.join(names)}"
            found += [
                Pair(
                    subject=f"gap:{segment}={a}|{'rest' if b is None else b}",
                    a=f"{segment}={a}",
                    b=f"{segment}!={a}" if b is None else f"{segment}={b}",
                    share=weight / (len(sides) * len(metrics)),
                    scale=2.0 if metric == "calibration" else 1.0,
                )
                for a, b in sides
            ]
    return found


def compared(
    groups: list[str], strata: Sequence[Hashable] | None = None
) -> list[tuple[str, str | None]]:
    """Return which groups are compared with which, None for all others.

    Of a segment with strata each two groups of one stratum: production and shadow among women, and among men.
    """
    if strata is not None:
        both = combinations(zip(groups, strata, strict=True), 2)
        return [(a, b) for (a, of_a), (b, of_b) in both if of_a == of_b]
    if len(groups) <= FEW:
        return list(combinations(groups, 2))
    return [(group, None) for group in groups]
