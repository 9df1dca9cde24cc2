"""State that is crafted, or damaged with a right checksum, is told as lost: nothing of it stops the start."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np
import pytest

from tocsin.consumers.class_numbers import ClassNumbers
from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.series import Series
from tocsin.core.batch import EventBatch, Origin
from tocsin.core.events import Prediction
from tocsin.core.snapshot import pack, unpack

pytestmark = pytest.mark.xdist_group("hostile state")

SETTINGS = ModelSettings(
    drift={"warmup_values": 64}, attack={"fit_events": 60, "calibration_events": 200, "alpha": 0.02}
)
SECOND: Final = 10**9
Damage = Callable[[bytes], bytes]


def events(begin: int, count: int) -> EventBatch:
    rng = np.random.default_rng(begin)
    level = np.sin(np.arange(begin, begin + count) / 700) * 5
    pairs = [
        (
            Origin(begin + i, 0, (begin + i) * 600 * SECOND),
            Prediction(
                prediction_id=f"p{begin + i}",
                model="m",
                version="v1",
                client=f"c{i % 5}",
                features={"x": float(rng.normal()), "load": float(level[i] + rng.normal() / 10)}
                | ({"color": "red"} if i % 3 else {}),
                logits=rng.normal(size=4).tolist(),
                embedding=rng.normal(size=3).tolist(),
            ),
        )
        for i in range(count)
    ]
    (batch,) = EventBatch.of("m", pairs)
    return batch


def series() -> Series:
    return Series("m", "production", 0, SETTINGS)


@pytest.fixture(scope="module")
def stored() -> dict[str, bytes]:
    of = series()
    for begin in range(0, 6_000, 1_000):
        batch = events(begin, 1_000)
        of.observe(batch, ClassNumbers().numbers(batch.prediction))
    assert of._parts()  # all of what is told below is there
    fields = {name: state for name, state in of.dirty().items() if state is not None}
    assert b"natural_size" in fields["inputs"]
    assert series().restore(dict(fields)) == []
    return fields


def layout(state: bytes) -> tuple[str, int, dict[str, Any], dict[str, np.ndarray]] | None:
    """Return what was packed; None if it is no snapshot."""
    if not state.startswith(b"TCSN"):
        return None
    size = int.from_bytes(state[8:12], "little")
    kind, version, _, _ = msgspec.msgpack.decode(state[12 : 12 + size])
    return kind, version, *unpack(kind, version, state)


def changed_meta(state: bytes, key: str, change: Callable[[dict[str, Any]], object]) -> bytes:
    found = layout(state)
    assert found is not None
    kind, version, meta, arrays = found
    meta = dict(meta)
    change(meta)
    return pack(kind, version, meta, arrays)


def changed_array(
    state: bytes, name: str, change: Callable[[dict[str, np.ndarray]], object]
) -> bytes:
    found = layout(state)
    assert found is not None
    kind, version, meta, arrays = found
    change(arrays)
    return pack(kind, version, meta, arrays)


def inside(state: bytes, key: str, damage: Damage) -> bytes:
    return changed_meta(state, key, lambda meta: meta.update({key: damage(meta[key])}))


def inside_pair(state: bytes, key: str, damage: Damage) -> bytes:
    return changed_meta(
        state, key, lambda meta: meta.update({key: [meta[key][0], damage(meta[key][1])]})
    )


def retyped(a: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return a.astype(np.int32 if a.dtype != np.int32 else np.float64)


SHAPES: Final[dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "longer": lambda a: np.concatenate([a.reshape(len(a), -1), a.reshape(len(a), -1)[:1]]).reshape(
        -1, *a.shape[1:]
    ),
    "deeper": lambda a: a[..., None],
    "of another type": retyped,
}


def damages(state: bytes, path: str = "") -> Iterator[tuple[str, Damage]]:
    """Yield what may be done to a snapshot and those within it: keys and arrays that are gone or others."""
    found = layout(state)
    if found is None:
        return
    kind, _, meta, arrays = found
    path += kind
    for key, value in meta.items():
        yield f"{path}.{key} gone", partial(changed_meta, key=key, change=lambda m, k=key: m.pop(k))
        wrong: object = 3 if not isinstance(value, int) else "text"
        yield (
            f"{path}.{key} another",
            partial(changed_meta, key=key, change=lambda m, k=key, w=wrong: m.update({k: w})),
        )
        if isinstance(value, bytes):
            for name, damage in damages(value, f"{path}/"):
                yield name, partial(inside, key=key, damage=damage)
        elif isinstance(value, list) and len(value) == 2 and isinstance(value[1], bytes):
            for name, damage in damages(value[1], f"{path}/"):
                yield name, partial(inside_pair, key=key, damage=damage)
    for name, array in arrays.items():
        yield (
            f"{path}:{name} gone",
            partial(changed_array, name=name, change=lambda a, n=name: a.pop(n)),
        )
        for how, change in SHAPES.items():
            if array.ndim and len(array):
                yield (
                    f"{path}:{name} {how}",
                    partial(
                        changed_array,
                        name=name,
                        change=lambda a, n=name, c=change: a.update({n: c(a[n])}),
                    ),
                )


MORE = events(6_000, 40)
UNREAD: Final = re.compile(
    r"(series\.(trained|vectors|embedding|logits)|stream_monitor\.extra) gone"  # as in state from before there were these
    r"|performance\.size|vectors\w*\.blocks"  # nobody reads the first, and of logits the second
    r"|(adwin|e_detector):\w+ of another type"  # what is packed is unpacked into the right type
    r"|natural_size(:rows longer|\.finds another|:finder\.decides_at)"  # may be so
)
"""Damage that is none."""
FOUND_LATER: Final = re.compile(
    r"guarded\.rows|reference\.(population|missing) another|adversarial"
)
"""Damage that sets the detector aside with its first values, or is overlooked."""


@pytest.mark.filterwarnings("ignore:The use of `x.T` on tensors")
def test_each_damage_is_told_and_none_stops_the_start(stored: dict[str, bytes]) -> None:
    told = 0
    for field, state in stored.items():
        for what, damage in damages(state):
            of = series()
            lost = of.restore(stored | {field: damage(state)})
            told += bool(lost)
            if not lost:
                assert UNREAD.search(what) or FOUND_LATER.search(what), f"{field}: {what}"
            if FOUND_LATER.search(what) and "longer" not in what:
                of.observe(MORE, ClassNumbers().numbers(MORE.prediction))
                of.metrics()
    assert told > 1_500


def test_what_is_lost_starts_clean_and_the_rest_goes_on(stored: dict[str, bytes]) -> None:
    gone = partial(changed_array, name="center", change=lambda arrays: arrays.pop("center"))
    of = series()
    (lost,) = of.restore(stored | {"inputs_reference": gone(stored["inputs_reference"])})
    assert lost.startswith("inputs: an array of streams is missing: expected center, found sample")
    assert of.inputs.unusable() == {}
    assert of.errors.volatile() == stored["errors"]
    assert of.logits.state()["versions"]["kept"] == {"v1/4": 6_000 - 2_048}
    of.observe(MORE, ClassNumbers().numbers(MORE.prediction))
    assert of.inputs.unusable().keys() == {
        "feature:x", "feature:load", "category:color",
    }  # fmt: skip
    assert of.broken == {}


def test_a_series_whose_clocks_are_gone_starts_clean_as_a_whole(stored: dict[str, bytes]) -> None:
    gone = changed_meta(stored["series"], "pairs", lambda meta: meta.pop("pairs"))
    of = series()
    (lost,) = of.restore(stored | {"series": gone})
    assert lost == "series: the snapshot of series is not as it was written: KeyError: 'pairs'"
    assert of.events.count == 0
    assert of.inputs.unusable() == {}
    of.observe(MORE, ClassNumbers().numbers(MORE.prediction))


def test_incidents_that_cannot_be_read_are_not_read_by_half(stored: dict[str, bytes]) -> None:
    of = series()
    before = of.incidents.snapshot()
    half = changed_meta(
        stored["incidents"], "merging", lambda meta: meta.update(merging=[["data drift", "x", {}]])
    )
    (lost,) = of.restore(stored | {"incidents": half})
    assert lost.startswith("incidents: the snapshot of incidents is not as it was written: ")
    assert of.incidents.snapshot() == before
