"""Drift of single columns of wide tables, and of channels of pictures, and that healthy loaders of such have none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, get_worker_info

from tocsin.core.columns import Floats
from tocsin.detectors.batch_means import BatchMeans, differences
from tocsin.training import WatchedLoader
from tocsin.training.batch import BatchInfo
from tocsin.training.column_sums import WIDEST, ColumnSums, channel_means
from tocsin.training.inspection import Inspection

Rows = Callable[[np.random.Generator, int], Floats]
N, COLUMNS = 2000, 100


class Epochs:
    """Epochs of inputs as a loader with workers gives them; what drift there is is asked for at the end."""

    def __init__(self) -> None:
        self.look = Inspection()
        self._epoch = 0

    def epoch(self, x: torch.Tensor, workers: int = 1, size: int = 50) -> None:
        for k, rows in enumerate(torch.arange(len(x)).split(size)):
            worker = k % workers if workers > 1 else None
            y = rows % 3
            self.look.take((x[rows].clone(), y), BatchInfo(self._epoch, k, rows.numpy(), worker))
        self.look.end(self._epoch)
        self._epoch += 1

    @property
    def drift(self) -> list[str]:
        kinds = ("feature drift", "class balance")
        return [one.summary for one in self.look.findings() if one.kind in kinds]


def wide(seed: int, rows: int = N) -> torch.Tensor:
    """Return columns near 0 and far from it, of tails of several kinds, rare ones, and constant ones."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((rows, COLUMNS))
    x[:, 10:20] = np.exp(2 * x[:, 10:20])
    x[:, 20:30] = draw.standard_t(2, (rows, 10))
    x[:, 30:40] = draw.random((rows, 10)) < 0.001
    x[:, 40:50] = draw.random((rows, 10)) < 0.01
    x[:, 50:60] = 0.9 * x[:, :1] + 0.4 * x[:, 50:60]
    x[:, 60:70] = 0.1 * 10.0 ** np.arange(10)
    x[:, 70:80] = 1.7e9 + 1e5 * x[:, 70:80]
    return torch.from_numpy(x).float()


@pytest.mark.parametrize(("rows", "workers"), [(N + 1, 4), (510, 1), (4010, 8)])
@pytest.mark.parametrize("seed", range(4))
def test_healthy_wide_tables_have_no_drift(rows: int, workers: int, seed: int) -> None:
    epochs = Epochs()
    for epoch in range(3):
        epochs.epoch(wide(100 * seed + epoch, rows), workers)
    assert epochs.drift == []


