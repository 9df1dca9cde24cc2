"""What the metrics of a classifier of several classes follow from, as whole numbers, and these metrics."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from typing import Final

import numpy as np

from ..core.columns import Floats, Ints
from .binary_metrics import Metric, Z, wilson
from .compiled import compiled

RATES: Final = ("precision", "recall", "f1")
"""What each class has, and averages of all."""


@compiled
def count(table: Ints, cells: Ints, predicted: Ints, label: Ints, sign: int) -> None:
    """Add n pairs to a table, or take them away.

    Parameters
    ----------
    table
        (cells, classes, classes) what is changed: pairs by label and prediction.
    cells
        (n,) which part of the table each pair belongs to; below 0 for none.
    predicted, label
        (n,) numbers of classes; a pair of which either is below 0 is not counted.
    sign
        1, or -1 to take away what was added before.
    """
    for i in range(len(cells)):
        k, p, t = cells[i], predicted[i], label[i]
        if k < 0 or p < 0 or t < 0:
            continue
        table[k, t, p] += sign


def metrics(confusion: Ints) -> dict[str, Metric]:
    """Return what follows from one (classes, classes) part of a table; a metric that is not known has no entry.

    `accuracy`; `precision`, `recall` and `f1` as `:micro`, of all classes' hits and misses together, which of one label a
    prediction is the accuracy, as `:macro`, the mean over the classes that have one, as `:weighted`, by how often each is
    true, and as `:0`, `:1`, ... of each class. A class that was never predicted has no precision, one that was never true
    no recall, as with scikit-learn's `zero_division=nan`.
    """
    hits, true, said = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    pairs, right = int(true.sum()), int(hits.sum())
    if not pairs:
        return {}
    found = micro(right, pairs)
    smoothed = _smoothed(confusion)
    for name, of in (("precision", said), ("recall", true), ("f1", said + true)):
        twice = 2 if name == "f1" else 1
        known = np.flatnonzero(of)
        rate = twice * hits[known] / of[known]
        for k, value in zip(known.tolist(), rate.tolist(), strict=True):
            # F1 is 2 J / (1 + J) of the share J of hits among what was predicted, or true, or both.
            low, high = wilson(int(hits[k]), int(of[k] - (twice - 1) * hits[k]))
            low, high = (
                twice * low / (1 + (twice - 1) * low),
                twice * high / (1 + (twice - 1) * high),
            )
            found[f"{name}:{k}"] = Metric(value, min(low, value), max(high, value))
        for average, weights in (("macro", np.ones(len(known))), ("weighted", true[known])):
            if weights.any():
                share = np.zeros(len(confusion))
                share[known] = weights / weights.sum()
                value = float(rate @ share[known])
                half = Z * _error(name, smoothed, share)
                found[f"{name}:{average}"] = Metric(
                    value, max(value - half, 0.0), min(value + half, 1.0)
                )
    return found


def micro(hits: int, pairs: int) -> dict[str, Metric]:
    """Return the accuracy, by that name and by those of the micro averages: a miss of one class is one of another."""
    accuracy = Metric(hits / pairs, *wilson(hits, pairs))
    return {"accuracy": accuracy, **{f"{name}:micro": accuracy for name in RATES}}


def _smoothed(confusion: Ints) -> Floats:
    """Return counts with two hits and two misses more for each class that came, so that no error is 0 by chance."""
    came = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    more = np.zeros(confusion.shape)
    more[np.ix_(came, came)] = 2 / max(len(came) - 1, 1)
    more[came, came] = 2.0
    return np.asarray(confusion + more)


def _error(name: str, counts: Floats, share: Floats) -> float:
    """Return the standard error of the mean of a rate over classes, by the delta method over all cells of the confusion.

    One pair more that has class c as its label, or its prediction, changes the rate r of c by -r / of, a hit by
    (1 - r) / of, and F1 by twice that for a hit (Takahashi, Yamamoto, Kuchiba and Koyama 2022,
    doi:10.1007/s10489-021-02635-5).
    """
    by_label, by_prediction = name != "precision", name != "recall"
    of = by_label * counts.sum(axis=1) + by_prediction * counts.sum(axis=0)
    ways = by_label + by_prediction
    part = np.divide(share, of, out=np.zeros(len(of)), where=of > 0)
    lost = part * np.divide(ways * np.diag(counts), of, out=np.zeros(len(of)), where=of > 0)
    change = -(by_label * lost[:, None] + by_prediction * lost[None, :])
    change[np.diag_indices(len(of))] += ways * part
    return float(np.sqrt((counts * change**2).sum()))
