"""Random numbers that are a function of where an event lies, so that a replay draws the same ones."""

# numba decides what is an integer:
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from .compiled import compiled


def key(name: str) -> int:
    """Return 64 bits that stand for a stream's name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest())


@compiled
def uniform(stream: np.uint64, offset: int, row: int) -> float:
    """Return a number in (0, 1) for one value of one stream.

    The finalizer of SplitMix64 over a counter (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
    number generators", doi:10.1145/2660193.2660195), applied twice, so that streams whose keys differ
    little are independent as well.
    """
    z = stream + np.uint64(offset) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = (z ^ (z >> np.uint64(31))) + np.uint64(row + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (float(z >> np.uint64(11)) + 0.5) * 1.1102230246251565e-16  # 2**-53
