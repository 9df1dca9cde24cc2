"""What a watched loader finds in the data, and that a healthy run finds nothing and trains as without it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from tocsin.training import Finding, WatchedLoader

N = 600


def table(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 6, generator=draw)
    x[:, 1] = x[:, 1].exp()  # a long tail
    return x, torch.randint(0, 3, (N,), generator=draw)


def pictures(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    rough = torch.rand(N, 3, 8, 8, generator=draw)
    x = nn.functional.interpolate(rough, scale_factor=2, mode="bilinear")
    return x, torch.randint(0, 3, (N,), generator=draw)


def rounded(row: torch.Tensor) -> torch.Tensor:
    """What a row is in a file of three decimals, a picture in one of bytes."""
    return (row * 255).round() / 255 if row.ndim == 3 else row.round(decimals=3)


def looked(x: torch.Tensor, y: torch.Tensor, **settings: Any) -> WatchedLoader:
    torch.manual_seed(5)
    watched = WatchedLoader(DataLoader(TensorDataset(x, y), 32, shuffle=True), **settings)
    watched.look()
    return watched


def by_kind(watched: WatchedLoader) -> dict[str, Finding]:
    return {found.kind: found for found in watched.findings()}


@pytest.mark.parametrize("make", [table, pictures])
@pytest.mark.parametrize("seed", range(5))
def test_healthy_runs_find_nothing(make: Any, seed: int) -> None:
    other, _ = make(seed + 100)
    watched = looked(*make(seed), references={"validation": TensorDataset(other)})
    for _ in range(2):
        watched.look()
    assert watched.findings() == []
    assert watched.report() == "nothing found"
    assert len(watched.quarantine()) == N


@pytest.mark.parametrize("make", [table, pictures])
def test_inputs_that_are_not_finite_or_out_of_range(make: Any) -> None:
    x, y = make()
    x[7].view(-1)[3] = torch.nan
    x[11].view(-1)[0] = torch.inf
    x[20] *= 255
    watched = looked(x, y)
    found = by_kind(watched)
    assert found["non-finite input"].samples.tolist() == [7, 11]
    assert found["input out of range"].samples.tolist() == [20]
    assert "[" in found["input out of range"].summary
    kept = watched.quarantine()
    assert sorted(set(range(N)) - set(kept.indices)) == [7, 11, 20]
    assert sorted(set(range(N)) - set(watched.quarantine("non-finite input").indices)) == [7, 11]


def test_a_given_range_is_exact() -> None:
    x, y = pictures()
    x[3, 0, 0, 0] = 1.01
    found = by_kind(looked(x, y, value_range=(0.0, 1.0)))
    assert found["input out of range"].samples.tolist() == [3]
    with pytest.raises(ValueError, match="low < high"):
        looked(x, y, value_range=(1.0, 1.0))


def test_a_column_that_is_mostly_one_value_reaches_as_far_as_its_others() -> None:
    x, y = table()
    draw = torch.Generator().manual_seed(1)
    is_rare = torch.rand(N, generator=draw) < 0.04
    x[:, 2] = torch.where(is_rare, torch.rand(N, generator=draw) ** 8, 0.0)  # a pixel of the edge
    often = torch.rand(N, generator=draw) < 0.45
    x[:, 3] = torch.where(often, torch.rand(N, generator=draw), 0.0)
    assert by_kind(looked(x, y)) == {}
    x[9, 3] = 30.0
    found = by_kind(looked(x, y))
    assert found["input out of range"].samples.tolist() == [9]
    assert "columns 3:" in found["input out of range"].summary


@pytest.mark.parametrize("make", [table, pictures])
def test_duplicates_within_and_across(make: Any) -> None:
    x, y = make()
    x[50] = x[40]
    y[50] = y[40]
    x[60], y[60], y[41] = x[41], 0, 1
    x[70] = rounded(x[42])
    other, _ = make(100)
    other[5], other[6] = x[100], rounded(x[101])
    watched = looked(x, y, references={"validation": other})
    found = by_kind(watched)
    pairs = {
        frozenset(p) for p in zip(found["duplicate"].samples, found["duplicate"].of, strict=True)
    }
    assert pairs == {frozenset((40, 50)), frozenset((41, 60))}
    assert found["same input, other label"].samples.tolist() == [41, 60]
    near_pair = {*found["near duplicate"].samples.tolist(), *found["near duplicate"].of.tolist()}
    assert near_pair == {42, 70}
    leak = found["in another split"]
    assert leak.samples.tolist() == [100, 101]
    assert leak.of.tolist() == [5, 6]
    assert "2 samples in validation too, 1 exactly and 1 nearly" in watched.report()


def test_rows_of_few_values_coincide_by_chance() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (N, 4), generator=draw).float()
    assert by_kind(looked(x, torch.zeros(N, dtype=torch.int64))) == {}


class Stream(IterableDataset[Any]):
    def __init__(self, *, sharded: bool, times: int = 1, shift: float = 0.0) -> None:
        self.sharded, self.times, self.shift = sharded, times, shift

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        assert info is not None
        x, y = table()
        rows = range(info.id, N, info.num_workers) if self.sharded else range(N)
        return iter([(x[k] + self.shift * info.id, y[k]) for _ in range(self.times) for k in rows])


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (Stream(sharded=True), None),
        (Stream(sharded=False), "worker 1 gives samples that worker 0 gives: 100%"),
        (Stream(sharded=True, times=2), "worker 0 repeats its own samples: 50%"),
    ],
)
def test_workers_that_repeat_their_shard(stream: Stream, said: str | None) -> None:
    watched = WatchedLoader(DataLoader(stream, 16, num_workers=2))
    watched.look()
    found = by_kind(watched)
    if said is None:
        assert found == {}
        return
    assert said in watched.report()
    assert sum(len(one.samples) for one in watched.findings() if one.kind == "repeated shard") == N
    with pytest.raises(TypeError, match="iterable data set"):
        watched.quarantine()


class Shuffled(IterableDataset[Any]):
    """The same rows, in another order in each epoch; some come twice."""

    epoch = 0

    def __iter__(self) -> Iterator[Any]:
        x, y = table()
        x, y = torch.cat([x, x[:20]]), torch.cat([y, y[:20]])
        self.epoch += 1
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.epoch))
        return iter([(x[k], y[k]) for k in order])


def test_labels_of_an_iterable_data_set_are_those_of_the_epoch_that_contents_are_of() -> None:
    watched = WatchedLoader(DataLoader(Shuffled(), 32))
    for _ in range(3):
        watched.look()
    found = by_kind(watched)
    assert len(found.pop("duplicate").samples) == 20
    assert found == {}


def test_an_iterable_data_set_whose_first_epoch_was_left_has_no_duplicates() -> None:
    watched = WatchedLoader(DataLoader(Shuffled(), 32))
    for number, _ in enumerate(watched):
        if number == 4:
            break
    for _ in range(2):
        watched.look()
    twice = by_kind(watched).get("duplicate")
    assert twice is None or len(twice.samples) <= 20


def test_a_worker_whose_features_are_others() -> None:
    watched = WatchedLoader(DataLoader(Stream(sharded=True, shift=1.0), 16, num_workers=2))
    watched.look()
    assert "the mean of column" in by_kind(watched)["feature drift"].summary
    assert "worker 0" in watched.report()


def test_an_epoch_whose_features_or_classes_are_others() -> None:
    x, y = table()
    data = TensorDataset(x, y)
    watched = WatchedLoader(DataLoader(data, 32, shuffle=True))
    watched.look()
    y[y == 2] = 1
    x[:, 3] += 0.5
    watched.look()
    found = by_kind(watched)
    assert "column 3" in found["feature drift"].summary
    assert found["feature drift"].epoch == 1
    assert found["class balance"].summary.startswith("class ")


def test_a_sampler_that_gives_the_same_order() -> None:
    class Fixed(SubsetRandomSampler):
        def __iter__(self) -> Iterator[int]:
            return iter(torch.randperm(N, generator=torch.Generator().manual_seed(2)).tolist())

    watched = WatchedLoader(DataLoader(TensorDataset(*table()), 32, sampler=Fixed(range(N))))
    for _ in range(3):
        watched.look()
    (found,) = watched.findings()
    assert (found.kind, found.epoch) == ("same order", 1)
    assert "set_epoch" in found.summary


class Augmented(Dataset[Any]):
    def __len__(self) -> int:
        return 96

    def __getitem__(self, k: int) -> Any:
        return table()[0][k] + 0.1 * torch.randn(6) + 0.1 * float(np.random.normal()), k % 3  # noqa: NPY002


def weights(*, watch: bool) -> list[torch.Tensor]:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    loader: Any = DataLoader(Augmented(), 16, shuffle=True)
    if watch:
        loader = WatchedLoader(loader, references={"validation": Augmented()})
    model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.2), nn.Linear(16, 3))
    descent = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(3):
        for batch in loader:
            x, y = batch
            loss = nn.functional.cross_entropy(model(x), y)
            descent.zero_grad()
            loss.backward()
            descent.step()
        if watch:
            loader.findings()
    return [p.detach() for p in model.parameters()]


def test_training_is_the_same_bit_for_bit() -> None:
    for a, b in zip(weights(watch=False), weights(watch=True), strict=True):
        assert torch.equal(a, b)


class Texts(Dataset[Any]):
    """Texts of several lengths, which only a collate function of one's own can join."""

    def __init__(self, texts: list[list[int]]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, k: int) -> Any:
        return {"input_ids": torch.tensor(self.texts[k]), "labels": k % 2}


