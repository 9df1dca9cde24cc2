"""Embeddings as streams: what they are, that they do not depend on batches, and that nothing breaks them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from tocsin.core.errors import StateError
from tocsin.core.snapshot import unpack
from tocsin.detectors.base import Observations
from tocsin.detectors.embedding import EmbeddingStreams

WARM = 200


def clusters(seed: int, n: int, d: int, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of some classes, each with a mean of its own, and the classes."""
    means = 3 * np.random.default_rng(99).normal(size=(classes, d))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, classes, n)
    return means[drawn] + rng.normal(size=(n, d)) * np.linspace(0.5, 2, d), drawn.astype(float)


def feed(
    streams: EmbeddingStreams, vectors: np.ndarray, classes: np.ndarray | None, begin: int = 0
) -> Observations:
    offsets = np.arange(begin, begin + len(vectors))
    return streams.update(vectors, classes, offsets, np.zeros_like(offsets))


def fitted(d: int = 16, warm: int = WARM, seed: int = 0) -> EmbeddingStreams:
    streams = EmbeddingStreams(warm)
    feed(streams, *clusters(seed, warm, d))
    assert streams.is_fitted
    return streams


def column(found: Observations, name: str) -> np.ndarray:
    return found.values[:, found.names.index(f"embedding:{name}")]


@pytest.mark.parametrize(("d", "directions"), [(1, 1), (3, 3), (8, 8), (64, 8), (300, 8)])
def test_streams_begin_after_the_warm_up(d: int, directions: int) -> None:
    vectors, classes = clusters(1, WARM + 100, d)
    found = feed(EmbeddingStreams(WARM), vectors, classes)
    expected = ["distance", *(f"pc{k + 1}" for k in range(directions)), "kernel", "mmd", "cell"]
    assert found.names == tuple(f"embedding:{name}" for name in expected)
    assert found.categories == {"embedding:cell"}
    assert np.isnan(found.values[:WARM]).all()
    each = [name for name in expected if name != "mmd"]
    assert all(np.isfinite(column(found, name)[WARM:]).all() for name in each)
    assert np.flatnonzero(~np.isnan(column(found, "mmd"))).tolist() == [WARM + 49, WARM + 99]
    np.testing.assert_array_equal(found.offsets, np.arange(WARM + 100))


@pytest.mark.parametrize("d", [3, 64, 200])
@pytest.mark.parametrize("cut", [1, 7, 256, "random"])
def test_scores_and_state_are_the_same_bits_at_any_cut(d: int, cut: int | str) -> None:
    vectors, classes = clusters(2, 1100, d)
    rng = np.random.default_rng(3)
    for value in (np.nan, np.inf, 1e200):
        vectors[rng.integers(0, len(vectors), 20), rng.integers(0, d, 20)] = value
    classes[rng.random(len(classes)) < 0.1] = np.nan
    whole = EmbeddingStreams(WARM)
    expected = feed(whole, vectors, classes).values
    assert whole.warm_up.junk > 40
    streams, at, parts = EmbeddingStreams(WARM), 0, []
    while at < len(vectors):
        size = int(rng.integers(0, 90)) if cut == "random" else int(cut)
        part = slice(at, at + size)
        parts.append(feed(streams, vectors[part], classes[part], at).values)
        at += size
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    assert streams.snapshot() == whole.snapshot()


@pytest.mark.parametrize("at", [0, 1, WARM - 1, WARM, WARM + 33, 700])
@pytest.mark.parametrize("d", [5, 150])
def test_a_restored_one_goes_on_bit_for_bit(at: int, d: int) -> None:
    vectors, classes = clusters(4, 800, d)
    through = EmbeddingStreams(WARM)
    expected = feed(through, vectors, classes).values
    first = EmbeddingStreams(WARM)
    before = feed(first, vectors[:at], classes[:at]).values.reshape(-1, expected.shape[1])
    second = EmbeddingStreams(WARM + 7, block=9)  # what was begun stays
    second.restore(first.snapshot())
    after = feed(second, vectors[at:], classes[at:], at).values
    np.testing.assert_array_equal(np.concatenate([before, after]), expected)
    assert second.snapshot() == through.snapshot()


