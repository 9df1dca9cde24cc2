"""Further detectors beside a monitor's own, by name: each by itself, so that one that fails stops nothing else."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ..core.verdict import Verdict
from .base import Observations, last_words
from .registry import make_detector

_log = logging.getLogger(__name__)


class ExtraDetectors:
    """Detectors that a user has chosen: River's others, or classes of one's own.

    Parameters
    ----------
    names
        As `registry.make_detector` takes them: `kswin`, `hddm_w:drift_confidence=1e-4`, `package.module:Class`.

    Raises
    ------
    ValueError
        A name, a parameter or a value is not known.

    Notes
    -----
    Only their alarms count, verdicts of the phase `opened`. One that raises, or claims something of rows or streams
    it was not given, is set aside until its state is read anew; its last words are a verdict about `detector:NAME`.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._detectors = {name: make_detector(name) for name in names}
        self._failed: list[Verdict] = []

    def update(self, batch: Observations) -> list[Verdict]:
        """Take the rows in; return the alarms, those of each detector together."""
        found: list[Verdict] = []
        for name, detector in list(self._detectors.items()):
            try:
                claims = detector.update(batch)
                _check(claims, batch)
            except Exception as error:  # whatever a user's class raises: the others go on
                self._set_aside(name, error)
                offset, row = int(batch.offsets[-1]), int(batch.rows[-1])
                self._failed.append(last_words(name, error, offset, row))
            else:
                found += (claim for claim in claims if claim.phase == "opened")
        return found

    def failed(self) -> list[Verdict]:
        """Return what is to be said of detectors that have failed since the last call."""
        failed, self._failed = self._failed, []
        return failed

    def _set_aside(self, name: str, error: Exception) -> None:
        _log.error("detector set aside", exc_info=error, extra={"detector": name})
        del self._detectors[name]

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


def _check(claims: Sequence[Verdict], batch: Observations) -> None:
    """Raise a ValueError unless claims are of the rows and streams that a detector was given."""
    if not claims:
        return
    places = set(zip(batch.offsets.tolist(), batch.rows.tolist(), strict=True))
    for claim in claims:
        if claim.subject not in batch.names or (claim.offset, claim.row) not in places:
            raise ValueError(
                f"it claims something of {claim.subject!r} at offset {claim.offset}, row {claim.row}, "
                "which it was not given"
            )
