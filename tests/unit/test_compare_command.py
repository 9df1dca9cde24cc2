"""`tocsin compare` on files with planted gaps: what is found, what is called too small, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tocsin.cli.compare import run
from tocsin.core.errors import ConfigError
from tocsin.core.events import Label, Prediction
from tocsin.core.wire import encode

NAMED: dict[str, Any] = {"label": "y", "prediction": "p", "score": None, "positive": None}


def write(file: Path, seed: int, count: int, *, recall: float = 0.8, women: float = 0.8) -> Path:
    """Rows sorted by label, as an export may be; the recall of women may be another."""
    rng = np.random.default_rng(seed)
    label = np.sort(rng.random(count) < 0.5)
    sex = rng.choice(["F", "M"], count)
    hit = rng.random(count) < np.where(label, np.where(sex == "F", women, recall), 0.8)
    said = np.where(hit, label, ~label)
    lines = [f"{s},{int(y)},{int(p)}" for s, y, p in zip(sex, label, said, strict=True)]
    file.write_text("\n".join(["sex,y,p", *lines]) + "\n")
    return file


def compared(
    capsys: pytest.CaptureFixture[str], files: list[Path], segments: tuple[str, ...] = (), **changed: Any
) -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:  # fmt: skip
    named = NAMED | changed
    code = run(
        files, named["label"], named["prediction"], named["score"], segments, named["positive"],
        named.get("epsilon", 0.02), named.get("alpha", 0.05), as_json=True,
    )  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert code == int(report["different"])
    return code, {(one["groups"], one["metric"]): one for one in report["comparisons"]}


def test_a_gap_between_files_is_found_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        write(tmp_path / "a.csv", 0, 6000), write(tmp_path / "b.csv", 1, 9000, recall=0.65, women=0.65),
    ]  # fmt: skip
    code, found = compared(capsys, files)
    assert code == 1
    recall = found["file=a.csv|b.csv", "recall"]
    assert recall["verdict"] == "different"
    assert recall["a"]["value"] - recall["b"]["value"] == pytest.approx(recall["gap"]["value"])
    assert recall["gap"]["low"] < 0.15 < recall["gap"]["high"]
    assert 0 < recall["found_after_rows"] <= 15_000
    rate = found["file=a.csv|b.csv", "false_positive_rate"]
    assert (rate["verdict"], rate["found_after_rows"]) == ("no difference seen", None)
    assert found["file=a.csv|b.csv", "equalised_odds"]["verdict"] is None
    assert found["file=a.csv|b.csv", "disparate_impact"]["gap"]["value"] > 1
    run(files, *["y", "p", None, (), None], 0.02, 0.05)  # type: ignore[arg-type]
    printed = capsys.readouterr().out
    assert "a.csv: 6,000 rows; b.csv: 9,000 rows" in printed
    assert "no difference above 0.02 seen" in printed


def test_files_without_a_gap_seldom_differ_however_they_are_sorted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alarms = 0
    for seed in range(20):
        files = [write(tmp_path / f"{k}.csv", 100 * seed + k, 2000 + 2000 * k) for k in range(2)]
        alarms += compared(capsys, files, epsilon=0.0)[0]
    assert alarms <= 4  # of 1 on average; more in 0.3 % of such tests


def test_groups_of_a_file_and_files_within_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fair, unfair = (
        write(tmp_path / "fair.csv", 2, 8000), write(tmp_path / "unfair.csv", 3, 8000, women=0.6),
    )  # fmt: skip
    _, found = compared(capsys, [unfair], ("sex",))
    (groups,) = {groups for groups, _ in found}
    assert groups in ("sex=F|M", "sex=M|F")
    assert found[groups, "recall"]["verdict"] == "different"
    assert not compared(capsys, [fair], ("sex",))[0]
    _, found = compared(capsys, [fair, unfair], ("sex",))
    women, men = "file,sex=fair.csv,F|unfair.csv,F", "file,sex=fair.csv,M|unfair.csv,M"
    assert {groups for groups, _ in found} == {"file=fair.csv|unfair.csv", women, men}
    assert found[women, "recall"]["verdict"] == "different"
    assert found[men, "recall"]["verdict"] == "no difference seen"


def test_groups_that_are_too_small_are_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [write(tmp_path / "few.csv", 4, 100), write(tmp_path / "many.csv", 5, 4000)]
    _, found = compared(capsys, files)
    rate = found["file=few.csv|many.csv", "positive_rate"]
    assert (rate["verdict"], rate["events_needed"]) == ("too few to judge", [281, 0])
    run(files, "y", "p", None, (), None, 0.02, 0.05)
    assert "too few to judge, 281 and 0 more" in capsys.readouterr().out


def test_a_gap_that_may_be_chance_is_not_decided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        write(tmp_path / "a.csv", 6, 2000), write(tmp_path / "b.csv", 7, 2000, recall=0.73, women=0.73),
    ]  # fmt: skip
    _, found = compared(capsys, files, epsilon=0.03)
    recall = found["file=a.csv|b.csv", "recall"]
    assert recall["verdict"] == "not decided"
    assert recall["more_events"] > 100


def test_names_may_be_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "odd.csv"
    names = ["a|b", "c", "a", "b|c", "x,y=1:\x1b[31m"]
    rows = [f'"{names[k % 5]}",{k // 5 % 2},{k // 5 % 2}' for k in range(200)]
    file.write_text("\n".join(["who:is,y,p".replace(":is", ""), *rows]) + "\n")
    assert not compared(capsys, [file], ("who",))[0]
    run([file], "y", "p", None, ("who",), None, 0.02, 0.05)
    assert "\x1b[31m" not in capsys.readouterr().out


def test_events_and_several_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON lines that are events, with labels of their own; of three classes accuracy, or one against the others."""
    rng = np.random.default_rng(8)
    files = []
    for name, right in (("old", 0.9), ("new", 0.7)):
        lines = []
        for k in range(4000):
            truth = "abc"[rng.integers(3)]
            said = truth if rng.random() < right else "abc"[rng.integers(3)]
            event = Prediction(prediction_id=str(k), prediction=said, segments={"s": "ab"[k % 2]})
            lines += [encode(event), encode(Label(prediction_id=str(k), label=truth))]
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_bytes(b"\n".join(lines))
    plain: dict[str, Any] = {"label": None, "prediction": None}
    _, found = compared(capsys, files, ("s",), **plain)
    assert {metric for _, metric in found} == {"accuracy"}
    accuracy = found["file=old.jsonl|new.jsonl", "accuracy"]
    assert (accuracy["verdict"], len(found)) == ("different", 3)
    _, found = compared(capsys, files, positive="b", **plain)
    assert found["file=old.jsonl|new.jsonl", "recall"]["verdict"] == "different"


