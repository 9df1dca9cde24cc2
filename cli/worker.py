"""`tocsin worker`: put the worker together, run it, end it on a signal."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..consumers.dead_letters import KafkaDeadLetters
from ..consumers.kafka_source import KafkaSource
from ..consumers.redis_store import RedisStore, connect
from ..consumers.settings import Settings
from ..consumers.topics import create_topics
from ..consumers.warm import warm
from ..consumers.worker import Worker
from ..core.errors import ConfigError
from ..core.keys import Keys
from .config import load_checked
from .logs import configure

_log = logging.getLogger(__name__)

_EMBEDDED_PARTITIONS = 4


def run(config: Path | None, *, embedded: bool) -> int:
    """Run a worker until it is told to stop."""
    # A worker is one loop; torch's threads would only wait for it, busily. Read when torch is loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    configure()
    settings = load_checked(config)
    with ExitStack() as stack:
        extra: dict[str, Any] = {}
        if embedded:
            extra = _start(stack, settings)
        _log.info("loading detectors; they are compiled the first time, which takes a minute")
        warm()
        source = KafkaSource(settings, extra)
        store = RedisStore(
            connect(settings.redis.url), Keys(settings.tenant), settings.redis.stream_length
        )
        worker = Worker(settings, source, store, KafkaDeadLetters(settings.kafka))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop())
        _log.info(
            "watching %s as %s at %s", settings.kafka.topic, settings.kafka.group,
            settings.kafka.bootstrap,
        )  # fmt: skip
        worker.run()
        _log.info("stopped after %d records; %d events refused", worker.records, worker.refused)
    return 0


def _start(stack: ExitStack, settings: Settings) -> dict[str, Any]:
    """Start broker and Redis where the settings expect them; return settings for that broker."""
    from ..embedded import EmbeddedBroker, EmbeddedRedis
    from ..embedded.process import Address, accepts

    broker_port = _port(settings.kafka.bootstrap, 9092)
    redis_port = _port(settings.redis.url.removeprefix("redis://").split("/")[0], 6379)
    for name, port in (("kafka.bootstrap", broker_port), ("redis.url", redis_port)):
        if accepts(Address("127.0.0.1", port)):
            raise ConfigError(
                f"something listens on port {port} already; leave --embedded out, or set {name} to "
                "a free port"
            )
    broker = stack.enter_context(EmbeddedBroker(broker_port))
    store = stack.enter_context(EmbeddedRedis(redis_port))
    create_topics(
        broker.bootstrap, [settings.kafka.topic, settings.kafka.dead_letters], _EMBEDDED_PARTITIONS
    )
    _log.info("embedded broker at %s, Redis at %s", broker.bootstrap, store.url)
    return broker.client_settings


def _port(address: str, default: int) -> int:
    host, _, port = address.partition(":")
    if host not in ("localhost", "127.0.0.1"):
        raise ConfigError(f"--embedded serves this machine only, and the settings say {host}")
    return int(port) if port.isdigit() else default
