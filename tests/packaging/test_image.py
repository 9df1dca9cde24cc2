"""The image, as far as it can be checked without a Docker engine: its steps for the wheel are run here."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tocsin.cli.commands import app

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
pytestmark = pytest.mark.xdist_group("image")


class Instruction(NamedTuple):
    """One instruction of the Dockerfile, its continued lines joined."""

    name: str
    text: str


def read_stages() -> dict[str, list[Instruction]]:
    """Return the Dockerfile's instructions by stage; `final` is the last, unnamed one."""
    lines = [
        line for line in (ROOT / "deploy/Dockerfile").read_text().splitlines()
        if not line.lstrip().startswith("#")
    ]  # fmt: skip
    stages: dict[str, list[Instruction]] = {"": []}
    current = ""
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        name, text = line.split(maxsplit=1)
        if name == "FROM":
            current = text.split(" AS ")[1] if " AS " in text else "final"
            stages[current] = []
        stages[current].append(Instruction(name, " ".join(text.split())))
    return stages


STAGES = read_stages()


def only(stage: str, name: str) -> str:
    """Return the text of a stage's one instruction of a name."""
    (found,) = [i.text for i in STAGES[stage] if i.name == name]
    return found


def step(stage: str, word: str) -> str:
    """Return a stage's one RUN that has a word."""
    (found,) = [i.text for i in STAGES[stage] if i.name == "RUN" and word in i.text]
    return found


def environment(stage: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(only(stage, "ENV")))


def parsed(words: list[str]) -> Callable[..., Any]:
    """Return the verb that a command line names, its arguments converted; raise if there is none."""
    command, _, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    return command


# --- what is sent to the builder -----------------------------------------------------------------


def _translated(pattern: str) -> re.Pattern[str]:
    """Return a .dockerignore pattern, which matches from the root and what lies below, as an expression."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", pattern.strip("/"))
    text = "".join(
        parts.get(t, t if t.startswith("[") and len(t) > 1 else re.escape(t)) for t in tokens
    )
    return re.compile(f"{text}(?:/.*)?")


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a path through; the last pattern that matches decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        if _translated(pattern.removeprefix("!")).fullmatch(path):
            sent = pattern.startswith("!")
    return sent


def sources() -> list[str]:
    """Return the files of the checkout that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


SENT = [name for name in sources() if is_sent(name)]


def test_nothing_that_git_ignores_is_sent() -> None:
    for line in (ROOT / ".gitignore").read_text().split():
        name = line.replace("[cod]", "c").replace("*", "x").rstrip("/")
        assert not is_sent(name), line
        if line.endswith("/"):
            assert not is_sent(f"{name}/inner/file.py"), line
    for secret in (".env", ".env.production", "tocsin.yaml", ".git/config"):
        assert not is_sent(secret)
    assert not is_sent("cli/__pycache__/main.cpython-311.pyc")


def test_every_package_is_sent_and_no_link_to_the_root() -> None:
    assert {"pyproject.toml", "constraints.txt", "LICENSE", "__init__.py", "py.typed"} <= set(SENT)
    for package in PROJECT["tool"]["setuptools"]["packages"]:
        folder = package.replace("tocsin", ".", 1).replace(".", "/", 2).strip("./")
        assert str(Path(folder) / "__init__.py") in SENT, package
    assert [name for name in SENT if (ROOT / name).is_symlink()] == []


# --- the Dockerfile ------------------------------------------------------------------------------


def test_every_stage_starts_from_the_one_pinned_base() -> None:
    ((name, base),) = STAGES[""]
    assert name == "ARG"
    image = base.removeprefix("BASE=")
    version = re.fullmatch(r"python:(\d+)\.(\d+)-slim-[a-z]+", image)
    assert version is not None, image
    assert (int(version[1]), int(version[2])) >= (3, 11)
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    assert list(STAGES) == ["", "wheel", "install", "final"]
    assert {stage[0].text.split()[0] for stage in list(STAGES.values())[1:]} == {"${BASE}"}


def test_only_known_instructions_are_used() -> None:
    known = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "LABEL", "ENV", "USER", "STOPSIGNAL"}
    used = {i.name for stage in STAGES.values() for i in stage}
    assert used == known | {"ENTRYPOINT", "CMD"}


def test_what_is_copied_is_there() -> None:
    for stage in STAGES.values():
        for text in (i.text for i in stage if i.name == "COPY"):
            *origins, _ = text.split()
            if origins[0].startswith("--from="):
                other = origins[0].removeprefix("--from=")
                made = " ".join(i.text for i in STAGES[other])
                assert all(origin in made for origin in origins[1:]), text
            else:
                assert all(origin == "." or origin in SENT for origin in origins), text


def test_the_final_stage_is_not_root_and_builds_nothing() -> None:
    user, group = only("final", "USER").split(":")
    assert int(user) >= 10_000
    assert int(group) >= 10_000
    accounts = step("final", "useradd")
    assert f"--uid {user} --gid {group}" in accounts
    assert environment("final")["NUMBA_CACHE_DIR"].startswith("/var/cache/tocsin")
    assert f"install -d -o {user} -g {group} /var/cache/tocsin" in accounts
    runs = " ".join(i.text for i in STAGES["final"] if i.name == "RUN")
    assert re.search(r"\b(apt-get|apk|pip|gcc|curl|wget)\b", runs) is None
    # Accounts are made as root, the rest is compiled as the user.
    names = [i.name for i in STAGES["final"]]
    assert names.index("USER") < names.index("STOPSIGNAL")
    assert names[names.index("USER") + 1] == "RUN"


