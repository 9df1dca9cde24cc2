"""Errors of a regression expected before its labels come: against those that came, and what else must hold of them."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.core.errors import StateError
from tocsin.core.snapshot import pack, unpack
from tocsin.detectors.loss_estimate import (
    MOST_ROWS,
    WIDTH,
    LossModel,
    count,
    differences,
    estimates,
)
from tocsin.detectors.loss_trees import MOST_TREES

pytestmark = pytest.mark.xdist_group("loss estimate")

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def drawn(seed: int, n: int, loud: float) -> Rows:
    """Return predictions, features and labels; a share `loud` of rows has errors five times as large as the others.

    How large an error is depends on two features and on the prediction; the third feature says nothing.
    """
    rng = np.random.default_rng(seed)
    where = np.where(rng.random(n) < loud, rng.normal(2, 1, n), rng.normal(-2, 1, n))
    features = np.stack([where, rng.normal(size=n), rng.random(n)], axis=1)
    predicted = where + features[:, 1]
    noise = np.exp(0.4 * where) * (1 + 0.5 * np.tanh(features[:, 1]))
    return predicted, features, predicted + noise * rng.normal(size=n)


def counted(predicted: np.ndarray, features: np.ndarray, model: LossModel) -> np.ndarray:
    table = np.zeros((1, WIDTH), np.int64)
    count(table, np.zeros(len(predicted), np.int64), predicted, features, model, 1)
    return table


@pytest.fixture(scope="module")
def model() -> LossModel:
    return LossModel.fit(*drawn(0, 20_000, 0.3))


@pytest.mark.parametrize("loud", [0.05, 0.3, 0.6, 0.95])
def test_it_follows_the_mae_where_the_mix_changes_and_a_constant_does_not(
    model: LossModel, loud: float
) -> None:
    predicted, features, label = drawn(7, 20_000, loud)
    found = estimates(counted(predicted, features, model)[0], model)
    mae = np.abs(label - predicted).mean()
    assert found["mae"].value == pytest.approx(mae, rel=0.05)
    assert found["rmse"].value == pytest.approx(np.sqrt(np.mean((label - predicted) ** 2)), rel=0.1)
    before = drawn(0, 20_000, 0.3)
    constant = np.abs(before[2] - before[0]).mean()
    if loud != 0.3:
        assert abs(constant - mae) > 0.25 * mae
        assert abs(constant - mae) > 5 * abs(found["mae"].value - mae)


def test_intervals_hold_the_realised_value_as_often_as_they_say() -> None:
    """Of 150 samples of 1,500 events, whose mix is not that of their reference of 4,000, another each time."""
    held: dict[str, list[bool]] = {"mae": [], "mse": [], "rmse": []}
    for seed in range(150):
        model = LossModel.fit(*drawn(seed, 4000, 0.3))
        predicted, features, label = drawn(seed + 1000, 1500, 0.5)
        found = estimates(counted(predicted, features, model)[0], model)
        square = np.mean((label - predicted) ** 2)
        truth = {"mae": np.abs(label - predicted).mean(), "mse": square, "rmse": np.sqrt(square)}
        for name, value in truth.items():
            held[name].append(found[name].low <= value <= found[name].high)
    for name, of in held.items():
        assert 0.87 <= np.mean(of) <= 0.99, (name, np.mean(of))


def test_intervals_of_differences_hold_those_that_come_as_often_as_they_say() -> None:
    """Of 150 pairs of groups, one of them louder; levels that both have in common widen nothing."""
    held: dict[str, list[bool]] = {"mae": [], "rmse": []}
    for seed in range(150):
        model = LossModel.fit(*drawn(seed, 4000, 0.3))
        sides = drawn(seed + 1000, 1500, 0.5), drawn(seed + 2000, 800, 0.3)
        a, b = (counted(predicted, features, model)[0] for predicted, features, _ in sides)
        found, alone = differences(a, b, model), [estimates(row, model) for row in (a, b)]
        errors = [label - predicted for predicted, _, label in sides]
        mae, rmse = ([f(e) for e in errors] for f in (lambda e: np.abs(e).mean(), lambda e: np.sqrt(np.mean(e**2))))  # fmt: skip
        for name, (ours, theirs) in {"mae": mae, "rmse": rmse}.items():
            gap = found[name]
            assert gap.value == pytest.approx(alone[0][name].value - alone[1][name].value)
            held[name].append(gap.low <= ours - theirs <= gap.high)
    for name, least in (("mae", 0.87), ("rmse", 0.78)):  # few loud rows of the smaller group decide
        assert least <= np.mean(held[name]) <= 0.99, (name, np.mean(held[name]))


def test_differences_of_what_cannot_be_told_have_no_entry(model: LossModel) -> None:
    predicted, features, _ = drawn(1, 500, 0.5)
    row, nothing = counted(predicted, features, model)[0], np.zeros(WIDTH, np.int64)
    assert differences(row, nothing, model) == {} == differences(nothing, row, model)
    same = differences(row, row, model)
    assert {name: gap.value for name, gap in same.items()} == {"mae": 0.0, "rmse": 0.0}
    assert all(gap.high > 0 for gap in same.values())
    perfect = LossModel.fit(predicted, features, predicted)
    row = counted(predicted, features, perfect)[0]
    assert differences(row, row, perfect) == {"mae": (0.0, 0.0, 0.0, 0.0)}


def test_sums_are_those_of_what_is_expected_of_each_event(model: LossModel) -> None:
    predicted, features, _ = drawn(3, 500, 0.5)
    each = [
        estimates(counted(predicted[i : i + 1], features[i : i + 1], model)[0], model)
        for i in range(500)
    ]
    whole = estimates(counted(predicted, features, model)[0], model)
    for name in ("mae", "mse"):
        assert whole[name].value == pytest.approx(np.mean([e[name].value for e in each]), rel=1e-9)
    assert whole["rmse"].value == pytest.approx(np.sqrt(whole["mse"].value))


def test_any_order_cut_merge_and_removal_gives_the_same_sums(model: LossModel) -> None:
    predicted, features, _ = drawn(1, 3000, 0.5)
    whole = counted(predicted, features, model)
    parts = np.array_split(np.random.default_rng(0).permutation(3000), 7)
    merged = sum(counted(predicted[part], features[part], model) for part in parts)
    np.testing.assert_array_equal(merged, whole)
    cells = np.arange(3000) % 3 - 1  # a third of them nowhere
    table = np.zeros((2, WIDTH), np.int64)
    count(table, cells, predicted, features, model, 1)
    assert table[:, 0].tolist() == [1000, 1000]
    count(table, cells, predicted, features, model, -1)
    assert not table.any()


def test_what_is_no_event_is_not_counted_and_missing_features_are_no_harm(model: LossModel) -> None:
    predicted = np.array([np.nan, np.inf, -1e71, 0.0, 0.0, 1e70])
    features = np.zeros((6, 3))
    features[4] = np.nan, np.inf, -np.inf
    table = counted(predicted, features, model)
    assert table[0, 0] == 3
    found = estimates(table[0], model)
    assert all(np.isfinite(metric[:3]).all() for metric in found.values())
    assert found["mse"].high < 1e6
    assert estimates(np.zeros(WIDTH, np.int64), model) == {}


def test_what_features_are_missing_is_learned() -> None:
    predicted, features, label = drawn(0, 8000, 0.3)
    lost = np.random.default_rng(1).random(8000) < 0.3
    features[lost] = np.nan
    label[lost] += 20.0
    model = LossModel.fit(predicted, features, label)
    found = [
        estimates(counted(predicted[of], features[of], model)[0], model) for of in (lost, ~lost)
    ]
    truth = [np.abs(label - predicted)[of].mean() for of in (lost, ~lost)]
    np.testing.assert_allclose([of["mae"].value for of in found], truth, rtol=0.05)


def test_it_is_refused_without_rows_and_with_other_features(model: LossModel) -> None:
    predicted, features, label = drawn(0, 400, 0.3)
    label[:101] = np.nan
    with pytest.raises(ValueError, match=r"found 299 reference rows .* expected 300"):
        LossModel.fit(predicted, features, label)
    with pytest.raises(ValueError, match=r"shape \(400, 3\) for 10 predictions"):
        LossModel.fit(predicted[:10], features, label[:10])
    with pytest.raises(ValueError, match="found 1 features, expected the 3"):
        counted(predicted, features[:, :1], model)


def test_a_model_that_is_never_wrong_and_one_without_features_are_learned() -> None:
    predicted, features, label = drawn(0, 1000, 0.3)
    perfect = LossModel.fit(predicted, features, predicted)
    found = estimates(counted(predicted, features, perfect)[0], perfect)
    assert {name: tuple(of) for name, of in found.items()} == dict.fromkeys(found, (0, 0, 0, 0))
    none = np.zeros((1000, 0))
    alone = LossModel.fit(predicted, none, label)
    mae = estimates(counted(predicted, none, alone)[0], alone)["mae"]
    assert mae.low <= np.abs(label - predicted).mean() <= mae.high


def test_it_is_bounded_and_a_snapshot_is_the_model(model: LossModel) -> None:
    predicted, features, label = drawn(2, MOST_ROWS + 5000, 0.3)
    large = LossModel.fit(predicted, features, label)
    for of in (large, model):
        assert len(of.trees.leaf) <= MOST_TREES
        assert len(of.snapshot()) <= 40_000
        again = LossModel.restored(of.snapshot())
        assert again.snapshot() == of.snapshot()
        table = counted(predicted[:500], features[:500], of)
        np.testing.assert_array_equal(counted(predicted[:500], features[:500], again), table)
        assert estimates(table[0], again) == estimates(table[0], of)
    with pytest.raises(StateError):
        LossModel.restored(model.snapshot()[:-1])
    meta, arrays = unpack("loss_estimate", 2, model.snapshot())
    arrays["leaf"] = arrays["leaf"][:, 1:]
    with pytest.raises(StateError):
        LossModel.restored(pack("loss_estimate", 2, meta, arrays))


def test_learning_twice_is_learning_once() -> None:
    rows = drawn(5, 3000, 0.3)
    assert LossModel.fit(*rows).snapshot() == LossModel.fit(*rows).snapshot()
