"""Checkpoints of a training that goes on: after it was stopped, after a step that was refused, after a full disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tocsin.core.errors import ConfigError
from tocsin.training import ModelCheckpoint


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
    for _ in range(2):
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
