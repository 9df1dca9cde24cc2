"""What an epoch's answers come to: counts that grow on the device and are read at its end."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from ..core.columns import Floats, Ints
from .answers import Answers

BINS: Final = 15
"""Of confidence; Guo, Pleiss, Sun and Weinberger 2017, section 4.1 (arXiv:1706.04599)."""


class Counts:
    """The confusion of a classifier, and its hits by confidence.

    Parameters
    ----------
    like
        The first answers: how many classes there are, and on which device.
    """

    def __init__(self, like: Answers) -> None:
        self._classes = like.classes
        device = like.predicted.device
        self._confusion = torch.zeros(like.classes**2 + 1, dtype=torch.int64, device=device)
        self._bins = torch.zeros(3, BINS, dtype=torch.float64, device=device)

    def add(self, answers: Answers) -> None:
        """Take answers in; those without a label count nowhere."""
        predicted, labels, confidence = answers.predicted, answers.labels, answers.confidence
        valid = labels >= 0
        cells = torch.where(valid, labels * self._classes + predicted, self._classes**2)
        self._confusion.scatter_add_(0, cells, torch.ones_like(cells))
        sure = confidence.nan_to_num(0.0)
        bins = (sure * BINS).long().clamp(0, BINS - 1)
        for row, values in enumerate((valid, valid & (predicted == labels), sure * valid)):
            self._bins[row].scatter_add_(0, bins, values.double())

    @property
    def confusion(self) -> Ints:
        """(classes, classes) pairs by label and prediction."""
        counts: Ints = self._confusion[:-1].cpu().numpy()
        return counts.reshape(self._classes, self._classes)

    @property
    def bins(self) -> Floats:
        """(3, `BINS`) by confidence: how many pairs, how many hits, and the sum of confidences."""
        found: Floats = self._bins.cpu().numpy()
        return found.astype(np.float64)
