"""From what monitors of training find to alerts: printed, given to callables, and on the channel of Redis."""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from math import isnan
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import uuid4

from ..consumers.incidents import Claim, Incidents, Moment, Onset
from ..consumers.model_settings import RUNBOOK
from ..consumers.records import Partition
from ..consumers.redis_store import RedisStore, connect
from ..consumers.store import Commit
from ..core.alert import Alert, Kind
from ..core.errors import FencedError, TransportError
from ..core.keys import DEFAULT_TENANT, Keys
from ..core.verdict import Verdict
from .loop import Place
from .threshold import Crossing

if TYPE_CHECKING:
    from .monitor import BaseMonitor

_log = logging.getLogger(__name__)

_KEPT: Final = (
    1000  # alerts that `alerts` and the way to Redis hold; a run that fails raises some ten
)
_TRIES: Final = 5
"""Sends of an alert, a second more between each: 10 s, the restart of a Redis. Then it is left out, and the log says so."""
_END_SECONDS: Final = 15.0  # what `close` waits for alerts on their way, at most: all tries of one


class TrainingClaim(NamedTuple):
    """What a monitor claimed, and of which batch."""

    place: Place
    verdict: Verdict
    summary: str
    group: str | None = None


class TrainingAlerts:
    """Makes alerts of claims, of the type that a worker sends, in the environment `training`.

    Parameters
    ----------
    model, version
        Whose training it is.
    environment
        As in the alerts.
    run
        Names this run of the model, in the ids of its alerts: of two runs they differ. None for one that is drawn, past the generators of
        training.
    on_alert
        Called with each `Alert`, in the thread that trains; one that raises is logged, and the training goes on.
    show
        Whether each is printed, one line to standard error.
    redis_url
        Where to add each to the stream and the channel of alerts, from a thread of its own: training never waits for Redis.
    tenant
        Whose stream and channel.
    merge_steps, resolve_steps
        As `merge_events` and `resolve_events` of a worker, in batches: what a monitor claims within so many batches of an open incident is
        part of it, and an incident is over so many batches after its last claim.
    clock
        Nanoseconds since 1970, for `detected_at`.

    Attributes
    ----------
    alerts
        The latest 1,000.
    claims
        What those of this run are made of, the latest 1,000: an alert may be of several, and a claim that joins an incident without making it worse has none.
    run
        The name of the run; of a second one that begins here with `/2` after it.

    Raises
    ------
    ConfigError
        The URL cannot be read.
    """

    def __init__(
        self,
        model: str = "model",
        *,
        version: str | None = None,
        environment: str = "training",
        run: str | None = None,
        on_alert: Callable[[Alert], object] | Iterable[Callable[[Alert], object]] = (),
        show: bool = True,
        redis_url: str | None = None,
        tenant: str = DEFAULT_TENANT,
        merge_steps: int = 100,
        resolve_steps: int = 100,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.alerts: deque[Alert] = deque(maxlen=_KEPT)
        self.claims: deque[TrainingClaim] = deque(maxlen=_KEPT)
        self.run = run or uuid4().hex[:12]
        self._runs = 1
        self._step = 0
        self._begun = partial(
            Incidents, model, environment, 0, merge_events=merge_steps, resolve_events=resolve_steps, runbook=RUNBOOK,
        )  # fmt: skip
        self._incidents = self._begun(run=self.run)
        self._version = version
        self._callbacks = [on_alert] if callable(on_alert) else list(on_alert)
        self._show = show
        self._clock = clock
        self._channel = None if redis_url is None else _Channel(redis_url, tenant, model)

    def begin(self) -> None:
        """Begin another run, if there was one: batches count from 0 again, and what is open, and claimed, is of the run before."""
        if self._step or self.claims:
            self._runs += 1
            self.run = f"{self.run.rsplit('/', 1)[0]}/{self._runs}"
            self._step, self._incidents = 0, self._begun(run=self.run)
            self.claims.clear()

    def claim(
        self,
        verdict: Verdict,
        summary: str,
        place: Place,
        *,
        kind: Kind = "training",
        group: str | None = None,
    ) -> None:
        """Take a claim in: it opens an incident, is part of one, or makes one more severe.

        Parameters
        ----------
        verdict
            What is claimed; its `offset` is the number of the batch in the run.
        summary
            One line for people.
        place
            The batch; an alert has it as `prediction_id`.
        kind
            What it is a claim of.
        group
            What makes one incident; None for the claims of one detector.
        """
        self.end_batch(place)
        if verdict.phase == "opened":
            self.claims.append(TrainingClaim(place, verdict, summary, group))
        now = Claim(
            place.step, verdict, kind, f"{summary} ({place})", self._clock(), Onset(), str(place),
            self._version, group,
        )  # fmt: skip
        alert = self._incidents.claim(now)
        if alert is not None:
            self._send(alert)

    def crossed(self, crossing: Crossing) -> None:
        """Take in that a quantity has left its bounds: `ModelCheckpoint(..., action="alert", on_alert=alerts.crossed)`."""
        # Checkpoints may count epochs; alerts are of the batch that the monitors have come to.
        place = Place(max(self._step, crossing.step), crossing.epoch, -1)
        change = "above" if crossing.bound == "max_value" else "below"
        verdict = Verdict(
            detector="threshold", subject=crossing.monitor, offset=place.step, row=0, statistic=crossing.value,
            threshold=crossing.limit, unit=crossing.bound, evidence=crossing.summary,
            change="non-finite" if isnan(crossing.value) else change,
        )  # fmt: skip
        self.claim(verdict, crossing.summary, place)

    def end_batch(self, place: Place) -> None:
        """Resolve what is over by now."""
        self._step = max(self._step, place.step)
        while (due := self._incidents.due(place.step)) is not None:
            for alert in self._incidents.end(due, Moment(place.step, 0, self._clock(), str(place))):
                self._send(alert)

    def close(self) -> None:
        """Wait for alerts on their way to Redis, 15 s at most. What is open stays so: nothing says that it is over."""
        if self._channel is not None:
            self._channel.close()

    def _send(self, alert: Alert) -> None:
        self.alerts.append(alert)
        if self._show:
            print(f"{alert.severity} {alert.state} {alert.model}: {alert.summary}", file=sys.stderr)  # noqa: T201 - that is what it is for
        for callback in self._callbacks:
            try:
                callback(alert)
            except Exception:  # whatever a user's callable raises must not end the training
                _log.exception("a callback of alerts failed, training goes on")
        if self._channel is not None:
            self._channel.send(alert)


def begun(monitor: BaseMonitor) -> TrainingAlerts:
    """Return where a monitor's claims go in a run that begins: to those given, or to ones that are printed.

    Another run of these begins with a monitor that had begun with them before; of those that share them the first one says so. `Monitors` say it for theirs.
    """
    alerts = monitor.alerts or TrainingAlerts()
    if monitor._begun_with is alerts and not monitor._is_driven:
        alerts.begin()
    monitor._begun_with = alerts
    return alerts


class _Channel:
    """Alerts on their way to Redis, sent by a thread in the order in which they came."""

    def __init__(self, url: str, tenant: str, model: str) -> None:
        self._client = connect(url)
        self._store = RedisStore(self._client, Keys(tenant))
        self._partition = Partition(f"training.{model}", 0)
        self._owner = uuid4().hex
        self._offset: int | None = None
        self._claimed = False
        self._queue: queue.Queue[Alert | None] = queue.Queue(_KEPT)
        self._thread: threading.Thread | None = None

    def send(self, alert: Alert) -> None:
        """Put an alert on its way."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tocsin-training", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(alert)
        except queue.Full:
            _log.error("an alert was left out: %d wait for Redis", _KEPT)

    def close(self) -> None:
        """Send what waits, and let go; a later `send` begins anew."""
        if self._thread is None:
            return
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            _log.error("alerts wait for Redis that does not answer: left out")
        self._thread.join(_END_SECONDS)
        self._thread = None

    def _run(self) -> None:
        while (alert := self._queue.get()) is not None:
            for trial in range(_TRIES):
                try:
                    self._commit(alert)
                    break
                except FencedError:  # another run of this model has begun: both go on
                    self._claimed = False
                except TransportError as error:
                    _log.warning("alert not sent: %s", error)
                    time.sleep(trial)
                except (
                    Exception
                ):  # what Redis answers is no answer: the thread goes on for those that follow
                    _log.exception("an alert was left out")
                    break
            else:
                _log.error("an alert was left out after %d tries", _TRIES)
        self._client.close()

    def _commit(self, alert: Alert) -> None:
        if not self._claimed:
            self._offset = self._store.claim(self._partition, self._owner).offset
            self._claimed = True
        following = (self._offset or 0) + 1
        self._store.commit(
            self._partition, Commit(self._owner, self._offset, following, {}, {}, [alert])
        )
        self._offset = following
