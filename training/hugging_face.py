"""Monitors in the Trainer of Hugging Face: a callback that tells them of batches and epochs. Needs transformers, which nothing else here does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.nn import functional

try:
    from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ImportError(
        "tocsin.training.hugging_face found no transformers: pip install 'tocsin[hugging-face]'"
    ) from error

from .loop import logits_of, loss_of
from .monitor import BaseMonitor
from .monitors import Monitors
from .passes import LatestPass

_NO_LABEL = -100  # as everywhere in transformers


class _Seen(NamedTuple):
    outputs: dict[str, torch.Tensor]
    batch: dict[str, Any]


class MonitorCallback(TrainerCallback):  # type: ignore[misc] # transformers is not looked into
    """Drives monitors from a Trainer of transformers.

    Parameters
    ----------
    monitors
        What is told; what is no `Monitors` becomes one, so that no error of theirs reaches the Trainer.
    criterion
        The loss where it is not the model's own: what the Trainer was given as `compute_loss_func`, as a module.

    Raises
    ------
    ImportError
        When this file is imported: transformers is missing.

    Notes
    -----
    A Trainer tells its callbacks of no outputs and no inputs, so a forward hook of the model takes them. Monitors are given a dictionary with
    `loss` and, where labels are one a row, `logits`; of labels for each token there is only the loss. As batch they are given what the model
    is: names to tensors, with the labels, unless the Trainer has taken them out for label smoothing or a `compute_loss_func`.

    With gradient accumulation each part is a batch, and its loss is the mean of its own labels: models that divide by the labels of all parts
    (`num_items_in_batch`) have that undone. Of a model for tokens that takes this number and makes no use of it, the loss is as many times
    too large as Trainer itself says it is.

    Of what the Trainer evaluates in an epoch and at its end monitors are told as `val`. Of several processes that of rank 0
    watches its own batches. Within `torch.compile` no pass is seen, and only gradients are watched. A second `train` begins anew. After a training
    that failed `close` removes the hooks.

    Examples
    --------
    >>> from tocsin.training import GradientMonitor, LossMonitor, Monitors
    >>> from tocsin.training.hugging_face import MonitorCallback
    >>> callback = MonitorCallback(Monitors([LossMonitor(), GradientMonitor()]))
    >>> # transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
    """

    def __init__(
        self,
        monitors: BaseMonitor | Iterable[BaseMonitor],
        *,
        criterion: Callable[..., Any] | None = None,
    ) -> None:
        self.monitors = Monitors.of(monitors)
        self._criterion = criterion
        self._pass: LatestPass[_Seen] | None = None
        self._epoch = 0
        self._is_over = False  # the epoch; what is evaluated at its end comes after that is said

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin."""
        del args, control
        self.close()
        if not state.is_world_process_zero:
            return
        model = kwargs["model"]
        shifts = _shifts_labels(model)
        self._pass = LatestPass(model, [], lambda given, output: _read(given, output, shifts))
        self._epoch, self._is_over = int(state.epoch or 0), False
        self.monitors.initialize(model, kwargs["train_dataloader"], self._criterion)
        self.monitors.start(self._epoch)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell of the epoch before, with what was evaluated at its end."""
        del args, state, control, kwargs
        self._end_epoch()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell of a batch after which no step was made yet."""
        self.on_step_end(args, state, control, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell of a batch."""
        del args, state, control, kwargs
        if self._pass is not None:
            seen = self._pass.take() or _Seen({}, {})
            self.monitors.on_batch_end(*seen)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell of a batch that is evaluated."""
        del args, state, control, kwargs
        seen = None if self._pass is None else self._pass.take()
        if seen is not None:
            self.monitors.on_validation_batch_end(*seen, "val")

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note that the epoch is over but for its evaluation."""
        del args, state, control, kwargs
        self._is_over = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End."""
        del args, state, control, kwargs
        self._end_epoch()
        self.close()

    def close(self) -> None:
        """Remove all hooks; may be called twice."""
        if self._pass is not None:
            self._pass.close()
            self._pass = None
            self.monitors.close()

    def _end_epoch(self) -> None:
        if self._pass is not None and self._is_over:
            self.monitors.on_epoch_end(self._epoch)
            self._epoch, self._is_over = self._epoch + 1, False


def _read(given: dict[str, Any], output: Any, shifts: bool) -> _Seen:
    """Return loss and logits of a pass, and what was given to it."""
    batch = {name: value for name, value in given.items() if name != "num_items_in_batch"}
    labels = batch.get("labels")
    if isinstance(output, tuple):  # return_dict=False; the loss comes first where there are labels
        names = ["loss", "logits"] if labels is not None else ["logits"]
        output = dict(zip(names, output, strict=False))
    loss, logits = loss_of(output), logits_of(output)
    outputs: dict[str, torch.Tensor] = {}
    is_by_row = isinstance(labels, torch.Tensor) and labels.ndim == 1
    if logits is not None and is_by_row:
        outputs["logits"] = logits.detach()
    if loss is not None:
        outputs["loss"] = loss.detach()
        items = given.get("num_items_in_batch")
        if items is not None and isinstance(labels, torch.Tensor):
            outputs["loss"] = _own(outputs, labels, batch.get("shift_labels"), items, shifts)
    return _Seen(outputs, batch)


def _own(
    outputs: dict[str, torch.Tensor], labels: torch.Tensor, shifted: Any, items: Any, shifts: bool
) -> torch.Tensor:
    """Return the mean loss of a batch, of one that may have been divided by the labels of several batches."""
    counted = (
        shifted if isinstance(shifted, torch.Tensor) else labels[..., 1:] if shifts else labels
    )
    loss, logits = outputs["loss"].float(), outputs.get("logits")
    items = torch.as_tensor(items, device=loss.device).float().mean()
    whole: torch.Tensor = loss * items / counted.ne(_NO_LABEL).sum().clamp(min=1)
    if logits is None:
        return whole
    # Some models of rows make use of the number, some do not: it is the nearer to the usual loss.
    if labels.is_floating_point():
        usual = functional.mse_loss(logits.float().flatten(), labels.float().flatten())
    else:
        usual = functional.cross_entropy(logits.float(), labels)
    return torch.where((whole - usual).abs() < (loss - usual).abs(), whole, loss)


def _shifts_labels(model: Any) -> bool:
    """Return whether a model's loss leaves out the first label of each row, as those of causal language models do."""
    config = getattr(model, "config", None)
    is_causal = getattr(model, "loss_type", None) == "ForCausalLM"
    return is_causal and not getattr(config, "is_encoder_decoder", False)
