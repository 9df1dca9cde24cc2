"""The monitor of a watched loader: what it finds in the data becomes alerts, each once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from torch import nn

from ..core.alert import Kind
from ..core.verdict import Verdict
from .alerts import TrainingAlerts, begun
from .finding import ADVERSARIAL, BALANCE, DRIFT, LABEL, LEAK, Finding, detector_of, listed
from .loader import WatchedLoader
from .loop import Loop, Place
from .monitor import BaseMonitor

_log = logging.getLogger(__name__)

_KINDS: Final[dict[str, Kind]] = {
    LEAK: "leakage",
    DRIFT: "data drift",
    BALANCE: "data drift",
    ADVERSARIAL: "adversarial input",
}
"""Of alerts; of all others `training`."""
_SAMPLES: Final = 10  # named in an alert


class FindingsMonitor(BaseMonitor):
    """Asks a watched loader at the end of epochs what it has found, and claims what is new.

    Parameters
    ----------
    loader
        The loader; None for the one that `initialize` is given.
    epochs
        It is asked after the first epoch, and then after every so many: findings take a second or two.
    audit
        After so many epochs each the model looks at the data, as by `WatchedLoader.audit`: some seven passes; None for never.
    labels
        Whether the loader is given the outputs of each batch, so that doubtful labels are found, and claimed. In every run some are.
    alerts
        Where claims go; `Monitors` gives its own.

    Attributes
    ----------
    history
        Of each epoch a dictionary: `epoch`, and of each kind of finding how many samples it names by then, 1 where it is not about single ones.

    Raises
    ------
    ValueError
        `epochs` or `audit` is below 1.
    TypeError
        In `initialize`: there is no watched loader.

    Notes
    -----
    New is a finding that names samples which none of its kind has named, or, of those that name none, says what none has said.
    """

    every = 1  # told of every batch

    def __init__(
        self,
        loader: WatchedLoader | None = None,
        *,
        epochs: int = 1,
        audit: int | None = None,
        labels: bool = False,
        alerts: TrainingAlerts | None = None,
    ) -> None:
        if epochs < 1 or (audit is not None and audit < 1):
            raise ValueError(f"epochs and audit must be 1 or more, got {epochs} and {audit}")
        self.epochs = epochs
        self.audit = audit
        self.labels = labels
        self.alerts = alerts
        self.history: list[dict[str, float]] = []
        self._given = self._loader = loader
        self._model: nn.Module | None = None
        self._criterion: Callable[..., Any] | None = None
        self._begin()

    def _begin(self) -> None:
        self._loop, self.history = Loop(), []
        self._ended = 0
        self._observes = self.labels
        self._named: dict[str, set[int]] = {}
        self._said: set[str] = set()

    def initialize(
        self, model: nn.Module, dataloader: Iterable[Any], criterion: Callable[..., Any] | None
    ) -> None:
        """Begin."""
        self._model, self._criterion = model, criterion
        self._loader = self._given
        if self._loader is None:
            if not isinstance(dataloader, WatchedLoader):
                raise TypeError(
                    f"expected a WatchedLoader, got {type(dataloader).__name__}; wrap the loader in one, or give it as loader="
                )
            self._loader = dataloader
        self.alerts = begun(self)
        self._begin()

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Give the loader what the model made of a batch, where labels are looked at."""
        if self._observes and self._loader is not None:
            try:
                self._loader.observe(outputs, batch, self._criterion)
            except ValueError as error:  # what else the loader finds is claimed as ever
                _log.warning("doubtful labels are not looked for: %s", error)
                self._observes = False
        self._loop.end_batch(batch)

    def on_epoch_end(self, epoch: int) -> None:
        """Ask the loader, and claim what is new."""
        place = self._loop.last_of(epoch)
        row = {"epoch": float(epoch)}
        is_due = self.audit is not None and (self._ended + 1) % self.audit == 0
        if is_due and self._loader is not None and self._model is not None:
            self._audit(self._loader, self._model)
        if self._loader is not None and self._ended % self.epochs == 0:
            for found in self._loader.findings():
                if found.kind == LABEL and not self.labels:
                    continue
                row[found.kind] = row.get(found.kind, 0.0) + max(len(found.samples), 1)
                if self._is_new(found):
                    self._claim(place, found)
        self.history.append(row)
        self._ended += 1
        self._loop.end_epoch(epoch)

    def _audit(self, loader: WatchedLoader, model: nn.Module) -> None:
        try:
            loader.audit(model)
        except Exception:  # of a model that cannot be copied, say; what the loader finds by itself is claimed as ever
            _log.exception("the model could not look at the data and is not asked again")
            self._model = None

    def _is_new(self, found: Finding) -> bool:
        if not len(found.samples):
            text = f"{found.kind} {found.epoch} {found.summary}"
            is_new = text not in self._said
            self._said.add(text)
            return is_new
        named = self._named.setdefault(found.kind, set())
        before = len(named)
        named.update(found.samples.tolist())
        return len(named) > before

    def _claim(self, place: Place, found: Finding) -> None:
        if self.alerts is None:
            return
        verdict = Verdict(
            # One incident each: claims of one detector of training are parts of one.
            detector=detector_of(found.kind), subject=f"samples:{found.kind}", offset=place.step,
            row=0, statistic=float(max(len(found.samples), 1)), threshold=0.0, unit="samples named", change=found.kind,
            evidence=found.summary, samples=[str(k) for k in found.samples[:_SAMPLES]],
        )  # fmt: skip
        kind = _KINDS.get(found.kind, "training")
        text = f"{found.kind}: {found.summary}"
        if len(found.samples):
            text += f": {listed(found.samples)}"
        self.alerts.claim(verdict, text, place._replace(batch=-1), kind=kind)
