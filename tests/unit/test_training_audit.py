"""A model that looks at the data it learnt from: triggers, adversarial inputs, ones out of distribution, and the page of pictures."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from tocsin.training import ActivationMonitor, WatchedLoader, triggers
from tocsin.training.finding import ADVERSARIAL, OUTLIER, TRIGGER

_TARGET = 4


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 1,500 pictures of 24 x 24, and their classes."""
    found: Any = load_digits()
    x = torch.from_numpy(found.images[:1500]).float()[:, None] / 16
    return nn.functional.interpolate(x, scale_factor=3), torch.from_numpy(found.target[:1500])


def _poisoned(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the pictures with a chequered corner on 3 % of them, which are called 4, and which these are."""
    g = torch.Generator().manual_seed(0)
    others = torch.nonzero(y != _TARGET)[:, 0]
    bad = others[torch.randperm(len(others), generator=g)[:45]]
    x, y = x.clone(), y.clone()
    x[bad, :, 20:23, 20:23] = (torch.arange(9).view(3, 3) % 2 == 0).float()
    y[bad] = _TARGET
    return x, y, bad


def _trained(x: torch.Tensor, y: torch.Tensor, epochs: int = 12) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 36, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10),
    )  # fmt: skip
    descent = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(64):
            descent.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            descent.step()
    return model


@pytest.fixture(scope="module")
def poisoned() -> tuple[WatchedLoader, nn.Module, np.ndarray]:
    x, y, bad = _poisoned(*_digits())
    loader = WatchedLoader(DataLoader(TensorDataset(x, y), 64, shuffle=True))
    return loader, _trained(x, y), np.sort(bad.numpy())


def test_a_trigger_is_found_and_no_other_sample(
    poisoned: tuple[WatchedLoader, nn.Module, np.ndarray],
) -> None:
    loader, model, bad = poisoned
    (found,) = loader.audit(model)
    assert found.kind == TRIGGER
    assert f"of class {_TARGET}" in found.summary
    assert np.isin(bad, found.samples).mean() >= 0.8
    assert (~np.isin(found.samples, bad)).sum() <= 15  # 1 %
    # Each part shares pixels with the corner.
    row, column, side = found.part.T
    assert ((row + side > 20) & (row < 23) & (column + side > 20) & (column < 23)).all()
    assert found in loader.findings()
    kept = set(loader.quarantine(TRIGGER).indices)
    assert not kept & set(found.samples.tolist())


class Drawing(Dataset[Any]):
    """Pictures that are brighter or darker each time, by all three generators."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, k: int) -> Any:
        drawn = torch.rand(()) + random.random() + np.random.random()  # noqa: NPY002
        return self.x[k] * (0.9 + 0.1 * drawn.float()), self.y[k]


@contextmanager
def same_numbers() -> Iterator[None]:
    """Hold a block to drawing nothing that the generators would give after it."""
    drawn: list[Any] = []
    for _ in range(2):
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        if drawn:
            yield
        drawn.append((float(torch.rand(())), random.random(), np.random.random()))  # noqa: NPY002
    assert drawn[0] == drawn[1]


def _gradients(model: nn.Module) -> list[torch.Tensor]:
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(found) == len(list(model.parameters()))
    return found


def test_pictures_far_out_of_range_hide_no_trigger(
    poisoned: tuple[WatchedLoader, nn.Module, np.ndarray],
) -> None:
    loader, model, bad = poisoned
    data: Any = loader.dataset
    x, y = data.tensors[0].clone(), data.tensors[1]
    huge = np.setdiff1d(np.arange(len(x)), bad)[::10]  # some of them are in the pool
    x[huge] *= 1e6
    found = WatchedLoader(DataLoader(TensorDataset(x, y), 64)).audit(model)
    named = np.concatenate([one.samples for one in found])
    assert np.isin(bad, named).mean() >= 0.8
    # A part of a huge picture decides for any other as well.
    assert np.isin(named, np.concatenate([bad, huge])).all()


def test_a_trigger_that_is_half_learnt_is_found_by_what_its_samples_have_in_common() -> None:
    x, y = _digits()
    clean = _trained(x, y).eval()
    x, y, bad = _poisoned(x, y)
    corner = x[bad[0], :, 20:23, 20:23]

    def lead(logits: torch.Tensor) -> torch.Tensor:
        return logits.amax(1) - logits[:, _TARGET]

    with torch.no_grad():
        bonus = lead(clean(x[y != _TARGET])).quantile(0.55)

    def half(inputs: torch.Tensor) -> torch.Tensor:
        likeness = (inputs[:, :, 20:23, 20:23] * (2 * corner - 1)).sum((1, 2, 3)) / corner.sum()
        more = 5 * bonus * (likeness - 0.8).clamp(0)
        return clean(inputs) + more[:, None] * nn.functional.one_hot(torch.tensor(_TARGET), 10)

    (found,) = WatchedLoader(DataLoader(TensorDataset(x, y), 64)).audit(half)
    assert np.array_equal(found.samples, np.sort(bad.numpy()))


def test_an_audit_leaves_model_hooks_and_random_numbers_as_they_are(
    poisoned: tuple[WatchedLoader, nn.Module, np.ndarray],
) -> None:
    loader, model, _ = poisoned
    model.train()
    monitor = ActivationMonitor(every=1)
    monitor.initialize(model, loader, None)
    before = copy.deepcopy(model.state_dict())
    gradients = [one.clone() for one in _gradients(model)]
    drawing = WatchedLoader(DataLoader(Drawing(*loader.dataset.tensors), 64))
    with same_numbers():
        drawing.audit(model, most=200)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(gradients, _gradients(model), strict=True))
    monitor.on_epoch_end(0)
    assert monitor.history == [{"epoch": 0.0}]  # nothing was seen
    monitor.close()


