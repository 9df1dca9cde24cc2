"""Events from a rise of a model's error rate to its detection, at a rate of false alarms measured in the same run.

Zeros and ones: 0.1 of them are errors, from event 5,000 on 0.2 or 0.3; on stationary runs every alarm is false. The
e-detector has a budget of one false alarm in 250,000 events, of which it spends little more than half on bits, and is told
that rises matter. Beside it stand
River's ADWIN, Page-Hinkley and HDDM_A at their defaults; false alarms of the first two are those of the compiled
ones, flag for flag the same (`bench parity`), those of HDDM_A are counted on a part of the events.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from river import drift

from tocsin.core.columns import Floats
from tocsin.detectors.adwin import Adwin
from tocsin.detectors.base import Observations
from tocsin.detectors.e_detector import EDetector
from tocsin.detectors.page_hinkley import PageHinkley

from .common import Figures
from .delay import CHANGE, alarms, delay, report

BUDGET: Final = 2.5e5
BETWEEN: Final = 3e5  # events between false alarms, at the least
BEFORE: Final = 0.1
AFTER: Final = {0.15: None, 0.2: 190, 0.3: 65}
"""Rate after the change to the largest median delay."""
STREAM: Final = "error"
_LATER: Final = 6_000  # events after the change within which it must be found
_RUN: Final = 1_000_000  # events of one stationary run
_SLOW_RUNS: Final = 4  # HDDM_A takes 2 us an event

RIVER: Final[dict[str, Callable[[], Any]]] = {
    "ADWIN": drift.ADWIN, "Page-Hinkley": drift.PageHinkley, "HDDM_A": drift.binary.HDDMA,
}  # fmt: skip


def e_detector() -> EDetector:
    return EDetector(BUDGET, rising=frozenset({STREAM}))


def fired(make: Callable[[], Any], bits: Floats) -> Iterator[int]:
    """Yield the rows at which a River object fires."""
    detector = make()
    for row, bit in enumerate((bits > 0).tolist()):
        detector.update(bit)
        if detector.drift_detected:
            yield row


def errors(key: list[int], rates: Floats) -> Floats:
    """Return (n,) errors at (n,) rates."""
    return (np.random.default_rng(key).random(len(rates)) < rates).astype(np.float64)


def false_alarms(seed: int, runs: int) -> dict[str, tuple[int, int]]:
    """Return events and alarms of each detector on stationary runs."""
    found = dict.fromkeys(("e-detector", *RIVER), 0)
    rates = np.full(_RUN, BEFORE)
    for run in range(runs):
        bits = errors([seed, 0, run], rates)
        batch = Observations(
            names=(STREAM,), values=bits.reshape(-1, 1), offsets=np.arange(_RUN),
            rows=np.full(_RUN, run),
        )  # fmt: skip
        found["e-detector"] += sum(v.phase == "opened" for v in e_detector().update(batch))
        found["ADWIN"] += len(Adwin().update(batch))
        found["Page-Hinkley"] += len(PageHinkley().update(batch))
        if run < _SLOW_RUNS:
            found["HDDM_A"] += sum(1 for _ in fired(drift.binary.HDDMA, bits))
    return {
        name: ((min(runs, _SLOW_RUNS) if name == "HDDM_A" else runs) * _RUN, count)
        for name, count in found.items()
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--runs", type=int, default=1500, help="with a change, of each kind")
    arguments.add_argument("--stationary", type=int, default=45, help="runs of 1e6 events each")
    options = arguments.parse_args()
    figures = Figures("errors")
    for name, (events, count) in false_alarms(options.seed, options.stationary).items():
        figures.report(f"{name}, false alarms in {events:,} events", count)
        # None at all: there are so many events between two of them at the least.
        least = BETWEEN if name == "e-detector" else None
        figures.report(f"{name}, events between false alarms", events / max(count, 1), least=least)
    for rate, most in AFTER.items():
        rates = np.repeat([BEFORE, rate], [CHANGE, _LATER])
        runs = [errors([options.seed, int(rate * 100), k], rates) for k in range(options.runs)]
        found = [delay(alarms(e_detector(), bits, k, STREAM)) for k, bits in enumerate(runs)]
        report(figures, f"{BEFORE} -> {rate}, e-detector", found, most)
        for name, make in RIVER.items():
            found = [delay(fired(make, bits)) for bits in runs]
            report(figures, f"{BEFORE} -> {rate}, {name}", found, None)
    figures.exit()


if __name__ == "__main__":
    main()
