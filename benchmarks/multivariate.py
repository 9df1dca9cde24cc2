"""Shifts of a network's embeddings and logits: how soon they are found, and false alarms while nothing shifts.

A ResNet-20 on 9,000 CIFAR-10 images in random order: 4,500 as they are, then 4,500 with a shift. Their
embeddings and logits become scalar streams, on which the e-detector runs with a budget of one false alarm in
1,000,000 events over all of them together, and beside it ADWIN as River has it, on the same streams. Clean
runs are permutations of all 9,000. A run has found its shift if a stream opens after it began, and none before.
ADWIN knows no budget, so it is also met at its own rate of false alarms, as measured on the clean runs.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from tocsin.detectors.adwin import Adwin
from tocsin.detectors.base import Observations
from tocsin.detectors.budget import Budget
from tocsin.detectors.e_detector import EDetector
from tocsin.detectors.embedding import CELL, EmbeddingStreams
from tocsin.detectors.logit_streams import LogitStreams
from tocsin.detectors.reference import Reference

from .common import Figures
from .common_cifar import CORRUPTIONS, Ints, ResNet20, Vectors, corrupted, images

BUDGET: Final = 1e6
TIGHT: Final = 1e4  # for the count of false alarms: with 1e6, hardly one is allowed
CLEAN: Final = 4_500
RUNS: Final = 20
PERMUTATIONS: Final = 100
FOUND: Final = {
    "noise-3": 100, "blur-3": 100, "contrast-3": 100,
    "noise-1": 1_000, "contrast-1": 1_000, "class-missing": 1_000, "class-prior": 1_000,
}  # fmt: skip
"""Vectors within which half of the runs must find a shift, and all of them at last. The mildest blur and a
class that comes half as often are shown without a bar: with this budget most runs miss them."""
COST_US: Final = {64: 6.0, 512: 16.0, 4096: None}
"""Microseconds a vector may take, by its coordinates."""
_MISSED: Final = 4_500.0  # vectors that a miss counts as: all there were
_UNWATCHED: Final = 1_000 + 256 + 300  # rows before the first bet: warm-up, cells, reference
_MMD: Final = "embedding:mmd"
_MARGIN: Final = 2.33  # standard deviations of a Poisson law to its 99 % point

Shift = Callable[[np.random.Generator, int, Ints], tuple[str, Ints]]
"""A generator, the number of the run and rows in order to a set of vectors and rows of it."""


def shifts(classes: Ints) -> dict[str, Shift]:
    """Return the planted shifts by name; `classes` (n,) are the images' own."""

    def of(name: str) -> Shift:
        return lambda _rng, _run, rows: (name, rows)

    def without(_rng: np.random.Generator, run: int, rows: Ints) -> tuple[str, Ints]:
        return "clean", rows[classes[rows] != run % 10]

    def halved(rng: np.random.Generator, run: int, rows: Ints) -> tuple[str, Ints]:
        return "clean", rows[(classes[rows] != run % 10) | (rng.random(len(rows)) < 0.5)]

    def other_prior(rng: np.random.Generator, _run: int, rows: Ints) -> tuple[str, Ints]:
        kept = rng.permutation(np.geomspace(0.25, 1, 10))
        return "clean", rows[rng.random(len(rows)) < kept[classes[rows]]]

    return {
        **{name: of(name) for name in CORRUPTIONS},
        "class-missing": without,
        "class-prior": other_prior,
        "class-halved": halved,
    }


def streams_of(vectors: Vectors) -> Observations:
    """Return all streams of vectors, in one matrix."""
    place = np.arange(len(vectors.logits))
    rows = np.zeros_like(place)
    predicted = vectors.logits.argmax(axis=1)
    a = EmbeddingStreams().update(vectors.embedding, predicted, place, rows)
    b = LogitStreams().update(vectors.logits, place, rows)
    return replace(a, names=a.names + b.names, values=np.hstack([a.values, b.values]))


def only(batch: Observations, names: Iterable[str]) -> Observations:
    """Return some of the streams."""
    wanted = set(names)
    columns = [k for k, name in enumerate(batch.names) if name in wanted]
    return replace(
        batch,
        names=tuple(batch.names[k] for k in columns),
        values=np.ascontiguousarray(batch.values[:, columns]),
    )


def ours(batch: Observations, budget: float) -> list[tuple[int, str]]:
    """Return rows and streams of the e-detector's alarms, in order.

    MMD has one value in 50 rows: with as long a reference as the other streams it would begin after 28,000. It has
    a detector of its own, and its share of the budget.
    """
    count = len(batch.names)
    others = only(batch, set(batch.names) - {_MMD})
    found = EDetector(Budget(budget * count / (count - 1))).update(others)
    slow = EDetector(Budget(budget * count), reference=Reference(30), warm=30)
    found += slow.update(only(batch, [_MMD]))
    return sorted((v.offset, v.subject) for v in found if v.phase == "opened")


