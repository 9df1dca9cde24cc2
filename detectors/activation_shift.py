"""How far the distributions of a layer's units have moved, and whether that is more than learning makes of them."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

import numpy as np

from ..core.columns import Floats

NAME: Final = "activation_shift"
TIMES: Final = 3.0
"""Of the largest of the latest moves; see `docs/training_monitors.md` for what healthy runs gave."""
_KEPT: Final = 3  # moves that say what is usual; chosen
_LEAST: Final = 2  # of them, before a layer is judged: learning moves most in the first epochs
_FLOOR: Final = 1e-4
"""Of a layer's mean variance, which is added to that of each unit: what hardly ever differs from a constant must not count like the others."""


class Units(NamedTuple):
    """(k,) means and variances of the units of a layer."""

    mean: Floats
    variance: Floats


class Move(NamedTuple):
    """How much further a layer is from its reference than it was, and how far it may be."""

    layer: str
    size: float
    threshold: float


def distance(a: Units, b: Units) -> float:
    """Return the distance of a layer's units in two epochs, within [0, 1]: the root of their mean squared Hellinger distance.

    That is of normal distributions with their means and variances, in closed form: the square is 1 - sqrt(2 s t / (s^2 + t^2)) exp(-d^2 / (4 (s^2 +
    t^2))), of standard deviations s and t whose means are d apart (Pardo 2005, "Statistical inference based on divergence
    measures", section 1.2). Half a standard deviation is 0.18, twice the spread 0.32. It is a metric, so a distance to a third epoch changes
    by no more than the layer has moved.

    Examples
    --------
    >>> one, other = (Units(np.array([mean]), np.array([1.0])) for mean in (0.0, 0.5))
    >>> round(distance(one, other), 2)
    0.18
    """
    if a.mean.shape != b.mean.shape or not len(a.mean):
        return 0.0
    floor = _FLOOR * float((a.variance + b.variance).mean()) + 1e-30
    s, t = a.variance + floor, b.variance + floor
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
    largest of the last three, from the third on; of the input, in which nothing is learnt, the first too.
    """

    def __init__(self, tolerance: float = 0.25, reference: int | None = None) -> None:
        if not 0 < tolerance < 1 or (reference is not None and reference < 0):
            raise ValueError(
                f"expected a shift within (0, 1) and a reference of 0 or more, or None, got {tolerance} and {reference}"
            )
        self.tolerance = tolerance
        self.reference = reference
        self._reference: dict[str, Units] = {}
        self._far: dict[str, float] = {}
        self._moves: dict[str, deque[float]] = {}

    def update(
        self, epoch: int, layers: dict[str, Units], fixed: str
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
                move = self._judged(layer, found[layer], is_fixed=layer == fixed)
                claimed += [] if move is None else [move]
        if self.reference is None or epoch == self.reference:
            self._reference, self._far = dict(layers), dict.fromkeys(layers, 0.0)
        return found, claimed

    def _judged(self, layer: str, far: float, *, is_fixed: bool) -> Move | None:
        size, self._far[layer] = max(far - self._far[layer], 0.0), far
        moves = self._moves.setdefault(layer, deque(maxlen=_KEPT))
        threshold = max(self.tolerance, TIMES * max(moves, default=0.0))
        if size > threshold and (is_fixed or len(moves) >= _LEAST):
            return Move(layer, size, threshold)
        moves.append(size)
        return None
