"""Saves a model while it is trained: the best ones, the last one, and when a threshold is crossed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..core.errors import ConfigError, StorageError
from . import checkpoint_file, random_states
from .checkpoint_file import Record
from .checkpoint_settings import check_settings
from .kept_files import KeptFiles, Source, check_monitor, newest_training, scores_by
from .metric_value import as_number, check_nan, taken
from .saved_checkpoint import HasState, SavedCheckpoint, load_state, load_weights
from .template import also_known, file_name
from .threshold import Action, Crossing, Threshold, actions
from .top_k import Mode, Newest, TopK

_log = logging.getLogger(__name__)


class ModelCheckpoint:
    """Saves the best models by a monitored quantity, as Lightning's callback of this name does, and watches a threshold.

    What is saved is there whole or not at all, at whatever moment the process is killed or the disk is full. A folder is all that `resume` needs. Nothing is pickled.
    Training gives the same weights with and without it.

    Parameters
    ----------
    dirpath
        The folder; made when something is saved. None means `checkpoints` in the working directory.
    filename
        Template of file names, as `best-{epoch:02d}-{val_loss:.2f}`: it knows `epoch`, `step` and the metrics given to `step`; `loss` is
        also `val_loss` and `train_loss`, and each of those is `loss`, where only one of the three is given. None means `{epoch}-{step}`. Of equal names the later ones end in `-v1`, `-v2`.
    monitor
        The quantity that ranks models, found by the same names. None keeps the newest.
    mode
        Whether small ("min") or large values ("max") are good.
    save_top_k
        How many of the best are kept; -1 for all, 0 for none.
    save_last
        Whether `last.safetensors` always holds the last step at which something could be saved; "link" makes it a symbolic link where that step was kept anyway.
    every_n_train_steps
        None or 0: each call of `step` is the end of an epoch, and may save. A number: each is a training step, and every n-th may save.
    save_weights_only
        Leave out optimizer, scheduler and random states; such a checkpoint is for serving, not to go on from.
    max_value, min_value
        Bounds of the monitored quantity. It is crossed where a value is out of them and the one before was not, or was in a training that was stopped; NaN is out of all bounds.
    action
        What happens then, one or several: "alert" (a warning in the log, and `on_alert` is called), "save" (a checkpoint of its own,
        `crossing-...`, that is always kept), "stop" (`should_stop` becomes true), or a function of the `Crossing`.
    on_alert
        Called with each `Crossing` of the action "alert".
    nan
        "raise" refuses a NaN, and saves nothing, so that `last` is still a model that works; "worst" keeps it only while there is room, as Lightning does, and says so in the log.
    verbose
        Whether each decision is printed.
    auto_insert_metric_name
        Whether `{epoch}` becomes `epoch=3`, or `3`.
    model, optimizer, scheduler
        What is saved; `attach` gives it later. Without a model nothing is saved, and that is said once.

    Raises
    ------
    ConfigError
        An argument that is none of these.

    Notes
    -----
    Which files are kept, by score, tie, NaN (with `nan="worst"`) and name, is as in Lightning 2.6 (`bench checkpoint`). Lightning compares in 32-bit floats, this one in 64.
    Lightning writes `last` only in steps that keep a file; here it is the last one always.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from torch import nn
    >>> from tocsin.training import ModelCheckpoint
    >>> folder = mkdtemp()
    >>> checkpoint = ModelCheckpoint(folder, "{epoch}-{val_loss:.2f}", monitor="loss", save_top_k=2, model=nn.Linear(2, 1))
    >>> for loss in (0.9, 0.5, 0.7):
    ...     path = checkpoint.step(loss)
    >>> sorted(path.name for path in checkpoint.kept)
    ['epoch=1-val_loss=0.50.safetensors', 'epoch=2-val_loss=0.70.safetensors']
    >>> ModelCheckpoint.resume(folder).next_epoch
    3
    """

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        *,
        mode: Mode = "min",
        save_top_k: int = 1,
        save_last: bool | Literal["link"] | None = None,
        every_n_train_steps: int | None = None,
        save_weights_only: bool = False,
        max_value: float | None = None,
        min_value: float | None = None,
        action: Action | Sequence[Action] = "alert",
        on_alert: Callable[[Crossing], object] | None = None,
        nan: Literal["raise", "worst"] = "raise",
        verbose: bool = False,
        auto_insert_metric_name: bool = True,
        model: nn.Module | None = None,
        optimizer: HasState | None = None,
        scheduler: HasState | None = None,
    ) -> None:
        self._filename = filename or "{epoch}-{step}"
        check_settings(
            self._filename, monitor, mode, save_top_k, save_last, every_n_train_steps, nan
        )
        if monitor is None and (max_value is not None or min_value is not None):
            raise ConfigError(
                "max_value and min_value bound the monitored quantity, and monitor is None; name it"
            )
        self.dirpath = Path("checkpoints" if dirpath is None else dirpath).expanduser().absolute()
        self.monitor, self.mode, self.verbose = monitor, mode, verbose
        self.should_stop = False
        self.next_epoch = 0
        self.global_step = 0
        self.crossings: list[Crossing] = []
        self._every = every_n_train_steps or None
        self._weights_only = save_weights_only
        self._nan = nan
        self._insert_names = auto_insert_metric_name
        self._threshold = Threshold(monitor or "", min_value, max_value)
        self._actions = actions(action)
        self._on_alert = on_alert
        ranking = Newest(save_top_k) if monitor is None else TopK(save_top_k, mode)
        self._files = KeptFiles(self.dirpath, ranking, save_last)
        self._latest: tuple[int, int, dict[str, Any]] | None = None
        self._failed: tuple[object, ...] | None = None
        self._owes_crossing = False
        self._model: nn.Module | None = None
        self._states: dict[str, HasState] = {}
        self._warned = False
        self._settings: dict[str, Any] = {
            "filename": filename, "monitor": monitor, "mode": mode, "save_top_k": save_top_k, "save_last": save_last,
            "every_n_train_steps": every_n_train_steps, "save_weights_only": save_weights_only,
            "max_value": max_value, "min_value": min_value, "nan": nan, "auto_insert_metric_name": auto_insert_metric_name,
            "verbose": verbose, "action": [one for one in self._actions if isinstance(one, str)],
        }  # fmt: skip
        if model is not None:
            self.attach(model, optimizer, scheduler)

    def attach(
        self,
        model: nn.Module,
        optimizer: HasState | None = None,
        scheduler: HasState | None = None,
        **others: HasState,
    ) -> None:
        """Say what is saved; `others`, a gradient scaler say, are saved under their names."""
        self._model = model
        given = {"optimizer": optimizer, "scheduler": scheduler, **others}
        self._states = {name: one for name, one in given.items() if one is not None}

    @property
    def kept(self) -> list[Path]:
        """The files of the best, in the order in which they were saved."""
        return [self.dirpath / name for name in self._files.ranking.scores]

    @property
    def best_k_models(self) -> dict[str, float]:
        """Path and score of each of the best."""
        return {
            str(self.dirpath / name): score for name, score in self._files.ranking.scores.items()
        }

    @property
    def best_model_path(self) -> str:
        """Path of the best; empty where there is none."""
        best = self._files.ranking.best
        return str(self.dirpath / best) if best else ""

    @property
    def best_model_score(self) -> float | None:
        """Score of the best."""
        return self._files.ranking.scores.get(self._files.ranking.best)

    @property
    def last_model_path(self) -> str:
        """Path of the last, of `save_last`; empty where there is none."""
        return str(self.dirpath / self._files.last) if self._files.last else ""

    def step(
        self,
        value: float | torch.Tensor | Mapping[str, Any] | None = None,
        *,
        epoch: int | None = None,
        step: int | None = None,
        **metrics: Any,
    ) -> Path | None:
        """Take the values of an epoch's end, or of a training step; save what is to be saved.

        Parameters
        ----------
        value
            The monitored quantity, or all metrics by name. Tensors have one element.
        epoch
            Number of the epoch; else they are counted from 0.
        step
            Number of training steps so far; else calls are counted.
        metrics
            More of them, by name.

        Returns
        -------
        The file that was saved among the best, or None.

        Raises
        ------
        ConfigError
            The monitored quantity is missing; the template names a metric that was not given.
        NonFiniteError
            The quantity is NaN in a step that may save, and `nan="raise"`. Nothing was saved.
        StorageError
            The disk is full, or refuses. What was saved before is as it was, and training can go on.

        Notes
        -----
        A step that is refused, by one of the first two, is not counted: the next call is of the same epoch. After a StorageError
        the epoch counts, since it was trained; the same call once more, before the weights are changed, tries the same step again.
        """
        given = self._given(value, metrics)
        epoch, step = given.pop("epoch", epoch), given.pop("step", step)
        also = also_known(given)
        if self.monitor is not None and self.monitor in also:
            given[self.monitor] = given[also[self.monitor]]
        number, steps, again = self._place(given, epoch, step)
        due = self._every is None or steps % self._every == 0
        missing = self.monitor is not None and self.monitor not in given
        if missing and (due or given):
            found = ", ".join(given) or "none"
            raise ConfigError(
                f"monitor={self.monitor!r} is not among the metrics given ({found}); give step() its value, or name one that is"
            )
        current = given.get(self.monitor) if self.monitor is not None else None
        if not due and (
            current is None or not self._threshold or self._threshold.waits(current, number, steps)
        ):
            self._count(number, steps, given)
            return None
        numbers = {name: as_number(name, one) for name, one in given.items()}
        score = numbers.get(self.monitor) if self.monitor is not None else None
        names = {name: numbers[one] for name, one in also.items()} | numbers
        names |= {"epoch": number, "step": steps}
        name = file_name(self._filename, names, insert_names=self._insert_names)
        crossed = self._threshold.crossings(score, number, steps)
        if "save" in self._actions:
            self._owes_crossing = bool(crossed) or (self._owes_crossing and self._threshold.outside)
        try:
            path = self._save(name, number, steps, numbers, score, due=due, again=again)
        except StorageError:
            self._count(number, steps, given)
            self._failed = self._signs(given)
            raise
        else:
            self._count(number, steps, None if due else given)
            return path
        finally:
            for crossing in crossed:
                self._act(crossing)

    def _place(
        self, given: dict[str, Any], epoch: int | None, step: int | None
    ) -> tuple[int, int, bool]:
        """Return which epoch and step a call is of, and whether it tries the one that failed again."""
        failed = self.next_epoch - (self._every is None), self.global_step
        same = self._failed is not None and self._failed == self._signs(given)
        if same and epoch in {None, failed[0]} and step in {None, failed[1]}:
            return *failed, True
        number = self.next_epoch if epoch is None else int(epoch)
        return number, self.global_step + 1 if step is None else int(step), False

    def _signs(self, given: dict[str, Any]) -> tuple[object, ...]:
        """Return what tells a step that is tried again from the one after it: its values, and hashes of the weights."""
        assert self._model is not None
        weights = [  # fused optimizers leave the tensors' own counters of changes alone
            hash(one.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            for one in self._model.parameters()
        ]
        return repr({name: as_number(name, one) for name, one in given.items()}), weights

    def _count(self, epoch: int, step: int, unsaved: dict[str, Any] | None) -> None:
        self.next_epoch = epoch + (self._every is None)
        self.global_step = step
        # A running sum may be given, which goes on.
        self._latest = None if unsaved is None else (epoch, step, taken(unsaved))
        self._failed = None

    def finish(self) -> None:
        """End a training with `every_n_train_steps`: with `save_last`, steps since the last n-th are saved as `last`.

        Raises
        ------
        NonFiniteError
            The quantity is NaN in the last of them, with `nan="raise"`: `last` is as it was.
        StorageError
            The disk is full, or refuses.
        """
        if self._latest is not None and self._can_save():
            epoch, step, given = self._latest
            metrics = {name: as_number(name, one) for name, one in given.items()}
            score = metrics.get(self.monitor or "")
            check_nan(self.monitor, score, epoch, step, refuse=self._nan == "raise")
            self._files.save_last(*self._saving(epoch, step, metrics))
            self._latest = None

    @classmethod
    def resume(
        cls,
        dirpath: str | os.PathLike[str],
        model: nn.Module | None = None,
        optimizer: HasState | None = None,
        scheduler: HasState | None = None,
        *,
        random: bool = True,
        others: Mapping[str, HasState] | None = None,
        **settings: Any,
    ) -> ModelCheckpoint:
        """Go on where the newest training of a folder stopped, or was killed.

        Puts the folder in order once the newest checkpoint is loaded: what a killed process left half done is finished or taken away.

        Parameters
        ----------
        dirpath
            The folder. Of several trainings in it the newest is taken.
        model, optimizer, scheduler, others
            Get the newest state, where given. A loop goes on with `range(checkpoint.next_epoch, epochs)`.
        random
            Whether the random states of Python, numpy and torch are set as they were; only where a model is given.
        settings
            Arguments of the constructor to change; the others are as they were. Another `monitor` ranks by what was saved of it. Functions given as `action` or `on_alert` must be given again.

        Raises
        ------
        ConfigError
            There is no checkpoint in the folder, the model is another one, or another `monitor` is none of the metrics that were saved.
        StateError
            The state beside the newest weights is missing or damaged.
        """
        folder = Path(dirpath).expanduser().absolute()
        of_run, found = newest_training(folder)
        name, newest = next(reversed(of_run.items()))
        checkpoint = cls(folder, **{**newest.settings, **settings})
        if "monitor" in settings:
            check_monitor(checkpoint.monitor, of_run)
        checkpoint.next_epoch = newest.epoch + (checkpoint._every is None)
        checkpoint.global_step = newest.step
        if model is not None:
            checkpoint.attach(model, optimizer, scheduler, **(others or {}))
            load_weights(folder / name, newest, model)
            load_state(folder / name, newest, checkpoint._states, random=random)
        checkpoint_file.sweep(folder, found)
        checkpoint._files.take_up(of_run, scores_by(checkpoint.monitor, of_run))
        return checkpoint

    @staticmethod
    def load(
        path: str | os.PathLike[str],
        model: nn.Module | None = None,
        *,
        which: Literal["best", "last"] = "best",
    ) -> SavedCheckpoint:
        """Read a checkpoint: a file, or the best or the last one of a folder. The folder is left as it is.

        Parameters
        ----------
        path
            A file, or a folder. Of several trainings in it the newest is taken.
        model
            Gets the weights, where given.
        which
            Of a folder, the best one, or the newest.

        Raises
        ------
        ConfigError
            There is no checkpoint, or the model is another one.
        StateError
            The file is no checkpoint of tocsin, or damaged.
        """
        saved = SavedCheckpoint.find(Path(path), which)
        if model is not None:
            load_weights(saved.path, saved.record, model)
        return saved

    def _given(self, value: Any, metrics: dict[str, Any]) -> dict[str, Any]:
        """Return the metrics by name, the monitored one first."""
        if isinstance(value, Mapping):
            return {**value, **metrics}
        if value is None:
            return metrics
        if self.monitor is None:
            raise ConfigError(
                "step() got a number, and monitor is None: pass it by name, as step(loss=...), or name it in monitor"
            )
        return {self.monitor: value, **metrics}

    def _save(
        self,
        name: str,
        epoch: int,
        step: int,
        metrics: dict[str, float],
        score: float | None,
        *,
        due: bool,
        again: bool,
    ) -> Path | None:
        """Save what is to be saved; what is in memory changes only when it is on the disk."""
        if due:
            check_nan(self.monitor, score, epoch, step, refuse=self._nan == "raise")
        if not self._can_save():
            if due and self._model is None:
                self._tell(epoch, step, score, "nothing saved, there is no model")
            return None
        record, source = self._saving(epoch, step, metrics)
        saved = self._files.save(name, record, source, again=again) if due else None
        if self._owes_crossing:
            self._files.save_crossing(name, record, source)
            self._owes_crossing = False
        if due:
            best = self._files.ranking.best
            said = f"saved {saved}" if saved else "not among the best"
            self._tell(epoch, step, score, f"{said} (best: {best})")
        return self.dirpath / saved if saved else None

    def _tell(self, epoch: int, step: int, score: float | None, said: str) -> None:
        if self.verbose:
            value = "" if score is None else f"{self.monitor} {score:.5g}, "
            # Printed, since it is asked for, and seen where no log is set up.
            print(f"epoch {epoch}, step {step}: {value}{said}", flush=True)  # noqa: T201

    def _saving(self, epoch: int, step: int, metrics: dict[str, float]) -> tuple[Record, Source]:
        """Return what is saved of a step: its record, as far as it is known here, and where the rest is from."""
        assert self._model is not None
        record = Record(
            run="", order=0, saved_ns=0, role="best",  # the files' business
            epoch=epoch, step=step, monitor=self.monitor, metrics=metrics,
            score=metrics.get(self.monitor) if self.monitor is not None else None,
            settings=self._settings,
            state_classes={name: type(one).__qualname__ for name, one in self._states.items()},
        )  # fmt: skip
        return record, (self._model, self._state)

    def _state(self) -> dict[str, Any] | None:
        """Return what a training goes on from."""
        if self._weights_only:
            return None
        states: dict[str, Any] = {name: one.state_dict() for name, one in self._states.items()}
        return {**states, "random": random_states.taken()}

    def _can_save(self) -> bool:
        if self._model is None:
            if not self._warned:
                _log.warning(
                    "ModelCheckpoint has no model, so nothing is saved; give it model=, or call attach(model, optimizer)"
                )
                self._warned = True
            return False
        distributed = torch.distributed
        return not (
            distributed.is_available() and distributed.is_initialized() and distributed.get_rank()
        )

    def _act(self, crossing: Crossing) -> None:
        self.crossings.append(crossing)
        for action in self._actions:
            if callable(action):
                action(crossing)
            elif action == "stop":
                self.should_stop = True
            elif action == "alert":
                _log.warning("threshold crossed: %s", crossing.summary)
                if self._on_alert:
                    self._on_alert(crossing)