def test_pip_keeps_no_cache_and_obeys_the_constraints() -> None:
    commands = [
        command.strip()
        for stage in STAGES.values() for i in stage if i.name == "RUN"
        for command in i.text.split("&&") if re.match(r"pip (.* )?(install|wheel) ", command.strip())
    ]  # fmt: skip
    assert len(commands) == 4
    for command in commands:
        assert "--no-cache-dir" in command, command
        assert "constraints.txt" in command or command.startswith("pip wheel "), command


def test_torch_comes_from_the_index_of_cpu_builds_and_is_pinned() -> None:
    torch = step("install", "https://download.pytorch.org/whl/cpu")
    assert torch.endswith("--index-url https://download.pytorch.org/whl/cpu --no-deps torch")
    assert "extra-index-url" not in torch
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert {"torch", "setuptools", "numpy", "river", "numba"} <= set(pinned)
    # It is there before tocsin asks for it, so that PyPI's is not taken.
    runs = [i.text for i in STAGES["install"] if i.name == "RUN"]
    assert runs.index(torch) < runs.index(step("install", "tocsin-*.whl"))


def test_the_extras_that_the_image_installs_exist() -> None:
    extras = re.search(r"tocsin-\*\.whl\)\[([\w,]+)\]", step("install", "tocsin-*.whl"))
    assert extras is not None
    assert set(extras[1].split(",")) == {"worker", "attack", "batch"}
    assert set(extras[1].split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_the_image_runs_a_verb_of_the_command_line() -> None:
    entry, arguments = (json.loads(only("final", name)) for name in ("ENTRYPOINT", "CMD"))
    assert entry == ["tocsin"]
    assert "tocsin" in PROJECT["project"]["scripts"]
    assert parsed(arguments).__name__ == "worker"
    assert only("final", "STOPSIGNAL") == "SIGTERM"
    assert environment("final")["PATH"].split(":")[0] == "/opt/tocsin/bin"


# --- the wheel, by the image's own steps ---------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from what is sent to the builder, with the command of the image."""
    context = tmp_path_factory.mktemp("context")
    for name in SENT:
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, context / name)
    wheels = tmp_path_factory.mktemp("wheels")
    command = step("wheel", "pip wheel").split("&&")[1].strip()
    pip, *arguments = shlex.split(command.replace("/wheels", str(wheels)))
    assert pip == "pip"
    subprocess.run([sys.executable, "-m", "pip", *arguments], cwd=context, check=True)
    (built,) = wheels.iterdir()
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel below a root of its own, its dependencies apart, and finish it as the image does."""
    root = tmp_path_factory.mktemp("image")
    site = root / "opt/tocsin/lib/python3.11/site-packages"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)],
        check=True,
    )  # fmt: skip
    finish = step("install", "find /opt/tocsin").replace("/opt/tocsin", str(root / "opt/tocsin"))
    subprocess.run(["sh", "-c", finish], check=True)
    return site


def test_the_wheel_has_every_file_of_every_package_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (about,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        extras = re.findall(r"^Provides-Extra: (\S+)$", archive.read(about).decode(), re.MULTILINE)
    folders = {p.partition(".")[2] for p in PROJECT["tool"]["setuptools"]["packages"]}
    expected = {
        f"tocsin/{name}" for name in SENT
        if str(Path(name).parent).replace(".", "") in folders
        and (name.endswith((".py", ".lua")) or name == "py.typed")
    }  # fmt: skip
    assert "tocsin/consumers/commit.lua" in expected
    assert names == expected
    assert {"worker", "attack", "batch"} <= set(extras)


def test_the_wheel_runs_and_its_kernels_are_compiled_once(site: Path, tmp_path: Path) -> None:
    sources = list((site / "tocsin").rglob("*.py"))
    assert len(sources) > 50
    # Fractions of a second would be lost with the layer, and the compiled kernels with them.
    assert all(path.stat().st_mtime_ns % 1_000_000_000 == 0 for path in sources)
    python, *arguments = shlex.split(step("final", "warm"))
    assert python == "python"
    cache = tmp_path / "numba"
    given = {
        **os.environ, **environment("final"), "PATH": os.environ["PATH"],
        "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(site),
    }  # fmt: skip

    def compiled() -> dict[Path, int]:
        subprocess.run([sys.executable, *arguments], env=given, cwd=tmp_path, check=True)
        return {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}

    first = compiled()
    assert any(path.suffix == ".nbc" for path in first)
    assert compiled() == first
    where = subprocess.run(
        [sys.executable, "-c", "import tocsin; print(tocsin.__file__, tocsin.__version__)"],
        env=given, cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert where.stdout.split() == [str(site / "tocsin/__init__.py"), PROJECT["project"]["version"]]
