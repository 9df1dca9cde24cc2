"""kill -9 of workers, of Redis and of the broker, at random moments: no alert lost, none twice, none changed."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tocsin import Alert, AlertSubscriber, Publisher
from tocsin.demo.classifier import load, train
from tocsin.demo.run import Catch, serve
from tocsin.demo.screen import Screen
from tocsin.embedded import EmbeddedRedis

START = datetime(2026, 1, 1, tzinfo=UTC)
Wait = Callable[..., Any]


class Traffic(threading.Thread):
    """Some models whose inputs jump up and down for some seconds, in the background."""

    def __init__(self, bootstrap: str, topic: str, seed: int, seconds: float = 8.0) -> None:
        super().__init__(daemon=True)
        self.events = Publisher(bootstrap, topic=topic, linger=0.01, queue_events=10**6)
        self.seconds = seconds
        self.rng = np.random.default_rng(seed)
        self.count = 0
        self.start()

    def run(self) -> None:
        begin = time.monotonic()
        while time.monotonic() - begin < self.seconds:
            for _ in range(20):
                self.count += 1
                shift = 4.0 * (self.count // 1500 % 2)
                for model in ("a", "b", "c"):
                    self.events.prediction(
                        f"{model}-{self.count}", model=model,
                        features={"x": float(self.rng.normal() + shift)},
                        time=START + timedelta(seconds=self.count),
                    )  # fmt: skip
            time.sleep(0.01)
        self.events.close(60)

    def finish(self) -> None:
        self.join()
        counts = self.events.counts
        assert counts.sent == 3 * self.count, counts


def by_model(alerts: list[Alert]) -> dict[str, list[Alert]]:
    found: dict[str, list[Alert]] = {}
    for alert in alerts:
        found.setdefault(alert.model, []).append(alert)
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_a_worker_killed_during_the_demos_stream_changes_no_alert(
    make_site: Any, store: EmbeddedRedis, wait_until: Wait, seed: int
) -> None:
    site = make_site(store.url)
    rng = np.random.default_rng(seed)
    site.start(tenant="undisturbed")
    killed = site.start(tenant="killed")
    training, held_out = load(seed)
    model = train(training, seed)
    catch, screen = Catch(), Screen(Console(file=io.StringIO()))
    served = threading.Thread(
        target=serve, args=(site.broker.bootstrap, model, held_out, catch, screen, 2.5, seed),
        kwargs={"topic": site.topic}, daemon=True,
    )  # fmt: skip
    served.start()
    kills = 0

    def has_gone_on(since: int) -> bool:
        return sum(site.offsets("killed").values()) > since or not served.is_alive()

    while served.is_alive() or kills < 2:
        if rng.random() < 0.25:  # while it starts, takes its partitions on, or has just done so
            time.sleep(rng.uniform(0.5, 2.5))
        else:
            since = sum(site.offsets("killed").values())
            wait_until(lambda since=since: has_gone_on(since), 60)
            time.sleep(rng.uniform(0.0, 1.5))
        killed.kill()
        killed.wait()
        kills += 1
        killed = site.start(tenant="killed")
    served.join()
    site.caught_up("undisturbed")
    site.caught_up("killed")
    expected = site.alerts("undisturbed")
    kinds = {alert.kind for alert in expected if alert.state == "firing"}
    assert {"data drift", "concept drift", "adversarial input"} <= kinds
    assert site.alerts("killed") == expected
    assert kills >= 2
    name = expected[0].model
    rows = site.series(name, "undisturbed")
    assert rows[0].labels > 1000
    assert {"accuracy", "f1:macro", "log_loss"} <= set(rows[0].metrics)
    # What was changed but not yet in the series when a worker died is written by the next one.
    wait_until(lambda: site.series(name, "killed") == rows)


def test_workers_that_share_the_partitions_and_die_in_turn_change_no_alert(
    make_site: Any, store: EmbeddedRedis
) -> None:
    site = make_site(store.url, partitions=4)
    rng = np.random.default_rng(2)
    site.start(tenant="undisturbed")
    workers = [site.start(tenant="shared") for _ in range(2)]
    traffic = Traffic(site.broker.bootstrap, site.topic, seed=2, seconds=12)
    for turn in range(4):
        time.sleep(rng.uniform(1.5, 3.0))
        workers[turn % 2].kill()
        workers[turn % 2].wait()
        workers[turn % 2] = site.start(tenant="shared")
    traffic.finish()
    site.caught_up("undisturbed")
    site.caught_up("shared")
    expected = by_model(site.alerts("undisturbed"))
    assert set(expected) == {"a", "b", "c"}
    assert by_model(site.alerts("shared")) == expected


def test_redis_killed_under_worker_and_subscriber_loses_and_doubles_nothing(
    make_site: Any, broker: Any, store: EmbeddedRedis
) -> None:
    with EmbeddedRedis() as calm:
        quiet = make_site(calm.url)
        quiet.start()
        site = make_site(store.url, topic=None)
        site.topic, site.partitions = quiet.topic, quiet.partitions
        site.start(tenant="killed")
        received: list[Alert] = []
        subscriber = AlertSubscriber(store.url, name="pager", tenant="killed")
        listener = threading.Thread(target=lambda: received.extend(subscriber), daemon=True)
        listener.start()
        traffic = Traffic(broker.bootstrap, quiet.topic, seed=3, seconds=10)
        rng = np.random.default_rng(3)
        for _ in range(3):
            time.sleep(rng.uniform(1.0, 2.5))
            store.kill()
            time.sleep(rng.uniform(0.1, 1.0))
            store.start()
        traffic.finish()
        quiet.caught_up()
        site.caught_up("killed")
        expected = by_model(quiet.alerts())
        assert sum(map(len, expected.values())) >= 6
        written = site.alerts("killed")
        assert by_model(written) == expected
        deadline = time.monotonic() + 10
        while len(received) < len(written) and time.monotonic() < deadline:
            time.sleep(0.05)
        subscriber.stop()
        listener.join(5)
        assert [alert.id for alert in received] == [alert.id for alert in written]
        assert subscriber.missed == 0


def test_the_broker_killed_loses_and_doubles_nothing(
    make_site: Any, broker: Any, store: EmbeddedRedis, wait_until: Wait
) -> None:
    if not hasattr(broker, "server"):
        pytest.skip("the embedded broker keeps its log in memory: TOCSIN_TEST_KAFKA_HOME runs this")
    site = make_site(store.url)
    site.start(tenant="live")
    wait_until(lambda: len(site.offsets("live")) == 2)
    traffic = Traffic(broker.bootstrap, site.topic, seed=4, seconds=12)
    for _ in range(2):
        time.sleep(2)
        broker.server.kill()
        broker.start()
    traffic.finish()
    site.caught_up("live")
    # An undisturbed worker on the same log afterwards.
    site.start(tenant="after")
    site.caught_up("after")
    expected = by_model(site.alerts("after"))
    assert set(expected) == {"a", "b", "c"}
    assert by_model(site.alerts("live")) == expected
    assert site.metrics("live").keys() == {"a", "b", "c"}
    for figures in site.metrics("live").values():
        assert figures["predictions"] == traffic.count
