"""One row of the series from several: of partitions, and of cohorts that are next to one another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from ..core.columns import Ints
from ..core.metric_row import MetricRow, Value, finite
from ..core.snapshot import reading
from ..detectors import cbpe, late_labels
from ..detectors.binary_metrics import Metric
from ..detectors.calibration import Calibration
from . import merged_leakage
from .cohorts import HITS
from .pair_metrics import CONFUSION, asked_about, metrics_of, width_of
from .row_counts import GapCounts, RowCounts, decode, encode, unpacked, unpacked_estimates
from .score_columns import MOST_CLASSES, ScoreColumns

_UNSURE: Final = "?"
_KNOWN: Final = Calibration(np.empty(0), np.array([0.5]), np.array([1 << 40]))
"""One without error: what is estimated with it differs from the realised value by chance alone."""


class Part(NamedTuple):
    """A row that a worker wrote, and the partition that it is of."""

    partition: int
    row: MetricRow


def merged(parts: Sequence[Part]) -> MetricRow | None:
    """Return one row of several of one environment and group; None where one of them does not say what it follows from.

    Raises
    ------
    StateError
        What one of them says is damaged.

    Notes
    -----
    What was counted is added up, so the metrics are exactly those of one partition that had all events, whatever became of the
    order; where more than 15 classes came, the first 15 of each partition. `corrected` and `estimated` were learned by
    each partition from its own labels: their counts are added up, what each is unsure of adds to the intervals, within a
    partition as something that its cohorts have in common. Of leakage see `merged_leakage.figures`.
    """
    with reading("rows of the series"):
        return _merged(parts)


def _merged(parts: Sequence[Part]) -> MetricRow | None:
    rows = [part.row for part in parts]
    counts = [decode(row.counts) for row in rows]
    if None in counts:
        return None
    predictions, labels = (
        sum(getattr(row, of) for row in rows) for of in ("predictions", "labels")
    )
    whole = msgspec.structs.replace(
        rows[0],
        begin=min(row.begin for row in rows),
        end=max(row.end for row in rows),
        predictions=predictions,
        labels=labels,
        label_coverage_ratio=labels / predictions if predictions else 0.0,
        closed=all(row.closed for row in rows),
        revised=sum(row.revised for row in rows),
        counts=b"",
    )
    of_gaps = [one for one in counts if isinstance(one, GapCounts)]
    if of_gaps:
        metrics, small = _gaps(of_gaps)
        return finite(
            msgspec.structs.replace(whole, metrics=metrics, too_small=small, estimated={})
        )
    of_pairs = [one for one in counts if isinstance(one, RowCounts)]
    metrics, positive = _metrics(of_pairs)
    return finite(
        msgspec.structs.replace(
            whole,
            positive=positive,
            metrics=metrics | merged_leakage.figures(rows, of_pairs),
            estimated=_estimated(parts, of_pairs),
            corrected=_corrected(parts, of_pairs),
        )
    )


def aligned(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield rows in which any two groups are compared in one order, that of the first who does.

    Partitions compare groups in the order in which these came to each.
    """
    known: dict[tuple[str, str, str], str] = {}
    for part in parts:
        counts = decode(part.row.counts)
        if isinstance(counts, GapCounts):
            segment, a, b = counts.of
            if (segment, b, a) in known:
                (x, y), (said_x, said_y) = counts.sides, counts.said
                turned = msgspec.structs.replace(
                    counts, of=(segment, b, a), sides=(y, x), said=(said_y, said_x)
                )
                row = msgspec.structs.replace(
                    part.row,
                    group=known[segment, b, a],
                    metrics=_gaps([turned])[0],
                    estimated={name: _turned(name, of) for name, of in part.row.estimated.items()},
                    counts=encode(turned),
                )
                yield Part(part.partition, finite(row))
                continue
            known[counts.of] = part.row.group
        yield part


def _turned(name: str, gap: Value) -> Value:
    if name == "gap:equalised_odds":
        return gap
    value, low, high, error = gap
    return -value, None if high is None else -high, None if low is None else -low, error


def _gaps(counts: list[GapCounts]) -> tuple[dict[str, Value], list[str]]:
    """Return the gaps of all, and which cannot be judged."""
    if len({one.is_regression for one in counts}) > 1:
        return {}, []
    a, b = (sum_of([unpacked(one.sides[k], one.width) for one in counts]) for k in (0, 1))
    said = np.sum([one.said for one in counts], axis=0).tolist()
    of_both = (said[0][0], said[0][1]), (said[1][0], said[1][1])
    return msgspec.structs.replace(counts[0], said=of_both).told(a, b)


def sum_of(rows: Sequence[Ints]) -> Ints:
    """Return the sum of (k,) rows."""
    return np.asarray(np.sum(rows, axis=0))


