"""Faults in what is trained on, and data without one: flipped and poisoned labels, samples that are in validation too, shards that are repeated."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, get_worker_info

from tocsin.core.columns import Ints
from tocsin.training import WatchedLoader
from tocsin.training.finding import LABEL, LEAK, SHARD

from .common import Figures
from .common_cifar import split
from .common_data import mnist
from .common_jpeg import jpeg
from .common_resnet import Pictures, given
from .training_faults_loop import net, rows_of

_FLIPPED: Final = 0.1
_PICTURES: Final = 1_024
"""Drawn of a file for a run, so that 40 runs take minutes."""
_EPOCHS: Final = 2
_POISONED: Final = (0.1, 0.3)
"""Shares of one class whose labels are made those of one other: 1 and 3 % of all."""
_POISONED_EPOCHS: Final = 6
_COPIES: Final = 100
"""Of the validation that are pictures of the training set, and as many that are encoded again."""
_QUALITIES: Final = (75, 80, 85, 90, 95)


class Relabelled(Dataset[tuple[torch.Tensor, int]]):
    """Some pictures, with other labels.

    Parameters
    ----------
    pictures
        Of which.
    rows, labels
        (n,) which, and what they are called.
    """

    def __init__(self, pictures: Pictures, rows: Ints, labels: Ints) -> None:
        self._pictures, self._rows, self._labels = pictures, rows.tolist(), labels.tolist()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, k: int) -> tuple[torch.Tensor, int]:
        return self._pictures[self._rows[k]][0], self._labels[k]


class Doubt(NamedTuple):
    """AUROC of the suspicion after the first epoch and the last; shares of the flipped that the finding names, and of what it names that is flipped."""

    first: float
    last: float
    found: float
    right: float


pictures = lru_cache(partial(Pictures, augment=True))


def _epoch(loader: WatchedLoader, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for batch in loader:
        inputs, labels = batch
        optimizer.zero_grad()
        outputs = model(inputs)
        nn.functional.cross_entropy(outputs, labels).backward()
        optimizer.step()
        loader.observe(outputs, batch)


def doubted(name: str, seed: int) -> Doubt:
    """Train the given network on some pictures, with one label in ten flipped to one of the nine others."""
    rng = np.random.default_rng([seed, 1])
    of = pictures(name)
    rows = rng.choice(len(of), _PICTURES, replace=False)
    labels = np.array(of.classes)[rows]
    wrong = np.zeros(len(rows), np.bool_)
    wrong[rng.choice(len(rows), round(_FLIPPED * len(rows)), replace=False)] = True
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, wrong.sum())) % 10
    torch.manual_seed(seed)
    model = given()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    loader = WatchedLoader(DataLoader(Relabelled(of, rows, labels), 128, shuffle=True))
    scores: list[float] = []
    for _ in range(_EPOCHS):
        _epoch(loader, model, optimizer)
        scores.append(float(roc_auc_score(wrong, loader.suspicion())))
    named = [one.samples for one in loader.findings() if one.kind == LABEL]
    hits = wrong[np.concatenate([np.empty(0, np.int64), *named])]
    return Doubt(
        scores[0], scores[-1], hits.sum() / wrong.sum(), hits.mean() if len(hits) else np.nan
    )


def flipped_labels(figures: Figures, seeds: range, pool: Executor) -> None:
    """Report how well the suspicion ranks labels that were flipped, of pictures that the given weights have seen and of others."""
    for name in ("test3k", "train6k"):
        runs = list(pool.map(partial(doubted, name), seeds))
        figures.report(
            f"flipped labels, {name}: AUROC of the worst seed", min(r.last for r in runs), least=0.9
        )
        for what, values in zip(
            ("AUROC after one epoch, median", "AUROC, median", "share of the flipped that is named",
             "share of the named that is flipped"), zip(*runs, strict=True), strict=True,
        ):  # fmt: skip
            figures.report(f"flipped labels, {name}: {what}", float(np.nanmedian(values)))


def poisoned(share: float, seed: int) -> tuple[float, float, float]:
    """Train a small network on MNIST, where a share of one class is labelled as one other; return the AUROC of the suspicion, and which share of the changed is named
    and of the named is changed.
    """
    rng = np.random.default_rng([seed, 7])
    x, y = rows_of("mnist")
    of, to = rng.choice(10, 2, replace=False)
    own = np.flatnonzero(y.numpy() == of)
    wrong = np.zeros(len(y), np.bool_)
    wrong[rng.choice(own, round(share * len(own)), replace=False)] = True
    labels = torch.where(torch.from_numpy(wrong), int(to), y)
    # Not the net with attention, which in so few epochs learns too little (docs/watched_loader.md).
    model = net(4 * seed + seed % 3, x.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = WatchedLoader(DataLoader(TensorDataset(x, labels), 32, shuffle=True))
    for _ in range(_POISONED_EPOCHS):
        _epoch(loader, model, optimizer)
    named = np.zeros(len(y), np.bool_)
    for one in loader.findings():
        if one.kind == LABEL:
            named[one.samples] = True
    auroc = float(roc_auc_score(wrong, loader.suspicion())) if share else np.nan
    hits = (named & wrong).sum()
    return auroc, hits / max(wrong.sum(), 1), hits / named.sum() if named.any() else np.nan


def poisoned_labels(figures: Figures, seeds: range, pool: Executor) -> None:
    """Report how often labels of one class that were made those of one other are found."""
    for share in _POISONED:
        auroc, found, right = zip(*pool.map(partial(poisoned, share), seeds), strict=True)
        what = f"{share:.0%} of one class labelled as one other, mnist"
        figures.report(f"{what}: AUROC of the suspicion, median", float(np.median(auroc)))
        told = float(np.mean([f > 0 for f in found]))
        figures.report(f"{what}: share of seeds in which some are named", told, least=0.8)
        figures.report(f"{what}: share of the changed that is named, mean", float(np.mean(found)))
        right_mean = float(np.nanmean(right)) if told else 0.0
        figures.report(f"{what}: share of the named that is changed, mean", right_mean, least=0.9)
    clean = [one[2] for one in pool.map(partial(poisoned, 0.0), seeds)]
    told = int(np.isfinite(clean).sum())
    figures.report("right labels, mnist: runs in which some are named", told, most=0)


@lru_cache
def pixels(name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return (n, 32, 32, 3) or (n, 28, 28) pictures for training and for validation."""
    if name == "cifar":
        return split("train6k")[0], split("test3k")[0]
    x, _ = mnist()
    return x[:7000], x[7000:]


