"""Images of training among those that are served: from the raw inputs of a file to the series and an alert."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tocsin.cli.commands import app
from tocsin.consumers import training_reference, training_rows
from tocsin.consumers.images import LEAST_SIDE, MOST_SIZES, ImageCollector, vectors_of
from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Records
from tocsin.core.alert import Alert
from tocsin.core.batch import EventBatch, Origin
from tocsin.core.cloudevents import LINES
from tocsin.core.errors import ConfigError, StateError
from tocsin.core.events import Prediction, Tensor
from tocsin.core.merge import in_log_order
from tocsin.core.metric_row import MetricRow, decode
from tocsin.core.snapshot import pack, unpack
from tocsin.core.wire import encode

pytestmark = pytest.mark.xdist_group("served images")

START = datetime(2026, 1, 1, tzinfo=UTC)
PARTITION = Partition("t", 0)
NAME = "served_from_training:image"
COUNT = 3000
Image = np.ndarray


def pictures(seed: int, count: int, side: int = 32) -> Image:
    """Smooth random images with three colours."""
    rng = np.random.default_rng(seed)
    frequency = np.arange(16)
    waves = (
        rng.normal(size=(count, 16, 16, 3)) / (1 + np.add.outer(frequency, frequency))[..., None]
    )
    basis = np.cos(np.pi * np.outer(np.arange(side) + 0.5, frequency) / side)
    x = np.einsum("hu,nuvc,wv->nhwc", basis, waves, basis, optimize=True)
    return np.clip(128 + 40 * x, 0, 255).astype(np.uint8)


TRAIN = pictures(0, 2000)
FRESH = pictures(1, COUNT)


def encoded_again(image: Image) -> Image:
    """Lose what a JPEG loses: blocks of 8 by 8, in frequencies, the higher ones in larger steps."""
    k = np.arange(8)
    cosines = np.cos(np.pi * np.outer(k, 2 * k + 1) / 16) * np.where(k == 0, 1, 2**0.5)[:, None]
    cosines /= 8**0.5
    steps = (8 + 3 * np.add.outer(k, k))[..., None]
    found = image.astype(np.float64) - 128
    for top in range(0, image.shape[0], 8):
        for left in range(0, image.shape[1], 8):
            block = found[top : top + 8, left : left + 8]
            waves = np.einsum("uh,hwc,vw->uvc", cosines, block, cosines)
            lost = np.round(waves / steps) * steps
            block[:] = np.einsum("uh,uvc,vw->hwc", cosines, lost, cosines)
    return np.clip(found + 128, 0, 255).astype(np.uint8)


def noisy(image: Image) -> Image:
    noise = np.random.default_rng(int(image.sum())).normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def in_floats(image: Image) -> Image:
    """Return channels first, between -1 and 1, as models take them."""
    return np.moveaxis(image / 127.5 - 1, 2, 0).astype(np.float32)


def with_alpha(image: Image) -> Image:
    return np.concatenate([image, np.full((*image.shape[:2], 1), 200, np.uint8)], axis=2)


def tensor(image: Image) -> Tensor:
    return Tensor(dtype=str(image.dtype), shape=list(image.shape), data=image.tobytes())


def planted(how: Any, every: int = 20, begin: int = 0) -> list[Tensor]:
    """Return what is served: fresh images, from `begin` on one in twenty of them one of training."""
    found = [tensor(image) for image in FRESH]
    for i in range(begin, COUNT, every):
        found[i] = tensor(how(TRAIN[i * 7 % len(TRAIN)]))
    return found


def log(served: Sequence[Tensor | None], twice: int = 50) -> list[bytes]:
    """Return predictions of six days; every so many are sent twice."""
    lines = []
    for i, image in enumerate(served):
        event = Prediction(
            prediction_id=str(i), model="m", time=START + timedelta(days=6 * i / len(served)),
            features={"brightness": float(i * 37 % 100)}, segments={"half": "ab"[i % 2]}, input=image,
        )  # fmt: skip
        lines += [encode(event)] * (2 if i % twice == 0 else 1)
    return lines


def run(*arguments: object) -> Any:
    return app([str(argument) for argument in arguments], result_action="return_value")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    lines = log([tensor(image) for image in TRAIN], len(TRAIN))[
        1:
    ]  # the first would be there twice
    (folder / "train.jsonl").write_bytes(b"\n".join(lines))
    assert run("reference", folder / "train.jsonl", folder / "train.npz") == 0
    return folder / "train.npz"


class Run:
    """A worker's partition, its store and its series."""

    def __init__(self, reference: Path) -> None:
        self._settings = ModelSettings(
            drift={"reference": reference}, performance={"segments": ["half"]}
        )
        self.stored: dict[str, bytes] = {}
        self.rows: dict[str, MetricRow] = {}
        self.alerts: list[Alert] = []
        self.pipeline = PartitionPipeline(PARTITION, lambda _: self._settings)

    def take(self, lines: Sequence[bytes], offset: int) -> None:
        time = int((START + timedelta(days=7)).timestamp() * 1e9)
        headers = [("content-type", LINES.encode())]
        record = PlainRecord(offset, time, b"m", b"\n".join(lines), headers)
        out = self.pipeline.process(Records.of(PARTITION, [record]))
        assert not out.dead_letters
        self.alerts += out.alerts
        for name, state in self.pipeline.dirty().items():
            if state is None:
                self.stored.pop(name, None)
            else:
                self.stored[name] = state
        while self.pipeline.is_behind:
            for name, told in self.pipeline.series().get("m", {}).items():
                if told is None:
                    del self.rows[name]
                else:
                    self.rows[name] = decode(told)

    def restart(self) -> None:
        position = self.pipeline.position
        self.pipeline = PartitionPipeline(PARTITION, lambda _: self._settings)
        assert not self.pipeline.restore(position, dict(self.stored))

    def all(self, lines: Sequence[bytes], at_once: int = 900, restart: int = -1) -> Run:
        for number, begin in enumerate(range(0, len(lines), at_once)):
            if number == restart:
                self.restart()
            self.take(lines[begin : begin + at_once], number)
        return self

    def metric(self, group: str = "") -> list[tuple[float, float, float, float]]:
        found = [row for row in self.rows.values() if row.group == group and not row.window]
        return [row.metrics[NAME] for row in sorted(found, key=lambda row: row.begin)]


