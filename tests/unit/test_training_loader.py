"""A watched loader passes its batches through, and they know their samples."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils._pytree import tree_map
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    get_worker_info,
)

from tocsin.training import WatchedLoader

INPUTS = torch.randn(37, 3, generator=torch.Generator().manual_seed(0))
ROWS = torch.arange(37)
DATA = TensorDataset(INPUTS, ROWS)


class Noisy(Dataset[Any]):
    """Draws random numbers of all three generators for each sample, as augmentations do."""

    def __len__(self) -> int:
        return 37

    def __getitem__(self, k: int) -> Any:
        return INPUTS[k] + torch.randn(3) + float(np.random.normal()), k  # noqa: NPY002


class Shards(IterableDataset[Any]):
    """Counts, each worker its share."""

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return iter([(INPUTS[k], k) for k in range(first, 37, step)])


class Slow(Dataset[Any]):
    """The first batch comes last."""

    def __len__(self) -> int:
        return 37

    def __getitem__(self, k: int) -> Any:
        if k == 0:
            time.sleep(0.3)
        if k == 13:
            raise KeyError(k)
        return k


class Point(NamedTuple):
    x: torch.Tensor
    index: torch.Tensor


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


class Own:
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


def collated(kind: str) -> Any:
    def collate(samples: list[Any]) -> Any:
        x = torch.stack([x for x, _ in samples])
        y = torch.tensor([int(y) for _, y in samples])
        return {
            "list": [x, y], "tuple": (x, y), "named": Pair(x, y), "dict": {"x": x, "y": y},
            "tensor": x, "own": Own(x), "field": Point(x, y), "number": len(samples),
        }[kind]  # fmt: skip

    return collate


def tensors(batch: Any) -> list[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        return [batch]
    if isinstance(batch, Own):
        return [batch.x]
    return list(batch.values()) if isinstance(batch, dict) else list(batch)


LOADERS: dict[str, Any] = {
    "in order": lambda: DataLoader(DATA, 8),
    "shuffled": lambda: DataLoader(DATA, 8, shuffle=True),
    "of a generator": lambda: DataLoader(
        DATA, 8, shuffle=True, generator=torch.Generator().manual_seed(3)
    ),
    "last dropped": lambda: DataLoader(DATA, 8, shuffle=True, drop_last=True),
    "batch sampler": lambda: DataLoader(
        DATA, batch_sampler=BatchSampler(RandomSampler(DATA), 5, drop_last=False)
    ),
    "single samples": lambda: DataLoader(DATA, batch_size=None, shuffle=True),
    "whole batches": lambda: DataLoader(
        DATA, batch_size=None, sampler=BatchSampler(SequentialSampler(DATA), 8, drop_last=False)
    ),
    "augmented": lambda: DataLoader(Noisy(), 8, shuffle=True),
    "pinned memory": lambda: DataLoader(DATA, 8, shuffle=True, pin_memory=True),
    "workers": lambda: DataLoader(Noisy(), 8, shuffle=True, num_workers=2),
    "workers that persist": lambda: DataLoader(
        DATA, 8, shuffle=True, num_workers=2, persistent_workers=True
    ),
    "iterable": lambda: DataLoader(Shards(), 8),
    "iterable, of workers": lambda: DataLoader(Shards(), 8, num_workers=2),
    "iterable, single samples": lambda: DataLoader(Shards(), batch_size=None),
}


def epochs(loader: Any) -> tuple[list[Any], float, float]:
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002
    found = [batch for _ in range(2) for batch in loader]
    return found, float(torch.rand(1)), float(np.random.random())  # noqa: NPY002


@pytest.mark.filterwarnings(
    "ignore:.pin_memory. argument:UserWarning"
)  # where nothing can be pinned
@pytest.mark.parametrize("name", LOADERS)
def test_batches_and_random_numbers_are_the_same(name: str) -> None:
    plain, *drawn = epochs(LOADERS[name]())
    watched, *again = epochs(WatchedLoader(LOADERS[name]()))
    assert drawn == again
    assert len(plain) == len(watched)
    for a, b in zip(plain, watched, strict=True):
        assert isinstance(b, type(a))
        assert all(
            torch.equal(torch.as_tensor(p), torch.as_tensor(q)) for p, q in zip(a, b, strict=True)
        )


@pytest.mark.filterwarnings(
    "ignore:.pin_memory. argument:UserWarning"
)  # where nothing can be pinned
@pytest.mark.parametrize("name", [n for n in LOADERS if not n.startswith("iterable")])
def test_batches_know_their_samples(name: str) -> None:
    watched = WatchedLoader(LOADERS[name]())
    for epoch in range(2):
        for number, batch in enumerate(watched):
            rows = torch.as_tensor(batch[1]).reshape(-1).numpy()
            assert batch.index == number
            assert batch.samples.dtype == np.int64
            np.testing.assert_array_equal(batch.samples, rows)
        assert watched.epoch == epoch
        assert number == len(watched) - 1


def test_samples_of_iterables_are_counted_as_they_come() -> None:
    found = [b.samples for b in WatchedLoader(DataLoader(Shards(), 8, num_workers=2))]
    np.testing.assert_array_equal(np.concatenate(found), np.arange(37))


def test_batches_out_of_order_are_known_for_what_they_are() -> None:
    watched = WatchedLoader(DataLoader(Slow(), 4, num_workers=2, in_order=False))
    batches, found = iter(watched), []
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            break
        except KeyError:  # its batch does not come, the others do
            continue
        np.testing.assert_array_equal(batch.samples, batch.numpy())
        found.append(int(batch[0]))
    assert sorted(found) == [0, 4, 8, *range(16, 37, 4)]
    assert found[0] != 0


@pytest.mark.parametrize("kind", ["list", "tuple", "named", "dict", "tensor", "own"])
def test_all_types_of_batches(kind: str) -> None:
    plain = DataLoader(DATA, 8, collate_fn=collated(kind))
    for a, b in zip(plain, WatchedLoader(plain), strict=True):
        assert isinstance(b, type(a))
        assert all(torch.equal(p, q) for p, q in zip(tensors(a), tensors(b), strict=True))
        start = 8 * b.index
        np.testing.assert_array_equal(b.samples, np.arange(start, min(start + 8, 37)))
        again = copy.copy(b)
        assert again.index == b.index
        if kind not in ("tensor", "own"):
            assert repr(a) == repr(b)
            assert len(a) == len(b)
            for moved in (b.to(torch.float64), tree_map(lambda t: t.double(), b)):
                assert type(moved) is type(b)
                assert tensors(moved)[0].dtype == torch.float64
                # torch builds a named tuple anew, and knows nothing else of it.
                assert moved.index == b.index or kind == "named"
            assert b.to(torch.float64).index == b.index
        if kind != "own":
            assert isinstance(pickle.loads(pickle.dumps(b)), type(a))


@pytest.mark.parametrize("kind", ["field", "number"])
def test_what_has_its_own_index_or_none_is_left_alone(kind: str) -> None:
    watched = WatchedLoader(DataLoader(DATA, 8, collate_fn=collated(kind)))
    for batch in watched:
        assert watched.last is not None
        assert watched.last.samples[0] == 8 * watched.last.index
        if kind == "field":
            assert torch.equal(batch.index, torch.from_numpy(watched.last.samples))
        else:
            assert type(batch) is int


def test_a_loader_of_a_class_of_its_own_and_one_in_use() -> None:
    class Twice(DataLoader[Any]):
        def __iter__(self) -> Any:
            for batch in super().__iter__():
                batch[0] = 2 * batch[0]
                yield batch

    watched = WatchedLoader(Twice(DATA, 8, shuffle=True))
    for x, y in watched:
        assert torch.equal(x, 2 * INPUTS[y])
        assert watched.last is not None
        np.testing.assert_array_equal(watched.last.samples, y.numpy())

    plain = DataLoader(DATA, 8, shuffle=True, num_workers=1, persistent_workers=True)
    assert sum(len(y) for _, y in plain) == 37
    for batch in WatchedLoader(plain):
        np.testing.assert_array_equal(batch.samples, batch[1].numpy())


def test_an_epoch_that_is_left_and_two_at_once() -> None:
    watched = WatchedLoader(DataLoader(DATA, 8, shuffle=True))
    next(iter(watched))
    for a, b in zip(watched, watched, strict=True):
        assert len(watched) == 5
        np.testing.assert_array_equal(a.samples, a[1].numpy())
        np.testing.assert_array_equal(b.samples, b[1].numpy())


def test_attributes_and_epochs_are_the_loaders() -> None:
    class Told(RandomSampler):
        epochs: list[int] = []  # noqa: RUF012

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    watched = WatchedLoader(DataLoader(DATA, 8, sampler=Told(DATA)))
    watched.set_epoch(4)
    assert Told.epochs == [4]
    assert watched.batch_size == 8
    assert watched.dataset is DATA
    next(iter(watched))
    assert watched.last is not None
    assert watched.last.epoch == 4
    with pytest.raises(AttributeError, match="nothing"):
        _ = watched.nothing
    with pytest.raises(TypeError, match="DataLoader, got list"):
        WatchedLoader([1, 2])  # type: ignore[arg-type]


def test_an_iterator_that_is_not_used_is_an_epoch_as_of_a_plain_loader() -> None:
    def numbers(loader: Any) -> tuple[float, list[Any], float]:
        torch.manual_seed(2)
        iter(loader)
        batches = iter(loader)
        between = float(torch.rand(1))
        return between, [y.tolist() for _, y in batches], float(torch.rand(1))

    plain = DataLoader(DATA, 8, shuffle=True)
    assert numbers(plain) == numbers(WatchedLoader(plain))


@pytest.mark.parametrize("processes", [1, 2])
def test_what_accelerate_has_prepared_knows_its_samples(
    processes: int, caplog: pytest.LogCaptureFixture
) -> None:
    def prepared() -> Any:
        loader = DataLoader(DATA, 8, shuffle=True, generator=torch.Generator().manual_seed(3))
        return prepare_data_loader(loader, num_processes=processes, process_index=processes - 1)

    loader, other = prepared(), prepared()
    watched = WatchedLoader(loader)
    for epoch in range(2):
        plain = [y.tolist() for _, y in other]
        found = []
        for number, batch in enumerate(watched):
            assert batch.index == number
            np.testing.assert_array_equal(batch.samples, batch[1].numpy())
            found.append(batch[1].tolist())
        assert found == plain
        assert loader.iteration == epoch + 1
    assert not caplog.records


def test_a_loader_that_asks_no_sampler_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    class Gives(DataLoader[Any]):
        def __iter__(self) -> Any:
            return iter([[INPUTS[:4], ROWS[:4]], [INPUTS[4:8], ROWS[4:8]]])

    watched = WatchedLoader(Gives(DATA, 4))
    assert [(batch.index, len(batch.samples)) for batch in watched] == [(0, 0), (1, 0)]
    assert "2 batches were not looked at" in watched.report()
    (said,) = caplog.records
    assert "a Gives does not ask its sampler itself" in said.getMessage()


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda loader: pickle.loads(pickle.dumps(loader))]
)
def test_a_copy_goes_on_by_itself(again: Any) -> None:
    torch.manual_seed(0)
    watched = WatchedLoader(DataLoader(DATA, 5, shuffle=True))
    fresh = again(watched)
    first = [batch.samples.tolist() for batch in watched]
    later = again(watched)
    assert later.epoch == 0
    assert later.findings() == watched.findings()
    for copied in (fresh, later):
        batches = list(copied)
        assert [batch.index for batch in batches] == list(range(8))
        for x, rows in batches:
            assert torch.equal(x, INPUTS[rows])
        assert sorted(k for batch in batches for k in batch.samples.tolist()) == list(range(37))
    assert len(first) == 8
    assert [k for batch in first for k in batch] != list(range(37))
