"""`tocsin doctor`: what a worker needs, one line each: ok, or what to do."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal, NamedTuple

import redis
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from ..consumers.kafka_source import unreachable
from ..consumers.redis_store import TRANSIENT, connect
from ..consumers.settings import Settings
from ..core.errors import ConfigError
from .config import load_checked


class Finding(NamedTuple):
    """One line: what was looked at, whether it is well, what was found or what to do."""

    subject: str
    state: Literal["ok", "note", "fix"]
    text: str


def run(config: Path | None) -> int:
    """Look at everything; return 1 if something must be mended."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    findings = list(examine(config))
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f"{finding.state:<4}  {finding.subject:<{width}}  {finding.text}")
    return int(any(finding.state == "fix" for finding in findings))


def examine(config: Path | None) -> Iterator[Finding]:
    """Yield what is found, in the order in which it should be mended."""
    yield from _installed()
    try:
        settings = load_checked(config)
    except ConfigError as error:
        for line in str(error).splitlines():
            yield Finding("configuration", "fix", line)
        return
    found = config or Path("tocsin.yaml")
    yield Finding("configuration", "ok", str(found) if found.is_file() else "no file: defaults")
    yield from _kafka(settings)
    yield from _redis(settings)


def _installed() -> Iterator[Finding]:
    yield Finding("python", "ok", sys.version.split()[0])
    for name in ("kafka-python", "redis", "msgspec", "numpy", "river", "numba"):
        yield Finding(name, "ok", metadata.version(name))
    if util.find_spec("crc32c") is None:
        yield Finding(
            "crc32c", "fix", "pip install crc32c: without it checksums run 50 times slower"
        )
    for module, extra, what in (
        ("torch", "attack", "adversarial inputs are not looked for"),
        ("pyarrow", "batch", "Arrow batches go to the dead letters"),
    ):
        if util.find_spec(module) is None:
            yield Finding(module, "note", f"not installed, {what}: pip install 'tocsin[{extra}]'")
        else:
            yield Finding(module, "ok", metadata.version(module))


def _kafka(settings: Settings) -> Iterator[Finding]:
    kafka = settings.kafka
    try:
        connection: dict[str, Any] = {"bootstrap_timeout_ms": 5000, **kafka.connection()}
        admin: Any = KafkaAdminClient(**connection)
    except (KafkaError, OSError, ValueError, TypeError) as error:
        yield Finding("kafka", "fix", unreachable(kafka.bootstrap, error))
        return
    try:
        yield Finding("kafka", "ok", f"answers at {kafka.bootstrap}")
        found = set(admin.list_topics())
        for topic in (kafka.topic, kafka.dead_letters):
            if topic not in found:
                yield Finding(f"topic {topic}", "fix", "does not exist: tocsin topics create")
                continue
            (described,) = admin.describe_topics([topic])
            count = len(described["partitions"])
            few = topic == kafka.topic and count < 16
            yield Finding(
                f"topic {topic}",
                "note" if few else "ok",
                f"{count} partitions" + (": at most so many workers share the work" if few else ""),
            )
    except (KafkaError, OSError) as error:
        yield Finding("kafka", "fix", f"topics cannot be listed: {type(error).__name__}: {error}")
    finally:
        admin.close()


def _redis(settings: Settings) -> Iterator[Finding]:
    client = connect(settings.redis.url)
    try:
        info: Any = client.info()
        version = str(info["redis_version"])
        old = int(version.split(".", maxsplit=1)[0]) < 5
        yield Finding("redis", "fix" if old else "ok", version + (": 5 or newer" if old else ""))
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and int(info.get("maxmemory", 0)):
            yield Finding(
                "redis memory", "fix",
                f"maxmemory-policy is {policy} and would throw state away: set it to noeviction",
            )  # fmt: skip
        if not int(info.get("aof_enabled", 0)):
            yield Finding(
                "redis file", "note",
                "appendonly is off: after a crash of Redis the worker reads Kafka again from the "
                "last snapshot, and subscribers may see alerts late: set appendonly yes",
            )  # fmt: skip
    except redis.AuthenticationError as error:
        yield Finding("redis", "fix", f"refuses the password: {error}; set TOCSIN_REDIS__URL")
    except TRANSIENT as error:
        yield Finding("redis", "fix", f"does not answer, is it running? {error}")
    except redis.ResponseError as error:
        yield Finding("redis", "fix", f"refuses: {error}")
    finally:
        client.close()