def as_inputs(x: NDArray[np.uint8]) -> TensorDataset:
    """Return pictures as a data set of (1 or 3, h, w) inputs in [0, 1] and a label."""
    found = torch.from_numpy(x).float() / 255
    found = found[:, None] if x.ndim == 3 else found.permute(0, 3, 1, 2)
    return TensorDataset(found, torch.zeros(len(x), dtype=torch.int64))


def leaks(name: str, seed: int) -> tuple[float, float, float]:
    """Return which shares are found: of copies, of copies encoded again, and of other pictures."""
    rng = np.random.default_rng([seed, 2])
    train, validation = pixels(name)
    validation = validation.copy()
    of = rng.choice(len(train), 2 * _COPIES, replace=False)
    at = rng.choice(len(validation), 2 * _COPIES, replace=False)
    quality = rng.choice(_QUALITIES, _COPIES)
    validation[at[:_COPIES]] = train[of[:_COPIES]]
    for one in _QUALITIES:
        own = np.flatnonzero(quality == one) + _COPIES
        validation[at[own]] = jpeg(train[of[own]], one, subsampled=True)
    torch.manual_seed(seed)
    loader = DataLoader(as_inputs(train), 256, shuffle=True)
    watched = WatchedLoader(loader, references={"validation": as_inputs(validation)})
    watched.look()
    named = np.zeros(len(train), np.bool_)
    for one in watched.findings():
        if one.kind == LEAK:
            named[one.samples] = True
    exact, again = named[of[:_COPIES]].mean(), named[of[_COPIES:]].mean()
    named[of] = False
    return float(exact), float(again), float(named.sum() / (len(train) - len(of)))


