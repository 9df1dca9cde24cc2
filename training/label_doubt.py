"""How much a model is surprised by the label of each sample, and which labels are more likely wrong than right."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import torch

from ..core.columns import Floats, Ints
from .finding import LABEL, Finding
from .loop import logits_of

_PENDING: Final = 64  # batches, read in one go; chosen
_LEAST: Final = 2  # samples of a class, whose usual probability is then known; chosen
_EVEN: Final = 0.5
"""A model that gives no class so much does not know what the label should be."""
_SHARE: Final = 0.03
"""Of the labels, below which nothing is said (chosen): hard samples with right labels are up to 2 %, of digits and MNIST with four kinds of nets after three
epochs."""


class _Outputs(NamedTuple):
    """Of n samples, still on their device."""

    samples: Ints
    loss: torch.Tensor
    other: torch.Tensor
    other_loss: torch.Tensor
    labels: torch.Tensor


class LabelDoubt:
    """Averages, over the times that a sample came, of what a model made of its label.

    Notes
    -----
    A wrong label is learnt late: its loss stays high while those of right ones fall, until the model knows it by heart; so the
    average over epochs tells them apart, where the last epoch's does not (Arpit et al. 2017, "A closer look at
    memorization in deep networks", section 3; Pleiss et al. 2020, "Identifying mislabeled data using the area under
    the margin ranking", which averages margins). 40 bytes a sample.
    """

    def __init__(self) -> None:
        self._loss = np.zeros(0)
        self._count = np.zeros(0)
        self._other = np.zeros(0, np.int64)
        self._other_loss = np.zeros(0)
        self._label = np.zeros(0, np.int64)
        self._pending: list[_Outputs] = []

    def take(self, outputs: Any, labels: torch.Tensor, samples: Ints) -> None:
        """Take what a model gave for n samples: (n, k) logits."""
        logits = logits_of(outputs)
        found = None if logits is None else tuple(logits.shape)
        if (
            logits is None
            or logits.ndim != 2
            or logits.shape[1] < 2
            or not len(logits) == len(labels) == len(samples)
        ):
            raise ValueError(
                f"expected (n, k) logits of {len(samples)} samples and a label for each, got {found} and "
                f"{len(labels)} labels"
            )
        with torch.no_grad():
            score = torch.log_softmax(logits.detach().float(), 1)
            y = labels.to(score.device).long()[:, None]
            is_class = (y >= 0) & (y < score.shape[1])
            y = torch.where(is_class, y, 0)
            # A label that is none, as -100, says nothing.
            loss = -torch.where(is_class, score.gather(1, y), torch.nan)[:, 0]
            best, other = score.scatter(1, y, -torch.inf).max(1)
        self._pending.append(_Outputs(samples, loss, other, -best, labels))
        if len(self._pending) >= _PENDING and logits.device.type == "cpu":
            self._flush()

    def suspicion(self, rows: int) -> Floats:
        """Return the (rows,) mean loss of each sample in nats, NaN of those that have not come."""
        self._flush()
        found = np.full(rows, np.nan)
        seen = np.flatnonzero(self._count[:rows])
        found[seen] = self._loss[seen] / self._count[seen]
        return found

    def findings(self) -> list[Finding]:
        """Return the samples whose label is less likely than another one, if these are 3 % or more of those that have come.

        The other one is more likely than not, and as likely as in samples that have it; and of the samples of which the model is so sure
        it agrees with most, else it has learnt nothing yet. Hard samples with right labels are
        among them, so that fewer say nothing of a data set; `suspicion` ranks these too.

        References
        ----------
        Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in dataset labels",
        doi:10.1613/jair.1.12125, equations 1 and 2; here of the model that is being trained, with probabilities of
        the mean loss, and of the other class that came last.
        """
        self._flush()
        seen = np.flatnonzero(self._count)
        if not len(seen):
            return []
        label, other = self._label[seen], self._other[seen]
        own = np.exp(-self._loss[seen] / self._count[seen])
        theirs = np.exp(-self._other_loss[seen] / self._count[seen])
        classes = int(max(label.max(), other.max())) + 1
        members = np.bincount(label, minlength=classes)
        usual = np.bincount(label, own, minlength=classes) / np.maximum(members, 1)
        usual[members < _LEAST] = np.inf
        sure = np.maximum(usual, _EVEN)
        doubtful = (theirs > own) & (theirs >= sure[other])
        agreed = (own > theirs) & (own >= sure[label])
        if doubtful.sum() > agreed.sum():
            return []  # a model that is mostly wrong where it is sure has not learnt the labels yet
        if doubtful.sum() < _SHARE * len(seen):
            return []
        text = f"{doubtful.sum():,} of {len(seen):,} labels are less likely than another one, given what the model has learnt"
        return [Finding(LABEL, text, seen[doubtful])]

    def _flush(self) -> None:
        for one in self._pending:
            more = int(one.samples.max(initial=-1)) + 1 - len(self._count)
            if more > 0:
                more = max(more, len(self._count), 1024)
                for name in ("_loss", "_count", "_other", "_other_loss", "_label"):
                    old = getattr(self, name)
                    setattr(self, name, np.concatenate([old, np.zeros(more, old.dtype)]))
            loss, other_loss = (
                t.cpu().numpy().astype(np.float64) for t in (one.loss, one.other_loss)
            )
            # What is not finite says nothing of the label.
            fine = np.isfinite(loss) & np.isfinite(other_loss) & (one.samples >= 0)
            at = one.samples[fine]
            np.add.at(self._loss, at, loss[fine])
            np.add.at(self._other_loss, at, other_loss[fine])
            np.add.at(self._count, at, 1.0)
            self._other[at] = one.other.cpu().numpy()[fine]
            self._label[at] = one.labels.cpu().numpy()[fine]
        self._pending = []
