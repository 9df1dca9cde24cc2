"""Fingerprints of rows, images and embeddings: what is planted is found again, chance is not taken for it."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.core.columns import Strings
from tocsin.core.errors import StateError
from tocsin.detectors.coincidence import Law, late, leaked
from tocsin.detectors.fingerprints import Fingerprints, KeyIndex, Scheme, Served
from tocsin.detectors.signatures import (
    IMAGE_DISTANCE,
    ServedVectors,
    Signatures,
    image_vectors,
)

NAMES = ("a", "b", "c", "d")


def printed(x: np.ndarray, form: str) -> np.ndarray:
    return np.array([float(format(v, form)) for v in x.ravel()]).reshape(x.shape)


def table(seed: int, n: int, decimals: int | None = None) -> np.ndarray:
    """Numbers of four sizes, some missing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)) * [0.3, 1, 50, 4000]
    x[rng.random(n) < 0.1, 1] = np.nan
    return x if decimals is None else np.round(x, decimals)


def texts(seed: int, n: int) -> list[str | None]:
    return np.random.default_rng(seed).choice(["x", "y", "", None], n).tolist()


@pytest.mark.parametrize("decimals", [None, 4, 2])
@pytest.mark.parametrize(
    "how",
    [
        lambda x: x,
        lambda x: np.round(x, 3),
        lambda x: printed(x, ".3g"),
        lambda x: printed(x, ".4g"),
        lambda x: printed(x, ".5g"),
        lambda x: x.astype(np.float32).astype(np.float64),
    ],
)
def test_a_row_is_found_after_any_rounding_to_three_digits_or_more(how, decimals) -> None:
    x = table(0, 3000, decimals)
    reference = Fingerprints.fit(x, NAMES)
    served = Served(reference)
    exact, near = served.add(how(x))
    assert (near == np.arange(3000)).mean() >= 0.995
    if np.array_equal(how(x), x, equal_nan=True):
        assert (exact == np.arange(3000)).all()
    else:
        assert (exact < 0).mean() > 0.4  # it is not the same row


def test_other_rows_are_not_found_nor_rows_of_other_text() -> None:
    x, other = table(1, 3000), table(2, 3000)
    reference = Fingerprints.fit(x, NAMES, [Strings.of(texts(1, 3000))], ["t"])
    served = Served(reference)
    exact, near = served.add(other, [Strings.of(texts(1, 3000))])
    assert (exact == -1).all()
    assert (near == -1).all()
    assert served.leaks()["near"].rate.value == 0
    same, _ = served.add(x[:100], [Strings.of(["z"] * 100)])
    assert (same == -1).all()
    text = texts(1, 3000)
    missing = [i for i in range(3000) if text[i] is None]
    blank = [None if t == "" else "" if t is None else t for t in text]
    swapped, _ = served.add(x[missing], [Strings.of([blank[i] for i in missing])])
    assert (swapped == -1).all()  # no text is not empty text


@pytest.mark.parametrize("planted", [0.0, 0.05, 0.4])
def test_the_rate_is_what_was_planted_although_rows_coincide(planted: float) -> None:
    """Of rows with few different values, of which some meet one of the reference by chance."""
    rng = np.random.default_rng(3)
    reference_rows, live = (rng.geometric(0.06, (n, 4)).astype(float) for n in (20_000, 20_000))
    at = rng.random(len(live)) < planted
    live[at] = reference_rows[rng.choice(len(reference_rows), at.sum(), replace=False)]
    served = Served(Fingerprints.fit(reference_rows, NAMES))
    served.add(live)
    leak = served.leaks()["exact"]
    assert leak.matched > 0.015
    assert leak.rate.low <= at.mean() <= leak.rate.high
    assert abs(leak.rate.value - at.mean()) < 0.01
    assert (leak.rate.value > 0) == (planted > 0)


def test_good_and_turing_know_how_often_rows_coincide() -> None:
    rng = np.random.default_rng(4)
    rows, other = (rng.geometric(0.2, (10_000, 4)).astype(float) for _ in range(2))
    scheme = Scheme.fit(rows, NAMES)
    index = KeyIndex.of(scheme.keys(rows).exact)
    places = index.find(scheme.keys(other).exact)
    met = index.unique[places[places >= 0]].sum() / len(other)
    assert 2 * index.law.pairs / index.law.rows == pytest.approx(met, rel=0.1)
    assert not index.law.has_order


def test_neighbours_in_time_that_are_alike_are_no_chance_of_later_rows() -> None:
    x = np.repeat(table(5, 5000), 2, axis=0)[:9000]  # each row twice, one after the other
    x[::20] = table(6, 450)
    law = Fingerprints.fit(x, NAMES).exact.law
    assert law.pairs > 3000
    assert law.has_order
    hits = np.ones(40, np.int64)
    leak = leaked(law, 8000, hits, 360)  # one row in ten is unique
    assert leak is not None
    assert leak.by_chance < 0.001
    assert leak.rate.value == pytest.approx(0.05, abs=0.01)


