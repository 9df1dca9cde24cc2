"""Whether the compiled ADWIN and Page-Hinkley are River's, flag for flag, and how much faster they are.

Flags: ten kinds of streams, each under eight sets of parameters of either detector, as columns of one bank
and cut into batches at random, beside a River object a column. An ADWIN flag counts as the same only where
the window that is left is as long as River's. `--seed` gives other streams and other cuts.

Speed: N(0,1), 20 columns, default parameters; ours in batches of 1,000 rows, verdicts included; River in
a loop with nothing in it but the update and a look at the flag. Processor time; ratios are medians of the
rounds' ratios, in which the two take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from river import drift

from tocsin.detectors.adwin import Adwin
from tocsin.detectors.base import Detector, Observations
from tocsin.detectors.page_hinkley import PageHinkley

from .common import Figures

Floats = NDArray[np.float64]

ROWS: Final = 60_000  # of each stream under each set: 4.8 million steps of either detector
LARGEST_BATCH: Final = 2_000
SPEED_ROWS, SPEED_COLUMNS, SPEED_BATCH = 30_000, 20, 1_000
ROUNDS: Final = 9

ADWIN: Final[list[dict[str, Any]]] = [
    {},
    {"delta": 0.05},
    {"clock": 1},
    {"clock": 1, "delta": 0.05},
    {"max_buckets": 2, "delta": 0.05},
    {"max_buckets": 20, "clock": 8},
    {"min_window_length": 30, "grace_period": 200},
    {"min_window_length": 1, "grace_period": 0, "clock": 5, "delta": 0.3},
]
PAGE_HINKLEY: Final[list[dict[str, Any]]] = [
    {},
    {"mode": "up"},
    {"mode": "down"},
    {"alpha": 1.0, "delta": 0.15, "threshold": 60.0},
    {"alpha": 0.99, "threshold": 10.0},
    {"delta": 0.0, "threshold": 5.0, "min_instances": 1},
    {"delta": 0.5, "threshold": 8.0, "mode": "up"},
    {"alpha": 0.9, "delta": 0.05, "threshold": 3.0, "min_instances": 200},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the streams and the cuts")
    seed: int = parser.parse_args().seed
    figures = Figures("parity")
    resets = 0
    for name, ours, river, sets, least in (
        ("adwin", Adwin, drift.ADWIN, ADWIN, 4_000_000),
        ("page_hinkley", PageHinkley, drift.PageHinkley, PAGE_HINKLEY, 1_400_000),
    ):
        steps, found, differing = flags(ours, river, sets, seed)
        resets += found
        figures.report(f"{name}_steps", steps, least=least)
        figures.report(f"{name}_resets", found)
        figures.report(f"{name}_differing_flags", differing, most=0)
    figures.report("resets", resets, least=3_000)
    for name, ours, river, bar in (
        ("adwin", Adwin, drift.ADWIN, 6.0),
        ("page_hinkley", PageHinkley, drift.PageHinkley, 60.0),
    ):
        mine, rivers = speed(ours, river, seed)
        figures.report(f"{name}_ns_per_update", statistics.median(mine))
        figures.report(f"river_{name}_ns_per_update", statistics.median(rivers))
        ratio = statistics.median(b / a for a, b in zip(mine, rivers, strict=True))
        figures.report(f"river_over_{name}", ratio, least=bar)
    figures.exit()


def streams(rng: np.random.Generator, rows: int) -> dict[str, Floats]:
    """Return (rows,) values by the name of their law."""
    normal = rng.normal(size=rows)
    pieces = rows // 500 + 1

    def levels(values: Floats) -> Floats:
        """Spread (pieces,) values over the rows, each over some hundreds."""
        lengths = rng.integers(100, 900, pieces)
        return np.repeat(values, lengths * (rows // lengths.sum() + 1))[:rows]

    bits = rng.random((3, rows))
    return {
        "normal": normal,
        "log-normal": np.exp(1.5 * rng.normal(size=rows)),
        "bernoulli": (bits[0] < 0.1).astype(np.float64),
        "rare bernoulli": (bits[1] < 0.01).astype(np.float64),
        "far from zero": 1e9 + rng.normal(size=rows),
        "steps": rng.normal(size=rows) + levels(rng.normal(0, 1, pieces)),
        "ramps": rng.normal(size=rows) + 3 * (np.arange(rows) % 5_000) / 5_000,
        "random walk": np.cumsum(0.02 * rng.normal(size=rows)) + normal,
        "bernoulli steps": (bits[2] < levels(rng.random(pieces))).astype(np.float64),
        "log-normal steps": np.exp(rng.normal(size=rows) + levels(rng.normal(0, 1, pieces))),
    }


def flags(
    ours: Callable[..., Detector],
    river: Callable[..., Any],
    sets: list[dict[str, Any]],
    seed: int,
) -> tuple[int, int, int]:
    """Return steps, detections of River, and detections that only one of the two made."""
    steps = found = differing = 0
    for number, parameters in enumerate(sets):
        rng = np.random.default_rng([seed, number])
        columns = streams(rng, ROWS)
        names, values = tuple(columns), np.column_stack(list(columns.values()))
        bank = ours(**parameters)
        windows = isinstance(bank, Adwin)
        mine = {
            (begin + v.offset, v.subject, v.delay_events if windows else 0)
            for begin, rows in batches(values, names, rng)
            for v in bank.update(rows)
        }
        theirs = {
            (row, name, width)
            for name, column in columns.items()
            for row, width in detections(river(**parameters), column.tolist())
        }
        steps += values.size
        found += len(theirs)
        differing += len(mine ^ theirs)
    return steps, found, differing


def batches(
    values: Floats, names: tuple[str, ...], rng: np.random.Generator
) -> Iterator[tuple[int, Observations]]:
    """Yield the values, and where they begin, cut at random."""
    begin = 0
    while begin < len(values):
        size = int(rng.integers(1, LARGEST_BATCH))
        yield begin, Observations.of(values[begin : begin + size], names)
        begin += size


def detections(detector: Any, values: list[float]) -> Iterator[tuple[int, int]]:
    """Yield where a River object fires, and how long its window is then, 0 where it has none."""
    for row, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected:
            yield row, getattr(detector, "width", 0)


def speed(
    ours: Callable[[], Detector], river: Callable[[], Any], seed: int
) -> tuple[list[float], list[float]]:
    """Return nanoseconds per update of ours and of River's, round by round."""
    values = np.random.default_rng(seed).normal(size=(SPEED_ROWS, SPEED_COLUMNS))
    columns = [column.tolist() for column in values.T]
    parts = [
        Observations.of(values[begin : begin + SPEED_BATCH])
        for begin in range(0, SPEED_ROWS, SPEED_BATCH)
    ]
    mine, rivers = [], []
    for _ in range(ROUNDS):
        bank = ours()
        began = time.process_time()
        for part in parts:
            bank.update(part)
        mine.append((time.process_time() - began) / values.size * 1e9)
        rivers.append(river_seconds(river, columns) / values.size * 1e9)
    return mine, rivers


def river_seconds(make: Callable[[], Any], columns: list[list[float]]) -> float:
    """Return the processor time of River's loop."""
    found = 0
    began = time.process_time()
    for column in columns:
        detector = make()
        update = detector.update
        for value in column:
            update(value)
            if detector.drift_detected:
                found += 1
    return time.process_time() - began


if __name__ == "__main__":
    main()
