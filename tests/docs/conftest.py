"""What runs the documents' code: a worker with servers of its own, as the README starts it, and pages of training."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

from tocsin.embedded import free_port


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where the documents' addresses are to be found: `tocsin worker --embedded` is running there."""
    found = {
        "localhost:9092": f"localhost:{free_port()}",
        "localhost:6379": f"localhost:{free_port()}",
    }
    folder = tmp_path_factory.mktemp("worker")
    environment = {
        **os.environ,
        "TOCSIN_KAFKA__BOOTSTRAP": found["localhost:9092"],
        "TOCSIN_REDIS__URL": f"redis://{found['localhost:6379']}/0",
    }
    with (folder / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tocsin.cli.main", "worker", "--embedded"],
            env=environment, cwd=folder, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while b"going on from offset" not in (folder / "log").read_bytes():
            assert time.monotonic() < deadline, (folder / "log").read_text()
            assert worker.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        yield found
    finally:
        worker.terminate()
        worker.wait(10)


@pytest.fixture
def run_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Run a page's Python in an empty folder; return what it says, errors among it.

    Not in a process of its own, which would be seconds of imports for each page.
    """

    def run(code: str) -> str:
        monkeypatch.chdir(tmp_path)
        with redirect_stdout(StringIO()) as said, redirect_stderr(said), torch.random.fork_rng():
            exec(compile(code, "page", "exec"), {"__name__": "__main__"})
        return said.getvalue()

    return run
