"""Gaps between groups against formulas by hand, published intervals, scipy, and the truth in simulation."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats.contingency import relative_risk

from tocsin.consumers.pair_metrics import two_by_two
from tocsin.detectors import gap_test, regression_sums
from tocsin.detectors import gaps as gaps_module
from tocsin.detectors.base import Observations
from tocsin.detectors.binary_counts import FN, FP, TN, TP, WIDTH, count
from tocsin.detectors.binary_metrics import Metric, wilson
from tocsin.detectors.gap_test import GapTests
from tocsin.detectors.gaps import (
    calibration,
    compared,
    difference,
    events_needed,
    few,
    few_numbers,
    gaps,
    of_numbers,
    outcomes,
    pairs,
    rate,
    ratio,
    too_small,
)

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


def drawn(seed: int, n: int, shift: float) -> Triple:
    """Return predictions, labels and scores of a group; the larger the shift, the better it is treated."""
    rng = np.random.default_rng([seed, n])
    score = rng.beta(2, 2, n)
    label = (rng.random(n) < score ** (1 + shift)) * 1.0
    return (score > 0.5 - shift) * 1.0, label, score


def counted(of: Triple) -> np.ndarray:
    table = np.zeros((1, WIDTH), np.int64)
    count(table, np.zeros(len(of[1]), np.int64), *of, 1)
    return table[0]


def of_cells(tn: int, fn: int, fp: int, tp: int) -> np.ndarray:
    row = np.zeros(WIDTH, np.int64)
    row[[TN, FN, FP, TP]] = tn, fn, fp, tp
    return row


def by_hand(of: Triple) -> dict[str, float]:
    predicted, label, score = of
    return {
        "positive_rate": predicted.mean(),
        "recall": predicted[label == 1].mean(),
        "false_positive_rate": predicted[label == 0].mean(),
        "precision": label[predicted == 1].mean(),
        "accuracy": (predicted == label).mean(),
        "calibration": label.mean() - score.mean(),
    }


@pytest.mark.parametrize("seed", range(10))
def test_gaps_are_those_by_hand(seed: int) -> None:
    a, b = drawn(seed, 700, 0.1), drawn(seed + 100, 300, 0.0)
    found, ours, theirs = gaps(counted(a), counted(b)), by_hand(a), by_hand(b)
    expected = {name: ours[name] - theirs[name] for name in ours}
    expected["disparate_impact"] = ours["positive_rate"] / theirs["positive_rate"]
    expected["four_fifths"] = min(expected["disparate_impact"], 1 / expected["disparate_impact"])
    expected["equalised_odds"] = max(abs(expected["recall"]), abs(expected["false_positive_rate"]))
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-9), name
        assert found[name].low <= found[name].value <= found[name].high, name


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
    ],
)
def test_differences_are_newcombes(
    a: tuple[int, int], b: tuple[int, int], low: float, high: float
) -> None:
    """Table II of Newcombe (1998), method 10."""
    ours, theirs = (Metric(hits / of, *wilson(hits, of)) for hits, of in (a, b))
    found = difference(ours, theirs)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_ratio_of_many_events_is_scipys() -> None:
    ours, theirs = (Metric(h / n, *wilson(h, n)) for h, n in ((4_100, 20_000), (9_000, 40_000)))
    found, expected = ratio(ours, theirs), relative_risk(4_100, 20_000, 9_000, 40_000)
    interval = expected.confidence_interval(0.95)
    assert found.value == pytest.approx(expected.relative_risk)
    assert (found.low, found.high) == (
        pytest.approx(interval.low, abs=1e-3), pytest.approx(interval.high, abs=1e-3),
    )  # fmt: skip


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 800 pairs of groups of 400 and 150, against 2,000,000 of the same laws; the larger of two gaps in more."""
    truth = gaps(*(counted(drawn(k, 2_000_000, shift)) for k, shift in enumerate((0.1, 0.0))))
    samples = [
        gaps(counted(drawn(10 + k, 400, 0.1)), counted(drawn(5_000 + k, 150, 0.0)))
        for k in range(800)
    ]
    for name, of in truth.items():
        held = np.mean([s[name].low <= of.value <= s[name].high for s in samples])
        assert 0.93 <= held <= (0.995 if name == "equalised_odds" else 0.98), (name, held)


