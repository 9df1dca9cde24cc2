"""What an epoch's answers come to: counts that grow on the device and are read at its end."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from ..core.columns import Floats, Ints
from ..detectors import class_counts
from ..detectors.binary_metrics import Metric
from .answers import Answers

BINS: Final = 15
"""Of confidence; Guo, Pleiss, Sun and Weinberger 2017, section 4.1 (arXiv:1706.04599)."""

MOST: Final = 1000
"""Classes up to which pairs are counted by label and prediction, in 8 MB; chosen."""


class Counts:
    """The confusion of a classifier, of many classes its hits alone, and its hits by confidence.

    Parameters
    ----------
    like
        The first answers: how many classes there are, and on which device.
    """

    def __init__(self, like: Answers) -> None:
        self._classes = like.classes
        device = like.predicted.device
        # With more classes all that is kept of pairs is which are hits: a confusion of 100,000 classes would be 80 GB.
        self._cells = like.classes if like.classes <= MOST else 1
        self._confusion = torch.zeros(self._cells**2 + 2, dtype=torch.int64, device=device)
        self._bins = torch.zeros(3, BINS, dtype=torch.float64, device=device)

    def add(self, answers: Answers) -> None:
        """Take answers in; those without a label count nowhere."""
        predicted, labels, confidence = answers.predicted, answers.labels, answers.confidence
        valid = labels >= 0
        if self._cells == self._classes:
            cells = torch.where(valid, labels * self._classes + predicted, self._classes**2 + 1)
        else:
            cells = torch.where(valid, (labels != predicted).long(), 2)
        self._confusion.scatter_add_(0, cells, torch.ones_like(cells))
        sure = confidence.nan_to_num(0.0)
        bins = (sure * BINS).long().clamp(0, BINS - 1)
        for row, values in enumerate((valid, valid & (predicted == labels), sure * valid)):
            self._bins[row].scatter_add_(0, bins, values.double())

    def metrics(self) -> dict[str, Metric]:
        """Return what `class_counts.metrics` does; of more than 1,000 classes the accuracy, and all that equals it."""
        counts: Ints = self._confusion.cpu().numpy()
        if self._cells == self._classes:
            return class_counts.metrics(counts[:-2].reshape(self._classes, self._classes))
        hits, misses = counts[:2].tolist()
        return class_counts.micro(hits, hits + misses) if hits + misses else {}

    @property
    def bins(self) -> Floats:
        """(3, `BINS`) by confidence: how many pairs, how many hits, and the sum of confidences."""
        found: Floats = self._bins.cpu().numpy()
        return found.astype(np.float64)