@pytest.mark.parametrize("column", [5, 75, 87])
def test_a_column_of_many_that_differs_in_one_worker_is_named(column: int) -> None:
    x = wide(0, 5000)
    is_second = (torch.arange(5000) // 50) % 2 == 1
    x[is_second, column] += 0.3 * x[:, column].std()
    epochs = Epochs()
    epochs.epoch(x, workers=2)
    assert all(f"the mean of column {column} is " in one for one in epochs.drift)
    assert [one.partition(" in ")[2][:8] for one in epochs.drift] == ["worker 0", "worker 1"]


def test_a_column_that_differs_from_an_epoch_on_is_named_with_bad_rows_in_each_batch() -> None:
    x = wide(1, 5000)
    x[::50, 3] = torch.nan
    x[7::50, 99] = -torch.inf
    x[9::50, 98] = 1e30
    epochs = Epochs()
    for _ in range(2):
        epochs.epoch(x)
    assert epochs.drift == []
    x[:, 87] += 0.3
    epochs.epoch(x)
    (found,) = epochs.drift
    assert found.startswith("the mean of column 87 is ")
    assert "0.30 standard deviations apart" in found
    bad = next(one for one in epochs.look.findings() if one.kind == "non-finite input")
    assert len(bad.samples) == 200


def test_rows_that_are_bad_leave_the_others_of_a_narrow_table_and_of_pictures() -> None:
    draw = torch.Generator().manual_seed(0)
    for x in (torch.randn(N, 2, generator=draw), torch.randn(N, 1, 8, 8, generator=draw)):
        x.flatten(1)[::50, 0] = torch.nan
        epochs = Epochs()
        epochs.epoch(x)
        epochs.epoch(x)
        assert epochs.drift == []
        epochs.epoch(x + 1.0)
        (found,) = epochs.drift
        # A table of two columns has no summaries, though it has as many features.
        name = "column" if x.ndim == 2 else "the inputs is"
        assert found.startswith(f"the mean of {name}")


@pytest.mark.parametrize("kind", ["first", "last", "bytes"])
def test_a_channel_that_differs_in_one_worker_is_named(kind: str) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(N, 3, 1, 1, generator=draw) + torch.rand(N, 3, 8, 8, generator=draw)
    epochs = Epochs()
    epochs.epoch(laid(x, kind), workers=2)
    assert epochs.drift == []
    is_second = (torch.arange(N) // 50) % 2 == 1
    x[is_second, 2] += 0.3
    epochs.epoch(laid(x, kind), workers=2)
    assert "the mean of channel 2 is " in epochs.drift[-1]


def laid(x: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "first":
        return x
    x = x.movedim(1, 3).contiguous()
    return (60 * x).to(torch.uint8) if kind == "bytes" else x


def test_channels_of_what_is_no_picture_are_not_looked_at() -> None:
    for shape in ((4, 8, 3), (4, 1, 8, 8), (4, 8, 8, 2), (4, 16, 8, 8), (4, 2, 3, 8, 8)):
        x = torch.zeros(shape)
        assert channel_means(x, x.flatten(1)) is None
    x = torch.arange(2 * 2 * 3 * 3.0).view(2, 2, 3, 3)
    found = channel_means(x, x.flatten(1))
    assert found is not None
    np.testing.assert_allclose(found, x.mean((2, 3)))


def test_tables_of_several_widths_and_ones_that_are_too_wide_keep_their_summaries() -> None:
    draw = torch.Generator().manual_seed(0)
    for widths in ((90, 120), (WIDEST + 1, WIDEST + 1)):
        look = Inspection()
        for epoch in range(2):
            for k in range(20):
                x = torch.randn(16, widths[k % 2], generator=draw) + epoch
                rows = 16 * k + np.arange(16)
                look.take((x, rows % 2), BatchInfo(epoch, k, rows, None))
            look.end(epoch)
        (found,) = [one for one in look.findings() if one.kind == "feature drift"]
        assert found.summary.startswith("the mean of the inputs")
        assert "column" not in found.summary


def test_sums_are_those_of_the_rows_and_stay_on_the_device() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(60, 70, generator=draw) + 100
    x[5, 3] = torch.nan
    is_fine = x.isfinite().all(1, keepdim=True)
    sums = ColumnSums()
    for rows in torch.arange(60).split(8):
        sums.add("column", x[rows], is_fine[rows], None)
    sums.add("column", x[5:6], is_fine[5:6], None)  # a batch of bad rows is none
    kept = x[is_fine[:, 0]].double().numpy()
    origin = sums.origin
    assert (kept[:8] == origin).any(axis=0).all()
    found = sums.taken()[None]
    assert (found.batches, found.rows) == (8, 59)
    np.testing.assert_allclose(found.mean + origin, kept.mean(axis=0), rtol=1e-8)
    np.testing.assert_allclose(found.deviation, kept.std(axis=0), rtol=1e-5)
    assert sums.taken() == {}

    # Whatever asks a tensor without storage for a number is refused.
    nowhere = ColumnSums()
    for _ in range(2):
        nowhere.add("column", x.to("meta"), is_fine.to("meta"), 0)
    with pytest.raises(Exception, match=r"[mM]eta"):
        nowhere.taken()


def test_a_rare_value_that_one_side_has_not_drawn_is_no_difference() -> None:
    """It is as uncertain there as where it was: 4.3 were to be expected."""
    one, others = BatchMeans(1), BatchMeans(1)
    for k in range(63):
        share = np.array([0.0 if k < 9 or k % 2 else 0.02])
        (one if k < 9 else others).add(share, share, 50)
    assert differences(one, others)[0] < 1e-4
    assert differences(one, others, are_alike=True)[0] > 1e-3


class Shifted(Dataset[Any]):
    """Rows of which one worker adds something to a column."""

    def __init__(self, *, is_shifted: bool) -> None:
        self.x, self.is_shifted = wide(3), is_shifted

    def __len__(self) -> int:
        return N

    def __getitem__(self, k: int) -> Any:
        row = self.x[k].clone()
        info = get_worker_info()
        if self.is_shifted and info is not None and info.id == 1:
            row[87] += 0.6
        return row, k % 3


@pytest.mark.parametrize("is_shifted", [False, True])
def test_workers_of_a_loader(is_shifted: bool) -> None:
    torch.manual_seed(0)
    data = Shifted(is_shifted=is_shifted)
    watched = WatchedLoader(DataLoader(data, 50, shuffle=True, num_workers=2))
    watched.look()
    found = [one.summary for one in watched.findings() if one.kind == "feature drift"]
    assert len(found) == 2 * is_shifted
    assert all("column 87" in one for one in found)


@pytest.mark.parametrize("shape", [(COLUMNS,), (3, 8, 8)])
def test_training_is_the_same_bit_for_bit(shape: tuple[int, ...]) -> None:
    def weights(*, watch: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        x, y = torch.randn(300, *shape), torch.randint(0, 3, (300,))
        loader: Any = DataLoader(TensorDataset(x, y), 32, shuffle=True)
        loader = WatchedLoader(loader) if watch else loader
        model = nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.Dropout(0.2), nn.Linear(16, 3))
        descent: torch.optim.Optimizer | None = None
        for _ in range(2):
            for inputs, labels in loader:
                loss = nn.functional.cross_entropy(model(inputs), labels)
                descent = descent or torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
                descent.zero_grad()
                loss.backward()
                descent.step()
        return [p.detach() for p in model.parameters()]

    for a, b in zip(weights(watch=False), weights(watch=True), strict=True):
        assert torch.equal(a, b)
