"""The files of data that benchmarks read: in the folder that TOCSIN_BENCH_DATA names, `../shared/data` by default."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def data_file(name: str) -> Path:
    """Return the path of a file.

    Raises
    ------
    FileNotFoundError
        It is not there.
    """
    found = Path(os.environ.get("TOCSIN_BENCH_DATA", "../shared/data")) / name
    if not found.is_file():
        raise FileNotFoundError(
            f"no file {found}; TOCSIN_BENCH_DATA must name the folder that holds {name}"
        )
    return found


@lru_cache
def mnist() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return (10000, 28, 28) digits of MNIST, and their classes."""
    with np.load(data_file("mnist10k.npz"), allow_pickle=False) as file:
        return file["X"].reshape(-1, 28, 28), file["Y"].astype(np.int64)
