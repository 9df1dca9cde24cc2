"""What a model answered in a batch, row by row beside the labels, on the device: the start of every count by epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch

from .criterion import is_of_distances, is_of_numbers, is_of_shares, is_of_two, takes_probabilities
from .loop import aligned, logits_of
from .targets import Targets

_SMALLEST: Final = 1e-12  # a probability is taken to be at least so much, in a logarithm


class Answers(NamedTuple):
    """Of m places, which are rows, or the pixels of rows, row by row.

    Parameters
    ----------
    rows
        Of the batch.
    classes
        How many there are; 0 where labels are numbers.
    predicted, labels
        (m,) int64 classes; a label that is none, as -100, is -1; of outputs that are not finite another class than the label is predicted. Of numbers empty.
    confidence
        (m,) the probability of the class that is predicted. Of numbers empty.
    loss
        (m,) log loss in nats, of numbers (rows,) squared errors; not finite where it is not known.
    scores
        (rows, classes, ...) logarithms of probabilities, of numbers (rows, ...) these.
    """

    rows: int
    classes: int
    predicted: torch.Tensor
    labels: torch.Tensor
    confidence: torch.Tensor
    loss: torch.Tensor
    scores: torch.Tensor


class Reader:
    """Reads outputs and batches as the criterion does.

    Parameters
    ----------
    criterion
        Of outputs and targets; one of binary cross-entropy says that a column is about two classes, and `BCELoss` that it holds
        probabilities.
    targets
        Which part of a batch they are; None for what the criterion tells of it.
    """

    def __init__(
        self, criterion: Callable[..., Any] | None = None, targets: Targets | None = None
    ) -> None:
        self.targets = targets or Targets(criterion)
        self._is_binary = is_of_two(criterion)
        self._is_of_numbers = is_of_numbers(criterion)
        self._is_of_shares = is_of_shares(criterion)
        self._is_of_distances = is_of_distances(criterion)
        self._gives_probabilities = takes_probabilities(criterion)
        ignored = getattr(criterion, "ignore_index", -1)
        self._ignored = ignored if isinstance(ignored, int) and ignored >= 0 else None

    def close(self) -> None:
        """Remove the hook on the criterion."""
        self.targets.close()

    def read(self, outputs: Any, batch: Any) -> Answers | None:
        """Return what outputs say of a batch's labels; None where shapes do not tell."""
        logits = logits_of(outputs)
        targets = None if logits is None else self.targets.of(batch, logits)
        if logits is None or targets is None or not logits.ndim or self._is_of_distances:
            return None
        x, y = aligned(logits.detach(), targets), targets.detach().to(logits.device)
        if self._is_of_shares and x.ndim > 1 and x.shape == y.shape:
            meant_most = y.argmax(1)
            return _of_classes(x.float().log_softmax(1), meant_most)
        whole = not (y.is_floating_point() or y.is_complex() or self._is_of_numbers)
        if x.shape == y.shape and (self._is_binary or whole):
            p = x.float() if self._gives_probabilities else x.float().sigmoid()
            both = torch.stack([1 - p, p], 1).clamp(_SMALLEST)
            return _of_classes(both.log(), y)
        if whole and x.ndim == y.ndim + 1 and x.shape[1] > 1 and x[:, 0].shape == y.shape:
            if self._ignored is not None:
                y = torch.where(y == self._ignored, -1, y.long())
            return _of_classes(x.float().log_softmax(1), y)
        if x.shape == y.shape and x.is_floating_point() and not whole:
            errors = (x.float() - y.float()).square().reshape(len(x), -1).mean(1)
            none = errors.new_empty(0)
            return Answers(len(x), 0, none.long(), none.long(), none, errors, x)
        return None


def _of_classes(score: torch.Tensor, y: torch.Tensor) -> Answers:
    """Return the answers of log probabilities, with classes as dimension 1."""
    classes = score.shape[1]
    best, predicted = score.max(1)
    # Of labels that are smoothed the nearest is meant.
    labels, best = (y.round() if y.is_floating_point() else y).long(), best.exp()
    labels = torch.where((labels >= 0) & (labels < classes), labels, -1)
    # Outputs that are no numbers are wrong, or an epoch that broke would be as good as its first batches.
    predicted = torch.where(best.isfinite(), predicted, (labels + 1) % classes)
    loss = -score.gather(1, labels.clamp(0).unsqueeze(1)).squeeze(1)
    loss = torch.where(labels >= 0, loss, torch.nan)
    return Answers(
        len(y), classes, predicted.flatten(), labels.flatten(), best.flatten(), loss.flatten(), score
    )  # fmt: skip