def test_a_damaged_snapshot_is_refused_and_nothing_changes() -> None:
    streams = fitted()
    state = streams.snapshot()
    flipped = bytearray(state)
    flipped[len(state) // 2] ^= 1
    for damaged in (bytes(flipped), state[:-1], b"", streams.steady(), streams.volatile()):
        with pytest.raises(StateError):
            streams.restore(damaged)
        assert streams.snapshot() == state


def test_the_large_part_of_the_state_is_written_once() -> None:
    streams = fitted()
    changes, steady = streams.warm_up.changes, streams.steady()
    feed(streams, *clusters(5, 300, 16))
    assert (streams.warm_up.changes, streams.steady()) == (changes, steady)
    assert len(streams.volatile()) < 3000


def test_memory_is_bounded_whatever_the_width() -> None:
    streams = EmbeddingStreams(1000)
    feed(streams, np.random.default_rng(6).normal(size=(999, 4096)), None)
    sample = unpack("embedding_steady", 1, streams.steady())[1]["sample"]
    assert sample.shape == (999, 128)
    feed(streams, np.random.default_rng(7).normal(size=(1, 4096)), None)
    assert streams.is_fitted
    assert streams.warm_up.sample == []
    assert len(streams.steady()) < 500_000


def test_later_scores_are_a_function_of_the_vector_alone() -> None:
    """Which is what keeps exchangeable vectors exchangeable: any order gives the same scores, in that order."""
    vectors, classes = clusters(8, 500, 16)
    streams = fitted()
    state = streams.snapshot()
    straight = feed(streams, vectors, classes)
    order = np.random.default_rng(9).permutation(len(vectors))
    streams.restore(state)
    shuffled = feed(streams, vectors[order], classes[order])
    for name in ("distance", "pc1", "pc8", "kernel", "cell"):
        np.testing.assert_array_equal(column(shuffled, name), column(straight, name)[order])


def test_blocks_are_functions_of_their_own_vectors() -> None:
    vectors, classes = clusters(10, 500, 16)
    streams = fitted()
    straight = column(feed(streams, vectors, classes), "mmd")[49::50]
    turned = np.arange(500).reshape(10, 50)[::-1].ravel()
    again = column(feed(streams, vectors[turned], classes[turned]), "mmd")[49::50]
    np.testing.assert_array_equal(again, straight[::-1])


def test_clean_scores_after_the_warm_up_have_one_law() -> None:
    vectors, classes = clusters(11, 6000, 32)
    found = feed(fitted(32), vectors, classes)
    for name in found.names:
        values = found.values[~np.isnan(found.values[:, found.names.index(name)])]
        values = values[:, found.names.index(name)]
        half = len(values) // 2
        assert kstest(values[:half], values[half:]).pvalue > 1e-4, name


def test_the_distance_is_to_the_class_that_is_predicted() -> None:
    vectors, classes = clusters(12, 400, 16)
    streams = fitted()
    own = column(feed(streams, vectors, classes), "distance")
    other = column(feed(streams, vectors, (classes + 1) % 5), "distance")
    assert 3 < own.mean() < 5  # the root of 16 dimensions, and a little
    assert (other > own).mean() > 0.99


def test_classes_that_are_new_rare_or_unknown_have_the_distance_to_all() -> None:
    vectors, classes = clusters(13, WARM, 16)
    classes[:9] = 7.0  # nine vectors are too few
    streams = EmbeddingStreams(WARM)
    feed(streams, vectors, classes)
    new = clusters(14, 50, 16)[0]
    without = column(feed(streams, new, None), "distance")
    for code in (7.0, 123.0, -(2.0**52) - 17, np.nan):
        found = column(feed(streams, new, np.full(50, code)), "distance")
        np.testing.assert_array_equal(found, without)
    known = column(feed(streams, new, np.full(50, 2.0)), "distance")
    assert (known != without).all()


SHIFTS = {
    "a mean": ("distance", lambda x, c: (x + 0.8, c)),
    "a scale": ("distance", lambda x, c: (x * 1.6, c)),
    "along a direction": ("pc1", lambda x, c: (x * 1.3, c)),
    "to where the warm-up is thin": ("kernel", lambda x, c: (x * 2, c)),
}


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_moves_its_stream(name: str) -> None:
    stream, change = SHIFTS[name]
    streams = fitted()
    clean = column(feed(streams, *clusters(15, 1500, 16)), stream)
    moved = column(feed(streams, *change(*clusters(16, 1500, 16))), stream)
    assert kstest(moved, clean).pvalue < 1e-9


def test_a_class_that_goes_missing_leaves_its_cells_empty() -> None:
    vectors, classes = clusters(15, 1500, 16)
    streams = fitted()
    cells = column(feed(streams, vectors, classes), "cell")
    assert set(cells) <= set(range(16))
    without = column(feed(streams, vectors[classes != 2], None), "cell")
    before = np.bincount(cells.astype(int), minlength=16)
    after = np.bincount(without.astype(int), minlength=16)
    assert after[before > after].sum() < 0.02 * len(without)
    assert (before - after).sum() == (classes == 2).sum()


def test_mmd_sees_a_change_of_correlation_that_no_coordinate_shows() -> None:
    rng = np.random.default_rng(17)
    clean = rng.normal(size=(6000, 12))
    streams = EmbeddingStreams(1000)
    before = column(feed(streams, clean, None), "mmd")
    pairs = rng.normal(size=(5000, 12))
    pairs[:, 6:] = 0.9 * pairs[:, :6] + np.sqrt(1 - 0.81) * pairs[:, 6:]
    after = column(feed(streams, pairs, None), "mmd")
    before, after = (values[~np.isnan(values)] for values in (before, after))
    assert np.median(after) > np.quantile(before, 0.95)


JUNK = (np.nan, np.inf, -np.inf, 1e308, -1e101)


@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_counted_and_changes_nothing_else(junk: float) -> None:
    vectors, classes = clusters(18, WARM + 300, 16)
    expected = feed(EmbeddingStreams(WARM), vectors, classes).values
    dirty = np.repeat(vectors, 2, axis=0)
    dirty[1::2, 5] = junk
    streams = EmbeddingStreams(WARM)
    found = feed(streams, dirty, np.repeat(classes, 2)).values
    np.testing.assert_array_equal(found[::2], expected)
    assert np.isnan(found[1::2]).all()
    assert (streams.warm_up.junk, streams.warm_up.wrong_width) == (len(vectors), 0)


@pytest.mark.parametrize("width", [0, 1, 15, 17, 5000])
def test_vectors_of_another_width_are_counted_and_change_nothing_else(width: int) -> None:
    streams = fitted()
    steady = streams.steady()
    found = feed(streams, np.zeros((7, width)), None)
    assert len(found.names) == 12
    assert np.isnan(found.values).all()
    assert streams.warm_up.wrong_width == 7
    assert streams.steady() == steady


def test_widths_that_are_not_looked_at_do_not_decide_on_the_width() -> None:
    streams = EmbeddingStreams(WARM)
    for width in (0, 4097):
        assert np.isnan(feed(streams, np.zeros((3, width)), None).values).all()
    feed(streams, np.full((3, 9), np.nan), None)
    feed(streams, *clusters(19, WARM, 16))
    assert streams.is_fitted
    assert (streams.warm_up.width, streams.warm_up.junk, streams.warm_up.wrong_width) == (16, 3, 6)


def wild(vectors: np.ndarray) -> np.ndarray:
    found = vectors.copy()
    found[[3, 77, 140]] = 1e99
    return found


SAMPLES = {
    "constant": lambda x: np.full_like(x, 3.0),
    "zeros": lambda x: 0 * x,
    "two points": lambda x: np.where(x[:, :1] > 0, 1.0, -1.0) * np.ones(x.shape[1]),
    "one row but one": lambda x: np.where(np.arange(len(x))[:, None] == 5, x, 1.0),
    "equal columns": lambda x: np.repeat(x[:, :1], x.shape[1], axis=1),
    "one column a million times the others": lambda x: x * np.where(np.arange(x.shape[1]) == 2, 1e6, 1),
    "tiny": lambda x: 1e-90 * x,
    "subnormal": lambda x: 5e-324 * np.round(x),
    "huge": lambda x: 1e98 * x,
    "far from zero": lambda x: 1e9 + x,
    "three giants": wild,
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("d", [2, 16, 300])
def test_whatever_the_warm_up_was_usable_vectors_have_usable_scores(name: str, d: int) -> None:
    vectors, classes = clusters(20, WARM, d)
    streams = EmbeddingStreams(WARM)
    feed(streams, SAMPLES[name](vectors), classes)
    later = clusters(21, 60, d)[0]
    for scale in (0.0, 1e-300, 1.0, 1e99):
        with np.errstate(under="ignore"):
            found = feed(streams, np.clip(scale * later, -1e100, 1e100), classes[:60])
        for stream in ("distance", "kernel", "cell"):
            values = column(found, stream)
            assert np.isfinite(values).all()
            assert (values >= -1e-8).all()
        assert (np.nan_to_num(np.abs(found.values)) <= 1e38).all()


def test_giants_in_the_warm_up_do_not_change_what_is_learnt() -> None:
    vectors, classes = clusters(22, WARM, 16)
    clean, streams = EmbeddingStreams(WARM), EmbeddingStreams(WARM)
    feed(clean, vectors, classes)
    feed(streams, wild(vectors), classes)
    later = clusters(23, 1000, 16)
    expected, found = feed(clean, *later), feed(streams, *later)
    for name in ("distance", "pc1", "kernel"):
        assert np.corrcoef(column(found, name), column(expected, name))[0, 1] > 0.97, name


def test_a_direction_without_variance_has_no_values() -> None:
    rng = np.random.default_rng(25)
    flat = rng.normal(size=(WARM + 10, 2)) @ rng.normal(size=(2, 6))
    found = feed(EmbeddingStreams(WARM), flat, None)
    assert np.isfinite(column(found, "pc2")[WARM:]).all()
    assert np.isnan(column(found, "pc3")).all()


def test_the_given_arrays_are_not_kept() -> None:
    vectors, classes = clusters(26, WARM + 60, 16)
    expected = feed(EmbeddingStreams(WARM), vectors, classes).values
    streams, found = EmbeddingStreams(WARM), []
    for at in range(0, len(vectors), 20):
        mine, own = vectors[at : at + 20].copy(), classes[at : at + 20].copy()
        found.append(feed(streams, mine, own, at).values)
        mine[:], own[:] = 0.0, 0.0
    np.testing.assert_array_equal(np.concatenate(found), expected)


def test_wrong_parameters_and_arrays_are_refused_with_what_was_found() -> None:
    for warm in (49, 8193):
        with pytest.raises(ValueError, match=f"50 to 8192, got {warm}"):
            EmbeddingStreams(warm)
    with pytest.raises(ValueError, match="block must be 2 or more, got 1"):
        EmbeddingStreams(block=1)
    streams = EmbeddingStreams(WARM)
    state = streams.snapshot()
    place = np.arange(3)
    for vectors, classes in (
        (np.zeros(3), None),
        (np.zeros((4, 2)), None),
        (np.zeros((3, 2)), np.zeros(2)),
    ):
        with pytest.raises(ValueError, match=r"expected \(n, d\) vectors"):
            streams.update(vectors, classes, place, place)
    assert streams.snapshot() == state
