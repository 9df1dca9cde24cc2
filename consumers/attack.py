"""The adversarial-input detectors of one model: one for each version and number of classes."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.batch import EventBatch
from ..core.columns import Floats, Ints
from ..core.errors import ConfigError, StateError
from ..core.verdict import Verdict
from ..detectors.base import Observations
from .model_settings import AttackSettings
from .trained_vectors import MOST_CLASSES, TrainedVectors
from .versions import Versions, check_known, escaped, parts

if TYPE_CHECKING:
    from ..detectors.adversarial import AdversarialInputs, Fitted

_log = logging.getLogger(__name__)


class AttackMonitor:
    """Routes logits to a detector of their version and width, each fitted to its own.

    Parameters
    ----------
    model, settings
        What is watched, and how.
    trained
        Logits of one version in training: their thresholds are known from the first event on, unless settings name others.
    """

    def __init__(
        self, model: str, settings: AttackSettings, trained: TrainedVectors | None = None
    ) -> None:
        self.model = model
        self.settings = settings
        self._trained = trained
        self._versions: Versions[AdversarialInputs] = Versions(
            self._make, lambda key, _: self._dropped.append(key)
        )
        self._detectors = self._versions.kept
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
            or not 2 <= batch.logits.shape[1] <= MOST_CLASSES
            or not _has_torch()
        ):
            return []
        found: list[Verdict] = []
        for detector, rows in self._versions.route(batch.version, batch.logits.shape[1]):
            found += detector.update(_observations(batch, batch.logits[rows], rows))
        return found

    def _make(self, version: str, classes: int) -> AdversarialInputs:
        from ..detectors.adversarial import AdversarialInputs

        s = self.settings
        reference = None if s.reference is None else fitted(s.reference, s.alpha, s.fit_events)
        if reference is not None and reference.classes != classes:
            reference = None  # of another model or version: learn from the stream
        made = AdversarialInputs(
            fit_events=s.fit_events,
            calibration_events=s.calibration_events,
            alpha=s.alpha,
            budget_events=s.budget_events,
            max_clients=s.max_clients,
            reference=reference,
        )
        scores = self._trained and self._trained.scores_of(version, classes)
        if scores and s.reference is None:
            try:
                made.restore_steady(scores)
            except StateError as error:
                _log.warning(
                    "drift.reference has no thresholds for this attack.alpha, they are learned from the stream: write it anew",
                    extra={"model": self.model, "alpha": s.alpha, "error": str(error)},
                )
        return made

    @property
    def versions(self) -> dict[str, Any]:
        """The versions that have a detector, and the uses of them: what `restore` takes beside the fields."""
        return self._versions.state()

    def dirty(self) -> dict[str, bytes | None]:
        """Return the fields that changed since the last call, None for those to delete."""
        fields: dict[str, bytes | None] = {}
        for key in self._dropped:
            name = escaped(key)
            fields[f"attack/{name}"] = fields[f"attack_steady/{name}"] = None
            self._stored.pop(key, None)
        self._dropped = []
        for key, detector in self._detectors.items():
            name = escaped(key)
            fields[f"attack/{name}"] = detector.volatile()
            if self._stored.get(key) != detector.changes:
                self._stored[key] = detector.changes
                fields[f"attack_steady/{name}"] = detector.steady()
        return fields

    def restore(
        self, versions: Any, fields: dict[str, bytes], renewed: Container[str] = ()
    ) -> list[str]:
        """Go on from stored `versions` and fields; return what could not be read and starts clean, as `renewed` versions do."""

        def read(key: str) -> AdversarialInputs:
            check_known(key, renewed)
            name = escaped(key)
            detector = self._make(*parts(key))
            detector.restore_steady(fields[f"attack_steady/{name}"])
            detector.restore_volatile(fields[f"attack/{name}"])
            detector.checked, detector.flagged = int(detector.checked), int(detector.flagged)
            if self.settings.reference is not None and not detector.is_fitted:
                return self._make(*parts(key))  # the reference was named while it was learning
            return detector

        try:
            lost = self._versions.restore(versions, read)
        except StateError as error:
            return [f"attack: {error}"]
        for key, detector in self._detectors.items():
            self._stored[key] = detector.changes
        return [f"attack/{problem}" for problem in lost]


def _observations(batch: EventBatch, logits: Floats, rows: Ints | slice) -> Observations:
    return Observations(
        names=tuple(f"logit:{k}" for k in range(logits.shape[1])),
        values=logits,
        offsets=batch.offsets[rows],
        rows=batch.rows[rows],
        clients=batch.client.take(rows),
        ids=batch.prediction_id.take(rows),
    )


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
