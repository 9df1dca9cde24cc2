"""The monitor of performance: the metrics of each epoch, of training and of what is validated on, counted on the device and read at its end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import nn

from ..core.verdict import Verdict
from ..detectors.confidence_error import confidence_error
from .alerts import TrainingAlerts, begun
from .answers import Reader
from .counts import Counts
from .criterion import BatchLoss
from .loop import Loop, Place, logits_of
from .monitor import BaseMonitor, not_begun

_log = logging.getLogger(__name__)
_COLLAPSE: Final = 2.5
"""Times the fall that is claimed in its first epoch; chosen: momentum on few digits loses 10 to 20 points for an epoch, and is healthy."""


class _Epoch:
    """An epoch of one data set: counts, and the sum of losses, each with its weight."""

    def __init__(self) -> None:
        self.counts: Counts | None = None
        self.total: torch.Tensor | None = None
        self.weight = 0

    def add_loss(self, loss: torch.Tensor, weight: int) -> None:
        """Take the loss of a batch in."""
        loss = loss.double() * weight
        self.total = loss if self.total is None else self.total + loss.to(self.total.device)
        self.weight += weight


class PerformanceMonitor(BaseMonitor):
    """Counts what a classifier says against the labels, epoch by epoch.

    Parameters
    ----------
    every
        One batch of training in so many is counted; of validation all are.
    fall
        An epoch whose accuracy, in training or validation, is so much below the best one's, and below by more than chance, is claimed if the
        one before was as well, or if it is two and a half times as much: an epoch may end at a bad moment, and the next be as good as ever.
    alerts
        Where claims go; `Monitors` gives its own.

    Attributes
    ----------
    history
        Of each epoch a dictionary: `epoch`, `loss`, the mean over batches, and of a classifier `accuracy`, `precision:macro`, `recall:macro`,
        `f1:macro`, each class's own as `recall:3`, and `calibration_error`. Those of a data set that is validated on begin with its name:
        `val_accuracy`, and `val_loss`, the mean over its rows. So a row is what `ModelCheckpoint.step` takes.

    Raises
    ------
    ValueError
        `every` is below 1, or `fall` not within (0, 1].

    Notes
    -----
    In training each batch is counted as the model was before its step, so the first epoch's numbers are low. Labels that are no class, as
    -100, are left out. Outputs of one column are about two classes where the criterion is binary cross-entropy, or labels are whole
    numbers; of more than 1,000 classes there is the accuracy alone; of other outputs with labels that are none there is only the loss.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks", equation 3 (arXiv:1706.04599).
    """

    def __init__(
        self, *, every: int = 1, fall: float = 0.1, alerts: TrainingAlerts | None = None
    ) -> None:
        if every < 1 or not 0 < fall <= 1:
            raise ValueError(
                f"every must be 1 batch or more and fall within (0, 1], got {every} and {fall}"
            )
        self.every = every
        self.fall = fall
        self.alerts = alerts
        self.history: list[dict[str, float]] = []
        self._loop = Loop()
        self._loss = BatchLoss(None, lambda: False, self._failed)
        self._error: Exception | None = not_begun()
        self._is_warned = False
        self._reader = Reader()
        self._epochs: dict[str, _Epoch] = {}
        self._best: dict[str, tuple[float, float]] = {}  # accuracies, and their lower limits
        self._fallen: set[str] = set()  # of the epoch before

    def initialize(
        self, model: nn.Module, dataloader: Iterable[Any], criterion: Callable[..., Any] | None
    ) -> None:
        """Begin: the hook on the criterion."""
        del model, dataloader
        self.close()
        self.alerts = begun(self)
        self._loop, self.history, self._error = Loop(), [], None
        self._is_warned = False
        self._best, self._fallen = {}, set()
        self._reader = Reader(criterion)
        self._loss = BatchLoss(
            criterion, lambda: self._loop.step % self.every == 0, self._failed, self._reader.targets
        )
        self._epochs = {}

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Count a batch, on the device."""
        if self._error is not None:
            raise self._error
        sampled = self._loop.step % self.every == 0
        self._loop.end_batch(batch)
        if sampled:
            with torch.no_grad():
                self._take("", self._loss.take(outputs, batch), outputs, batch)

    def on_validation_batch_end(self, outputs: Any, batch: Any, name: str = "val") -> None:
        """Count a batch of another data set, on the device."""
        with torch.no_grad():
            self._take(f"{name}_", self._loss.of(outputs, batch), outputs, batch)

    def on_epoch_end(self, epoch: int) -> None:
        """Read the epoch's counts, and compare them with the best epoch's."""
        row: dict[str, float] = {"epoch": float(epoch)}
        place = self._loop.last_of(epoch)
        for prefix, one in self._epochs.items():
            if one.total is not None and one.weight:
                row[f"{prefix}loss"] = float(one.total) / one.weight
            if one.counts is None:
                continue
            found = one.counts.metrics()
            row |= {f"{prefix}{name}": metric.value for name, metric in found.items()}
            sure = confidence_error(one.counts.bins)
            if sure is not None:
                row[f"{prefix}calibration_error"] = sure.error.value
            if "accuracy" in found:
                self._compare(place, f"{prefix}accuracy", *found["accuracy"][:3])
        self.history.append(row)
        self._loop.end_epoch(epoch)
        self._epochs = {}

    def close(self) -> None:
        """Remove the hook."""
        self._loss.close()

    def _failed(self, error: Exception) -> None:
        self._error = error

    def _take(self, prefix: str, loss: torch.Tensor | None, outputs: Any, batch: Any) -> None:
        one = self._epochs.setdefault(prefix, _Epoch())
        answers = self._reader.read(outputs, batch)
        if loss is not None:
            one.add_loss(loss, answers.rows if prefix and answers is not None else 1)
        if answers is None and not self._is_warned:
            self._is_warned = True
            _log.warning(
                "no labels that fit the outputs were found, so only the loss is counted: expected (n, classes) outputs and (n,) classes, "
                "found %s of outputs and %s of targets",
                _shape(logits_of(outputs)), _shape(self._reader.targets.of(batch)),
            )  # fmt: skip
        if answers is not None and answers.classes:
            one.counts = one.counts or Counts(answers)
            one.counts.add(answers)

    def _compare(self, place: Place, name: str, accuracy: float, low: float, high: float) -> None:
        best = self._best.get(name)
        was_fallen = name in self._fallen
        self._fallen.discard(name)
        if best is None or accuracy > best[0]:
            self._best[name] = accuracy, low
        elif accuracy < best[0] - self.fall and high < best[1]:
            self._fallen.add(name)
            is_lost = was_fallen or accuracy < best[0] - _COLLAPSE * self.fall
            if is_lost and self.alerts is not None:
                self._claim(self.alerts, place, name, accuracy, best[0])

    def _claim(
        self, alerts: TrainingAlerts, place: Place, name: str, accuracy: float, best: float
    ) -> None:
        verdict = Verdict(
            detector="epoch_accuracy", subject=name, offset=place.step, row=0,
            statistic=best - accuracy, threshold=self.fall, unit="accuracy of the best epoch less this one's",
            change="rate down", size=accuracy - best, evidence=f"{accuracy:.3f}, was {best:.3f}",
        )  # fmt: skip
        text = f"{name} of epoch {place.epoch}: {accuracy:.3f}, the best was {best:.3f}"
        alerts.claim(verdict, text, place)


def _shape(tensor: torch.Tensor | None) -> str:
    return "no tensor" if tensor is None else str(tuple(tensor.shape))
