"""Every snippet of the documents runs, every file and name that they point to is there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import redis

from tocsin import Alert, Label, Prediction
from tocsin.cli.commands import app
from tocsin.consumers.settings import load
from tocsin.core import alert as alerts
from tocsin.core.alert import Kind
from tocsin.core.keys import Keys

pytestmark = pytest.mark.xdist_group("documents")

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "deploy/README.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
]
README = (ROOT / "README.md").read_text()


def snippets(language: str, text: str = README) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for of, code in blocks if of == language]


PUBLISH, WATCH, SUBSCRIBE, *_ = snippets("python")  # the others: test_training_reference.py
DEMO, OWN_WORKER, OWN_DATA, _, REAL, BACKTEST = snippets("sh")
(YAML,) = snippets("yaml")
OUTPUT, _ = snippets("")


def run(code: str, addresses: dict[str, str]) -> None:
    for said, there in addresses.items():
        code = code.replace(said, there)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "not published" not in done.stderr
    assert "WARNING" not in done.stderr


def client(addresses: dict[str, str]) -> redis.Redis:
    return redis.Redis.from_url(f"redis://{addresses['localhost:6379']}/0")


def figures(addresses: dict[str, str], model: str) -> str:
    with client(addresses) as store:
        found = store.hgetall(Keys().metrics)
        assert isinstance(found, dict)
        return "".join(v.decode() for k, v in found.items() if k.decode().startswith(f"{model}|"))


def test_publishing_takes_five_lines_and_arrives(addresses: dict[str, str]) -> None:
    assert len(PUBLISH.strip().splitlines()) <= 6  # an empty one among them
    run(PUBLISH, addresses)
    deadline = time.monotonic() + 20
    while '"labels_joined":1.0' not in figures(addresses, "fraud"):
        assert time.monotonic() < deadline, figures(addresses, "fraud")
        time.sleep(0.1)


def test_a_module_is_watched(addresses: dict[str, str]) -> None:
    run(WATCH, addresses)


def test_subscribing_takes_five_lines_and_prints_the_alert(addresses: dict[str, str]) -> None:
    assert len(SUBSCRIBE.strip().splitlines()) <= 6
    code = SUBSCRIBE.replace("print(", "print(flush=True, *(").replace("summary)", "summary))")
    for said, there in addresses.items():
        code = code.replace(said, there)
    subscriber = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        with client(addresses) as store:
            deadline = time.monotonic() + 20
            while not dict(store.pubsub_numsub("tocsin:alerts"))[b"tocsin:alerts"]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(0.2)
            text = alerts.encode(ALERT)
            identity = store.xadd(Keys().alerts, {"alert": text, "previous": tail(store)})
            store.set(Keys().tail, identity)
        assert subscriber.stdout is not None
        assert subscriber.stdout.readline() == "warning fraud data drift x has moved\n"
    finally:
        subscriber.kill()
        subscriber.wait()
        subscriber.stdout.close()  # type: ignore[union-attr]


def tail(store: redis.Redis) -> bytes:
    found = store.get(Keys().tail)
    return found if isinstance(found, bytes) else b"0-0"


ALERT = alerts.decode(
    b'{"id":"fraud:d:x:0:1","incident":"i","fingerprint":"f","state":"firing","severity":"warning",'
    b'"kind":"data drift","model":"fraud","subject":"feature:x","detector":"d",'
    b'"detected_at":"2026-01-01T00:00:00Z","partition":0,"offset":1,"summary":"x has moved"}'
)
assert isinstance(ALERT, Alert)


def test_a_file_is_published_and_its_alert_is_what_the_readme_shows(
    addresses: dict[str, str], tmp_path: Path
) -> None:
    assert "tocsin worker --embedded" in OWN_WORKER
    lines = [line for line in OWN_DATA.splitlines() if not line.startswith(". ")]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TOCSIN_KAFKA__BOOTSTRAP": addresses["localhost:9092"],
        "TOCSIN_REDIS__URL": f"redis://{addresses['localhost:6379']}/0",
    }
    script = "\n".join(lines).replace("--after 0", "--after 0 --model occupancy")
    done = subprocess.run(
        ["bash", "-e", "-c", script], env=environment, cwd=tmp_path, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = re.sub(r"in [0-9.]+ s", "in T s", OUTPUT)
    assert re.sub(r"in [0-9.]+ s", "in T s", done.stdout) == shown


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "tocsin.yaml"
    file.write_text(YAML)
    settings = load(file)
    assert settings.of("fraud").features == ["amount", "hour"]
    assert settings.of("fraud").labels.window == 60 * 86400
    assert settings.of("fraud").drift.budget_days == 30
    assert settings.of("other").drift.budget_days == 30


def test_a_file_is_replayed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        f"{x},{int(x > 0)},{int(x > 0)}"
        for x in rng.normal(size=12_000) + np.repeat([0, 2], [10_000, 2000])
    ]
    (tmp_path / "data.csv").write_text("\n".join(["x,truth,answer", *rows]))
    done = subprocess.run(
        [sys.executable, "-m", "tocsin.cli.main", *shlex.split(BACKTEST)[1:]], cwd=tmp_path,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "e_detector" in done.stdout


def test_commands_are_understood() -> None:
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    blocks = "\n".join(snippets("sh", text))
    found = re.findall(r"^tocsin ([^#\n]+)", blocks, re.MULTILINE)
    found += re.findall(r"`tocsin ((?:\w+ )*\w+)`", text)
    assert len(found) >= 7
    for words in found:
        arguments = [w for w in shlex.split(words) if w != "FILE"]
        if arguments in (["alerts"], ["publish"]):  # named, not a command line
            continue
        app.parse_args(arguments, exit_on_error=False, print_error=False)


def test_scripts_are_there() -> None:
    found = set(re.findall(r"\./scripts/(\w+)", "\n".join(p.read_text() for p in DOCUMENTS)))
    assert {"demo", "setup"} <= found
    for name in found:
        assert os.access(ROOT / "scripts" / name, os.X_OK)
    assert "./scripts/demo" in DEMO
    for extra in re.findall(r"'\.\[(.*?)\]'", REAL)[0].split(","):
        assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_named_files_are_there(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (path.parent / target).exists(), target
    for name in re.findall(r"`([a-z_]+/[a-z_/]+\.(?:py|lua))`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`([a-z_]+\.(?:py|lua))`", text):
        assert list(ROOT.glob(f"*/{name}")), name


def test_the_tables_of_events_have_every_field() -> None:
    for struct, begin in ((Prediction, "| prediction |"), (Label, "| label (")):
        table = README[README.index(begin) :].split("\n\n")[0].splitlines()[2:]
        named = [n for row in table for n in re.findall(r"`(\w+)`", row.split("|")[1])]
        assert sorted(named) == sorted(struct.__struct_fields__)


def test_each_kind_of_alert_has_its_runbook() -> None:
    text = (ROOT / "docs/runbooks.md").read_text()
    anchors = {h.lower().replace(" ", "-") for h in re.findall(r"^## (.+)$", text, re.MULTILINE)}
    assert anchors == {kind.replace(" ", "-") for kind in get_args(Kind)}
