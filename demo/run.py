"""Starts everything, plays the story, prints what is caught, and says whether all of it was."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import redis
import torch
from rich.console import Console
from torch import nn

from ..consumers.subscriber import AlertSubscriber
from ..consumers.topics import create_topics, end_offsets, partitions_of
from ..core.alert import Alert
from ..core.errors import TransportError
from ..core.keys import Keys
from ..embedded import EmbeddedBroker, EmbeddedRedis
from ..producers.publisher import Publisher
from ..producers.watch import Watch, watch
from .classifier import CLASSES, EMBEDDING, Digits, features, load, train
from .screen import Screen
from .story import ATTACK, CHANGES, LABELS, Served, number_of, tell

_RATE: Final = 300.0  # predictions a second at speed 1
_TOPIC: Final = "tocsin.events"
_PARTITIONS: Final = 4
_CATCH_UP_SECONDS: Final = 120.0
MODEL: Final = "digits"


class Catch:
    """The alerts so far, and for each the events since the change that it is about."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        self.labels_since: dict[str, int] = {}
        """By prediction id: how many labels under the new rules had come when its label came."""

    def delay(self, alert: Alert) -> int | None:
        """Return how many events after its change an alert came; None if it is about none."""
        if alert.prediction_id is None:
            return None
        if alert.kind == LABELS.kind:
            return self.labels_since.get(alert.prediction_id)
        if alert.kind == ATTACK.kind:
            return number_of(alert.prediction_id) - ATTACK.at + 1
        before = [c for c in CHANGES if c.at <= number_of(alert.prediction_id)]
        return number_of(alert.prediction_id) - before[-1].at + 1 if before else None

    def first(self, kind: str) -> Alert | None:
        """Return the first alert of a kind."""
        return next((a for a in self.alerts if a.kind == kind and a.state == "firing"), None)

    def problems(self) -> Iterator[str]:
        """Yield what is not as it must be: a change not caught, an alert before there was one."""
        for alert in self.alerts:
            if alert.state == "firing" and self._is_early(alert):
                yield f"raised before anything changed: {alert.id} {alert.summary}"
        for change in CHANGES:
            if self.first(change.kind) is None:
                yield f"not caught: {change.text}"

    def _is_early(self, alert: Alert) -> bool:
        """Whether an alert was raised before its change, or before any for kinds that follow from it."""
        if alert.prediction_id is None:
            return False
        if alert.kind == LABELS.kind:
            return not self.labels_since.get(alert.prediction_id)
        at = {change.kind: change.at for change in CHANGES}.get(alert.kind, CHANGES[0].at)
        return number_of(alert.prediction_id) < at


def run(*, headless: bool = False, speed: float | None = 1.0, seed: int = 0) -> int:
    """Play the demo.

    Parameters
    ----------
    headless
        Plain lines and no colours; for CI.
    speed
        Times 300 predictions a second; None for as fast as it goes.
    seed
        Of the model, the stream and the attack.

    Returns
    -------
    int
        0 if every change was caught and nothing was raised before the first one, else 1.
    """
    torch.set_num_threads(1)
    screen = Screen(Console(no_color=headless, highlight=False, soft_wrap=True))
    with (
        tempfile.TemporaryDirectory(prefix="tocsin-demo-") as folder,
        EmbeddedRedis() as store,
        EmbeddedBroker() as broker,
    ):
        create_topics(broker.bootstrap, [_TOPIC, "tocsin.dead-letters"], _PARTITIONS)
        with _worker(broker, store.url, Path(folder) / "worker.log") as worker:
            training, held_out = load(seed)
            model = train(training, seed)
            screen.banner(broker.bootstrap, store.url, _accuracy(model, held_out), speed)
            catch = Catch()
            with AlertSubscriber(store.url, after="0-0") as alerts:
                listener = threading.Thread(
                    target=_listen, args=(alerts, catch, screen), daemon=True
                )
                listener.start()
                published = serve(broker.bootstrap, model, held_out, catch, screen, speed, seed)
                _wait_for(worker, store.url, broker.bootstrap, Path(folder) / "worker.log")
                time.sleep(1.0)  # the last alerts are on their way
                alerts.stop()
                listener.join()
            figures = redis.Redis.from_url(store.url).hgetall(Keys().metrics)
    problems = list(catch.problems())
    screen.summary(catch, published, [json.loads(f) for f in figures.values()], problems)
    return 1 if problems else 0


@contextmanager
def _worker(broker: EmbeddedBroker, url: str, log: Path) -> Generator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "TOCSIN_KAFKA__BOOTSTRAP": broker.bootstrap,
        "TOCSIN_KAFKA__CLIENT": json.dumps(broker.client_settings),
        "TOCSIN_REDIS__URL": url,
    }
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tocsin.cli.main", "worker"],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the demo, which ends it
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _accuracy(model: nn.Module, digits: Digits) -> float:
    with torch.inference_mode():
        return float((model(digits.images).argmax(1) == digits.labels).float().mean())


def serve(
    bootstrap: str,
    model: nn.Module,
    held_out: Digits,
    catch: Catch,
    screen: Screen,
    speed: float | None,
    seed: int,
    topic: str = _TOPIC,
) -> int:
    """Be the model server: answer requests, publish labels as they become known, on time."""
    announced = list(CHANGES)
    stolen = copy.deepcopy(model)  # the attacker's own, which nobody watches
    changed_labels = 0
    begin = time.monotonic()
    screen.begin()
    with Publisher(bootstrap, topic=topic, model=MODEL, version="1") as events:
        watched = watch(model, events, embedding=EMBEDDING, classes=CLASSES)
        for moment in tell(stolen, held_out, seed):
            if isinstance(moment, Served):
                while announced and moment.first >= announced[0].at:
                    screen.change(announced.pop(0))
                _answer(watched, model, moment)
                if speed is not None:
                    ahead = begin + moment.first / (_RATE * speed) - time.monotonic()
                    time.sleep(max(0.0, ahead))
                elif moment.first % 1000 == 0:
                    events.flush()
            else:
                changed_labels += moment.is_changed
                catch.labels_since[moment.prediction_id] = changed_labels
                events.label(moment.prediction_id, moment.label)
        events.flush(30)
        watched.close()
        return events.counts.sent


def _answer(watched: Watch, model: nn.Module, served: Served) -> None:
    with (
        torch.inference_mode(),
        watched.request(ids=served.ids, clients=served.clients, features=features(served.images)),
    ):
        model(served.images)


def _listen(alerts: AlertSubscriber, catch: Catch, screen: Screen) -> None:
    for alert in alerts:
        catch.alerts.append(alert)
        screen.alert(alert, catch.delay(alert))


def _wait_for(worker: subprocess.Popen[bytes], url: str, bootstrap: str, log: Path) -> None:
    """Wait until the worker has committed everything that was published."""
    connection = {"bootstrap_servers": bootstrap}
    wanted = end_offsets(connection, partitions_of(connection, _TOPIC))
    client = redis.Redis.from_url(url)
    deadline = time.monotonic() + _CATCH_UP_SECONDS
    while time.monotonic() < deadline:
        if worker.poll() is not None:
            raise TransportError(f"the worker ended with code {worker.returncode}:\n{_tail(log)}")
        stored = {
            partition: int(client.hget(Keys().state(*partition), "offset") or 0)
            for partition in wanted
        }
        if all(stored[partition] >= end for partition, end in wanted.items()):
            return
        time.sleep(0.1)
    raise TransportError(f"the worker did not catch up:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
