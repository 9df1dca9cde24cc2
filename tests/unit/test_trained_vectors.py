"""Embeddings, logits and performance in a training reference: what is kept of rows, and what a damaged part does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tocsin.cli.commands import app
from tocsin.consumers import trained_model, trained_performance, trained_vectors, training_reference
from tocsin.consumers.attack import AttackMonitor
from tocsin.consumers.model_settings import AttackSettings, ModelSettings
from tocsin.consumers.reference_writer import ReferenceWriter
from tocsin.core.batch import EventBatch, Origin
from tocsin.core.errors import ConfigError
from tocsin.core.events import Prediction
from tocsin.core.snapshot import pack, unpack
from tocsin.testing import logit_case

pytestmark = pytest.mark.xdist_group("training reference")

CLASSES = 4


def made(count: int, seed: int = 0, version: str | None = "7") -> list[Prediction]:
    logits = logit_case(classes=CLASSES).clean(seed, count).values
    rng = np.random.default_rng(seed)
    return [
        Prediction(
            prediction_id=f"p{k}", version=version, prediction=str(int(row.argmax())),
            logits=row.tolist(), embedding=[*row[:2].tolist(), float(rng.normal())],
            label=str(int(row.argmax())) if rng.random() < 0.9 else "0",
        )
        for k, row in enumerate(logits)
    ]  # fmt: skip


def batches(events: Sequence[Prediction]) -> Iterator[EventBatch]:
    yield from EventBatch.of("m", [(Origin(k, 0, 0), event) for k, event in enumerate(events)])


def write(file: Path, events: Sequence[Prediction], **settings: Any) -> list[str]:
    writer = ReferenceWriter(ModelSettings(**settings))
    for begin in range(0, len(events), 400):
        for batch in batches(events[begin : begin + 400]):
            writer.add(batch)
    return writer.write(file).why_not


def known(file: Path) -> trained_vectors.TrainedVectors:
    found = trained_vectors.read(file)
    assert found is not None
    return found


def test_rows_may_be_sorted_by_class(tmp_path: Path) -> None:
    events = made(4000)
    write(tmp_path / "one.npz", events)
    write(tmp_path / "sorted.npz", sorted(events, key=lambda event: str(event.prediction)))
    one, other = (known(tmp_path / f"{name}.npz") for name in ("one", "sorted"))
    for kind in ("embedding", "logits"):
        a, b = one.streams[kind].samples, other.streams[kind].samples
        assert a.keys() == b.keys()
        for name in [name for name in a if "pc" not in name and "cell" not in name]:
            assert np.median(a[name]) == pytest.approx(np.median(b[name]), abs=0.3), name
    assert one.scores is not None
    assert other.scores is not None
    means = [unpack("adversarial_steady", 1, of.scores or b"")[1]["mean"] for of in (one, other)]
    assert np.allclose(means[0], means[1], atol=0.5)  # of each class, and of all of them


def test_values_are_those_of_rows_that_the_map_was_not_learnt_from(tmp_path: Path) -> None:
    write(tmp_path / "m.npz", made(3000))
    for kind, of in known(tmp_path / "m.npz").streams.items():
        assert of.population == 2000
        assert all(len(values) == 2000 for values in of.samples.values()), kind
    write(tmp_path / "few.npz", made(1500))
    assert known(tmp_path / "few.npz").streams["logits"].population == 1000


def test_memory_is_bounded_and_the_sample_is_of_all_rows() -> None:
    sample = trained_vectors._Sample()
    for begin in range(0, 100_000, 5000):
        vectors = np.full((5000, 2), float(begin))
        sample.add(vectors, np.full(5000, np.nan))
        assert sum(len(part.keys) for part in sample._parts) < 3 * 20_000
    assert len(sample) == 20_000
    counts = np.unique(sample.vectors()[:, 0], return_counts=True)[1]
    assert len(counts) == 20
    assert (abs(counts - 1000) < 150).all()


def test_what_is_too_little_is_said(tmp_path: Path) -> None:
    file = tmp_path / "m.npz"
    assert write(file, made(1499)) == [
        f"no {kind} streams: 1,499 rows with usable vectors, 1,500 are needed"
        for kind in ("embedding", "logits")
    ]
    assert trained_vectors.read(file) is None
    why = write(file, [*made(1000), *made(1000, version="8")])
    assert "no embeddings or logits: rows are of versions 7, 8, and one is needed" in why
    found = trained_model.read(file)
    assert found is not None
    assert found.version is None
    why = write(file, made(1500), attack={"alpha": 0.001, "calibration_events": 5000})
    assert known(file).scores is None
    assert any(of.startswith("no thresholds for adversarial inputs: 750 calib") for of in why)


def test_vectors_that_are_not_usable_are_left_out(tmp_path: Path) -> None:
    events = made(2000)
    wide = [Prediction(prediction_id="w", version="7", logits=[0.0] * 9, embedding=[1.0])]
    huge = [Prediction(prediction_id="h", version="7", logits=[1e300] * 4, embedding=[1e300] * 3)]
    write(tmp_path / "m.npz", events[:100] + wide + huge + events[100:])
    assert {k: of.width for k, of in known(tmp_path / "m.npz").streams.items()} == {
        "embedding": 3,
        "logits": CLASSES,
    }
    assert known(tmp_path / "m.npz").streams["logits"].population == 1000


def test_thresholds_are_used_and_too_few_for_a_smaller_alpha_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "m.npz", made(2000))
    trained = known(tmp_path / "m.npz")
    served = list(batches(made(50, seed=1)))
    monitor = AttackMonitor("m", AttackSettings(), trained)
    other = AttackMonitor("m", AttackSettings(alpha=0.0001, calibration_events=40_000), trained)
    with caplog.at_level(logging.WARNING):
        for batch in served:
            monitor.update(batch)
            other.update(batch)
    assert (monitor.checked, other.checked) == (50, 0)
    assert "no thresholds for this attack.alpha" in caplog.text
    for version in ("8", None):
        apart = AttackMonitor("m", AttackSettings(), trained)
        for batch in batches(made(50, seed=1, version=version)):
            apart.update(batch)
        assert apart.checked == 0


def test_thresholds_that_settings_name_come_first(tmp_path: Path) -> None:
    write(tmp_path / "m.npz", made(2000))
    np.savez(tmp_path / "clean.npz", logits=logit_case(classes=CLASSES).clean(9, 700).values)
    settings = AttackSettings(reference=tmp_path / "clean.npz")
    monitor = AttackMonitor("m", settings, known(tmp_path / "m.npz"))
    for batch in batches(made(50, seed=1)):
        monitor.update(batch)
    (detector,) = monitor._detectors.values()
    assert detector._fitted is not None
    assert len(detector._fitted.calibration["margin"].scores) == 350


def damaged(part: bytes, damage: str) -> bytes:
    meta, _ = unpack("trained_vectors", 1, part)
    streams = dict(meta["streams"])
    inner, arrays = unpack("trained_streams", 1, streams["embedding"])
    changed: dict[str, Any] = {
        "population": (inner | {"population": 9}, arrays),
        "width": (inner | {"width": 5}, arrays),
        "map": (inner | {"transform": b""}, arrays),
        "values": (inner, arrays | {"sample:embedding:distance": np.full(1000, np.nan)}),
        "shape": (inner, arrays | {"sample:embedding:distance": np.ones((1000, 2))}),
        "type": (inner, arrays | {"sample:embedding:distance": np.ones(1000, np.int64)}),
        "counts": (inner, arrays | {"counts:embedding:cell": np.ones((2, 3))}),
        "stranger": (inner, arrays | {"counts:other": arrays["counts:embedding:cell"]}),
    }
    if damage in changed:
        packed = pack("trained_streams", 1, *changed[damage])
        return pack("trained_vectors", 1, meta | {"streams": streams | {"embedding": packed}}, {})
    if damage == "scores":
        _, of = unpack("adversarial_steady", 1, meta["scores"])
        bad = pack("adversarial_steady", 1, {"fitted": True}, of | {"mean": np.ones((2, 2))})
        return pack("trained_vectors", 1, meta | {"scores": bad}, {})
    if damage == "no logits":
        del streams["logits"]
        return pack("trained_vectors", 1, meta | {"streams": streams}, {})
    return part[:-3]


@pytest.mark.parametrize(
    "damage",
    [
        "cut", "population", "width", "map", "values", "shape", "type", "counts", "stranger", "scores", "no logits",
    ],
)  # fmt: skip
def test_a_damaged_part_is_refused_when_settings_are_checked(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "m.npz"
    write(file, made(1600))
    found = training_reference.read(file)
    parts = {trained_vectors.PART: damaged(found.parts[trained_vectors.PART], damage)}
    refused(tmp_path, parts, "what it says of embeddings and logits cannot be read")


@pytest.mark.parametrize(
    ("part", "message"),
    [(trained_model.PART, "of its model"), (trained_performance.PART, "of performance")],
)
def test_other_parts_are_refused_likewise(tmp_path: Path, part: str, message: str) -> None:
    refused(tmp_path, {part: b'{"": 5}'}, f"what it says {message} cannot be read")


def refused(folder: Path, parts: dict[str, bytes], message: str) -> None:
    file, config = folder / "bad.npz", folder / "tocsin.yaml"
    training_reference.write(file, {"feature:a": np.arange(2000.0)}, 2000, parts=parts)
    config.write_text(f"defaults:\n  drift:\n    reference: {file}\n")
    with pytest.raises(ConfigError, match=message):
        app(["config", "check", str(config)], result_action="return_value")


def test_a_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "m.npz"
    write(file, made(1600))
    before = known(file)
    write(file, made(1600, seed=5, version="8"))
    assert known(file).version == "8"
    assert known(file).checksum != before.checksum
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]


def test_a_file_that_is_none_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rows.csv: expected a reference to show, ending in"):
        app(["reference", str(tmp_path / "rows.csv")], result_action="return_value")
