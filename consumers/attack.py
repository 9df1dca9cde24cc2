"""The adversarial-input detectors of one model: one for each version and number of classes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from ..core.batch import EventBatch
from ..core.columns import Ints
from ..core.errors import ConfigError, StateError
from ..core.verdict import Verdict
from ..detectors.base import Observations
from .settings import AttackSettings

if TYPE_CHECKING:
    from ..detectors.adversarial import AdversarialInputs, Fitted

_log = logging.getLogger(__name__)

_MAX_DETECTORS: Final = 8  # versions watched at once; the oldest makes room
_MAX_CLASSES: Final = 1024
"""Logits of more classes are not checked: their covariance is a matter of seconds and megabytes."""


class AttackMonitor:
    """Routes logits to a detector of their version.

    A new version of a model has other logits, so it is fitted anew; two versions that serve side by
    side do not disturb one another.
    """

    def __init__(self, model: str, settings: AttackSettings) -> None:
        self.model = model
        self.settings = settings
        self._detectors: dict[str, AdversarialInputs] = {}
        self._stored: dict[str, int] = {}
        self._dropped: list[str] = []

    @property
    def checked(self) -> int:
        """How many inputs were checked."""
        return sum(detector.checked for detector in self._detectors.values())

    @property
    def flagged(self) -> int:
        """How many of them were suspicious."""
        return sum(detector.flagged for detector in self._detectors.values())

    def update(self, batch: EventBatch) -> list[Verdict]:
        """Check the logits of a batch."""
        if (
            batch.logits is None
            or not 2 <= batch.logits.shape[1] <= _MAX_CLASSES
            or not _has_torch()
        ):
            return []
        names = np.array([version or "" for version in _distinct(batch)], dtype=object)
        if len(names) == 1:
            return self._check(names[0], batch, slice(0, len(batch)))
        found: list[Verdict] = []
        classes = batch.logits.shape[1]
        begin = 0
        while begin < len(names):
            self._detector(names[begin], classes)
            # A version that has no detector yet may make another one go: not before its turn.
            end = begin + 1
            while end < len(names) and f"{names[end]}/{classes}" in self._detectors:
                end += 1
            for version in dict.fromkeys(names[begin:end].tolist()):
                rows = begin + np.flatnonzero(names[begin:end] == version)
                found += self._check(version, batch, rows)
            begin = end
        return found

    def _check(self, version: str, batch: EventBatch, rows: Ints | slice) -> list[Verdict]:
        assert batch.logits is not None
        logits = batch.logits[rows]
        return self._detector(version, logits.shape[1]).update(
            Observations(
                names=tuple(f"logit:{k}" for k in range(logits.shape[1])),
                values=logits,
                offsets=batch.offsets[rows],
                rows=batch.rows[rows],
                clients=batch.client.take(rows),
                ids=batch.prediction_id.take(rows),
            )
        )

    def _detector(self, version: str, classes: int) -> AdversarialInputs:
        key = f"{version}/{classes}"
        if key not in self._detectors:
            if len(self._detectors) == _MAX_DETECTORS:
                oldest = next(iter(self._detectors))
                del self._detectors[oldest]
                self._dropped.append(oldest)
            self._detectors[key] = self._make(classes)
        return self._detectors[key]

    def _make(self, classes: int) -> AdversarialInputs:
        from ..detectors.adversarial import AdversarialInputs

        s = self.settings
        reference = None if s.reference is None else fitted(s.reference, s.alpha, s.fit_events)
        if reference is not None and reference.classes != classes:
            reference = None  # of another model or version: learn from the stream
        return AdversarialInputs(
            fit_events=s.fit_events,
            calibration_events=s.calibration_events,
            alpha=s.alpha,
            budget_events=s.budget_events,
            max_clients=s.max_clients,
            reference=reference,
        )

    @property
    def versions(self) -> list[str]:
        """The versions that have a detector, with their numbers of classes, the oldest first."""
        return list(self._detectors)

    def dirty(self) -> dict[str, bytes | None]:
        """Return the fields that changed since the last call, None for those to delete."""
        fields: dict[str, bytes | None] = {}
        for key in self._dropped:
            name = _escaped(key)
            fields[f"attack/{name}"] = fields[f"attack_steady/{name}"] = None
            self._stored.pop(key, None)
        self._dropped = []
        for key, detector in self._detectors.items():
            name = _escaped(key)
            fields[f"attack/{name}"] = detector.volatile()
            if self._stored.get(key) != detector.changes:
                self._stored[key] = detector.changes
                fields[f"attack_steady/{name}"] = detector.steady()
        return fields

    def restore(self, versions: Sequence[str], fields: dict[str, bytes]) -> list[str]:
        """Go on from stored `versions` and fields; return what could not be read and starts clean."""
        lost = []
        for key in versions:
            name, classes = _escaped(key), int(key.rpartition("/")[2])
            try:
                detector = self._make(classes)
                detector.restore_steady(fields[f"attack_steady/{name}"])
                detector.restore_volatile(fields[f"attack/{name}"])
            except (KeyError, StateError) as error:
                lost.append(f"attack/{key}: {error}")
                continue
            if self.settings.reference is not None and not detector.is_fitted:
                detector = self._make(classes)  # the reference was named while it was learning
            self._detectors[key] = detector
            self._stored[key] = detector.changes
        return lost


def _escaped(key: str) -> str:
    """Return a version as part of a field's name, in which a bar stands before the model."""
    return key.replace("%", "%25").replace("|", "%7C")


