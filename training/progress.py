"""A progress bar with the state of each monitor; where there is no terminal, a line after each epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text
from torch import nn

from .loop import Loop
from .monitor import BaseMonitor
from .series import headline, leaves, shown_of, state_of

_PAUSE_SECONDS: Final = (
    0.25  # between two looks of the bar: drawing takes 1 ms of the training's own thread
)


class ProgressBar(BaseMonitor):
    """Shows how far an epoch is, and of each monitor its latest number and what it claims.

    Parameters
    ----------
    monitors
        What is shown.
    set_aside
        Those that failed, by name.
    console
        Where; None for standard error.
    """

    every = 1  # it is told of all batches

    def __init__(
        self,
        monitors: Iterable[BaseMonitor],
        set_aside: Mapping[str, Exception],
        console: Console | None = None,
    ) -> None:
        self._told = list(monitors)
        self._set_aside = set_aside
        self._console = console
        self._live: Live | None = None
        self._loop = Loop()

    def initialize(
        self, model: nn.Module, dataloader: Iterable[Any], criterion: Callable[..., Any] | None
    ) -> None:
        """Begin; an epoch is as long as the loader, where that has a length."""
        del model, criterion
        self.close()
        self._loop = Loop()
        console = self._console or Console(stderr=True)
        self._plain: Console = console
        try:
            total = len(dataloader)  # type: ignore[arg-type] # where it has none, that is told
        except TypeError:
            total = None
        if not console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(),
            # Rich's own column stops for good when the first epoch is complete.
            TextColumn("{task.fields[elapsed]}", style="progress.elapsed"), console=console,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total, epoch=0, elapsed=timedelta())
        self._live = Live(self._both(), console=console, auto_refresh=False)
        self._live.start()
        console.show_cursor(True)  # a training that dies leaves the terminal as it was
        self._drawn = self._begun = time.monotonic()

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Count a batch, and draw four times a second."""
        del outputs
        self._loop.end_batch(batch)
        if self._live is not None and time.monotonic() - self._drawn >= _PAUSE_SECONDS:
            self._draw()

    def on_epoch_end(self, epoch: int) -> None:
        """Draw the end of the epoch, or write its line, and begin the next."""
        if self._live is not None:
            self._draw()
            self._begun = self._drawn
        else:
            line = Text(f"epoch {epoch}: {self._loop.place.batch} batches, ").append(self._states())
            self._plain.print(line, soft_wrap=True)
        self._loop.end_epoch(epoch)

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._live.update(self._both(), refresh=True)
            self._live.stop()
            self._live = None

    def _draw(self) -> None:
        assert self._live is not None
        place = self._loop.place
        self._drawn = time.monotonic()
        elapsed = timedelta(seconds=int(self._drawn - self._begun))
        self._bar.update(self._task, completed=place.batch, epoch=place.epoch, elapsed=elapsed)
        self._live.update(self._both(), refresh=True)

    def _both(self) -> Group:
        return Group(self._bar, self._states())

    def _states(self) -> Text:
        """Return what is known of each monitor, in one line."""
        parts: list[Text] = []
        for monitor in leaves(self._told):
            change = state_of(monitor, self._loop.step)
            number = headline(monitor, change)
            said = Text(number or shown_of(monitor).name)
            if change is not None:
                said.append(f" {change}", style="bold red")
            if number or change:
                parts.append(said)
        parts += [Text(f"{name} set aside", style="red") for name in self._set_aside]
        return Text(", ").join(parts)
