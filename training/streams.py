"""The monitor of drift: numbers of the loop as streams, watched by what a worker watches those of production with."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec
import numpy as np
from torch import nn

from ..consumers.model_settings import DriftSettings
from ..consumers.sentences import changed
from ..consumers.stream_monitors import stream_monitor
from ..core.verdict import Verdict
from ..detectors.base import Observations
from ..detectors.reference import summarise
from ..detectors.stream_monitor import StreamMonitor
from .alerts import TrainingAlerts, begun
from .loop import Loop, Place
from .monitor import BaseMonitor
from .series import News

Worse = Literal["up", "down", "both"]
WORSE: Final[Mapping[str, Worse]] = MappingProxyType(
    {
        "loss*/*": "up", "error*/*": "up", "accuracy*/*": "down", "performance*/*loss": "up",
        "performance*/*accuracy": "down",
    }
)  # fmt: skip
"""Which way numbers of the loop go when something is wrong, by patterns of names."""
GROUP: Final = "drift"
"""What is claimed of streams in training is one incident, whichever detector claims it."""
_SECOND: Final = 1_000_000_000
_COMPARES: Final = frozenset(["location up", "location down", "rate up", "rate down"])
_DIRECTED: Final = frozenset(["e_detector", "natural_size"])
"""Detectors that say themselves which way a stream has gone since its latest regime; others, that it is not where its first values were."""
_BEFORE: Final = 256
"""Values before a change that it is compared with, as many as make a reference (chosen)."""
_KEPT: Final = 2048
"""Values of a stream, besides those that are judged in one go: delays of ADWIN are hundreds (chosen)."""
_LATE: Final = 200
"""Batches whose places are kept: values come from an accelerator 64 batches later at the most (chosen)."""


class _Stream:
    """One stream, its detectors, and its latest values."""

    def __init__(self, settings: DriftSettings, at_once: int) -> None:
        self.monitor: StreamMonitor = stream_monitor(settings, 1.0)
        self.waiting: list[tuple[int, float]] = []
        self._latest: deque[tuple[int, float]] = deque(maxlen=_KEPT + at_once)

    def judge(self, tag: str) -> list[Verdict]:
        """Return what is claimed of the values that wait."""
        pairs, self.waiting = self.waiting, []
        steps = np.array([step for step, _ in pairs], np.int64)
        self._latest.extend(pairs)
        found = self.monitor.update(
            Observations(
                names=(tag,),
                values=np.array([[value] for _, value in pairs]),
                offsets=steps,
                rows=np.zeros_like(steps),
                times=steps * _SECOND,  # to a test that knows seasons
            )
        )
        return [
            v if v.detector in _DIRECTED or v.change not in _COMPARES else self._directed(v)
            for v in found
            if not v.advisory
        ]

    def _directed(self, verdict: Verdict) -> Verdict:
        """Return a verdict with what came before the change, in place of the reference: a loss that has fallen and rises is below that all the time."""
        values = np.array([value for step, value in self._latest if step <= verdict.offset])
        count = len(values)
        since = min(verdict.delay_events or count // 2, max(count - _BEFORE, count // 2))
        before, after = values[: count - since][-_BEFORE:], values[count - since :]
        if not len(before) or not len(after):
            return verdict
        size = float(after.mean() - before.mean())
        spread = float(before.std())
        bounds = [float(values.min()), float(values.max())]
        edges = np.array(verdict.reference.edges if verdict.reference else bounds)
        return msgspec.structs.replace(
            verdict,
            change="location up" if size > 0 else "location down",
            size=size,
            size_sigmas=size / spread if spread else None,
            reference=summarise(before, edges),
            current=summarise(after, edges),
        )


class DriftMonitor(BaseMonitor):
    """Watches numbers of the loop with the detectors that a worker runs: the e-detector within its false-alarm budget, ADWIN, Page-Hinkley.

    Parameters
    ----------
    monitors
        Whose `history` is watched, called as their scalars are: `loss/batch`, `gradients/norm`. They must come before this one in `Monitors`. One's own
        are among them as well: what has a `history` of (batch, value) pairs is a stream.
    worse
        By pattern of names the way that is claimed: "up" or "down" of a location or rate, "both" for every change; the first that fits. What fits none
        is not watched.
    settings
        Of the detectors, as `drift` in `tocsin.yaml`: `DriftSettings(extra_detectors=("kswin",), alarms="all")`. Events are values of a stream, and each
        stream has the budget; keys about embeddings, logits and files of reference are of no concern here. None for the defaults with `alarms="all"`.
    every
        Detectors run once in so many batches, over all values since.
    alerts
        Where claims go; `Monitors` gives its own.

    Raises
    ------
    ValueError
        `every` is below 1, or `worse` has another way.

    Notes
    -----
    While a model learns, its numbers change by themselves, for the better: that is no claim. So a stream has a way that is worse, and only what goes that way is
    claimed. Of ADWIN and Page-Hinkley the way is that from the 256 values before the change. They speak from the
    256th value on (`warmup_values`), with `alarms="budget"` until a stream is known, some thousand values later; from there on the e-detector does too,
    where the stream is not ordered in time, as of a model that learns slowly. Values that are not finite
    are claimed by the monitors that they are of, and left out here. The budget is a theorem for streams that are exchangeable, which those of a model that
    learns are not: see docs/guarantee.md.

    Examples
    --------
    >>> from tocsin.training import DriftMonitor, LossMonitor, Monitors
    >>> loss = LossMonitor()
    >>> monitors = Monitors([loss, DriftMonitor([loss])])
    """

    def __init__(
        self,
        monitors: Iterable[BaseMonitor] | BaseMonitor,
        *,
        worse: Mapping[str, Worse] = WORSE,
        settings: DriftSettings | None = None,
        every: int = 10,
        alerts: TrainingAlerts | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be 1 batch or more, got {every}")
        for pattern, way in worse.items():
            if way not in ("up", "down", "both"):
                raise ValueError(f"worse[{pattern!r}] must be up, down or both, got {way!r}")
        self.every = every
        self.alerts = alerts
        self._told = [monitors] if isinstance(monitors, BaseMonitor) else list(monitors)
        self._worse = dict(worse)
        self._settings = settings or DriftSettings(alarms="all")
        self._begin()

    def _begin(self) -> None:
        self._loop = Loop()
        self._news = News(self._told)
        self._streams: dict[str, _Stream] = {}
        self._places: dict[int, Place] = {}

    def initialize(
        self, model: nn.Module, dataloader: Iterable[Any], criterion: Callable[..., Any] | None
    ) -> None:
        """Begin; what is in histories already is of another run."""
        del model, dataloader, criterion
        self.alerts = begun(self)
        self._begin()
        for _ in self._news.take(0):
            pass

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Take what is new, and judge it in one batch of so many."""
        del outputs
        place = self._loop.end_batch(batch)
        self._places[place.step] = place
        self._places.pop(place.step - max(_LATE, 2 * self.every), None)
        self._take()
        if self._loop.step % self.every == 0:
            self._judge()
        if self.alerts is not None:
            self.alerts.end_batch(place)

    def on_epoch_end(self, epoch: int) -> None:
        """Judge what is new."""
        self._take()
        self._judge()
        self._loop.end_epoch(epoch)

    def close(self) -> None:
        """Judge what came at the end."""
        self._take()
        self._judge()

    def _take(self) -> None:
        for tag, step, value in self._news.take(max(self._loop.step - 1, 0)):
            if math.isfinite(value) and self._way_of(tag):
                if tag not in self._streams:
                    self._streams[tag] = _Stream(self._settings, self.every)
                self._streams[tag].waiting.append((step, value))

    def _judge(self) -> None:
        waiting = {tag: stream for tag, stream in self._streams.items() if stream.waiting}
        found = [(tag, v) for tag, stream in waiting.items() for v in stream.judge(tag)]
        for tag, verdict in sorted(found, key=lambda one: one[1].offset):
            self._claim(tag, verdict)

    def _way_of(self, tag: str) -> str:
        return next((way for pattern, way in self._worse.items() if fnmatchcase(tag, pattern)), "")

    def _claim(self, tag: str, verdict: Verdict) -> None:
        """Claim what goes the way that is worse, and what may be either; what settles ends an incident, whichever way it went."""
        if self.alerts is None:
            return
        place = self._places.get(verdict.offset, Place(verdict.offset, self._loop.epoch, -1))
        text = f"drift: {changed(verdict, is_regression=None)}"
        if verdict.subject != tag:  # of a detector that has failed
            self.alerts.claim(verdict, text, place, kind="pipeline")
            return
        way = self._way_of(tag)
        is_worse = way == "both" or verdict.change in (f"location {way}", f"rate {way}")
        if is_worse or verdict.phase == "settled":
            self.alerts.claim(verdict, text, place, group=GROUP)
