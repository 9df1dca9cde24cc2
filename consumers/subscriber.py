"""Alerts from Redis without loss and without doubles, for whoever acts on them.

What is asked of Redis, and in which order, stands once, in `_protocol`, which does no I/O; the sync and
the async iterator only carry its questions to a client and the answers back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import redis
import redis.asyncio as redis_async
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..core.alert import Alert
from ..core.keys import DEFAULT_TENANT, Keys
from .replay import BEGINNING, Entry, Replay

_log = logging.getLogger(__name__)

_IDLE_SECONDS: Final = 0.25
"""How long without a message until the stream is looked at: redis-py reconnects without a word."""
_WARN_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 0.2
_PAGE: Final = 1000
_TIMEOUTS: Final = {
    "socket_timeout": 5.0, "socket_connect_timeout": 2.0, "health_check_interval": 15,
}  # fmt: skip
_TRANSIENT: Final = (redis.ConnectionError, redis.TimeoutError, OSError)


class _Ask(NamedTuple):
    """A question of the protocol: `subscribe`, `message`, `get`, `set`, `page` or `deliver`."""

    what: str
    key: Any = None
    value: Any = None


class AlertSubscriber:
    """Yields alerts as they come, and those that came while nobody looked.

    Parameters
    ----------
    url
        Redis.
    model
        Only this model's alerts.
    name
        Keep in Redis, under this name, up to where alerts were handled, so that the next subscriber of
        the name goes on from there. An alert counts as handled when the next one is asked for, or when
        the subscriber is closed; leaving `with` by an exception leaves it unhandled.
    after
        Stream id to begin after, the `stream_id` of the last alert handled; for callers that keep it
        themselves, and for a `name` that is new. `0-0` begins with the oldest alert that the stream has.
        Without it the first alert is the first one after the subscription.
    timeout
        End the iteration when no alert came for so many seconds; never where None.
    tenant
        Whose alerts.

    Notes
    -----
    Iterate with `for` or `async for`. Guarantees: between `after` (or what `name` kept) and now no alert
    that the stream still holds is left out, and none is yielded twice by one subscriber, across dropped
    connections and kills of Redis with an append-only file. A process that is killed after it handled an
    alert and before it asked for the next gets that one again: only the caller can make the two one
    step, by keeping `stream_id` with what it does and beginning with `after`.

    Plain subscribers need none of this: `SUBSCRIBE tocsin:alerts` gives the same JSON.

    Examples
    --------
    >>> from tocsin import AlertSubscriber
    >>> with AlertSubscriber("redis://localhost:6379/0", name="pager") as alerts:  # doctest: +SKIP
    ...     for alert in alerts:
    ...         print(alert.severity, alert.summary)
    """

    def __init__(
        self,
        url: str = "redis://localhost:6379/0",
        *,
        model: str | None = None,
        name: str | None = None,
        after: str | None = None,
        timeout: float | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> None:
        self._url = url
        self._keys = Keys(tenant)
        self._channel = self._keys.channel if model is None else f"{self._keys.channel}:{model}"
        self._name = name
        self._after = after
        self._model = model
        self._timeout = timeout
        self._replay: Replay | None = None
        self._queue: deque[Alert] = deque()
        self._delivered: str | None = None
        self._unsaved: str | None = None
        self._client: Any = None
        self._pubsub: Any = None
        self._session: Generator[_Ask, Any, None] | None = None
        self._closed = False
        self._warned = -_WARN_SECONDS

    @property
    def missed(self) -> int:
        """How often the stream no longer held what should have come next: it was away too long."""
        return 0 if self._replay is None else self._replay.missed

    def _protocol(self) -> Generator[_Ask, Any, None]:
        """Ask Redis, and deliver, from the subscription on; a new connection begins anew."""
        yield _Ask("subscribe", self._channel)
        # From its confirmation on no message is missed; what came before is read from the stream.
        yield _Ask("message")
        self._handled()
        yield from self._save()
        if self._replay is None:
            after = None
            if self._name is not None:
                after = _text((yield _Ask("get", self._keys.cursor(self._name))))
            if after is None:
                after = self._after or _text((yield _Ask("get", self._keys.tail))) or BEGINNING
                self._unsaved = after
                yield from self._save()
            self._replay = Replay(after, self._model)
        yield from self._deliver([])
        yield from self._catch_up(self._replay)
        while True:
            message = yield _Ask("message")
            must_read = message is None
            if message is not None:
                found, must_read = self._replay.message(message)
                yield from self._deliver(found)
            if must_read:
                yield from self._catch_up(self._replay)

    def _catch_up(self, replay: Replay) -> Generator[_Ask, Any, None]:
        while True:
            page = list(_entries((yield _Ask("page", self._keys.alerts, replay.last))))
            yield from self._deliver(replay.entries(page))
            if len(page) < _PAGE:
                return

    def _deliver(self, alerts: list[Alert]) -> Generator[_Ask, Any, None]:
        # Kept on the subscriber: what a broken session leaves is delivered by the next.
        self._queue.extend(alerts)
        while self._queue:
            alert = self._queue.popleft()
            self._delivered = alert.stream_id
            yield _Ask("deliver", alert)
            self._handled()
            yield from self._save()

    def _handled(self) -> None:
        if self._delivered is not None:
            self._unsaved, self._delivered = self._delivered, None

    def _save(self) -> Generator[_Ask, Any, None]:
        """Keep up to where alerts were handled."""
        if self._name is not None and self._unsaved is not None:
            yield _Ask("set", self._keys.cursor(self._name), self._unsaved)
            self._unsaved = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Alert:
        """Wait for the next alert."""
        since = time.monotonic()
        answer: Any = None
        while not self._is_over(since):
            try:
                if self._session is None:
                    self._client = redis.Redis.from_url(self._url, **_settings())
                    self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)
                    self._session, answer = self._protocol(), None
                ask = self._session.send(answer)
                if ask.what == "deliver":
                    return _alert(ask)
                answer = self._perform(ask)
            except _TRANSIENT as error:
                self._warn(error)
                self._drop()
                time.sleep(_RETRY_SECONDS)
            except BaseException:
                self._drop()  # interrupted: the next call begins anew where this one was
                raise
        self.close()
        raise StopIteration

    def stop(self) -> None:
        """Let the iteration end within a quarter of a second; for other threads and signal handlers."""
        self._closed = True

    def close(self, *, handled: bool = True) -> None:
        """Let go of Redis; the alert at hand counts as handled unless told otherwise."""
        self._closed = True
        if handled:
            self._handled()
        if self._client is not None and self._name is not None and self._unsaved is not None:
            try:
                self._client.set(self._keys.cursor(self._name), self._unsaved)
                self._unsaved = None
            except _TRANSIENT as error:
                _log.warning("where alerts were handled up to could not be kept: %s", error)
        self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(handled=kind is None)

    def _perform(self, ask: _Ask) -> Any:
        if ask.what == "subscribe":
            return self._pubsub.subscribe(ask.key)
        if ask.what == "message":
            return _data(self._pubsub.get_message(timeout=_IDLE_SECONDS))
        if ask.what == "page":
            return self._client.xrange(ask.key, f"({ask.value}", "+", _PAGE)
        return (
            self._client.get(ask.key) if ask.what == "get" else self._client.set(ask.key, ask.value)
        )

    def _drop(self) -> None:
        """Let go of the connection; the alerts of a session that was broken off come with the next."""
        if self._session is not None:
            self._session.close()
        self._session = None
        if self._client is not None:
            self._pubsub.close()
            self._client.close()
            self._client = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Alert:
        """Wait for the next alert, with asyncio."""
        since = time.monotonic()
        answer: Any = None
        while not self._is_over(since):
            try:
                if self._session is None:
                    await self._drop_async()
                    self._client = redis_async.Redis.from_url(self._url, **_settings_async())
                    self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)
                    self._session, answer = self._protocol(), None
                ask = self._session.send(answer)
                if ask.what == "deliver":
                    return _alert(ask)
                answer = await self._perform_async(ask)
            except _TRANSIENT as error:
                self._warn(error)
                await self._drop_async()
                await asyncio.sleep(_RETRY_SECONDS)
            except BaseException:
                self._session = None  # cancelled: the next call begins anew where this one was
                raise
        await self.aclose()
        raise StopAsyncIteration

    async def aclose(self, *, handled: bool = True) -> None:
        """Let go of Redis, with asyncio; see `close`."""
        self._closed = True
        if handled:
            self._handled()
        if self._client is not None and self._name is not None and self._unsaved is not None:
            try:
                await self._client.set(self._keys.cursor(self._name), self._unsaved)
                self._unsaved = None
            except _TRANSIENT as error:
                _log.warning("where alerts were handled up to could not be kept: %s", error)
        await self._drop_async()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose(handled=kind is None)

    async def _perform_async(self, ask: _Ask) -> Any:
        if ask.what == "subscribe":
            return await self._pubsub.subscribe(ask.key)
        if ask.what == "message":
            return _data(await self._pubsub.get_message(timeout=_IDLE_SECONDS))
        if ask.what == "page":
            return await self._client.xrange(ask.key, f"({ask.value}", "+", _PAGE)
        if ask.what == "get":
            return await self._client.get(ask.key)
        return await self._client.set(ask.key, ask.value)

    async def _drop_async(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None
        if self._client is not None:
            await self._pubsub.aclose()
            await self._client.aclose()
            self._client = None

    def _warn(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._warned >= _WARN_SECONDS:
            self._warned = now
            _log.warning(
                "Redis does not answer at %s, trying again: %s", _without_secret(self._url), error
            )

    def _is_over(self, since: float) -> bool:
        waited = time.monotonic() - since
        return self._closed or (self._timeout is not None and waited > self._timeout)


def _without_secret(url: str) -> str:
    return url.rpartition("@")[2]


def _settings() -> dict[str, Any]:
    # No retries inside the client: a session that was broken begins anew, subscription first.
    return {**_TIMEOUTS, "retry": Retry(NoBackoff(), 0)}


def _settings_async() -> dict[str, Any]:
    return {**_TIMEOUTS, "retry": AsyncRetry(NoBackoff(), 0)}


def _data(message: Any) -> bytes | None:
    return message["data"] if message is not None and message["type"] == "message" else None


def _text(answer: Any) -> str | None:
    return answer.decode() if isinstance(answer, bytes) else None


def _alert(ask: _Ask) -> Alert:
    found: Alert = ask.key
    return found


def _entries(page: Any) -> Iterator[Entry]:
    for identity, fields in page:
        if b"alert" in fields and b"previous" in fields:
            yield Entry(identity.decode(), fields[b"previous"].decode(), fields[b"alert"])
