"""Batches of a watched loader that are pinned on their way, as they are where there is a GPU: the loader's own code does it, with memory that is only marked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tocsin.training import WatchedLoader

X = torch.randn(37, 3, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(X, torch.arange(37))


class Pinned(torch.Tensor):
    """A tensor that says that it is pinned."""


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


class Own:
    """As torch's documentation has it: a batch that pins itself."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y

    def pin_memory(self) -> Own:
        self.x, self.y = self.x.pin_memory(), self.y.pin_memory()
        return self


class Anew(Own):
    """One that gives another batch."""

    def pin_memory(self) -> Own:
        return Anew(self.x.pin_memory(), self.y.pin_memory())


KINDS: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "list": lambda x, y: [x, y],
    "tuple": lambda x, y: (x, y),
    "named": Pair,
    "dict": lambda x, y: {"x": x, "y": y},
    "nested": lambda x, y: [{"x": x}, (y, "text")],
    "own": Own,
    "anew": Anew,
    "tensor": lambda x, y: torch.cat([x, y[:, None]], 1),
}


def tensors(batch: Any) -> list[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        return [batch]
    if isinstance(batch, str):
        return []
    if isinstance(batch, Own):
        batch = vars(batch)
    parts = list(batch.values()) if isinstance(batch, dict) else list(batch)
    return [
        tensor for part in parts if not isinstance(part, int | np.ndarray) for tensor in tensors(part)
    ]  # fmt: skip


def collated(kind: str) -> Callable[[Any], Any]:
    def collate(samples: list[Any]) -> Any:
        x, y = zip(*samples, strict=True)
        return KINDS[kind](torch.stack(x), torch.stack(y))

    return collate


@pytest.fixture
def pinned_in(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Let loaders find a GPU; return the names of threads that pinned something."""
    names: set[str] = set()

    def pin(tensor: torch.Tensor, *_: object) -> torch.Tensor:
        names.add(threading.current_thread().name)
        return tensor.clone().as_subclass(Pinned)

    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: gpu)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda _: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    return names


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pinned_batch_is_the_same_and_knows_its_samples(
    pinned_in: set[str], kind: str, workers: int
) -> None:
    def loader(*, pinned: bool) -> DataLoader[Any]:
        return DataLoader(DATA, 8, shuffle=True, num_workers=workers, pin_memory=pinned, collate_fn=collated(kind))  # fmt: skip

    torch.manual_seed(1)
    plain = list(loader(pinned=False))
    assert pinned_in == set()
    torch.manual_seed(1)
    watched = WatchedLoader(loader(pinned=True))
    batches = list(watched)
    assert len(batches) == len(plain) == 5
    own_thread = threading.main_thread().name not in pinned_in
    assert own_thread == bool(workers), "with workers the loader's thread pins"
    for number, (a, b) in enumerate(zip(plain, batches, strict=True)):
        assert isinstance(b, type(a))
        assert all(isinstance(tensor, Pinned) for tensor in tensors(b))
        assert len(tensors(a)) == len(tensors(b)) > 0
        assert all(torch.equal(p, q) for p, q in zip(tensors(a), tensors(b), strict=True))
        rows = tensors(a)[-1]
        assert b.index == number
        np.testing.assert_array_equal(b.samples, rows[:, -1] if kind == "tensor" else rows)
    assert watched._inspection is not None
    assert watched._inspection.contents.count == 37, "what is pinned is looked at as well"


def test_a_batch_that_is_pinned_afterwards_still_knows_its_samples(pinned_in: set[str]) -> None:
    """By a prefetcher of one's own, say, which calls what the loader does."""
    pin: Any = torch.utils.data._utils.pin_memory.pin_memory
    for kind in ("list", "tuple", "dict", "own"):
        for batch in WatchedLoader(DataLoader(DATA, 8, collate_fn=collated(kind))):
            again = pin(batch)
            assert isinstance(again, type(batch))
            assert all(isinstance(tensor, Pinned) for tensor in tensors(again))
            if kind != "tuple":  # torch makes a tuple anew, without what it carried
                assert again.index == batch.index
                np.testing.assert_array_equal(again.samples, batch.samples)
    assert pinned_in == {threading.main_thread().name}


class Late(Dataset[Any]):
    """The first sample comes last."""

    def __len__(self) -> int:
        return 37

    def __getitem__(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        if k == 0:
            time.sleep(0.3)
        return X[k], torch.tensor(k)


def test_pinned_batches_out_of_order_are_known_for_what_they_are(pinned_in: set[str]) -> None:
    watched = WatchedLoader(
        DataLoader(Late(), 4, num_workers=2, in_order=False, pin_memory=True)
    )  # fmt: skip
    found = []
    for batch in watched:
        assert all(isinstance(tensor, Pinned) for tensor in tensors(batch))
        np.testing.assert_array_equal(batch.samples, batch[1])
        found.append(int(batch.samples[0]))
    assert sorted(found) == list(range(0, 37, 4))
    assert found[0] != 0
    assert threading.main_thread().name not in pinned_in
