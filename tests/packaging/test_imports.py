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
