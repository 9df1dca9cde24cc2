"""What a model answers while it is trained, as events on the topic: a worker watches them as it does those of production."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import uuid4

import numpy as np
import torch
from torch import nn

from ..core.events import Environment, Prediction, Scalar
from ..core.wire import encode
from ..producers.delivery import Deferred
from ..producers.publisher import Publisher
from .answers import Reader
from .batch import attribute_of
from .loop import Loop, logits_of
from .monitor import BaseMonitor
from .parts import COLUMNS, Part, parts
from .segments import MOST, TRAINING, Segment, Segments

ENVIRONMENT: Final[Environment] = "training"
_CLASSES: Final = 100  # with more no scores are published: chosen
_EVENT_BYTES: Final = 500  # about what an event takes as JSON


class TrainingEvents(BaseMonitor):
    """Publishes predictions with labels of some batches, with `environment="training"`.

    Parameters
    ----------
    publisher
        Where to; its model and version are those of the events. Who made it closes it.
    every
        One batch in so many is published, of each data set.
    data
        Names of the data sets that are: `train`, and those of `validate`. Errors fall while a model learns, so set `drift.learning` for it in
        the worker.
    features
        Names of the columns of inputs; None for `x0`, `x1`, ... Inputs that are no rows of at most 64 numbers are `input_mean` and
        `input_rms`.
    classes
        Names of the classes; None for their numbers.
    segments
        As of `BiasMonitor`; the data set is the segment `data`.
    numbers
        More features by name, each a function that gives a number or None for each batch:
        `{"gradient_norm": lambda: gradients.history[-1][1]}`.
    loss
        Whether the loss of a row is a feature: log loss, or the squared error.
    scores
        Whether the probabilities of classes go with them. Both are off, as they move while a model learns, and to a worker that is drift.
    inputs
        How inputs are found in a batch, see `parts`.

    Attributes
    ----------
    run
        Names this run, in the ids of its events: `run:data:batch of the run:sample`, with the row in place of a sample that is not known.

    Raises
    ------
    ValueError
        `every` is below 1.

    Notes
    -----
    The loop copies what was computed and goes on; the publisher's thread waits for the device and encodes. While the broker is away events wait there, and
    are dropped once there are too many.
    """

    def __init__(
        self,
        publisher: Publisher,
        *,
        every: int = 10,
        data: Collection[str] = (TRAINING,),
        features: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        segments: Mapping[str, Segment] | None = None,
        numbers: Mapping[str, Callable[[], float | None]] | None = None,
        loss: bool = False,
        scores: bool = False,
        inputs: Part = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be 1 batch or more, got {every}")
        self.every = every
        self.run = uuid4().hex[:12]
        self._publisher = publisher
        self._data = {data} if isinstance(data, str) else set(data)
        self._features = None if features is None else list(features)
        self._classes = None if classes is None else list(classes)
        self._segments = [Segments(name, of) for name, of in (segments or {}).items()]
        self._numbers = dict(numbers or {})
        self._with_loss, self._with_scores = loss, scores
        self._inputs = inputs
        self._loop, self._reader = Loop(), Reader()
        self._seen: dict[str, int] = {}

    def initialize(
        self, model: nn.Module, dataloader: Iterable[Any], criterion: Callable[..., Any] | None
    ) -> None:
        """Begin a run."""
        del model, dataloader
        self.run = uuid4().hex[:12]
        self.close()
        self._loop, self._reader, self._seen = Loop(), Reader(criterion), {}

    def close(self) -> None:
        """Remove the hook on the criterion; the publisher is whoever's it is."""
        self._reader.close()

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Publish a batch, if it is its turn."""
        self._take(outputs, batch, TRAINING)
        self._loop.end_batch(batch)

    def on_validation_batch_end(self, outputs: Any, batch: Any, name: str = "val") -> None:
        """Publish a batch of another data set, if it is its turn."""
        self._take(outputs, batch, name)

    def on_epoch_end(self, epoch: int) -> None:
        """Count the epoch."""
        self._loop.end_epoch(epoch)

    def _take(self, outputs: Any, batch: Any, data: str) -> None:
        count = self._seen[data] = self._seen.get(data, -1) + 1
        if data not in self._data or count % self.every:
            return
        with torch.no_grad():
            answers = self._reader.read(outputs, batch)
            if answers is None:
                raise ValueError(
                    f"found no labels that fit the outputs in a batch, a {type(batch).__name__}: expected logits and classes, or "
                    "numbers and numbers"
                )
            places = len(answers.loss) if answers.classes else answers.scores.numel()
            if places != answers.rows:
                raise ValueError(
                    f"found {places} answers in a batch of {answers.rows} rows, expected one each: models of pixels and "
                    "of tokens are not published"
                )
            inputs, _ = parts(batch, self._inputs)
            targets = (
                None if answers.classes else self._reader.targets.of(batch, logits_of(outputs))
            )
            numbers = {name: number for name, of in self._numbers.items() if (number := of()) is not None}  # fmt: skip
            codes = {segment.name: segment.codes(batch, data) for segment in self._segments}
            tensors = _Tensors(
                answers.scores if answers.classes else answers.scores.clone(), answers.predicted, answers.labels, answers.loss,
                *_described(inputs), None if targets is None else targets.detach().clone(), codes,
            )  # fmt: skip
        samples = attribute_of(batch, "samples")
        is_known = isinstance(samples, np.ndarray) and len(samples) == answers.rows
        rows = samples if is_known else np.arange(answers.rows)
        names = [f"{self.run}:{data}:{count}:{row}" for row in rows]
        sent = _Sent(
            names, data, answers.classes, tensors, numbers, datetime.now(UTC), _event(answers.loss)
        )
        self._publisher.defer(
            Deferred(_EVENT_BYTES * len(names), len(names), lambda: self._encoded(sent))
        )

    def _encoded(self, sent: _Sent) -> Iterator[bytes]:
        """Yield the events of a batch; in the publisher's thread."""
        if sent.copied is not None:
            sent.copied.synchronize()
        publisher, columns = self._publisher, _Columns(self, sent)
        for k, name in enumerate(sent.names):
            if publisher.is_left_out(name):
                continue
            segments = {"data": sent.data, **columns.segments(k)}
            event = Prediction(
                prediction_id=name, model=publisher.model, version=publisher.version, time=sent.time,
                features=columns.features(k), prediction=columns.said[k], scores=columns.scores(k),
                label=columns.true[k], segments=segments, environment=ENVIRONMENT,
                sample_rate=publisher.sample_rate,
            )  # fmt: skip
            try:
                publisher.names.check(
                    name, event.model, event.version, ENVIRONMENT, None, event.segments
                )
            except (TypeError, ValueError) as error:  # of this row alone
                publisher.failed(error)
                continue
            yield encode(event)


