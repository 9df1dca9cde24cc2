"""The advantage of attackers who know losses: against the plain formula, chance and the exact law."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from tocsin.detectors.membership import count, exposure, losses, table


def counted(members: np.ndarray, others: np.ndarray) -> np.ndarray:
    counts = table()
    for member, loss in enumerate((members, others)):
        count(counts, loss, np.full(len(loss), member), np.arange(len(loss)), 1)
    return counts


def plain(members: np.ndarray, others: np.ndarray) -> float:
    """Yeom and others 2018, definition 4, with the members' mean loss as the threshold."""
    return float((members <= members.mean()).mean() - (others <= members.mean()).mean())


@pytest.mark.parametrize("seed", range(10))
def test_it_is_the_plain_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    members, others = rng.gamma(0.3, 0.2, 3000), rng.gamma(0.5, 0.2 + 0.1 * seed, 2000)
    found = exposure(counted(members, others))
    value = found["advantage"]
    assert abs(value.value - plain(members, others)) <= value.error + 1e-12
    assert value.error < 0.02
    assert value.low < value.value < value.high
    fpr, tpr, _ = reference.roc_curve(
        np.repeat([1, 0], [3000, 2000]), -np.concatenate([members, others])
    )
    assert found["best"].value <= (tpr - fpr).max() + 1e-12


def test_of_one_law_there_is_no_advantage_and_the_best_threshold_gains_none() -> None:
    """The best threshold on the sample itself would have an advantage of 0.04 by chance."""
    naive, held, values = [], 0, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        members, others = rng.exponential(size=(2, 500))
        found = exposure(counted(members, others))
        values.append(found["best"].value)
        held += found["best"].low <= 0 <= found["best"].high
        fpr, tpr, _ = reference.roc_curve(
            np.repeat([1, 0], 500), -np.concatenate([members, others])
        )
        naive.append((tpr - fpr).max())
    assert np.mean(naive) > 0.03
    assert abs(np.mean(values)) < 0.006
    assert held / 200 >= 0.91


def test_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth = plain(rng.exponential(0.3, 2_000_000), rng.exponential(0.9, 2_000_000))
    held = 0
    for _ in range(300):
        found = exposure(counted(rng.exponential(0.3, 700), rng.exponential(0.9, 400)))
        held += found["advantage"].low <= truth <= found["advantage"].high
    assert 0.91 <= held / 300 <= 1


def test_a_model_that_knows_its_rows_by_heart_is_laid_open() -> None:
    found = exposure(counted(np.zeros(400), np.full(300, 2.0)))
    assert found["advantage"].value == 1.0
    assert found["best"].value == 1.0
    assert found["best"].low > 0.98


def test_any_order_merge_and_correction_gives_the_same_counts() -> None:
    rng = np.random.default_rng(1)
    loss, member, place = rng.gamma(0.4, 1, 2000), rng.integers(0, 2, 2000), np.arange(2000)
    whole = table()
    count(whole, loss, member, place, 1)
    merged = table()
    for part in np.array_split(rng.permutation(2000), 9):
        other = table()
        count(other, loss[part], member[part], place[part], 1)
        merged += other
    np.testing.assert_array_equal(merged, whole)
    count(whole, loss, member, place, -1)
    assert not whole.any()


def test_what_is_no_loss_is_not_counted_and_without_both_kinds_nothing_is_known() -> None:
    counts = table()
    odd = np.array([np.nan, np.inf, -1.0, 1e300, 0.0])
    count(counts, odd, np.array([0, 0, 0, 0, 2]), np.arange(5), 1)
    assert counts[..., 0].sum() == 1  # 1e300, as the largest
    assert exposure(counts) == {}
    assert exposure(table()) == {}


def test_losses_of_confidences() -> None:
    found = losses(np.array([1.0, 0.5, 0.0, np.nan, 1.2]))
    np.testing.assert_allclose(found[:3], [0, np.log(2), -np.log(np.finfo(float).eps)])
    assert np.isnan(found[3:]).all()
