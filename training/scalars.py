"""What monitors see, written as scalars to whatever takes them, as TensorBoard's `SummaryWriter` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from torch import nn

from .loop import Loop
from .monitor import BaseMonitor
from .series import curves_of, history_of, is_by_epoch, leaves, numbers_of, shown_of


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
        self._written: dict[str, int] = {}  # by tag its latest batch, or by prefix how many epochs
        self._prefixes: list[tuple[str, BaseMonitor]] = []
        taken: dict[str, int] = {}
        for monitor in leaves(self._told):
            name = shown_of(monitor).name
            taken[name] = taken.get(name, 0) + 1
            more = f"_{taken[name]}" if taken[name] > 1 else ""
            self._prefixes.append((f"{name}{more}", monitor))

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
        for prefix, monitor in self._prefixes:
            if is_by_epoch(monitor):
                history = history_of(monitor)
                for row in history[self._written.get(prefix, 0) :]:
                    for name, value in numbers_of(row).items():
                        self._writer.add_scalar(f"{prefix}/{name}", value, self._loop.step)
                self._written[prefix] = len(history)
                continue
            for name, curve in curves_of(monitor).items():
                self._write_new(f"{prefix}/{name}", curve)

    def _write_new(self, tag: str, curve: Sequence[tuple[float, float]]) -> None:
        # By the batch, not by the count: a long curve is thinned.
        latest, new = self._written.get(tag, -1), list[tuple[int, float]]()
        for step, value in reversed(curve):
            if step <= latest:
                break
            new.append((int(step), value))
        for step, value in reversed(new):
            self._writer.add_scalar(tag, value, step)
            self._written[tag] = step
