"""One incident a drift: false ones against the budget, a second drift soon after, onsets, ramps.

Streams of errors of a frozen model, budget one false alarm in 1e5 events, tolerance 0.02. The raw e-detector (every
claim of change counts) and River's ADWIN stand beside.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from typing import Final

import numpy as np

from tocsin.core.columns import Floats
from tocsin.core.verdict import Verdict
from tocsin.detectors.adwin import Adwin
from tocsin.detectors.base import Observations
from tocsin.detectors.e_detector import EDetector
from tocsin.detectors.onset import onset

from .common import Figures

BUDGET: Final = 1e5
_RUNS: Final = 8000
_RAMPS: Final = 400


def verdicts(errors: Floats, name: str) -> list[Verdict]:
    """Return what the e-detector says of a stream of errors."""
    return EDetector(BUDGET, rate_tolerance=0.02).update(Observations.of(errors, (name,)))


def opened(errors: Floats, name: str) -> list[Verdict]:
    """Return the incidents of a stream of errors."""
    return [v for v in verdicts(errors, name) if v.phase == "opened"]


def bits(rng: np.random.Generator, rates: Floats) -> Floats:
    """Return errors at (n,) rates."""
    return (rng.random(len(rates)) < rates).astype(np.float64)


def ramp(low: float, high: float, begin: int, width: int, length: int) -> Floats:
    """Return rates that go from one level to another over `width` events."""
    t = np.arange(length)
    return low + (high - low) * np.clip((t - begin) / max(width, 1) + (width == 0), 0, 1)


def stationary(figures: Figures, seed: int) -> None:
    for rate in (0.05, 0.1, 0.3):
        found = adwin = 0
        for run in range(20):
            rng = np.random.default_rng([seed, run, int(rate * 100)])
            errors = bits(rng, np.full(200_000, rate))
            found += len(opened(errors, f"error:{run}"))
            adwin += len(Adwin().update(Observations.of(errors)))
        figures.report(f"stationary {rate}, 20 x 2e5 events", found, most=40)
        figures.report(f"stationary {rate}, ADWIN", adwin)


def oracle_onset(errors: Floats) -> int:
    """Return how many values ago errors went from 0.1 to 0.3, by one who knows both rates."""
    gains = np.where(errors > 0, np.log(3), np.log(0.7 / 0.9))[:, None]
    return onset(gains, np.ones(len(errors), np.int64), np.ones(1), 0).delay


def second(figures: Figures, seed: int) -> None:
    found, wrong = Counter[str](), defaultdict[str, list[int]](list)
    for run in range(_RUNS):
        rates = np.repeat([0.1, 0.3, 0.6], [5000, 2000, 5000])
        errors = bits(np.random.default_rng([seed, run, 7]), rates)
        for who, claims in (
            ("", opened(errors, f"error:{run}")), (", ADWIN", Adwin().update(Observations.of(errors))),
        ):  # fmt: skip
            found[who] += any(7000 <= v.offset < 9000 for v in claims)
            first = next((v for v in claims if 5000 <= v.offset < 7000), None)
            if first is None or first.delay_events is None:
                continue
            decided = first.offset + 1
            wrong[who].append(abs(decided - first.delay_events - 5000))
            if not who:
                ago = oracle_onset(errors[4000:decided])
                wrong[", oracle"].append(abs(decided - ago - 5000))
    label = "second drift 2,000 events after the first, found"
    figures.report(label, found[""] / _RUNS, least=0.98)
    figures.report(f"{label}, ADWIN", found[", ADWIN"] / _RUNS)
    for who in ("", ", oracle", ", ADWIN"):
        for level, most in ((0.5, 5), (0.9, 35)):
            error = float(np.quantile(wrong[who], level))
            figures.report(
                f"onset error of 0.1 -> 0.3, {level:.0%}{who}", error, most=None if who else most
            )


def ramps(figures: Figures, seed: int) -> None:
    for low, high in ((0.1, 0.3), (0.1, 0.5), (0.05, 0.95)):
        for width in (500, 1000, 2000, 4000):
            counts = np.zeros(3)
            for run in range(_RAMPS):
                rates = ramp(low, high, 5000, width, 11_000 + width)
                errors = bits(np.random.default_rng([seed, run, width, int(high * 100)]), rates)
                said = [v for v in verdicts(errors, f"error:{run}") if v.offset >= 5000]
                counts += (
                    sum(v.phase == "opened" for v in said),
                    sum(v.phase != "settled" for v in said),
                    sum(v.offset >= 5000 for v in Adwin().update(Observations.of(errors))),
                )
            counts /= _RAMPS
            label = f"incidents a ramp {low} -> {high} over {width} events"
            figures.report(label, counts[0], most=1.1 if width <= 2000 else None)
            figures.report(f"{label}, each claim by itself", counts[1])
            figures.report(f"{label}, ADWIN", counts[2])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=0)
    seed = arguments.parse_args().seed
    figures = Figures("incidents")
    stationary(figures, seed)
    second(figures, seed)
    ramps(figures, seed)
    figures.exit()


if __name__ == "__main__":
    main()
