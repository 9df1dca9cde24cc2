"""Gaps between two groups: false alarms of the gap test, events to a true gap, and the gaps of a real model.

False alarms: outcomes are drawn, and then which group each is of, so that no gap is true. With a level each stream may
alarm with probability alpha, with a budget once in so many events. Power: of runs with a true gap the share that finds it in so
many events of the smaller group, at a level of 0.01. Beside it stand the test of Chugg et al. (2023), pairs one to one
and online Newton steps, and the two-proportion z-test, looked at after every event, at that level and at that level
divided by the number of looks. Environments: production and shadow score the same requests, some time apart, so that their
outcomes depend on one another. Last the employment data of ../shared/data,
or of the folder TOCSIN_BENCH_DATA: sex and race, prediction as in the file, figures without a bar.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.stats import binom, norm, poisson

from tocsin.core.columns import Floats, Ints
from tocsin.core.verdict import Verdict
from tocsin.detectors.base import Observations
from tocsin.detectors.binary_counts import WIDTH, count
from tocsin.detectors.compiled import compiled
from tocsin.detectors.gap_test import GapTests, Pair
from tocsin.detectors.gaps import gaps, outcomes, pairs, too_small

from .common import Figures

LEVEL: Final = 0.05
BUDGET: Final = 1e5
ALPHA: Final = 0.01  # of the runs with a gap
POWER: Final = 0.95
GAPS: Final = {0.05: 5_000, 0.1: 1_500}
"""A gap, from a rate of 0.8 downwards, to the events of the smaller group in which it must be found."""
_FIRST_LOOK: Final = 30  # events of either group before the z-test is looked at
_ROWS: Final = 10_000  # of a stream without a gap
_PAIR: Final = (Pair("gap:recall:g=1|2", "recall:g=1", "recall:g=2", 1.0),)
_NAMES: Final = (_PAIR[0].a, _PAIR[0].b)
_FOLDER: Final = "employment_ma"


def rows(values: Floats, is_a: Any) -> Observations:
    """Return (n,) outcomes as rows of two streams, one for each group."""
    return Observations.of(
        np.stack([np.where(is_a, values, np.nan), np.where(is_a, np.nan, values)], axis=1), _NAMES
    )


def tested(batch: Observations, **settings: float) -> list[Verdict]:
    tests = GapTests(**settings)
    tests.watch(_PAIR)
    return tests.update(batch)


def nulls(seed: int, runs: int) -> Iterator[Observations]:
    """Yield streams without a gap: rates of 0.8 and 0.05, numbers, and groups that are 1, 3 and 10 times as large."""
    for run in range(runs):
        rng = np.random.default_rng([seed, 0, run])
        law = run % 3
        values = (
            (rng.random(_ROWS) < (0.8, 0.05)[law]).astype(np.float64)
            if law < 2
            else rng.beta(2, 3, _ROWS)
        )
        of_a = (1 / 2, 1 / 4, 1 / 11)[run // 3 % 3]
        yield rows(values, rng.permutation(_ROWS) < round(of_a * _ROWS))


def false_alarms(figures: Figures, seed: int, runs: int) -> None:
    streams = list(nulls(seed, runs))
    alarms = sum(len(tested(batch, alpha=LEVEL)) for batch in streams)
    allowed = LEVEL * runs
    figures.report(
        f"level {LEVEL}: streams of {runs} that alarm, {allowed:.0f} allowed on average", alarms,
        most=float(binom.ppf(0.99, runs, LEVEL)),
    )  # fmt: skip
    alarms = sum(len(tested(batch, budget_events=BUDGET)) for batch in streams)
    allowed = runs * _ROWS / BUDGET
    figures.report(
        f"budget: alarms in {runs * _ROWS:,} events at A = {BUDGET:.0e}, {allowed:.0f} allowed on average",
        alarms, most=float(poisson.ppf(0.99, allowed)),
    )  # fmt: skip
    false_alarms_of_many(figures, seed, runs)
    for name, rate in {
        "jumps between 0.95 and 0.4 every 200 events": np.where(
            np.arange(_ROWS) // 200 % 2, 0.4, 0.95
        ),
        "falls from 0.95 to 0.3": np.linspace(0.95, 0.3, _ROWS),
    }.items():
        alarms = 0
        for run in range(runs):
            rng = np.random.default_rng([seed, 1, run])
            batch = rows(
                (rng.random(_ROWS) < rate).astype(np.float64),
                rng.random(_ROWS) < (0.5, 0.25)[run % 2],
            )
            alarms += len(tested(batch, alpha=LEVEL))
        figures.report(
            f"level {LEVEL}: streams of {runs} that alarm, the rate of both {name}", alarms
        )


def false_alarms_of_many(figures: Figures, seed: int, runs: int) -> None:
    """Report alarms of ten groups of one segment, each tested against all others with a tenth of level or budget."""
    groups = [str(k) for k in range(10)]
    listed = pairs({("race",): groups}, ["recall"])
    names = tuple(stream for pair in listed for stream in (pair.a, pair.b))
    found = {"level": 0, "budget": 0}
    count_of = runs // 5
    for run in range(count_of):
        rng = np.random.default_rng([seed, 2, run])
        group = rng.choice(10, _ROWS, p=np.arange(1, 11) / 55)
        values = (rng.random(_ROWS) < 0.8) * 1.0
        is_in = group[:, None] == np.arange(10)
        columns = np.stack([is_in, ~is_in], axis=2).reshape(_ROWS, 20)
        batch = Observations.of(np.where(columns, values[:, None], np.nan), names)
        for kind, tests in (
            ("level", GapTests(alpha=LEVEL)), ("budget", GapTests(budget_events=BUDGET)),
        ):  # fmt: skip
            tests.watch(listed)
            alarms = len(tests.update(batch))
            found[kind] += min(alarms, 1) if kind == "level" else alarms
    figures.report(
        f"level {LEVEL} over ten tests: streams of {count_of} that alarm, {LEVEL * count_of:.0f} "
        "allowed on average",
        found["level"], most=float(binom.ppf(0.99, count_of, LEVEL)),
    )  # fmt: skip
    allowed = count_of * _ROWS / BUDGET
    figures.report(
        f"budget over ten tests: alarms in {count_of * _ROWS:,} events, {allowed:.0f} allowed on average",
        found["budget"], most=float(poisson.ppf(0.99, allowed)),
    )  # fmt: skip


def drawn(
    key: list[int], rates: tuple[float, float], larger: int, events: int
) -> tuple[Floats, Any]:
    """Return outcomes, and which are of the smaller group, until it has had `events`; the other is `larger` times that."""
    rng = np.random.default_rng(key)
    size = int(events * (1 + larger) * 1.2) + 500
    is_a = rng.random(size) * (1 + larger) < 1
    end = int(np.searchsorted(np.minimum(np.cumsum(is_a), np.cumsum(~is_a)), events)) + 1
    values = (rng.random(size) < np.where(is_a, *rates)).astype(np.float64)
    return values[:end], is_a[:end]


def smaller_at(is_a: Any, row: int) -> int:
    """Return how many events the smaller group has had by a row."""
    of_a = int(is_a[: row + 1].sum())
    return min(of_a, row + 1 - of_a)


def z_alarm(values: Floats, is_a: Any, level: float) -> int | None:
    """Return the first row at which the pooled two-proportion z-test is significant, None if it never is."""
    of_a, of_b = np.cumsum(is_a), np.cumsum(~is_a)
    hits_a, hits_b = np.cumsum(values * is_a), np.cumsum(values * ~is_a)
    at = np.flatnonzero((of_a >= _FIRST_LOOK) & (of_b >= _FIRST_LOOK))
    pooled = (hits_a + hits_b)[at] / (at + 1)
    error = np.sqrt(np.maximum(pooled * (1 - pooled) * (1 / of_a[at] + 1 / of_b[at]), 1e-12))
    z = np.abs(hits_a[at] / of_a[at] - hits_b[at] / of_b[at]) / error
    beyond = np.flatnonzero(z > norm.isf(level / 2))
    return int(at[beyond[0]]) if len(beyond) else None


@compiled
def _newton(differences: Floats, threshold: float) -> int:
    """Return the pair at which wealth reaches the threshold, -1 for none (Chugg et al. 2023, section 3)."""
    wealth, bet, squares = 1.0, 0.0, 1.0
    for k in range(len(differences)):
        wealth *= 1.0 + bet * differences[k]
        slope = differences[k] / (1.0 + bet * differences[k])
        squares += slope * slope
        bet = min(max(bet + 2.0 / (2.0 - np.log(3.0)) * slope / squares, -0.5), 0.5)
        if wealth >= threshold:
            return k
    return -1


def newton_alarm(values: Floats, is_a: Any, level: float) -> int | None:
    """Return the row at which the test of Chugg et al. alarms, None if it never does."""
    of_a, of_b = np.flatnonzero(is_a), np.flatnonzero(~is_a)
    pairs_of = min(len(of_a), len(of_b))
    of_a, of_b = of_a[:pairs_of], of_b[:pairs_of]
    pair = _newton(values[of_a] - values[of_b], 1 / level)
    return None if pair < 0 else int(max(of_a[pair], of_b[pair]))


def power(figures: Figures, seed: int, runs: int) -> None:
    for gap, within in GAPS.items():
        for larger in (1, 3):
            for name, rates in (("no gap", (0.8, 0.8)), (f"gap {gap}", (0.8 - gap, 0.8))):
                found: dict[str, list[float]] = {
                    "gap test": [], "Newton steps, one to one": [], "z-test at each event": [], "the same, Bonferroni": [],
                }  # fmt: skip
                for run in range(runs):
                    key = [seed, 3, round(gap * 100), larger, int(rates[0] * 100), run]
                    values, is_a = drawn(key, rates, larger, within)
                    verdicts = tested(rows(values, is_a), alpha=ALPHA)
                    alarms = (
                        verdicts[0].offset if verdicts else None,
                        newton_alarm(values, is_a, ALPHA),
                        z_alarm(values, is_a, ALPHA),
                        z_alarm(values, is_a, ALPHA / len(values)),
                    )
                    for row, at in zip(found.values(), alarms, strict=True):
                        row.append(np.inf if at is None else smaller_at(is_a, at))
                groups = "groups of one size" if larger == 1 else "one group 3 times as large"
                for detector, events in found.items():
                    ours = detector == "gap test"
                    least = POWER if ours and name != "no gap" else None
                    most = float(binom.ppf(0.99, runs, ALPHA)) / runs if ours else None
                    line = f"{name}, {groups}, {detector}"
                    figures.report(
                        f"{line}: share that alarms within {within} events",
                        np.isfinite(events).mean(),
                        least=least,
                        most=None if least else most,
                    )
                    if name != "no gap":
                        figures.report(f"{line}: median events", np.median(events))


def events_to_a_gap(figures: Figures, seed: int, runs: int) -> None:
    """Report events of the smaller group to a gap: one there from the start, and one that opens after 20,000 rows."""
    for gap, most in {0.02: 60_000, 0.05: 15_000, 0.1: 5_000}.items():
        for larger in (1, 3):
            for epsilon in (0.0, 0.01) if gap > 0.02 else (0.0,):
                found: list[float] = []
                for run in range(runs):
                    key = [seed, 4, round(gap * 100), larger, run]
                    values, is_a = drawn(key, (0.8 - gap, 0.8), larger, most)
                    verdicts = tested(rows(values, is_a), alpha=ALPHA, epsilon=epsilon)
                    found.append(smaller_at(is_a, verdicts[0].offset) if verdicts else np.inf)
                for share in (0.5, 0.95):
                    figures.report(
                        f"gap {gap}, {larger}:1, epsilon {epsilon}: events by which {share:.0%} have found it",
                        np.quantile(found, share, method="higher"),
                    )
    for gap, most in {0.05: 15_000, 0.1: 6_000}.items():
        late: dict[str, list[float]] = {"budget of 1,000,000 events": [], "level 0.01": []}
        for run in range(runs):
            before, is_a_before = drawn([seed, 5, run], (0.8, 0.8), 1, 10_000)
            after, is_a = drawn([seed, 6, round(gap * 100), run], (0.8 - gap, 0.8), 1, most)
            batch = rows(np.append(before, after), np.append(is_a_before, is_a))
            for events, settings in zip(
                late.values(), ({"budget_events": 1e6}, {"alpha": ALPHA}), strict=True
            ):
                at = [v.offset - len(before) for v in tested(batch, **settings)]
                true = [row for row in at if row >= 0]
                events.append(smaller_at(is_a, true[0]) if true else np.inf)
        for name, events in late.items():
            figures.report(
                f"gap {gap} that opens after 10,000 events of either group, {name}: median events",
                np.median(events),
            )


def requests(
    key: list[int], events: int, rates: tuple[float, float], lag: int, alike: float
) -> tuple[Floats, Any]:
    """Return outcomes of production and shadow for the same requests, and which are production's; `lag` requests later.

    A part `alike` of the requests has what both are right or wrong about drawn once, so that their outcomes depend on one another.
    """
    rng = np.random.default_rng(key)
    once, own = rng.random(events), rng.random((2, events))
    chance = np.where(rng.random(events) < alike, once, own)
    right = np.asarray(chance < np.array(rates)[:, None], np.float64)
    at = np.concatenate([np.arange(events), np.arange(events) + lag + 0.5])
    order = np.argsort(at, kind="stable")
    return right.ravel()[order], order < events


def environments(figures: Figures, seed: int, runs: int) -> None:
    """Report false alarms and gaps between production and shadow that score the same requests, shadow 0 to 300 of them later."""
    for lag in (0, 3, 30, 300):
        for alike in (0.0, 0.8):
            claims, alarms, intervals = 0, 0, 0
            for run in range(runs):
                values, is_a = requests([seed, 8, lag, run], _ROWS // 2, (0.8, 0.8), lag, alike)
                batch = rows(values, is_a)
                tests = GapTests(alpha=LEVEL)
                tests.watch(_PAIR)
                is_off = False
                for end in range(500, _ROWS + 1, 500):
                    claims += len(tests.update(batch.take(slice(end - 500, end))))
                    progress = tests.progress(_PAIR[0].subject)
                    is_off |= progress is not None and not progress.low <= 0 <= progress.high
                intervals += is_off
                alarms += len(tested(batch, budget_events=BUDGET))
            what = f"environments {lag} requests apart, {alike:.0%} alike"
            figures.report(
                f"{what}, level {LEVEL}: streams of {runs} that alarm, {LEVEL * runs:.0f} allowed on average",
                claims, most=float(binom.ppf(0.99, runs, LEVEL)),
            )  # fmt: skip
            allowed = runs * _ROWS / BUDGET
            figures.report(
                f"{what}: alarms in {runs * _ROWS:,} events at A = {BUDGET:.0e}, {allowed:.0f} allowed on average",
                alarms, most=float(poisson.ppf(0.99, allowed)),
            )  # fmt: skip
            figures.report(
                f"{what}: streams of {runs} whose interval, looked at every 500 events, ever leaves out 0",
                intervals, most=float(binom.ppf(0.99, runs, LEVEL)),
            )  # fmt: skip
    for gap, within in GAPS.items():
        found: list[float] = []
        for run in range(runs):
            values, is_a = requests([seed, 9, run], within, (0.8, 0.8 - gap), 30, 0.8)
            verdicts = tested(rows(values, is_a), alpha=ALPHA)
            found.append(smaller_at(is_a, verdicts[0].offset) if verdicts else np.inf)
        what = f"environments 30 requests apart, 80% alike, gap {gap}"
        figures.report(
            f"{what}: share found within {within} events", np.isfinite(found).mean(), least=POWER
        )
        figures.report(f"{what}: median events", np.median(found))


def pairs_of_requests(figures: Figures, seed: int, runs: int) -> None:
    """Report what it gains that outcomes of one request are compared with one another, where a shadow answers half of them."""
    for alike in (0.0, 0.8):
        for gap, events in ((0.0, _ROWS // 2), (0.05, 2 * GAPS[0.05])):
            claims: dict[str, list[float]] = {"in one row": [], "one after the other": []}
            for run in range(runs):
                values, is_a = requests([seed, 10, run], events, (0.8, 0.8 - gap), 0, alike)
                both = np.stack([values[is_a], values[~is_a]], axis=1)
                both[np.random.default_rng([seed, 11, run]).random(events) < 0.5, 1] = np.nan
                for name, batch in (
                    ("in one row", Observations.of(both, _NAMES)),
                    ("one after the other", rows(both.ravel(), is_a)),
                ):
                    found = tested(batch, alpha=ALPHA if gap else LEVEL)
                    step = 1 if name == "in one row" else 2
                    claims[name].append(found[0].offset / step if found else np.inf)
            for name, at in claims.items():
                what = f"half of the requests, {alike:.0%} alike, {name}"
                if gap:
                    figures.report(f"{what}, gap {gap}: median requests", np.median(at))
                    continue
                figures.report(
                    f"{what}, level {LEVEL}: streams of {runs} that alarm, {LEVEL * runs:.0f} allowed on average",
                    float(np.isfinite(at).sum()), most=float(binom.ppf(0.99, runs, LEVEL)),
                )  # fmt: skip


def speed(figures: Figures, seed: int) -> None:
    listed = pairs({("race",): [str(k) for k in range(10)]}, ["recall"])
    names = tuple(stream for pair in listed for stream in (pair.a, pair.b))
    rng = np.random.default_rng([seed, 7])
    is_in = rng.integers(0, 10, 100_000)[:, None] == np.arange(10)
    values = np.where(np.stack([is_in, ~is_in], axis=2).reshape(-1, 20), 1.0, np.nan)
    batch, taken = Observations.of(values, names), []
    for _ in range(3):
        tests = GapTests(budget_events=1e6)
        tests.watch(listed)
        began = time.process_time()
        tests.update(batch)
        taken.append(time.process_time() - began)
    figures.report("ns for an outcome in a test", min(taken) / 1e6 * 1e9)


def employment(figures: Figures) -> None:
    """Report the gaps of a real model between sexes and races, and what the test says of them, without a bar."""
    folder = Path(os.environ.get("TOCSIN_BENCH_DATA", "../shared/data")) / _FOLDER
    if not folder.is_dir():
        sys.exit(
            f"no folder {folder}; TOCSIN_BENCH_DATA must name the folder that holds {_FOLDER}/"
        )
    from pyarrow import parquet

    table = parquet.read_table(folder / "employment_MA_analysis.pq")
    targets = parquet.read_table(folder / "employment_MA_analysis_target.pq")
    assert table["id"].equals(targets["id"]), "rows of the two files do not match"
    predicted, score, label = (
        column.to_numpy().astype(np.float64)
        for column in (table["prediction"], table["predicted_probability"], targets["employed"])
    )
    segments = {
        (name.lower(),): np.array(table[name].to_pylist(), dtype=str) for name in ("SEX", "RAC1P")
    }
    groups = {names: np.unique(values).tolist() for names, values in segments.items()}
    for names, of in segments.items():
        counts = {}
        for group in groups[names]:
            counts[group] = counted((of != group).astype(np.int64), predicted, label, score)
        for k, group in enumerate(groups[names]):
            if len(groups[names]) == 2 and k:
                continue
            report(figures, f"{names[0]}={group}", counts[group])
    listed = pairs(groups, ["positive_rate", "recall", "false_positive_rate", "precision"])
    tests = GapTests(alpha=ALPHA, epsilon=0.01)
    tests.watch(listed)
    values = outcomes(predicted, label, score)
    names_of = sorted({stream for pair in listed for stream in (pair.a, pair.b)})
    columns = []
    for stream in names_of:
        metric, _, rest = stream.partition(":")
        segment, _, group = rest.partition("=")
        is_in = segments[segment.rstrip("!"),] == group
        columns.append(np.where(is_in ^ segment.endswith("!"), values[metric], np.nan))
    found = tests.update(Observations.of(np.stack(columns, axis=1), tuple(names_of)))
    figures.report(
        f"employment: gaps above 0.01 that are claimed, of {len(listed)} tests", len(found)
    )
    for verdict in found:
        figures.report(
            f"employment, {verdict.subject}: rows to the alarm; {verdict.evidence}",
            verdict.offset + 1,
        )


def counted(rest: Ints, predicted: Floats, label: Floats, score: Floats) -> Ints:
    """Return the counts of a group and of all others."""
    table = np.zeros((2, WIDTH), np.int64)
    count(table, rest, predicted, label, score, 1)
    return table


def report(figures: Figures, group: str, table: Ints) -> None:
    """Report the gaps of a group to all others; of rates of too few events how many more it takes."""
    small = too_small(*table)
    for name, more in small.items():
        figures.report(f"employment, {group}, {name}: too small, events more", max(more))
    for name, gap in gaps(*table).items():
        needs = {"disparate_impact": "positive_rate", "four_fifths": "positive_rate"}
        if needs.get(name, name) not in small and not (name == "equalised_odds" and small):
            text = f"employment, {group}|rest, {name} ({gap.low:.3f} to {gap.high:.3f})"
            figures.report(text, gap.value)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument(
        "--runs", type=int, default=1000, help="without a gap; with one, of each kind"
    )
    options = arguments.parse_args()
    figures = Figures("bias")
    false_alarms(figures, options.seed, options.runs)
    power(figures, options.seed, options.runs)
    events_to_a_gap(figures, options.seed, options.runs // 3)
    environments(figures, options.seed, options.runs // 2)
    pairs_of_requests(figures, options.seed, options.runs // 2)
    speed(figures, options.seed)
    employment(figures)
    figures.exit()


if __name__ == "__main__":
    main()
