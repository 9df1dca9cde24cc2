"""Logits as scalar streams, for detectors that watch numbers. Attacks are looked for elsewhere: `adversarial`."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false

from __future__ import annotations

from typing import Final

import numpy as np

from ..core.columns import Floats, Ints
from ..core.snapshot import pack, unpack
from .base import Observations
from .compiled import compiled
from .rowwise import products
from .vector_warm_up import WIDEST, WarmUp, check_lengths, direction_names, narrowed

_CONFIDENCE: Final = ("logits:energy", "logits:margin", "logits:entropy")


class LogitStreams:
    """Logits as scalar streams.

    `logits:energy`, the log of the sum of exponentials (the negative energy of Liu, Wang, Owens and Li 2020,
    "Energy-based out-of-distribution detection", arXiv 2010.03759, equation 4), `logits:margin`, the largest
    less the second largest, and `logits:entropy`, of the softmax, in nats, are told from the first row on;
    `logits:pc1` to `pc8` as those of `EmbeddingStreams`, after the warm-up.

    Parameters
    ----------
    warmup_vectors
        How many usable rows are learnt from, 50 to 8192.

    Raises
    ------
    ValueError
        `warmup_vectors` is out of range.

    Notes
    -----
    Guarantees and limits are those of `EmbeddingStreams`. Logits are of 2 to 4,096 classes.
    """

    def __init__(self, warmup_vectors: int = 1000) -> None:
        self.warm_up = WarmUp(warmup_vectors, 2, WIDEST)

    @property
    def is_fitted(self) -> bool:
        """Whether the warm-up is over."""
        return self.warm_up.reference is not None

    def update(self, logits: Floats, offsets: Ints, rows: Ints) -> Observations:
        """Take (n, classes) logits in; return their streams, (n, 3 + min(8, classes)) values.

        Raises
        ------
        ValueError
            The arrays are not of one length; the state is as it was.
        """
        check_lengths(logits, offsets, rows)
        names = _CONFIDENCE + direction_names("logits", self.warm_up.width or logits.shape[1])
        values = np.full((len(logits), len(names)), np.nan)
        good = self.warm_up.usable(logits)
        if len(good):
            values[good, :3] = _confidence(np.ascontiguousarray(logits[good], np.float64))
        wanted = self.warm_up.learn(logits, None, good)
        reference = self.warm_up.reference
        if reference is not None:
            self.warm_up.forget_sample()
        if reference is not None and len(wanted):
            directions = reference.directions
            standard = reference.standard(self.warm_up.mixed(logits[wanted]))
            along = products(standard - reference.arrays["middle"], directions)
            along[:, ~directions.any(axis=0)] = np.nan
            values[wanted, 3:] = along
        return Observations(names=names, values=narrowed(values), offsets=offsets, rows=rows)

    def steady(self) -> bytes:
        """Return what is waited for or was learnt: large, and unchanged once learnt."""
        return pack("logits_steady", 1, *self.warm_up.steady())

    def restore_steady(self, state: bytes) -> None:
        """Go on from `steady`."""
        self.warm_up.load(*unpack("logits_steady", 1, state))

    def volatile(self) -> bytes:
        """Return the state that changes with every row."""
        return pack("logits", 1, self.warm_up.meta(), {})

    def restore_volatile(self, state: bytes) -> None:
        """Go on from `volatile`."""
        self.warm_up.load_meta(unpack("logits", 1, state)[0])

    def snapshot(self) -> bytes:
        """Return the whole state."""
        return pack("logits_whole", 1, {"steady": self.steady(), "volatile": self.volatile()}, {})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot."""
        parts, _ = unpack("logits_whole", 1, state)
        self.restore_steady(parts["steady"])
        self.restore_volatile(parts["volatile"])


@compiled
def _confidence(logits: Floats) -> Floats:
    """Return (n, 3) energy, margin and entropy."""
    found = np.empty((logits.shape[0], 3))
    for i in range(logits.shape[0]):
        first, second = -np.inf, -np.inf
        for k in range(logits.shape[1]):
            z = logits[i, k]
            if z > first:
                first, second = z, first
            elif z > second:
                second = z
        total, weighted = 0.0, 0.0
        for k in range(logits.shape[1]):
            below = logits[i, k] - first
            share = np.exp(below)
            total += share
            weighted += share * below
        found[i, 0] = first + np.log(total)
        found[i, 1] = first - second
        found[i, 2] = np.log(total) - weighted / total
    return found
