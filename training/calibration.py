"""The monitor of calibration: whether a classifier is right as often as it is sure, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import nn

from ..core.verdict import Summary, Verdict
from ..detectors.confidence_error import ConfidenceError, confidence_error
from ..detectors.first_claims import LastingClaims
from ..detectors.looks import Looks
from .alerts import TrainingAlerts, begun
from .answers import Reader
from .counts import Counts
from .loop import Loop, Place
from .monitor import BaseMonitor

NAME: Final = "calibration"
_IN_A_ROW: Final = 2
"""Epochs that part before it is claimed: chosen; after the first ones a model, and running statistics of its norms, are still on their way."""


class CalibrationMonitor(BaseMonitor):
    """Compares confidence with accuracy, on what is validated on, or in training where nothing is.

    Parameters
    ----------
    tolerance
        An expected calibration error of less is not claimed.
    alpha
        The chance that a run has any false claim, all epochs and data sets together.
    every
        One batch of training in so many is counted; of validation all are.
    alerts
        Where claims go; `Monitors` gives its own.

    Attributes
    ----------
    history
        Of each epoch a dictionary: `epoch`, `calibration_error` with its bounds `calibration_error:low` and `:high` at 95 %, and
        `overconfidence`, mean confidence less accuracy; of data sets that are validated on with their names before it, as
        `val_calibration_error`.

    Raises
    ------
    ValueError
        `every` is below 1, `tolerance` not within [0, 1), or `alpha` not within (0, 1).

    Notes
    -----
    Claimed is an error whose lower bound, at the level of the look, is above `tolerance` in two epochs one after the other: see
    `confidence_error` for the bound and `Looks` for the level. A model that learns is less sure than it is right, so that is
    claimed only of one whose error was within `tolerance` at about that accuracy before. Nothing is claimed while accuracy rises by more than
    `tolerance` in an epoch: batch norm's running statistics are those of the model that was, and make it too sure, or not sure, of what it sees. Labels that are smoothed or mixed on purpose make a model
    less sure: the claim says on which side it is.
    """

    def __init__(
        self,
        *,
        tolerance: float = 0.1,
        alpha: float = 0.001,
        every: int = 1,
        alerts: TrainingAlerts | None = None,
    ) -> None:
        if every < 1 or not 0 <= tolerance < 1:
            raise ValueError(
                f"every must be 1 batch or more and tolerance within [0, 1), got {every} and {tolerance}"
            )
        self.tolerance = tolerance
        self.alpha = alpha
        self.every = every
        self.alerts = alerts
        self.history: list[dict[str, float]] = []
        self._reader = Reader()
        self._begin(None)

    def _begin(self, criterion: Callable[..., Any] | None) -> None:
        self._loop, self.history = Loop(), []
        self._looks = Looks(self.alpha)
        self.close()
        self._reader = Reader(criterion)
        self._claims = LastingClaims(_IN_A_ROW)
        self._was_within: dict[str, float] = {}  # at which accuracy, the highest
        self._before: dict[str, float] = {}  # the accuracy of the epoch before
        self._counts: dict[str, Counts] = {}

    def initialize(
        self, model: nn.Module, dataloader: Iterable[Any], criterion: Callable[..., Any] | None
    ) -> None:
        """Begin."""
        del model, dataloader
        self.alerts = begun(self)
        self._begin(criterion)

    def close(self) -> None:
        """Remove the hook on the criterion."""
        self._reader.close()

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Count a batch, on the device."""
        sampled = self._loop.step % self.every == 0
        self._loop.end_batch(batch)
        if sampled:
            self._take("", outputs, batch)

    def on_validation_batch_end(self, outputs: Any, batch: Any, name: str = "val") -> None:
        """Count a batch of another data set, on the device."""
        self._take(f"{name}_", outputs, batch)

    def on_epoch_end(self, epoch: int) -> None:
        """Read the epoch's counts, and judge them."""
        place = self._loop.last_of(epoch)
        row: dict[str, float] = {"epoch": float(epoch)}
        is_validated = any(self._counts)
        for prefix, counts in self._counts.items():
            bins = counts.bins
            shown = confidence_error(bins)
            if shown is None:
                continue
            name = f"{prefix}calibration_error"
            row |= {
                name: shown.error.value, f"{name}:low": shown.error.low, f"{name}:high": shown.error.high,
                f"{prefix}overconfidence": shown.excess,
            }  # fmt: skip
            judged = confidence_error(bins, self._looks.next())
            if judged is not None and (prefix or not is_validated):
                self._judge(place, name, judged, shown)
        self.history.append(row)
        self._loop.end_epoch(epoch)
        self._counts = {}
        if self.alerts is not None:
            self.alerts.end_batch(place)

    def _take(self, prefix: str, outputs: Any, batch: Any) -> None:
        with torch.no_grad():
            answers = self._reader.read(outputs, batch)
            if answers is not None and answers.classes:
                if prefix not in self._counts:
                    self._counts[prefix] = Counts(answers)
                self._counts[prefix].add(answers)

    def _judge(
        self, place: Place, name: str, judged: ConfidenceError, shown: ConfidenceError
    ) -> None:
        is_apart = judged.error.low > self.tolerance
        within = self._was_within.get(name, -1.0)
        if shown.error.value <= self.tolerance:
            self._was_within[name] = max(within, shown.accuracy)
        elif shown.excess < 0 and shown.accuracy > within + self.tolerance:
            is_apart = False  # it has learnt more since
        if shown.accuracy > self._before.get(name, 1.0) + self.tolerance:
            is_apart = False  # and goes on learning
        self._before[name] = shown.accuracy
        if not self._claims.is_first(name, is_apart, place.epoch) or self.alerts is None:
            return
        value, low, high, _ = shown.error
        change = "overconfident" if shown.excess > 0 else "underconfident"
        evidence = (
            f"confidence and accuracy are {value:.3f} apart ({low:.3f} to {high:.3f}) over {shown.answers} answers, "
            f"{change} by {abs(shown.excess):.3f}"
        )
        verdict = Verdict(
            detector=NAME, subject=name, offset=place.step, row=0, statistic=judged.error.low,
            threshold=self.tolerance, unit="lower bound of the expected calibration error", change=change,
            size=shown.excess, evidence=evidence, current=Summary(count=shown.answers, mean=value),
        )  # fmt: skip
        self.alerts.claim(verdict, f"{name}: {evidence}", place)
