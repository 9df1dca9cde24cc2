"""Detectors on streams with known drifts: their alarms, those of River's ADWIN and of an oracle, and the scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from tocsin.detectors.base import Observations
from tocsin.detectors.evaluation import Score, score
from tocsin.detectors.registry import make_detector

from .common_streams import Floats, Stream

TOLERANCE: Final = 1_000
"""Rows after a drift within which an alarm still is about it; the Harvard files' transition width."""


def alarms(detector: str, values: Floats, stream: str = "error") -> list[int]:
    """Run a detector of the registry over (n,) values or (n, k); return the rows of its alarms."""
    matrix = values.reshape(len(values), -1)
    names = (
        (stream,)
        if matrix.shape[1] == 1
        else tuple(f"{stream}:{k}" for k in range(matrix.shape[1]))
    )
    found = make_detector(detector).update(Observations.of(matrix, names))
    return [verdict.offset for verdict in found if verdict.phase == "opened"]


def river_adwin(values: Floats) -> list[int]:
    """Run River's own ADWIN, with its defaults, over (n,) values; return the rows of its alarms."""
    from river import drift

    adwin = drift.ADWIN()  # type: ignore[no-untyped-call]
    found = []
    for row, value in enumerate(values.tolist()):
        adwin.update(value)
        if adwin.drift_detected:
            found.append(row)
    return found


def scored(stream: Stream, rows: Iterable[int]) -> Score:
    """Return the figures of alarms on a stream."""
    return score(rows, stream.changes, len(stream.errors), TOLERANCE)


def cusum(bits: Floats, before: float, after: float, threshold: float) -> int:
    """Return the row at which a CUSUM that knows both rates of (n,) bits fires; n where it does not.

    References
    ----------
    Page 1954, "Continuous inspection schemes", Biometrika 41, 100-115 (doi:10.1093/biomet/41.1-2.100);
    optimal among all with its false-alarm rate: Moustakides 1986 (doi:10.1214/aos/1176350164).
    """
    steps = np.where(bits > 0, np.log(after / before), np.log((1 - after) / (1 - before)))
    path = np.concatenate([[0.0], np.cumsum(steps)])
    # S_t - min(S_0..S_t-1): Page's recursion max(c, 0) + step, written out.
    height = path[1:] - np.minimum.accumulate(path[:-1])
    above = np.flatnonzero(height >= threshold)
    return int(above[0]) if len(above) else len(bits)


def oracle(stream: Stream, budget_events: float) -> list[int]:
    """Return the alarms of a CUSUM that is told each change that matters and both its rates.

    It starts at the change, has threshold ln(budget) and never raises a false alarm, nor a late one: a bound
    for any detector with that budget.
    """
    rates = np.clip(stream.rates, 1e-3, 1 - 1e-3)
    found = []
    for i, change in enumerate(stream.changes):
        if change.optional:
            continue
        bits = stream.errors[change.start :]
        waited = cusum(bits, rates[i], rates[i + 1], float(np.log(budget_events)))
        if waited <= change.width + TOLERANCE:
            found.append(change.start + waited)
    return found
