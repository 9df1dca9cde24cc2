"""ADWIN over many streams at once, compiled; flag for flag what River's ADWIN says."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from ..core.errors import StateError
from ..core.snapshot import pack, unpack
from ..core.verdict import Verdict
from .base import HUGE, Observations
from .compiled import compiled
from .streams import StreamTable

_LEVELS: Final = 48
"""Rows of buckets: row i is a ring of buckets of 2**i values, so 2**48 values fit a window."""

_ROUNDING: Final = 1e-15
"""Nine roundings. Two means that are compared by products instead of quotients differ by two at most."""


@compiled
def _cut(
    totals: Floats, sizes: NDArray[np.uint8], firsts: NDArray[np.uint8], levels: int, width: float,
    total: float, variance: float, delta: float, min_window: float,
) -> tuple[bool, float, float]:  # fmt: skip
    """Return whether some split of the window has means too far apart, their distance and the bound.

    Splits run from the oldest bucket to the newest. The bound is Theorem 3.2's with the variance of
    the window in place of its upper bound, and harmonic lengths as in the authors' implementation.
    """
    mask = totals.shape[1] - 1
    spread = variance / width
    confidence = math.log(2.0 * math.log(width) / delta)
    n0, n1, u0, u1 = 0.0, width, 0.0, total
    # m of a split is both / (a b), with a and b the lengths less what is needed at least.
    both = width - 2.0 * min_window + 2.0
    scale = 2.0 * spread * confidence * both * (1.0 - 1e-6)
    for level in range(levels - 1, -1, -1):
        weight = float(np.int64(1) << level)
        at = np.int64(firsts[level])
        # Nothing would be left on the other side of the newest bucket.
        for _ in range(sizes[level] - (1 if level == 0 else 0)):
            bucket = totals[level, at]
            at = (at + 1) & mask
            n0 += weight
            n1 -= weight
            u0 += bucket
            u1 -= bucket
            if n0 < min_window or n1 < min_window:
                continue
            # The bound is above the root of 2 m spread confidence alone. Most splits are settled by
            # that, in a form without divisions, and with room for what rounding does to the other.
            left, right, product = u0 * n1, u1 * n0, n0 * n1
            reach = abs(left - right) + _ROUNDING * (abs(left) + abs(right))
            a, b = n0 - min_window + 1.0, n1 - min_window + 1.0
            if reach * reach * (a * b) <= scale * (product * product):
                continue
            distance = u0 / n0 - u1 / n1
            m = 1.0 / a + 1.0 / b
            bound = math.sqrt(2.0 * m * spread * confidence) + 2.0 / 3.0 * confidence * m
            if abs(distance) > bound:
                return True, abs(distance), bound
    return False, 0.0, 0.0


@compiled
def _update(
    values: Floats, streams: Ints, delta: float, clock: int, max_buckets: int, min_window: float,
    grace: float,
    all_totals: Floats, all_variances: Floats, all_sizes: NDArray[np.uint8],
    all_firsts: NDArray[np.uint8], all_levels: Ints,
    widths: Floats, sums: Floats, window_variances: Floats, ticks: Ints, detected: Any,
    found: Ints, distances: Floats, bounds: Floats,
) -> int:  # fmt: skip
    """Run all columns; fill (row, column, width left) of detections; return how many there are."""
    mask = all_totals.shape[2] - 1
    hits = 0
    for j in range(streams.shape[0]):
        k = streams[j]
        totals, variances, sizes, firsts = (
            all_totals[k], all_variances[k], all_sizes[k], all_firsts[k]
        )  # fmt: skip
        levels, width, total, variance = all_levels[k], widths[k], sums[k], window_variances[k]
        tick, was_detected = ticks[k], detected[k]
        for i in range(values.shape[0]):
            x = values[i, j]
            if not abs(x) <= HUGE:
                continue
            if was_detected:
                sizes[:] = 0
                firsts[:] = 0
                levels, width, total, variance, tick = 1, 0.0, 0.0, 0.0, 0
                was_detected = False
            # A new value is a bucket of one.
            at = (np.int64(firsts[0]) + sizes[0]) & mask
            totals[0, at] = x
            variances[0, at] = 0.0
            sizes[0] += 1
            width += 1.0
            if width > 1.0:
                mean = total / (width - 1.0)
                variance += (width - 1.0) * (x - mean) * (x - mean) / width
            total += x
            # Too many of one size: the two oldest become one of the next.
            level = 0
            weight, inverse = 1.0, 1.0  # powers of two: multiplying by one is dividing by the other
            while sizes[level] == max_buckets + 1:
                first = np.int64(firsts[level])
                second = (first + 1) & mask
                a, b = totals[level, first], totals[level, second]
                gap = a * inverse - b * inverse
                merged = (
                    variances[level, first] + variances[level, second]
                    + weight * weight * gap * gap * (0.5 * inverse)
                )  # fmt: skip
                firsts[level] = (first + 2) & mask
                sizes[level] -= 2
                level += 1
                at = (np.int64(firsts[level]) + sizes[level]) & mask
                totals[level, at] = a + b
                variances[level, at] = merged
                sizes[level] += 1
                levels = max(levels, level + 1)
                weight *= 2.0
                inverse *= 0.5
            tick += 1
            if tick % clock != 0 or width <= grace:
                continue
            is_cut, distance, bound = _cut(
                totals, sizes, firsts, levels, width, total, variance, delta, min_window
            )
            if not is_cut:
                continue
            was_detected = True
            found[hits, 0], found[hits, 1] = i, j
            distances[hits], bounds[hits] = distance, bound
            while is_cut:
                # Drop the oldest bucket and look again.
                last = levels - 1
                weight = float(np.int64(1) << last)
                first = np.int64(firsts[last])
                bucket = totals[last, first]
                width -= weight
                total -= bucket
                gap = bucket / weight - total / width
                variance -= variances[last, first] + weight * width * gap * gap / (weight + width)
                firsts[last] = (first + 1) & mask
                sizes[last] -= 1
                while levels > 1 and sizes[levels - 1] == 0:
                    levels -= 1
                is_cut, distance, bound = _cut(
                    totals, sizes, firsts, levels, width, total, variance, delta, min_window
                )
            found[hits, 2] = int(width)
            hits += 1
        all_levels[k], widths[k], sums[k], window_variances[k] = levels, width, total, variance
        ticks[k], detected[k] = tick, was_detected
    return hits


class Adwin:
    """Adaptive windowing for a change of the mean, over any number of streams.

    The parameters are River's, under River's names and with River's defaults.

    Parameters
    ----------
    delta
        Significance of one check, in (0, 1).
    clock
        Values between two checks.
    max_buckets
        Buckets of one size that are kept before two become one, at most 64.
    min_window_length
        Shortest part of a window that is compared.
    grace_period
        Values of a window before the first check.

    Raises
    ------
    ValueError
        A parameter is out of range.

    Notes
    -----
    Guarantees: the flags of River 0.26's `drift.ADWIN` at any batch cut. After a detection the stream
    starts anew with its next value, as River's does. `delay_events` of a verdict is what is left of the
    window, the statistic the largest distance of means that was found, the threshold its bound.

    References
    ----------
    Bifet and Gavalda 2007, "Learning from time-changing data with adaptive windowing", SIAM
    International Conference on Data Mining, 443-448, Theorem 3.2 and section 4
    (doi:10.1137/1.9781611972771.42).

    Examples
    --------
    >>> import numpy as np
    >>> from tocsin.detectors.adwin import Adwin
    >>> from tocsin.detectors.base import Observations
    >>> rng = np.random.default_rng(0)
    >>> stream = np.concatenate([rng.normal(0, 1, 1000), rng.normal(2, 1, 1000)])
    >>> Adwin().update(Observations.of(stream))[0].offset
    1023
    """

    def __init__(
        self,
        delta: float = 0.002,
        clock: int = 32,
        max_buckets: int = 5,
        min_window_length: int = 5,
        grace_period: int = 10,
    ) -> None:
        if not 0 < delta < 1 or min(clock, min_window_length) < 1 or grace_period < 0:
            raise ValueError(
                "Adwin needs 0 < delta < 1, clock and min_window_length >= 1 and grace_period >= 0, "
                f"got {delta}, {clock}, {min_window_length} and {grace_period}"
            )
        if not 1 < max_buckets <= 64:
            raise ValueError(f"max_buckets must be 2 to 64, got {max_buckets}")
        self.delta = delta
        self.clock = clock
        self.max_buckets = max_buckets
        self.min_window_length = min_window_length
        self.grace_period = grace_period
        # One more while two become one; a power of two, so that a place on the ring is a mask away.
        self._room = 1 << max_buckets.bit_length()
        shape = (_LEVELS, self._room)
        self._streams = StreamTable(
            {
                "totals": np.zeros(shape), "variances": np.zeros(shape),
                "sizes": np.zeros(_LEVELS, np.uint8), "firsts": np.zeros(_LEVELS, np.uint8),
                "levels": 1, "width": 0.0, "sum": 0.0, "variance": 0.0, "tick": 0,
                "detected": False,
            }
        )  # fmt: skip

    def update(self, batch: Observations) -> list[Verdict]:
        """Take the rows in; return the detections in their order."""
        if not len(batch) or not batch.names:
            return []
        streams = self._streams.numbers(batch.names)
        room = (len(batch) // self.clock + 1) * len(batch.names)
        found = np.empty((room, 3), np.int64)
        distances, bounds = np.empty(room), np.empty(room)
        hits = _update(
            batch.values, streams, self.delta, self.clock, self.max_buckets,
            float(self.min_window_length), float(self.grace_period), *self._streams.arrays.values(),
            found, distances, bounds,  # type: ignore[call-arg]
        )  # fmt: skip
        return [
            Verdict(
                detector="adwin",
                subject=batch.names[found[h, 1]],
                offset=int(batch.offsets[found[h, 0]]),
                row=int(batch.rows[found[h, 0]]),
                statistic=float(distances[h]),
                threshold=float(bounds[h]),
                unit="distance of two windows' means",
                delay_events=int(found[h, 2]),
            )
            for h in sorted(range(hits), key=lambda h: (found[h, 0], batch.names[found[h, 1]]))
        ]

    def snapshot(self) -> bytes:
        """Return the whole state; of the buckets, those that are in use, each row's oldest first."""
        names, arrays = self._streams.state()
        used = np.arange(self._room) < arrays["sizes"][:, :, None]
        row, place = np.divmod(np.flatnonzero(used), self._room)
        place = (place + arrays.pop("firsts").reshape(-1)[row]) % self._room
        for name in ("totals", "variances"):
            arrays[name] = arrays[name].reshape(-1)[row * self._room + place]
        return pack("adwin", 1, {"names": names, "max_buckets": self.max_buckets}, arrays)

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot taken with as many `max_buckets`."""
        meta, arrays = unpack("adwin", 1, state)
        if meta["max_buckets"] != self.max_buckets:
            raise StateError(
                f"the snapshot was taken with max_buckets={meta['max_buckets']}, this has "
                f"{self.max_buckets}"
            )
        used = np.arange(self._room) < arrays["sizes"][:, :, None]
        for name in ("totals", "variances"):
            whole = np.zeros(used.shape)
            whole[used] = arrays[name]
            arrays[name] = whole
        arrays["firsts"] = np.zeros_like(arrays["sizes"])
        self._streams.load(meta["names"], arrays)
