"""What an e-detector begins with: its rules, the state of a new stream, and the cells that its reference gives it."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats
from . import bets
from . import e_detector_kernel as kernel
from .categories import KNOWN, known_categories
from .e_detector_kernel import BITS, CATEGORIES, NUMBERS, Rules
from .reference import Reference

Arrays: TypeAlias = dict[str, NDArray[Any]]

_INNER: Final = 10  # windows between two false absorptions: one costs a tenth of the closings
_PATIENCE: Final = 10  # windows after which an open stream is closed as unsettled
_GATE: Final = 3
"""Windows: a change within the tolerance wins so much by chance once in so many values."""
_ERRORS: Final = 1.25  # standard errors by which the halves of a window at rest may differ (chosen)

LEARNT: Final = np.array(
    [*np.zeros(bets.COARSE + 1), 1.0, 0.0, 0.0]
)  # nothing, but the weight of the next value
NEW: Final[dict[str, Any]] = {
    "key": np.uint64(0), "kind": 0, "phase": 0, "edges": np.full(KNOWN, np.nan),
    "counts": np.zeros(bets.CELLS), "groups": np.zeros(bets.CELLS // 8), "size": 0.0,
    "ring": np.zeros(kernel.RING, np.uint8), "recent": np.full(kernel.RECENT, np.nan), "seen": 0,
    "begin": 0, "opened": -1, "still": 0, "rested": -1, "blocks": np.full(64, np.nan), "block": 0.0,
    "moments": np.zeros((kernel.MOMENTS, 2)), "moment": np.zeros(2), "learnt": LEARNT,
    "stake": 0.0, "down": 0.5, "fixed": False, "lanes": 1, "bets": 0, "apart": False, "lane": 0, "center": 0.0, "sigma": 0.0,
    "before": np.zeros(bets.CELLS), "before_size": 0.0, "seen_before": 0, "changed": 0, "latest": np.zeros((len(bets.WINDOWS), bets.CELLS), np.int16), "idle": 0, "since": 0,
}  # fmt: skip
_PARTLY: Final = (("before", "phase", 1), ("latest", "kind", CATEGORIES))
"""What a snapshot holds of some streams only, those of which a column has a value; of others nobody asks."""


def rules(
    tolerance: float,
    rate_tolerance: float,
    window: int,
    warm: int,
    reference: Reference,
    *,
    fixed: bool,
) -> Rules:
    """Return the rules of `e_detector.EDetector`'s parameters."""
    table, slack = bets.table(), reference.distance(trained_only=not fixed)
    drawn, step = reference.drawn(trained_only=not fixed)
    slopes, bends = bets.slopes_and_bends(tolerance)
    return Rules(
        table=np.vstack([table, table * bets.fixed_reference(slack)]),
        scores=bets.scores(),
        weights=bets.weights(),
        deflation=bets.deflation(tolerance),
        odds=bets.odds(),
        slopes=slopes,
        bends=bends,
        windows=bets.WINDOWS,
        unseen=bets.UNSEEN_RATES,
        rate=float(np.log(2.0 / reference.confidence)) / drawn,
        step=step,
        doubt=float(np.log((bets.CELLS + 1) / reference.confidence)),
        gate=float(_GATE * window) if tolerance or rate_tolerance else 0.0,
        tolerance=tolerance,
        rate_tolerance=rate_tolerance,
        warm=float(warm),
        window=window,
        errors=_ERRORS,
        inner=float(_INNER * window),
        patience=_PATIENCE * window,
    )


def begin(s: Arrays, k: int, reference: Reference, name: str, *, is_category: bool) -> None:
    """Say what kind stream k is, and give it its cells.

    Cells that were made from a sample fit it too well to be a reference as well: numbers and categories have their
    counts from it only where the reference is fixed.
    """
    sample, is_fixed = reference.sample(name), bool(s["fixed"][k])
    if is_category:
        s["kind"][k] = CATEGORIES
        if is_fixed:
            counted = reference.categories(name)
            s["edges"][k] = counted[0, :KNOWN]
            _count(s, k, counted[1])
        else:
            s["edges"][k] = known_categories(sample)
        return
    s["center"][k], s["sigma"][k] = reference.mean_and_deviation(name)
    if reference.is_binary(name):
        s["kind"][k] = BITS
        _count(s, k, np.bincount(sample.astype(np.int64), minlength=bets.CELLS))
        return
    s["kind"][k] = NUMBERS
    s["edges"][k] = edges(sample)
    if is_fixed:
        _count(s, k, np.bincount(np.searchsorted(s["edges"][k], sample), minlength=bets.CELLS))


def _count(s: Arrays, k: int, counts: NDArray[Any]) -> None:
    s["counts"][k] = counts
    s["groups"][k] = s["counts"][k].reshape(8, 8).sum(axis=1)
    s["size"][k] = s["counts"][k].sum()


def edges(sample: Floats) -> Floats:
    """Return (63,) upper edges of cells that hold about equal shares of (n,) values.

    A value that fills a cell by itself gets one: what is less than it and what is more fall beside it.
    """
    found = np.quantile(sample, np.arange(1, bets.CELLS) / bets.CELLS, method="lower")
    repeated = np.append(found[1:] == found[:-1], False)
    first = repeated & ~np.append(False, repeated[:-1])
    found[first] = np.nextafter(found[first], -np.inf)
    return np.asarray(found)


def packed(arrays: Arrays) -> Arrays:
    """Return the columns of streams without what nobody asks for."""
    return arrays | {name: arrays[name][arrays[of] == value] for name, of, value in _PARTLY}


def unpacked(arrays: Arrays) -> Arrays:
    """Return the columns of which `packed` has left parts."""
    found = dict(arrays)
    for name, of, value in _PARTLY:
        found[name] = np.zeros((len(arrays[of]), *NEW[name].shape), NEW[name].dtype)
        found[name][arrays[of] == value] = arrays[name]
    return found
