"""Training data to a reference file, and a worker's series that compares with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tocsin.cli.commands import app
from tocsin.consumers import training_reference
from tocsin.consumers.model_monitor import ModelMonitor
from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.series import Series
from tocsin.core.batch import EventBatch, Origin
from tocsin.core.errors import ConfigError
from tocsin.core.events import Prediction

pytestmark = pytest.mark.xdist_group("training reference")


def run(*arguments: object) -> Any:
    return app([str(argument) for argument in arguments], result_action="return_value")


def made(seed: int, count: int, shift: float = 0.0, wrong: float = 0.1) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "amount": round(float(rng.normal(20 + 5 * shift, 5)), 6),
            "country": str(rng.choice(["NL", "BE"], p=[0.8, 0.2])),
            "answer": "1",
            "truth": "0" if rng.random() < wrong else "1",
        }
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    train, out = folder / "train.csv", folder / "train.npz"
    rows = made(0, 12_000)
    lines = [",".join(map(str, row.values())) for row in rows]
    train.write_text("\n".join([",".join(rows[0]), *lines]) + "\n")
    assert run("reference", train, out, "--label", "truth", "--prediction", "answer") == 0
    return out


def series(reference: Path | None, **drift: Any) -> ModelMonitor:
    return ModelMonitor("m", 0, ModelSettings(drift={"reference": reference, **drift}))


def batches(rows: list[dict[str, Any]], begin: int = 0) -> list[EventBatch]:
    pairs = [
        (
            Origin(begin + i, 0, (begin + i) * 10**9),
            Prediction(
                prediction_id=f"p{begin + i}",
                features={"amount": row["amount"], "country": row["country"]},
                prediction=row["answer"],
                label=row["truth"],
            ),
        )
        for i, row in enumerate(rows)
    ]
    return list(EventBatch.of("m", pairs))


def test_the_file_holds_the_streams_that_a_worker_watches_and_no_rows(reference: Path) -> None:
    found = training_reference.read(reference)
    assert set(found.samples) == {
        "feature:amount",
        "category:country",
        "prediction",
        "error",
        "label",
    }
    assert found.population == 12_000
    assert all((np.diff(sample) >= 0).all() for sample in found.samples.values())
    assert found.samples["error"].mean() == pytest.approx(0.1, abs=0.01)
    assert found.samples["feature:amount"].mean() == pytest.approx(20, abs=0.1)
    assert set(found.categories) == {"category:country", "prediction", "label"}
    codes, counts = found.categories["category:country"]
    names = [found.names["category:country"][code] for code in codes[:2]]
    shares = dict(zip(names, counts / counts.sum(), strict=False))
    assert shares == {"NL": pytest.approx(0.8, abs=0.02), "BE": pytest.approx(0.2, abs=0.02)}
    amounts = [row["amount"] for row in made(0, 12_000)]
    assert np.quantile(amounts, [0.1, 0.9]) == pytest.approx(
        np.quantile(found.samples["feature:amount"], [0.1, 0.9]), abs=0.01
    )


def test_a_worker_finds_what_was_never_as_in_training(reference: Path) -> None:
    """More errors and larger amounts from the first event on: a reference of first values sees nothing."""
    rows = made(1, 4500, shift=0.6, wrong=0.2)
    alerts = series(reference).update(batches(rows), [])
    assert {member.subject for a in alerts for member in a.members} >= {"feature:amount", "error"}
    assert all(a.offset < 4000 for a in alerts)  # the guard decides after 2,048
    assert {a.state for a in alerts} == {"firing"}  # open until it is as in training
    assert series(None).update(batches(rows), []) == []


def test_what_is_as_in_training_is_quiet(reference: Path) -> None:
    assert series(reference).update(batches(made(2, 15_000)), []) == []


def without(rows: list[dict[str, Any]], name: str, share: float) -> list[dict[str, Any]]:
    rng = np.random.default_rng(9)
    return [{**row, name: None if rng.random() < share else row[name]} for row in rows]


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_what_is_missing_more_than_in_training_is_found_from_the_first_event_on(
    reference: Path, share: float
) -> None:
    rows = without(made(5, 5000), "amount", share)
    found = {m.subject: m for a in series(reference).update(batches(rows), []) for m in a.members}
    assert set(found) == {"missing:feature:amount"}
    assert found["missing:feature:amount"].change == "missing"
    assert series(None).update(batches(rows), []) == []


def test_what_was_missing_in_training_and_is_not_any_more_is_found(tmp_path: Path) -> None:
    rows = made(6, 20_000)
    amounts = np.array([row["amount"] for row in rows])
    file = tmp_path / "some.npz"
    training_reference.write(file, {"feature:amount": amounts[:16_000]}, 20_000)
    assert training_reference.read(file).missing == {"feature:amount": pytest.approx(0.2)}
    (alert, *_) = series(file).update(batches(rows[:5000]), [])
    assert (alert.subject, alert.change) == ("missing:feature:amount", "missing less")
    as_ever = without(rows[:15_000], "amount", 0.2)
    assert series(file).update(batches(as_ever), []) == []


def test_missing_values_are_compared_whatever_the_cuts_and_restarts(reference: Path) -> None:
    rows = without(made(7, 5000), "amount", 0.15)
    rows = [*made(8, 1000), *rows]
    whole = series(reference)
    alerts = whole.update(batches(rows), [])
    assert "missing:feature:amount" in {m.subject for a in alerts for m in a.members}
    parts, found = series(reference), []
    fields: dict[str, bytes] = {}
    for begin in range(0, 6000, 250):
        found += parts.update(batches(rows[begin : begin + 250], begin), [])
        fields |= {name: state for name, state in parts.dirty().items() if state is not None}
        if begin in (0, 1000, 2250):
            parts = series(reference)
            assert parts.restore(fields) == []
    assert found == alerts


def test_a_category_that_is_known_from_training_only_has_its_name(reference: Path) -> None:
    rows = [{**row, "country": "FR"} for row in made(10, 5000)]
    alerts = series(reference).update(batches(rows), [])
    of_country = next(a for a in alerts if a.subject == "category:country")
    assert of_country.reference is not None
    assert sorted(of_country.reference.categories) == ["BE", "NL"]
    assert of_country.newcomers == ["FR"]


def test_another_file_begins_anew_and_the_same_one_goes_on(reference: Path, tmp_path: Path) -> None:
    first = series(reference)
    first.update(batches(made(3, 3000)), [])
    fields = {name: state for name, state in first.dirty().items() if state is not None}
    same, none = series(reference), series(None)
    assert same.restore(fields) == []
    assert none.restore(fields) == [
        f"{what}: drift.reference is another one than before"
        for what in ("inputs and errors", "leakage")
    ]
    rows = batches(made(4, 3000, shift=1.0), 3000)
    assert same.update(rows, []) == first.update(rows, []) != []
    assert none.update(batches(made(4, 3000), 6000), []) == []


def test_a_damaged_file_is_refused(reference: Path, tmp_path: Path) -> None:
    file = tmp_path / "damaged.npz"
    file.write_bytes(reference.read_bytes()[:-200])
    with pytest.raises(
        ConfigError, match="expected a file that `tocsin reference` wrote: it is not one"
    ):
        training_reference.read(file)


@pytest.mark.parametrize("seconds", [3600, 31_557_600])
def test_a_season_that_blocks_of_a_day_cannot_tell_is_refused_at_the_start(seconds: float) -> None:
    with pytest.raises(ValueError, match="a season must be 1 to 60 whole blocks"):
        ModelSettings(drift={"season_seconds": seconds})


KNOWN = {
    "population": np.array(2000), "feature:a": np.arange(2000.0), "missing": np.zeros(1),
    "names": np.frombuffer(b"{}", np.uint8),
}  # fmt: skip


COUNTED = np.array([[*np.arange(63.0), np.nan], np.ones(64)])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"feature:a": np.arange(2000.0)}, "expected a file that `tocsin reference` wrote"),
        (KNOWN | {"feature:a": np.arange(9.0)}, "feature:a must be 1000 finite"),
        (KNOWN | {"feature:a": np.full(2000, np.nan)}, "feature:a must be"),
        (KNOWN | {"feature:a": np.array(["x"] * 2000)}, "expected a file"),
        (KNOWN | {"missing": np.array([1.0])}, "without feature:a must be 0 or more and below 1"),
        (KNOWN | {"missing": np.zeros(2)}, "expected a file"),
        (KNOWN | {"names": np.zeros(3, np.uint8)}, "expected a file"),
        (KNOWN | {"population": np.array(-5)}, "must be of 1000 values or more, found -5"),
        (KNOWN | {"population": np.array(np.inf)}, "expected a file"),
        (
            KNOWN | {"counts of feature:a": np.array([np.full(64, np.nan), np.ones(64)])},
            "must be 63 sorted codes",
        ),
        (KNOWN | {"counts of feature:a": np.zeros((2, 64))}, "the counts of feature:a must be 63"),
        (KNOWN | {"counts of feature:a": COUNTED[:, :63]}, r"found shape \(2, 63\)"),
        (KNOWN | {"counts of feature:a": COUNTED * [[-1], [1]]}, "must be 63 sorted codes"),
        (KNOWN | {"counts of feature:a": COUNTED * [[1], [-1]]}, "must be 63 sorted codes"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    file = tmp_path / "bad.npz"
    np.savez(file, **arrays)
    with pytest.raises(ConfigError, match=message):
        training_reference.read(file)


def test_a_reference_whose_categories_were_not_counted_still_compares(
    reference: Path, tmp_path: Path
) -> None:
    """As one from before they were."""
    with np.load(reference) as found:
        arrays = {name: found[name] for name in found.files if not name.startswith("count")}
    old = tmp_path / "old.npz"
    np.savez(old, **arrays)
    assert series(old).update(batches(made(2, 10_000)), []) == []
    rows = [{**row, "country": "FR"} for row in made(10, 5000)]
    assert "category:country" in {a.subject for a in series(old).update(batches(rows), [])}


def test_a_model_of_numbers_in_training_that_answers_classes_now_is_told(tmp_path: Path) -> None:
    """The file says that it is a regression; classes are no numbers, and missing there."""
    rng = np.random.default_rng(3)
    file = tmp_path / "regression.npz"
    streams = {"prediction": rng.normal(size=9000), "label": rng.normal(size=9000)}
    training_reference.write(file, streams, 9000)
    assert training_reference.read(file).is_regression is True
    rows = [{**row, "answer": "yes", "truth": "no"} for row in made(3, 5000)]
    subjects = {m.subject for a in series(file).update(batches(rows), []) for m in a.members}
    assert "missing:prediction" in subjects


def test_all_streams_of_a_file_share_the_probability_that_it_is_wrong(reference: Path) -> None:
    of = Series("m", "production", 0, ModelSettings(drift={"reference": reference}))
    assert of.inputs.reference.confidence == of.errors.reference.confidence == 0.05 / 5


def test_a_missing_file_is_found_before_the_worker_starts(tmp_path: Path) -> None:
    file = tmp_path / "tocsin.yaml"
    file.write_text("defaults:\n  drift:\n    reference: /nowhere.npz\n")
    with pytest.raises(ConfigError, match=r"drift.reference /nowhere.npz: expected a file that"):
        run("config", "check", file)


@pytest.mark.parametrize(
    ("rows", "out", "message"),
    [
        (999, "out.npz", "needs 1000 values of some stream or more; the 999 rows have fewer"),
        (999, "out.csv", "name must end in .npz"),
        (0, "out.npz", "has no rows"),
        (2000, "no/out.npz", "No such file or directory"),
    ],
)
def test_a_reference_that_cannot_be_made_is_refused(
    tmp_path: Path, rows: int, out: str, message: str
) -> None:
    train = tmp_path / "train.csv"
    train.write_text("a,b\n" + "1,2\n" * rows)
    with pytest.raises(ConfigError, match=message):
        run("reference", train, tmp_path / out)


def test_parts_of_others_are_brought_back_as_they_were(tmp_path: Path) -> None:
    file, values = tmp_path / "parts.npz", {"feature:a": np.arange(2000.0)}
    parts = {"calibration": b"\x00\xff\x00", "nothing": b""}
    training_reference.write(file, values, 2000, parts=parts)
    found = training_reference.read(file)
    assert found.parts == parts
    assert list(found.samples) == ["feature:a"]
    training_reference.write(file, values, 2000)
    without = training_reference.read(file)
    assert without.parts == {}
    assert without.checksum == found.checksum  # streams are compared with the same training
