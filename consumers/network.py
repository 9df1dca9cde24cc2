"""Two hot spots of kafka-python's network layer, replaced while a columnar source is in use.

Both are private: `pyproject.toml` pins kafka-python below 3.1, and the contract test of `columnar_fetch`
runs with them.
"""

from __future__ import annotations

from typing import Any, Final

from kafka.errors import KafkaConnectionError
from kafka.net.transport import KafkaTCPTransport
from kafka.protocol.frame import KafkaBytes

_RECEIVE_BYTES: Final = 1 << 18
_COPIED_BYTES: Final = 1 << 15


def install() -> None:
    """Replace both, for this process; plain sockets only, TLS reads as before."""
    replaced: list[tuple[Any, str, Any]] = [
        (KafkaTCPTransport, "_sock_recv", _receive),
        (KafkaBytes, "read", _read),
    ]
    for where, name, ours in replaced:
        setattr(where, name, ours)


def _receive(transport: Any) -> tuple[bytes, Exception | None]:
    """Read what a socket has at once; kafka-python asks for 4 KiB at a time, 22,000 calls for 90 MB.

    What is left is told of again by the selector.
    """
    try:
        data = transport._sock.recv(_RECEIVE_BYTES)
    except (BlockingIOError, InterruptedError):
        return b"", None
    except OSError as error:
        return b"", KafkaConnectionError(error)
    return data, None if data else KafkaConnectionError("socket disconnected")


def _read(frame: Any, size: int | None = None) -> bytes | memoryview:
    """Take bytes from a response; kafka-python copies them twice.

    What is small is copied once, since it is decoded as text; the records of a partition are not.
    """
    begin = frame._idx
    end = len(frame) if size is None else min(begin + size, len(frame))
    frame._idx = end
    view = memoryview(frame)[begin:end]
    return bytes(view) if end - begin < _COPIED_BYTES else view
