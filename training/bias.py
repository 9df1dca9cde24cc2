"""The monitor of bias: gaps between segments, between data sets, and between training and what it is validated on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from ..core.alert import Kind
from ..core.columns import Ints
from ..core.verdict import Verdict
from ..detectors.first_claims import FirstClaims, LastingClaims
from ..detectors.gaps import compared
from ..detectors.group_rates import METRICS, Difference, Group, differences, mean_and_error
from ..detectors.looks import Looks
from ..detectors.overfitting import MeanLoss, Overfitting
from .alerts import TrainingAlerts, begun
from .answers import Answers, Reader
from .loop import Loop, Place
from .monitor import BaseMonitor
from .segments import MOST, TRAINING, Segment, Segments

NAME: Final = "group_gaps"
_DATA: Final = "data"  # the segment of data sets
_REST: Final = "rest"
_IN_A_ROW: Final = 2
"""Epochs of a gap before it is claimed; chosen: a model that has hardly begun to learn has gaps that are none after one more."""


class BiasMonitor(BaseMonitor):
    """Compares how a model does for groups of rows, and on data sets.

    Parameters
    ----------
    segments
        By name how the group of each row is found: a function of the batch or a key of it, which gives (n,) values, or (samples,) values by the
        index of the sample, which batches of a `WatchedLoader` know; or a mapping of such by data set, `{"train": a, "val": b}`.
    metrics
        What is compared, some of `accuracy`, `recall` and `precision` of each class, `positive_rate`, the share of each class among
        predictions, and `loss`, log loss. Of a regression it is the squared error, whatever is given.
    tolerance
        A gap of rates of less is not claimed, nor one of losses of less than that share of the smaller, nor a rise of the validation loss of
        less than that share of the best epoch's.
    alpha
        The chance that a run has any false claim, all epochs, data sets and pairs together.
    every
        One batch of training in so many is counted; of validation all are.
    alerts
        Where claims go; `Monitors` gives its own.

    Attributes
    ----------
    history
        Of each epoch a dictionary: `epoch`, and of training, and with `val_` before the metric of the data set `val`, the values of groups as
        `accuracy:sex=1` and their gaps as `gap:val_recall:1:sex=1|2`; of data sets `gap:accuracy:data=train|val`.

    Raises
    ------
    ValueError
        `every` is below 1, `tolerance` not within (0, 1], `alpha` not within (0, 1), or a metric is not known.

    Notes
    -----
    Of two or three groups each two are compared, in the order of their names, of more each with all others. Each look, at the groups of one segment in one data set after one
    epoch, has its share of `alpha` (`detectors/looks.py`), and that is shared among pairs and metrics. A gap is claimed in the second epoch in a
    row, and once while it lasts.
    Data sets of `validate` are compared with each other, so one of what production gave, or of another environment, is named and
    compared like any other. Training is compared with each of them by the loss (`detectors/overfitting.py`): rates of training are of
    a model that changes meanwhile, with dropout and augmentation, so gaps to these are in the history and not claimed.
    """

    def __init__(
        self,
        segments: Mapping[str, Segment] | None = None,
        *,
        metrics: Sequence[str] = ("accuracy", "recall"),
        tolerance: float = 0.1,
        alpha: float = 0.001,
        every: int = 1,
        alerts: TrainingAlerts | None = None,
    ) -> None:
        if every < 1 or not 0 < tolerance <= 1:
            raise ValueError(
                f"every must be 1 batch or more and tolerance within (0, 1], got {every} and {tolerance}"
            )
        unknown = [name for name in metrics if name not in METRICS]
        if unknown:
            raise ValueError(f"no metrics {unknown}; there are {', '.join(METRICS)}")
        self.segments = dict(segments or {})
        self.metrics = tuple(metrics)
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
        self._gaps = LastingClaims(_IN_A_ROW)
        self._overfits = FirstClaims()
        self._overfitting: dict[str, Overfitting] = {}
        self._segments = [Segments(name, of) for name, of in self.segments.items()]
        self._counts: dict[str, dict[str, _Counts]] = {}

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
            self.on_validation_batch_end(outputs, batch, TRAINING)

    def on_validation_batch_end(self, outputs: Any, batch: Any, name: str = "val") -> None:
        """Count a batch of another data set, on the device."""
        with torch.no_grad():
            answers = self._reader.read(outputs, batch)
            if answers is None:
                return
            counts = self._counts.setdefault(name, {})
            if "" not in counts:
                counts[""] = _Counts(answers, 1)
            counts[""].add(answers, None)
            for segment in self._segments:
                codes = segment.codes(batch, name)
                if codes is not None:
                    if segment.name not in counts:
                        counts[segment.name] = _Counts(answers, MOST + 1)
                    counts[segment.name].add(answers, codes)

    def on_epoch_end(self, epoch: int) -> None:
        """Read the epoch's counts, and compare groups and data sets."""
        place = self._loop.last_of(epoch)
        row: dict[str, float] = {"epoch": float(epoch)}
        whole: dict[str, Group] = {}
        for data, counts in self._counts.items():
            whole[data] = counts[""].groups()[0]
            for segment in self._segments:
                if segment.name in counts:
                    groups = counts[segment.name].groups()
                    known = dict(sorted(zip(segment.groups, groups, strict=False)))
                    self._compare(place, row, known, segment.name, data)
        others = {data: group for data, group in whole.items() if data != TRAINING}
        self._compare(place, row, others, _DATA, TRAINING)
        if TRAINING in whole:
            for data, group in others.items():
                self._beside(place, row, data, whole[TRAINING], group)
        self.history.append(row)
        self._loop.end_epoch(epoch)
        self._counts = {}
        if self.alerts is not None:
            self.alerts.end_batch(place)

    def _compare(
        self, place: Place, row: dict[str, float], groups: dict[str, Group], segment: str, data: str
    ) -> None:
        """Compare the groups that have rows, and claim gaps."""
        there = {name: group for name, group in groups.items() if group.rows}
        prefix = "" if data == TRAINING else f"{data}_"
        for name, group in there.items() if segment != _DATA else ():
            values = _values(group)
            row |= {f"{prefix}{metric}:{segment}={name}": value for metric, value in values.items()}
        sides = compared(list(there))
        if not sides:
            return
        together = _sum(list(there.values()))
        pairs = [(there[a], together.minus(there[a]) if b is None else there[b]) for a, b in sides]
        found = differences(pairs, self.metrics, self._looks.next())
        named = {
            f"gap:{prefix}{one.metric}:{segment}={a}|{b or _REST}": one
            for (a, b), of in zip(sides, found, strict=True)
            for one in of
        }
        row |= {subject: one.gap.value for subject, one in named.items()}
        # By metric, the widest first: it opens the incident, and a group that is unlike the others makes gaps of theirs to the rest.
        order = {name: k for k, name in enumerate(self.metrics)}
        for subject, one in sorted(
            named.items(),
            key=lambda item: (order.get(item[1].metric.split(":")[0], 0), -abs(item[1].gap.value)),
        ):
            self._judge(place, subject, one)

    def _judge(self, place: Place, subject: str, one: Difference) -> None:
        least = self.tolerance * (min(one.values) if one.metric == "loss" else 1.0)
        size = one.gap.value
        is_apart = one.is_sure and abs(size) >= least
        if not self._gaps.is_first(subject, is_apart, place.epoch):
            return
        verdict = Verdict(
            detector=NAME, subject=subject, offset=place.step, row=0, statistic=abs(size), threshold=least,
            unit="gap of two groups", change=f"gap {'up' if size > 0 else 'down'}", size=size,
            evidence=f"gap {size:+.3f} ({one.gap.low:+.3f} to {one.gap.high:+.3f}), {one.values[0]:.3f} against "
            f"{one.values[1]:.3f} over {one.rows[0]} and {one.rows[1]} rows",
        )  # fmt: skip
        self._claim(verdict, place, "bias")

    def _beside(
        self, place: Place, row: dict[str, float], data: str, trained: Group, other: Group
    ) -> None:
        """Compare training with another data set, and claim that the model overfits."""
        ours, theirs = _values(trained), _values(other)
        for name in ours.keys() & theirs.keys():
            row[f"gap:{name}:{_DATA}={TRAINING}|{data}"] = ours[name] - theirs[name]
        (mean, error), (level, _) = mean_and_error(other.loss), mean_and_error(trained.loss)
        if not error >= 0:
            return
        rule = self._overfitting.setdefault(data, Overfitting(self.tolerance))
        verdict = rule.update(
            place.epoch, level, MeanLoss(mean, error, other.rows), self._looks.next(),
            step=place.step, subject=f"{data}_loss",
        )  # fmt: skip
        if verdict and self._overfits.is_first(verdict.subject, place.epoch, 1):
            self._claim(verdict, place, "training")

    def _claim(self, verdict: Verdict, place: Place, kind: Kind) -> None:
        if self.alerts is not None:
            what = verdict.subject.removeprefix("gap:").replace(":", " of ", 1)
            if kind == "training":
                what = f"overfitting, {verdict.subject}"
            self.alerts.claim(verdict, f"{what}: {verdict.evidence}", place, kind=kind)


