"""What rows follow from, packed; and what becomes of rows that partitions count in different ways."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from tocsin.consumers.merged_rows import Part, merged
from tocsin.consumers.metric_series import over_time, parts_of, rows_of
from tocsin.consumers.pair_metrics import width_of
from tocsin.consumers.row_counts import (
    GapCounts,
    RowCounts,
    compared,
    decode,
    encode,
    packed,
    packed_estimates,
    unpacked,
    unpacked_estimates,
)
from tocsin.core.errors import StateError
from tocsin.core.metric_row import MetricRow
from tocsin.core.metric_row import encode as encode_row
from tocsin.detectors import cbpe, regression_sums
from tocsin.detectors.calibration import Calibration

PAIRS = width_of(0, is_regression=False)


@pytest.mark.parametrize("seed", range(5))
def test_what_was_packed_comes_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    row = np.where(rng.random(3000) < 0.2, rng.integers(-(2**60), 2**60, 3000), 0)
    np.testing.assert_array_equal(unpacked(packed(row), 3000), row)
    np.testing.assert_array_equal(unpacked(packed(row[:0]), 7), np.zeros(7))
    score, label = rng.random(1000), rng.integers(2, size=1000) * 1.0
    table = np.zeros((1, cbpe.WIDTH), np.int64)
    calibration = Calibration.fit(score, label)
    cbpe.count(table, np.zeros(1000, np.int64), label, rng.random(1000), calibration, 1)
    np.testing.assert_array_equal(unpacked_estimates(packed_estimates(table[0])), table[0])


def test_a_row_of_a_thousand_scored_pairs_takes_less_than_two_kilobytes() -> None:
    rng = np.random.default_rng(0)
    row = np.bincount(rng.integers(0, 2000, 1000), minlength=2000)
    assert len(packed(row)) < 1_000


NINE = packed(np.ones(9, np.int64))


@pytest.mark.parametrize("data", [b"", b"x", b"nothing", NINE[:-4], NINE, zlib.compress(b"odd")])
def test_what_cannot_be_unpacked_is_an_error(data: bytes) -> None:
    with pytest.raises(StateError, match="unreadable row: "):
        unpacked(data, 5)


def test_counts_of_another_version_are_none() -> None:
    assert decode(b"") is None
    assert decode(b"\x91\xa5other") is None


@pytest.mark.parametrize("parts", [[], [20], [20, 5, 0], [20, 5, 0, 5, 10, 10, 1]])
def test_a_row_of_too_few_parts_is_unreadable(parts: list[int]) -> None:
    one = counts([1.0], {(0, 0): 5})
    with pytest.raises(StateError, match="unreadable row: 6 counts were expected"):
        merged(
            [
                part(0, one),
                Part(1, replace(part(0, one).row, counts=encode(replace(one, parts=parts)))),
            ]
        )


def test_a_row_with_other_damage_is_unreadable_too() -> None:
    one = counts([1.0], {(0, 0): 5})
    for damage in (
        {"names": []},
        {"classes": [1.0] * 40, "names": ["x"] * 40},
        {"expected": [[1.0]]},
    ):
        with pytest.raises(StateError, match="rows of the series"):
            merged([part(k, replace(one, **damage)) for k in range(2)])
    damaged = part(0, one, counts=part(0, one).row.counts.replace(b"c1", b"\xff1"))
    with pytest.raises(StateError, match="rows of the series"):
        rows_of([damaged, part(1, one)])
    no_time = encode_row(part(0, one, begin="yesterday").row)
    with pytest.raises(StateError, match=r"the series at 0\|production"):
        list(parts_of({b"0|production|window|": no_time}))
    stored = {b"0|production|window|": b"{}"}
    with pytest.raises(StateError, match=r"the series at 0\|production"):
        list(parts_of(stored))


def counts(
    classes: list[float], confusion: dict[tuple[int, int], int], **changed: Any
) -> RowCounts:
    pairs = np.zeros(PAIRS, np.int64)
    for (label, predicted), count in confusion.items():
        pairs[label * 16 + predicted] = count
    hits = sum(count for (label, predicted), count in confusion.items() if label == predicted)
    of: dict[str, Any] = {
        "parts": [20, sum(confusion.values()), 0, hits, 10, 10], "is_regression": False, "classes": classes,
        "names": [f"c{number:g}" for number in classes], "columns": [], "positive": 1.0, "asked": None,
        "pairs": packed(pairs),
    }  # fmt: skip
    return RowCounts(**(of | changed))


def part(partition: int, of: RowCounts, **changed: Any) -> Part:
    row = MetricRow(
        environment="production", group="", begin="2026-01-01T00:00:00+00:00", end="2026-01-02T00:00:00+00:00",
        predictions=of.parts[0], labels=of.parts[1], label_coverage_ratio=0.5, closed=True, revised=1, metrics={},
        counts=encode(of),
    )  # fmt: skip
    return Part(partition, replace(row, **changed))


def whole(*parts: Part) -> MetricRow:
    found = merged(parts)
    assert found is not None
    return found


def test_classes_are_matched_whatever_the_order_in_which_they_came() -> None:
    a = counts([1.0, 2.0, 3.0], {(0, 0): 5, (1, 2): 2})
    b = counts([3.0, 1.0, 7.0], {(1, 1): 4, (0, 2): 1, (2, 2): 3})
    row = whole(part(0, a), part(1, b, closed=False, labels=8))
    assert (row.predictions, row.labels, row.revised, row.closed) == (40, 15, 2, False)
    assert row.label_coverage_ratio == 15 / 40
    assert row.metrics["accuracy"][0] == 12 / 15 == row.metrics["f1:micro"][0]
    assert row.metrics["recall:c1"][0] == 1.0
    assert row.metrics["precision:c3"][0] == 0.0
    assert row.metrics["precision:c7"][0] == 3 / 4
    assert decode(encode(a)) == a


def test_more_than_fifteen_classes_are_the_most_frequent_and_the_others() -> None:
    first = counts([float(k) for k in range(15)], {(k, k): 2 for k in range(15)})
    second = counts([float(k) for k in range(10, 25)], {(k, k): 1 for k in range(15)})
    row = whole(part(0, first), part(1, second))
    assert row.metrics["accuracy"][0] == 1.0 == row.metrics["recall:micro"][0]
    assert "recall:c14" in row.metrics
    assert "recall:c24" not in row.metrics
    assert row.metrics["recall:other classes"][0] == 1.0


def test_what_is_not_of_one_kind_has_no_metrics_and_what_says_nothing_is_left_apart() -> None:
    one = counts([1.0], {(0, 0): 5})
    other = counts([], {}, is_regression=True, pairs=packed(np.zeros(700, np.int64)))
    assert whole(part(0, one), part(1, other)).metrics == {}
    unknown = counts([], {}, is_regression=None, pairs=b"")
    assert whole(part(0, one), part(1, unknown)).metrics["accuracy"][0] == 1.0
    assert merged([part(0, one), part(1, one, counts=b"")]) is None
    assert len(rows_of([part(0, one), part(1, one, counts=b"")])) == 2


def test_partitions_that_have_got_to_different_windows_are_told_of_in_the_later_one() -> None:
    def day(partition: int, number: int) -> Part:
        times = {
            "begin": f"2026-01-{number:02}T00:00:00+00:00",
            "end": f"2026-01-{number + 1:02}T00:00:00+00:00",
        }
        return part(partition, counts([1.0], {(0, 0): number}), **times)

    def window(partition: int, last: int) -> Part:
        times = {
            "begin": f"2026-01-{last - 2:02}T00:00:00+00:00",
            "end": f"2026-01-{last + 1:02}T00:00:00+00:00",
        }
        return part(partition, counts([1.0], {(0, 0): 1}), window=True, **times)

    rows = (
        [day(0, n) for n in (3, 4, 5)]
        + [day(1, n) for n in (1, 2, 3)]
        + [window(0, 5), window(1, 3)]
    )
    (row,) = rows_of(rows, window=True)
    assert (row.begin[:10], row.end[:10], row.predictions, row.window) == (
        "2026-01-03",
        "2026-01-06",
        80,
        True,
    )
    assert [point.value for point in over_time([row], "accuracy")] == [1.0]
    assert len(rows_of(rows)) == 5


def gap_of_errors(
    partition: int, name: str, errors: dict[str, list[float]], **changed: Any
) -> Part:
    """Return a row of the gap between two groups of a regression, with the errors of either."""
    segment, a, b = compared(name)
    table = np.zeros((2, regression_sums.WIDTH), np.int64)
    for k, group in enumerate((a, b)):
        of = np.array(errors[group])
        regression_sums.count(table, np.full(len(of), k), of, np.zeros(len(of)), 1)
    both = GapCounts(
        of=(segment, a, b), sides=(packed(table[0]), packed(table[1])), said=((0, 0), (0, 0)), half_width=0.05,
        is_regression=True,
    )  # fmt: skip
    row = part(partition, counts([], {})).row
    told = {"metrics": both.told(*table)[0], "counts": encode(both), "group": name}
    return Part(partition, replace(row, **(told | changed)))


def test_gaps_of_a_regression_are_those_of_all_partitions_whatever_came_first_in_each() -> None:
    first = {"F": [1.0, -3.0, 2.5], "M": [0.5, 0.25]}
    second = {"F": [4.0], "M": [-1.0, 6.0]}
    estimated = {"gap:mae": (2.0, 1.0, 4.0, 0.0), "gap:equalised_odds": (0.5, 0.0, 1.0, 0.0)}
    parts = [
        gap_of_errors(0, "sex=F|M", first), gap_of_errors(1, "sex=M|F", second, estimated=estimated),
    ]  # fmt: skip
    (row,) = rows_of(parts)
    every = {sex: np.array(first[sex] + second[sex]) for sex in "FM"}
    assert row.group == "sex=F|M"
    mae = np.abs(every["F"]).mean() - np.abs(every["M"]).mean()
    assert row.metrics["gap:mae"][0] == pytest.approx(mae)
    mean = every["F"].mean() - every["M"].mean()
    assert row.metrics["gap:mean_error"][0] == pytest.approx(mean)
    assert row.too_small == ["gap:mean_error", "gap:mae", "gap:rmse"]
    _, turned = rows_of(
        [parts[0], Part(1, replace(parts[1].row, begin="2026-01-02T00:00:00+00:00"))]
    )
    assert turned.estimated == estimated | {"gap:mae": (-2.0, -4.0, -1.0, 0.0)}
    assert turned.metrics == {}  # one error is not enough
