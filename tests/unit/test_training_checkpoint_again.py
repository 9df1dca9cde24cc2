"""Checkpoints of a training that goes on: after it was stopped, after a step that was refused, after a full disk; and what is said, or taken, of what is given to them."""

from __future__ import annotations

import math
import os
import random
import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tocsin.core.errors import ConfigError, NonFiniteError, StorageError
from tocsin.training import ModelCheckpoint
from tocsin.training.atomic_file import replacing
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
    checkpoint = ModelCheckpoint(tmp_path, "{epoch}-{step}-{f1}", "loss", max_value=1.0, action="stop", model=model)  # fmt: skip
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
    for epoch in (None, 1):  # the loop tries until there is room
        with full_disk(500), pytest.raises(StorageError):
            checkpoint.step(0.3, epoch=epoch)
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


def test_a_training_gone_on_with_is_stopped_again_by_values_out_of_bounds(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_last": True, "max_value": 1.0, "action": "stop"}
    model = nn.Linear(2, 1)
    stopped = ModelCheckpoint(tmp_path, monitor="loss", model=model, **settings)
    stopped.step(0.3)
    stopped.step(5.0)
    assert stopped.should_stop
    resumed = ModelCheckpoint.resume(tmp_path, model)
    resumed.step(0.9)
    assert not resumed.should_stop
    resumed = ModelCheckpoint.resume(tmp_path, model)
    resumed.step(6.0)
    assert resumed.should_stop
    assert [one.epoch for one in resumed.crossings] == [3]
    resumed.step(7.0)
    again = ModelCheckpoint.resume(tmp_path, model, nan="worst")
    again.step(math.nan)
    assert again.should_stop


def test_words_of_lightning_that_mean_nothing_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = ModelCheckpoint(None, every_n_train_steps=0, model=nn.Linear(2, 1))
    checkpoint.step()
    assert names(tmp_path / "checkpoints") == ["epoch=0-step=1"]
    assert ModelCheckpoint.resume("checkpoints").next_epoch == 1


@pytest.mark.parametrize(
    ("monitor", "given", "score"),
    [
        ("loss", {"val_loss": 0.3}, 0.3),
        ("loss", {"train_loss": 0.4, "val_accuracy": 0.9}, 0.4),
        ("loss", {"loss": 0.1, "val_loss": 0.3}, 0.1),
        ("val_loss", {"loss": 0.2}, 0.2),
        ("loss", {"train_loss": 0.4, "val_loss": 0.3}, None),
        ("val_loss", {"train_loss": 0.4}, None),
        ("val_loss", {"loss": 0.2, "train_loss": 0.4}, None),
        ("loss", {"losses": 0.3}, None),
    ],
)
def test_a_quantity_goes_by_its_name_in_validation(
    tmp_path: Path, monitor: str, given: dict[str, float], score: float | None
) -> None:
    template = f"{{epoch}}-{{{monitor}:.1f}}"
    checkpoint = ModelCheckpoint(tmp_path, template, monitor, model=nn.Linear(2, 1))
    if score is None:
        with pytest.raises(ConfigError, match=f"monitor='{monitor}' is not among"):
            checkpoint.step(given)
    else:
        checkpoint.step(given)
        assert names(tmp_path) == [f"epoch=0-{monitor}={score}"]
        assert checkpoint.best_model_score == score


def test_names_of_files_go_by_it_too(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(
        tmp_path, "{loss:.1f}-{accuracy}", "val_loss", model=nn.Linear(2, 1)
    )
    checkpoint.step(0.3, val_accuracy=1)
    assert names(tmp_path) == ["loss=0.3-accuracy=1.0"]
    with pytest.raises(ConfigError, match=r"names \{accuracy\}, which is not measured"):
        checkpoint.step(0.2, val_accuracy=1, train_accuracy=1)


class Extra(nn.Module):
    def __init__(self, state: Any = None) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 1)
        self.state = state

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        self.state = state


def test_extra_state_of_modules_is_saved(tmp_path: Path) -> None:
    mean = torch.arange(3.0)
    one, other = Extra({"seen": 3, "names": ["a", "b"], "mean": mean}), Extra(7)
    checkpoint = ModelCheckpoint(
        tmp_path, monitor="loss", save_last=True, model=nn.Sequential(one, other)
    )
    checkpoint.step(0.3)
    (tmp_path / "last.safetensors").unlink()  # as if killed before it: resume copies it
    first, second = Extra(), Extra()
    found = nn.Sequential(first, second)
    ModelCheckpoint.resume(tmp_path, found)
    ModelCheckpoint.load(tmp_path / "last.safetensors", found)
    assert (first.state["seen"], first.state["names"], second.state) == (3, ["a", "b"], 7)
    assert torch.equal(first.state["mean"], mean)
    assert torch.equal(first.inner.weight, one.inner.weight)


@pytest.mark.parametrize(
    ("filename", "model", "said"),
    [
        (None, nn.LazyLinear(3), "weight of LazyLinear has no shape yet.* Run a batch"),
        (None, nn.Linear(2, 1, device="meta"), "weight of Linear is a .* on meta .* with values"),
        (None, Extra(object()), "_extra_state is of type object.* let get_extra_state"),
        ("\u00e9" * 101, nn.Linear(2, 1), "a name of 202 bytes; expected 200 at most. Make it"),
    ],
)
def test_what_cannot_be_saved_is_said(
    tmp_path: Path, filename: str | None, model: nn.Module, said: str
) -> None:
    checkpoint = ModelCheckpoint(tmp_path, filename, "loss", model=model)
    with pytest.raises(ConfigError, match=said):
        checkpoint.step(0.3)
    assert not list(tmp_path.iterdir())


def test_the_longest_name_is_saved_and_a_longer_one_is_the_storages_error(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(
        tmp_path, "x" * 200, "loss", save_top_k=2, max_value=0.1, action="save", model=nn.Linear(2, 1),
    )  # fmt: skip
    for _ in range(2):
        checkpoint.step(0.3)
    assert len(names(tmp_path)) == 3
    with pytest.raises(StorageError, match="too long"), replacing(tmp_path / ("x" * 250)) as path:
        path.touch()


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is written, synchronised, renamed, and its folder synchronised: state first, then the weights that name it."""
    calls: list[tuple[str, str, bytes]] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        fsync(descriptor)
        content = b"" if path.is_dir() else path.read_bytes()
        calls.append(("fsync", path.name, content))

    def recorded_replace(source: Any, target: Any, **options: Any) -> None:
        content = Path(source).read_bytes()
        replace(source, target, **options)
        calls.append(("rename", f"{Path(source).name} to {Path(target).name}", content))

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    checkpoint = ModelCheckpoint(
        tmp_path, "{epoch}", "loss", save_last=True, model=model, optimizer=optimizer
    )
    checkpoint.step(0.5)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert len(written) == 4, "weights and state of the best and of the last"
    expected: list[tuple[str, str, bytes]] = []
    for name in sorted(written, key=lambda name: [one[1].endswith(f" to {name}") for one in calls].index(True)):  # fmt: skip
        content = (tmp_path / name).read_bytes()
        assert content
        temporary = f".{name}.tocsin-tmp"
        expected += [
            ("fsync", temporary, content),
            ("rename", f"{temporary} to {name}", content),
            ("fsync", tmp_path.name, b""),
        ]
    assert calls == expected
    suffixes = [what.rpartition(".")[2] for call, what, _ in calls if call == "rename"]
    assert suffixes == ["state", "safetensors"] * 2


class Stepwise:
    """A training by batches, with dropout and augmentation of the global generators, whose order is of a generator that each epoch seeds."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        random.seed(1)
        self.model = nn.Sequential(
            nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 1)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)
        self.parts: dict[str, Any] = {
            "model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler,
        }  # fmt: skip
        x = torch.randn(7 * 4, 3, generator=torch.Generator().manual_seed(5))
        self.order = torch.Generator()
        self.loader = DataLoader(
            TensorDataset(x, x.sum(1)), 4, shuffle=True, generator=self.order, num_workers=0
        )
        self.losses: list[float] = []

    def run(self, checkpoint: ModelCheckpoint | None, *, until: int) -> None:
        """Go on from the checkpoint's step; stop, as if killed, after a number of steps."""
        done = 0 if checkpoint is None else checkpoint.global_step
        for epoch in range(done // 7, 3):
            self.order.manual_seed(epoch)
            for number, (x, y) in enumerate(self.loader):
                if 7 * epoch + number < done:
                    continue  # the epoch's batches before it
                noise = random.random() + float(np.random.rand())  # noqa: NPY002
                loss = (self.model(x + 0.1 * torch.randn(4, 3)) - y[:, None] - noise).square().mean()  # fmt: skip
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.scheduler.step()
                self.losses.append(float(loss.detach()))
                done += 1
                if checkpoint is not None:
                    checkpoint.step(loss, epoch=epoch)
                if done == until:
                    return

    def states(self) -> list[Any]:
        rest = [torch.get_rng_state().tolist(), random.getstate(), np.random.rand(3).tolist()]  # noqa: NPY002
        return [str(self.optimizer.state_dict()), str(self.scheduler.state_dict()), *rest]


@pytest.mark.parametrize("killed_after", [13, 14, 15, 18])
def test_a_training_killed_in_the_midst_of_an_epoch_goes_on_bit_for_bit(
    tmp_path: Path, killed_after: int
) -> None:
    """What was done since the last step that was saved is done once more, to the same weights."""
    whole = Stepwise()
    whole.run(None, until=21)
    expected = whole.states()
    first = Stepwise()
    first.run(
        ModelCheckpoint(tmp_path, "{step}", "loss", every_n_train_steps=5, save_last=True, **first.parts),
        until=killed_after,
    )  # fmt: skip
    assert first.losses == whole.losses[:killed_after], "saving changes nothing"
    second = Stepwise()
    torch.manual_seed(99)  # another process
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    resumed = ModelCheckpoint.resume(tmp_path, **second.parts)
    saved = killed_after // 5 * 5
    assert (resumed.global_step, resumed.next_epoch) == (saved, (saved - 1) // 7)
    second.run(resumed, until=21)
    assert second.losses == whole.losses[saved:]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert second.states() == expected
    assert resumed.global_step == 21
    assert ModelCheckpoint.load(tmp_path, which="last").step == 20
