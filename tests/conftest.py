"""What holds for all tests: one thread for matrix products, and a mark on those that talk to a broker."""

from __future__ import annotations

import os

import pytest

# Threads that wait for one another cost ten times a small product, where another test has the other core.
# torch and numpy read it when they are imported, and so do the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "broker" in getattr(item, "fixturenames", ()):
            item.add_marker("broker")
