"""False alarms on streams that depend on their past, with the lag found by the guard, beside River's ADWIN.

AR(1) streams of variance 1, 20 at a time; budget one false alarm in 10,000 events over all of them, so that 20 are
allowed in 200,000 events, and 32 is the 99 % Poisson bound. What runs is what the product runs: the guard, and
the e-detector as the guard lets it bet. It would be silent if it did not bet, so how many streams it bets on
stands beside, and how soon it finds that they all shift by one sigma (at a budget of 1e6, so that few false alarms
come in between). ADWIN has River's defaults (compiled, flag for flag the same); the e-detector without the guard
shows what it is there for.
"""

from __future__ import annotations

import argparse
from typing import Final

import numpy as np
from scipy.signal import lfilter

from tocsin.core.columns import Floats
from tocsin.detectors.adwin import Adwin
from tocsin.detectors.base import Detector, Observations
from tocsin.detectors.e_detector import EDetector
from tocsin.detectors.guarded import GuardedEDetector

from .common import Figures

BUDGET: Final = 1e4
MOST: Final = 32
STREAMS: Final = 20
ROWS: Final = 200_000
_SHIFTED: Final = 20_000  # the row from which streams are shifted, where they are
_UNTIL: Final = 30_000
_SHIFTED_BUDGET: Final = 1e6
_BURN_IN: Final = 1_000


def autoregressive(key: list[int], rho: float, rows: int) -> Floats:
    """Return (rows, 20) values of x_t = rho x_(t-1) + e_t with variance 1."""
    noise = np.random.default_rng(key).normal(size=(rows + _BURN_IN, STREAMS))
    values = lfilter([np.sqrt(1 - rho**2)], [1, -rho], noise, axis=0)
    return np.ascontiguousarray(values[_BURN_IN:])


def guarded(budget: float) -> GuardedEDetector:
    return GuardedEDetector(EDetector(budget, waits=True))


def alarms(detector: Detector, values: Floats, seed: int) -> list[tuple[int, str]]:
    """Return row and stream of each alarm."""
    place = np.arange(len(values))
    batch = Observations(
        names=tuple(f"stream:{k}" for k in range(STREAMS)), values=values, offsets=place,
        rows=np.full(len(values), seed),
    )  # fmt: skip
    return [(v.offset, v.subject) for v in detector.update(batch) if v.phase == "opened"]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=0)
    seed: int = arguments.parse_args().seed
    figures = Figures("dependence")
    for rho in (0.0, 0.2, 0.5, 0.9):
        values = autoregressive([seed, int(rho * 10)], rho, ROWS)
        detector = guarded(BUDGET)
        found = alarms(detector, values, seed)
        figures.report(f"AR(1) {rho}, guarded e-detector", len(found), most=MOST)
        regimes = [detector.guard.regime(f"stream:{k}") for k in range(STREAMS)]
        bet_on = [regime.lag for regime in regimes if regime.kind not in ("ordered", "unknown")]
        figures.report(f"AR(1) {rho}, streams bet on", len(bet_on))
        if bet_on:
            figures.report(f"AR(1) {rho}, largest lag", max(bet_on))
        figures.report(f"AR(1) {rho}, ADWIN", len(alarms(Adwin(), values, seed)))
        figures.report(f"AR(1) {rho}, no guard", len(alarms(EDetector(BUDGET), values, seed)))
        shifted = autoregressive([seed, int(rho * 10), 1], rho, _UNTIL)
        shifted[_SHIFTED:] += 1
        first: dict[str, int] = {}
        for row, stream in alarms(guarded(_SHIFTED_BUDGET), shifted, seed):
            if row >= _SHIFTED:
                first.setdefault(stream, row + 1 - _SHIFTED)
        figures.report(f"AR(1) {rho}, shifts of 1 sigma found", len(first) / STREAMS)
        if first:
            figures.report(f"AR(1) {rho}, 1 sigma, median delay", np.median(list(first.values())))
    figures.exit()


if __name__ == "__main__":
    main()
