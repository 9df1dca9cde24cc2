"""Whether a number that changes by factors, as a loss or a gradient's norm does, is far above what it was: in robust scales."""

from __future__ import annotations

import math
from collections import deque
from typing import Final, Literal, NamedTuple

import numpy as np

from ..core.columns import Floats

WINDOW: Final = 128
"""Values that say what is usual; chosen: a few hundred steps are what the shortest runs have."""
LEVEL: Final = 32
"""Values whose median is the level, from which a value is expected to come."""
_LATEST: Final = 5
"""Values that make a rise: they do not say how far values usually are."""
LEAST: Final = 20
"""Values before the first comparison with a window."""
BEGIN: Final = 5
"""Values that say where a run began."""
SPIKE: Final = 8.0
"""Of scales above the median. Logarithms whose tail is exponential come so far once in 800,000 values (0.5 exp(-8 log 5))."""
RISE: Final = 4.0
"""Of scales above the median, for three of the last five values: once in 300 million where values are independent."""
LASTING: Final = 3.0
"""Of scales, for four of the last five values: once in 800 million where values are independent; or for their mean, where none counts for more than `_MOST`:
once in 30 million."""
_MOST: Final = (
    6.0  # of scales, for which one value counts in a mean of five: a single one is then no rise
)
_FLOOR: Final = 0.05
"""The least scale of a logarithm: five percent. A language model's loss of 3.0 +- 0.02 is then a spike from 4.5 on."""
_MOST_TIMES: Final = 2.0
"""As many scales, at most, are needed below `settled`; chosen: of 200 healthy runs on few samples 3 had three or four of the last five losses 3.3 to 4.6 scales
above, at 0.04 to 0.4 of the beginning."""
_WILD: Final = 5.0
"""Times the values of the beginning, for three of the last five values, before there is a window."""


class Surge(NamedTuple):
    """A value far above the usual: how many scales, of how many allowed, and what is usual."""

    kind: Literal["spike", "rise"]
    statistic: float
    threshold: float
    usual: float


class Surges:
    """Tells spikes and lasting rises of one sequence of numbers.

    Logarithms are compared where no number of the window is 0 or negative, numbers otherwise. The scale is the distance from the median to the
    0.9 quantile of the last 128, so that a tail to the right makes it larger, and single outliers do not. A fall within the window would too:
    so what lasts is also compared with the median of the 32 before, in scales of how far the last 128 were from theirs, or the last 32 but five where these were
    further, as batches of a loss that falls differ by more and more; and the greater of the two counts.
    A rise is three of the last five values, or four by less, or all five in the mean. Before there is a window, of 20, values are compared with the median of the first five.

    Parameters
    ----------
    floor
        The least scale of a logarithm; of other numbers, as a share of the window's largest.
    wild
        A rise before there is a window is to so many times the values of the beginning.
    settled
        Of what a run began with: rises to values below it, as of samples known by heart, need more scales, by the root of how far they are below.
    mean
        Whether the mean of the last five makes a rise as well.

    Examples
    --------
    >>> import numpy as np
    >>> from tocsin.detectors.surges import Surges
    >>> surges = Surges()
    >>> usual = np.exp(np.random.default_rng(0).normal(0, 0.1, 200))
    >>> [surges.update(x) for x in usual] == [None] * 200
    True
    >>> surges.update(30.0).kind, surges.update(30.0).kind, surges.update(30.0).kind
    ('spike', 'spike', 'rise')
    """

    def __init__(
        self,
        floor: float = _FLOOR,
        wild: float = _WILD,
        *,
        settled: float = 0.0,
        mean: bool = False,
    ) -> None:
        self._settled = settled
        self._by_mean = mean
        self._floor = floor
        self._wild = math.log(wild)
        self._values: deque[float] = deque(maxlen=WINDOW)
        self._off: deque[tuple[float, bool]] = deque(
            maxlen=WINDOW
        )  # far from the level, and whether as logarithms
        self._far: deque[float] = deque(maxlen=_LATEST)
        self.start: float | None = None
        """The median of the first values; None before there are five."""
        self.count = 0

    @property
    def far(self) -> tuple[float, ...]:
        """How far the last five values were above the usual, in scales, none more than `_MOST`: a single one makes no rise."""
        return tuple(min(far, _MOST) for far in self._far)

    def update(self, value: float) -> Surge | None:
        """Compare a finite value with those before it, and take it in."""
        self.count += 1
        found = self._compared(value)
        self._values.append(value)
        if self.start is None and len(self._values) == BEGIN:
            self.start = float(np.median(self._values))
        return found

    def _compared(self, value: float) -> Surge | None:
        if self.count <= LEAST:
            return self._early(value)
        window = np.array(self._values)
        low = float(window.min())
        is_log = low > 0.0 and value > 0.0
        if is_log:
            window, x = np.log(window), math.log(value)
            floor = self._floor
        else:
            x, floor = value, self._floor * float(np.abs(window).max())
        usual, scale = _middle(window)
        statistic = (x - usual) / max(scale, floor, 1e-300)
        level = float(np.median(window[-LEVEL:]))
        off = np.array([far for far, was_log in self._off if was_log == is_log])
        self._off.append((x - level, is_log))
        lasting = statistic
        if len(off) >= LEVEL:
            apart = max(_middle(off)[1], _middle(off[:-_LATEST][-LEVEL:])[1], floor, 1e-300)
            lasting = max(statistic, (x - level) / apart)
        self._far.append(lasting)
        if self._lasts(value) and lasting >= LASTING:
            was = usual if statistic >= lasting else level
            return Surge("rise", lasting, LASTING, math.exp(was) if is_log else was)
        if statistic >= SPIKE:
            return Surge("spike", statistic, SPIKE, math.exp(usual) if is_log else usual)
        return None

    def _lasts(self, value: float) -> bool:
        """Return whether enough of the last five are far above."""
        settled = self._settled * (self.start or 0.0)
        times = min(math.sqrt(settled / value), _MOST_TIMES) if 0.0 < value < settled else 1.0
        far = [one / times for one in self._far]
        rises = sum(one >= RISE for one in far)
        lasting = sum(one >= LASTING for one in far) >= 4
        mean = (
            self._by_mean
            and len(far) == _LATEST
            and sum(min(one, _MOST) for one in far) >= _LATEST * LASTING
        )
        return rises >= 3 or lasting or mean

    def _early(self, value: float) -> Surge | None:
        """Compare with what a run began with."""
        if not self._values:
            return None
        first = self.start if self.start is not None else float(np.median(self._values))
        if not (first > 0.0 and value > 0.0):
            return None
        above = math.log(value / first) / self._wild
        self._far.append(RISE * above)
        if above >= 1.0 and sum(far >= RISE for far in self._far) >= 3:
            return Surge("rise", RISE * above, RISE, first)
        return None


def _middle(window: Floats) -> tuple[float, float]:
    """Return the median of numbers, and how far above it their 0.9 quantile is."""
    middle, high = len(window) // 2, (9 * len(window)) // 10
    ordered = np.partition(window, (middle, high))
    return float(ordered[middle]), float(ordered[high] - ordered[middle])