def adwin(batch: Observations) -> list[tuple[int, str]]:
    """Return rows and streams of ADWIN's alarms; a category is none of its business."""
    found = Adwin().update(only(batch, set(batch.names) - {CELL}))
    return sorted((v.offset, v.subject) for v in found)


def delay(alarms: list[tuple[int, str]]) -> float:
    """Return the vectors from the shift to the first alarm; a miss if there was none, or one before."""
    if not alarms or alarms[0][0] < CLEAN:
        return _MISSED
    return alarms[0][0] - CLEAN + 1.0


def main() -> None:
    figures = Figures("multivariate")
    x, classes = images()
    network = ResNet20()
    sets = {"clean": network(x)} | {name: network(corrupted(x, name)) for name in CORRUPTIONS}
    adwins_rate = false_alarms(figures, sets["clean"])
    ratios = []
    for name, shift in shifts(classes).items():
        own: list[float] = []
        at_adwins_rate: list[float] = []
        adwins: list[float] = []
        for run in range(RUNS):
            rng = np.random.default_rng([1, run])
            order = rng.permutation(len(classes))
            part, rows = shift(rng, run, order[CLEAN:])
            batch = streams_of(sets["clean"].take(order[:CLEAN]).then(sets[part].take(rows)))
            own.append(delay(ours(batch, BUDGET)))
            at_adwins_rate.append(delay(ours(batch, adwins_rate)))
            adwins.append(delay(adwin(batch)))
        figures.report(f"{name}_median_delay", statistics.median(own), most=FOUND.get(name))
        figures.report(f"{name}_missed", missed(own), most=0 if name in FOUND else None)
        figures.report(f"{name}_median_delay_at_adwins_rate", statistics.median(at_adwins_rate))
        figures.report(f"{name}_missed_at_adwins_rate", missed(at_adwins_rate))
        figures.report(f"{name}_adwin_median_delay", statistics.median(adwins))
        figures.report(f"{name}_adwin_missed", missed(adwins))
        if name in FOUND:
            ratios.append(statistics.median(at_adwins_rate) / statistics.median(adwins))
    figures.report("delay_over_adwins_at_its_rate", statistics.median(ratios), most=1.0)
    cost(figures)
    figures.exit()


def missed(delays: list[float]) -> float:
    """Return the share of runs without their shift."""
    return delays.count(_MISSED) / len(delays)


def false_alarms(figures: Figures, clean: Vectors) -> float:
    """Count alarms on permutations of the clean vectors; return the rows to one of ADWIN's."""
    tight, wide, theirs, rows = 0, 0, 0, 0
    for seed in range(PERMUTATIONS):
        order = np.random.default_rng([2, seed]).permutation(len(clean.logits))
        batch = streams_of(clean.take(order))
        rows += len(batch) - _UNWATCHED
        tight += len(ours(batch, TIGHT))
        wide += len(ours(batch, BUDGET))
        theirs += len(adwin(batch))
    figures.report("clean_vectors", rows)
    for name, found, budget in (("1e4", tight, TIGHT), ("1e6", wide, BUDGET)):
        allowed = rows / budget
        figures.report(f"false_alarms_allowed_at_{name}", allowed)
        figures.report(
            f"false_alarms_at_{name}", found, most=math.ceil(allowed + _MARGIN * math.sqrt(allowed))
        )
    figures.report("adwin_false_alarms", theirs)
    return rows / max(theirs, 1)


def cost(figures: Figures) -> None:
    """Time a vector in batches of 1,000 after the warm-up, the best of several rounds."""
    rng = np.random.default_rng(3)
    count = 1_000
    place = np.arange(count)
    for d, most in COST_US.items():
        vectors, classes = rng.normal(size=(count, d)), rng.integers(0, 10, count)
        embeddings = EmbeddingStreams(count)
        spent = best(partial(embeddings.update, vectors, classes, place, place)) / count
        figures.report(f"us_per_embedding_of_{d}", spent, most=most)
    logits = LogitStreams(count)
    spent = best(partial(logits.update, rng.normal(size=(count, 10)), place, place)) / count
    figures.report("us_per_logits_of_10", spent)


def best(work: Callable[[], object], rounds: int = 15) -> float:
    """Return the fewest microseconds that work took."""
    found: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found) * 1e6


if __name__ == "__main__":
    main()
