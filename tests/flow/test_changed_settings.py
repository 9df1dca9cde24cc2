"""Rows of the series that were told by other settings are gone once a worker has begun with new ones, whenever it crashes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest

from tocsin.consumers.dead_letters import MemoryDeadLetters
from tocsin.consumers.records import Partition, PlainRecord, Poison, Records
from tocsin.consumers.settings import Settings
from tocsin.consumers.source import MemorySource
from tocsin.consumers.store import Commit, MemoryStore
from tocsin.consumers.worker import Worker
from tocsin.core.cloudevents import LINES
from tocsin.core.errors import TransportError
from tocsin.core.metric_row import decode

START = datetime(2026, 1, 1, tzinfo=UTC)
PARTITIONS = [Partition("t", 0), Partition("t", 1)]
BEFORE: dict[str, Any] = {
    "performance": {"segments": ["sex", "race", "sex*race"]},
    "bias": {"segments": ["sex", "race", "environment"]},
}


def settings(of: dict[str, Any]) -> Settings:
    return Settings(worker={"poll": 0.001, "commit": 1e-6}, redis={"patience": 60}, defaults=of)


def stream(partition: Partition, days: range) -> list[Records | Poison]:
    rng = np.random.default_rng(partition.number)
    found: list[Records | Poison] = []
    for day in days:
        lines = []
        for row in range(60):
            event = {
                "prediction_id": f"{partition.number}-{day}-{row}", "model": f"m{partition.number}", "version": "v1",
                "time": (START + timedelta(days=day, minutes=row)).isoformat(), "prediction": int(rng.integers(2)),
                "environment": ["production", "shadow"][row % 2], "label": int(rng.integers(2)),
                "segments": {"sex": "FM"[int(rng.integers(2))], "race": "ab"[int(rng.integers(2))]},
            }  # fmt: skip
            lines.append(msgspec.json.encode(event))
        headers = [("content-type", LINES.encode())]
        time = int((START + timedelta(days=60)).timestamp()) * 10**9
        record = PlainRecord(day, time, b"m", b"\n".join(lines), headers)
        found.append(Records.of(partition, [record]))
    return found


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a store that did not answer again with the next step."""
    monkeypatch.setattr("tocsin.consumers.worker._RETRY_SECONDS", 0.0)


def work(store: MemoryStore, of: dict[str, Any], days: int, steps: int = 10_000) -> bool:
    """Let a worker work, without a last commit; return whether all is read and written."""
    source = MemorySource({partition: stream(partition, range(days)) for partition in PARTITIONS})
    worker = Worker(settings(of), source, store, MemoryDeadLetters())
    worker._stop.wait = lambda timeout=None: False  # type: ignore[method-assign]  # no pauses
    for _ in range(steps):
        worker.step()
        if source.exhausted and not any(owned.is_dirty for owned in worker._owned.values()):
            return True
    return False


def groups(store: MemoryStore, model: str = "m0") -> set[str]:
    return {name.split("|", 2)[2] for name in store.series[model]}


def begun(of: dict[str, Any] = BEFORE) -> MemoryStore:
    store = MemoryStore()
    assert work(store, of, 4)
    return store


def changed(**of: dict[str, Any]) -> dict[str, Any]:
    return {name: BEFORE[name] | of.get(name, {}) for name in BEFORE}


def test_all_is_there_before() -> None:
    found = groups(begun())
    assert found >= {"", "sex=F", "race=a", "sex=F race=b"}
    gaps = {name.partition("=")[0] for name in found if "|" in name}
    assert gaps == {"sex", "race", "environment"}


@pytest.mark.parametrize("days", [4, 5])  # without an event, and with more
def test_rows_of_segments_and_gaps_that_are_configured_no_more_are_deleted(days: int) -> None:
    store = begun()
    before = {name: row for name, row in store.series["m0"].items() if name.endswith("|")}
    fewer = changed(
        performance={"segments": ["sex", "version"]}, bias={"segments": ["sex", "environment"]}
    )
    assert work(store, fewer, days)
    for model in ("m0", "m1"):
        found = groups(store, model)
        assert not [name for name in found if "race" in name]
        assert {"", "sex=F", "sex=M"} <= found
        assert {name.partition("=")[0] for name in found if "|" in name} == {"sex", "environment"}
    if days == 4:  # what goes on does as if nothing had happened
        after = {name: row for name, row in store.series["m0"].items() if name.endswith("|")}
        assert after == before
    assert not [f for fields in store._fields.values() for f in fields if _is_of_race(f)]
    assert work(store, fewer, days)
    again = begun(BEFORE)
    assert work(again, fewer, days)
    assert again.series == store.series


def _is_of_race(field: str) -> bool:
    """Whether a field of state is of a group that the second segment, of 6 bits, has a part in."""
    kind, _, cohort = field.partition("|")[0].partition("/")[2].partition(":")
    return kind == "cohort" and bool(int(cohort.partition(":")[2]) >> 6 & 63)


def test_rows_of_cohorts_of_another_length_are_deleted() -> None:
    store = begun()
    assert work(store, changed(performance={"cohort": "12h"}), 5)
    rows = [decode(row) for row in store.series["m0"].values()]
    assert rows
    for row in rows:
        if not row.window:
            length = datetime.fromisoformat(row.end) - datetime.fromisoformat(row.begin)
            assert length == timedelta(hours=12)


def test_the_same_settings_delete_nothing_and_ask_nothing() -> None:
    store = begun()
    before = dict(store.series["m0"])

    def refuse(*_: object) -> set[str]:
        raise AssertionError("nothing has changed")

    store.written = refuse  # type: ignore[method-assign]
    assert work(store, BEFORE, 4)
    assert store.series["m0"] == before


@pytest.mark.parametrize("seed", range(4))
def test_a_crash_at_any_step_changes_nothing(seed: int) -> None:
    fewer = changed(performance={"segments": ["sex"]}, bias={"segments": ["sex"]})
    expected = begun()
    assert work(expected, fewer, 8)
    store, rng = begun(), np.random.default_rng(seed)
    assert any(work(store, fewer, 8, steps=int(rng.integers(1, 8))) for _ in range(200))
    assert store.series == expected.series
    assert not [name for name in groups(store) if "race" in name]


class Lossy(MemoryStore):
    """Writes, but does not always say so; and does not always answer what it has."""

    def __init__(self) -> None:
        super().__init__()
        self._rng = np.random.default_rng(0)

    def commit(self, partition: Partition, commit: Commit) -> None:
        super().commit(partition, commit)
        if self._rng.random() < 0.3:
            raise TransportError("no answer")

    def written(self, partition: Partition, model: str) -> set[str]:
        if self._rng.random() < 0.5:
            raise TransportError("no answer")
        return super().written(partition, model)


def test_a_store_that_does_not_answer_is_asked_again() -> None:
    fewer = changed(performance={"segments": ["sex"]}, bias={"segments": ["sex"]})
    expected = begun()
    assert work(expected, fewer, 6)
    store = Lossy()
    assert work(store, BEFORE, 4)
    assert work(store, fewer, 6)
    assert store.series == expected.series
