"""What every monitor of a training loop is: three calls that the loop makes, and one more where it validates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any

from torch import nn

from .validation import Forward, answered

if TYPE_CHECKING:
    from .alerts import TrainingAlerts


def not_begun() -> RuntimeError:
    """Return what a monitor that needs `initialize` raises before it."""
    return RuntimeError(
        "the monitor has not begun: call initialize(model, dataloader, criterion) before the first batch"
    )


class BaseMonitor:
    """Watches a training loop. A monitor of one's own overrides what it needs; none of these needs to call this one's.

    Attributes
    ----------
    alerts
        Where claims go; None until given, by `Monitors` or by hand.

    Notes
    -----
    What every monitor of tocsin keeps to: training gives the same weights, bit for bit, with and without it. So it changes no gradient, draws
    no random number, keeps no graph alive, and takes away at the end what it has hung on the model.

    Examples
    --------
    >>> from tocsin.training import Monitor
    >>> class Largest(Monitor):
    ...     def initialize(self, model, dataloader, criterion):
    ...         self.largest = 0.0
    ...
    ...     def on_batch_end(self, outputs, batch):
    ...         self.largest = max(self.largest, float(outputs.detach().abs().max()))
    """

    alerts: TrainingAlerts | None = None
    _lent: TrainingAlerts | None = None  # by `Monitors`, in place of which others may lend theirs
    _begun_with: TrainingAlerts | None = None
    _is_driven = False  # by `Monitors`, which say when a run begins

    def initialize(
        self,
        model: nn.Module,
        dataloader: Iterable[Any],
        criterion: Callable[..., Any] | None,
    ) -> None:
        """Begin: called once, before the first batch.

        Parameters
        ----------
        model
            What is trained.
        dataloader
            What it is trained on.
        criterion
            The loss, of outputs and targets; None where the loop has none of its own.
        """

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Take note of a batch: called after its step, with what the model gave for it."""

    def on_epoch_end(self, epoch: int) -> None:
        """Take note of the end of an epoch, counted from 0."""

    def on_validation_batch_end(self, outputs: Any, batch: Any, name: str = "val") -> None:
        """Take note of a batch of other data than training's: called, by `validate` or a loop, before the epoch's end.

        Parameters
        ----------
        outputs, batch
            What the model gave for it, without gradients.
        name
            Of the data set; its metrics are called so: `val_accuracy`.
        """

    def validate(
        self,
        model: nn.Module,
        dataloader: Iterable[Any],
        name: str = "val",
        *,
        forward: Forward | None = None,
    ) -> None:
        """Go through other data than training's; call it before `on_epoch_end`, once for each data set.

        The model is in evaluation meanwhile, without gradients. Afterwards it is as it was, and so are all random numbers: training is the same
        with and without, but for what a model writes into plain attributes of its own while it runs, and goes by later.

        Parameters
        ----------
        model
            What is trained.
        dataloader
            The data, in batches with labels.
        name
            Of the data set, as `val`, `test`, `hospital_b` or `production`.
        forward
            Gives the outputs of a batch, where that is not `model(inputs)`: `lambda batch: model(**batch)`.

        Raises
        ------
        ValueError
            No inputs are found in a batch.
        """
        with closing(answered(model, dataloader, forward)) as passes:
            for outputs, batch in passes:
                self.on_validation_batch_end(outputs, batch, name)

    def close(self) -> None:
        """End: take away what was hung on the model; may be called twice."""

    def plot(self) -> Any:
        """Return a `matplotlib.figure.Figure` of what was seen, with what was claimed as red lines in it, and grey where numbers are missing or not finite.

        A monitor of one's own is plotted by its `history`: (batch, value) pairs, or a dictionary of numbers of each epoch. Where there is nothing
        to plot, the figure says so.

        Raises
        ------
        ImportError
            matplotlib, the extra `plot`, is missing.

        Examples
        --------
        >>> from tocsin.training import LossMonitor
        >>> monitor = LossMonitor()
        >>> # after training: monitor.plot().savefig("loss.png")
        """
        from .plots import figure_of

        return figure_of(self)


class Monitor(BaseMonitor):
    """What a monitor of one's own is made of."""
