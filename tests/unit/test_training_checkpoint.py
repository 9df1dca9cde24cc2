"""Checkpoints: what is saved, which are kept, what resume finds, and what errors say."""

from __future__ import annotations

import logging
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import nn

from tocsin.core.errors import ConfigError, NonFiniteError, StateError, StorageError
from tocsin.training import Crossing, ModelCheckpoint
from tocsin.training.plain_state import flatten, rebuild
from tocsin.training.tensor_file import write_tensors


def names(folder: Path, suffix: str = ".safetensors") -> list[str]:
    return sorted(path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}"))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


class Trained:
    """A small training that draws from all three random generators."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        self.model = nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [2, 4], 0.5)
        self.parts: dict[str, Any] = {
            "model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler,
        }  # fmt: skip

    def epoch(self) -> float:
        noise = random.random() + float(np.random.rand())  # noqa: NPY002
        for _ in range(3):
            loss = (self.model(torch.randn(8, 3)) - noise).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.scheduler.step()
        return float(loss.detach())


def test_the_example_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    num_epochs, val_loss = 3, torch.tensor(0.25)
    checkpoint = ModelCheckpoint(monitor='loss', max_value=1e-4, verbose=True, save_top_k=3, mode='min', filename='best-{epoch:02d}-{val_loss:.2f}')  # fmt: skip # noqa: Q000
    for epoch in range(num_epochs): checkpoint.step(val_loss)  # noqa: B007, E701 # fmt: skip
    said = [record.getMessage() for record in caplog.records]
    assert [one for one in said if "no model" in one] == said[:1]
    assert len(said) == 2
    assert "loss is 0.25, above (max_value=0.0001)" in said[1]
    assert not list(tmp_path.iterdir())
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "epoch 0, step 1: loss 0.25, nothing saved, there is no model"
    assert len(printed) == num_epochs
    checkpoint.attach(nn.Linear(2, 1))
    checkpoint.step(0.1, epoch=7)
    assert names(tmp_path / "checkpoints") == ["best-epoch=07-val_loss=0.10"]


def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    whole = Trained()
    losses = [whole.epoch() for _ in range(6)]

    first = Trained()
    checkpoint = ModelCheckpoint(tmp_path, monitor="loss", save_last=True, **first.parts)
    for _ in range(3):
        checkpoint.step(first.epoch())

    second = Trained()
    second.epoch()  # its states are others by now
    resumed = ModelCheckpoint.resume(tmp_path, **second.parts)
    assert resumed.next_epoch == 3
    assert [second.epoch() for _ in range(3)] == losses[3:]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert whole.scheduler.state_dict() == second.scheduler.state_dict()


def test_saving_draws_no_random_number_and_leaves_the_model_alone(tmp_path: Path) -> None:
    plain, watched = Trained(), Trained()
    losses = [plain.epoch() for _ in range(3)]
    watched = Trained()
    checkpoint = ModelCheckpoint(
        tmp_path, monitor="loss", save_top_k=-1, save_last="link", **watched.parts
    )
    for loss in losses:
        found = watched.epoch()
        assert found == loss
        checkpoint.step(found)
    assert torch.equal(plain.model[0].weight, watched.model[0].weight)
    assert watched.model[0].weight.requires_grad


@pytest.mark.parametrize(
    ("settings", "scores", "kept"),
    [
        ({"save_top_k": 2}, [3, 1, 2, 0.5], [1, 3]),
        ({"save_top_k": 2, "mode": "max"}, [3, 1, 2, 0.5], [0, 2]),
        ({"save_top_k": 2}, [1, 1, 1], [0, 1]),  # as good as the worst is not better
        ({"save_top_k": 2}, [1, 1, 0], [1, 2]),  # of equal ones the oldest goes
        ({"save_top_k": 2}, [math.nan, 5, 4, math.nan], [1, 2]),
        ({"save_top_k": 2}, [math.nan, math.inf, math.inf, 4], [1, 3]),
        ({"save_top_k": -1}, [3, math.nan, 2], [0, 1, 2]),
        ({"save_top_k": 0}, [3, 1, 2], []),
    ],
)
def test_the_best_are_kept(
    tmp_path: Path, settings: dict[str, Any], scores: list[float], kept: list[int]
) -> None:
    checkpoint = ModelCheckpoint(
        tmp_path, "{epoch}", "loss", nan="worst", model=nn.Linear(2, 1), **settings
    )
    for score in scores:
        checkpoint.step(score)
    assert names(tmp_path) == [f"epoch={epoch}" for epoch in kept]
    assert len(names(tmp_path, ".state")) == len(kept)


def test_without_a_quantity_the_newest_is_kept(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    for k in (1, -1, 0):
        checkpoint = ModelCheckpoint(tmp_path / str(k), save_top_k=k, model=model)
        for loss in (1.0, 2.0, 3.0):
            checkpoint.step(loss=loss)
    assert names(tmp_path / "1") == ["epoch=2-step=3"]
    assert names(tmp_path / "-1") == ["epoch=0-step=1", "epoch=1-step=2", "epoch=2-step=3"]
    assert names(tmp_path / "0") == []
    resumed = ModelCheckpoint.resume(tmp_path / "1", model)
    resumed.step(loss=1.0)
    assert names(tmp_path / "1") == ["epoch=3-step=4"]


def test_equal_names_are_numbered_and_given_again(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, "best", "loss", save_top_k=2, model=nn.Linear(2, 1))
    checkpoint.step(3.0)
    checkpoint.step(2.0)
    assert names(tmp_path) == ["best", "best-v1"]
    checkpoint.step(1.0)  # in place of the worst, under its name
    assert names(tmp_path) == ["best", "best-v1"]
    assert ModelCheckpoint.load(tmp_path / "best.safetensors").score == 1.0
    assert len(names(tmp_path, ".state")) == 2
    other = ModelCheckpoint(tmp_path, "best", "loss", model=nn.Linear(2, 1))
    other.step(9.0)  # another training leaves these files alone
    assert names(tmp_path) == ["best", "best-v1", "best-v2"]
    assert ModelCheckpoint.load(tmp_path).score == 9.0


def test_the_last_one_is_the_last_step_also_as_a_link(tmp_path: Path) -> None:
    for how in (True, "link"):
        folder = tmp_path / str(how)
        model = nn.Linear(2, 1)
        checkpoint = ModelCheckpoint(folder, "{epoch}", "loss", save_last=how, model=model)  # type: ignore[arg-type]
        for epoch, loss in enumerate((3.0, 2.0, 5.0, 1.0, 0.5)):
            model.bias.data.fill_(epoch)
            checkpoint.step(loss)
            last = ModelCheckpoint.load(folder / "last.safetensors")
            assert last.epoch == epoch
            assert last.weights()["bias"].item() == epoch
            assert "random" in last.state()
            assert all(
                (folder / (ModelCheckpoint.load(p).record.state or "")).is_file()
                for p in checkpoint.kept
            )
        assert (folder / "last.safetensors").is_symlink() == (how == "link")
        assert len(list(folder.iterdir())) == (3 if how == "link" else 4)
        again = ModelCheckpoint.resume(folder, model)
        again.step(7.0)
        assert names(folder) == ["epoch=4", "last"]
        assert again.last_model_path == checkpoint.last_model_path
        assert ModelCheckpoint.load(folder, which="last").epoch == 5
        assert ModelCheckpoint.load(folder, which="best").epoch == 4


def test_steps_of_training_are_counted(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(
        tmp_path, "{step}", "loss", every_n_train_steps=3, save_top_k=-1, model=nn.Linear(2, 1)
    )
    for _ in range(7):
        checkpoint.step(1.0, epoch=4)
    assert names(tmp_path) == ["step=3", "step=6"]
    resumed = ModelCheckpoint.resume(tmp_path)
    assert (resumed.next_epoch, resumed.global_step) == (4, 6)


def test_the_end_of_training_saves_the_steps_since_the_last_nth(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(
        tmp_path, "{step}", "loss", every_n_train_steps=3, save_last=True, model=nn.Linear(2, 1)
    )
    for _ in range(5):
        checkpoint.step(1.0)
    assert ModelCheckpoint.load(tmp_path, which="last").step == 3
    checkpoint.finish()
    assert names(tmp_path) == ["last", "step=3"]
    assert ModelCheckpoint.load(tmp_path, which="last").step == 5


def test_what_the_metadata_says_anyone_can_read(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, monitor="loss", model=Tied(), save_weights_only=True)
    path = checkpoint.step(0.5, accuracy=0.9)
    assert path is not None
    with safe_open(path, framework="pt") as file:
        said = file.metadata()
        assert list(file.keys()) == ["embedding.weight"]
    assert (said["epoch"], said["step"], said["monitor"], said["metric"]) == (
        "0",
        "1",
        "loss",
        "0.5",
    )
    assert said["model_class"].endswith("Tied")
    assert not names(tmp_path, ".state")


def test_tied_weights_views_and_wrapped_models(tmp_path: Path) -> None:
    model, other, third = Tied(), Tied(), Tied()
    checkpoint = ModelCheckpoint(tmp_path, monitor="loss", model=nn.DataParallel(model))
    path = checkpoint.step(1.0)
    assert path is not None
    saved = ModelCheckpoint.load(tmp_path, other)
    load_model(third, path)  # safetensors' own
    for one in (other, third):
        assert torch.equal(one.head.weight, model.embedding.weight)
        assert one.head.weight is one.embedding.weight
    assert set(saved.weights()) == {"embedding.weight", "head.weight"}

    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.arange(12.0).reshape(3, 4)
            self.register_buffer("row", whole[1])
            self.register_buffer("column", whole[:, 1])

    path = ModelCheckpoint(tmp_path / "views", monitor="loss", model=Views()).step(1.0)
    assert path is not None
    weights = ModelCheckpoint.load(path).weights()
    assert weights["row"].tolist() == [4, 5, 6, 7]
    assert weights["column"].tolist() == [1, 5, 9]


def test_thresholds(tmp_path: Path) -> None:
    seen: list[Crossing] = []
    checkpoint = ModelCheckpoint(
        tmp_path, "{epoch}", "loss", save_top_k=0, min_value=0.1, max_value=1.0,
        action=("save", "stop", seen.append), nan="worst", model=nn.Linear(2, 1),
    )  # fmt: skip
    checkpoint.step(torch.tensor([0.5], requires_grad=True))  # the loss itself will do
    assert not checkpoint.should_stop
    for loss in (2.0, 3.0, 0.5, math.nan, 0.05):
        checkpoint.step(loss)
    assert checkpoint.should_stop
    assert [(one.epoch, one.bound) for one in seen] == [(1, "max_value"), (4, "max_value")]
    assert names(tmp_path) == ["crossing-epoch=1", "crossing-epoch=4"]
    again = ModelCheckpoint.resume(tmp_path, action=seen.append)
    again.step(7.0)  # still out of bounds: the first value after resume acts again
    again.step(8.0)
    assert len(seen) == 3


def test_nan_is_an_error_that_leaves_the_last_good_model_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(2, 1)
    for every in (None, 1, 2):
        folder = tmp_path / str(every)
        checkpoint = ModelCheckpoint(
            folder, monitor="loss", save_last=True, every_n_train_steps=every, model=model
        )
        checkpoint.step(0.5)
        checkpoint.step(0.4)
        before = {path: path.read_bytes() for path in folder.iterdir()}
        refusing = checkpoint.step
        if every == 2:  # NaN in a step between those that may save
            checkpoint.step(math.nan)
            refusing = checkpoint.finish
        with pytest.raises(NonFiniteError, match=r"loss is NaN .* nothing was saved"):
            refusing(*([] if every == 2 else [math.nan]))
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
    checkpoint = ModelCheckpoint(tmp_path, monitor="loss", nan="worst", model=model)
    with caplog.at_level(logging.WARNING):
        checkpoint.step(math.nan)
    assert "loss is NaN at epoch 0, step 1" in caplog.text
    assert math.isnan(ModelCheckpoint.load(tmp_path).record.metrics["loss"])


def test_alerts_are_logged_and_handed_on(caplog: pytest.LogCaptureFixture) -> None:
    handed: list[Crossing] = []
    checkpoint = ModelCheckpoint(monitor="accuracy", min_value=0.9, on_alert=handed.append)
    with caplog.at_level(logging.WARNING):
        checkpoint.step({"accuracy": 0.5, "loss": 1.0}, epoch=3)
    assert "accuracy is 0.5, below (min_value=0.9), epoch 3" in caplog.text
    assert handed == checkpoint.crossings


def test_errors_name_what_was_found_and_the_fix(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(
        ConfigError, match=r"monitor='loss' is not among the metrics given \(accuracy\)"
    ):
        ModelCheckpoint(tmp_path, monitor="loss", model=model).step(accuracy=1.0)
    with pytest.raises(
        ConfigError,
        match=r"names \{f1\}, which is not measured; known are epoch, loss, step, train_loss",
    ):
        ModelCheckpoint(tmp_path, "{f1:.2f}", "loss", model=model).step(1.0)
    with pytest.raises(ConfigError, match="does not fit"):
        ModelCheckpoint(tmp_path, "{loss:d}", "loss", model=model).step(1.0)
    with pytest.raises(ConfigError, match="no name of a file in dirpath"):
        ModelCheckpoint(tmp_path, "{val/loss}", "val/loss", model=model).step(1.0)
    with pytest.raises(NonFiniteError, match="loss is NaN at epoch 0, step 1"):
        ModelCheckpoint(tmp_path, monitor="loss", model=model).step(math.nan)
    with pytest.raises(ConfigError, match="loss is no number"):
        ModelCheckpoint(tmp_path, monitor="loss", model=model).step(torch.zeros(3))
    with pytest.raises(ConfigError, match="monitor is None"):
        ModelCheckpoint(tmp_path, model=model).step(1.0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="there is no checkpoint in"):
        ModelCheckpoint.resume(tmp_path)
    path = ModelCheckpoint(tmp_path, monitor="loss", model=model).step(1.0)
    with pytest.raises(ConfigError, match="do not fit Linear"):
        ModelCheckpoint.load(tmp_path, nn.Linear(3, 1))
    with pytest.raises(ConfigError, match="no state of the optimizer"):
        ModelCheckpoint.resume(tmp_path, model, torch.optim.SGD(model.parameters()))
    folder = tmp_path / "sgd"
    sgd = torch.optim.SGD(model.parameters())
    ModelCheckpoint(folder, monitor="loss", model=model, optimizer=sgd).step(1.0)
    with pytest.raises(ConfigError, match=r"state of SGD without .*betas, .*which Adam needs"):
        ModelCheckpoint.resume(folder, model, torch.optim.Adam(model.parameters()))
    assert "is of SGD; Adam may not fit" in caplog.text
    assert path is not None
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StateError, match="damaged"):
        ModelCheckpoint.load(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        ModelCheckpoint.load(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "least"}, {"save_top_k": -2}, {"save_top_k": 2.5}, {"filename": "best-{epoch"}, {"monitor": None, "save_top_k": 3}, {"save_last": "copy"}, {"every_n_train_steps": -1},
        {"nan": "ignore"}, {"action": "email"}, {"max_value": math.nan}, {"min_value": 2.0, "max_value": 1.0}, {"monitor": None, "max_value": 1.0},
    ],
)  # fmt: skip
def test_settings_are_checked_at_once(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ModelCheckpoint(**{"monitor": "loss", **settings})


def test_a_disk_that_refuses_leaves_older_files_as_they_were(tmp_path: Path) -> None:
    import resource

    model = nn.Linear(200, 200)
    checkpoint = ModelCheckpoint(tmp_path, "{epoch}", "loss", save_last=True, model=model)
    checkpoint.step(1.0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"could not be written: .*File too large"):
            checkpoint.step(0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert checkpoint.best_model_score == 1.0
    checkpoint.step(0.7)
    assert names(tmp_path) == ["epoch=2", "last"]


def test_what_a_killed_process_left_is_put_in_order(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    checkpoint = ModelCheckpoint(tmp_path, "{epoch}", "loss", save_top_k=2, model=model)
    for loss in (3.0, 2.0):
        checkpoint.step(loss)
    victim = {path.name: path.read_bytes() for path in tmp_path.glob("epoch=0*")}
    checkpoint.step(1.0)
    for name, content in victim.items():  # it was to be removed next
        (tmp_path / name).write_bytes(content)
    (tmp_path / ".epoch=3.safetensors.tocsin-tmp").write_bytes(b"half")
    (tmp_path / "epoch=3.9.state").write_bytes(b"of nobody")
    (tmp_path / "notes.state").write_bytes(b"of the user")
    resumed = ModelCheckpoint.resume(tmp_path, model)
    assert names(tmp_path) == ["epoch=1", "epoch=2"]
    assert Path(resumed.best_model_path).name == "epoch=2.safetensors"
    assert len(list(tmp_path.iterdir())) == 5


def test_any_tensor_is_read_as_it_was_written(tmp_path: Path) -> None:
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn]  # fmt: skip
    shapes: list[tuple[int, ...]] = [(), (0, 3), (3,), (2, 3)]
    tensors = {
        f"{kind}{shape}": torch.randint(0, 2, shape).to(kind) for kind in kinds for shape in shapes
    } | {"across": torch.arange(6.0).reshape(2, 3).T}
    write_tensors(tmp_path / "x", tensors, {"it": "is \u00e9 said"})
    found = load_file(tmp_path / "x")
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert found[name].tolist() == tensor.tolist()
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert file.metadata() == {"it": "is \u00e9 said"}
    with pytest.raises(ConfigError, match="safetensors does not know"):
        write_tensors(tmp_path / "y", {"a": torch.zeros(1, dtype=torch.complex128)}, {})


def test_nested_state_comes_back_as_it_was() -> None:
    from collections import Counter, OrderedDict

    state: dict[Any, Any] = {
        0: {"step": torch.tensor(3.0), "betas": (0.9, 0.99), "none": None, "flag": True},
        "ordered": OrderedDict(a=[1, math.inf]), "counter": Counter({4: 2}),
        "array": np.arange(3, dtype=np.uint32), "half": torch.ones(2, 2, dtype=torch.bfloat16).T,
    }  # fmt: skip
    state |= {1: torch.ones(1), "1": torch.zeros(1)}
    tree, tensors = flatten(state, "state")
    found = rebuild(tree, tensors)
    assert found["array"].tolist() == [0, 1, 2]
    assert found["array"].dtype == np.uint32
    assert torch.equal(found["half"], state["half"])
    assert found[0]["step"] == 3
    assert (found[0]["betas"], found[0]["none"], found[0]["flag"]) == ((0.9, 0.99), None, True)
    assert (found[1].item(), found["1"].item()) == (1, 0)
    assert found["ordered"] == state["ordered"]
    assert isinstance(found["counter"], Counter)
    with pytest.raises(ConfigError, match=r"state\.a is of type function"):
        flatten({"a": flatten}, "state")
    with pytest.raises(ConfigError, match=r"state\.a is an array that is not saved"):
        flatten({"a": np.array(["text"])}, "state")
    with pytest.raises(StateError, match="cannot be read"):
        rebuild(["tensor", "missing"], {})
