"""Near duplicates of data sets whose samples cannot be read once more: of a stream, or of a file that workers alone open."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, get_worker_info

from tocsin.training import WatchedLoader
from tocsin.training.finding import LEAK, NEAR

COPIES = 50


def digits() -> torch.Tensor:
    """Pictures of which many are alike, 16 by 16."""
    x = torch.tensor(load_digits().images / 16, dtype=torch.float32)[:, None]
    return nn.functional.interpolate(x, scale_factor=2, mode="bilinear")


def encoded(x: torch.Tensor) -> torch.Tensor:
    """What a picture is in a file of few levels."""
    return (x * 63).round() / 63


class Stream(IterableDataset[Any]):
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def __iter__(self) -> Iterator[Any]:
        return iter((x, k % 3) for k, x in enumerate(self.x))


class File(Dataset[Any]):
    """Rows of a file that is open in workers only."""

    x: torch.Tensor | None = None

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, k: int) -> Any:
        assert self.x is not None, "the file is not open"
        return self.x[k], k % 3


class Opens:
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def __call__(self, _: int) -> None:
        info = get_worker_info()
        assert info is not None
        info.dataset.x = self.x  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_copies_are_found_and_pictures_that_are_alike_are_none(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x = digits()
    x, other = x[:1400].clone(), x[1400:].clone()
    x[100 : 100 + COPIES] = encoded(x[:COPIES])
    other[:COPIES] = encoded(x[500 : 500 + COPIES])
    loader: DataLoader[Any]
    if kind == "stream":
        loader = DataLoader(Stream(x), 50)
    else:
        loader = DataLoader(File(len(x)), 50, num_workers=1, worker_init_fn=Opens(x))
    unused = torch.zeros(len(other), dtype=torch.int64)
    watched = WatchedLoader(loader, references={"validation": TensorDataset(other, unused)})
    with caplog.at_level(logging.WARNING):
        watched.look()
        found = {one.kind: one.samples for one in watched.findings()}
        watched.report(tmp_path / "report.html")
    assert (kind == "file") == ("cannot be read outside of the loader's workers" in caplog.text)
    assert caplog.text.count("cannot be read") <= 1
    for name, first in ((NEAR, 100), (LEAK, 500)):
        planted = np.arange(first, first + COPIES)
        assert np.isin(planted, found[name]).mean() >= 0.95
        assert len(np.setdiff1d(found[name], planted)) <= 1


def test_nothing_is_read_once_more_where_nothing_may_be_alike() -> None:
    read: list[int] = []

    class Rows(Dataset[Any]):
        def __len__(self) -> int:
            return 200

        def __getitem__(self, k: int) -> Any:
            read.append(k)
            return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(k)), k % 2

    watched = WatchedLoader(DataLoader(Rows(), 20))
    watched.look()
    assert len(read) == 200
    assert watched.findings() == []
    assert len(read) == 200, (
        "a file that is opened here would be open in workers that are forked later"
    )
