"""What a model says of rows that it was not fitted on, as the events that its server would send of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import nn

from ..core.errors import ConfigError
from ..core.events import Prediction, Scalar
from .criterion import is_of_two, takes_probabilities
from .layers import bare
from .loop import logits_of
from .parts import LABELS, only_inputs, parts
from .targets import Targets
from .untouched import untouched

Features = Sequence[str] | Callable[[Any], Sequence[Mapping[str, Scalar]]] | None
Segments = Callable[[Any], Sequence[Mapping[str, str]]] | None
Forward = Callable[[nn.Module, Any], Any] | None


class EventFields(NamedTuple):
    """How rows become events.

    Parameters
    ----------
    features
        Names of the columns of (n, d) inputs, or a function of a batch that gives each row's; none where None.
    classes
        Their names; 0, 1, 2, ... where None.
    segments
        A function of a batch that gives each row's; none where None.
    embedding
        Name of the layer whose output is the embedding, flattened; none where None.
    version
        Of the model, as its events will have it.
    forward
        Calls the model on a batch whose tensors are where it is; None for the batch's inputs as its only argument, and of a
        dictionary with several entries beside labels all of these by name.
    is_regression
        Whether it answers numbers; None where labels decide.
    """

    features: Features = None
    classes: Sequence[str] | None = None
    segments: Segments = None
    embedding: str | None = None
    version: str | None = None
    forward: Forward = None
    is_regression: bool | None = None


def tell(
    model: nn.Module,
    data: Iterable[Any],
    criterion: Callable[..., Any] | None,
    fields: EventFields,
    take: Callable[[list[Prediction]], None],
    targets: Targets | None = None,
) -> int:
    """Run a model over data in evaluation mode, and give the events of each batch to `take`.

    Parameters
    ----------
    model
        Which one; compiled or on several devices, the module itself is run.
    data
        Batches, as the training loop gets them.
    criterion
        The loss; tells whether a single output is a number, or about two classes.
    fields
        How rows become events.
    take
        Is given the events of a batch.
    targets
        Which part of a batch they are, where that is known.

    Returns
    -------
    int
        How many rows were left out, since what the model says of them is not finite.

    Raises
    ------
    ConfigError
        The outputs, or names and rows of features, are of another shape than is expected.

    Notes
    -----
    Guarantees: the modes of all modules, buffers, random states, those of the data's own generators too, and gradients are as before,
    also where an error is raised.
    """
    of = bare(model)
    told = _Told(of, criterion, fields, targets or Targets())
    device = next((t.device for t in (*of.parameters(), *of.buffers())), torch.device("cpu"))
    with untouched(of, data), told.watched():
        for batch in data:
            take(told.events(_moved(batch, device)))
    return told.left_out


class _Told:
    """Events of batches, numbered."""

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[..., Any] | None,
        fields: EventFields,
        targets: Targets,
    ) -> None:
        self._model = model
        self._of = fields
        self._targets = targets
        self._is_of_two = is_of_two(criterion)
        self._gives_probabilities = takes_probabilities(criterion)
        self._embedding: torch.Tensor | None = None
        self._rows = 0
        self.left_out = 0

    @contextmanager
    def watched(self) -> Generator[None]:
        """Keep what the layer of the embedding gives."""
        name = self._of.embedding
        if name is None:
            yield
            return
        layers = dict(self._model.named_modules())
        if name not in layers:
            raise ConfigError(
                f"embedding: found no layer {name!r}, expected one of {', '.join(filter(None, layers))}"
            )
        handle = layers[name].register_forward_hook(self._keep)
        try:
            yield
        finally:
            handle.remove()

    def _keep(self, _module: object, _inputs: object, output: Any) -> None:
        self._embedding = output

    def events(self, batch: Any) -> list[Prediction]:
        """Return the events of a batch, without rows whose outputs are not finite."""
        self._embedding = None
        outputs = self._forward(batch)
        logits = logits_of(outputs)
        if logits is None:
            raise ConfigError(
                f"found no tensor of logits in outputs of type {type(outputs).__name__}; give forward=, a function of model and batch"
            )
        targets = self._targets.of(batch, logits)
        logits = logits.float().cpu()
        if self._is_regression(logits, targets):
            rows = self._numbers(logits, targets)
        else:
            rows = self._classes(logits, targets)
        features, segments = self._features(batch, len(rows)), self._segments(batch, len(rows))
        hidden = self._hidden(len(rows))
        found: list[Prediction] = []
        for i, row in enumerate(rows):
            self._rows += 1
            if row is None or (hidden is not None and not all(map(isfinite, hidden[i]))):
                self.left_out += 1
                continue
            found.append(
                Prediction(
                    prediction_id=str(self._rows),
                    version=self._of.version,
                    features=features[i],
                    segments=segments[i],
                    embedding=None if hidden is None else hidden[i],
                    **row,
                )
            )
        return found

    def _forward(self, batch: Any) -> Any:
        if self._of.forward is not None:
            return self._of.forward(self._model, batch)
        if isinstance(batch, Mapping):
            named = {name: value for name, value in batch.items() if name not in LABELS}
            if len(named) > 1:
                return self._model(**named)
        inputs = only_inputs(batch)
        if inputs is None:
            raise ConfigError(
                f"found no inputs in a batch of type {type(batch).__name__}, or several; give forward=, a function of model and batch"
            )
        return self._model(inputs)

    def _is_regression(self, logits: torch.Tensor, targets: torch.Tensor | None) -> bool:
        if self._of.is_regression is not None:
            return self._of.is_regression
        is_one = logits.ndim == 1 or (logits.ndim == 2 and logits.shape[1] == 1)
        is_real = targets is not None and targets.is_floating_point()
        return is_one and is_real and not self._is_of_two

    def _numbers(
        self, outputs: torch.Tensor, targets: torch.Tensor | None
    ) -> list[dict[str, Any] | None]:
        said = _column(outputs, "outputs of a regression")
        labels = [None] * len(said) if targets is None else _column(targets.cpu(), "its targets")
        return [
            {"prediction": p, "label": y if y is not None and isfinite(y) else None}
            if isfinite(p)
            else None
            for p, y in zip(said, labels, strict=True)
        ]

    def _classes(
        self, logits: torch.Tensor, targets: torch.Tensor | None
    ) -> list[dict[str, Any] | None]:
        if logits.ndim == 2 and logits.shape[1] == 1:
            logits = logits.squeeze(1)
        if logits.ndim == 1 and self._gives_probabilities:
            scores = torch.stack([1 - logits, logits], dim=1)
            told: list[list[float]] | None = None
        else:
            if logits.ndim == 1:  # one logit stands for two classes, as in `producers.watch`
                logits = torch.stack([torch.zeros_like(logits), logits], dim=1)
            if logits.ndim != 2:
                raise ConfigError(
                    f"found outputs of shape {tuple(logits.shape)}, expected (n, classes) logits or one number a row; give "
                    "forward=, a function of model and batch that returns them"
                )
            scores, told = logits.softmax(1), logits.tolist()
        names = self._names(scores.shape[1])
        best, shares = scores.argmax(1).tolist(), scores.tolist()
        labels = self._labels(targets, len(shares), names)
        rows: list[dict[str, Any] | None] = []
        for i, share in enumerate(shares):
            row = share if told is None else told[i]
            if not all(map(isfinite, row)):
                rows.append(None)
                continue
            rows.append(
                {
                    "prediction": names[best[i]],
                    "scores": dict(zip(names, share, strict=True)),
                    "logits": None if told is None else told[i],
                    "label": labels[i],
                }
            )
        return rows

    def _names(self, classes: int) -> list[str]:
        names = self._of.classes
        if names is None:
            return [str(k) for k in range(classes)]
        if len(names) != classes:
            raise ConfigError(
                f"classes: found {len(names)} names, expected {classes}, one for each output"
            )
        return [str(name) for name in names]

    def _labels(
        self, targets: torch.Tensor | None, count: int, names: list[str]
    ) -> list[str | None]:
        if targets is None:
            return [None] * count
        numbers = targets.reshape(len(targets), -1).cpu()
        if numbers.shape != (count, 1):
            raise ConfigError(
                f"found targets of shape {tuple(targets.shape)}, expected a class for each of {count} rows"
            )
        found = numbers[:, 0].tolist()
        return [names[int(k)] if 0 <= k < len(names) and k == int(k) else None for k in found]

    def _features(self, batch: Any, count: int) -> list[dict[str, Scalar]]:
        of = self._of.features
        if of is None:
            return [{} for _ in range(count)]
        if callable(of):
            return [_plain(row) for row in _each(of(batch), count, "features")]
        inputs, _ = parts(batch)
        if inputs is None or inputs.shape != (count, len(of)):
            shape = "none" if inputs is None else f"of shape {tuple(inputs.shape)}"
            raise ConfigError(
                f"features: found inputs {shape}, expected ({count}, {len(of)}), a column for each name; give a function of the "
                "batch that returns a mapping for each row"
            )
        return [_plain(dict(zip(of, row, strict=True))) for row in inputs.cpu().tolist()]

    def _segments(self, batch: Any, count: int) -> Sequence[dict[str, str] | None]:
        of = self._of.segments
        if of is None:
            return [None] * count
        return [dict(row) for row in _each(of(batch), count, "segments")]

    def _hidden(self, count: int) -> list[list[float]] | None:
        if self._of.embedding is None:
            return None
        hidden = self._embedding
        if not isinstance(hidden, torch.Tensor) or len(hidden) != count:
            raise ConfigError(
                f"embedding: layer {self._of.embedding!r} gave a {type(hidden).__name__}, expected a tensor of {count} rows"
            )
        found: list[list[float]] = hidden.float().flatten(1).cpu().tolist()
        return found


def _column(values: torch.Tensor, what: str) -> list[float]:
    rows = values.reshape(len(values), -1)
    if rows.shape[1] != 1:
        raise ConfigError(f"found {what} of shape {tuple(values.shape)}, expected one number a row")
    found: list[float] = rows[:, 0].double().tolist()
    return found


def _each(rows: Any, count: int, what: str) -> Sequence[Mapping[str, Any]]:
    if len(rows) != count:
        raise ConfigError(
            f"{what}: found {len(rows)} rows, expected {count}, one for each of the batch"
        )
    return list(rows)


def _plain(row: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return features as they are sent: what is not finite is missing."""
    return {
        name: None if isinstance(value, float) and not isfinite(value) else value
        for name, value in row.items()
    }


def _moved(value: Any, device: torch.device) -> Any:
    """Return a batch whose tensors are on a device."""
    if callable(getattr(value, "to", None)):  # tensors, and batches of libraries
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _moved(part, device) for name, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_moved(part, device) for part in value))
    if isinstance(value, list | tuple):
        return [_moved(part, device) for part in value]
    return value
