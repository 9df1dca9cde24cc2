"""How far the distributions of a layer's units have moved, and whether that is more than learning makes of them."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

import numpy as np

from .batch_means import BatchMeans, differences

NAME: Final = "activation_shift"
TIMES: Final = 3.0
"""Of the largest of the latest moves; see `docs/training_monitors.md` for what healthy runs gave."""
_KEPT: Final = 5  # moves that say what is usual; chosen
_LEAST: Final = 2  # of them, before a layer is judged: learning moves most in the first epochs
_STILL: Final = 8
"""By which the tolerance of the input is divided once it is known how much chance moves that: 0.03 then, of 0.25, is a twelfth of a standard deviation."""
_ALPHA: Final = 1e-6
"""Of a look at the input: a false one in 10,000 runs of 100 epochs (chosen)."""
_FLOOR: Final = 1e-4
"""Of a layer's mean variance, which is added to that of each unit: what hardly ever differs from a constant must not count like the others."""


class Move(NamedTuple):
    """How much further a layer is from its reference than it was, and how far it may be."""

    layer: str
    size: float
    threshold: float


def distance(a: BatchMeans, b: BatchMeans) -> float:
    """Return the distance of a layer's units in two epochs, within [0, 1]: the root of their mean squared Hellinger distance.

    That is of normal distributions with their means and variances, in closed form: the square is 1 - sqrt(2 s t / (s^2 + t^2)) exp(-d^2 / (4 (s^2 +
    t^2))), of standard deviations s and t whose means are d apart (Pardo 2005, "Statistical inference based on divergence
    measures", section 1.2). Half a standard deviation is 0.18, twice the spread 0.32. It is a metric, so a distance to a third epoch changes
    by no more than the layer has moved.

    Examples
    --------
    >>> one, other = (BatchMeans(1) for _ in range(2))
    >>> one.add(np.array([0.0]), np.array([1.0]), 100)
    >>> other.add(np.array([0.5]), np.array([1.25]), 100)
    >>> round(distance(one, other), 2)
    0.18
    """
    if a.mean.shape != b.mean.shape or not len(a.mean):
        return 0.0
    s, t = a.deviation**2, b.deviation**2
    floor = _FLOOR * float((s + t).mean()) + 1e-30
    s, t = s + floor, t + floor
    both = s + t
    with np.errstate(invalid="ignore", over="ignore"):
        alike = np.sqrt(2 * np.sqrt(s) * np.sqrt(t) / both)
        square = 1 - alike * np.exp(-((a.mean - b.mean) ** 2) / (4 * both))
    # What is not finite is as far away as can be.
    return float(np.sqrt(np.where(np.isfinite(square), square, 1.0).clip(0.0, 1.0).mean()))


class ActivationShift:
    """Compares each layer of an epoch with those before.

    Parameters
    ----------
    tolerance
        A move of less is not claimed.
    reference
        Number of the epoch that later ones are compared with; None for the one before each.

    Raises
    ------
    ValueError
        `tolerance` is not within (0, 1), or `reference` below 0.

    Notes
    -----
    A move is by how much a layer is further from its reference than in the epoch before. Claimed is one above `tolerance`, and above three times the
    largest of the last five, from the third on. In the input nothing is learnt: there the first move is judged too, and from the third on an eighth
    of `tolerance` is enough, where the mean of some unit differs with p < 1e-6 for all units together (Welch's test of the means of batches).
    """

    def __init__(self, tolerance: float = 0.25, reference: int | None = None) -> None:
        if not 0 < tolerance < 1 or (reference is not None and reference < 0):
            raise ValueError(
                f"expected a shift within (0, 1) and a reference of 0 or more, or None, got {tolerance} and {reference}"
            )
        self.tolerance = tolerance
        self.reference = reference
        self._reference: dict[str, BatchMeans] = {}
        self._far: dict[str, float] = {}
        self._moves: dict[str, deque[float]] = {}

    def update(
        self, epoch: int, layers: dict[str, BatchMeans], fixed: str
    ) -> tuple[dict[str, float], list[Move]]:
        """Take the layers of an epoch in, in the order of the pass.

        Parameters
        ----------
        epoch
            Its number.
        layers
            By name; `fixed` is that of the input.

        Returns
        -------
        tuple
            Of each layer its distance from the reference, none before there is one; and the moves that are claimed.
        """
        found: dict[str, float] = {}
        claimed: list[Move] = []
        for layer, units in layers.items():
            if layer in self._reference:
                found[layer] = distance(units, self._reference[layer])
                is_sure = layer == fixed and _is_sure(units, self._reference[layer])
                move = self._judged(layer, found[layer], is_fixed=layer == fixed, is_sure=is_sure)
                claimed += [] if move is None else [move]
        if self.reference is None or epoch == self.reference:
            self._reference, self._far = dict(layers), dict.fromkeys(layers, 0.0)
        return found, claimed

    def _judged(self, layer: str, far: float, *, is_fixed: bool, is_sure: bool) -> Move | None:
        size, self._far[layer] = max(far - self._far[layer], 0.0), far
        moves = self._moves.setdefault(layer, deque(maxlen=_KEPT))
        is_known = len(moves) >= _LEAST
        tolerance = self.tolerance / _STILL if is_sure and is_known else self.tolerance
        threshold = max(tolerance, TIMES * max(moves, default=0.0))
        if size > threshold and (is_fixed or is_known):
            return Move(layer, size, threshold)
        moves.append(size)
        return None


def _is_sure(a: BatchMeans, b: BatchMeans) -> bool:
    if a.mean.shape != b.mean.shape:
        return False
    p, _ = differences(a, b)
    return bool((p < _ALPHA / len(p)).any())
