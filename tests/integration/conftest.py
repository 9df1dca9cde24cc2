"""Real servers: a broker (embedded, or the Apache Kafka of TOCSIN_TEST_KAFKA_HOME), Redis, workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
import redis

from tocsin import Alert
from tocsin.consumers import metric_series
from tocsin.consumers.records import Partition
from tocsin.consumers.topics import create_topics, end_offsets
from tocsin.core import alert as alerts
from tocsin.core.keys import Keys
from tocsin.core.metric_row import MetricRow
from tocsin.embedded import Broker, EmbeddedBroker, EmbeddedRedis
from tocsin.embedded.process import Address, Server, accepts, free_port


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("integration")


def eventually(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait until a condition holds, and return what it gave."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"did not happen within {seconds} s")


class ApacheKafka:
    """An unpacked Apache Kafka, on loopback, with its log on disk."""

    # A dead worker's partitions must not wait 45 s in a test.
    client_settings: dict[str, Any] = {"session_timeout_ms": 2_000, "heartbeat_interval_ms": 500}  # noqa: RUF012

    def __init__(self, home: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tocsin-kafka-")
        address = Address("127.0.0.1", free_port())
        # Compiled quickly and not well: it lives for some minutes, beside the tests.
        fast = ["/usr/bin/env", "KAFKA_TIER=1"]
        command = [*fast, f"{home}/kafka-server", f"{self._folder.name}/data", str(address.port)]
        self.server = Server("Kafka", command, address, Path(self._folder.name) / "log")

    @property
    def bootstrap(self) -> str:
        return str(self.server.address)

    def start(self) -> None:
        log = Path(self._folder.name) / "log"
        begins = log.read_text().count("Kafka Server started") if log.exists() else 0
        self.server.start(
            lambda: (
                log.read_text().count("Kafka Server started") > begins
                and accepts(self.server.address)
            )
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()
        self._folder.cleanup()


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    home = os.environ.get("TOCSIN_TEST_KAFKA_HOME")
    with ApacheKafka(home) if home else EmbeddedBroker() as running:
        yield running


@pytest.fixture
def store() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as running:
        yield running


class Site:
    """Topics of their own, a Redis, and the workers on them."""

    def __init__(
        self, stack: ExitStack, broker: Broker, url: str, folder: Path, topic: str, partitions: int
    ) -> None:
        self._stack = stack
        self.broker = broker
        self.url = url
        self.topic = topic
        self.dead_letters = f"{topic}.dead"
        self.folder = folder
        self.workers: list[subprocess.Popen[bytes]] = []
        self.partitions = [Partition(topic, number) for number in range(partitions)]
        create_topics(broker.bootstrap, [topic], partitions)
        create_topics(broker.bootstrap, [self.dead_letters], 1)

    def environment(self, tenant: str = "t", **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "TOCSIN_KAFKA__BOOTSTRAP": self.broker.bootstrap,
            "TOCSIN_KAFKA__CLIENT": json.dumps(self.broker.client_settings),
            "TOCSIN_KAFKA__TOPIC": self.topic,
            "TOCSIN_KAFKA__DEAD_LETTERS": self.dead_letters,
            "TOCSIN_KAFKA__GROUP": f"{self.topic}-{tenant}",
            "TOCSIN_REDIS__URL": self.url,
            "TOCSIN_TENANT": tenant,
            "TOCSIN_WORKER__POLL": "0.02",
            **more,
        }

    def run(
        self, *arguments: str, timeout: float = 60, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end."""
        return subprocess.run(
            [sys.executable, "-m", "tocsin.cli.main", *arguments],
            env=self.environment(**more), cwd=self.folder, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip

    def start(self, *arguments: str, tenant: str = "t", **more: str) -> subprocess.Popen[bytes]:
        """Start the command line, a worker where nothing is said; it ends with the test."""
        self.log = self.folder / f"{len(self.workers)}.log"
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tocsin.cli.main", *(arguments or ("worker",))],
                env=self.environment(tenant, **more), cwd=self.folder,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.workers.append(process)
        self._stack.callback(self._end, process, self.log)
        return process

    @staticmethod
    def _end(process: subprocess.Popen[bytes], log: Path) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        print(f"--- {log.name}: exit code {process.returncode}")
        print("\n".join(log.read_text(errors="replace").splitlines()[-30:]))

    def alerts(self, tenant: str = "t") -> list[Alert]:
        """All alerts written so far, without the ids of their stream entries."""
        client = redis.Redis.from_url(self.url)
        found: Any = client.xrange(Keys(tenant).alerts)
        client.close()
        return [alerts.decode(fields[b"alert"]) for _, fields in found]

    def offsets(self, tenant: str = "t") -> dict[int, int]:
        """The stored offset of each partition that has one."""
        client = redis.Redis.from_url(self.url)
        found: dict[int, int] = {}
        for partition in self.partitions:
            offset: Any = client.hget(Keys(tenant).state(*partition), "offset")
            if offset is not None:
                found[partition.number] = int(offset)
        client.close()
        return found

    def caught_up(self, tenant: str = "t", seconds: float = 60.0) -> None:
        """Wait until everything published so far is committed."""
        connection = {"bootstrap_servers": self.broker.bootstrap}
        wanted = {p.number: e for p, e in end_offsets(connection, self.partitions).items()}
        eventually(
            lambda: all(self.offsets(tenant).get(p, 0) >= end for p, end in wanted.items()), seconds
        )

    def metrics(self, tenant: str = "t") -> dict[str, dict[str, float]]:
        """The figures of each model."""
        client = redis.Redis.from_url(self.url)
        found: Any = client.hgetall(Keys(tenant).metrics)
        client.close()
        return {name.decode().rsplit("|", 1)[0]: json.loads(text) for name, text in found.items()}

    def series(self, model: str, tenant: str = "t") -> list[MetricRow]:
        """The series of a model's performance."""
        client = redis.Redis.from_url(self.url)
        found = metric_series.read(client, Keys(tenant), model)
        client.close()
        return found


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(broker: Broker, tmp_path: Path) -> Iterator[MakeSite]:
    with ExitStack() as stack:

        def make(url: str, partitions: int = 2, topic: str | None = None) -> Site:
            name = topic or f"events-{uuid.uuid4().hex[:12]}"
            return Site(stack, broker, url, tmp_path, name, partitions)

        yield make


@pytest.fixture
def site(make_site: MakeSite, store: EmbeddedRedis) -> Site:
    return make_site(store.url)


@pytest.fixture(scope="module")
def shared_site(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """For tests that only look: topics, a Redis and workers that a module's tests have in common."""
    with EmbeddedRedis() as store, ExitStack() as stack:
        folder, topic = tmp_path_factory.mktemp("site"), f"events-{uuid.uuid4().hex[:12]}"
        yield Site(stack, broker, store.url, folder, topic, 2)


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    return eventually
