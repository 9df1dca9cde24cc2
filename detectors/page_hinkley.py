"""Page-Hinkley over many streams at once, compiled; flag for flag what River's PageHinkley says."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ..core.columns import Floats, Ints
from ..core.snapshot import pack, unpack
from ..core.verdict import Verdict
from .base import HUGE, Observations
from .compiled import compiled
from .streams import StreamTable

_NEW: Final[dict[str, Any]] = {
    "count": 0.0, "mean": 0.0, "sum_up": 0.0, "sum_down": 0.0,
    "low": np.inf, "high": -1.0,  # River begins the maximum at -1, so this does
    "since_low": 0, "since_high": 0, "detected": False,
}  # fmt: skip


@compiled
def _update(
    values: Floats, streams: Ints, min_instances: float, delta: float, threshold: float,
    alpha: float, up: bool, down: bool,
    count: Floats, mean: Floats, sum_up: Floats, sum_down: Floats, low: Floats, high: Floats,
    since_low: Ints, since_high: Ints, detected: Any,
    found: Ints, statistic: Floats,
) -> int:  # fmt: skip
    """Run all columns; fill (row, column, delay) of detections and their statistics; return how many."""
    hits = 0
    for j in range(streams.shape[0]):
        k = streams[j]
        # Locals, so that the loop over rows keeps them in registers.
        n, m, rising, falling, minimum, maximum = (
            count[k], mean[k], sum_up[k], sum_down[k], low[k], high[k]
        )  # fmt: skip
        after_low, after_high, was_detected = since_low[k], since_high[k], detected[k]
        for i in range(values.shape[0]):
            x = values[i, j]
            if not abs(x) <= HUGE:
                continue
            if was_detected:
                n = m = rising = falling = 0.0
                minimum, maximum = np.inf, -1.0
                after_low = after_high = 0
                was_detected = False
            n += 1.0
            m += (1.0 / n) * (x - m)
            deviation = x - m
            rising = alpha * rising + deviation - delta
            falling = alpha * falling + deviation + delta
            after_low += 1
            after_high += 1
            if rising < minimum:
                minimum = rising
                after_low = 0
            if falling > maximum:
                maximum = falling
                after_high = 0
            if n < min_instances:
                continue
            is_up = up and rising - minimum > threshold
            if is_up or (down and maximum - falling > threshold):
                was_detected = True
                found[hits, 0], found[hits, 1] = i, j
                found[hits, 2] = after_low if is_up else after_high
                statistic[hits] = rising - minimum if is_up else maximum - falling
                hits += 1
        count[k], mean[k], sum_up[k], sum_down[k] = n, m, rising, falling
        low[k], high[k] = minimum, maximum
        since_low[k], since_high[k], detected[k] = after_low, after_high, was_detected
    return hits


class PageHinkley:
    """Page-Hinkley test for a change of the mean, over any number of streams.

    The parameters are River's, under River's names and with River's defaults. With those, and on
    streams of unit variance, it raises a false alarm every 79 events over 20 streams; tocsin gives
    it standardised values and ``delta=0.15, threshold=60, alpha=1``.

    Parameters
    ----------
    min_instances
        Values of a stream before the first test.
    delta
        Change of the mean that is tolerated, in the streams' unit.
    threshold
        Height of the test statistic that is a detection, in the streams' unit.
    alpha
        Forgetting factor of the sums, in (0, 1].
    mode
        Which changes count: `up`, `down` or `both`.

    Raises
    ------
    ValueError
        A parameter is out of range.

    Notes
    -----
    Guarantees: the flags of River 0.26's `drift.PageHinkley`, bit for bit, at any batch cut. After a
    detection the stream starts anew with its next value, as River's does. `delay_events` of a
    verdict is the number of values since the sum was at its extreme, the usual estimate of onset.

    References
    ----------
    Page 1954, "Continuous inspection schemes", Biometrika 41, 100-115 (doi:10.1093/biomet/41.1-2.100);
    Hinkley 1971, "Inference about the change-point from cumulative sum tests", Biometrika 58, 509-523
    (doi:10.1093/biomet/58.3.509).

    Examples
    --------
    >>> import numpy as np
    >>> from tocsin.detectors.base import Observations
    >>> from tocsin.detectors.page_hinkley import PageHinkley
    >>> rng = np.random.default_rng(0)
    >>> stream = np.concatenate([rng.normal(0, 1, 1000), rng.normal(2, 1, 1000)])
    >>> detector = PageHinkley(delta=0.15, threshold=60, alpha=1)
    >>> verdict = detector.update(Observations.of(stream))[0]
    >>> verdict.offset, verdict.delay_events
    (1029, 30)
    """

    def __init__(
        self,
        min_instances: int = 30,
        delta: float = 0.005,
        threshold: float = 50.0,
        alpha: float = 1 - 0.0001,
        mode: str = "both",
    ) -> None:
        if min_instances < 1 or delta < 0 or threshold <= 0 or not 0 < alpha <= 1:
            raise ValueError(
                "PageHinkley needs min_instances >= 1, delta >= 0, threshold > 0 and 0 < alpha <= "
                f"1, got {min_instances}, {delta}, {threshold} and {alpha}"
            )
        if mode not in ("up", "down", "both"):
            raise ValueError(f"mode must be up, down or both, got {mode!r}")
        self.min_instances = min_instances
        self.delta = delta
        self.threshold = threshold
        self.alpha = alpha
        self.mode = mode
        self._streams = StreamTable(_NEW)

    def update(self, batch: Observations) -> list[Verdict]:
        """Take the rows in; return the detections in their order."""
        if not len(batch) or not batch.names:
            return []
        streams = self._streams.numbers(batch.names)
        # A stream that was detected starts anew, and is not tested before min_instances values.
        room = (len(batch) // self.min_instances + 1) * len(batch.names)
        found = np.empty((room, 3), np.int64)
        statistic = np.empty(room)
        hits = _update(
            batch.values, streams, float(self.min_instances), self.delta,
            self.threshold, self.alpha, self.mode != "down", self.mode != "up",
            *self._streams.arrays.values(), found, statistic,  # type: ignore[call-arg]
        )  # fmt: skip
        return [
            Verdict(
                detector="page_hinkley",
                subject=batch.names[found[h, 1]],
                offset=int(batch.offsets[found[h, 0]]),
                row=int(batch.rows[found[h, 0]]),
                statistic=float(statistic[h]),
                threshold=self.threshold,
                unit="sum of deviations from the mean",
                delay_events=int(found[h, 2]),
            )
            for h in sorted(range(hits), key=lambda h: (found[h, 0], batch.names[found[h, 1]]))
        ]

    def snapshot(self) -> bytes:
        """Return the whole state."""
        names, arrays = self._streams.state()
        return pack("page_hinkley", 1, {"names": names}, arrays)

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot."""
        meta, arrays = unpack("page_hinkley", 1, state)
        self._streams.load(meta["names"], arrays)
