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
from .alerts import TrainingAlerts
from .loop import Loop, Place
from .monitor import BaseMonitor
from .series import News

Worse = Literal["up", "down", "both"]
WORSE: Final[Mapping[str, Worse]] = MappingProxyType(
    {"*loss*": "up", "*error*": "up", "*accuracy*": "down", "*recall*": "down", "*precision*": "down", "*f1*": "down"}
)  # fmt: skip
"""Which way numbers of the loop go when something is wrong, by patterns of names."""
_SECOND: Final = 1_000_000_000
_DIRECTED: Final = frozenset(["e_detector", "natural_size"])
"""Detectors that say themselves which way a stream has gone since its latest regime; others, that it is not where its first values were."""
_KEPT: Final = 2048  # values of a stream
_BEFORE: Final = (
    256  # values before a change that it is compared with, as many as make a reference; chosen
)
_LATE: Final = 200  # batches


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
        Of the detectors, as `drift` in `tocsin.yaml`: `DriftSettings(budget_events=1e5, extra_detectors=("kswin",), alarms="all")`. Events are
        batches; keys about embeddings, logits and files of reference are of no concern here.
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
    While a model learns its numbers change by themselves, for the better: that is no claim. So a stream has a way that is worse, and only what goes that way is
    claimed. Of ADWIN and Page-Hinkley the way is that from the 256 values before the change. A stream is known after 256 values (`warmup_values`); before, `LossMonitor` is what watches. Values that are not finite
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
        self._settings = settings or DriftSettings()
        self._begin()

    def _begin(self) -> None:
        self._loop = Loop()
        self._news = News(self._told)
        self._waiting: dict[str, list[tuple[int, float]]] = {}
        self._latest: dict[str, deque[tuple[int, float]]] = {}
        self._places: dict[int, Place] = {}
        self._streams: StreamMonitor = stream_monitor(self._settings, 1.0)

    def initialize(
        self, model: nn.Module, dataloader: Iterable[Any], criterion: Callable[..., Any] | None
    ) -> None:
        """Begin."""
        del model, dataloader, criterion
        self.alerts = self.alerts or TrainingAlerts()
        self._begin()

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Take what is new, and judge it in one batch of so many."""
        del outputs
        place = self._loop.end_batch(batch)
        self._places[place.step] = place
        if self._loop.step % self.every == 0:
            self._judge()

    def on_epoch_end(self, epoch: int) -> None:
        """Judge what is new."""
        self._judge()
        self._loop.end_epoch(epoch)

    def close(self) -> None:
        """Judge what came at the end."""
        self._judge()

    def _judge(self) -> None:
        values: dict[str, list[tuple[int, float]]] = {}
        for tag, step, value in self._news.take(max(self._loop.step - 1, 0)):
            if math.isfinite(value) and self._way_of(tag):
                values.setdefault(tag, []).append((step, value))
        found: list[Verdict] = []
        for tag, pairs in values.items():
            steps = np.array([step for step, _ in pairs], np.int64)
            self._latest.setdefault(tag, deque(maxlen=_KEPT)).extend(pairs)
            found += self._streams.update(
                Observations(
                    names=(tag,),
                    values=np.array([[value] for _, value in pairs]),
                    offsets=steps,
                    rows=np.zeros_like(steps),
                    times=steps * _SECOND,  # to a test that knows seasons
                )
            )
        for verdict in sorted(found, key=lambda one: one.offset):
            if not verdict.advisory:
                self._claim(verdict if verdict.detector in _DIRECTED else self._directed(verdict))
        # Values of a batch may come some batches later, from an accelerator.
        self._places = {k: p for k, p in self._places.items() if k > self._loop.step - _LATE}

    def _directed(self, verdict: Verdict) -> Verdict:
        """Return a verdict with what came before the change, in place of the reference: a loss that has fallen and rises is below that all the time."""
        pairs = self._latest[verdict.subject]
        values = np.array([value for step, value in pairs if step <= verdict.offset])
        since = min(verdict.delay_events or len(values), len(values) - 1)
        before, after = values[:-since][-_BEFORE:], values[-since:]
        size = float(after.mean() - before.mean())
        spread = float(before.std())
        edges = np.array(verdict.reference.edges if verdict.reference else [before.min(), before.max()])  # fmt: skip
        return msgspec.structs.replace(
            verdict,
            change="location up" if size > 0 else "location down",
            size=size,
            size_sigmas=size / spread if spread else None,
            reference=summarise(before, edges),
            current=summarise(after, edges),
        )

    def _way_of(self, tag: str) -> str:
        return next((way for pattern, way in self._worse.items() if fnmatchcase(tag, pattern)), "")

    def _claim(self, verdict: Verdict) -> None:
        """Claim what goes the way that is worse, and what may be either."""
        way = self._way_of(verdict.subject)
        is_worse = way == "both" or verdict.change in (f"location {way}", f"rate {way}")
        if not is_worse or self.alerts is None:
            return
        place = self._places.get(verdict.offset, Place(verdict.offset, self._loop.epoch, -1))
        self.alerts.claim(verdict, f"drift: {changed(verdict, is_regression=None)}", place)
