"""False alarms of stationary streams against the budget, beside ADWIN's and Page-Hinkley's.

Every alarm counts. The e-detector's budget is one alarm in A events over 20 streams together; bars are the 99 %
Poisson bounds of that budget. ADWIN and Page-Hinkley run with River's defaults, compiled and flag for flag the
same (`bench parity`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

import numpy as np

from tocsin.core.columns import Floats
from tocsin.detectors.adwin import Adwin
from tocsin.detectors.base import Detector, Observations
from tocsin.detectors.categories import counted_categories
from tocsin.detectors.e_detector import EDetector
from tocsin.detectors.page_hinkley import PageHinkley
from tocsin.detectors.reference import Reference

from .common import Figures

STREAMS: Final = 20
TRAINED: Final = 100_000  # values of a training sample
_CHUNK: Final = 50_000

Law = Callable[[np.random.Generator, int], Floats]

LAWS: Final[dict[str, Law]] = {
    "lognormal": lambda rng, n: rng.lognormal(0, 1.5, (n, STREAMS)),
    "t2": lambda rng, n: rng.standard_t(2, (n, STREAMS)),
    "pareto": lambda rng, n: rng.pareto(1.5, (n, STREAMS)) + 1,
    "bernoulli": lambda rng, n: (rng.random((n, STREAMS)) < 0.1).astype(float),
    "poisson": lambda rng, n: rng.poisson(1.0, (n, STREAMS)).astype(float),
    "uniform": lambda rng, n: rng.random((n, STREAMS)),
}

CATEGORIES: Final[dict[str, Law]] = {
    "3 categories": lambda rng, n: rng.choice(3, (n, STREAMS), p=[0.6, 0.3, 0.1]).astype(float),
    "500 categories": lambda rng, n: rng.integers(0, 500, (n, STREAMS)).astype(float),
    "zipf categories": lambda rng, n: np.minimum(rng.zipf(1.5, (n, STREAMS)), 1e6).astype(float),
}


def alarms(
    make: Callable[[], Detector],
    law: Law,
    seed: list[int],
    events: int,
    *,
    categories: bool = False,
) -> int:
    """Return how many alarms a fresh detector raises on a stationary stream."""
    names = tuple(f"stream:{k}" for k in range(STREAMS))
    rng, detector, found = np.random.default_rng(seed), make(), 0
    for begin in range(0, events, _CHUNK):
        values = np.ascontiguousarray(law(rng, min(_CHUNK, events - begin)))
        place = np.arange(begin, begin + len(values))
        batch = Observations(
            names=names, values=values, offsets=place, rows=np.full(len(values), seed[0]),
            categories=frozenset(names) if categories else frozenset(),
        )  # fmt: skip
        found += sum(v.phase == "opened" for v in detector.update(batch))
    return found


def trained(law: Law, seed: list[int], *, categories: bool = False) -> Reference:
    """Return references of what streams were in a training sample."""
    sample = law(np.random.default_rng(seed), TRAINED)
    values = {f"stream:{k}": sample[:, k] for k in range(STREAMS)}
    reference = Reference()
    counted = {name: counted_categories(of) for name, of in values.items()} if categories else {}
    reference.train(values, TRAINED, categories=counted)
    return reference


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=0, help="first of the seeds")
    arguments.add_argument("--runs", type=int, default=15, help="runs of a million normal events")
    options = arguments.parse_args()
    figures = Figures("false-alarms")
    normal: Law = lambda rng, n: rng.normal(size=(n, STREAMS))  # noqa: E731
    seeds = range(options.seed, options.seed + options.runs)
    total = sum(alarms(lambda: EDetector(1e6), normal, [s], 1_000_000) for s in seeds)
    figures.report(f"normal, {options.runs} x 1e6 events at A = 1e6", total, most=25)
    for name, make in RIVALS.items():
        figures.report(
            f"the first of these runs, {name}", alarms(make, normal, [seeds[0]], 1_000_000)
        )
    for place, (law_name, law) in enumerate(LAWS.items()):
        key = [options.seed, place]
        found = alarms(lambda: EDetector(1e4), law, key, 200_000)
        figures.report(f"{law_name}, 2e5 events at A = 1e4", found, most=32)
        for name, make in RIVALS.items():
            figures.report(f"{law_name}, {name}", alarms(make, law, key, 200_000))
        reference = trained(law, [*key, 1])
        found = alarms(lambda: EDetector(1e4, reference=reference), law, key, 200_000)  # noqa: B023
        figures.report(f"{law_name}, 2e5 events at A = 1e4, against training", found, most=32)
    for place, (law_name, law) in enumerate(CATEGORIES.items()):
        key = [options.seed, 100 + place]
        found = alarms(lambda: EDetector(1e4), law, key, 200_000, categories=True)
        figures.report(f"{law_name}, 2e5 events at A = 1e4", found, most=32)
        reference = trained(law, [*key, 1], categories=True)
        make = lambda: EDetector(1e4, reference=reference)  # noqa: B023, E731
        found = alarms(make, law, key, 200_000, categories=True)
        figures.report(f"{law_name}, 2e5 events at A = 1e4, against training", found, most=32)
    figures.exit()


RIVALS: Final[dict[str, Callable[[], Detector]]] = {"ADWIN": Adwin, "Page-Hinkley": PageHinkley}


if __name__ == "__main__":
    main()