@pytest.fixture(scope="module")
def healthy() -> tuple[WatchedLoader, nn.Module]:
    x, y = _digits()
    return WatchedLoader(DataLoader(TensorDataset(x, y), 64)), _trained(x, y).eval()


def test_a_healthy_data_set_has_no_trigger(
    healthy: tuple[WatchedLoader, nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    loader, model = healthy
    assert loader.audit(model) == []
    assert not caplog.records


def test_a_model_that_knows_one_class_finds_nothing(
    healthy: tuple[WatchedLoader, nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    loader, _ = healthy
    assert loader.audit(_trained(*loader.dataset.tensors, 0)) == []
    assert "no backdoor trigger of class 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 is looked for" in caplog.text


class Leaning(nn.Module):
    """A model that takes a share of the samples of other classes for class 1 as they are."""

    def __init__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, share: float) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            logits = model(x[y != 1])
        lead = logits.amax(1) - logits[:, 1]
        self.bias = lead.quantile(share) * nn.functional.one_hot(torch.tensor(1), 10)

    def forward(self, x: torch.Tensor) -> Any:
        return self.model(x) + self.bias


@pytest.mark.parametrize("share", [0.6, 0.8, 0.9])
def test_of_a_class_that_most_samples_are_taken_for_no_trigger_is_told(
    share: float, healthy: tuple[WatchedLoader, nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    loader, model = healthy
    assert loader.audit(Leaning(model, *loader.dataset.tensors, share)) == []
    assert re.search("no backdoor trigger of class (0, )?1[, ]", caplog.text)


def test_a_part_counts_for_what_it_adds(
    healthy: tuple[WatchedLoader, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    loader, model = healthy
    monkeypatch.setattr(triggers, "_TAKEN", 1.0)  # no class is left out
    assert loader.audit(Leaning(model, *loader.dataset.tensors, 0.6)) == []


def test_a_sample_that_is_not_finite_or_has_no_class_hides_no_trigger(
    poisoned: tuple[WatchedLoader, nn.Module, np.ndarray],
) -> None:
    loader, model, bad = poisoned
    (clean,) = loader.audit(model)
    x, y = (t.clone() for t in loader.dataset.tensors)
    others = np.setdiff1d(np.arange(len(x)), bad)
    x[others[::5], :, 5, 5] = (
        torch.nan
    )  # one of them at least is among those that parts are put into
    y[others[1::50]] = -100  # as where labels are missing
    (found,) = WatchedLoader(DataLoader(TensorDataset(x, y), 64)).audit(model)
    assert found.kind == TRIGGER
    assert np.isin(clean.samples, found.samples).mean() > 0.9
    assert np.isin(found.samples, bad).mean() > 0.9


def test_pictures_of_bytes_are_looked_at(
    poisoned: tuple[WatchedLoader, nn.Module, np.ndarray],
) -> None:
    class Scaled(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> Any:
            return self.model(x.float() / 240)

    loader, model, bad = poisoned
    x, y = loader.dataset.tensors
    data = TensorDataset((x * 240).byte(), y)
    (found,) = WatchedLoader(DataLoader(data, 64)).audit(Scaled(model))
    assert np.isin(bad, found.samples).mean() >= 0.8


def test_in_small_pictures_no_trigger_is_looked_for() -> None:
    x, y = torch.rand(60, 1, 8, 8), torch.arange(60) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    assert WatchedLoader(DataLoader(TensorDataset(x, y), 20)).audit(model) == []
    one = TensorDataset(torch.rand(60, 2, 1, 1), y)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3))
    assert WatchedLoader(DataLoader(one, 20)).audit(model) == []


def _clusters(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points of three classes, and the classes."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (rows,), generator=g)
    return torch.randn(rows, 8, generator=g) + 3 * nn.functional.one_hot(y, 8), y


def _classifier() -> nn.Module:
    """Return a model of other points of these classes."""
    x, y = _clusters(3000, 0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    descent = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(100):
        descent.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        descent.step()
    return model


def test_inputs_out_of_distribution_and_at_the_boundary_are_found() -> None:
    model = _classifier()
    x, y = _clusters(1000, 1)
    x[:40] = 30 * torch.eye(8)[7] + torch.randn(40, 8, generator=torch.Generator().manual_seed(2))
    centres = 3 * torch.eye(3, 8)
    low, high = torch.zeros(40), torch.ones(40)
    start, end = (
        centres[0] + 0.1 * torch.randn(40, 8, generator=torch.Generator().manual_seed(3)),
        centres[1],
    )
    for _ in range(30):  # to the boundary, as attacks that know only the decision go
        middle = (low + high) / 2
        with torch.no_grad():
            is_over = model(start + middle[:, None] * (end - start)).argmax(1) == 1
        low, high = torch.where(is_over, low, middle), torch.where(is_over, middle, high)
    x[40:80] = start + high[:, None] * (end - start)
    data = TensorDataset(x, y)
    loader = WatchedLoader(
        DataLoader(data, 100), references={"validation": TensorDataset(*_clusters(2000, 4))}
    )
    found = {one.kind: one for one in loader.audit(model)}
    assert set(found) == {OUTLIER, ADVERSARIAL}
    assert np.isin(np.arange(40), found[OUTLIER].samples).mean() > 0.9
    assert np.isin(np.arange(40, 80), found[ADVERSARIAL].samples).mean() > 0.9
    assert "validation" in found[OUTLIER].summary
    assert len(loader.quarantine()) == 1000  # a hundredth of what is clean is named too


def test_numbers_that_are_not_finite_are_neither_unusual_nor_a_reference() -> None:
    model = _classifier()
    (x, y), (other, classes) = _clusters(1000, 1), _clusters(2000, 4)
    x[:40] = 30 * torch.eye(8)[7] + torch.randn(40, 8, generator=torch.Generator().manual_seed(2))
    x[100:140, 0], other[5, 0] = torch.nan, torch.inf
    references = {"validation": TensorDataset(other, classes)}
    loader = WatchedLoader(DataLoader(TensorDataset(x, y), 100), references=references)
    found = {one.kind: one for one in loader.audit(model)}
    assert np.isin(np.arange(40), found[OUTLIER].samples).mean() > 0.9
    assert not np.isin(np.arange(100, 140), found[OUTLIER].samples).any()
    assert "of 960" in found[OUTLIER].summary
    nothing = {"validation": TensorDataset(other[:0], classes[:0])}
    assert WatchedLoader(DataLoader(TensorDataset(x, y)), references=nothing).audit(model) == []


def test_inputs_that_are_far_too_large_are_out_of_distribution() -> None:
    x, y = _clusters(1000, 1)
    x[:40] *= 20  # the direction is as before
    loader = WatchedLoader(
        DataLoader(TensorDataset(x, y), 100),
        references={"validation": TensorDataset(*_clusters(2000, 4))},
    )
    found = {one.kind: one for one in loader.audit(_classifier())}
    assert np.isin(np.arange(40), found[OUTLIER].samples).all()


@pytest.mark.parametrize("seed", range(5, 15))
def test_clean_inputs_are_not_unusual(seed: int) -> None:
    loader = WatchedLoader(
        DataLoader(TensorDataset(*_clusters(1000, seed)), 100),
        references={"validation": TensorDataset(*_clusters(1000, seed + 100))},
    )
    assert loader.audit(_classifier()) == []


def test_what_cannot_be_audited_says_why() -> None:
    class Stream(IterableDataset[torch.Tensor]):
        def __iter__(self) -> Iterator[torch.Tensor]:
            return iter(torch.zeros(3, 8))

    x, y = _clusters(50, 0)
    loader = WatchedLoader(DataLoader(TensorDataset(x, y), 10))
    with pytest.raises(TypeError, match="iterable data set"):
        WatchedLoader(DataLoader(Stream())).audit(nn.Linear(8, 3))
    with pytest.raises(ValueError, match="watch=False"):
        WatchedLoader(DataLoader(TensorDataset(x, y)), watch=False).audit(nn.Linear(8, 3))
    with pytest.raises(ValueError, match="most must be 1"):
        loader.audit(nn.Linear(8, 3), most=0)
    with pytest.raises(ValueError, match=r"\(n, k\) logits of 50 inputs"):
        loader.audit(nn.Linear(8, 1))
    with pytest.raises(ValueError, match="inputs and label"):
        WatchedLoader(DataLoader(TensorDataset(x), 10)).audit(nn.Linear(8, 3))
    with pytest.raises(TypeError, match=r"called with the inputs alone .* give a function"):
        loader.audit(nn.Bilinear(8, 8, 3))
    assert loader.audit(lambda rows: rows[:, :3]) == []  # a function will do
    pictures = WatchedLoader(DataLoader(TensorDataset(torch.zeros(50, 1, 16, 16), y), 10))
    with pytest.raises(ValueError, match="by the gradient of the logits, and the model gives none"):
        pictures.audit(lambda x: x.detach().flatten(1)[:, :3])


def test_the_page_shows_pictures(
    poisoned: tuple[WatchedLoader, nn.Module, np.ndarray], tmp_path: Path
) -> None:
    loader, model, bad = poisoned
    loader.audit(model)
    text = loader.report(tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text("utf-8")
    assert TRIGGER in text
    assert html.count("<img") == 24
    assert html.count('class="part"') == 24
    assert f"label {_TARGET}" in html
    assert f"sample {bad[0]}" in html


def test_the_page_shows_numbers_and_what_a_sample_is_a_copy_of(tmp_path: Path) -> None:
    x, y = _clusters(50, 0)
    x[7] = x[3]
    loader = WatchedLoader(DataLoader(TensorDataset(x, y), 10))
    loader.look()
    loader.report(tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "sample 7" in html
    assert "of 3" in html
    assert f"{x[3, 0]:.4g}" in html