def padded(samples: list[Any]) -> Any:
    rows = [nn.functional.pad(s["input_ids"], (0, 16 - len(s["input_ids"]))) for s in samples]
    return {
        "input_ids": torch.stack(rows),
        "labels": torch.tensor([s["labels"] for s in samples]),
    }


def test_a_reference_of_texts_is_joined_as_the_loader_joins_its_own() -> None:
    draw = np.random.default_rng(0)
    texts = [draw.integers(1, 90, 4 + k % 12).tolist() for k in range(80)]
    train, other = Texts(texts[:60]), Texts(texts[55:])
    for reference in (other, DataLoader(other, 8, collate_fn=padded)):
        loader = WatchedLoader(
            DataLoader(train, 16, shuffle=True, collate_fn=padded),
            references={"validation": reference},
        )
        loader.look()
        (found,) = loader.findings()
        assert found.kind == "in another split"
        assert found.samples.tolist() == [55, 56, 57, 58, 59]


def test_parts_are_found_or_named() -> None:
    x, y = table()
    x[9, 0] = torch.nan

    def collate(samples: list[Any]) -> Any:
        return {"age": torch.stack([s[0] for s in samples]), "who": [s[1] for s in samples]}

    loader = DataLoader(TensorDataset(x, y), 32, collate_fn=collate)
    unknown = WatchedLoader(loader)
    unknown.look()
    assert "19 batches were not looked at" in unknown.report()
    for inputs in ("age", lambda batch: batch["age"]):
        named = WatchedLoader(loader, inputs=inputs)
        named.look()
        assert named.findings()[0].samples.tolist() == [9]
    with pytest.raises(ValueError, match="expected a part 'size' in the batch"):
        WatchedLoader(loader, inputs="size").look()
    with pytest.raises(ValueError, match="no kinds of findings"):
        unknown.quarantine("nonsense")
    with pytest.raises(ValueError, match="watch=False"):
        WatchedLoader(loader, watch=False).findings()


