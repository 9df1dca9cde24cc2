"""River's drift detectors over many streams: one River object a stream, updated value by value."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from importlib.metadata import version
from typing import Any, Final, Protocol

import numpy as np

from ..core.errors import DetectorError, StateError
from ..core.snapshot import pack, unpack
from ..core.verdict import Verdict
from .base import Observations, usable
from .river_codec import dump, load
from .river_kinds import KINDS, Evidence, unknown

_RIVER: Final = version("river")

RIVER_NAMES: Final = tuple(sorted(KINDS))
"""What `river_detector` knows."""


class RiverDetector(Protocol):
    """What this adapter needs of a River drift detector."""

    @property
    def drift_detected(self) -> bool:
        """Whether the last value was a detection."""
        ...

    def update(self, x: Any) -> None:
        """Take one value in."""
        ...


def _fired(_: Any) -> Evidence:
    return Evidence(1.0, 1.0, "the detector's flag")


class RiverBank:
    """One River detector a stream; `river_detector` makes one of River's own by name.

    Parameters
    ----------
    name
        What verdicts call the detector: `kswin`.
    make
        Returns a fresh River detector for a stream of that name, always with the same parameters.
    evidence
        Returns what a detector that has just fired compared, for the verdict.
    bits
        The detector takes zeros and ones: other values count as not usable, and leave its state as it was.

    Raises
    ------
    ValueError
        The state of such a detector cannot be kept.

    Notes
    -----
    Guarantees: each River object sees exactly the usable values of its stream, in their order, so that
    its flags are those of a plain River object; those for bits see True and False. Flags of a warning
    zone are no verdicts. A snapshot goes on bit for bit, under the same River version and parameters only.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[str], RiverDetector],
        evidence: Callable[[Any], Evidence] = _fired,
        *,
        bits: bool = False,
    ) -> None:
        self.name = name
        self._make = make
        self._evidence = evidence
        self.bits = bits
        try:
            dump(make(""))
        except DetectorError as error:
            raise ValueError(f"{name} cannot run in a bank: {error}") from None
        self._detectors: dict[str, RiverDetector] = {}

    def update(self, batch: Observations) -> list[Verdict]:
        """Take the rows in; return the detections in their order."""
        found: list[tuple[int, str, Verdict]] = []
        if self.bits:
            fed = batch.values == 1
            good = fed | (batch.values == 0)
        else:
            fed, good = batch.values, usable(batch.values)
        everywhere = np.asarray(good.all(axis=0))
        for column, name in enumerate(batch.names):
            at = None if everywhere[column] else np.flatnonzero(good[:, column])
            values = fed[:, column] if at is None else fed[at, column]
            if not len(values):
                continue
            detector = self._detectors.get(name)
            if detector is None:
                detector = self._detectors[name] = self._make(name)
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
        evidence = self._evidence(detector)
        return Verdict(
            detector=self.name,
            subject=name,
            offset=int(batch.offsets[row]),
            row=int(batch.rows[row]),
            statistic=float(evidence.statistic),
            threshold=float(evidence.threshold),
            unit=evidence.unit,
            delay_events=evidence.delay_events,
        )

    def snapshot(self) -> bytes:
        """Return the whole state.

        Raises
        ------
        DetectorError
            A detector has come to hold what cannot be kept; none of River's own does.
        """
        states = {name: dump(detector) for name, detector in self._detectors.items()}
        return pack(f"river:{self.name}", 2, {"river": _RIVER, "states": states}, {})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot of the same River version and parameters."""
        meta, _ = unpack(f"river:{self.name}", 2, state)
        if meta["river"] != _RIVER:
            raise StateError(f"the snapshot was taken with River {meta['river']}, this is {_RIVER}")
        detectors: dict[str, RiverDetector] = {}
        for name, saved in meta["states"].items():
            detectors[name] = self._make(name)
            load(detectors[name], saved)
        self._detectors = detectors


def river_detector(name: str, **parameters: Any) -> RiverBank:
    """Return a bank of one of River's drift detectors.

    Parameters
    ----------
    name
        One of `RIVER_NAMES`: `adwin`, `ddm`, `dummy_drift_detector`, `eddm`, `fhddm`, `hddm_a`,
        `hddm_w`, `kswin`, `page_hinkley`.
    parameters
        River's, under River's names; what is not given has River's default. `seed`, 0 where it is None,
        and the stream's name give each stream its own seed: see `stream_seed`.

    Raises
    ------
    ValueError
        A name is not known, or a parameter is of the wrong type or out of range.

    Notes
    -----
    `ddm`, `eddm`, `fhddm`, `hddm_a` and `hddm_w` take bits, a one for an error. Of these River's FHDDM
    fires when the rate of ones *falls*, as in its paper, where a one is a correct prediction: give it
    hits, not errors. `dummy_drift_detector` fires without looking at the values: a yardstick.

    Examples
    --------
    >>> import numpy as np
    >>> from tocsin.detectors.base import Observations
    >>> from tocsin.detectors.river_bank import river_detector
    >>> rng = np.random.default_rng(0)
    >>> errors = rng.random(2000) < np.repeat([0.05, 0.3], 1000)
    >>> bank = river_detector("hddm_a", drift_confidence=1e-4)
    >>> [verdict.offset for verdict in bank.update(Observations.of(errors.astype(float)))]
    [1027]
    """
    if name not in KINDS:
        raise ValueError(unknown("a drift detector of River's", name, list(RIVER_NAMES)))
    kind = KINDS[name]
    chosen = kind.checked(name, parameters)
    if "seed" not in chosen:
        return RiverBank(name, lambda _: kind.make(**chosen), kind.evidence, bits=kind.bits)
    seed = chosen.pop("seed") or 0
    return RiverBank(
        name, lambda stream: kind.make(**chosen, seed=stream_seed(stream, seed)), kind.evidence
    )


def stream_seed(stream: str, seed: int = 0) -> int:
    """Return the seed, of 63 bits, of a stream's own generator: a hash of its name and a seed."""
    digest = blake2b(f"{seed}:{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