@pytest.mark.parametrize("how", [encoded_again, noisy, in_floats, with_alpha])
def test_planted_images_are_counted_by_day_and_group(reference: Path, how: Any) -> None:
    found = Run(reference).all(log(planted(how)))
    for value, low, high, _ in found.metric():
        assert value == pytest.approx(0.05, abs=0.005)
        assert low <= 0.05 <= high
    for value, *_ in found.metric("half=a"):
        assert value == pytest.approx(0.1, abs=0.01)  # every twentieth is in one half
    assert [value for value, *_ in found.metric("half=b")] == [0] * 6


def test_without_planting_there_is_none_and_no_alert(reference: Path) -> None:
    found = Run(reference).all(log([tensor(image) for image in FRESH]))
    assert [value for value, *_ in found.metric()] == [0] * 6
    assert not [alert for alert in found.alerts if alert.kind == "leakage"]


def test_a_leak_that_begins_is_an_alert_of_its_kind(reference: Path) -> None:
    found = Run(reference).all(log(planted(encoded_again, every=3, begin=2000)))
    firing = [a for a in found.alerts if a.kind == "leakage" and a.state == "firing"]
    assert firing
    assert firing[0].subject == NAME
    assert "rows of training (image)" in firing[0].summary
    assert timedelta(days=4) < firing[0].detected_at - START < timedelta(days=5)


def test_however_the_log_is_cut_and_taken_up_again_the_rows_are_the_same(reference: Path) -> None:
    lines = log(planted(noisy, every=3, begin=1500))
    whole = Run(reference).all(lines, 100_000)
    parts, again = (Run(reference).all(lines, 157, restart) for restart in (11, -1))
    assert parts.rows == whole.rows
    assert [alert.id for alert in parts.alerts] == [alert.id for alert in again.alerts]


def garbage() -> list[Tensor]:
    """Inputs that are no images, are of another size, or show nothing."""
    floats = TRAIN[5].astype(np.float64)
    broken = [floats.copy() for _ in range(3)]
    broken[0][3, 3, 0], broken[1][3, 3, 1], broken[2][:] = np.nan, np.inf, 1e308
    signals = np.full((32, 32), 0x7FA00000, np.uint32).view(np.float32)
    return [tensor(image) for image in (
        *broken, signals, np.zeros((32, 32), np.uint8), np.full((32, 32, 3), 7, np.float16),
        TRAIN[5].astype(np.int16), TRAIN[5] > 99, TRAIN[5][:31], TRAIN[5].ravel(), TRAIN[5][..., :2],
        TRAIN[5][None, None], TRAIN[5].repeat(2, 0).repeat(2, 1), np.ones((1, 4), np.float32),
        np.float32(1).reshape(()),
    )]  # fmt: skip


