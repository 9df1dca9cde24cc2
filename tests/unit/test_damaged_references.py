"""Reference files of which a part is damaged: an error of the settings that says so, whatever is wrong with them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tocsin.consumers.reference_sentences import described
from tocsin.core.errors import ConfigError
from tocsin.training import ReferenceMonitor


def _no_array(_: bytes) -> bytes:
    return b"no array"


def _huge(_: bytes) -> bytes:
    """Return an array that says it has ten million million numbers."""
    out = io.BytesIO()
    of = {"descr": "<f8", "fortran_order": False, "shape": (10**13,)}
    np.lib.format.write_array_header_1_0(out, of)
    return out.getvalue()


def _empty(_: bytes) -> bytes:
    out = io.BytesIO()
    np.save(out, np.empty(0, np.uint8))
    return out.getvalue()


def _no_text(was: bytes) -> bytes:
    """Return a part whose first quoted text is no UTF-8."""
    at = was.index(b'"')
    return was[: at + 1] + b"\xff" + was[at + 2 :]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    x = torch.randn(2000, 3)
    file = tmp_path_factory.mktemp("reference") / "model.npz"
    monitor = ReferenceMonitor(
        [(x, (x[:, 0] > 0).long())], features=["a", "b", "c"], embedding="0", version="1"
    )
    monitor.initialize(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), [], nn.CrossEntropyLoss())
    monitor.reference(file)
    return file


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, _no_array) for name in ("names", "missing", "part model", "score")),
        *((name, _huge) for name in ("score", "part vectors")),
        *((name, _empty) for name in ("part labels by feature", "part vectors", "part estimates")),
        *((name, _no_text) for name in ("part model", "part performance")),
    ],
)
def test_a_damaged_part_is_an_error_of_the_settings(
    whole: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    file = tmp_path / "damaged.npz"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(file, "w") as new:
        assert f"{name}.npy" in old.namelist()
        for one in old.namelist():
            content = old.read(one)
            new.writestr(one, damage(content) if one == f"{name}.npy" else content)
    with pytest.raises(ConfigError, match=r"damaged\.npz"):
        described(file)