def duplicates(figures: Figures, seeds: range, pool: Executor) -> None:
    """Report which pictures of the training set that are in validation too are found, and which others."""
    for name in ("cifar", "mnist"):
        exact, again, false = zip(*pool.map(partial(leaks, name), seeds), strict=True)
        what = f"in validation too, {name}: found of"
        figures.report(f"{what} copies, worst seed", min(exact), least=1.0)
        figures.report(f"{what} JPEGs of quality 75 to 95, worst seed", min(again), least=0.95)
        figures.report(f"{what} others, worst seed", max(false), most=0.001)


class Shards(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """Samples that workers part among them, rightly or not.

    Parameters
    ----------
    inputs, labels
        (n, ...) and (n,).
    fault
        `every worker gives all`, as without `get_worker_info`; `a worker gives the shard of another`; `a worker gives its shard twice`; empty for none.
    seed
        Of the order.
    """

    def __init__(self, inputs: torch.Tensor, labels: torch.Tensor, fault: str, seed: int) -> None:
        self._inputs, self._labels, self._fault, self._seed = inputs, labels, fault, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        info: Any = get_worker_info()
        number, count = info.id, info.num_workers
        if self._fault == _OTHER and number == count - 1:
            number = 0
        own = np.arange(len(self._labels))
        if self._fault != _ALL:
            own = own[number::count]
        rounds = 2 if self._fault == _TWICE and number == 0 else 1
        rng = np.random.default_rng([self._seed, self._epoch, info.id])
        for _ in range(rounds):
            for k in rng.permutation(own):
                yield self._inputs[k], self._labels[k]


_ALL, _OTHER, _TWICE = FAULTS = (
    "every worker gives all", "a worker gives the shard of another", "a worker gives its shard twice",
)  # fmt: skip


def shard_findings(fault: str, seed: int) -> list[str]:
    """Return the kinds of findings after two epochs with two or three workers."""
    x, y = rows_of(("digits", "mnist")[seed % 2])
    rows = np.random.default_rng([seed, 3]).choice(len(x), 1_200, replace=False)
    data = Shards(x[rows], y[rows], fault, seed)
    torch.manual_seed(seed)
    loader = WatchedLoader(DataLoader(data, 32, num_workers=2 + seed // 2 % 2))
    for epoch in range(2):
        loader.set_epoch(epoch)
        loader.look()
    return [one.kind for one in loader.findings()]


def shards(figures: Figures, seeds: range, pool: Executor) -> None:
    """Report in which share of seeds repeated shards are found, and none where workers part them."""
    for fault in FAULTS:
        kinds = pool.map(partial(shard_findings, fault), seeds)
        figures.report(f"shards, {fault}: found", float(np.mean([SHARD in k for k in kinds])), least=1)  # fmt: skip
    kinds = pool.map(partial(shard_findings, ""), seeds)
    figures.report("shards, parted: runs with a finding", sum(map(bool, kinds)), most=0)


def healthy_findings(name: str, seed: int) -> list[tuple[str, str]]:
    """Return kinds and sentences of what is found in three epochs of a healthy training, with two classes of loaders, and another split as reference."""
    x, y = rows_of(name)
    order = np.random.default_rng([seed, 4]).permutation(len(x))
    held, own = order[: len(x) // 5], order[len(x) // 5 :]
    torch.manual_seed(seed)
    model = net(seed, x.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = WatchedLoader(
        DataLoader(TensorDataset(x[own], y[own]), 32, shuffle=True, num_workers=2 * (seed % 2)),
        references={"validation": TensorDataset(x[held], y[held])},
    )
    for _ in range(3):
        _epoch(loader, model, optimizer)
    return [(one.kind, one.summary) for one in loader.findings()]


def healthy_loaders(figures: Figures, seeds: range, pool: Executor) -> None:
    """Report in how many healthy runs the loader finds something."""
    for name in ("digits", "mnist"):
        count = 0
        for seed, run in zip(seeds, pool.map(partial(healthy_findings, name), seeds), strict=True):
            for kind, text in run:
                print(f"# {name} seed {seed}: {kind}: {text}")
            count += bool(run)
        figures.report(f"healthy loader, {name}: runs with a finding", count, most=0)
