"""Features that tell the label: measures against scikit-learn's, one leak among forty, and none where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from tocsin.core.errors import StateError
from tocsin.detectors.leaky_features import (
    COPY,
    MAYBE,
    MORE,
    LabelCounts,
    after_event,
    equal_to_label,
    leaky,
    told,
)

NAMES = tuple(f"x{k}" for k in range(40))
KNOWN = dict.fromkeys(NAMES, False)


def drawn(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 40))
    weights = np.where(np.arange(40) % 4 == 0, 0.5, 0)
    return x, (rng.random(n) < 1 / (1 + np.exp(-x @ weights))).astype(np.int64)


def pair(seed: int, leak) -> tuple[LabelCounts, LabelCounts]:
    """Return counts of a reference, and of 2,000 later labels of which one feature tells them."""
    x, y = drawn(seed, 12_000)
    before = LabelCounts.fit(NAMES, x[:10_000])
    before.add(x[:10_000], y[:10_000])
    x[10_000:, 7] = leak(y[10_000:], np.random.default_rng(seed + 1))
    after = before.like()
    after.add(x[10_000:], y[10_000:])
    return before, after


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("leak", "alone"),
    [
        (lambda y, _: y.astype(float), True),
        (lambda y, _: 1.0 - y, True),
        (lambda y, rng: y + 0.1 * rng.normal(size=len(y)), True),
        (lambda y, rng: (y ^ (rng.random(len(y)) < 0.05)) * 1.0, False),
        (lambda y, rng: np.where(y == 1, rng.normal(size=len(y)), 5.0), False),
    ],
)
def test_one_of_forty_is_found_and_no_other(seed: int, leak, alone: bool) -> None:
    before, after = pair(seed, leak)
    assert [claim.feature for claim in leaky(after, before)] == ["x7"]
    if alone:  # it is known without a reference too
        (claim,) = leaky(after)
        assert (claim.feature, claim.why) == ("x7", "near the label")
        assert claim.value.low > 0.95


def test_without_a_leak_nothing_is_said() -> None:
    for seed in range(20):
        x, y = drawn(seed, 4000)
        before = LabelCounts.fit(NAMES, x[:2000])
        before.add(x[:2000], y[:2000])
        after = before.like()
        after.add(x[2000:], y[2000:])
        assert leaky(after, before) == leaky(after) == []


def test_an_easy_task_has_no_leaky_feature() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 3000)
    x = y[:, None] + 0.1 * rng.normal(size=(3000, 40))
    counts = LabelCounts.fit(NAMES, x)
    counts.add(x, y)
    assert leaky(counts) == []


def scored(seed: int, apart: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and forty features of which the eighth is a risk score."""
    x, y = drawn(seed, n)
    x[:, 7] = np.random.default_rng(seed).normal(apart * y)
    return x, y


@pytest.mark.parametrize("seed", range(10))
def test_a_feature_that_told_it_so_well_in_training_is_honest_unless_it_is_a_copy(
    seed: int,
) -> None:
    x, y = scored(seed, 3.8, 42_000)  # an area of 0.996
    before = LabelCounts.fit(NAMES, x[:10_000])
    before.add(x[:10_000], y[:10_000])
    for end in (11_000, 14_000, 42_000):
        after = before.like()
        after.add(x[10_000:end], y[10_000:end])
        assert leaky(after, before, known=KNOWN) == []
        (claim,) = leaky(after, before)
        assert (claim.feature, claim.why) == ("x7", MAYBE)
        (claim,) = leaky(after, before, known=KNOWN | {"x7": True})
        assert (claim.feature, claim.why) == ("x7", COPY)


def test_a_feature_that_comes_much_nearer_to_the_label_than_in_training_is_named() -> None:
    x, y = scored(0, 2.2, 14_000)  # an area of 0.94: not so far below 0.99 that it is more by 0.15
    before = LabelCounts.fit(NAMES, x[:10_000])
    before.add(x[:10_000], y[:10_000])
    same, nearer = before.like(), before.like()
    same.add(x[10_000:], y[10_000:])
    assert leaky(same, before, known=KNOWN) == []
    x[10_000:, 7] += 3 * y[10_000:]
    nearer.add(x[10_000:], y[10_000:])
    (claim,) = leaky(nearer, before, known=KNOWN)
    assert (claim.feature, claim.why) == ("x7", MORE)


def test_one_that_training_did_not_have_may_be_a_leak() -> None:
    x, y = scored(1, 4.0, 12_000)
    known = x[:10_000].copy()
    known[:, 7] = np.nan
    before = LabelCounts.fit(NAMES, x[:10_000])
    before.add(known, y[:10_000])
    after = before.like()
    after.add(x[10_000:], y[10_000:])
    (claim,) = leaky(after, before, known=KNOWN)
    assert (claim.feature, claim.why) == ("x7", MORE)  # its being missing told nothing
    blank = LabelCounts(NAMES, before.edges)
    (claim,) = leaky(after, blank, known=KNOWN)
    assert (claim.feature, claim.why) == ("x7", MAYBE)
    (claim,) = leaky(after, after, known={})  # a reference of its own, which may leak itself
    assert (claim.feature, claim.why) == ("x7", MAYBE)


