"""Kernels on disk: whoever dies while one is written, and whoever writes beside it, leaves none under another one's name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_SOURCE = """
import os, sys
from tocsin.detectors.compiled import compiled

@compiled
def answer(x):
    return x + {number}

if "dies" in sys.argv:
    answer._cache._cache_file._save_data = lambda *_: os._exit(9)
print(answer(0))
"""


def run(kernel: Path, number: int, *arguments: str) -> str:
    """Return what a process prints in which the kernel adds a number."""
    kernel.write_text(_SOURCE.format(number=number))
    command = [sys.executable, str(kernel), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def test_a_process_that_died_while_it_stored_a_kernel_leaves_no_older_one_in_its_place(
    tmp_path: Path,
) -> None:
    kernel = tmp_path / "kernel.py"
    assert run(kernel, 1) == "1"
    assert run(kernel, 22, "dies") == ""  # 22: of another length, whatever the clock of the disk
    assert run(kernel, 22) == "22"
    assert run(kernel, 22) == "22"
