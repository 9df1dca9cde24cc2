"""One checkpoint on the disk: weights with what they are, and beside them the state to go on with.

`NAME.safetensors` holds the weights and, in its metadata, the record of the checkpoint. `NAME.ORDER.state`, a safetensors
file too, holds the state of optimizer, scheduler and random numbers. The state is written first, and the record says which file it is in: the moment
at which the weights take their name is the moment at which the checkpoint is there, whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn.parameter import is_lazy

from .. import __version__
from ..core.errors import ConfigError, StateError, StorageError
from .atomic_file import TEMPORARY, replacing
from .layers import bare
from .plain_state import flatten, rebuild
from .tensor_file import write_tensors

SUFFIX = ".safetensors"
STATE = re.compile(r"\.\d+\.state$")

Role = Literal["best", "last", "crossing"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What the metadata of a checkpoint says.

    Parameters
    ----------
    run, order
        Which training it is of, and the how manieth file of it.
    saved_ns
        When it was written, nanoseconds since 1970.
    role
        One of the best, the last one, or of a threshold crossed.
    epoch, step
        The epoch that ended, from 0, and the number of steps so far.
    monitor, score
        The monitored quantity and its value, as it came.
    metrics
        All values that came with it.
    settings
        What `ModelCheckpoint` was made with.
    state
        Name of the file of the state; None where only weights are saved.
    state_classes
        What of the state is of which class, `optimizer` say.
    tocsin_version, model_class
        Who wrote it, and what the weights are of.
    tied
        Names of weights that are another one's, under one memory, and that one's name.
    extra
        What modules gave as `get_extra_state()`, by its name in the `state_dict`, as `plain_state` takes it apart.
    """

    run: str
    order: int
    saved_ns: int
    role: Role
    epoch: int
    step: int
    monitor: str | None
    score: float | None
    metrics: dict[str, float]
    settings: dict[str, Any]
    state: str | None = None
    state_classes: dict[str, str] = {}
    tocsin_version: str = __version__
    model_class: str = ""
    tied: dict[str, str] = {}
    extra: dict[str, Any] = {}


def write(path: Path, model: nn.Module, record: Record, state: Mapping[str, Any] | None) -> Record:
    """Write a checkpoint; when this returns it is on the disk, and before that the file of the same name was whole.

    Parameters
    ----------
    path
        Where, with the suffix; the folder is made.
    model
        Whose weights. Tied ones are written once.
    record
        What else is known.
    state
        The state to go on with, or None.

    Returns
    -------
    The record as it was written.

    Raises
    ------
    StorageError
        The disk is full, or refuses; what lay there is as it was.
    ConfigError
        Weights or state that are no tensors and numbers.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"dirpath {path.parent} cannot be made: {error.strerror}") from error
    weights, tied, extra = _weights(bare(model))
    kind = type(bare(model))
    record = msgspec.structs.replace(
        record, tied=tied, extra=extra, model_class=f"{kind.__module__}.{kind.__qualname__}"
    )
    return _commit(path, weights, record, state)


def copy(path: Path, to: Path, record: Record) -> Record:
    """Write a checkpoint of a folder once more, under another name and record.

    Raises
    ------
    StateError
        It is damaged.
    StorageError
        The disk is full, or refuses.
    """
    of = read_record(path)
    state = read_state(path, of) if of.state else None
    return _commit(to, load_file(path), record, state)


def _commit(
    path: Path,
    weights: dict[str, torch.Tensor],
    record: Record,
    state: Mapping[str, Any] | None,
) -> Record:
    """Write the state, then the weights; then take away the state of the file that had the name."""
    former = _own_state(path)
    beside = None
    if state is not None:
        beside = path.with_name(f"{path.stem}.{record.order}.state")
        tree, tensors = flatten(dict(state), "state")
        _save(beside, tensors, {"state": json.dumps(tree)})
    record = msgspec.structs.replace(record, state=beside.name if beside else None)
    metadata = {
        "format": "pt", "tocsin_version": __version__, "model_class": record.model_class,
        "epoch": str(record.epoch), "step": str(record.step),
        "monitor": str(record.monitor), "metric": str(record.score),
        "checkpoint": json.dumps(msgspec.to_builtins(record)),
    }  # fmt: skip
    try:
        _save(path, weights, metadata)
    except BaseException:
        if beside and beside != _own_state(path):  # Ctrl-C may come when the file has its name
            beside.unlink(missing_ok=True)
        raise
    if former and former != beside:
        former.unlink(missing_ok=True)
    return record


def link(path: Path, to: Path) -> None:
    """Make a checkpoint's name a symbolic link to another one of the folder, in one step.

    Raises
    ------
    StorageError
        The file system refuses links.
    """
    former = _own_state(path)
    with replacing(path) as temporary:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(to.name)
    if former:
        former.unlink(missing_ok=True)


def read_record(path: Path) -> Record:
    """Return what a file's metadata says, without its weights.

    Raises
    ------
    StateError
        It is no checkpoint of tocsin, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {})["checkpoint"]
        return msgspec.convert(json.loads(text), Record)
    except (SafetensorError, OSError, KeyError, ValueError, msgspec.ValidationError) as error:
        raise StateError(
            f"{path} is no checkpoint of tocsin, or is damaged ({type(error).__name__}: {error})"
        ) from error