def test_intervals_hold_without_a_gap_too() -> None:
    """A size has no interval below 0 then, and one of at most 1: those may hold more often."""
    samples = [
        gaps(counted(drawn(k, 300, 0.0)), counted(drawn(9_000 + k, 300, 0.0))) for k in range(800)
    ]
    for name in samples[0]:
        true = 1.0 if name in ("disparate_impact", "four_fifths") else 0.0
        held = np.mean([s[name].low <= true <= s[name].high for s in samples])
        assert held >= 0.93, (name, held)
        assert held <= 0.98 or name in ("four_fifths", "equalised_odds"), (name, held)


def test_what_is_not_known_has_no_entry() -> None:
    nothing, some = of_cells(0, 0, 0, 0), of_cells(5, 5, 5, 5)
    assert gaps(nothing, nothing) == {} == gaps(nothing, some) == gaps(some, nothing)
    assert calibration(nothing) is None
    assert rate(nothing, "recall") is None
    only_negatives = of_cells(9, 0, 1, 0)
    assert set(gaps(only_negatives, some)) == {
        "positive_rate", "disparate_impact", "four_fifths", "false_positive_rate", "precision",
        "accuracy",
    }  # fmt: skip
    never = of_cells(9, 9, 0, 0)  # no positive prediction: no ratio to it, but one of it
    assert "disparate_impact" not in gaps(some, never)
    assert gaps(some, never)["four_fifths"].value == 0.0
    assert "four_fifths" not in gaps(never, never)
    found = gaps(never, some)["disparate_impact"]
    assert (found.value, found.low) == (0.0, 0.0)
    assert 0 < found.high < 1
    one = np.array([1.0])
    assert calibration(counted((one, one, one))) is None  # one pair has no spread
    nan = np.full(3, np.nan)
    assert gaps(counted((nan, nan, nan)), some) == {}


def test_rates_of_one_show_an_interval() -> None:
    found = gaps(of_cells(0, 0, 0, 10), of_cells(0, 0, 0, 20))
    assert found["disparate_impact"].value == 1.0
    assert found["disparate_impact"].low < 0.9
    assert found["disparate_impact"].high > 1.1
    assert found["recall"].low < -0.1


