"""The alert subscriber against a real Redis: dropped connections, restarts, kill -9, sync and async."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import numpy as np
import pytest
import redis

from tocsin import Alert, AlertSubscriber
from tocsin.consumers.records import Partition
from tocsin.consumers.redis_store import RedisStore, connect
from tocsin.consumers.store import Commit
from tocsin.core.errors import TransportError
from tocsin.core.keys import Keys
from tocsin.embedded import EmbeddedRedis

AT = datetime(2026, 1, 1, tzinfo=UTC)


def alert(number: int, model: str = "m") -> Alert:
    return Alert(
        id=f"{model}:d:s:0:{number}", incident="i", fingerprint="f", state="firing",
        severity="warning", kind="data drift", model=model, subject="feature:x", detector="d",
        detected_at=AT, partition=0, offset=number, summary=f"number {number}",
    )  # fmt: skip


class Writer:
    """Commits alerts as a worker does: the same script, again and again until it is answered."""

    def __init__(self, url: str, stream_length: int = 100_000) -> None:
        self.store = RedisStore(connect(url), Keys(), stream_length)
        self.partition = Partition("t", 0)
        self.store.claim(self.partition, "me")
        self.offset: int | None = None
        self.ids: list[str] = []

    def write(self, *alerts: Alert) -> None:
        offset = (self.offset or 0) + 1
        commit = Commit(
            owner="me",
            expected=self.offset,
            offset=offset,
            metrics={},
            fields={},
            alerts=list(alerts),
        )
        while True:
            try:
                self.store.commit(self.partition, commit)
            except TransportError:
                time.sleep(0.02)
                continue
            break
        self.offset = offset
        self.ids += [a.id for a in alerts]


@pytest.fixture
def writer(store: EmbeddedRedis) -> Iterator[Writer]:
    made = Writer(store.url)
    yield made
    made.store.close()


class Listener(threading.Thread):
    """A sync subscriber in a thread."""

    def __init__(self, url: str, **options: object) -> None:
        super().__init__(daemon=True)
        self.subscriber = AlertSubscriber(url, **options)  # type: ignore[arg-type]
        self.ids: list[str] = []
        self.start()

    def run(self) -> None:
        for found in self.subscriber:
            self.ids.append(found.id)

    def end(self) -> list[str]:
        self.subscriber.stop()
        self.join(5)
        return self.ids


def test_what_was_written_comes_in_order_with_its_stream_ids(
    store: EmbeddedRedis, writer: Writer
) -> None:
    writer.write(alert(1), alert(2))
    writer.write(alert(3, "other"))
    with AlertSubscriber(store.url, after="0-0", timeout=0.5) as subscriber:
        found = list(subscriber)
    assert [a.id for a in found] == writer.ids
    assert found[0].previous_id == "0-0"
    assert [a.previous_id for a in found[1:]] == [a.stream_id for a in found[:-1]]
    with AlertSubscriber(store.url, after="0-0", timeout=0.5, model="other") as subscriber:
        assert [a.model for a in subscriber] == ["other"]
    with AlertSubscriber(store.url, after=found[1].stream_id, timeout=0.5) as subscriber:
        assert [a.id for a in subscriber] == writer.ids[2:]


def test_without_after_only_what_comes_from_now_on(
    store: EmbeddedRedis, writer: Writer, wait_until: Callable[..., object]
) -> None:
    writer.write(alert(1))
    listener = Listener(store.url)
    client = redis.Redis.from_url(store.url)
    wait_until(lambda: dict(client.pubsub_numsub("tocsin:alerts"))[b"tocsin:alerts"])
    time.sleep(0.1)
    writer.write(alert(2))
    wait_until(lambda: listener.ids)
    assert listener.end() == [alert(2).id]
    client.close()


def test_cut_connections_lose_and_double_nothing(store: EmbeddedRedis, writer: Writer) -> None:
    """redis-py connects anew without a word, and what was published meanwhile is gone from the channel."""
    listeners = [Listener(store.url, after="0-0"), Listener(store.url, name="n", after="0-0")]
    client = redis.Redis.from_url(store.url)
    rng = np.random.default_rng(0)
    for number in range(400):
        writer.write(alert(number))
        if number % 7 == 0:
            client.client_kill_filter(_type="pubsub" if rng.random() < 0.7 else "normal")
        time.sleep(float(rng.uniform(0, 0.008)))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(len(x.ids) < 400 for x in listeners):
        time.sleep(0.02)
    for listener in listeners:
        assert listener.end() == writer.ids
        assert listener.subscriber.missed == 0
    client.close()


def test_a_named_subscriber_goes_on_where_it_was_stopped(
    store: EmbeddedRedis, writer: Writer
) -> None:
    """Stopped at random, restarted under its name; alerts come in between as well."""

    def write() -> None:
        for number in range(300):
            writer.write(alert(number))
            time.sleep(0.005)

    thread = threading.Thread(target=write)
    thread.start()
    received: list[str] = []
    rng = np.random.default_rng(1)
    deadline = time.monotonic() + 30
    while len(received) < 300 and time.monotonic() < deadline:
        with AlertSubscriber(store.url, name="pager", after="0-0", timeout=0.5) as subscriber:
            for taken, found in enumerate(subscriber, 1):
                received.append(found.id)
                if taken >= rng.integers(1, 40):
                    break
    thread.join()
    assert received == writer.ids


def test_an_alert_whose_handling_raised_comes_again(store: EmbeddedRedis, writer: Writer) -> None:
    writer.write(alert(1), alert(2), alert(3))
    received: list[str] = []

    def handle() -> None:
        with AlertSubscriber(store.url, name="n", after="0-0", timeout=0.3) as subscriber:
            for found in subscriber:
                received.append(found.summary)
                if found.id == alert(2).id and received.count("number 2") == 1:
                    raise RuntimeError("the pager is down")

    with pytest.raises(RuntimeError):
        handle()
    handle()
    assert received == ["number 1", "number 2", "number 2", "number 3"]


def test_redis_killed_again_and_again_loses_and_doubles_nothing(
    store: EmbeddedRedis, writer: Writer
) -> None:
    listener = Listener(store.url, name="n", after="0-0")
    killer = threading.Event()

    def kill() -> None:
        rng = np.random.default_rng(2)
        for _ in range(5):
            time.sleep(float(rng.uniform(0.2, 0.7)))
            store.kill()
            time.sleep(float(rng.uniform(0.0, 0.4)))
            store.start()
        killer.set()

    thread = threading.Thread(target=kill)
    thread.start()
    number = 0
    while not killer.is_set():
        writer.write(alert(number))
        number += 1
        time.sleep(0.003)
    thread.join()
    writer.write(alert(number))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and len(listener.ids) < number + 1:
        time.sleep(0.02)
    assert listener.end() == writer.ids
    assert listener.subscriber.missed == 0


def test_async_the_same(store: EmbeddedRedis, writer: Writer) -> None:
    received: list[str] = []

    async def listen() -> None:
        async with AlertSubscriber(store.url, name="a", after="0-0", timeout=3) as subscriber:
            async for found in subscriber:
                received.append(found.id)
                if len(received) == 200:
                    break
        async with AlertSubscriber(store.url, name="a", timeout=2) as subscriber:
            async for found in subscriber:
                received.append(found.id)
                if len(received) == 300:
                    break

    def write() -> None:
        client = redis.Redis.from_url(store.url)
        for number in range(300):
            writer.write(alert(number))
            if number % 11 == 0:
                client.client_kill_filter(_type="pubsub")
            time.sleep(0.003)
        client.close()

    thread = threading.Thread(target=write)
    thread.start()
    asyncio.run(listen())
    thread.join()
    assert received == writer.ids


def test_alerts_that_the_stream_no_longer_holds_are_counted_as_missed(store: EmbeddedRedis) -> None:
    writer = Writer(store.url, stream_length=100)
    for number in range(1000):
        writer.write(alert(number))
    writer.store.close()
    with AlertSubscriber(store.url, after="1-0", timeout=0.3) as subscriber:
        found = [a.id for a in subscriber]
    assert found == writer.ids[-len(found) :]
    assert 100 <= len(found) < 1000
    assert subscriber.missed == 1


def test_a_subscriber_waits_for_a_redis_that_is_not_there_yet(store: EmbeddedRedis) -> None:
    store.stop()
    late = EmbeddedRedis(port=int(store.url.rsplit(":", 1)[1].split("/")[0]))
    listener = Listener(late.url, after="0-0")
    time.sleep(0.3)
    with late:
        writer = Writer(late.url)
        writer.write(alert(1))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not listener.ids:
            time.sleep(0.02)
        assert listener.end() == [alert(1).id]
        writer.store.close()


def test_the_channel_carries_the_streams_json(store: EmbeddedRedis, writer: Writer) -> None:
    client = redis.Redis.from_url(store.url)
    channel = client.pubsub(ignore_subscribe_messages=True)
    channel.subscribe("tocsin:alerts")
    channel.get_message(timeout=1)
    writer.write(alert(1))
    message = channel.get_message(timeout=2)
    assert message is not None
    found = json.loads(message["data"])
    entries = client.xrange(Keys().alerts)
    assert isinstance(entries, list)
    ((identity, fields),) = entries
    assert found.pop("stream_id") == identity.decode()
    assert found.pop("previous_id") == "0-0"
    assert found == json.loads(fields[b"alert"])
    channel.close()
    client.close()


def test_a_cancelled_wait_loses_nothing(store: EmbeddedRedis, writer: Writer) -> None:
    """As `asyncio.wait_for` cancels: at any moment, again and again."""

    async def listen() -> list[str]:
        received: list[str] = []
        subscriber = AlertSubscriber(store.url, name="c", after="0-0")
        rng = np.random.default_rng(5)
        deadline = time.monotonic() + 20
        while len(received) < 150 and time.monotonic() < deadline:
            try:
                found = await asyncio.wait_for(anext(subscriber), float(rng.uniform(0.0, 0.02)))
            except TimeoutError:
                continue
            received.append(found.id)
        await subscriber.aclose()
        return received

    def write() -> None:
        for number in range(150):
            writer.write(alert(number))
            time.sleep(0.005)

    thread = threading.Thread(target=write)
    thread.start()
    received = asyncio.run(listen())
    thread.join()
    assert received == writer.ids


def test_a_channel_that_redis_refuses_does_not_undo_a_commit(store: EmbeddedRedis) -> None:
    """A user without rights on channels, and a figures key of another type: the stream has it all."""
    client = redis.Redis.from_url(store.url)
    client.acl_setuser(
        "w", enabled=True, nopass=True, commands=["+@all"], keys=["*"], reset_channels=True
    )
    client.set(Keys().metrics, "no hash")
    restricted = Writer(store.url.replace("redis://", "redis://w:x@"))
    restricted.write(alert(1), alert(2))
    restricted.write(alert(3))
    with AlertSubscriber(store.url, after="0-0", timeout=0.5) as subscriber:
        assert [a.id for a in subscriber] == restricted.ids
    restricted.store.close()
    client.close()
