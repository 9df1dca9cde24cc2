"""What monitors see, written as scalars to whatever takes them, as TensorBoard's `SummaryWriter` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import nn

from .loop import Loop
from .monitor import BaseMonitor
from .series import News


class Writer(Protocol):
    """What scalars are written to."""

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None, /) -> Any:
        """Take a number of a step."""


class ScalarMonitor(BaseMonitor):
    """Writes what others have seen: `loss/batch`, `gradients/norm`, `performance/accuracy`, all by the number of the batch in the run.

    Parameters
    ----------
    monitors
        What is written; each was told of a batch before this one is.
    writer
        Anything with TensorBoard's `add_scalar(tag, value, step)`.

    Raises
    ------
    TypeError
        The writer has no `add_scalar`.
    """

    every = 1  # it is told of all batches

    def __init__(self, monitors: Iterable[BaseMonitor], writer: Writer) -> None:
        if not callable(getattr(writer, "add_scalar", None)):
            raise TypeError(
                f"found a writer of type {type(writer).__name__}, expected one with add_scalar(tag, value, step), as "
                "torch.utils.tensorboard.SummaryWriter"
            )
        self._writer = writer
        self._told = list(monitors)
        self._begin()

    def _begin(self) -> None:
        self._loop = Loop()
        self._news = News(self._told)

    def initialize(
        self, model: nn.Module, dataloader: Iterable[Any], criterion: Callable[..., Any] | None
    ) -> None:
        """Begin."""
        del model, dataloader, criterion
        self._begin()

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Write what is new of batches."""
        del outputs
        self._loop.end_batch(batch)
        self._write()

    def on_epoch_end(self, epoch: int) -> None:
        """Write what is new of epochs."""
        self._write()
        self._loop.end_epoch(epoch)

    def close(self) -> None:
        """Write what came at the end."""
        self._write()

    def _write(self) -> None:
        for tag, step, value in self._news.take(self._loop.step):
            self._writer.add_scalar(tag, value, step)