def test_what_is_served_again_and_again_is_one_witness() -> None:
    law = Law(10_000, 10_000, 0, 0, int(late(10_000).sum()), 0, 0)
    many = leaked(law, 10_000, np.ones(500, np.int64), 0)
    one = leaked(law, 10_000, np.array([500]), 0)
    assert many is not None
    assert one is not None
    assert many.distinct == 500
    assert one.distinct == 1
    assert many.rate.low > 0.04
    assert one.rate.high > 4 * many.rate.high


def test_where_chance_leaves_more_than_a_point_open_nothing_is_said() -> None:
    rng = np.random.default_rng(3)
    reference_rows, live = (rng.geometric(0.13, (n, 4)).astype(float) for n in (20_000, 20_000))
    reference = Fingerprints.fit(reference_rows, NAMES)
    for planted, is_known in ((0.0, False), (0.05, False), (0.6, True)):
        at = rng.random(len(live)) < planted
        rows = live.copy()
        rows[at] = reference_rows[rng.choice(len(reference_rows), at.sum(), replace=False)]
        served = Served(reference)
        served.add(rows)
        assert ("exact" in served.leaks()) == is_known
        if is_known:
            rate = served.leaks()["exact"].rate
            assert rate.low <= at.mean() <= rate.high


def test_a_little_more_than_by_chance_is_no_leak() -> None:
    """What is 2 standard deviations above it comes once in 40 looks."""
    law = Law(16_794, 16_775, 3, 8, 4198, 0, 2)
    met = [1] * 14 + [2] * 3
    leak = leaked(law, 8398, np.array(met), 1)  # a split of NSL-KDD in which nothing was planted
    assert leak is not None
    assert leak.rate.value == leak.rate.low == 0
    assert leak.rate.high > leak.matched - leak.by_chance
    planted = leaked(law, 8398, np.ones(100, np.int64), 1)
    assert planted is not None
    assert planted.rate.low > 0.005


def test_where_rows_are_too_alike_nothing_is_known() -> None:
    few = np.random.default_rng(7).integers(0, 3, (5000, 4)).astype(float)
    served = Served(Fingerprints.fit(few, NAMES))
    served.add(few)
    assert served.leaks() == {}
    empty = Served(Fingerprints.fit(np.empty((0, 4)), NAMES))
    assert (empty.add(few)[0] == -1).all()
    assert empty.leaks() == {}
    assert Served(Fingerprints.fit(table(0, 1000), NAMES)).leaks() == {}


def test_any_cut_order_and_merge_counts_the_same() -> None:
    x = table(8, 2000)
    reference = Fingerprints.fit(x, NAMES)
    live = np.concatenate([x[:300], table(9, 2000)])
    whole, first, second = Served(reference), Served(reference), Served(reference)
    whole.add(live)
    order = np.random.default_rng(0).permutation(len(live))
    for part in np.array_split(order, 7):
        (first if part[0] % 2 else second).add(live[part])
    first.merge(second)
    assert first.snapshot() == whole.snapshot()
    columns = [2, 0, 3, 1]
    other = Fingerprints.fit(x[:, columns], [NAMES[k] for k in columns])
    assert np.array_equal(other.exact.keys, reference.exact.keys)  # nor is that of columns


def test_a_large_reference_keeps_a_share_and_knows_the_same() -> None:
    x = table(10, 40_000)
    reference = Fingerprints.fit(x, NAMES, most=10_000)
    assert 2000 < len(reference.exact.keys) <= 10_000
    live = table(11, 40_000)
    live[::20] = np.round(x[::20], 3)
    served = Served(reference)
    served.add(live)
    assert served.leaks()["near"].rate.value == pytest.approx(0.05, abs=0.01)


def test_snapshots_hold_and_damage_is_seen() -> None:
    x = table(12, 500)
    reference = Fingerprints.fit(x, NAMES, [Strings.of(texts(0, 500))], ["t"])
    state = reference.snapshot()
    assert len(state) < 40 * 500 + 500
    again = Fingerprints.restore(state)
    assert again.snapshot() == state
    served, other = Served(reference), Served(again)
    served.add(x, [Strings.of(texts(0, 500))])
    other.restore(served.snapshot())
    assert other.leaks() == served.leaks()
    assert served.leaks()["exact"].rate.value > 0.9
    with pytest.raises(StateError, match="checksum"):
        Fingerprints.restore(state[:-1] + bytes([state[-1] ^ 1]))
    with pytest.raises(StateError):
        Served(Fingerprints.fit(x[:100], NAMES)).restore(served.snapshot())


def test_odd_numbers_are_values_like_others() -> None:
    odd = np.array([[np.nan, np.inf, -np.inf, 0.0], [1e308, 1e-308, -0.0, -1e300], [0, 0, 0, 0]])
    served = Served(Fingerprints.fit(odd, NAMES))
    for places in served.add(np.where(odd == 0, -odd, odd)):
        assert places.tolist() == [0, 1, 2]


