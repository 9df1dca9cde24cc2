"""The command line without servers: how it prints figures, and what it says of its options and settings."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tocsin.cli.main import main
from tocsin.cli.status import figure

# cyclopts minds that its arguments come from sys.argv, as in life.
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["tocsin", *arguments])
    with pytest.raises(SystemExit) as done:
        main()
    return done.value.code


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"), (7.0, "7"), (12_000.0, "12,000"), (1_234_567.0, "1,234,567"),
        (0.97341, "0.9734"), (0.5, "0.5"), (0.000012345, "0.00001234"), (12.3456, "12.35"),
        (12_345.678, "12,346"), (float("nan"), "nan"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_figures_are_shown_as_people_read_them(value: float, shown: str) -> None:
    assert figure(value) == shown


@pytest.mark.parametrize("verb", ["publish", "backtest", "reference"])
def test_every_option_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert run(monkeypatch, verb, "--help") == 0
    shown = capsys.readouterr().out
    assert "The column with the truth" in shown
    assert "The column with the model's answer" in shown
    assert "--empty-" not in shown


def test_the_doctor_has_a_line_for_each_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "wrong.yaml").write_text("kafka: {topic: 5}\nworker: {commit: 0}\n")
    assert run(monkeypatch, "doctor", "--config", str(tmp_path / "wrong.yaml")) == 1
    fixes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fix")]
    assert [line.split()[1:3] for line in fixes] == [
        ["configuration", "kafka.topic:"], ["configuration", "worker.commit:"],
    ]  # fmt: skip


def test_the_doctor_reads_the_files_that_settings_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("defaults: {drift: {reference: nowhere.npz}}")
    assert run(monkeypatch, "doctor", "--config", str(tmp_path / "c.yaml")) == 1
    assert "nowhere.npz" in capsys.readouterr().out


@pytest.mark.parametrize("option", [[], ["-c"], ["--config"]])
def test_a_configuration_is_checked_by_place_or_by_option(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    option: list[str],
) -> None:
    (tmp_path / "c.yaml").write_text("kafka: {topic: mine}")
    assert run(monkeypatch, "config", "check", *option, str(tmp_path / "c.yaml")) == 0
    assert "ok: mine at" in capsys.readouterr().out
