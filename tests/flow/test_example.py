"""The example of a whole training, in a shortened form."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("TOCSIN_BENCH_DATA", ROOT / "../shared/data")).resolve()


def run(folder: Path, data: Path, *words: str) -> tuple[str, str]:
    """Return what the example prints, and what comes on standard error."""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-m", "examples.cifar", "--folder", str(folder), *words], cwd=ROOT,
        env={**os.environ, "TOCSIN_BENCH_DATA": str(data)}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.skipif(not (DATA / "cifar10/train6k.npz").exists(), reason=f"no CIFAR-10 in {DATA}")
def test_a_resnet_is_trained_on_cifar(tmp_path: Path) -> None:
    said, progress = run(tmp_path, DATA, "--epochs", "3", "--rows", "1280")
    assert "trained on 1,280 of 1,280 samples" in said
    lines = progress.splitlines()
    assert [line.partition(", loss")[0] for line in lines[:3]] == [
        f"epoch {epoch}: 10 batches" for epoch in range(3)
    ]
    best = said.partition("best epoch ")[2]
    assert float(best.partition("accuracy ")[2][:5]) > 0.17, "by chance 0.1, give or take 0.008"
    kept = {path.name for path in tmp_path.iterdir() if path.suffix != ".state"}
    assert kept >= {"last.safetensors", "monitors.svg", "reference.npz"}


def test_where_there_is_none_digits_are_learnt_and_a_fault_is_found(tmp_path: Path) -> None:
    said, progress = run(tmp_path, tmp_path / "none", "--epochs", "6", "--fault", "rate")
    assert "TOCSIN_BENCH_DATA must name the folder" in said
    assert "digits: loss: divergence" in progress
    lines = [line for line in progress.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 6
    assert "divergence" not in lines[2]
    assert "divergence" in lines[3]
    best = said.partition("best epoch ")[2]
    assert best[0] in "012", "of before the fault"
    assert float(best.partition("accuracy ")[2][:5]) > 0.85
    assert (tmp_path / "reference.npz").stat().st_size > 1000
