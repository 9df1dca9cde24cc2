"""What a folder is gone on with: another quantity, another optimizer, after a save that was stopped, or with a value that waited."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from tocsin.core.errors import ConfigError, StorageError
from tocsin.training import ModelCheckpoint


def test_another_quantity_ranks_what_was_saved_of_it(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    checkpoint = ModelCheckpoint(tmp_path, "{epoch}", "val_loss", save_top_k=3, model=model)
    for loss, accuracy in ((5.0, 0.7), (4.0, 0.8), (3.0, 0.6)):
        checkpoint.step({"val_loss": loss, "accuracy": accuracy})
    with pytest.raises(ConfigError, match=r"monitor='f1' is not among .* \(val_loss, accuracy\)"):
        ModelCheckpoint.resume(tmp_path, model, monitor="f1")
    checkpoint = ModelCheckpoint.resume(
        tmp_path, model, monitor="accuracy", mode="max", save_top_k=2
    )
    assert list(checkpoint.best_k_models.values()) == [0.7, 0.8]
    checkpoint.step({"val_loss": 9.0, "accuracy": 0.75})
    assert [path.stem for path in checkpoint.kept] == ["epoch=1", "epoch=3"]
    assert ModelCheckpoint.load(tmp_path).epoch == 1
    assert ModelCheckpoint.resume(tmp_path).best_model_score == 0.8


def test_a_quantity_goes_by_its_other_names_and_an_older_folder_is_read(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    checkpoint = ModelCheckpoint(tmp_path, "{epoch}", "loss", save_top_k=3, model=model)
    for loss in (0.5, 0.3):
        checkpoint.step(loss)
    checkpoint = ModelCheckpoint.resume(tmp_path, model, monitor="val_loss")
    assert list(checkpoint.best_k_models.values()) == [0.5, 0.3]
    checkpoint.step(val_loss=0.4)
    assert ModelCheckpoint.load(tmp_path).epoch == 1
    assert ModelCheckpoint.resume(tmp_path, model).best_model_score == 0.3
    other = checkpoint._files  # what was saved of another quantity, as by versions before
    checkpoint = ModelCheckpoint(tmp_path, "{epoch}", "accuracy", mode="max", model=model)
    checkpoint._files, checkpoint.next_epoch = other, 3
    checkpoint.step(accuracy=0.2)
    assert ModelCheckpoint.load(tmp_path, which="last").epoch == 3
    assert ModelCheckpoint.load(tmp_path).score in {0.2, 0.3, 0.4}
    assert ModelCheckpoint.resume(tmp_path, model).next_epoch == 4


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(5, "Input/output error")])
@pytest.mark.parametrize("at", range(4))
def test_a_save_that_is_stopped_between_two_steps_leaves_what_can_be_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException, at: int
) -> None:
    """The first two look at the state's name, the others at that of the weights."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    checkpoint = ModelCheckpoint(tmp_path, "best", "loss", model=model, optimizer=optimizer)
    checkpoint.step(1.0)
    fsync, calls = os.fsync, iter(range(9))

    def stopped(descriptor: int) -> None:
        fsync(descriptor)
        if next(calls) == at:
            raise stop

    monkeypatch.setattr(os, "fsync", stopped)
    try:
        checkpoint.step(0.5)
    except (KeyboardInterrupt, StorageError):
        pass
    else:
        assert at % 2 == 1, "of a folder: the file is there"
    monkeypatch.undo()
    resumed = ModelCheckpoint.resume(tmp_path, model, optimizer)
    is_new = at == 3 or (at == 1 and isinstance(stop, OSError))
    assert resumed.best_model_score == (0.5 if is_new else 1.0)
    if isinstance(stop, OSError):
        assert checkpoint.best_model_score == resumed.best_model_score


@pytest.mark.parametrize("kind", ["Adafactor", "LBFGS", "NAdam", "Rprop", "ASGD"])
def test_optimizers_of_all_kinds_are_gone_on_with(tmp_path: Path, kind: str) -> None:
    model = nn.Linear(2, 1)
    make = getattr(torch.optim, kind)
    optimizer = make(model.parameters(), lr=0.1)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found: torch.Tensor = model(torch.ones(1, 2)).square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    ModelCheckpoint(tmp_path, model=model, optimizer=optimizer).step()
    optimizer.step(loss)
    after = model.weight.clone()
    optimizer = make(model.parameters(), lr=0.1)
    ModelCheckpoint.resume(tmp_path, model, optimizer)
    optimizer.step(loss)
    assert torch.equal(model.weight, after)


def test_a_value_that_waits_is_what_it_was_when_it_came(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(
        tmp_path, monitor="loss", every_n_train_steps=10, save_last=True, model=nn.Linear(2, 1)
    )
    running = torch.tensor(3.0, requires_grad=True) * 1
    checkpoint.step(running)
    running.data += 100
    checkpoint.finish()
    assert ModelCheckpoint.load(tmp_path, which="last").score == 3.0
