"""A curve by step that stays small however long a training is."""

from __future__ import annotations

from collections import deque
from typing import Final

POINTS: Final = 10_000
"""Of a curve at most: 1 MB; a plot is narrower."""
_LATEST: Final = 128  # more than come from an accelerator in one go, which is 64


class Curve(list[tuple[int, float]]):
    """(step, value) pairs; when there are too many, every second one goes, and of those to come as many are passed over.

    Parameters
    ----------
    points
        How many there are at most; from then on between half of that and that many, equally spaced.

    Attributes
    ----------
    latest
        The latest points, none passed over: for who is told of each.

    Raises
    ------
    ValueError
        `points` is below 2.

    Examples
    --------
    >>> from tocsin.training.curve import Curve
    >>> curve = Curve(points=4)
    >>> for step in range(11):
    ...     curve.add(step, 0.5)
    >>> [step for step, _ in curve]
    [0, 4, 8]
    """

    def __init__(self, points: int = POINTS) -> None:
        super().__init__()
        if points < 2:
            raise ValueError(f"points must be 2 or more, got {points}")
        self.latest: deque[tuple[int, float]] = deque(maxlen=_LATEST)
        self._points = points
        self._stride = 1
        self._count = 0

    def add(self, step: int, value: float) -> None:
        """Take the next point in."""
        self.latest.append((step, value))
        if self._count % self._stride == 0:
            if len(self) == self._points:
                del self[1::2]
                self._stride *= 2
            if self._count % self._stride == 0:
                self.append((step, value))
        self._count += 1