def _distinct(batch: EventBatch) -> list[str | None]:
    """Return the version of each row, or of all rows if it is one."""
    version = batch.version
    if not version.present.any():
        return [None]
    length = version.end - version.start
    if version.present.all() and (length == length[0]).all():
        first = version.data[version.start[0] : version.end[0]]
        cells = version.start[:, None] + np.arange(length[0])[None, :]
        if (version.data[cells] == first[None, :]).all():
            return [version[0]]
    return version.to_list()


def check_references(settings: Iterable[AttackSettings]) -> None:
    """Read every reference file that is named.

    Raises
    ------
    ConfigError
        One cannot be read, or needs torch, which is not installed.
    """
    for s in settings:
        if not s.enabled or s.reference is None:
            continue
        if not _has_torch():
            raise ConfigError("attack.reference needs torch: pip install 'tocsin[attack]'")
        fitted(s.reference, s.alpha, s.fit_events)


@cache
def _has_torch() -> bool:
    if find_spec("torch") is not None:
        return True
    _log.warning(
        "torch is not installed, adversarial inputs are not looked for: pip install 'tocsin[attack]'"
    )
    return False


@cache
def fitted(path: Path, alpha: float, fit_events: int) -> Fitted:
    """Fit the scores to the clean logits in a reference file.

    Parameters
    ----------
    path
        An .npz file with `logits` (n, classes) of clean inputs, in no particular order.
    alpha
        Flag rate to calibrate for.
    fit_events
        Rows to fit on, at most half of them; the others calibrate.

    Raises
    ------
    ConfigError
        The file cannot be read, or is too short for `alpha`.
    """
    from ..detectors.adversarial import Fitted

    try:
        with np.load(path, allow_pickle=False) as file:
            logits = np.asarray(file["logits"], np.float64)
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(
            f"attack.reference {path}: expected an .npz file with an array `logits`: {error}"
        ) from None
    if logits.ndim != 2 or logits.shape[1] < 2 or not np.isfinite(logits).all():
        raise ConfigError(
            f"attack.reference {path}: `logits` must be (n, classes >= 2) and finite, got shape "
            f"{logits.shape}"
        )
    try:
        return Fitted.fit(logits, min(fit_events, len(logits) // 2), alpha)
    except ValueError as error:
        raise ConfigError(f"attack.reference {path}: {error}") from None
