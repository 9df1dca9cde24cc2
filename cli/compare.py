"""`tocsin compare A B`: whether a model does as well on one file as on another, or for one group of a file as for others."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..consumers.sentences import count as count_of
from ..core.columns import Floats, Ints
from ..core.errors import ConfigError
from ..detectors import gaps
from ..detectors.base import Observations
from ..detectors.binary_counts import WIDTH, count
from ..detectors.binary_metrics import Metric, wilson
from ..detectors.gap_test import GapTests, Pair
from .console import plain_console, printable, table_of
from .judged import Judged, read

Verdict = Literal["different", "no difference seen", "not decided", "too few to judge"]
Mask = NDArray[np.bool_]
_HALF_WIDTH: Final = 0.05  # as in the worker's series
_SEED: Final = 2023  # of the order of rows, which is the same each time
_UNTESTED: Final = ("equalised_odds", "disparate_impact", "four_fifths")
"""Gaps that follow from others."""


class Line(NamedTuple):
    """One metric of two groups.

    Parameters
    ----------
    groups
        `file=A.csv|B.csv`, `sex=F|M`.
    metric
        A name of `gaps.gaps`.
    a, b
        The values of both; None for a gap that has none of its own, or no events.
    gap
        With its interval; None where it is not known.
    verdict
        None for a gap that follows from others. `not decided` is a gap beyond epsilon that may be chance.
    more
        About how many more events of the metric it takes to decide; None where that is not known.
    rows
        After how many rows, in a random order, the test had found it; None if it has not.
    needed
        How many more events of the metric a and b need each.
    """

    groups: str
    metric: str
    a: Metric | None
    b: Metric | None
    gap: Metric | None
    verdict: Verdict | None
    more: float | None
    rows: int | None
    needed: tuple[int, int]


def run(
    files: Sequence[Path],
    label: str | None,
    prediction: str | None,
    score: str | None,
    segments: Sequence[str],
    positive: str | None,
    epsilon: float,
    alpha: float,
    *,
    as_json: bool = False,
) -> int:
    """Compare and print; return 1 if anything differs, else 0.

    Raises
    ------
    ConfigError
        A file cannot be read, a column is not there, there is nothing to compare, or a number is out of range.
    """
    if not (0 < alpha < 1 and 0 <= epsilon < 1):
        raise ConfigError(
            f"--alpha must be between 0 and 1 and --epsilon at least 0 and below 1, got {alpha} and {epsilon}"
        )
    judged = read(files, label, prediction, score, segments, positive)
    lines = compare(judged, epsilon, alpha)
    is_different = any(line.verdict == "different" for line in lines)
    if as_json:
        print(json.dumps(_report(judged, lines, epsilon, alpha), indent=2))
    else:
        _print(judged, lines, epsilon, alpha)
    return int(is_different)


def compare(judged: Judged, epsilon: float, alpha: float) -> list[Line]:
    """Return the metrics of each two groups; claims are all true with a probability of 1 - alpha."""
    order, outcomes = _order(judged), _outcomes(judged)
    half_width = min(max(epsilon, _HALF_WIDTH), 0.49)
    lines: list[Line] = []
    for both, of in _pairs(judged).items():
        sides, found = both.sides(judged), dict[str, int]()
        more: dict[str, float | None] = {}
        for metric, pair in of.items():
            columns = np.stack([np.where(side, outcomes[metric], np.nan) for side in sides], axis=1)
            tests = GapTests(alpha=alpha * pair.share, epsilon=epsilon)
            tests.watch([pair._replace(share=1.0)])
            for verdict in tests.update(Observations.of(columns[order], (pair.a, pair.b))):
                found[metric] = verdict.offset + 1
            progress = tests.progress(pair.subject)
            more[metric] = progress.more if progress else None
        limits = epsilon, half_width
        lines += _lines(judged, both.name(judged), sides, found, more, limits)
    return lines


class Both(NamedTuple):
    """Two groups that are compared; b is None for all others."""

    names: tuple[str, ...]
    a: int
    b: int | None

    def name(self, judged: Judged) -> str:
        """Return what they are called: `sex=F|M`."""
        of = judged.crossings[self.names].names
        return f"{','.join(self.names)}={of[self.a]}|{'rest' if self.b is None else of[self.b]}"

    def sides(self, judged: Judged) -> tuple[Mask, Mask]:
        """Return which (n,) rows are of either."""
        codes = judged.crossings[self.names].codes
        ours = np.asarray(codes == self.a)
        return ours, np.asarray((codes >= 0) & ~ours if self.b is None else codes == self.b)


def _pairs(judged: Judged) -> dict[Both, dict[str, Pair]]:
    """Return the tests by what they compare and by metric; their groups are numbers, for names may be anything."""
    groups = {
        names: [str(k) for k in range(len(of.names))] for names, of in judged.crossings.items()
    }
    strata = {names: of.strata for names, of in judged.crossings.items() if of.strata is not None}
    listed = iter(gaps.pairs(groups, judged.metrics, strata))
    found: dict[Both, dict[str, Pair]] = {}
    for names, of in groups.items():
        sides = gaps.compared(of, strata.get(names))
        for metric in judged.metrics:
            for a, b in sides:
                both = Both(names, int(a), None if b is None else int(b))
                found.setdefault(both, {})[metric] = next(listed)
    if not found:
        raise ConfigError("nothing to compare: each segment has one group")
    return found


def _lines(
    judged: Judged,
    groups: str,
    sides: tuple[Mask, Mask],
    found: dict[str, int],
    more: dict[str, float | None],
    limits: tuple[float, float],
) -> Iterator[Line]:
    """Yield the lines of two groups.

    `found` says after how many rows a gap of a metric was claimed, `more` how many events it may take, `limits` are epsilon and
    within what a rate must be known.
    """
    epsilon, half_width = limits
    both, said = _counted(judged, sides)
    told = gaps.gaps(both[0], both[1], said)
    few = gaps.few(both[0], both[1], half_width, said)
    lacks = gaps.too_small(both[0], both[1], half_width)
    wanted = gaps.events_needed(half_width)
    lacks["positive_rate"] = (max(wanted - said[0][1], 0), max(wanted - said[1][1], 0))
    for metric in judged.metrics:
        gap = told.get(metric)
        verdict: Verdict = "different"
        if metric not in found:
            verdict = _verdict(None if metric in few else gap, epsilon)
        values = [_value(metric, row, of) for row, of in zip(both, said, strict=True)]
        yield Line(
            groups, metric, values[0], values[1], gap, verdict, more[metric], found.get(metric),
            lacks.get(metric, (0, 0)),
        )  # fmt: skip
    for metric in _UNTESTED if len(judged.metrics) > 1 else ():
        if metric in told:
            yield Line(groups, metric, None, None, told[metric], None, None, None, (0, 0))


def _verdict(gap: Metric | None, epsilon: float) -> Verdict:
    """Return what is said of a gap that was not claimed, None for one of too few events."""
    if gap is None:
        return "too few to judge"
    is_seen = gap.low > 0 or gap.high < 0 if epsilon == 0 else abs(gap.value) > epsilon
    return "not decided" if is_seen else "no difference seen"


def _order(judged: Judged) -> Ints:
    """Return the rows in a random order: the files mix evenly, and how each is sorted does not matter."""
    return np.random.default_rng(_SEED).permutation(len(judged))


def _outcomes(judged: Judged) -> dict[str, Floats]:
    said, true = judged.is_positive(judged.predicted), judged.is_positive(judged.label)
    found = gaps.outcomes(said, true, judged.score)
    found["positive_rate"] = said  # of all predictions, labelled or not
    known = ~(np.isnan(judged.predicted) | np.isnan(judged.label))
    found["accuracy"] = np.where(known, judged.predicted == judged.label, np.nan)
    return found


def _counted(
    judged: Judged, sides: tuple[Mask, Mask]
) -> tuple[Ints, tuple[tuple[int, int], tuple[int, int]]]:
    """Return (2, WIDTH) counts of both sides, and how many predictions of each were positive, of how many."""
    table = np.zeros((2, WIDTH), np.int64)
    place = np.where(sides[0], 0, np.where(sides[1], 1, -1))
    said, true = judged.is_positive(judged.predicted), judged.is_positive(judged.label)
    if judged.positive is None:  # right or wrong, and nothing else
        known = ~(np.isnan(judged.predicted) | np.isnan(judged.label))
        true = np.where(known, 1.0, np.nan)
        said = np.where(known, judged.predicted == judged.label, np.nan)
    count(table, place, said, true, judged.score, 1)
    first, second = ((int(np.nansum(said[s])), int((~np.isnan(said[s])).sum())) for s in sides)
    return table, (first, second)


def _value(metric: str, row: Ints, said: tuple[int, int]) -> Metric | None:
    if metric == "positive_rate":
        hits, of = said
        return Metric(hits / of, *wilson(hits, of)) if of else None
    return gaps.calibration(row) if metric == "calibration" else gaps.rate(row, metric)


def _report(judged: Judged, lines: list[Line], epsilon: float, alpha: float) -> dict[str, Any]:
    """Return all that is known, for machines."""
    return {
        "files": [{"file": name, "rows": count} for name, count in judged.rows.items()],
        "positive": None if judged.positive is None else judged.classes[judged.positive],
        "epsilon": epsilon,
        "alpha": alpha,
        "different": any(line.verdict == "different" for line in lines),
        "comparisons": [
            {
                "groups": line.groups, "metric": line.metric,
                **{key: None if of is None else _finite(of)
                   for key, of in (("a", line.a), ("b", line.b), ("gap", line.gap))},
                "verdict": line.verdict, "found_after_rows": line.rows, "events_needed": line.needed,
                "more_events": line.more,
            }
            for line in lines
        ],
    }  # fmt: skip


def _finite(of: Metric) -> dict[str, float | None]:
    return {name: None if math.isnan(end) else end for name, end in of._asdict().items()}


def _print(judged: Judged, lines: list[Line], epsilon: float, alpha: float) -> None:
    console = plain_console()
    console.width = max(console.width, 120)
    console.print(
        printable("; ".join(f"{name}: {count:,} rows" for name, count in judged.rows.items())),
        soft_wrap=True,
    )
    if judged.positive is not None:
        positive = judged.classes[judged.positive]
        console.print(
            printable(f"rates are about {positive}; a gap is the first less the second"),
            soft_wrap=True,
        )
    else:
        console.print(
            "more than two classes: only accuracy is compared; --positive asks about one of them",
            soft_wrap=True,
        )
    for groups in dict.fromkeys(line.groups for line in lines):
        table = table_of("metric", "first", "second", "gap", "verdict", left=["metric", "verdict"])
        for line in lines:
            if line.groups == groups:
                table.add_row(
                    line.metric, _figure(line.a), _figure(line.b), _gap(line), _said(line, epsilon)
                )
        console.print()
        console.print(printable(groups), soft_wrap=True)
        console.print(table)
    console.print()
    console.print(
        f"intervals of 95 %; with a probability of {1 - alpha:.0%} all gaps that are called different are beyond {epsilon:g}",
        soft_wrap=True,
    )


def _figure(of: Metric | None) -> str:
    return "-" if of is None else f"{of.value:.3f}"


def _gap(line: Line) -> str:
    if line.gap is None:
        return "-"
    sign = "" if line.metric in _UNTESTED else "+"
    if math.isnan(line.gap.low):
        return f"{line.gap.value:{sign}.3f} (unknown)"
    return " ".join(
        [f"{line.gap.value:{sign}.3f}", f"({line.gap.low:{sign}.3f} to {line.gap.high:{sign}.3f})"]
    )


def _said(line: Line, epsilon: float) -> str:
    """Return a verdict in words."""
    if line.verdict is None:
        return ""
    if line.verdict == "different":
        return "different"
    if line.verdict == "not decided":
        return "not decided" + (f", about {count_of(line.more)} more events" if line.more else "")
    if line.verdict == "no difference seen":
        return f"no difference above {epsilon:g} seen" if epsilon else "no difference seen"
    first, second = line.needed
    return "too few to judge" + (f", {first:,} and {second:,} more" if first or second else "")