def test_few_labels_prove_nothing() -> None:
    y = np.arange(58) % 2
    x = np.tile(y[:, None].astype(float), 40)
    x[:, 1:] = np.random.default_rng(0).normal(size=(58, 39))
    counts = LabelCounts.fit(NAMES, x)
    counts.add(x, y)
    assert told(counts)["auc"] == {}
    assert leaky(counts) == []
    assert leaky(LabelCounts.fit(NAMES, x)) == []


def test_more_looks_ask_for_more() -> None:
    before, after = pair(0, lambda y, rng: (y ^ (rng.random(len(y)) < 0.115)) * 1.0)
    assert [c.feature for c in leaky(after, before)] == ["x7"]
    assert leaky(after, before, look=10**9) == []


def test_the_area_is_scikit_learns_where_values_are_those_of_the_edges() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 3000)
    x = (rng.integers(0, 6, (3000, 40)) + (rng.random((3000, 40)) < 0.5) * y[:, None]).astype(float)
    x[::10, 3] = np.nan
    counts = LabelCounts.fit(NAMES, x)
    counts.add(x, y)
    for k, name in enumerate(NAMES):
        known = ~np.isnan(x[:, k])
        area = reference.roc_auc_score(y[known], x[known, k])
        assert told(counts)["auc"][name].value == pytest.approx(max(area, 1 - area), abs=1e-12)
        mutual = reference.mutual_info_score(np.nan_to_num(x[:, k], nan=-1), y)
        entropy = reference.mutual_info_score(y, y)
        value = told(counts)["information"][name]
        assert value.value == pytest.approx(mutual / entropy, abs=0.004)  # less its bias
        assert value.low <= value.value <= value.high


def test_intervals_hold_the_truth() -> None:
    def value(seed: int, n: int):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 2, n)
        x = (y * 0.8 + rng.normal(size=n))[:, None]
        counts = LabelCounts(["x"], EDGES_OF_ONE)
        counts.add(x, y)
        return {by: found["x"] for by, found in told(counts).items()}

    truth = value(0, 1_000_000)
    samples = [value(seed, 1500) for seed in range(1, 201)]
    for by, of in truth.items():
        held = np.mean([s[by].low <= of.value <= s[by].high for s in samples])
        assert 0.9 <= held <= 0.99, (by, held)


EDGES_OF_ONE = np.linspace(-2, 3, 16).reshape(1, -1)


def test_any_order_merge_and_correction_gives_the_same_counts() -> None:
    x, y = drawn(2, 3000)
    whole = LabelCounts.fit(NAMES, x)
    first, second = whole.like(), whole.like()
    whole.add(x, y)
    order = np.random.default_rng(0).permutation(3000)
    wrong = 1 - y
    first.add(x[order[:1000]], y[order[:1000]])
    second.add(x[order[1000:]], wrong[order[1000:]])
    second.add(x[order[1000:]], wrong[order[1000:]], -1)
    second.add(x[order[1000:]], y[order[1000:]])
    first.merge(second)
    np.testing.assert_array_equal(first.table, whole.table)
    again = LabelCounts.restore(whole.snapshot())
    again.add(x, y, -1)
    assert not again.table.any()
    with pytest.raises(StateError):
        LabelCounts.restore(whole.snapshot()[:-3])


def test_what_is_no_class_is_not_counted() -> None:
    x, _ = drawn(3, 100)
    counts = LabelCounts.fit(NAMES, x)
    counts.add(x, np.resize([-1, 2, 7], 100))
    assert not counts.table.any()
    with pytest.raises(ValueError, match="expected values"):
        counts.add(x[:, :3], np.zeros(100, np.int64))
    with pytest.raises(ValueError, match="classes"):
        LabelCounts.fit(NAMES, x, 1)
    with pytest.raises(ValueError, match="error"):
        leaky(counts, error=0)


def test_several_classes_are_told_by_information() -> None:
    rng = np.random.default_rng(4)
    y = rng.integers(0, 5, 3000)
    x = rng.normal(size=(3000, 40))
    x[:, 9] = np.array([3, 1, 4, 0, 2])[y]
    counts = LabelCounts.fit(NAMES, x, 5)
    counts.add(x, y)
    (claim,) = leaky(counts)
    assert (claim.feature, claim.by) == ("x9", "information")


def test_a_feature_may_be_the_label_of_a_later_row() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 10, 500).astype(float)
    values = np.append(labels[2:], [np.nan, np.nan])
    found = equal_to_label(values, labels, (0, 1, 2, 600))
    assert found[2].value == 1.0
    assert found[2].low > 0.99
    assert found[0].high < 0.2
    assert 600 not in found
    with pytest.raises(ValueError, match="lags"):
        equal_to_label(values, labels, (-1,))


def test_a_feature_may_be_of_a_time_after_the_event() -> None:
    rows, share = after_event(np.array([5, 20, -1, 30]), np.array([10, 10, 10, -1]))
    assert rows.tolist() == [1]
    assert share is not None
    assert share.value == 0.5
    nothing, unknown = after_event(np.array([-1]), np.array([3]))
    assert (len(nothing), unknown) == (0, None)