class _Counts:
    """Counts of groups of rows, on the device."""

    def __init__(self, like: Answers, groups: int) -> None:
        device = like.loss.device
        self._classes = like.classes
        size = groups * 3 * like.classes
        self._by_class = torch.zeros(size + 1, dtype=torch.int64, device=device)
        self._loss = torch.zeros(groups, 3, dtype=torch.float64, device=device)

    def add(self, answers: Answers, codes: torch.Tensor | None) -> None:
        """Take answers in, of rows whose groups are `codes`."""
        loss, labels, predicted = answers.loss, answers.labels, answers.predicted
        if codes is None:
            group = torch.zeros(len(loss), dtype=torch.int64, device=loss.device)
        elif len(codes) != answers.rows:
            raise ValueError(
                f"found {len(codes)} values of a segment in a batch of {answers.rows} rows, expected one for each row"
            )
        else:
            group = codes.to(loss.device).repeat_interleave(len(loss) // answers.rows)
        known = loss.isfinite()
        if answers.classes:
            last = len(self._by_class) - 1
            of = group * 3 * answers.classes
            hit = torch.where(known & (labels == predicted), of + labels, last)
            true = torch.where(known, of + answers.classes + labels, last)
            said = torch.where(known, of + 2 * answers.classes + predicted, last)
            cells = torch.cat([hit, true, said])
            self._by_class.scatter_add_(0, cells, torch.ones_like(cells))
        value = torch.where(known, loss, 0.0).double()
        self._loss.index_add_(0, group, torch.stack([known.double(), value, value.square()], 1))

    def groups(self) -> list[Group]:
        """Return what was counted, group by group."""
        by_class: Ints = self._by_class[:-1].cpu().numpy()
        loss = self._loss.cpu().numpy()
        tables = by_class.reshape(len(loss), 3, self._classes)
        return [Group(table, sums) for table, sums in zip(tables, loss, strict=True)]


def _sum(groups: list[Group]) -> Group:
    return Group(
        np.sum([one.by_class for one in groups], axis=0), np.sum([one.loss for one in groups], axis=0)
    )  # fmt: skip


def _values(group: Group) -> dict[str, float]:
    """Return the accuracy, where there are classes, and the mean loss."""
    found = {"loss": mean_and_error(group.loss)[0]}
    labels = group.by_class[1].sum()
    return {"accuracy": float(group.by_class[0].sum() / labels), **found} if labels else found