def _metrics(counts: list[RowCounts]) -> tuple[dict[str, Value], str]:
    """Return the metrics of all pairs, and the name of the class that they are about."""
    known = [one for one in counts if one.is_regression is not None and one.pairs]
    if not known or len({one.is_regression for one in known}) > 1:
        return {}, ""  # not of one kind
    is_regression = bool(known[0].is_regression)
    names: dict[float, str] = {}
    for one in known:
        told = zip(one.classes, one.names, strict=True)
        names |= {number: name for number, name in told if names.get(number, _UNSURE) == _UNSURE}
    most = max(known, key=lambda one: one.parts[0])
    columns = ScoreColumns.known(most.columns, most.positive, most.asked)
    names = dict(zip(columns.classes.tolist(), columns.names, strict=True)) | names
    if is_regression:
        width = width_of(0, is_regression=True)
        row, classes = sum_of([unpacked(one.pairs, width) for one in known]), list[float]()
    else:
        row, classes = _added_up(known, len(columns))
    hits = sum(one.parts[HITS] for one in known)
    name = _name(names)
    found = metrics_of(row, hits, classes, columns, name, is_regression=is_regression)
    is_about_one = not is_regression and 0 < len(classes) <= 2 and len(columns) <= 1
    return dict(found), name(asked_about(classes, columns, name)) if is_about_one else ""


def _name(names: dict[float, str]) -> Callable[[float], str]:
    return lambda number: names.get(number, _UNSURE)


def _added_up(counts: list[RowCounts], columns: int) -> tuple[Ints, list[float]]:
    """Return the pairs of all, by classes in one order, and these; scores only of those that have the same classes of scores."""
    often: dict[float, int] = {}
    rows = []
    for one in counts:
        row = unpacked(one.pairs, width_of(len(one.columns), is_regression=False))
        confusion = row[:CONFUSION].reshape(MOST_CLASSES, MOST_CLASSES)
        of_each = (confusion.sum(axis=0) + confusion.sum(axis=1)).tolist()
        for number, count in zip(one.classes, of_each, strict=False):
            often[number] = often.get(number, 0) + count
        rows.append((one, confusion, row[CONFUSION:]))
    classes = sorted(often, key=lambda number: (-often[number], number))[: MOST_CLASSES - 1]
    place = {number: k for k, number in enumerate(sorted(classes))}
    most = max(counts, key=lambda one: one.parts[0])
    whole = np.zeros(width_of(columns, is_regression=False), np.int64)
    into = whole[:CONFUSION].reshape(MOST_CLASSES, MOST_CLASSES)
    for one, confusion, of_scores in rows:
        to = [place.get(number, MOST_CLASSES - 1) for number in one.classes]
        to += [MOST_CLASSES - 1] * (MOST_CLASSES - len(to))
        np.add.at(into, (np.array(to)[:, None], np.array(to)[None, :]), confusion)
        if one.columns == most.columns:
            whole[CONFUSION:] += of_scores
    return whole, sorted(classes)


def _corrected(parts: Sequence[Part], counts: list[RowCounts]) -> dict[str, Value]:
    """Return what the metrics will be once all labels are there: partitions have learned how late they are by themselves."""
    told = [(part, one) for part, one in zip(parts, counts, strict=True) if one.parts[0]]
    if not told or not all(one.expected for _, one in told):
        return {}
    of: dict[int, list[late_labels.Expected]] = {}
    for part, one in told:
        expected = late_labels.Expected(*(np.array(numbers) for numbers in one.expected))
        of.setdefault(part.partition, []).append(expected)
    totals = [late_labels.total(group) for group in of.values()]
    shared = np.sqrt(np.sum([one.shared**2 for one in totals], axis=0))
    whole = late_labels.total(totals)._replace(shared=shared)
    is_negative = counts[0].unlabelled_are_negative
    return dict(late_labels.metrics(whole, unlabelled_are_negative=is_negative))


def _estimated(parts: Sequence[Part], counts: list[RowCounts]) -> dict[str, Value]:
    """Return what the metrics are expected to be of the parts that say so."""
    told = [(part, one) for part, one in zip(parts, counts, strict=True) if part.row.estimated]
    if not told:
        return {}
    if all(one.estimates for _, one in told):
        rows = [unpacked_estimates(one.estimates) for _, one in told]
        by_chance = [cbpe.estimates(row, _KNOWN) for row in rows]
        value = cbpe.estimates(sum_of(rows), _KNOWN)
    else:  # weighed by their predictions
        by_chance = [dict[str, Metric]() for _ in told]
        value = {}
    weights = np.array([one.parts[0] for _, one in told], np.float64)
    weights /= weights.sum()
    found: dict[str, Value] = {}
    for name in value or dict.fromkeys(name for part, _ in told for name in part.row.estimated):
        has = [name in part.row.estimated for part, _ in told]
        share = weights * has / max(float(weights @ has), 1e-300)
        unsure: dict[int, float] = {}
        chance = middle = error = 0.0
        for (part, _), alone, weight in zip(told, by_chance, share.tolist(), strict=True):
            if name not in part.row.estimated:
                continue
            at, low, high, off = part.row.estimated[name]
            low, high = (math.nan if end is None else end for end in (low, high))
            half, own = max(at - low, high - at), 0.0
            if name in alone:
                own = max(alone[name][0] - alone[name][1], alone[name][2] - alone[name][0])
            learned = weight * math.sqrt(max(half**2 - own**2, 0.0))
            unsure[part.partition] = unsure.get(part.partition, 0.0) + learned
            middle, error = middle + weight * at, error + weight * off
        if name in value:
            middle, *ends, error = value[name]
            chance = max(middle - ends[0], ends[1] - middle)
        half = math.sqrt(chance**2 + sum(part**2 for part in unsure.values()))
        most = math.inf if name in _UNBOUNDED else 1.0
        found[name] = (middle, max(middle - half, 0.0), min(middle + half, most), error)
    return found


_UNBOUNDED: Final = frozenset(["brier", "log_loss", "mae", "mse", "rmse"])
