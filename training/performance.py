"""The monitor of performance: the metrics of each epoch, counted on the device and read at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from ..core.verdict import Verdict
from ..detectors import class_counts
from .alerts import TrainingAlerts
from .criterion import BatchLoss
from .loop import Loop, Place, logits_of, targets_of
from .monitor import BaseMonitor

_BINS: Final = 15  # of the calibration error; Guo et al. 2017, section 4.1
_OF_TWO: Final = (nn.BCELoss, nn.BCEWithLogitsLoss)


class PerformanceMonitor(BaseMonitor):
    """Counts what a classifier says against the labels, epoch by epoch.

    Parameters
    ----------
    every
        One batch in so many is counted.
    fall
        An epoch whose accuracy is so much below the best one's, and below by more than chance, is claimed.
    alerts
        Where claims go; `Monitors` gives its own.

    Attributes
    ----------
    history
        Of each epoch a dictionary: `epoch`, `loss`, the mean over batches, and of a classifier `accuracy`, `precision:macro`, `recall:macro`,
        `f1:macro`, each class's own as `recall:3`, and `calibration_error`.

    Raises
    ------
    ValueError
        `every` is below 1, or `fall` not within (0, 1].

    Notes
    -----
    These are numbers of training: each batch as the model was before its step, so the first epoch's are low. Labels that are no class, as
    -100, are left out. Outputs of one column are about two classes where the criterion is binary cross-entropy, or labels are whole
    numbers; of other outputs with labels that are none there is only the loss.

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
        self._error: Exception | None = None
        self._forget()

    def _forget(self) -> None:
        self._confusion: torch.Tensor | None = None
        self._bins: torch.Tensor | None = None
        self._classes = 0
        self._total: torch.Tensor | None = None
        self._batches = 0

    def initialize(
        self, model: nn.Module, dataloader: Iterable[Any], criterion: Callable[..., Any] | None
    ) -> None:
        """Begin: the hook on the criterion."""
        del model, dataloader
        self.close()
        self.alerts = self.alerts or TrainingAlerts()
        self._loop, self.history, self._error = Loop(), [], None
        self._best: tuple[float, float] | None = None  # accuracy, and its lower limit
        self._is_binary = isinstance(criterion, _OF_TWO)
        self._gives_probabilities = isinstance(criterion, nn.BCELoss)
        self._loss = BatchLoss(criterion, lambda: self._loop.step % self.every == 0, self._failed)
        self._forget()

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Count a batch, on the device."""
        if self._error is not None:
            raise self._error
        sampled = self._loop.step % self.every == 0
        self._loop.end_batch(batch)
        if not sampled:
            return
        with torch.no_grad():
            loss = self._loss.take(outputs, batch)
            if loss is not None:
                loss = loss.double()
                self._total = loss if self._total is None else self._total + loss.to(self._total.device)  # fmt: skip
                self._batches += 1
            logits, targets = logits_of(outputs), targets_of(batch)
            if logits is not None and targets is not None:
                self._count(logits.detach(), targets.detach().to(logits.device))

    def on_epoch_end(self, epoch: int) -> None:
        """Read the epoch's counts, and compare them with the best epoch's."""
        row: dict[str, float] = {"epoch": float(epoch)}
        if self._total is not None:
            row["loss"] = float(self._total) / self._batches
        place = Place(self._loop.step, epoch, max(self._loop.place.batch - 1, 0))
        if self._confusion is not None and self._bins is not None:
            counts = self._confusion[:-1].cpu().numpy().reshape(self._classes, self._classes)
            found = class_counts.metrics(counts)
            row |= {name: metric.value for name, metric in found.items()}
            count, hits, confidence = self._bins.cpu().numpy()
            if count.sum():
                row["calibration_error"] = float(np.abs(hits - confidence).sum() / count.sum())
            if "accuracy" in found:
                accuracy = found["accuracy"]
                self._compare(place, accuracy.value, accuracy.low, accuracy.high)
        self.history.append(row)
        self._loop.end_epoch(epoch)
        self._forget()

    def close(self) -> None:
        """Remove the hook."""
        self._loss.close()

    def _failed(self, error: Exception) -> None:
        self._error = error

    def _count(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        if logits.ndim > 1 and logits.shape[1] == 1 and logits.ndim == targets.ndim + 1:
            logits = logits.squeeze(1)
        whole = not (targets.is_floating_point() or targets.is_complex())
        if logits.shape == targets.shape and (self._is_binary or whole):
            p = logits.float() if self._gives_probabilities else logits.float().sigmoid()
            self._add(p > 0.5, torch.maximum(p, 1 - p), targets, 2)
        elif whole and logits.ndim == targets.ndim + 1 and logits.shape[1] > 1:
            confidence, predicted = logits.float().softmax(1).max(1)
            self._add(predicted, confidence, targets, logits.shape[1])

    def _add(
        self, predicted: torch.Tensor, confidence: torch.Tensor, targets: torch.Tensor, classes: int
    ) -> None:
        """Add pairs to the confusion, the last cell of which is for labels that are no class, and to the bins of confidence."""
        predicted, targets = predicted.long().flatten(), targets.long().flatten()
        confidence = confidence.flatten()
        if self._confusion is None or self._bins is None:
            self._classes = classes
            device = predicted.device
            self._confusion = torch.zeros(classes**2 + 1, dtype=torch.int64, device=device)
            self._bins = torch.zeros(3, _BINS, dtype=torch.float64, device=device)
        valid = (targets >= 0) & (targets < classes) & confidence.isfinite()
        cells = torch.where(valid, targets * classes + predicted, classes**2)
        self._confusion.scatter_add_(0, cells, torch.ones_like(cells))
        bins = (confidence.nan_to_num(0.0) * _BINS).long().clamp(0, _BINS - 1)
        hits = valid & (predicted == targets)
        for row, values in enumerate((valid, hits, confidence.nan_to_num(0.0) * valid)):
            self._bins[row].scatter_add_(0, bins, values.double())

    def _compare(self, place: Place, accuracy: float, low: float, high: float) -> None:
        best = self._best
        if best is None or accuracy > best[0]:
            self._best = accuracy, low
        elif accuracy < best[0] - self.fall and high < best[1] and self.alerts is not None:
            verdict = Verdict(
                detector="epoch_accuracy", subject="accuracy", offset=place.step, row=0,
                statistic=best[0] - accuracy, threshold=self.fall, unit="accuracy of the best epoch less this one's",
                change="rate down", size=accuracy - best[0], evidence=f"{accuracy:.3f}, was {best[0]:.3f}",
            )  # fmt: skip
            text = f"accuracy of epoch {place.epoch}: {accuracy:.3f}, the best was {best[0]:.3f}"
            self.alerts.claim(verdict, text, place)
