"""The monitor of the loss: spikes, divergence, a plateau, and the batch whose loss is no number."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any, Final

from torch import nn

from ..detectors.loss_curve import LossCurve
from .alerts import TrainingAlerts, begun
from .criterion import BatchLoss
from .curve import Curve
from .loop import Loop, Place, logits_of
from .monitor import BaseMonitor, not_begun
from .readings import Readings

_log = logging.getLogger(__name__)
_SIZES: Final = 31  # batches whose median of rows is usual


class LossMonitor(BaseMonitor):
    """Watches the loss of each batch.

    Parameters
    ----------
    every
        One batch in so many is looked at.
    plateau_steps
        See `LossCurve`, in batches looked at.
    alerts
        Where claims go; `Monitors` gives its own.

    Attributes
    ----------
    history
        (batch of the run, loss) of each batch looked at, as far as they have come from the device; of more than 10,000 a part, see `Curve`.

    Raises
    ------
    ValueError
        `every` is below 1.

    Notes
    -----
    The loss is what a criterion that is a module gives in the loop, seen by a forward hook, so under AMP it is not scaled and with
    gradient accumulation not divided. Of a criterion that is a function, or that is called within what `torch.compile` has compiled, it is
    the `loss` of the outputs, or is computed once more of outputs and targets, without a graph. Losses under `torch.no_grad`, of validation,
    are not taken. Of a batch with less than half the usual rows only a loss that is no number is claimed: single rows differ more.
    """

    def __init__(
        self, *, every: int = 1, plateau_steps: int = 300, alerts: TrainingAlerts | None = None
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be 1 batch or more, got {every}")
        self.every = every
        self.alerts = alerts
        self.history = Curve()
        self._curve = LossCurve(plateau_steps)
        self._loop = Loop()
        self._readings: Readings[tuple[Place, bool]] = Readings()
        self._rows: deque[int] = deque(maxlen=_SIZES)
        self._error: Exception | None = not_begun()
        self._is_warned = False
        self._loss = BatchLoss(None, lambda: False, self._failed)

    def initialize(
        self, model: nn.Module, dataloader: Iterable[Any], criterion: Callable[..., Any] | None
    ) -> None:
        """Begin: the hook on the criterion."""
        del model, dataloader
        self.close()
        self.alerts = begun(self)
        self._loop = Loop()
        self._curve = LossCurve(self._curve.plateau_steps)
        self.history = Curve()
        self._error, self._is_warned = None, False
        self._rows.clear()
        self._loss = BatchLoss(criterion, lambda: self._loop.step % self.every == 0, self._failed)

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Send the batch's loss off, and judge those that have come."""
        if self._error is not None:
            raise self._error
        sampled = self._loop.step % self.every == 0
        place = self._loop.end_batch(batch)
        if sampled:
            loss = self._loss.take(outputs, batch)
            if loss is not None:
                self._readings.put((place, self._is_small(outputs, batch)), [loss])
            elif not self._is_warned:
                self._is_warned = True
                _log.warning(
                    "the loss of a batch is not known, so nothing of it is watched: expected a criterion, outputs that have a `loss`, or a batch with targets"
                )
        self._judge(self._readings.ready())
        if self.alerts is not None:
            self.alerts.end_batch(place)

    def on_epoch_end(self, epoch: int) -> None:
        """Count the epoch."""
        self._loop.end_epoch(epoch)

    def close(self) -> None:
        """Judge what is on its way, and remove the hook."""
        self._loss.close()
        self._judge(self._readings.ready(wait=True))

    def _failed(self, error: Exception) -> None:
        self._error = error  # raised where it can be caught, not in the criterion

    def _is_small(self, outputs: Any, batch: Any) -> bool:
        """Return whether a batch has less than half as many rows as is usual, as the last of an epoch may: it differs more than others do."""
        try:
            counted = logits_of(outputs)
            if counted is None:  # a loss alone
                counted = self._loss.targets.of(batch)
            rows = 0 if counted is None or not counted.ndim else len(counted)
        except Exception:  # outputs of a kind of their own
            return False
        self._rows.append(rows)
        return 0 < 2 * rows < median(self._rows)

    def _judge(self, numbers: list[tuple[tuple[Place, bool], list[float]]]) -> None:
        for (place, is_small), (loss,) in numbers:
            self.history.add(place.step, loss)
            if is_small and math.isfinite(loss):
                continue
            for verdict in self._curve.update(place.step, loss):
                if self.alerts is not None:
                    self.alerts.claim(verdict, f"loss: {verdict.change}, {verdict.evidence}", place)