def test_infinite_and_missing_numbers_and_the_largest_are_each_themselves() -> None:
    most = np.finfo(np.float64).max
    odd = np.array([np.nan, np.inf, -np.inf, most, -most, 1e300, 1.5e300, 9.99e307, 1e308])[:, None]
    keys = Scheme.fit(odd, ["a"]).keys(odd)
    assert len(set(keys.exact.tolist())) == len(set(keys.near.tolist())) == len(odd)
    reference = Fingerprints.fit(odd, ["a"])
    rounded = np.array([[1.0004e300], [1.5004e300], [9.9904e307], [1.0004e308]])
    exact, near = Served(reference).add(rounded)
    assert exact.tolist() == [-1] * 4
    assert near.tolist() == [5, 6, 7, 8]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="a column for each name"):
        Fingerprints.fit(np.zeros((3, 2)), NAMES)
    served = Served(Fingerprints.fit(table(0, 10), NAMES))
    with pytest.raises(ValueError, match="expected"):
        served.add(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="expected"):
        image_vectors(np.zeros((3, 8)))
    with pytest.raises(ValueError, match="finite"):
        Signatures.fit(np.full((3, 8), np.nan))


def pictures(seed: int, n: int, size: int = 40) -> np.ndarray:
    """Smooth random images with three colours."""
    rng = np.random.default_rng(seed)
    waves = (
        rng.normal(size=(n, 12, 12, 3))
        / (1 + np.add.outer(np.arange(12), np.arange(12)))[..., None]
    )
    basis = np.cos(np.pi * np.outer(np.arange(size) + 0.5, np.arange(12)) / size)
    x = np.einsum("hu,nuvc,wv->nhwc", basis, waves, basis, optimize=True)
    return np.clip(128 + 40 * x, 0, 255).astype(np.uint8)


def test_images_are_found_again_when_noisy_scaled_or_in_another_layout() -> None:
    known, other = pictures(0, 800), pictures(1, 800)
    reference = Signatures.fit(image_vectors(known), IMAGE_DISTANCE)
    rng = np.random.default_rng(2)
    noisy = np.clip(known + rng.normal(0, 4, known.shape), 0, 255).astype(np.uint8)
    for same in (noisy, known / 255.0, np.moveaxis(known, 3, 1), known.repeat(2, 1).repeat(2, 2)):
        found = reference.find(image_vectors(same))
        assert (found == np.arange(800)).mean() > 0.99
    assert (reference.find(image_vectors(other)) == -1).all()
    live = other.copy()
    live[::20] = noisy[::20]
    served = ServedVectors(reference)
    assert (served.add(image_vectors(live))[::20] == np.arange(0, 800, 20)).all()
    leak = served.leak()
    assert leak is not None
    assert leak.rate.value == pytest.approx(0.05, abs=0.01)


def test_embeddings_are_found_again_and_chance_is_told() -> None:
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(5, 32))

    def drawn(n: int) -> np.ndarray:
        return centres[rng.integers(0, 5, n)] + 0.5 * rng.normal(size=(n, 32))

    known, live = drawn(2000), drawn(1000)
    known[1000] = known[10]  # twins
    live[:50] = known[:50].astype(np.float16)
    live[50] = np.nan
    reference = Signatures.fit(known)
    assert reference.unique.sum() == 1998
    served = ServedVectors(reference)
    found = served.add(live)
    assert (np.delete(found[:50], 10) == np.delete(np.arange(50), 10)).all()
    assert found[10] in (10, 1000)
    assert (found[50:] == -1).all()
    again = Signatures.restore(reference.snapshot())
    assert (again.find(live) == found).all()
    parts, other = ServedVectors(again), ServedVectors(again)
    parts.add(live[:333])
    other.add(live[333:])
    parts.merge(other)
    assert parts.snapshot() == served.snapshot()
    fresh = ServedVectors(again)
    fresh.restore(parts.snapshot())
    assert fresh.leak() == served.leak()
    assert served.leak() is not None
    with pytest.raises(StateError):
        Signatures.restore(served.snapshot())


def test_of_many_vectors_a_share_is_kept_and_the_rate_is_the_same() -> None:
    rng = np.random.default_rng(4)
    known, live = rng.normal(size=(3000, 20)), rng.normal(size=(2000, 20))
    live[:400] = known[:400]
    reference = Signatures.fit(known, most=1000)
    assert len(reference) == 1000
    served = ServedVectors(reference)
    assert served.add(live)[3] == 3
    leak = served.leak()
    assert leak is not None
    assert leak.rate.low <= 0.2 <= leak.rate.high


def test_a_reference_of_equal_vectors_is_no_trap() -> None:
    reference = Signatures.fit(np.ones((2000, 8)))
    served = ServedVectors(reference)
    served.add(np.ones((100, 8)))
    assert served.leak() is None
