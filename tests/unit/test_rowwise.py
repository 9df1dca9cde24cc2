"""Products by row: numpy's numbers, and each row's bits the same whatever stands beside it."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.detectors.rowwise import distances, inner, products, signed_sums
from tocsin.detectors.vector_reference import Mixing


@pytest.mark.parametrize(
    ("n", "p", "q"), [(1, 1, 1), (5, 3, 7), (300, 64, 280), (17, 130, 33), (0, 4, 4), (3, 0, 2)]
)
def test_products_are_numpys(n: int, p: int, q: int) -> None:
    rng = np.random.default_rng(n + p + q)
    a, b = rng.normal(size=(n, p)), rng.normal(size=(p, q))
    np.testing.assert_allclose(products(a, b), a @ b, atol=1e-12)
    np.testing.assert_allclose(inner(a, b[:, 0]), a @ b[:, 0], atol=1e-12)


def test_distances_are_numpys() -> None:
    rng = np.random.default_rng(1)
    a, points, which = rng.normal(size=(50, 9)), rng.normal(size=(4, 9)), rng.integers(0, 4, 50)
    np.testing.assert_allclose(
        distances(a, points, which), np.linalg.norm(a - points[which], axis=1)
    )


@pytest.mark.parametrize("p", [1, 6, 64, 131])
def test_a_row_does_not_depend_on_the_others(p: int) -> None:
    rng = np.random.default_rng(p)
    a, b = (
        rng.normal(size=(257, p)) * 10.0 ** rng.integers(-8, 8, (257, 1)),
        rng.normal(size=(p, 77)),
    )
    which = np.zeros(257, np.int64)
    whole = products(a, b), inner(a, b[:, 3]), distances(a, b.T.copy(), which)
    for size in (1, 2, 5, 64, 256):
        parts = [a[at : at + size] for at in range(0, 257, size)]
        for number, found in enumerate(
            (
                [products(part, b) for part in parts],
                [inner(part, b[:, 3]) for part in parts],
                [distances(part, b.T.copy(), which[: len(part)]) for part in parts],
            )
        ):
            np.testing.assert_array_equal(np.concatenate(found), whole[number])


def test_signed_sums_add_the_named_coordinates() -> None:
    a = np.arange(12.0).reshape(2, 6)
    places = np.array([[0, 5], [3, 0]])
    signs = np.array([[1.0, -1.0], [1.0, 0.0]])
    assert signed_sums(a, places, signs).tolist() == [[3.0, -5.0], [15.0, -11.0]]


@pytest.mark.parametrize("width", [129, 500, 512, 4096])
def test_mixing_keeps_lengths_and_angles(width: int) -> None:
    """Within about the root of 2 / 128 for a length's square, as any projection to 128 dimensions at random."""
    vectors = np.random.default_rng(width).normal(size=(400, width)) / np.sqrt(width)
    mixing = Mixing(width)
    found = mixing(vectors)
    assert found.shape == (400, 128)
    squares = (found**2).sum(axis=1) / (vectors**2).sum(axis=1)
    assert squares.mean() == pytest.approx(1, abs=0.02)
    assert squares.std() < 1.3 * np.sqrt(2 / 128)
    angles = (found @ found.T - vectors @ vectors.T)[np.triu_indices(400, 1)]
    assert angles.std() < 1.3 / np.sqrt(128)


def test_mixing_is_the_same_for_ever() -> None:
    """A snapshot does not hold it, so another version must draw it alike."""
    vectors = np.zeros((2, 200))
    vectors[0, 123] = vectors[1, 7] = 1
    first, second = (
        {int(k): float(row[k]) for k in np.flatnonzero(row)} for row in Mixing(200)(vectors)
    )
    assert first == {13: 0.5, 30: 0.5, 38: 0.5, 107: 0.5}
    assert second == {16: 0.5, 45: -0.5, 50: -0.5, 101: 0.5}
    assert float(Mixing(4096)(np.arange(4096.0)[None, :])[0, 77]) == 21068.5
