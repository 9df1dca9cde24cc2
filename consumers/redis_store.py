"""The store in Redis: one script writes a partition's state, offset, alerts and metrics at once."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Final

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..core import alert as alerts
from ..core.errors import ConfigError, FencedError, TransportError
from ..core.keys import Keys
from .records import Partition
from .store import Claim, Commit

_CLAIM: Final = """
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
return redis.call('HGETALL', KEYS[1])
"""
_AT_ONCE: Final = 1000  # fields that a scan looks at before others are served
_FIELD: Final = b"f:"
"""Before the name of each field of state, apart from `owner` and `offset`."""

TRANSIENT: Final = (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, OSError)


def connect(url: str, timeout_seconds: float = 2.0) -> redis.Redis:
    """Return a client that raises at once when Redis does not answer: the caller decides on retries.

    Raises
    ------
    ConfigError
        The URL cannot be read.
    """
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            health_check_interval=15,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise ConfigError(f"redis.url: {error}") from None


class RedisStore:
    """The store that workers share.

    Parameters
    ----------
    client
        From `connect`.
    keys
        The tenant's keys.
    stream_length
        Alerts kept in the stream, about.
    """

    def __init__(self, client: redis.Redis, keys: Keys, stream_length: int = 100_000) -> None:
        self._client = client
        self._keys = keys
        self._stream_length = stream_length
        self._claim = client.register_script(_CLAIM)
        self._commit = client.register_script(
            files("tocsin.consumers").joinpath("commit.lua").read_text(encoding="utf-8")
        )

    def claim(self, partition: Partition, owner: str) -> Claim:
        """Make `owner` the one who may commit, and return what is stored."""
        flat = self._run(self._claim, [self._keys.state(*partition)], [owner])
        found = dict(zip(flat[::2], flat[1::2], strict=True))
        offset = found.get(b"offset")
        return Claim(
            None if offset is None else int(offset),
            {
                name.removeprefix(_FIELD).decode(): state
                for name, state in found.items()
                if name.startswith(_FIELD)
            },
        )

    def commit(self, partition: Partition, commit: Commit) -> None:
        """Write, or raise FencedError."""
        written = [
            (_FIELD + name.encode(), state)
            for name, state in commit.fields.items()
            if state is not None
        ]
        deleted = [_FIELD + name.encode() for name, state in commit.fields.items() if state is None]
        metrics = [
            (f"{model}|{partition.number}", msgspec.json.encode(figures))
            for model, figures in commit.metrics.items()
        ]
        # The stream's ids go in front, inside the script, so the opening brace is left off.
        series: list[Any] = []
        for key, rows in enumerate(commit.series.values(), start=5):
            for name, row in rows.items():  # an empty one is to be deleted
                series += [key, f"{partition.number}|{name}", b"" if row is None else row]
        texts = [(alert.model, alerts.encode(alert)[1:]) for alert in commit.alerts]
        arguments: list[Any] = [
            commit.owner, "" if commit.expected is None else commit.expected, commit.offset,
            self._stream_length, self._keys.channel,
            len(written), *(part for pair in written for part in pair),
            len(deleted), *deleted,
            len(metrics), *(part for pair in metrics for part in pair),
            len(series) // 3, *series,
            len(texts), *(part for pair in texts for part in pair),
        ]  # fmt: skip
        keys = [
            self._keys.state(*partition), self._keys.alerts, self._keys.tail, self._keys.metrics,
            *(self._keys.series(model) for model in commit.series),
        ]  # fmt: skip
        answer = self._run(self._commit, keys, arguments)
        if answer[0] == b"ok":
            return
        if answer[0] == b"offset" and answer[1] == str(commit.offset).encode():
            return  # an earlier attempt was written, and its reply lost
        found = answer[1].decode() if isinstance(answer[1], bytes) else answer[1]
        if answer[0] == b"fenced":
            raise FencedError(f"{partition} was claimed by another worker")
        raise FencedError(
            f"{partition} is at offset {found or 'none'} in the store, expected {commit.expected}"
        )

    def written(self, partition: Partition, model: str) -> set[str]:
        """Return the names of the rows that a partition has in a model's series."""
        own = f"{partition.number}|"
        try:
            found = self._client.hscan_iter(
                self._keys.series(model), match=f"{own}*", count=_AT_ONCE
            )
            # A name that nobody wrote so is nobody's row: to delete what it is read as does nothing.
            return {name.decode(errors="replace").removeprefix(own) for name, _ in found}
        except TRANSIENT as error:
            raise TransportError(f"Redis does not answer: {error}") from error
        except redis.ResponseError as error:
            if str(error).startswith("WRONGTYPE"):  # no series: a commit passes over it too
                return set()
            raise TransportError(f"Redis refuses: {error}") from error

    def _run(self, script: Any, keys: list[str], arguments: list[Any]) -> Any:
        try:
            return script(keys=keys, args=arguments)
        except TRANSIENT as error:
            raise TransportError(f"Redis does not answer: {error}") from error
        except redis.ResponseError as error:
            # Out of memory, a disk that is full, a wrong type: a person's to mend, then it goes on.
            raise TransportError(f"Redis refuses: {error}") from error

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()
