"""Nested batches, tables of few values, and samples without batches: what is looked at, and of what nothing is claimed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
)

from tocsin.core.errors import ConfigError
from tocsin.training import Finding, Monitor, WatchedLoader
from tocsin.training.held_out import EventFields, tell

N = 300
DRAW = torch.Generator().manual_seed(0)
X = torch.randn(N, 16, generator=DRAW)
Y = torch.randint(5, (N,), generator=DRAW)
X[7, 3] = torch.nan
X[9], Y[9], Y[3] = X[4], 1, Y[4]
Y[4] = 1


class Made(Dataset[Any]):
    """Samples that a function gives."""

    def __init__(self, make: Callable[[int], Any], count: int = N) -> None:
        self.make, self.count = make, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> Any:
        if k >= self.count:
            raise IndexError(k)
        return self.make(k)


class Items(IterableDataset[Any]):
    """What a function gives, one after the other, all by each worker."""

    def __init__(self, make: Callable[[int], Any], keys: range = range(N)) -> None:
        self.make, self.keys = make, keys

    def __iter__(self) -> Iterator[Any]:
        return map(self.make, self.keys)


def looked(data: Any, size: int | None = 32, **settings: Any) -> WatchedLoader:
    watched = WatchedLoader(DataLoader(data, size), **settings)
    watched.look()
    return watched


def by_kind(watched: WatchedLoader) -> dict[str, Finding]:
    return {found.kind: found for found in watched.findings()}


def assert_planted(watched: WatchedLoader) -> None:
    found = by_kind(watched)
    assert {kind: one.samples.tolist() for kind, one in found.items()} == {
        "non-finite input": [7],
        "duplicate": [9],
    }
    assert "not looked at" not in watched.report()


@pytest.mark.parametrize(
    "make",
    [
        lambda k: ((X[k], X[k] * 2), Y[k]),
        lambda k: ({"x": X[k], "name": str(k)}, Y[k]),
        lambda k: ({"image": X[k], "table": X[k, :3]}, Y[k]),
        lambda k: {"inputs": {"image": X[k], "table": X[k, :3]}, "labels": Y[k]},
        lambda k: [[{"image": X[k]}], Y[k]],
        lambda k: (Y[k], X[k]),
    ],
)
def test_inputs_in_the_first_part_are_looked_at_and_labels_are_none(make: Any) -> None:
    watched = looked(Made(make))
    assert_planted(watched)
    assert len(watched.quarantine()) == N - 2


@pytest.mark.parametrize(
    "make",
    [
        lambda k: (f"text {k}", Y[k]),
        lambda k: ({"tokens": X[k]}, Y[k]),
        lambda k: (Y[k], torch.tensor(k % 40), X[k, 0]),  # user, item, rating
        lambda k: ((Y[k], torch.tensor(k % 40)), X[k, 0]),
    ],
)
def test_batches_without_inputs_that_are_known_count_as_not_looked_at(make: Any) -> None:
    watched = looked(Made(make))
    assert watched.findings() == []
    assert len(watched.quarantine()) == N
    assert "10 batches were not looked at" in watched.report()


def test_a_model_of_more_than_one_tensor_is_not_given_a_single_one() -> None:
    net = nn.Linear(16, 5)
    several = DataLoader(Made(lambda k: ({"image": X[k], "table": X[k, :3]}, Y[k])), 32)
    with pytest.raises(ValueError, match=r"or several; .*give forward="):
        Monitor().validate(net, several)
    Monitor().validate(net, several, forward=lambda batch: net(batch[0]["image"]))
    Monitor().validate(net, DataLoader(Made(lambda k: ({"image": X[k]}, Y[k])), 32))
    with pytest.raises(ConfigError, match="or several; give forward="):
        tell(net, several, nn.CrossEntropyLoss(), EventFields(), lambda _: None)


def codes(seed: int, *shape: int, high: int = 4) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.float32])
@pytest.mark.parametrize("columns", [3, 8])
def test_rows_of_a_table_of_few_values_coincide_by_chance(kind: Any, columns: int) -> None:
    for seed in range(5):
        x, other = codes(seed, 2000, columns).to(kind), codes(seed + 50, 500, columns).to(kind)
        watched = looked(TensorDataset(x, Y.repeat(7)[:2000]), references={"validation": other})
        assert watched.findings() == []


def test_columns_that_know_of_each_other_coincide_by_chance() -> None:
    draw = torch.Generator().manual_seed(1)
    kinds = torch.randint(0, 40, (2000,), generator=draw)
    places = torch.stack([kinds, kinds // 2, kinds // 5, kinds // 10], 1)
    assert by_kind(looked(TensorDataset(places))) == {}
    mixed = kinds[:, None] % 6
    mixed = torch.where(torch.rand(2000, 8, generator=draw) < 0.2, codes(2, 2000, 8), mixed)
    assert by_kind(looked(TensorDataset(mixed))) == {}


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(5000, generator=DRAW),
        torch.randn(5000, 1, generator=DRAW).double(),
        torch.randn(20_000, 2, generator=DRAW),
        codes(0, 5000, 1, high=50),
    ],
)
def test_one_or_two_columns_coincide_nearly_by_chance(x: torch.Tensor) -> None:
    own, other = x[: len(x) // 2], x[len(x) // 2 :]
    watched = looked(
        TensorDataset(own, torch.zeros(len(own))), 500, references={"validation": other}
    )
    assert watched.findings() == []


def test_numbers_of_one_column_are_looked_at_as_numbers() -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(3))
    x[40], x[50] = torch.nan, 1e6
    found = by_kind(looked(TensorDataset(x, torch.zeros(5000)), 500))
    assert {kind: one.samples.tolist() for kind, one in found.items()} == {
        "non-finite input": [40],
        "input out of range": [50],
    }


@pytest.mark.parametrize("width", [16, 128])
def test_equal_texts_of_tokens_are_found(width: int) -> None:
    rng = np.random.default_rng(0)
    tokens = np.minimum(rng.zipf(1.2, (2000, width)), 30_000)
    tokens[np.arange(width) >= rng.integers(6, 16, 2000)[:, None]] = 0  # padded
    tokens[:20] = tokens[20:40]
    tokens[100:130] = tokens[99]  # a text that is common
    data = Made(lambda k: {"input_ids": torch.from_numpy(tokens[k]), "labels": k % 3}, 2000)
    found = by_kind(looked(data, 100))["duplicate"].samples.tolist()
    assert found == [*range(20, 40), *range(100, 130)]


def test_workers_that_part_a_table_of_few_values_repeat_no_shard() -> None:
    x = codes(0, N, 3)
    for data in (Items(lambda k: (x[k], Y[k])), Items(lambda k: (x[k].float(), Y[k]))):
        assert by_kind(looked(data)) == {}


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(TensorDataset(X, Y), batch_size=None),
        lambda: DataLoader(Made(lambda k: {"x": X[k].numpy(), "y": int(Y[k])}), batch_size=None),
        lambda: DataLoader(
            TensorDataset(X, Y),
            batch_size=None,
            sampler=BatchSampler(SequentialSampler(range(N)), 23, drop_last=False),
        ),
        lambda: DataLoader(Items(lambda k: (X[k], Y[k])), batch_size=None),
        lambda: DataLoader(Items(lambda k: (X[k], int(Y[k]))), batch_size=None),
        lambda: DataLoader(
            Items(lambda k: (X[k : k + 20], Y[k : k + 20]), range(0, N, 20)), batch_size=None
        ),
    ],
)
def test_what_comes_without_a_batch_sampler_is_looked_at_and_observed(loader: Any) -> None:
    watched = WatchedLoader(loader())
    net = nn.Linear(16, 5)
    numbers = []
    with torch.no_grad():
        for plain, item in zip(loader(), watched, strict=True):
            assert isinstance(item, type(plain))
            x, y = item.values() if isinstance(item, dict) else item
            was_x, was_y = plain.values() if isinstance(plain, dict) else plain
            assert torch.equal(x.nan_to_num(), was_x.nan_to_num())
            assert type(y) is type(was_y)
            assert y == was_y if isinstance(y, int) else torch.equal(y, was_y)
            numbers.append(item.samples)
            watched.observe(net(x), item)
        expected = nn.functional.cross_entropy(net(X), Y, reduction="none").numpy()
    np.testing.assert_array_equal(np.concatenate(numbers), np.arange(N))
    assert watched._inspection is not None
    assert watched._inspection.label_of[:N].tolist() == Y.tolist()
    assert_planted(watched)
    if isinstance(watched.dataset, TensorDataset):
        assert len(watched.quarantine()) == N - 2
        np.testing.assert_allclose(watched.suspicion(), expected, rtol=1e-4)


def test_samples_with_targets_of_another_size_are_no_batches() -> None:
    pictures = torch.rand(8, 3, 6, 6, generator=DRAW)
    data = Items(lambda k: (pictures[k], pictures[k, 0] > 0.5), range(8))
    assert [item.samples.tolist() for item in looked(data, None)] == [[k] for k in range(8)]
    data = Items(lambda k: pictures[k : k + 4], range(0, 8, 4))
    assert [item.samples.tolist() for item in looked(data, None)] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_parts_of_samples_without_a_batch_are_named_as_those_of_batches() -> None:
    data = Made(lambda k: {"age": X[k], "who": int(Y[k])})
    for inputs in ("age", lambda sample: sample["age"].reshape(16)):
        assert_planted(looked(data, None, inputs=inputs, labels="who"))


@pytest.mark.parametrize("first", [0, 10])
def test_workers_that_all_give_everything_without_batches_are_found(first: int) -> None:
    data = Items(lambda k: (X[k], Y[k]), range(first, N))
    watched = WatchedLoader(DataLoader(data, batch_size=None, num_workers=2))
    watched.look()
    assert "worker 1 gives samples that worker 0 gives: 100%" in watched.report()


def test_a_loader_without_batches_is_a_reference() -> None:
    reference = DataLoader(TensorDataset(X[20:30]), batch_size=None)
    watched = looked(TensorDataset(X[10:], Y[10:]), references={"validation": reference})
    assert by_kind(watched)["in another split"].samples.tolist() == list(range(10, 20))
