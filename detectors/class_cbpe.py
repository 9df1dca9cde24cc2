"""The metrics of a classifier of several classes before its labels are there, from an expected confusion matrix."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type, assignment"

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from ..core.columns import Floats, Ints
from .binary_counts import UNIT
from .binary_metrics import Metric, Z
from .calibration import Calibration
from .class_counts import RATES
from .compiled import compiled

_ONE: Final = int(1 / UNIT)


def chances(scores: Floats, calibrations: Sequence[Calibration]) -> Floats:
    """Return the (n, classes) probability of each class as the label, which sum to 1 in a row.

    Parameters
    ----------
    scores
        (n, classes) as the model has them, each within [0, 1].
    calibrations
        One a class, each learned on its own scores and on labels that are 1 where the class is true.

    Notes
    -----
    A row with a score that is not within [0, 1], or for which all probabilities are 0, is NaN.
    """
    columns = [each.apply(scores[:, k].copy()) for k, each in enumerate(calibrations)]
    found = np.stack(columns, axis=1)
    total = sum(columns, start=np.zeros(len(scores)))[:, None]  # in the order of the classes
    return np.asarray(np.divide(found, total, out=np.full(found.shape, np.nan), where=total > 0))


@compiled
def count(table: Ints, cells: Ints, predicted: Ints, chance: Floats, sign: int) -> None:
    """Add n events to a table, or take them away.

    Parameters
    ----------
    table
        (cells, classes + 1, classes) int64, what is changed: expected events by label and prediction, then, by
        prediction, the variance of how many are right, all in units of `UNIT`. A part has room for 8 million events.
    cells
        (n,) int64, which part of the table each event belongs to; below 0 for none.
    predicted
        (n,) int64 numbers of classes; an event with one below 0 is not counted.
    chance
        (n, classes) of `chances`; an event whose row is NaN is not counted.
    sign
        1, or -1 to take away what was added before.
    """
    classes = chance.shape[1]
    for i in range(len(cells)):
        k, p = cells[i], predicted[i]
        if k < 0 or not 0 <= p < classes or np.isnan(chance[i, p]):
            continue
        rest = _ONE
        for t in range(classes):
            if t != p:
                mass = np.int64(np.rint(chance[i, t] / UNIT))
                table[k, t, p] += sign * mass
                rest -= mass
        table[k, p, p] += sign * rest  # so that predictions are counted exactly
        c = chance[i, p]
        table[k, classes, p] += sign * np.int64(np.rint(c * (1.0 - c) / UNIT))


def estimates(part: Ints) -> dict[str, Metric]:
    """Return what the metrics of one (classes + 1, classes) part of a table are expected to be.

    Names and averages are those of `class_counts.metrics`: `accuracy`; `precision`, `recall` and `f1` as `:micro`, `:macro`, over
    the classes that have one, as `:weighted` by how often each is expected, and as `:0`, `:1`, ... of each class. What
    has a denominator below 1 is left out.

    The interval, at 95 %, is of the realised value of these very events, and of chance alone: labels are drawn by
    their probabilities, which themselves are taken for the truth. How the chances of the wrong classes
    differ from event to event is not kept, which makes it a little too wide for recall and f1.

    References
    ----------
    NannyML 0.13, "Confidence-based performance estimation", on multiclass classification.
    """
    counts, doubts = part[:-1] * UNIT, part[-1] * UNIT
    hits, true, said = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    n = float(said.sum())
    if not n:
        return {}
    one = np.eye(len(hits))
    accuracy = _interval(float(hits.sum() / n), one / n, counts, doubts)
    found = {"accuracy": accuracy, **{f"{name}:micro": accuracy for name in RATES}}
    for name, of, by_label, ways in (
        ("precision", said, 0, 1),
        ("recall", true, 1, 1),
        ("f1", said + true, 1, 2),
    ):
        known = of >= 1
        least = np.maximum(of, 1.0)
        rate = ways * hits / least
        shares = {str(k): one[k] for k in np.flatnonzero(known).tolist()}
        shares["macro"], shares["weighted"] = known / max(known.sum(), 1), known * true
        total = shares["weighted"].sum()
        shares["weighted"] /= max(total, 1.0)
        for which, share in shares.items():
            if not share.any():
                continue
            value = float(rate @ share)
            change = np.diag(ways * share / least) - by_label * (share * rate / least)[:, None]
            if which == "weighted":  # its weights change as well
                change += (known * (rate - value) / total)[:, None]
            found[f"{name}:{which}"] = _interval(value, change, counts, doubts)
    return found


def _interval(value: float, change: Floats, counts: Floats, doubts: Floats) -> Metric:
    """Return a value that changes by so much with one label more, by label and prediction, with its interval."""
    half = Z * math.sqrt(_variance(change, counts, doubts)) + _step(change)
    return Metric(value, max(value - half, 0.0), min(value + half, 1.0))


def _step(change: Floats) -> float:
    return float(np.abs(change).max()) / 2  # counts are whole


def _variance(change: Floats, counts: Floats, doubts: Floats) -> float:
    """Return the variance of what changes by so much with one label more, by label and prediction.

    Events of one prediction are right with their own probability, and else of the other classes as these are
    expected among all of them: the variance is that of being right and, where wrong, that of which class it is.
    """
    wrong = counts * (1 - np.eye(len(counts)))
    of = wrong.sum(axis=0)
    mean = np.divide((wrong * change).sum(axis=0), of, out=np.zeros(len(of)), where=of > 0)
    return float(doubts @ (np.diag(change) - mean) ** 2 + (wrong * (change - mean) ** 2).sum())


class Rate(NamedTuple):
    """A ratio of expected counts: itself, the variance of the realised one, and what one event makes of it, half."""

    value: float
    variance: float
    step: float


def against_rest(part: Ints, number: int) -> dict[str, Rate]:
    """Return the rates of one class against all others, by the names of `gaps.RATES`; none whose denominator is below 1.

    An answer is right here if it is that class and so is the label, or if neither is.

    Parameters
    ----------
    part
        (classes + 1, classes) of a table.
    number
        Of the class.
    """
    counts, doubts = part[:-1] * UNIT, part[-1] * UNIT
    is_one = np.arange(len(doubts)) == number
    true, said = is_one[:, None], is_one[None, :]
    everywhere = np.ones(counts.shape, np.bool_)
    found = {}
    # Hits, and of which events; whether their number comes with the labels.
    for name, hits, of, is_expected in (
        ("accuracy", true == said, everywhere, False),
        ("precision", true & said, everywhere & said, False),
        ("recall", true & said, everywhere & true, True),
        ("false_positive_rate", ~true & said, everywhere & ~true, True),
    ):
        events = float(counts[of].sum())
        if events >= 1:
            value = float(counts[hits].sum()) / events
            change = (hits - value * (of * is_expected)) / events
            found[name] = Rate(value, _variance(change, counts, doubts), _step(change))
    return found


def difference(ours: Rate, theirs: Rate) -> Metric:
    """Return a rate of one part less that of another, with the interval of its realised value.

    Labels of the two come by chance each for themselves; the calibrations are taken for the truth.
    """
    value = ours.value - theirs.value
    half = Z * math.sqrt(ours.variance + theirs.variance) + ours.step + theirs.step
    return Metric(value, max(value - half, -1.0), min(value + half, 1.0))
