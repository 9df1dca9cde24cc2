"""Whether a loss rises by factors in the first steps of a run, while it falls quickly and little is known of how it varies."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

UNTIL: Final = 64
"""Values that are judged; later ones have more to be compared with. `Surges` knows from the 53rd value on how far values are from where they are expected."""
_LATEST: Final = 5  # values, three of which make a rise
_BEFORE: Final = 8  # values before these, that say where they are expected
_LEAST: Final = 3  # distances from there, that say how far values usually are
_SCALES: Final = 5.5
"""Above the level, in scales; chosen, as `_TIMES` and `_ABOVE`."""
_TIMES: Final = math.log(2.0)
_ABOVE: Final = math.log(1.65)  # the largest of those that say where they are expected
_RECORD: Final = math.log(3.0)
"""Above the largest of all before the last five, however far these differ; chosen, as the others, with 1,665 healthy runs of eight data sets, six kinds of nets, eight optimizers and
batches of 4 to 128, heavy-tailed targets among them, of which the largest came to 2.5 times that, and 781 runs of three tables with a hundred times the rate from their steps 6 to 60 on."""
_FLOOR: Final = 0.05
_RECENT: Final = (
    16  # of the distances, by themselves: samples that are known by heart differ by more and more
)


class Rise(NamedTuple):
    """How many scales a value is above what was expected, how many are allowed, and what was expected."""

    statistic: float
    threshold: float
    usual: float


class EarlyRise:
    """Looks at the first 64 values of one sequence, all above zero.

    Three of the last five, the last one among them, are a rise where they are twice the median of the eight values before the five, five and a half scales
    above it, and above all of these eight by two thirds; or where they are three times the largest value before the five. The scale is the distance from the median to
    the 0.9 quantile of how far earlier values were from the median of the eight before each, all or the last 16 of them, as logarithms: a fall does not make it larger.

    Examples
    --------
    >>> from tocsin.detectors.early_rise import EarlyRise
    >>> early = EarlyRise()
    >>> falls = [2.3 * 0.9**k for k in range(17)]
    >>> [early.update(x) is not None for x in [*falls, 3.0, 2.0, 2.5]][-4:]
    [False, False, False, True]
    """

    def __init__(self) -> None:
        self._logs: list[float] = []
        self._off: list[float] = []

    def update(self, value: float) -> Rise | None:
        """Compare a finite value with those before it, and take it in."""
        if len(self._logs) >= UNTIL or value <= 0.0:
            return None
        x = math.log(value)
        if len(self._logs) >= 4:
            self._off.append(x - float(np.median(self._logs[-_BEFORE:])))
        self._logs.append(x)
        known = self._off[:-_LATEST]
        if len(known) < _LEAST:
            return None
        before = self._logs[-_LATEST - _BEFORE : -_LATEST]
        level = float(np.median(before))
        scale = max(_FLOOR, *(_spread(off) for off in (known, known[-_RECENT:])))
        lasting = min(x, sorted(self._logs[-_LATEST:])[-3])
        least = max(level + _TIMES, level + _SCALES * scale, max(before) + _ABOVE)
        least = min(least, max(self._logs[:-_LATEST]) + _RECORD)
        if lasting < least:
            return None
        return Rise((lasting - level) / scale, (least - level) / scale, math.exp(level))


def _spread(off: list[float]) -> float:
    """Return the distance from the median to the 0.9 quantile."""
    return float(np.quantile(off, 0.9) - np.median(off))
