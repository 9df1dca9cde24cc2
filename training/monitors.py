"""Several monitors as one: each is called in turn, and one that fails is set aside, never the training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

from torch import nn

from ..detectors.base import last_words
from .alerts import TrainingAlerts
from .layers import bare
from .loop import Loop, Place
from .monitor import BaseMonitor
from .reference import Options, ReferenceMonitor
from .scalars import ScalarMonitor, Writer

if TYPE_CHECKING:
    from ..consumers.reference_writer import Written

_log = logging.getLogger(__name__)
_WORDS: Final = 200  # characters of an error's first line in an alert


class Monitors(BaseMonitor):
    """Monitors that are called as one.

    Parameters
    ----------
    monitors
        What is called, in this order; another `Monitors` may be among them.
    every
        A monitor without an `every` of its own is told of one batch in so many, the first included; the ready-made ones have one, and are
        told of all.
    alerts
        Where the claims of those go that have no `alerts` of their own; None for ones that are printed.
    writer
        Anything with `add_scalar(tag, value, step)`, as TensorBoard's `SummaryWriter`: it is given what is in each `history`, by the number of the batch
        in the run. It is the caller's to close.
    progress
        Whether a bar on standard error shows how far an epoch is, and each monitor's latest number and claim; where that is no terminal, a line
        after each epoch.

    Attributes
    ----------
    monitors
        Those that were given, then what serves `writer` and `progress`.
    set_aside
        The monitors that failed, by name, and with which error. An alert of kind `pipeline` of each says so, with the first line of its error, and
        the log has the traceback.

    Raises
    ------
    ValueError
        `every` is below 1.
    TypeError
        One of `monitors` is not a `BaseMonitor`, or `writer` has no `add_scalar`.

    Notes
    -----
    Guarantees: no exception of a monitor reaches the loop; after `close`, which leaving a `with` block calls, or when Python has
    collected monitors that nothing holds any more, nothing hangs on the model.

    Examples
    --------
    >>> from torch import nn
    >>> from tocsin.training import LossMonitor, Monitors
    >>> model = nn.Linear(2, 2)
    >>> with Monitors([LossMonitor()]) as monitors:
    ...     monitors.initialize(model, [], nn.CrossEntropyLoss())
    """

    def __init__(
        self,
        monitors: Iterable[BaseMonitor],
        *,
        every: int = 1,
        alerts: TrainingAlerts | None = None,
        writer: Writer | None = None,
        progress: bool = False,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be 1 batch or more, got {every}")
        self.monitors = list(monitors)
        for monitor in self.monitors:
            if not isinstance(monitor, BaseMonitor):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(
                    f"found {type(monitor).__name__} among the monitors, expected a BaseMonitor: derive its class from "
                    "tocsin.training.Monitor"
                )
        self.every = every
        self.alerts = alerts
        self.set_aside: dict[str, Exception] = {}
        given = tuple(self.monitors)
        if writer is not None:
            self.monitors.append(ScalarMonitor(given, writer))
        if progress:
            from .progress import ProgressBar

            self.monitors.append(ProgressBar(given, self.set_aside))
        self._failed: set[int] = set()
        self._loop = Loop()
        self._of: tuple[nn.Module, Iterable[Any], Callable[..., Any] | None] | None = None

    @classmethod
    def of(cls, monitors: BaseMonitor | Iterable[BaseMonitor]) -> Monitors:
        """Return monitors as a `Monitors`, which it may be already."""
        if isinstance(monitors, Monitors):
            return monitors
        return cls([monitors] if isinstance(monitors, BaseMonitor) else monitors)

    def initialize(
        self, model: nn.Module, dataloader: Iterable[Any], criterion: Callable[..., Any] | None
    ) -> None:
        """Begin all, those as well that failed in an earlier run."""
        self._of = model, dataloader, criterion
        self.alerts = self.alerts or TrainingAlerts(model=type(bare(model)).__name__)
        if not self._is_driven:
            self.alerts.begin()
        self._loop = Loop()
        self.set_aside.clear()
        self._failed.clear()
        for number, monitor in enumerate(self.monitors):
            if monitor.alerts is None or monitor.alerts is monitor._lent:
                monitor.alerts = monitor._lent = self.alerts
            monitor._is_driven = monitor.alerts is self.alerts
            self._call(number, lambda m: m.initialize(model, dataloader, criterion))
            monitor._is_driven = False

    def start(self, epoch: int) -> None:
        """Say in which epoch, counted from 0, a run that was resumed goes on; call it after `initialize`.

        Parameters
        ----------
        epoch
            Of the first batch, as `checkpoint.next_epoch`.

        Raises
        ------
        ValueError
            `epoch` is below 0.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be 0 or more, got {epoch}")
        self._loop.epoch = epoch
        for monitor in self.monitors:
            loop = getattr(monitor, "_loop", None)  # those of one's own have none, and need none
            if isinstance(monitor, Monitors):
                monitor.start(epoch)
            elif isinstance(loop, Loop):
                loop.epoch = epoch

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Tell all of a batch."""
        sampled = self._loop.step % self.every == 0
        for number, monitor in enumerate(self.monitors):
            if sampled or getattr(monitor, "every", None) is not None:
                self._call(number, lambda m: m.on_batch_end(outputs, batch))
        self._loop.end_batch(batch)

    def on_epoch_end(self, epoch: int) -> None:
        """Tell all of an epoch."""
        for number in range(len(self.monitors)):
            self._call(number, lambda m: m.on_epoch_end(epoch))
        self._loop.end_epoch(epoch)

    def on_validation_batch_end(self, outputs: Any, batch: Any, name: str = "val") -> None:
        """Tell all of a batch of other data."""
        for number in range(len(self.monitors)):
            self._call(number, lambda m: m.on_validation_batch_end(outputs, batch, name))

    def reference(
        self,
        path: str | Path = "reference.npz",
        dataloader: Iterable[Any] | None = None,
        **options: Unpack[Options],
    ) -> Written:
        """Write the reference of serving; see `ReferenceMonitor.reference`, whose monitor need not be among these."""
        monitor = self._reference() or ReferenceMonitor()
        if self._of is not None:
            monitor.initialize(*self._of)
        return monitor.reference(path, dataloader, **options)

    def _reference(self) -> ReferenceMonitor | None:
        """Return the monitor that writes references, of these or of those within."""
        for monitor in self.monitors:
            found = monitor._reference() if isinstance(monitor, Monitors) else monitor
            if isinstance(found, ReferenceMonitor):
                return found
        return None

    def close(self) -> None:
        """End all."""
        for number in range(len(self.monitors)):
            if number not in self._failed:  # those have been closed
                self._call(number, lambda m: m.close())
        if self.alerts is not None:
            self.alerts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _call(self, number: int, call: Callable[[BaseMonitor], None]) -> None:
        """Call one, unless it has failed."""
        if number in self._failed:
            return
        monitor = self.monitors[number]
        try:
            call(monitor)
        except Exception as error:  # whatever a monitor raises must not end the training
            self._failed.add(number)
            self._say(f"{type(monitor).__name__}" + (f" {number}" if number else ""), error)
            try:
                monitor.close()
            except Exception:  # the same monitor, already said
                _log.exception("close of a monitor that was set aside failed")

    def _say(self, name: str, error: Exception) -> None:
        self.set_aside[name] = error
        _log.error("monitor %s set aside, training goes on", name, exc_info=error)
        try:
            if self.alerts is not None:
                _claim(self.alerts, self._loop.place, name, error)
        except Exception:  # a user's callback, say
            _log.exception("the alert that monitor %s was set aside failed", name)


def _claim(alerts: TrainingAlerts, place: Place, name: str, error: Exception) -> None:
    """Claim that a monitor was set aside."""
    words = str(error).strip().partition("\n")[0]
    short = words if len(words) <= _WORDS else f"{words[:_WORDS]}..."
    text = f"monitor {name} set aside: {type(error).__name__}" + (f": {short}" if short else "")
    alerts.claim(last_words(name, error, place.step, 0), text, place, kind="pipeline")
