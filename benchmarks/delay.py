"""Values from a change to its detection at a stated false-alarm budget, beside River's ADWIN on the same streams.

A stream of N(0,1) changes after 5,000 values; the budget is one false alarm in A events over 20 streams together. A
stream alone with a budget of 20 A stakes on each value what one of 20 does, so it stands for them. At A = 83,333
the e-detector has the rate of false alarms that ADWIN has on 20 such streams (7 in a million events, `bench
false-alarms`). A change that is not found within 6,000 values is missed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from tocsin.core.columns import Floats
from tocsin.detectors.base import Observations
from tocsin.detectors.e_detector import EDetector

from .common import Figures
from .common_detection import river_adwin

CHANGE: Final = 5_000
_AFTER: Final = 6_000
STREAMS: Final = 20
BUDGET: Final = 1e6
ADWIN_RATE: Final = 83_333
TOLERANCE: Final = 0.1  # reference sigmas, as the product has it by default

CHANGES: Final[dict[str, tuple[float, float, float | None, float | None]]] = {
    "1 sigma": (1.0, 1.0, 36, 31),
    "0.5 sigma": (0.5, 1.0, 125, 104),
    "0.25 sigma": (0.25, 1.0, 460, 375),
    "scale x1.5": (0.0, 1.5, 105, None),
    "scale x2": (0.0, 2.0, None, None),
}
"""Shift, factor of the scale, and the largest median delay at `BUDGET` and at `ADWIN_RATE`."""


def delay(rows: Iterable[int]) -> float:
    """Return how many values after the change the first of an ascending series of alarms came; infinity for none."""
    return next((row + 1.0 - CHANGE for row in rows if row >= CHANGE), np.inf)


def streams(seed: int, place: int, shift: float, scale: float, runs: int) -> Iterable[Floats]:
    """Yield (11,000,) values of each run."""
    for run in range(runs):
        values = np.random.default_rng([seed, place, run]).normal(size=CHANGE + _AFTER)
        values[CHANGE:] = values[CHANGE:] * scale + shift
        yield values


def alarms(detector: EDetector, values: Floats, run: int, name: str = "stream") -> list[int]:
    """Return the rows at which an e-detector says that one stream has changed; ties are broken anew in each run.

    With a false alarm open, it says that of the true change as `moved`.
    """
    place = np.arange(len(values))
    batch = Observations(
        names=(name,), values=values.reshape(-1, 1), offsets=place, rows=np.full(len(place), run)
    )
    return [verdict.offset for verdict in detector.update(batch) if verdict.phase != "settled"]


def report(figures: Figures, label: str, delays: list[float], most: float | None, *, all_found: bool = False) -> None:  # fmt: skip
    """Report the median, the 90 % quantile and the share of missed changes."""
    middle, late = np.quantile(delays, (0.5, 0.9), method="higher")
    missed = float(np.isinf(delays).mean())
    if np.isfinite(middle) or most is not None:
        figures.report(f"{label}, median", min(middle, 1e9), most=most)
    if np.isfinite(late):
        figures.report(f"{label}, 90 %", late)
    figures.report(f"{label}, missed", missed, most=0 if all_found else None)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--runs", type=int, default=4000, help="of each change")
    options = arguments.parse_args()
    figures = Figures("delay")
    makes: dict[str, Callable[[], EDetector]] = {
        "A = 1e6": lambda: EDetector(STREAMS * BUDGET),
        "A = 83,333": lambda: EDetector(STREAMS * ADWIN_RATE),
        f"A = 1e6, tolerance {TOLERANCE}": lambda: EDetector(STREAMS * BUDGET, tolerance=TOLERANCE),
    }
    for place, (change, (shift, scale, most, most_at_adwins)) in enumerate(CHANGES.items()):
        runs = list(streams(options.seed, place, shift, scale, options.runs))
        bars = (most, most_at_adwins, None)
        for (label, make), bar in zip(makes.items(), bars, strict=True):
            found = [delay(alarms(make(), values, run)) for run, values in enumerate(runs)]
            report(figures, f"{change}, {label}", found, bar, all_found=bar is not None)
        report(figures, f"{change}, ADWIN", [delay(river_adwin(v)) for v in runs], None)
    figures.exit()


if __name__ == "__main__":
    main()
