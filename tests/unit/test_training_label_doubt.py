"""Labels that were flipped are the ones that a model is surprised by."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from tocsin.training import Monitor, WatchedLoader

N = 800


def observed_epoch(model: nn.Module, descent: torch.optim.Optimizer, loader: WatchedLoader) -> None:
    for batch in loader:
        outputs = model(batch[0])
        loader.observe(outputs, batch)
        descent.zero_grad()
        nn.functional.cross_entropy(outputs, batch[1]).backward()
        descent.step()


def blobs(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (N,), generator=draw)
    centres = 3 * torch.eye(4, 8)
    return centres[y] + torch.randn(N, 8, generator=draw), y


def auroc(score: Any, positive: Any) -> float:
    rank = np.argsort(np.argsort(score))
    ones = positive.sum()
    return float((rank[positive].sum() - ones * (ones - 1) / 2) / ones / (N - ones))


class Watching(Monitor):
    def initialize(self, model: Any, dataloader: Any, criterion: Any) -> None:
        self.loader = dataloader

    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        self.loader.observe(outputs, batch)


def trained(
    x: torch.Tensor, y: torch.Tensor, wrap: Any = lambda z: z, *, observe: bool = True
) -> tuple[WatchedLoader, list[torch.Tensor]]:
    torch.manual_seed(1)
    loader = WatchedLoader(DataLoader(TensorDataset(x, y), 32, shuffle=True))
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4))
    descent = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    monitor = Watching()
    monitor.initialize(model, loader, nn.functional.cross_entropy)
    for _ in range(4):
        for batch in loader:
            inputs, labels = batch
            outputs = model(inputs)
            if observe:
                monitor.on_batch_end(wrap(outputs), batch)
            loss = nn.functional.cross_entropy(outputs, labels)
            descent.zero_grad()
            loss.backward()
            descent.step()
    return loader, [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("seed", range(3))
def test_flipped_labels_are_suspected(seed: int) -> None:
    x, y = blobs(seed)
    flipped = np.zeros(N, np.bool_)
    flipped[np.random.default_rng(seed).choice(N, N // 10, replace=False)] = True
    y[flipped] = (y[flipped] + 1) % 4
    loader, weights = trained(x, y)
    assert auroc(loader.suspicion(), flipped) > 0.97
    (found,) = [one for one in loader.findings() if one.kind == "doubtful label"]
    assert flipped[found.samples].mean() > 0.85
    assert flipped[found.samples].sum() > 0.5 * flipped.sum()
    assert len(loader.quarantine()) == N  # doubtful labels are left out where that is asked for
    assert len(loader.quarantine("doubtful label")) == N - len(found.samples)
    for a, b in zip(weights, trained(x, y, observe=False)[1], strict=True):
        assert torch.equal(a, b)


def test_right_labels_are_not_doubted() -> None:
    assert trained(*blobs(4))[0].findings() == []


def test_a_model_that_has_learnt_nothing_doubts_nothing() -> None:
    x, y = blobs(0)
    loader = WatchedLoader(DataLoader(TensorDataset(x, y), 32))
    draw = torch.Generator().manual_seed(0)
    for _ in range(2):
        for batch in loader:
            loader.observe(0.1 * torch.randn(len(batch[0]), 4, generator=draw), batch)
    assert loader.findings() == []


def test_a_model_that_is_sure_and_wrong_doubts_nothing() -> None:
    """One that has seen a few batches of a deep net is sure of classes by chance."""
    x, y = blobs(0)
    loader = WatchedLoader(DataLoader(TensorDataset(x, y), 32))
    draw = torch.Generator().manual_seed(0)
    answers = 3 * torch.randn(N, 4, generator=draw)  # equally wrong in each epoch
    for _ in range(2):
        for batch in loader:
            loader.observe(answers[batch.samples], batch)
    assert loader.findings() == []


def test_what_a_model_has_only_not_learnt_yet_is_not_doubted() -> None:
    """Two classes, learnt slowly: in the second epoch 202 of 1,797 right labels are less likely than the other one."""
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target % 2)
    flipped = np.zeros(len(y), np.bool_)
    flipped[np.random.default_rng(0).choice(len(y), len(y) // 10, replace=False)] = True

    def named(y: torch.Tensor) -> list[NDArray[np.int64]]:
        torch.manual_seed(0)
        loader = WatchedLoader(DataLoader(TensorDataset(x, y), 32, shuffle=True))
        model = nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
        )
        descent = torch.optim.SGD(model.parameters(), 0.003, momentum=0.9)
        found = []
        for _ in range(5):
            observed_epoch(model, descent, loader)
            found.append(
                next((f.samples for f in loader.findings() if f.kind == "doubtful label"), none)
            )
        return found

    none = np.empty(0, np.int64)
    assert not any(map(len, named(y)))
    samples = named(torch.where(torch.from_numpy(flipped), 1 - y, y))[-1]
    assert flipped[samples].sum() > 0.5 * flipped.sum()
    assert flipped[samples].mean() > 0.5


@pytest.mark.parametrize(
    "wrap", [lambda z: {"logits": z}, lambda z: SimpleNamespace(logits=z), lambda z: (z, None)]
)
def test_outputs_of_other_types(wrap: Any) -> None:
    x, y = blobs(0)
    plain, other = trained(x, y)[0].suspicion(), trained(x, y, wrap)[0].suspicion()
    np.testing.assert_array_equal(plain, other)
    assert np.isfinite(plain).all()


def test_what_tells_nothing_is_refused_and_what_has_not_come_is_unknown() -> None:
    x, y = blobs(0)
    loader = WatchedLoader(DataLoader(TensorDataset(x, y), 32))
    batch = next(iter(loader))
    loader.observe(torch.zeros(32, 4), list(batch))  # knows no index: the latest
    assert np.isfinite(loader.suspicion()).sum() == 32
    loader.observe(torch.full((32, 4), torch.nan), batch)
    np.testing.assert_allclose(loader.suspicion()[:32], np.log(4), rtol=1e-6)
    with pytest.raises(ValueError, match=r"expected .* found \(31, 4\) and \(32,\)"):
        loader.observe(torch.zeros(31, 4), batch)
    with pytest.raises(ValueError, match=r"found \(32, 4\) and None"):
        loader.observe(torch.zeros(32, 4), batch[0])
    with pytest.raises(ValueError, match="of numbers, and of several labels a sample"):
        loader.observe(torch.zeros(32), [batch[0], torch.zeros(32)])
    with pytest.raises(ValueError, match="found 96 labels of 2 classes for 32 rows"):
        loader.observe(torch.zeros(32, 3), [batch[0], torch.zeros(32, 3)], nn.BCEWithLogitsLoss())


@pytest.mark.parametrize(
    "criterion", [nn.BCEWithLogitsLoss(), nn.BCELoss()], ids=["logits", "probabilities"]
)
def test_one_output_for_two_classes(criterion: nn.Module) -> None:
    """The same doubts as of two logits."""
    x, y = blobs(0)
    y = y % 2
    float_labels = WatchedLoader(DataLoader(TensorDataset(x, y[:, None].float()), 32))
    two = WatchedLoader(DataLoader(TensorDataset(x, y), 32))
    draw = torch.Generator().manual_seed(0)
    for batch, other in zip(float_labels, two, strict=True):
        z = torch.randn(len(other[0]), 1, generator=draw)
        output = z.sigmoid() if isinstance(criterion, nn.BCELoss) else z
        float_labels.observe(output, batch, criterion)
        two.observe(torch.cat([torch.zeros_like(z), z], 1), other)
    np.testing.assert_allclose(float_labels.suspicion(), two.suspicion(), rtol=1e-4)


def test_epochs_of_trainers_that_never_ask_for_their_end() -> None:
    """They fetch as many batches as there are."""
    x, y = blobs(0)
    y[:80] = (y[:80] + 1) % 4
    answers = torch.eye(4)[(y + (torch.arange(N) < 80) * 3) % 4] * 5
    loader = WatchedLoader(DataLoader(TensorDataset(x, y), 32, shuffle=True))
    found = []
    for _ in range(2):
        for batch in islice(loader, len(loader)):
            loader.observe(answers[batch.samples], batch)
        found.append([len(one.samples) for one in loader.findings()])
        assert len(loader.findings()) == len(found[-1])  # asked once more
    assert found == [[], [80]]


def test_what_is_no_class_is_not_doubted() -> None:
    x, y = blobs(0)
    loader = WatchedLoader(DataLoader(TensorDataset(x, y), 32))
    batch = next(iter(loader))
    with pytest.raises(ValueError, match="of numbers"):  # counts
        loader.observe(torch.zeros(32), batch, nn.PoissonNLLLoss())
    smooth = 0.05 + 0.9 * (y % 2)[:, None].float()
    smoothed = WatchedLoader(DataLoader(TensorDataset(x, smooth), 32))
    plain = WatchedLoader(
        DataLoader(TensorDataset(x, (y % 2)[:, None].float()), 32), inputs=0, labels=1
    )
    for one, other in zip(smoothed, plain, strict=True):
        smoothed.observe(one[0][:, :1], one, nn.BCEWithLogitsLoss())
        plain.observe(other[0][:, :1], other, nn.BCEWithLogitsLoss())
    np.testing.assert_array_equal(smoothed.suspicion(), plain.suspicion())


@pytest.mark.parametrize("shares", [2, 4])
def test_of_samples_that_come_in_some_epochs_only_right_labels_are_not_doubted(shares: int) -> None:
    def named(y: torch.Tensor, seed: int) -> tuple[bool, NDArray[np.int64]]:
        torch.manual_seed(seed)
        data = TensorDataset(x, y)
        loader = WatchedLoader(DataLoader(data, 16, sampler=DistributedSampler(data, shares, 0)))
        model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
        descent = torch.optim.Adam(model.parameters(), 0.01)
        found = [none]
        for epoch in range(6 * shares):
            loader.set_epoch(epoch)
            observed_epoch(model, descent, loader)
            found += [one.samples for one in loader.findings() if one.kind == "doubtful label"]
        return len(found) > 1, np.unique(np.concatenate(found))

    none, doubted = np.empty(0, np.int64), 0
    for seed in range(4):
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(1000, 8, generator=draw)
        y = (x @ torch.randn(8, 3, generator=draw)).argmax(1)
        doubted += named(y, seed)[0]
    assert doubted == 0
    flipped = np.zeros(1000, np.bool_)
    flipped[np.random.default_rng(0).choice(1000, 100, replace=False)] = True
    _, samples = named(torch.where(torch.from_numpy(flipped), (y + 1) % 3, y), 0)
    assert flipped[samples].sum() > 0.5 * flipped.sum()
    assert flipped[samples].mean() > 0.6


def digits_trained(of: int, to: int, share: float, epochs: int) -> tuple[WatchedLoader, Any]:
    """Train on digits of which a share of one class is labelled as another."""
    torch.manual_seed(2)
    inputs, labels = load_digits(return_X_y=True)
    own = np.flatnonzero(labels == of)
    changed = np.random.default_rng(2).choice(own, round(share * len(own)), replace=False)
    labels[changed] = to
    data = TensorDataset(torch.tensor(inputs / 16, dtype=torch.float32), torch.tensor(labels))
    loader = WatchedLoader(DataLoader(data, 32, shuffle=True))
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    descent = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(epochs):
        observed_epoch(model, descent, loader)
    return loader, changed


def test_labels_of_one_class_made_those_of_another_are_found_though_they_are_few() -> None:
    loader, changed = digits_trained(5, 0, 0.15, epochs=6)
    (found,) = loader.findings()
    assert found.kind == "doubtful label"
    assert set(found.samples) <= set(changed)
    assert len(found.samples) >= len(changed) // 3
    assert set(found.rather) == {5}
    assert "with label 0 are more likely of class 5" in found.summary
    loader, _ = digits_trained(5, 0, 0.0, epochs=6)
    assert loader.findings() == []


@pytest.mark.parametrize(("others", "named"), [(10, 35), (40, 75)])
def test_labels_changed_on_purpose_are_named_without_hard_samples_unless_these_are_many(
    others: int, named: int
) -> None:
    prefers = torch.arange(1000) % 10
    labels = prefers.clone()
    labels[torch.nonzero(prefers == 0)[:35]] = 5
    hard = torch.nonzero((prefers != 0) & (prefers != 5))[:others]
    labels[hard] = (prefers[hard] % 4) + 1  # of pairs that are all kinds
    loader = WatchedLoader(DataLoader(TensorDataset(prefers[:, None], labels), 50))
    logits = nn.functional.one_hot(prefers, 10) * torch.where(labels == prefers, 6.0, 7.0)[:, None]
    for _ in range(3):
        for batch in loader:
            loader.observe(logits[batch.samples], batch)
    (found,) = loader.findings()
    assert (found.kind, len(found.samples)) == ("doubtful label", named)
    assert set(np.flatnonzero((labels != prefers) & (labels == 5))) <= set(found.samples)


class Stream(IterableDataset[Any]):
    """Samples in an order that differs between epochs, or not; with noise that is drawn anew, or not."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, *, shuffle: bool, noise: float) -> None:
        self.x, self.y, self.shuffle, self.noise = x, y, shuffle, noise
        self.orders: list[NDArray[np.int64]] = []

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self) -> Iterator[Any]:
        seed = len(self.orders) if self.shuffle else 0
        self.orders.append(np.random.default_rng(seed).permutation(len(self.x)))
        draw = torch.Generator().manual_seed(len(self.orders))
        return iter(
            [(self.x[k] + self.noise * torch.randn(8, generator=draw), self.y[k])
             for k in self.orders[-1]]
        )  # fmt: skip


