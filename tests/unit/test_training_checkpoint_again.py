"""Checkpoints of a training that goes on: after it was stopped, after a step that was refused, after a full disk."""

from __future__ import annotations

import math
import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tocsin.core.errors import ConfigError, NonFiniteError, StorageError
from tocsin.training import ModelCheckpoint
from tocsin.training.kept_files import KeptFiles


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.safetensors"))


def five(folder: Path, **settings: Any) -> nn.Linear:
    """Train five epochs, the worst of them last; the weights tell the epoch."""
    model = nn.Linear(2, 1)
    checkpoint = ModelCheckpoint(folder, "{epoch}", "loss", save_top_k=5, model=model, **settings)
    for epoch, loss in enumerate((0.3, 0.2, 0.4, 0.1, 0.5)):
        model.bias.data.fill_(epoch)
        checkpoint.step(loss)
    return model


@pytest.mark.parametrize("save_last", [None, True, "link"])
def test_a_training_gone_on_with_fewer_best_ones_loses_no_epoch(
    tmp_path: Path, save_last: Any
) -> None:
    model = five(tmp_path, save_last=save_last)
    ModelCheckpoint.resume(tmp_path, model, save_top_k=2)
    model.bias.data.zero_()
    resumed = ModelCheckpoint.resume(tmp_path, model, save_top_k=2)
    assert (resumed.next_epoch, model.bias.item()) == (5, 4)
    assert [path.stem for path in resumed.kept] == ["epoch=1", "epoch=3"]
    assert "epoch=4" in names(tmp_path) or save_last is True
    resumed.step(0.6)
    last = ["last"] if save_last else ["epoch=4"]  # nothing newer is on the disk yet
    assert names(tmp_path) == sorted(["epoch=1", "epoch=3", *last])
    resumed.step(0.05)
    assert names(tmp_path) == ["epoch=3", "epoch=6"] + (["last"] if save_last else [])
    assert len(list(tmp_path.glob("*.state"))) == len(
        [path for path in tmp_path.glob("*.safetensors") if not path.is_symlink()]
    )


def test_a_folder_that_cannot_be_gone_on_with_is_left_as_it_is(tmp_path: Path) -> None:
    five(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="do not fit"):
        ModelCheckpoint.resume(tmp_path, nn.Linear(3, 1), save_top_k=2)
    assert sorted(tmp_path.iterdir()) == before


@contextmanager
def full_disk(size: int) -> Generator[None]:
    """Let no file be larger than a number of bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_crossing_that_could_not_be_saved_is_saved_by_the_next_step(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(
        tmp_path, "{epoch}", "loss", max_value=1.0, action=["save", "stop"], model=nn.Linear(2, 1)
    )
    checkpoint.step(0.3)
    for expected in ("crossing-epoch=2", "crossing-epoch=5"):
        with full_disk(500), pytest.raises(StorageError):
            checkpoint.step(2.0)
        assert checkpoint.should_stop
        assert expected not in names(tmp_path)
        checkpoint.step(2.1)
        checkpoint.step(0.9)
        assert names(tmp_path)[: len(checkpoint.crossings)][-1] == expected
    assert [one.value for one in checkpoint.crossings] == [2.0, 2.0]
    with full_disk(500), pytest.raises(StorageError):
        checkpoint.step(2.0)
    checkpoint.step(0.95)  # it is within its bounds again, and these weights are of no crossing
    assert len(names(tmp_path)) == 3


def test_a_step_that_is_refused_is_not_counted(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    checkpoint = ModelCheckpoint(tmp_path, "{epoch}-{step}-{f1}", "loss", max_value=1.0, action="stop", nan="raise", model=model)  # fmt: skip
    with pytest.raises(ConfigError, match="not measured"):
        checkpoint.step(0.3)
    checkpoint.step(0.3, f1=1)
    assert names(tmp_path) == ["epoch=0-step=1-f1=1.0"]
    with pytest.raises(NonFiniteError):
        checkpoint.step(math.nan, f1=1)
    assert [one.epoch for one in checkpoint.crossings] == [1]
    assert checkpoint.should_stop
    checkpoint.attach(model, scheduler=OfNoState())
    with pytest.raises(ConfigError, match=r"state\.scheduler is of type object"):
        checkpoint.step(0.2, f1=1)
    checkpoint.attach(model)
    checkpoint.step(0.2, f1=1)
    assert names(tmp_path) == ["epoch=1-step=2-f1=1.0"]


class OfNoState:
    """A scheduler whose state is nothing that is saved."""

    def state_dict(self) -> Any:
        return object()

    def load_state_dict(self, state: Any) -> None:
        raise AssertionError(state)


def test_a_step_tried_again_after_a_full_disk_is_the_same_step(tmp_path: Path) -> None:
    model = nn.Linear(40, 40)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    checkpoint = ModelCheckpoint(
        tmp_path, "{epoch}-{step}", "loss", save_top_k=2, save_last=True, model=model
    )
    checkpoint.step(0.3)
    optimizer.step()
    for named in ({}, {"epoch": 1}):  # the loop tries until there is room
        with full_disk(500), pytest.raises(StorageError):
            checkpoint.step(0.3, **named)
    assert (checkpoint.next_epoch, checkpoint.global_step) == (2, 2)
    checkpoint.step(0.3)
    assert names(tmp_path) == ["epoch=0-step=1", "epoch=1-step=2", "last"]
    with full_disk(500), pytest.raises(StorageError):
        checkpoint.step(0.2)
    optimizer.step()  # it goes on: the next epoch happens to have the same value
    checkpoint.step(0.2)
    assert names(tmp_path) == ["epoch=1-step=2", "epoch=3-step=4", "last"]


def test_a_step_tried_again_saves_what_is_not_saved_yet(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    checkpoint = ModelCheckpoint(
        tmp_path, "{epoch}", "loss", save_top_k=2, save_last=True, model=model
    )
    checkpoint.step(0.3)
    last = tmp_path / "last.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeptFiles, "_write_last", refuse)
        for _ in range(2):
            with pytest.raises(StorageError):
                checkpoint.step(0.2)
    assert ModelCheckpoint.load(last).epoch == 0
    checkpoint.step(0.2)
    assert ModelCheckpoint.load(last).epoch == 1
    assert [path.stem for path in checkpoint.kept] == ["epoch=0", "epoch=1"]
    assert names(tmp_path) == ["epoch=0", "epoch=1", "last"]


def refuse(*_: object) -> None:
    raise StorageError("no room")