def test_a_reference_is_read_again_only_when_samples_are_new() -> None:
    class Counted(TensorDataset):
        reads = 0

        def __getitem__(self, index: Any) -> Any:
            self.reads += 1
            return super().__getitem__(index)

    x, y = table()
    other = Counted(x[:5].clone())
    watched = WatchedLoader(DataLoader(TensorDataset(x, y), 32), references={"validation": other})
    for batch in watched:
        if batch.index == 3:
            break
    assert by_kind(watched)["in another split"].samples.tolist() == [0, 1, 2, 3, 4]
    assert by_kind(watched)["in another split"].samples.tolist() == [0, 1, 2, 3, 4]
    assert other.reads == 5
    watched.look()
    assert by_kind(watched)["in another split"].samples.tolist() == [0, 1, 2, 3, 4]
    assert other.reads == 10


def test_a_sample_drawn_twice_for_a_batch_is_no_duplicate_of_itself() -> None:
    for make in (table, pictures):
        data = TensorDataset(*make())
        torch.manual_seed(0)
        weights = torch.where(data.tensors[1] == 0, 9.0, 1.0)
        for sampled in (
            {"batch_sampler": [[k, k] for k in range(N)]},
            {"batch_size": 64, "sampler": WeightedRandomSampler(weights.tolist(), N)},
        ):
            watched = WatchedLoader(DataLoader(data, **sampled))  # type: ignore[arg-type]
            for _ in range(2):
                watched.look()
            assert watched.findings() == []
            assert len(watched.quarantine()) == N


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_beside_the_inputs_that_are_not_finite(bad: float) -> None:
    x, y = table()
    second, target = pictures(1)[0], torch.randn(N, 2)
    second[11, 1, 3, 5], target[40] = bad, bad
    hides = torch.full((N, 4), -torch.inf)  # a mask that is added
    for batch in (
        lambda k: ((x[k], second[k]), y[k], target[k], hides[k]),
        lambda k: (x[k], second[k], target[k], y[k]),
        lambda k: {
            "x": x[k],
            "more": second[k],
            "mask": hides[k],
            "amount": target[k],
            "label": y[k],
        },
    ):
        for size in (32, None):
            watched = WatchedLoader(DataLoader([batch(k) for k in range(N)], size))  # type: ignore[arg-type]
            watched.look()
            found = by_kind(watched)
            assert list(found) == ["non-finite input"]
            assert found["non-finite input"].samples.tolist() == [11, 40]
            assert "inputs, or other numbers," in found["non-finite input"].summary
