"""Reading checkpoints: which one of a folder, its weights, and those of a model that fits."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import nn

from ..core.errors import ConfigError
from . import random_states
from .checkpoint_file import Record, read_record, read_state, read_weights
from .kept_files import newest_training, scores_by
from .layers import bare
from .top_k import Newest, TopK

_log = logging.getLogger(__name__)


class HasState(Protocol):
    """An optimizer, a scheduler, a gradient scaler."""

    def state_dict(self) -> dict[str, Any]:
        """Return what it needs to go on."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> object:
        """Go on from there."""
        ...


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint on the disk; weights and state are read when they are asked for.

    Parameters
    ----------
    path
        The file of the weights.
    record
        What its metadata says.
    """

    path: Path
    record: Record

    @classmethod
    def find(cls, path: Path, which: Literal["best", "last"]) -> SavedCheckpoint:
        """Return that of a file, or the best or the newest one of a folder's newest training."""
        path = path.expanduser().absolute()
        if path.is_file():
            return cls(path, read_record(path))
        if which not in {"best", "last"}:
            raise ConfigError(f"which={which!r} is not known; expected 'best' or 'last'")
        of_run, _ = newest_training(path)
        name = _best(of_run) if which == "best" else next(reversed(of_run))
        return cls(path / name, of_run[name])

    @property
    def epoch(self) -> int:
        """The epoch that had ended, from 0."""
        return self.record.epoch

    @property
    def step(self) -> int:
        """The number of training steps so far."""
        return self.record.step

    @property
    def score(self) -> float | None:
        """The monitored quantity."""
        return self.record.score

    def weights(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes: the weights by name, on the CPU, tied ones under each of their names, and the extra state of modules."""
        return read_weights(self.path, self.record)

    def state(self) -> dict[str, Any]:
        """Return the states of optimizer, scheduler and random numbers, by these names."""
        return read_state(self.path, self.record)


def load_weights(path: Path, record: Record, model: nn.Module) -> None:
    """Put a checkpoint's weights into a model.

    Raises
    ------
    ConfigError
        They are another model's.
    """
    try:
        bare(model).load_state_dict(read_weights(path, record))
    except RuntimeError as error:
        raise ConfigError(
            f"{path.name} holds weights of {record.model_class}, which do not fit {type(bare(model)).__qualname__}: {error}"
        ) from error


def load_state(path: Path, record: Record, parts: Mapping[str, HasState], *, random: bool) -> None:
    """Put the state beside a checkpoint into the optimizer and what else there is, by name, and into the random generators.

    Raises
    ------
    ConfigError
        It was saved without one of them, or the state is of another kind of optimizer, without what this one needs.
    """
    state = read_state(path, record)
    for name, one in parts.items():
        if name not in state:
            raise ConfigError(
                f"{path.name} holds no state of the {name}: it was saved without. Leave it out of resume(), or begin anew with save_weights_only=False"
            )
        was, now = record.state_classes.get(name, ""), type(one).__qualname__
        if was and not (was.endswith(now) or now.endswith(was)):  # Lightning's is LightningAdam
            _log.warning("the %s in %s is of %s; %s may not fit", name, path.name, was, now)
        needed = set(getattr(one, "defaults", ()))  # loading adds to these
        one.load_state_dict(state[name])
        # torch takes the state of any optimizer, and the next step fails.
        missing = sorted(
            {key for group in getattr(one, "param_groups", ()) for key in needed - set(group)}
        )
        if missing:
            raise ConfigError(
                f"{path.name} holds the state of {was or 'another optimizer'} without {', '.join(missing)}, which {now} needs; "
                f"give resume() an optimizer of the same kind, or leave it out to begin with a new {now}"
            )
    if random and "random" in state:
        random_states.restore(state["random"])


def _best(of_run: dict[str, Record]) -> str:
    """Return the name of the best of a training's files, oldest first; of the newest where none is ranked."""
    newest = next(reversed(of_run.values()))
    ranking = Newest(-1) if newest.monitor is None else TopK(-1, newest.settings["mode"])
    for name, score in scores_by(newest.monitor, of_run).items():
        ranking.add(name, score)
    return ranking.best or next(reversed(of_run))