@pytest.mark.parametrize(
    ("size", "shuffle", "noise"),
    [(32, False, 0.0), (32, True, 0.0), (None, True, 0.0), (32, True, 0.01)],
    ids=["fixed", "mixed", "mixed without batches", "noise"],
)
def test_of_an_iterable_data_set_no_samples_are_mixed(
    size: int | None, *, shuffle: bool, noise: float, caplog: pytest.LogCaptureFixture
) -> None:
    x, y = blobs(0)
    flipped = np.zeros(N, np.bool_)
    flipped[np.random.default_rng(0).choice(N, N // 10, replace=False)] = True
    y[flipped] = (y[flipped] + 1) % 4
    x[1], x[3], x[5] = x[0], x[2], x[4]  # two of one content, of other labels and of the same
    y[1], y[3], y[5] = y[0] ^ 1, y[2] ^ 1, y[4]
    torch.manual_seed(1)
    data = Stream(x, y, shuffle=shuffle, noise=noise)
    loader = WatchedLoader(DataLoader(data, size))
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    descent = torch.optim.SGD(model.parameters(), 0.1 if size else 0.003, momentum=0.9)
    late: list[Any] = []
    for _ in range(4):
        for batch in loader:
            late.append(batch)
            if len(late) > 1:  # some trainers are a batch ahead
                observed(model, descent, loader, late.pop(0))
        observed(model, descent, loader, late.pop())
    found = [one.samples for one in loader.findings() if one.kind == "doubtful label"]
    warnings = [line for line in caplog.messages if "labels are not doubted" in line]
    # Samples have the numbers of the first epoch.
    is_flipped, is_twin = flipped[data.orders[0]], data.orders[0] < 6
    if noise:
        assert (found, len(warnings)) == ([], 1)
    else:
        named = found[0][~is_twin[found[0]]]
        assert len(named) == len(found[0]) or not shuffle  # which of two it is cannot be told
        assert is_flipped[named].mean() > 0.85
        assert is_flipped[named].sum() > 0.5 * is_flipped.sum()
        assert warnings == []
    assert len(loader.suspicion()) == N
    assert auroc(loader.suspicion(), is_flipped) > (0.85 if noise else 0.97)


def observed(
    model: nn.Module, descent: torch.optim.Optimizer, loader: WatchedLoader, batch: Any
) -> None:
    x, y = batch
    x, y = x.reshape(-1, 8), y.reshape(-1)
    outputs = model(x)
    loader.observe(outputs, batch)
    descent.zero_grad()
    nn.functional.cross_entropy(outputs, y).backward()
    descent.step()
