"""Further detectors beside a monitor's own, by name: each by itself, so that one that fails stops nothing else."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np

from ..core.verdict import Verdict
from .base import Detector, Observations, last_words
from .registry import make_detector

_log = logging.getLogger(__name__)

_RUN_ALREADY: Final = ("e_detector", "natural_size", "stream_monitor")


class ExtraDetectors:
    """Detectors that a user has chosen: River's, or classes of one's own.

    Parameters
    ----------
    names
        As `registry.make_detector` takes them: `kswin`, `hddm_w:drift_confidence=1e-4`, `package.module:Class`.

    Raises
    ------
    ValueError
        A name, a parameter or a value is not known, or a class of one's own cannot be made.

    Notes
    -----
    Only their alarms count, verdicts of the phase `opened`, each of which lasts for a moment: nobody hears when its
    stream has settled. One that raises, or claims something of rows or streams
    it was not given, is set aside until its state is read anew; its last words are a verdict about `detector:NAME`.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        for name in names:
            if name.partition(":")[0] in _RUN_ALREADY:
                raise ValueError(
                    f"{name} runs already; extra detectors are River's and package.module:Class"
                )
        self._detectors = {name: _made(name) for name in names}
        self._failed: list[Verdict] = []
        self.set_aside = 0
        """How many have failed."""

    def __len__(self) -> int:
        return len(self._detectors)

    def update(self, batch: Observations) -> list[Verdict]:
        """Take the rows in; return the alarms, those of each detector together."""
        found: list[Verdict] = []
        for name, detector in list(self._detectors.items()):
            try:
                # Each gets rows of its own, to do with as it likes.
                claims = _checked(detector.update(_copy(batch)), batch)
            except Exception as error:  # whatever a user's class raises: the others go on
                self._set_aside(name, error)
                offset, row = int(batch.offsets[-1]), int(batch.rows[-1])
                self._failed.append(last_words(name, error, offset, row))
            else:
                found += [
                    msgspec.structs.replace(claim, lasts=False)
                    for claim in claims
                    if claim.phase == "opened"
                ]
        return found

    def failed(self) -> list[Verdict]:
        """Return what is to be said of detectors that have failed since the last call."""
        failed, self._failed = self._failed, []
        return failed

    def _set_aside(self, name: str, error: Exception) -> None:
        _log.error("detector set aside", exc_info=error, extra={"detector": name})
        del self._detectors[name]
        self.set_aside += 1

    def state(self) -> dict[str, bytes]:
        """Return each detector's state by its name."""
        states: dict[str, bytes] = {}
        for name, detector in list(self._detectors.items()):
            try:
                states[name] = bytes(detector.snapshot())
            except Exception as error:  # as above: what the others hold is stored all the same
                self._set_aside(name, error)
        return states

    def restore(self, states: Mapping[str, bytes]) -> None:
        """Go on from `state`; one that is not in it, or cannot read what is, begins anew."""
        for name, detector in self._detectors.items():
            if name not in states:
                continue
            try:
                detector.restore(states[name])
            except Exception as error:  # a class of a user's may be another one than before
                _log.warning("detector begins anew", exc_info=error, extra={"detector": name})
                self._detectors[name] = make_detector(name)


def _made(name: str) -> Detector:
    try:
        return make_detector(name)
    except ValueError:
        raise
    except Exception as error:  # a module of a user's is run, and may raise anything
        raise ValueError(f"{name} cannot be made: {type(error).__name__}: {error}") from error


def _copy(batch: Observations) -> Observations:
    times = None if batch.times is None else batch.times.copy()
    return replace(
        batch, values=batch.values.copy(), offsets=batch.offsets.copy(), rows=batch.rows.copy(), times=times,
    )  # fmt: skip


def _checked(claims: Iterable[Verdict], batch: Observations) -> list[Verdict]:
    """Return claims with numbers of Python's own; raise unless they are whole, and of what a detector was given."""
    plain = msgspec.to_builtins(list(claims), enc_hook=_scalar)
    found = msgspec.convert(plain, list[Verdict])
    if not found:
        return found
    places = set(zip(batch.offsets.tolist(), batch.rows.tolist(), strict=True))
    for claim in found:
        if claim.subject not in batch.names or (claim.offset, claim.row) not in places:
            raise ValueError(
                f"it claims something of {claim.subject!r} at offset {claim.offset}, row {claim.row}, "
                "which it was not given"
            )
        if not (math.isfinite(claim.statistic) and math.isfinite(claim.threshold)):
            raise ValueError(
                f"its statistic and threshold must be finite, got {claim.statistic} and {claim.threshold}"
            )
    return found


def _scalar(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"a verdict holds a {type(value).__name__}")
