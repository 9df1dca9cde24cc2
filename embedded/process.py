"""A server as a child process that ends with its owner, and the wait until it answers."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ..core.errors import TransportError

_START_SECONDS = 30.0
_END_WITH_PARENT = (
    # prctl(PR_SET_PDEATHSIG, SIGKILL): Linux ends the server when its parent dies, kill -9 included.
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
)

# The signal comes when the thread that made the child ends, so one that stays makes them all.
_launcher = ThreadPoolExecutor(1, "tocsin-embedded")


class Address(NamedTuple):
    """A loopback address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def free_port() -> int:
    """Return a loopback TCP port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Server:
    """A child process that listens on a loopback port.

    Parameters
    ----------
    name
        What it is called in errors.
    command
        The program and its arguments.
    address
        Where it listens.
    log
        File that takes what it prints.
    """

    def __init__(self, name: str, command: Sequence[str], address: Address, log: Path) -> None:
        self.name = name
        self.address = address
        self._command = list(command)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The running child's process id."""
        if self._process is None:
            raise TransportError(f"the embedded {self.name} is not running")
        return self._process.pid

    def start(self, answers: Callable[[], bool]) -> None:
        """Start the child and wait until `answers` says so.

        Raises
        ------
        TransportError
            It ended or did not answer within 30 s; the message holds its last words.
        """
        with self._log.open("ab") as log:
            self._process = _launcher.submit(
                subprocess.Popen,
                [sys.executable, "-c", _END_WITH_PARENT, *self._command],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the owner, who ends it when it is done
                stdout=log,
                stderr=subprocess.STDOUT,
            ).result()
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise TransportError(
                    f"the embedded {self.name} ended at once: {self._last_words()}"
                )
            if answers():
                return
            time.sleep(0.02)
        self.stop()
        raise TransportError(
            f"the embedded {self.name} did not answer on {self.address} within "
            f"{_START_SECONDS:.0f} s: {self._last_words()}"
        )

    def kill(self) -> None:
        """End the child as kill -9 does, for tests of what survives."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End the child: SIGTERM, and SIGKILL if it is still there after 5 s."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _last_words(self) -> str:
        text = self._log.read_text(errors="replace")[-500:].strip()
        return text or "it printed nothing"


def accepts(address: Address) -> bool:
    """Whether something accepts connections at `address`."""
    try:
        socket.create_connection(address, 1).close()
    except OSError:
        return False
    return True