class _Tensors(NamedTuple):
    """What was computed, still on its device."""

    scores: torch.Tensor
    predicted: torch.Tensor
    labels: torch.Tensor
    loss: torch.Tensor
    inputs: torch.Tensor | None
    is_table: bool
    targets: torch.Tensor | None
    segments: dict[str, torch.Tensor | None]


class _Sent(NamedTuple):
    """A batch on its way."""

    names: list[str]
    data: str
    classes: int
    tensors: _Tensors
    numbers: dict[str, float]
    time: datetime
    copied: Any


class _Columns:
    """The fields of the events of a batch, read from the device."""

    def __init__(self, of: TrainingEvents, sent: _Sent) -> None:
        tensors = sent.tensors
        self._numbers: dict[str, Scalar] = {
            name: _plain(float(number)) for name, number in sent.numbers.items()
        }
        self._loss = tensors.loss.tolist() if of._with_loss else None
        self._inputs = [] if tensors.inputs is None else tensors.inputs.float().cpu().tolist()
        width = len(self._inputs[0]) if self._inputs else 0
        self._names = ["input_mean", "input_rms"]
        if tensors.is_table:
            self._names = of._features or [f"x{k}" for k in range(width)]
        if self._inputs and len(self._names) != width:
            raise ValueError(f"inputs have {width} columns, features names {len(self._names)}")
        self._segments = [
            (segment, codes.tolist())
            for segment in of._segments
            if (codes := tensors.segments[segment.name]) is not None
        ]
        self._scores: list[list[float]] = []
        self.said: list[Any]
        self.true: list[Any]
        classes = sent.classes
        self._classes = of._classes or [str(k) for k in range(classes)]
        if classes:
            if len(self._classes) != classes:
                raise ValueError(
                    f"the model gives {classes} scores, classes names {len(self._classes)}"
                )
            self.said = [self._classes[k] for k in tensors.predicted.tolist()]
            self.true = [self._classes[k] if k >= 0 else None for k in tensors.labels.tolist()]
            if of._with_scores and classes <= _CLASSES:
                self._scores = tensors.scores.exp().cpu().tolist()
        else:
            assert tensors.targets is not None
            self.said = _numbers(tensors.scores)
            self.true = _numbers(tensors.targets)

    def features(self, k: int) -> dict[str, Scalar]:
        """Return those of row k."""
        found: dict[str, Scalar] = dict(self._numbers)
        if self._loss is not None:
            found["loss"] = _plain(self._loss[k])
        if self._inputs:
            found |= {name: _plain(x) for name, x in zip(self._names, self._inputs[k], strict=True)}
        return found

    def scores(self, k: int) -> dict[str, float] | None:
        """Return those of row k; None where they are too many, or no numbers."""
        row = self._scores[k] if self._scores else []
        if not row or not np.isfinite(row).all():
            return None
        return dict(zip(self._classes, row, strict=True))

    def segments(self, k: int) -> dict[str, str]:
        """Return those of row k that are known."""
        return {
            segment.name: segment.groups[codes[k]]
            for segment, codes in self._segments
            if codes[k] < MOST
        }


def _described(inputs: torch.Tensor | None) -> tuple[torch.Tensor | None, bool]:
    """Return a copy of inputs that are a table, else (n, 2) means and root mean squares, none of text; and whether they are a table."""
    if inputs is None or not (inputs.is_floating_point() or inputs.dtype == torch.uint8):
        return None, False
    if inputs.ndim == 2 and inputs.shape[1] <= COLUMNS:
        return inputs.detach().clone(), True
    flat = inputs.detach().reshape(len(inputs), -1).float()
    return torch.stack([flat.mean(1), flat.square().mean(1).sqrt()], 1), False


def _event(tensor: torch.Tensor) -> Any:
    """Return what the publisher's thread waits for; None on a CPU."""
    if not tensor.is_cuda:
        return None
    return torch.cuda.current_stream(tensor.device).record_event()


def _plain(number: float) -> float | None:
    return number if np.isfinite(number) else None


def _numbers(tensor: torch.Tensor) -> list[float | None]:
    return [_plain(number) for number in tensor.float().reshape(-1).tolist()]
