"""A regression's errors estimated by chunk, and what they were: the synthetic car prices that come with NannyML."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow.csv

from tocsin.consumers.class_numbers import ClassNumbers
from tocsin.consumers.trained_estimates import Codes
from tocsin.core.columns import Floats, Ints, Strings
from tocsin.detectors import loss_estimate
from tocsin.detectors.binary_metrics import Metric
from tocsin.detectors.loss_estimate import LossModel

FEATURES: Final = ("car_age", "km_driven", "price_new", "accident_count", "door_count")
TEXTS: Final = ("fuel", "transmission")
BARS: Final = {"mae": 0.5, "rmse": 0.5}
"""Mean absolute error over chunks, at most so much of that of assuming that nothing had changed; of what comes after the reference."""
WAYS: Final = ("forward", "backward", "from_shifted")
"""Learned from the reference, from all later rows, from the later half of these, in which prices have moved; the others are estimated.

What is in `LossModel` was chosen on other data, see `bench losses`.
"""
_ROUNDS: Final = 5


def columns(folder: Path, part: str) -> dict[str, Floats]:
    """Return the columns of one of the files, texts as `ClassNumbers` has them."""
    table = pyarrow.csv.read_csv(folder / f"regression_synthetic_{part}.csv")
    found = {
        name: table[name].to_numpy().astype(np.float64)
        for name in ("y_true", "y_pred", *FEATURES)
        if name in table.column_names
    }
    for name in TEXTS:
        if name in table.column_names:
            found[name] = ClassNumbers().of_text(Strings.of(table[name].to_pylist()))
    return found


class Losses(NamedTuple):
    """By metric the estimates of each chunk, what came, and what there was where it was learned; and nanoseconds a row."""

    estimates: dict[str, list[Metric]]
    came: dict[str, Floats]
    before: dict[str, float]
    nanoseconds: float


def losses(folder: Path, chunk: int, way: str) -> Losses:
    """Learn from one part of the rows, one of `WAYS`, and estimate the others in chunks."""
    first, later = columns(folder, "reference"), columns(folder, "analysis")
    later["y_true"] = columns(folder, "analysis_targets")["y_true"]
    known, other = (first, later) if way == "forward" else (later, first)
    if way == "from_shifted":
        known = {name: column[len(column) // 2 :] for name, column in known.items()}
    size = np.abs(known["y_true"] - known["y_pred"])
    codes = {name: Codes.learn(known[name], size) for name in TEXTS}
    known, other = (
        {**of, **{name: codes[name].of(of[name]) for name in TEXTS}} for of in (known, other)
    )
    model = LossModel.fit(known["y_pred"], _features(known), known["y_true"])
    error = other["y_true"] - other["y_pred"]
    cells = np.arange(len(error)) // chunk
    taken, found = [], []
    for _ in range(_ROUNDS):
        table = np.zeros((int(cells.max()) + 1, loss_estimate.WIDTH), np.int64)
        began = time.process_time()
        loss_estimate.count(table, cells, other["y_pred"], _features(other), model, 1)
        found = [loss_estimate.estimates(row, model) for row in table]
        taken.append(time.process_time() - began)
    came = _realised(error, cells)
    same = _realised(known["y_true"] - known["y_pred"], np.zeros(len(known["y_pred"]), np.int64))
    return Losses(
        {name: [of[name] for of in found] for name in came}, came,
        {name: float(of[0]) for name, of in same.items()}, min(taken) / len(error) * 1e9,
    )  # fmt: skip


def _features(of: dict[str, Floats]) -> Floats:
    return np.stack([of[name] for name in (*FEATURES, *TEXTS)], axis=1)


def _realised(error: Floats, cells: Ints) -> dict[str, Floats]:
    rows = np.bincount(cells)
    square = np.bincount(cells, error**2) / rows
    return {"mae": np.bincount(cells, np.abs(error)) / rows, "mse": square, "rmse": np.sqrt(square)}