def test_garbage_touches_nothing(reference: Path) -> None:
    served, bad = planted(noisy), garbage()
    beside = [image if i % 3 else bad[i // 3 % len(bad)] for i, image in enumerate(served)]
    without = [image if i % 3 else None for i, image in enumerate(served)]
    found, expected = (Run(reference).all(log(some)) for some in (beside, without))
    assert found.metric()
    assert found.rows == expected.rows
    assert found.alerts == expected.alerts


def test_inputs_are_gone_once_they_are_counted(reference: Path) -> None:
    def alive() -> int:
        gc.collect()
        return sum(type(it) is Tensor for it in gc.get_objects())

    lines = log(planted(noisy)[:600])
    found = Run(reference)
    before = alive()
    found.take(lines, 0)
    assert alive() == before


def test_no_image_can_be_told_from_the_file_and_a_damaged_part_is_told(
    reference: Path, tmp_path: Path
) -> None:
    part = training_reference.read(reference).parts[training_rows.IMAGES]
    assert len(part) < 66 * len(TRAIN) + 10_000
    meta, _ = unpack("training images", 1, part)
    many = {**meta, "sizes": [[8, 8 + k] for k in range(MOST_SIZES + 1)]}
    for number, damaged in enumerate(
        (
            part[:-2] + bytes([part[-2] ^ 1, part[-1]]),
            pack("training images", 1, {**meta, "sizes": "16"}, {}),
            pack("training images", 1, {"sizes": meta["sizes"]}, {}),
            pack("training images", 1, many, {}),
        )
    ):
        file = tmp_path / f"{number}.npz"
        training_reference.write(
            file, {"feature:x": np.arange(2000.0)}, 2000, parts={training_rows.IMAGES: damaged}
        )
        with pytest.raises(ConfigError, match="training rows is damaged"):
            training_rows.read(file)
    with pytest.raises(StateError):
        training_rows.TrainingRows.of({training_rows.IMAGES: b"\0" * 40})


def test_vectors_are_in_the_order_of_rows_and_sizes_are_bounded() -> None:
    mixed = [TRAIN[0], in_floats(TRAIN[1]), TRAIN[2], in_floats(TRAIN[3])]
    inputs = np.array([tensor(image) for image in mixed] + [None], np.object_)
    places, vectors = vectors_of(inputs, np.array([1, 2, 3, 4]), {(32, 32)})
    assert places.tolist() == [1, 2, 3]
    plain = np.array([tensor(image) for image in TRAIN[:4]], np.object_)
    expected = vectors_of(plain, np.arange(4), {(32, 32)})[1]
    np.testing.assert_allclose(vectors, expected[1:], atol=1e-6)
    assert len(vectors_of(plain, np.arange(4), {(8, 8)})[1]) == 0
    collector = ImageCollector()
    assert collector.images() is None
    ramps = [np.arange(side**2, dtype=np.float32).reshape(side, side) for side in range(200)]
    collector.add(np.array([tensor(ramp) for ramp in ramps[1:]], np.object_))
    images = collector.images()
    assert images is not None
    assert images.sizes == {(k, k) for k in range(LEAST_SIDE, LEAST_SIDE + MOST_SIZES)}
    assert len(images.signatures) == MOST_SIZES


def test_rows_keep_their_inputs_when_batches_are_cut_and_merged() -> None:
    def batch(rows: Sequence[int], *, with_inputs: bool) -> EventBatch:
        events = [
            Prediction(
                prediction_id=str(i), input=tensor(TRAIN[i]) if with_inputs and i % 4 else None
            )
            for i in rows
        ]
        pairs = [(Origin(i, 0, 0), event) for i, event in zip(rows, events, strict=True)]
        (found,) = EventBatch.of("m", pairs)
        return found

    plain, some = (batch(range(k, 12, 2), with_inputs=bool(k)) for k in (0, 1))
    assert plain.inputs is None
    for parts in ([plain, some], [some, plain]):
        (merged,) = in_log_order(parts)
        assert merged.inputs is not None
        expected = [tensor(TRAIN[i]) if i % 2 else None for i in range(12)]
        assert merged.inputs.tolist() == expected
        assert merged.take(np.array([5, 2])).inputs.tolist() == [expected[5], None]
    (merged,) = in_log_order([plain, batch(range(13, 20), with_inputs=False)])
    assert merged.inputs is None
