"""How wrong a regression is, before its labels are there: what its errors were where predictions and features were alike.

Direct loss estimation, as running sums in whole numbers: order, cuts and merges change nothing. It is right as long as
errors at given features are what they were in the reference; docs/estimation.md says more.
"""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false
# mypy: disable-error-code="arg-type"

from __future__ import annotations

import math
from typing import Final

import numpy as np

from ..core.columns import Floats, Ints
from ..core.snapshot import check, pack, reading, unpack
from .binary_counts import UNIT
from .binary_metrics import Metric, Z
from .compiled import compiled
from .loss_trees import DEPTH, MOST_TREES, Trees, learn

LEAST_ROWS: Final = 300
"""Chosen: of fewer, too few are left to say how well the losses are known."""
MOST_ROWS: Final = 65_536
"""Rows that are learned from: of more, evenly spaced ones."""
GROUPS: Final = 16
"""Groups of rows by their expected squared error, of each of which it is known how well it was learned."""
_GROUP_ROWS: Final = 50  # held out, in each group at the least
_EACH: Final = 4  # one row in so many is held out from trees that tell how well losses are known
LARGEST: Final = 1e70
"""Of labels and predictions, as in `regression_sums`."""
_COUNT, _ABSOLUTE, _SQUARE, _ABSOLUTE_DOUBT, _SQUARES, _IN_GROUP = range(6)
WIDTH: Final = _IN_GROUP + GROUPS
"""Columns: how many events, the sums of the expected size of the error and its square, of the variance of the size and
of the squared expected square, the last four in units of the model; then events by group."""
_VERSION: Final = 2


