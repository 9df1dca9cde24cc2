"""Monitors in Lightning's Trainer: a callback that tells them of batches and epochs. Needs Lightning, which nothing else here does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.loss import _Loss
from torch.utils import _pytree as pytree
from torch.utils.data import DistributedSampler, IterableDataset

try:
    from lightning.pytorch import Callback  # pyright: ignore[reportMissingImports]
except ImportError:
    try:
        from pytorch_lightning import Callback  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "tocsin.training.lightning found neither lightning nor pytorch_lightning: pip install 'tocsin[lightning]'"
        ) from error

from .loader import WatchedLoader
from .loop import logits_of, loss_of
from .monitor import BaseMonitor
from .monitors import Monitors
from .passes import LatestPass


class MonitorCallback(Callback):  # type: ignore[misc] # Lightning is not looked into
    """Drives monitors from a Lightning Trainer.

    Parameters
    ----------
    monitors
        What is told; what is no `Monitors` becomes one, so that no error of theirs reaches the Trainer.
    model
        Name of the module whose outputs are the logits, as `net` or `net.head`. By default they are those of the LightningModule where
        `training_step` calls it (`self(x)`), else those of whichever of its children was called last.
    criterion
        The loss; by default the one loss of `torch.nn` in the LightningModule, if there is one.

    Raises
    ------
    ValueError
        When training begins: the LightningModule has no module of that name; or several processes would train on all rows each, since Lightning gives
        its `DistributedSampler` to no `WatchedLoader`.
    ImportError
        When this file is imported: Lightning is missing.

    Notes
    -----
    Monitors are given `{"loss": ..., "logits": ...}`, or what `training_step` returns in a dictionary, where that has logits. The loss is not
    divided where gradients accumulate. What is validated on goes to `on_validation_batch_end`. Of several processes the one of rank 0
    watches its own batches. A second `fit` begins anew. Hooks are gone after `fit`, one that fails too.

    Examples
    --------
    >>> from tocsin.training import GradientMonitor, LossMonitor, Monitors
    >>> from tocsin.training.lightning import MonitorCallback
    >>> callback = MonitorCallback(Monitors([LossMonitor(), GradientMonitor()]))
    >>> # lightning.Trainer(callbacks=[callback]).fit(module, loader)
    """

    def __init__(
        self,
        monitors: BaseMonitor | Iterable[BaseMonitor],
        *,
        model: str | None = None,
        criterion: Callable[..., Any] | None = None,
    ) -> None:
        self.monitors = Monitors.of(monitors)
        self._model = model
        self._criterion = criterion
        self._pass: LatestPass[torch.Tensor] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin."""
        self._close()
        _check_shares(trainer)
        if not trainer.is_global_zero:
            return
        inner, parts = self._logits_from(pl_module)
        self._pass = LatestPass(inner, parts, _logits)
        criterion = self._criterion or _loss_in(pl_module)
        self.monitors.initialize(pl_module, trainer.train_dataloader, criterion)
        self.monitors.start(trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell of a batch."""
        del trainer, pl_module, batch_idx
        if self._pass is not None:
            self.monitors.on_batch_end(_outputs(outputs, self._pass.take()), batch)

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Tell of a batch of validation, but for those before training."""
        del trainer, pl_module, batch_idx
        if self._pass is not None:
            name = f"val_{dataloader_idx}" if dataloader_idx else "val"
            found = _outputs(outputs, self._pass.take())
            self.monitors.on_validation_batch_end(found, batch, name)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Tell of an epoch, after its validation."""
        del pl_module
        if self._pass is not None:
            self.monitors.on_epoch_end(trainer.current_epoch)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """End."""
        del trainer, pl_module
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End, whatever ended the training."""
        del trainer, pl_module, exception
        self._close()

    def _close(self) -> None:
        if self._pass is not None:
            self._pass.close()
            self._pass = None
            self.monitors.close()

    def _logits_from(self, module: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
        """Return whose outputs are logits, and whose may be instead."""
        if self._model is None:
            return module, [child for child in module.children() if not isinstance(child, _Loss)]
        try:
            return module.get_submodule(self._model), []
        except AttributeError:
            names = ", ".join(name for name, _ in module.named_children())
            raise ValueError(
                f"found no module {self._model!r} in {type(module).__name__}, which has {names}; name one of them, or "
                "one within, as in named_modules()"
            ) from None


def _check_shares(trainer: Any) -> None:
    """Raise where Lightning would have given a `DataLoader` a sampler of its process's share."""
    connector = getattr(trainer, "_accelerator_connector", None)
    if trainer.world_size == 1 or not getattr(connector, "use_distributed_sampler", True):
        return
    for loader in pytree.tree_leaves(trainer.train_dataloader):
        if not isinstance(loader, WatchedLoader) or isinstance(loader.dataset, IterableDataset):
            continue
        within = getattr(loader.batch_sampler, "sampler", None)
        samplers = (loader.sampler, loader.batch_sampler, within)
        if not any(isinstance(one, DistributedSampler) for one in samplers):
            raise ValueError(
                f"found a WatchedLoader without a DistributedSampler in a training of {trainer.world_size} processes, each of which would train "
                "on all rows; wrap DataLoader(..., sampler=DistributedSampler(data)) in train_dataloader(), or say "
                "Trainer(use_distributed_sampler=False) if the sampler gives each process its share by itself"
            )


def _logits(_given: dict[str, Any], output: Any) -> torch.Tensor | None:
    """Return the logits of a pass; a loss or a metric, a number, is none."""
    found = logits_of(output)
    return None if found is None or not found.ndim else found.detach()


def _outputs(returned: Any, logits: torch.Tensor | None) -> Any:
    """Return what monitors are given: what a step returned, if logits are in it, else its loss and those of the pass."""
    if isinstance(returned, Mapping) and logits_of(returned) is not None:
        return returned
    loss = returned if isinstance(returned, torch.Tensor) else loss_of(returned)
    return {
        name: value for name, value in (("loss", loss), ("logits", logits)) if value is not None
    }


def _loss_in(module: nn.Module) -> nn.Module | None:
    """Return the one loss of torch in a module."""
    found = [part for part in module.modules() if isinstance(part, _Loss)]
    return found[0] if len(found) == 1 else None