def test_wrong_input_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", 9, 100)
    other = write(tmp_path / "b.csv", 10, 100)

    def refused(
        message: str, files: list[Path], segments: tuple[str, ...] = (), **changed: Any
    ) -> None:
        named = NAMED | changed
        with pytest.raises(ConfigError, match=message):
            run(
                files, named["label"], named["prediction"], named["score"], segments, named["positive"],
                0.02, named.get("alpha", 0.05),
            )  # fmt: skip

    refused("give two files, or --segment", [file])
    refused("no column z", [file, other], ("z",))
    refused("no column z", [file, other], prediction="z")
    refused("no row has a prediction", [file, other], prediction=None)
    refused("no class is called 'yes'; there are 0, 1", [file, other], positive="yes")
    refused("is compared with itself", [file, file])
    refused("--alpha must be between 0 and 1", [file, other], alpha=1.0)
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("\n".join(["y,p,id", *(f"{k},{k + 0.5},{k}" for k in range(100))]))
    refused("200 different values, 50 are the most", [numbers, other])
    named = tmp_path / "named.csv"
    named.write_text("\n".join(["id,y,p", *(f"{k},1,0" for k in range(100))]))
    refused("id has 100 different values; a segment has 62", [named], ("id",))


def scored(file: Path, column: str) -> Path:
    """Rows of which the score is the probability of bad; ok sorts last."""
    rng = np.random.default_rng(0)
    score = np.round(rng.beta(2, 3, 400), 3)
    bad = rng.random(400) < score
    lines = [
        f"{'FM'[k % 2]},{'bad' if y else 'ok'},{'bad' if s > 0.5 else 'ok'},{s},{100 * s:g}"
        for k, (y, s) in enumerate(zip(bad, score.tolist(), strict=True))
    ]
    file.write_text("\n".join([f"sex,y,p,{column},percent", *lines]) + "\n")
    return file


def test_a_score_that_is_of_the_other_class_is_refused_unless_the_class_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = scored(tmp_path / "a.csv", "s")
    with pytest.raises(
        ConfigError,
        match=r"--score s is lower where the label is ok .* --positive bad or --positive ok",
    ):
        compared(capsys, [file], ("sex",), score="s")
    _, found = compared(capsys, [file], ("sex",), score="s", positive="bad")
    assert abs(found["sex=F|M", "calibration"]["a"]["value"]) < 0.1
    _, named = compared(capsys, [scored(tmp_path / "b.csv", "bad")], ("sex",), score="bad")
    assert named["sex=F|M", "calibration"] == found["sex=F|M", "calibration"]
    _, told = compared(
        capsys, [file], ("sex",), score="s", positive="ok"
    )  # whoever says so is believed
    assert ("sex=F|M", "calibration") in told


def test_a_score_outside_0_to_1_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = scored(tmp_path / "a.csv", "s")
    with pytest.raises(ConfigError, match=r"--score percent has 400 numbers outside 0 to 1"):
        compared(capsys, [file], ("sex",), score="percent", positive="bad")
