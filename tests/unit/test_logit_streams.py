"""Logits as streams: SciPy's numbers, at any batch cut, whatever the logits are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import entropy

from tocsin.core.errors import StateError
from tocsin.detectors.base import Observations
from tocsin.detectors.logit_streams import LogitStreams

WARM = 120


def logits(seed: int, n: int, classes: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(n, classes)) * np.linspace(0.5, 3, classes)
    found[np.arange(n), rng.integers(0, classes, n)] += 6
    return found


def feed(streams: LogitStreams, rows: np.ndarray) -> Observations:
    place = np.arange(len(rows))
    return streams.update(rows, place, np.zeros_like(place))


@pytest.mark.parametrize("classes", [2, 3, 10, 500])
def test_energy_margin_and_entropy_are_told_from_the_first_row(classes: int) -> None:
    z = logits(0, 200, classes)
    z[0] = 1.0
    found = feed(LogitStreams(WARM), z)
    assert found.names[:3] == ("logits:energy", "logits:margin", "logits:entropy")
    assert len(found.names) == 3 + min(8, classes)
    assert found.categories == frozenset()
    top = np.sort(z, axis=1)
    expected = [logsumexp(z, axis=1), top[:, -1] - top[:, -2], entropy(softmax(z, axis=1), axis=1)]
    np.testing.assert_allclose(found.values[:, :3], np.transpose(expected), rtol=1e-6, atol=1e-7)
    assert np.isnan(found.values[:WARM, 3:]).all()
    assert np.isfinite(found.values[WARM:, 3]).all()


@pytest.mark.parametrize("cut", [1, 7, 256, "random"])
@pytest.mark.parametrize("classes", [2, 10, 200])
def test_scores_and_state_are_the_same_bits_at_any_cut(cut: int | str, classes: int) -> None:
    z = logits(1, 700, classes)
    rng = np.random.default_rng(2)
    z[rng.integers(0, 700, 30), 1] = np.nan
    whole = LogitStreams(WARM)
    expected = feed(whole, z).values
    streams, at, parts = LogitStreams(WARM), 0, []
    while at < len(z):
        size = int(rng.integers(0, 90)) if cut == "random" else int(cut)
        parts.append(feed(streams, z[at : at + size]).values)
        at += size
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    assert streams.snapshot() == whole.snapshot()


@pytest.mark.parametrize("at", [0, 50, WARM, 300])
def test_a_restored_one_goes_on_bit_for_bit(at: int) -> None:
    z = logits(3, 500, 10)
    through, first, second = LogitStreams(WARM), LogitStreams(WARM), LogitStreams(99)
    expected = feed(through, z).values
    feed(first, z[:at])
    second.restore(first.snapshot())
    np.testing.assert_array_equal(feed(second, z[at:]).values, expected[at:])
    assert second.snapshot() == through.snapshot()
    with pytest.raises(StateError):
        second.restore(first.snapshot()[:-1])
    assert second.snapshot() == through.snapshot()


@pytest.mark.parametrize("scale", [0.0, 1e-200, 1.0, 1e30, 1e90])
def test_extreme_logits_have_usable_scores(scale: float) -> None:
    streams = LogitStreams(WARM)
    feed(streams, logits(4, WARM, 10))
    found = feed(streams, scale * logits(5, 100, 10)).values
    assert np.isfinite(found).all()
    assert (np.abs(found) <= 1e38).all()
    assert ((found[:, 2] >= 0) & (found[:, 2] <= np.log(10) + 1e-6)).all()


def test_junk_and_other_widths_are_counted_and_change_nothing_else() -> None:
    z = logits(6, WARM + 50, 10)
    expected = feed(LogitStreams(WARM), z).values
    dirty = np.repeat(z, 2, axis=0)
    dirty[1::2, 3] = np.inf
    streams = LogitStreams(WARM)
    found = feed(streams, dirty).values
    np.testing.assert_array_equal(found[::2], expected)
    assert np.isnan(found[1::2]).all()
    for width in (0, 1, 9, 5000):
        assert np.isnan(feed(streams, np.zeros((2, width))).values).all()
    assert (streams.warm_up.junk, streams.warm_up.wrong_width) == (len(z), 8)


def test_the_sample_is_dropped_with_its_last_row() -> None:
    streams = LogitStreams(WARM)
    feed(streams, logits(7, WARM, 10))
    assert streams.is_fitted
    assert streams.warm_up.sample == []
