"""The worker: one loop over its partitions, from records to one commit each, until it is told to stop."""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Final

from ..core.alert import Alert
from ..core.errors import FencedError, TransportError
from .dead_letters import DeadLetters
from .decode import Decoder
from .pipeline import DeadLetter, PartitionPipeline
from .records import Partition, Poison, Records
from .settings import Settings
from .source import Source
from .store import Commit, Store

_log = logging.getLogger(__name__)

EXIT_WATCHDOG: Final = 70
"""Exit code of a process whose poll did not return; EX_SOFTWARE of sysexits.h."""
_STOP_SECONDS: Final = 3.0  # of the five that a stop may take; leaving the group takes the others
_RETRY_SECONDS: Final = 0.5
_TELL_SECONDS: Final = 10.0  # between two lines of the log about refused events


class _Owned:
    """A partition that this worker has claimed."""

    def __init__(self, pipeline: PartitionPipeline, owner: str, offset: int | None) -> None:
        self.pipeline = pipeline
        self.owner = owner
        self.stored = offset
        self.alerts: list[Alert] = []
        self.letters: list[DeadLetter] = []
        self.written: Commit | None = None
        """A commit whose reply is still out: it is sent again as it was."""

    @property
    def is_dirty(self) -> bool:
        is_ahead = self.pipeline.position != self.stored
        return self.written is not None or is_ahead or self.pipeline.is_behind