def test_a_group_is_too_small_until_its_rate_is_known_so_well() -> None:
    needed = events_needed(0.05)
    low, high = wilson(needed / 2, needed)
    assert (high - low) / 2 <= 0.05
    low, high = wilson((needed - 1) / 2, needed - 1)
    assert (high - low) / 2 > 0.05
    many, few = of_cells(600, 400, 400, 600), of_cells(300, 0, 0, 100)
    found = too_small(few, many)
    assert found["recall"] == (needed - 100, 0)
    assert found["false_positive_rate"] == (needed - 300, 0)
    assert "accuracy" not in found
    assert too_small(many, many) == {}
    assert too_small(many, few, half_width=0.15) == {}
    assert too_small(of_cells(0, 0, 0, 0), many)["recall"] == (needed, 0)
    for half_width in (0.0, 0.5, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 0"):
            events_needed(half_width)


def test_a_class_against_the_rest() -> None:
    rng = np.random.default_rng(0)
    label, said = rng.integers(0, 3, 500), rng.integers(0, 3, 500)
    confusion = np.zeros((3, 3), np.int64)
    np.add.at(confusion, (label, said), 1)
    for k in range(3):
        of = (said == k) * 1.0, (label == k) * 1.0, np.full(500, np.nan)
        assert two_by_two(confusion, k).tolist() == counted(of)[[TN, FN, FP, TP]].tolist()


def of_errors(seed: int, n: int, spread: float, mean: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors of a regression, prediction less label, and their row of `regression_sums`."""
    rng = np.random.default_rng([seed, n])
    label, error = rng.normal(50, 10, n), mean + spread * rng.normal(size=n)
    table = np.zeros((1, regression_sums.WIDTH), np.int64)
    regression_sums.count(table, np.zeros(n, np.int64), label + error, label, 1)
    return error, table[0]


def test_gaps_of_a_regression_hold_the_truth() -> None:
    """Of 200 pairs of groups of 400 and 150."""
    truth = {"mean_error": 1.0, "mae": 1.5 * np.sqrt(2 / np.pi), "rmse": np.sqrt(1 + 0.6**2) - 1.5}
    both = [of_errors(0, 200_000, 0.6, 1.0)[0], of_errors(1, 200_000, 1.5)[0]]
    truth["mae"] = float(np.abs(both[0]).mean() - np.abs(both[1]).mean())
    held: dict[str, list[bool]] = {name: [] for name in truth}
    for seed in range(200):
        (ours, a), (theirs, b) = of_errors(seed, 400, 0.6, 1.0), of_errors(seed, 150, 1.5)
        found = of_numbers(a, b)
        assert set(found) == set(truth)
        assert found["mean_error"].value == pytest.approx(ours.mean() - theirs.mean())
        for name, value in truth.items():
            held[name].append(found[name].low <= value <= found[name].high)
    for name, of in held.items():
        assert 0.9 <= np.mean(of) <= 0.99, (name, np.mean(of))


def test_gaps_of_a_regression_need_pairs_and_say_how_many_are_too_few() -> None:
    sides = {n: of_errors(3, n, 1.0)[1] for n in (0, 1, 29, 600, 1200)}
    assert of_numbers(sides[1], sides[600]) == {} == of_numbers(sides[600], sides[0])
    every = ["mean_error", "mae", "rmse"]
    for n in (0, 1, 29, 600):  # 878 are needed for 5 %
        assert few_numbers(sides[n], sides[1200]) == every == few_numbers(sides[1200], sides[n])
    assert few_numbers(sides[1200], sides[1200]) == [] == few_numbers(*2 * [sides[600]], 0.1)
    assert few_numbers(of_errors(3, 1200, 0.0)[1], sides[1200]) == []  # never wrong


def test_outcomes_have_the_rates_as_means() -> None:
    of = drawn(3, 500, 0.1)
    predicted, label, score = (column.copy() for column in of)
    junk = np.full(4, np.nan)
    found = outcomes(*(np.append(column, junk) for column in (predicted, label, score)))
    for name, expected in by_hand(of).items():
        mean = np.nanmean(found[name])
        value = 2 * mean - 1 if name == "calibration" else mean
        assert value == pytest.approx(expected, abs=1e-12), name
        assert np.isnan(found[name][-4:]).all()
        assert ((found[name] >= 0) & (found[name] <= 1) | np.isnan(found[name])).all()


def test_pairs_share_the_whole_and_crossed_segments_get_less() -> None:
    segments = {
        ("sex",): ["1", "2"], ("race",): ["1", "2", "3", "4"], ("age",): ["old"],
        ("sex", "race"): ["1,1", "1,2", "2,1"],
    }  # fmt: skip
    found = pairs(segments, ["recall", "calibration"])
    assert sum(pair.share for pair in found) == pytest.approx(1)
    assert len(found) == 2 * (1 + 4 + 3)
    by_segment = {
        names: sum(p.share for p in found if f":{','.join(names)}=" in p.subject)
        for names in segments
    }
    assert by_segment[("sex",)] == by_segment[("race",)] == pytest.approx(1 / 3)
    assert by_segment[("sex", "race")] == pytest.approx(1 / 3)  # 1/4 of 1/2 + 1/4
    assert by_segment[("age",)] == 0
    rest = next(p for p in found if p.subject == "gap:recall:race=3|rest")
    assert (rest.a, rest.b, rest.scale) == ("recall:race=3", "recall:race!=3", 1.0)
    assert {p.scale for p in found if p.subject.startswith("gap:calibration")} == {2.0}
    assert pairs({}, ["recall"]) == [] == pairs({("age",): ["old"]}, ["recall"])


def test_the_test_takes_these_pairs_and_finds_the_gap() -> None:
    rng = np.random.default_rng(1)
    n = 40_000
    sex, label = rng.integers(1, 3, n), (rng.random(n) < 0.5) * 1.0
    predicted = np.where(label == 1, rng.random(n) < np.where(sex == 1, 0.8, 0.7), 0) * 1.0
    listed = pairs({("sex",): ["1", "2"]}, ["recall", "false_positive_rate"])
    found = outcomes(predicted, label, np.full(n, np.nan))
    streams = {
        f"{metric}:sex={k}": np.where(sex == k, found[metric], np.nan)
        for metric in ("recall", "false_positive_rate") for k in (1, 2)
    }  # fmt: skip
    tests = GapTests(alpha=0.01)
    tests.watch(listed)
    batch = Observations.of(np.stack(list(streams.values()), axis=1), tuple(streams))
    assert [v.subject for v in tests.update(batch)] == ["gap:recall:sex=1|2"]
    gap = tests.gap("gap:recall:sex=1|2")
    assert gap is not None
    assert gap[0] == pytest.approx(0.1, abs=0.02)


def test_examples_print_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    for module in (gaps_module, gap_test):
        found = doctest.testmod(module)
        assert found.attempted >= 5
        assert not found.failed
    text = (Path(__file__).parents[2] / "docs/bias.md").read_text()
    code, printed, *_ = re.findall(r"^```(?:python)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    exec(compile(code, "docs/bias.md", "exec"), {})
    assert capsys.readouterr().out == printed


def test_of_a_segment_with_strata_each_two_of_one_stratum_are_compared() -> None:
    groups, strata = ["p,F", "s,F", "p,M", "t,F", "s,X"], ["F", "F", "M", "F", "X"]
    assert compared(groups, strata) == [("p,F", "s,F"), ("p,F", "t,F"), ("s,F", "t,F")]
    found = pairs({("e", "sex"): groups, ("sex",): ["F", "M"]}, ["recall"], {("e", "sex"): strata})
    assert sum(pair.share for pair in found) == pytest.approx(1.0)
    deep = [pair.share for pair in found if "e,sex" in pair.subject]
    assert deep == pytest.approx([1 / 9] * 3)  # half the weight of a single segment, in three parts


def test_gaps_that_follow_from_others_are_too_small_where_these_are() -> None:
    many, little = of_cells(400, 400, 400, 400), of_cells(400, 40, 400, 340)
    assert few(many, many) == []
    assert few(many, little) == ["recall", "equalised_odds"]  # 380 labels of 1, of 381
    assert few(many, little, 0.1) == []
    assert few(many, of_cells(50, 0, 50, 0)) == [
        "positive_rate", "recall", "false_positive_rate", "precision", "accuracy", "equalised_odds",
        "disparate_impact", "four_fifths",
    ]  # fmt: skip
    said = (200, 1_600), (10, 380)  # of all predictions, labelled or not
    assert "positive_rate" in few(many, many, said=said)
    assert "positive_rate" not in few(many, of_cells(50, 0, 50, 0), said=((9, 400), (9, 400)))
    scored = counted(drawn(3, 100, 0.0))
    assert "calibration" in few(scored, scored)
    assert "calibration" not in few(counted(drawn(3, 2_000, 0.0)), counted(drawn(4, 2_000, 0.0)))


def test_a_calibration_gap_of_pairs_that_are_alike_has_no_interval() -> None:
    alike = counted((np.ones(5), np.ones(5), np.full(5, 0.7)))
    others = counted(drawn(3, 100, 0.0))
    for a, b in ((alike, others), (others, alike), (alike, alike)):
        gap = gaps(a, b)["calibration"]
        assert np.isnan([gap.low, gap.high]).all()
        assert np.isfinite(gap.value)
    assert "calibration" in few(alike, others)