def read_weights(path: Path, record: Record) -> dict[str, Any]:
    """Return the weights by name, on the CPU, tied ones under both names, and the extra state of modules as it was.

    Raises
    ------
    StateError
        The file is damaged.
    """
    try:
        tensors = load_file(path)
        within = tuple(f"{name}." for name in record.extra)
        weights = {name: one for name, one in tensors.items() if not name.startswith(within)}
        weights |= {name: weights[of] for name, of in record.tied.items()}
        return weights | {name: rebuild(tree, tensors) for name, tree in record.extra.items()}
    except (SafetensorError, OSError, KeyError) as error:
        raise StateError(
            f"the weights in {path} cannot be read ({error}); take an older checkpoint"
        ) from error


def read_state(path: Path, record: Record) -> dict[str, Any]:
    """Return the state beside the weights; empty where there is none.

    Raises
    ------
    StateError
        The file is missing or damaged.
    """
    if record.state is None:
        return {}
    beside = path.with_name(record.state)
    try:
        with safe_open(beside, framework="pt") as file:
            tree = json.loads((file.metadata() or {})["state"])
        state: dict[str, Any] = rebuild(tree, load_file(beside))
        return state
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise StateError(
            f"{beside}, the state beside {path.name}, cannot be read ({error}); the weights can be loaded without it"
        ) from error


def remove(path: Path) -> None:
    """Take a checkpoint away: the weights, and with them the record, first."""
    state = _own_state(path)
    path.unlink(missing_ok=True)
    if state:
        state.unlink(missing_ok=True)


def records(folder: Path) -> tuple[dict[str, Record], list[str]]:
    """Return the record of each checkpoint of a folder by file name, oldest first, and the names of files that cannot be read."""
    found: dict[str, Record] = {}
    damaged: list[str] = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.is_symlink():
            continue
        try:
            found[path.name] = read_record(path)
        except StateError:
            damaged.append(path.name)
    return dict(sorted(found.items(), key=lambda item: (item[1].saved_ns, item[1].order))), damaged


def sweep(folder: Path, kept: Mapping[str, Record]) -> None:
    """Take away what a stopped process left: files not yet named, and states that no record names."""
    named = {record.state for record in kept.values()}
    for path in folder.iterdir():
        half = path.name.startswith(".") and path.name.endswith(TEMPORARY)
        if half or (STATE.search(path.name) and path.name not in named):
            path.unlink(missing_ok=True)


def _own_state(path: Path) -> Path | None:
    """Return the file of a checkpoint's state; a link has none of its own."""
    if path.is_symlink() or not path.exists():
        return None
    try:
        state = read_record(path).state
    except StateError:
        return None
    return path.with_name(state) if state else None


def _weights(
    model: nn.Module,
) -> tuple[dict[str, torch.Tensor], dict[str, str], dict[str, Any]]:
    """Return the weights, each once, the names that are left out, and the extra state of modules, with its tensors among the weights.

    Views of one memory that differ are written as tensors of their own.
    """
    weights: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    extra: dict[str, Any] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            extra[name], parts = flatten(tensor, name, "let get_extra_state() give such")
            weights |= parts
            continue
        if is_lazy(tensor):
            raise ConfigError(
                f"{name} of {type(model).__qualname__} has no shape yet; expected weights. Run a batch through the model first"
            )
        if tensor.layout != torch.strided or tensor.is_meta:
            raise ConfigError(
                f"{name} of {type(model).__qualname__} is a {tensor.layout} tensor on {tensor.device} that safetensors cannot hold;"
                " expected dense tensors with values in its state_dict"
            )
        place = (
            tensor.untyped_storage().data_ptr(),
            tensor.storage_offset(),
            tensor.shape,
            tensor.stride(),
            tensor.dtype,
            tensor.device,
        )
        if tensor.numel() and place in seen:
            tied[name] = seen[place]
            continue
        seen[place] = name
        weights[name] = tensor.detach()
    return weights, tied, extra


def _save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    with replacing(path) as temporary:
        write_tensors(temporary, tensors, metadata)
