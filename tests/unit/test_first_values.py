"""The first values of streams, their scale, and columns that do not vary."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.detectors.first_values import MOST_BLOCKS, FirstValues, center_and_scale


def test_a_sample_is_the_first_usable_values_with_their_blocks() -> None:
    values = np.arange(300.0)
    values[[3, 50, 51]] = np.nan, np.inf, 1e308
    blocks = np.arange(300) // 24
    first = FirstValues(100)
    begins, notices, samples = first.collect(values[:60, None], blocks[:60], {"x": 0})
    assert (begins, notices, samples) == ({"x": 60}, [], {})
    assert first.born.tolist() == [0]
    begins, _, samples = first.collect(values[60:, None], blocks[60:], {"x": 0})
    usable = np.flatnonzero(np.abs(values) < 1e300)[:100]
    assert begins == {"x": usable[-1] + 1 - 60}
    assert samples["x"].values.tolist() == values[usable].tolist()
    assert samples["x"].blocks.tolist() == blocks[usable].tolist()
    assert (samples["x"].born, samples["x"].grown) == (0, blocks[usable[-1]])
    assert first.born.tolist() == []


def test_a_slow_stream_is_taken_after_120_blocks_with_what_it_has() -> None:
    values = np.arange(400.0)
    blocks = np.arange(400)  # one value a block
    _, _, samples = FirstValues(1000).collect(values[:, None], blocks, {"x": 0})
    assert samples["x"].values.tolist() == values[:MOST_BLOCKS].tolist()
    assert samples["x"].blocks.tolist() == blocks[:MOST_BLOCKS].tolist()
    assert samples["x"].grown == MOST_BLOCKS
    _, _, samples = FirstValues(1000).collect(values[:, None], 2 * blocks, {"x": 0})
    assert samples == {}  # fewer than 100


def test_a_notice_says_where_a_constant_column_first_varies() -> None:
    values = np.concatenate([np.full(700, 0.1), np.full(600, 0.2), np.arange(150.0)])
    first = FirstValues(100)
    found, samples = [], {}
    for begin in range(0, len(values), 97):
        rows = np.arange(begin, min(begin + 97, len(values)))
        _, notices, more = first.collect(values[rows][:, None], rows // 24, {"x": 0})
        found += [(begin + n.row, n.equal) for n in notices]
        samples |= more
        if more:
            break
    assert found == [(700, 700), (1300, 600)]
    assert samples["x"].values[0] == 0.0
    assert samples["x"].blocks[0] == 1300 // 24
    assert samples["x"].born == 0


def test_a_constant_column_may_be_larger_than_the_sample() -> None:
    values = np.concatenate([np.full(300, 0.5), np.arange(10.0)])
    _, notices, samples = FirstValues(100).collect(
        values[:, None], np.zeros(310, np.int64), {"x": 0}
    )
    assert notices == []
    assert len(samples["x"].values) == len(samples["x"].blocks) == 100
    assert samples["x"].values.tolist()[-2:] == [0.5, 0.0]


def test_scales_are_robust_and_never_zero() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(5, 2, 2000)
    normal[:20] = 1e30
    assert center_and_scale(normal) == pytest.approx((5, 2), abs=0.15)
    counts = np.where(rng.random(2000) < 0.1, rng.poisson(8, 2000) + 1.0, 0.0)
    assert center_and_scale(counts) == pytest.approx((0, 9))
    assert center_and_scale(np.full(200, 1e9)) == pytest.approx((1e9, 100))
    assert center_and_scale(np.zeros(200))[1] > 0


def test_other_streams_are_kept_when_one_is_forgotten() -> None:
    values = np.column_stack(
        [np.arange(150.0), np.where(np.arange(150) % 2, np.nan, np.arange(150))]
    )
    first = FirstValues(100)
    _, _, samples = first.collect(values, np.arange(150) // 24, {"full": 0, "half": 1})
    assert list(samples) == ["full"]
    _, _, samples = first.collect(values[:, 1:], 7 + np.arange(150) // 24, {"half": 0})
    assert samples["half"].values.tolist() == [*range(0, 150, 2), *range(0, 50, 2)]
