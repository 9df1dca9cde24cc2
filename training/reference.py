"""The bridge to serving: at the end of training, the file that workers compare what is served with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..consumers.model_settings import ModelSettings
from ..consumers.training_reference import FEWEST
from ..core.batch import EventBatch, Origin
from ..core.errors import ConfigError
from ..core.events import Prediction
from .held_out import EventFields, Features, Forward, Segments, tell
from .loop import logits_of
from .monitor import BaseMonitor
from .targets import Targets
from .weights import weights_sha256

if TYPE_CHECKING:
    from ..consumers.reference_writer import Written


_log = logging.getLogger(__name__)


class Options(TypedDict, total=False):
    """What `ReferenceMonitor` can be told; see there."""

    features: Features
    classes: Sequence[str] | None
    segments: Segments
    embedding: str | None
    version: str | None
    forward: Forward
    settings: ModelSettings | None
    trained_on: Iterable[Any] | None


class _Told(NamedTuple):
    features: Features = None
    classes: Sequence[str] | None = None
    segments: Segments = None
    embedding: str | None = None
    version: str | None = None
    forward: Forward = None
    settings: ModelSettings | None = None
    trained_on: Iterable[Any] | None = None

    @property
    def of(self) -> ModelSettings:
        return self.settings or ModelSettings()

    @property
    def fields(self) -> EventFields:
        of = {name: getattr(self, name) for name in EventFields._fields if name in self._fields}
        return EventFields(**of, is_regression=self.of.is_regression)


class ReferenceMonitor(BaseMonitor):
    """Knows the model that is trained, and writes what it says of held-out data: the reference of serving.

    Parameters
    ----------
    dataloader
        **Held-out data: rows that the model was not fitted on.** Of rows that it was, scores are too sure and errors too few, so that
        all that is served would seem worse. 1,000 rows or more, with labels; 10,000 are better.
    features
        What the server will send as features: names of the columns of (n, d) inputs, or a function of a batch that gives a mapping for
        each row. They must be in the server's units: where inputs are scaled before they come into the loader, give a function.
    classes
        Names of the classes, as `producers.watch` takes them; 0, 1, 2, ... where not given.
    segments
        A function of a batch that gives a mapping of names to values for each row.
    embedding
        Name of the layer whose output the server sends as the embedding, as `producers.watch` takes it.
    version
        Of the model, as its events will have it. Embeddings and logits are compared with events of this version only.
    forward
        `forward(model, batch)` gives the outputs, where the model takes other arguments than the inputs of a batch.
    settings
        The model's, where the worker has others than the defaults: `load(Path("tocsin.yaml")).of("fraud")` of
        `tocsin.consumers.settings`.
    trained_on
        The data that the model was fitted on, in batches as of `dataloader`: by its fingerprints the worker tells rows of training that
        are served. Who holds the file can test by them whether a row was trained on. Data that is augmented is of no use here.

    Examples
    --------
    >>> import tempfile, torch
    >>> from tocsin.training import ReferenceMonitor
    >>> model, inputs = torch.nn.Linear(2, 2), torch.eye(2).repeat(1000, 1)
    >>> held_out = [(inputs, inputs[:, 0].long())]
    >>> monitor = ReferenceMonitor(held_out, features=["x", "y"], version="7")
    >>> monitor.initialize(model, [], torch.nn.CrossEntropyLoss())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = monitor.reference(f"{folder}/model.npz")
    ...     print(*str(written).splitlines()[1:2])
      error, feature:x, feature:y, label, prediction, score
    """

    def __init__(self, dataloader: Iterable[Any] | None = None, **options: Unpack[Options]) -> None:
        self._held_out = dataloader
        self._told = _Told(**options)
        self._model: nn.Module | None = None
        self._training: Any = None
        self._criterion: Callable[..., Any] | None = None
        self._targets = Targets()

    def initialize(
        self, model: nn.Module, dataloader: Iterable[Any], criterion: Callable[..., Any] | None
    ) -> None:
        """Begin: remember the model. Held-out data of too few rows is said now in the log, and not only after the training."""
        if criterion is not self._criterion:
            self._targets.close()
            self._targets = Targets(criterion)
        self._model, self._training, self._criterion = model, dataloader, criterion
        rows = _rows_of(self._held_out)
        if rows is not None and rows < FEWEST:
            _log.warning(
                "found %d rows of held-out data; expected %d or more for a reference, and 10,000 are better",
                rows,
                FEWEST,
            )

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Learn which part of a batch the targets are."""
        self._targets.of(batch, logits_of(outputs))

    def close(self) -> None:
        """Remove the hook on the criterion."""
        self._targets.close()

    def reference(
        self,
        path: str | Path = "reference.npz",
        dataloader: Iterable[Any] | None = None,
        **options: Unpack[Options],
    ) -> Written:
        """Write the reference of the model as it is now: to be called at the end of training.

        Parameters
        ----------
        path
            Where to; ends in .npz. A worker reads it where its settings name it as `drift.reference`.
        dataloader
            Held-out data, where it is other than that of the constructor.
        **options
            As of the constructor; they replace those.

        Returns
        -------
        Written
            What was written; its text says it.

        Raises
        ------
        ConfigError
            There is no model yet or no held-out data, it is the data of training, its rows are too few, or outputs are of another
            shape than is expected; nothing is written then.

        Notes
        -----
        The model runs in evaluation mode, without gradients. Its modes, buffers, gradients and all random states are as before.
        """
        from ..consumers.reference_writer import ReferenceWriter, check_name

        out, told = Path(path), self._told._replace(**options)
        check_name(out)
        model, held_out = self._checked(dataloader)
        writer = ReferenceWriter(told.of, weights_sha256(model))

        def take(into: Callable[[EventBatch], None]) -> Callable[[list[Prediction]], None]:
            def add(events: list[Prediction]) -> None:
                pairs = [(Origin(i, 0, 0), event) for i, event in enumerate(events)]
                for batch in EventBatch.of("", pairs):
                    into(batch)

            return add

        left_out = tell(
            model, held_out, self._criterion, told.fields, take(writer.add), self._targets
        )
        if told.trained_on is not None:
            tell(
                model,
                told.trained_on,
                self._criterion,
                told.fields,
                take(writer.add_trained),
                self._targets,
            )
        if not writer.rows and left_out:
            raise ConfigError(
                f"what the model says of all {left_out:,} held-out rows is not finite, so there is no reference of it: expected a model "
                "whose weights are finite, as that of the last checkpoint before it broke"
            )
        if not writer.rows:
            raise ConfigError(
                "the held-out data gave no rows; expected batches, 1,000 rows or more"
            )
        written = writer.write(out)
        if left_out:
            written.why_not.append(
                f"{left_out:,} rows are left out: what the model says of them is not finite"
            )
        return written

    def _checked(self, dataloader: Iterable[Any] | None) -> tuple[nn.Module, Iterable[Any]]:
        held_out = self._held_out if dataloader is None else dataloader
        if self._model is None:
            raise ConfigError("found no model; expected initialize(model, ...) before reference()")
        if held_out is None:
            raise ConfigError(
                "found no held-out data; give reference(path, dataloader=...) rows that the model was not trained on"
            )
        is_rows = isinstance(held_out, Dataset) and not isinstance(held_out, IterableDataset)
        if is_rows or isinstance(held_out, torch.Tensor):
            raise ConfigError(
                f"found a {type(held_out).__name__} as held-out data; expected batches of inputs and labels: give DataLoader(data, batch_size=256)"
            )
        data, training = (getattr(of, "dataset", of) for of in (held_out, self._training))
        if data is training:
            raise ConfigError(
                "found the data of training as held-out data; expected rows that the model was not trained on: of others its "
                "scores are too sure and its errors too few"
            )
        return self._model, held_out


def _rows_of(data: Any) -> int | None:
    """Return how many rows a loader of a map data set draws; None where that is not known."""
    if not isinstance(data, DataLoader) or data.batch_sampler is None:
        return None
    if isinstance(data.dataset, IterableDataset) or not hasattr(data.sampler, "__len__"):
        return None
    sampler: Any = data.sampler
    return len(sampler)
