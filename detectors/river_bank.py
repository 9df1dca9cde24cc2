"""River's drift detectors over many streams: one River object a stream, updated value by value."""

from __future__ import annotations

import struct
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final, Protocol

import numpy as np
from river import drift

from ..core.errors import StateError
from ..core.snapshot import pack, unpack
from ..core.verdict import Verdict
from .base import Observations, usable

_RIVER: Final = version("river")


class RiverDetector(Protocol):
    """What this adapter needs of a River drift detector."""

    @property
    def drift_detected(self) -> bool:
        """Whether the last value was a detection."""
        ...

    def update(self, x: float) -> None:
        """Take one value in."""
        ...


class Codec(Protocol):
    """How one class of River's goes to bytes and back, without pickle."""

    def dump(self, detector: Any) -> bytes:
        """Return the state of a detector."""
        ...

    def load(self, detector: Any, state: bytes) -> None:
        """Put a state into a fresh detector."""
        ...


class _Adwin:
    """River keeps ADWIN in Rust; its helper's own state is complete and exact.

    That state is private and its format unversioned, and cut bytes end the process, so it is only
    ever read from inside a checksummed snapshot that names the same River version.
    """

    def dump(self, detector: Any) -> bytes:
        flag = b"\1" if detector.drift_detected else b"\0"
        return flag + bytes(detector._helper.__getstate__())

    def load(self, detector: Any, state: bytes) -> None:
        detector._helper.__setstate__(state[1:])
        detector._drift_detected = state[:1] == b"\1"


class _PageHinkley:
    """River keeps Page-Hinkley in plain Python attributes."""

    _LAYOUT = struct.Struct("<6d?")

    def dump(self, detector: Any) -> bytes:
        mean = detector._x_mean
        return self._LAYOUT.pack(
            mean.n, mean.get(), detector._sum_increase, detector._sum_decrease,
            detector._min_increase, detector._max_decrease, detector.drift_detected,
        )  # fmt: skip

    def load(self, detector: Any, state: bytes) -> None:
        count, mean, up, down, low, high, detected = self._LAYOUT.unpack(state)
        detector._x_mean.n, detector._x_mean._mean = count, mean
        detector._sum_increase, detector._sum_decrease = up, down
        detector._min_increase, detector._max_decrease = low, high
        detector._drift_detected = detected


CODECS: Final[dict[type, Codec]] = {drift.ADWIN: _Adwin(), drift.PageHinkley: _PageHinkley()}
"""River classes whose state can be kept. Others come with the drift engine."""


class RiverBank:
    """One River detector a stream.

    Parameters
    ----------
    name
        What verdicts call the detector: `adwin`.
    make
        Returns a fresh River detector, always with the same parameters.
    threshold
        The parameter that decides, for the verdict; ADWIN's delta.

    Raises
    ------
    ValueError
        The class is none whose state this adapter can keep.

    Notes
    -----
    Guarantees: each River object sees exactly the usable values of its stream, in their order.
    """

    def __init__(self, name: str, make: Callable[[], RiverDetector], threshold: float) -> None:
        self.name = name
        self._make = make
        self._threshold = threshold
        kind = type(make())
        if kind not in CODECS:
            known = ", ".join(sorted(known.__name__ for known in CODECS))
            raise ValueError(f"the state of {kind.__name__} cannot be kept; known: {known}")
        self._codec = CODECS[kind]
        self._detectors: dict[str, RiverDetector] = {}

    def update(self, batch: Observations) -> list[Verdict]:
        """Take the rows in; return the detections in their order."""
        found: list[tuple[int, str, Verdict]] = []
        good = usable(batch.values)
        everywhere = np.asarray(good.all(axis=0))
        for column, name in enumerate(batch.names):
            at = None if everywhere[column] else np.flatnonzero(good[:, column])
            values = batch.values[:, column] if at is None else batch.values[at, column]
            if not len(values):
                continue
            detector = self._detectors.get(name)
            if detector is None:
                detector = self._detectors[name] = self._make()
            update = detector.update
            for i, value in enumerate(values.tolist()):
                update(value)
                if detector.drift_detected:
                    row = i if at is None else int(at[i])
                    found.append((row, name, self._verdict(batch, row, name, detector)))
        return [verdict for _, _, verdict in sorted(found, key=lambda item: item[:2])]

    def _verdict(
        self, batch: Observations, row: int, name: str, detector: RiverDetector
    ) -> Verdict:
        # ADWIN has just dropped its window's old part: what is left began with the change.
        width = getattr(detector, "width", None)
        return Verdict(
            detector=self.name,
            subject=name,
            offset=int(batch.offsets[row]),
            row=int(batch.rows[row]),
            statistic=float(getattr(detector, "estimation", 0.0)),
            threshold=self._threshold,
            unit="mean of the new window",
            delay_events=None if width is None else int(width),
        )

    def snapshot(self) -> bytes:
        """Return the whole state."""
        states = [self._codec.dump(detector) for detector in self._detectors.values()]
        meta = {
            "river": _RIVER,
            "names": list(self._detectors),
            "lengths": [len(state) for state in states],
        }
        joined = np.frombuffer(b"".join(states), np.uint8)
        return pack(f"river:{self.name}", 1, meta, {"states": joined})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot of the same River version."""
        meta, arrays = unpack(f"river:{self.name}", 1, state)
        if meta["river"] != _RIVER:
            raise StateError(f"the snapshot was taken with River {meta['river']}, this is {_RIVER}")
        joined, at = arrays["states"].tobytes(), 0
        detectors: dict[str, RiverDetector] = {}
        for name, length in zip(meta["names"], meta["lengths"], strict=True):
            detectors[name] = self._make()
            self._codec.load(detectors[name], joined[at : at + length])
            at += length
        self._detectors = detectors


def river_adwin(delta: float) -> RiverBank:
    """Return a bank of River's ADWIN; see `adwin.Adwin` for what it does."""
    return RiverBank("adwin", lambda: drift.ADWIN(delta), delta)  # type: ignore[no-untyped-call]


def river_page_hinkley(delta: float, threshold: float, alpha: float) -> RiverBank:
    """Return a bank of River's Page-Hinkley; see `page_hinkley.PageHinkley` for what it does."""
    return RiverBank(
        "page_hinkley",
        lambda: drift.PageHinkley(delta=delta, threshold=threshold, alpha=alpha),
        threshold,
    )