class Worker:
    """Reads partitions, runs their pipelines, commits.

    Parameters
    ----------
    settings
        How.
    source, store, dead_letters
        Where records come from, where state and alerts go, where refusals go.

    Notes
    -----
    Guarantees: a partition's state, offset and alerts are written at once, so that after any crash it
    goes on from what was written; an alert is written with the events that led to it; what is refused
    is among the dead letters before its offset is written. While the store or the dead letters do
    not answer, nothing further is processed, and nothing is lost.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        store: Store,
        dead_letters: DeadLetters,
    ) -> None:
        self.settings = settings
        self._source = source
        self._store = store
        self._dead_letters = dead_letters
        self._decoder = Decoder(settings.limits)
        self._owned: dict[Partition, _Owned] = {}
        self._unclaimed: set[Partition] = set()
        self._stop = threading.Event()
        self._last_commit = time.monotonic()
        self._silent: dict[str, float] = {}
        """Since when the source or the store does not answer."""
        self._halted = False
        self._told = -_TELL_SECONDS
        self.records = 0
        self.refused = 0

    def stop(self) -> None:
        """Ask the loop to end; may be called by a signal handler or another thread."""
        self._stop.set()

    def run(self) -> None:
        """Work until `stop`.

        Raises
        ------
        TransportError
            The store or the dead letters did not answer for `redis.patience`; what was processed
            since the last commit is not committed, and another run goes on from there. For Kafka's
            events it waits as long as it takes.
        """
        watchdog = _Watchdog(self.settings.worker.watchdog)
        try:
            while not self._stop.is_set():
                self.step(watchdog)
        except BaseException:
            self._halted = True  # what was half processed is not written
            raise
        finally:
            watchdog.close()
            self._leave()

    def step(self, watchdog: _Watchdog | None = None) -> None:
        """Do one turn of the loop."""
        try:
            with watchdog or _no_watchdog:
                polled = self._source.poll(self.settings.worker.poll)
                first = next(polled, None)
        except TransportError as error:
            self._bear("source", error)
            return
        self._silent.pop("source", None)
        moved = self._rebalance()
        record: Records | Poison | None = first
        while record is not None:
            if record.partition not in moved and not self._take(record):
                moved.add(record.partition)
            record = next(polled, None)
        self._commit_due()

    def _rebalance(self) -> set[Partition]:
        """Follow the group; return the partitions whose polled records are from before."""
        changes = self._source.changes()
        # One that is owned already is assigned again when the log lost its position.
        for partition in changes.revoked | changes.assigned:
            owned = self._owned.pop(partition, None)
            self._unclaimed.discard(partition)
            if owned is not None:
                self._try_commit(partition, owned)
        self._unclaimed |= changes.assigned
        moved = changes.assigned | changes.revoked
        for partition in sorted(self._unclaimed):
            moved.add(partition)
            try:
                self._claim(partition)
            except FencedError as error:
                _log.warning("%s: %s", _name(partition), error)
            except TransportError as error:
                self._halt(error)
                break
        return moved

    def _claim(self, partition: Partition) -> None:
        """Become a partition's owner and go on from what is stored."""
        owner = uuid.uuid4().hex
        claim = self._store.claim(partition, owner)
        bounds = self._source.bounds(partition, claim.offset)
        pipeline = PartitionPipeline(
            partition, self.settings.of, self.settings.limits, self._decoder
        )
        position = claim.offset
        if position is None:
            position = bounds.end if self.settings.kafka.start == "latest" else bounds.first
        lost = pipeline.restore(position, claim.fields)
        for problem in lost:
            _log.error("state lost, starting clean: %s", problem)
        for model in pipeline.told_otherwise:
            pipeline.forget(model, self._store.written(partition, model))
        if not bounds.first <= position <= bounds.end:
            _log.error(
                "%s goes on from offset %d, but the log holds %d to %d: %s; going on from %d",
                _name(partition), position, bounds.first, bounds.end,
                "events were removed before they were read" if position < bounds.first
                else "the log was replaced by a shorter one",
                bounds.first,
            )  # fmt: skip
            pipeline.position = bounds.first
        owned = _Owned(pipeline, owner, claim.offset)
        self._owned[partition] = owned
        self._unclaimed.discard(partition)
        if claim.offset is None:
            # The beginning is written too, so that a crash before the first commit changes nothing.
            self._commit(partition, owned)
        self._source.seek(partition, pipeline.position)
        self._answered()
        _log.info("%s: going on from offset %d", _name(partition), pipeline.position)

    def _take(self, records: Records | Poison) -> bool:
        """Process records; False if their partition had to be claimed again."""
        owned = self._owned.get(records.partition)
        if owned is None or self._halted:
            return False
        output = owned.pipeline.process(records)
        owned.alerts += output.alerts
        owned.letters += output.dead_letters
        self.records += 1 if isinstance(records, Poison) else len(records)
        if output.dead_letters:
            self._tell(output.dead_letters)
        if output.alerts:
            return self._try_commit(records.partition, owned)
        return True

    def _tell(self, letters: Sequence[DeadLetter]) -> None:
        self.refused += sum(letter.events for letter in letters)
        now = time.monotonic()
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            last = letters[-1]
            _log.warning(
                "refused %d events so far, all go to the dead letters, topic %s; the last at %s offset %d: %s",
                self.refused, self.settings.kafka.dead_letters, _name(last.partition), last.offset,
                str(last.error)[:300],
            )  # fmt: skip

    def _commit_due(self) -> None:
        now = time.monotonic()
        wait = _RETRY_SECONDS if self._halted else self.settings.worker.commit
        if now - self._last_commit < wait:
            return
        try:
            for partition, owned in list(self._owned.items()):
                if owned.is_dirty and not self._try_commit(partition, owned) and self._halted:
                    return
        finally:
            self._last_commit = time.monotonic()  # so that slow commits leave time for events
        if self._halted and not self._unclaimed:
            self._go_on()
        offsets = {p: owned.stored for p, owned in self._owned.items() if owned.stored is not None}
        self._source.mark(offsets)

    def _try_commit(self, partition: Partition, owned: _Owned) -> bool:
        """Commit; False if the partition must be claimed again or nothing could be written."""
        try:
            self._commit(partition, owned)
        except FencedError as error:
            _log.warning("%s: %s; claiming it again", _name(partition), error)
            if self._owned.pop(partition, None) is not None:
                self._source.pause([partition])
                self._unclaimed.add(partition)
            return False
        except TransportError as error:
            self._halt(error)
            return False
        return True

    def _commit(self, partition: Partition, owned: _Owned) -> None:
        self._dead_letters.write(owned.letters)
        owned.letters = []
        commit = owned.written or Commit(
            owner=owned.owner,
            expected=owned.stored,
            offset=owned.pipeline.position,
            metrics=owned.pipeline.metrics(),
            fields=owned.pipeline.dirty(),
            series=owned.pipeline.series(),
            alerts=owned.alerts,
        )
        owned.written = commit
        self._store.commit(partition, commit)
        owned.written, owned.alerts = None, []
        owned.stored = commit.offset
        self._answered()
        for alert in commit.alerts:
            _log.info("%s: %s %s: %s", alert.model, alert.state, alert.kind, alert.summary)

    def _halt(self, error: TransportError) -> None:
        """Process nothing further until what is processed can be written."""
        if not self._halted:
            self._halted = True
            self._source.pause(self._owned)
        self._bear("store", error)

    def _bear(self, who: str, error: TransportError) -> None:
        """Note that something does not answer; raise if it has not for too long."""
        now = time.monotonic()
        if who not in self._silent:
            self._silent[who] = now
            _log.error("%s; nothing is processed until it does, and nothing is lost", error)
        elif now - self._silent[who] > self.settings.redis.patience:
            raise error
        self._stop.wait(0.05)

    def _answered(self) -> None:
        since = self._silent.pop("store", None)
        if since is not None:
            _log.info("going on after %.1f s", time.monotonic() - since)

    def _go_on(self) -> None:
        """Process again. What was polled meanwhile was passed over, so begin where each left off."""
        self._halted = False
        for partition, owned in self._owned.items():
            self._source.seek(partition, owned.pipeline.position)

    def _leave(self) -> None:
        """Write what is processed, and leave the group, within five seconds altogether."""
        deadline = time.monotonic() + _STOP_SECONDS
        for partition, owned in list(self._owned.items()):
            if not owned.is_dirty:
                continue
            if self._halted or time.monotonic() > deadline:
                _log.warning("%s: left without a last commit", _name(partition))
            else:
                try:
                    self._commit(partition, owned)
                except TransportError as error:
                    _log.warning("%s: left without a last commit: %s", _name(partition), error)
        self._source.close(max(0.5, deadline - time.monotonic()))
        self._dead_letters.close()
        self._store.close()


class _Watchdog:
    """Ends the process when the code inside `with` takes longer than `seconds`.

    kafka-python's poll has been seen not to return, at full load; a process that looks alive and does
    nothing is worse than one that is started again.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._began = None

    def _watch(self) -> None:
        while not self._closed.wait(self._seconds / 10):
            began = self._began
            if began is not None and time.monotonic() - began > self._seconds:
                _log.critical("poll has not returned for %.0f s; ending the process", self._seconds)
                faulthandler.dump_traceback()
                os._exit(EXIT_WATCHDOG)

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._thread.join()


class _NoWatchdog:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


_no_watchdog = _NoWatchdog()


def _name(partition: Partition) -> str:
    return f"{partition.topic}/{partition.number}"