class LossModel:
    """What size and square an error is expected to have, given the prediction and the features; it never changes.

    Parameters
    ----------
    trees
        Expected |error| and error^2 by (prediction, features).
    edges
        (groups - 1,) rising: from which expected square on the next group holds.
    spread
        (GROUPS, 2) square of what is expected too much or too little in each group: by chance, since it was learned from a
        sample, and beyond chance where rows held out say so.
    most
        (2,) the largest of both in the reference; none is expected to be more.
    tail
        The mean of error^4 over that of the squared expected square: 3 for normal errors.
    features
        How many there are.

    References
    ----------
    NannyML 0.13, "Direct loss estimation".
    """

    def __init__(
        self, trees: Trees, edges: Floats, spread: Floats, most: Floats, tail: float, features: int
    ) -> None:
        self.trees, self.edges, self.spread = trees, edges, spread
        self.most, self.tail, self.features = most, tail, features

    @classmethod
    def fit(cls, predicted: Floats, features: Floats, label: Floats) -> LossModel:
        """Learn from the reference. How well that is known, trees of three rows in four tell by the fourth.

        Parameters
        ----------
        predicted, label
            (n,) numbers; a row of which either is missing, or beyond 1e70, is left out.
        features
            (n, f) numbers, NaN where one is missing.

        Raises
        ------
        ValueError
            Fewer than 300 rows are left, or `features` has another number of rows.
        """
        values = _values(predicted, features)
        known = np.flatnonzero((np.abs(predicted) <= LARGEST) & (np.abs(label) <= LARGEST))
        if len(known) < LEAST_ROWS:
            raise ValueError(
                f"found {len(known)} reference rows with a prediction and a label, expected {LEAST_ROWS} or more: "
                "give a larger reference"
            )
        if len(known) > MOST_ROWS:
            known = known[np.arange(MOST_ROWS) * len(known) // MOST_ROWS]
        size = np.abs(label[known] - predicted[known])
        wanted, values = np.stack([size, size**2], axis=1), values[known]
        out = np.arange(len(known)) % _EACH == _EACH - 1
        trees = learn(values, wanted)
        raw, there = (
            np.maximum(learn(values[~out], wanted[~out]).apply(values[out]), 0.0),
            wanted[out],
        )
        groups = min(GROUPS, len(raw) // _GROUP_ROWS)
        order = np.sort(raw[:, 1])
        edges = np.unique(order[np.arange(1, groups) * len(order) // groups])
        group = np.searchsorted(edges, raw[:, 1], "right")
        spread = np.zeros((GROUPS, 2))
        for g in np.unique(group).tolist():
            off = there[group == g] - raw[group == g]
            by_chance = off.var(axis=0) / len(off)
            more = np.maximum(off.mean(axis=0) ** 2 - by_chance, 0.0)
            spread[g] = by_chance / _EACH + more  # of all rows, so many times as many
        squares = float((raw[:, 1] ** 2).mean())
        tail = float((there[:, 1] ** 2).mean()) / squares if squares > 0 else 1.0
        most, tail = np.maximum(trees.apply(values), 0.0).max(axis=0), max(tail, 1.0)
        return cls(trees, edges, spread, most, tail, features.shape[1])

    def losses(self, predicted: Floats, features: Floats) -> Floats:
        """Return the (n, 2) size and square of the error as the trees have them, for `count_losses` and `expected`.

        Raises
        ------
        ValueError
            `features` has another shape than (n, `features`).
        """
        values = _values(predicted, features)
        if features.shape[1] != self.features:
            raise ValueError(
                f"found {features.shape[1]} features, expected the {self.features} of the reference"
            )
        return self.trees.apply(values)

    def expected(self, losses: Floats) -> Floats:
        """Return the (n, 2) expected size and square of the error of (n, 2) `losses`; NaN where these are."""
        found = np.empty((len(losses), 2))
        _expect(losses, self.edges, self.most, found)
        return found

    @property
    def units(self) -> Floats:
        """(4,) what one is worth in a table's sums of size, square, variance of the size and squared square."""
        size, square = self.most.tolist()
        return np.array([size, square, square, square**2]) * UNIT

    def snapshot(self) -> bytes:
        """Return the model as bytes: 40 kB at most, 13 without features."""
        feature, threshold, leaf, base = self.trees
        arrays = {
            "feature": feature, "threshold": threshold, "leaf": leaf, "base": base,
            "edges": self.edges, "spread": self.spread, "most": self.most,
        }  # fmt: skip
        return pack(
            "loss_estimate", _VERSION, {"tail": self.tail, "features": self.features}, arrays
        )

    @classmethod
    def restored(cls, state: bytes) -> LossModel:
        """Return the model of which these bytes are the snapshot.

        Raises
        ------
        StateError
            The bytes are damaged, from another version, or hold no such model.
        """
        meta, a = unpack("loss_estimate", _VERSION, state)
        with reading("loss_estimate"):
            count, floats = min(len(a["feature"]), MOST_TREES), np.dtype(np.float64)
            depth = min(a["feature"].shape[1], DEPTH)
            check(a["feature"], "loss_estimate feature", (count, depth), np.dtype(np.int64))
            shapes = {
                "threshold": (count, depth), "leaf": (count, 1 << depth, 2), "base": (2,),
                "edges": (min(len(a["edges"]), GROUPS - 1),), "spread": (GROUPS, 2), "most": (2,),
            }  # fmt: skip
            for name, shape in shapes.items():
                check(a[name], f"loss_estimate {name}", shape, floats)
            tail, features = float(meta["tail"]), int(meta["features"])
            if not ((a["feature"] >= 0) & (a["feature"] <= features)).all():
                raise ValueError("trees ask about features that are not there")
            trees = Trees(a["feature"], a["threshold"], a["leaf"], a["base"])
            return cls(trees, a["edges"], a["spread"], a["most"], tail, features)


def count(
    table: Ints, cells: Ints, predicted: Floats, features: Floats, model: LossModel, sign: int
) -> None:
    """Add n events to a table, or take them away.

    Parameters
    ----------
    table
        (cells, WIDTH) int64, what is changed. A row has room for 8 million events.
    cells
        (n,) int64, which row of the table each event belongs to; below 0 for none.
    predicted
        (n,) numbers; an event without one, or with one beyond 1e70, is not counted.
    features
        (n, f) numbers, as many as in the reference; NaN where one is missing.
    model
        What was learned; the same one for all of a table.
    sign
        1, or -1 to take away what was added before.

    Raises
    ------
    ValueError
        `features` has another shape.
    """
    count_losses(table, cells, predicted, model.losses(predicted, features), model, sign)


def count_losses(
    table: Ints, cells: Ints, predicted: Floats, losses: Floats, model: LossModel, sign: int
) -> None:
    """Do as `count` does, with the (n, 2) `losses` of the model; an event where these are NaN is not counted."""
    _count(table, cells, predicted, losses, model.edges, model.most, model.units, sign)


def _values(predicted: Floats, features: Floats) -> Floats:
    if features.ndim != 2 or len(features) != len(predicted):
        raise ValueError(
            f"found features of shape {features.shape} for {len(predicted)} predictions, expected "
            f"({len(predicted)}, features)"
        )
    return np.ascontiguousarray(np.column_stack([predicted, features]), np.float64)


@compiled
def _one(size: float, square: float, edges: Floats, most: Floats) -> tuple[int, float, float]:
    """Return an event's group and the size and square of its error, within what the reference has."""
    g = 0
    while g < len(edges) and square >= edges[g]:
        g += 1
    return g, min(max(size, 0.0), most[0]), min(max(square, 0.0), most[1])


@compiled
def _expect(losses: Floats, edges: Floats, most: Floats, found: Floats) -> None:
    for i in range(len(losses)):
        if np.isnan(losses[i, 1]):
            found[i, 0], found[i, 1] = np.nan, np.nan
        else:
            _, found[i, 0], found[i, 1] = _one(losses[i, 0], losses[i, 1], edges, most)


@compiled
def _count(
    table: Ints, cells: Ints, predicted: Floats, losses: Floats, edges: Floats,
    most: Floats, units: Floats, sign: int,
) -> None:  # fmt: skip
    for i in range(len(cells)):
        k = cells[i]
        if k < 0 or not abs(predicted[i]) <= LARGEST or np.isnan(losses[i, 1]):
            continue
        g, size, square = _one(losses[i, 0], losses[i, 1], edges, most)
        sums = (size, square, max(square - size * size, 0.0), square * square)
        table[k, _COUNT] += sign
        for j in range(4):
            if units[j] > 0.0:
                table[k, _ABSOLUTE + j] += sign * np.int64(np.rint(sums[j] / units[j]))
        table[k, _IN_GROUP + g] += sign


def estimates(row: Ints, model: LossModel) -> dict[str, Metric]:
    """Return what `mae`, `mse` and `rmse` of one row's events are expected to be; none without events.

    The interval, at 95 %, is of the *realised* value, by the central limit theorem: errors vary by chance, the square by
    (tail - 1) times its squared mean, and what is expected was learned from a sample.
    """
    if not row[_COUNT]:
        return {}
    means, doubts, share = _means(row, model)
    mae, mse = means.tolist()
    halves = [Z * math.sqrt(d) for d in (doubts + share**2 @ model.spread).tolist()]
    low, high = max(mse - halves[1], 0.0), mse + halves[1]
    return {
        "mae": Metric(mae, max(mae - halves[0], 0.0), mae + halves[0]),
        "mse": Metric(mse, low, high),
        "rmse": Metric(math.sqrt(mse), math.sqrt(low), math.sqrt(high)),
    }


def differences(a: Ints, b: Ints, model: LossModel) -> dict[str, Metric]:
    """Return what `mae` and `rmse` of one row less those of another are expected to be, with intervals as `estimates` has them.

    Errors come by chance in each row for themselves. What was learned is the same for both: what it is off by moves both, and of
    that only the difference counts. None where a row has no events; of an error that is expected to be 0 `rmse` is not known.
    """
    if not (a[_COUNT] and b[_COUNT]):
        return {}
    (ours, our_doubts, our_share), (theirs, their_doubts, their_share) = (
        _means(row, model) for row in (a, b)
    )
    found = {}
    for k, name in enumerate(("mae", "rmse")):
        values, slopes = [float(ours[k]), float(theirs[k])], [1.0, 1.0]
        if name == "rmse":
            if not min(values) > 0:
                continue
            values = [math.sqrt(value) for value in values]
            slopes = [0.5 / value for value in values]
        moved = slopes[0] * our_share - slopes[1] * their_share
        variance = slopes[0] ** 2 * our_doubts[k] + slopes[1] ** 2 * their_doubts[k]
        half = Z * math.sqrt(float(variance + moved**2 @ model.spread[:, k]))
        value = values[0] - values[1]
        found[name] = Metric(value, value - half, value + half)
    return found


def _means(row: Ints, model: LossModel) -> tuple[Floats, Floats, Floats]:
    """Return (2,) the expected size and square of an error of a row's events, the variances of both by chance, and (GROUPS,) the groups' shares."""
    n = int(row[_COUNT])
    sums = row[_ABSOLUTE:_IN_GROUP] * model.units
    doubts = np.array([sums[2], (model.tail - 1) * sums[3]]) / n**2
    return sums[:2] / n, doubts, row[_IN_GROUP:WIDTH] / n
