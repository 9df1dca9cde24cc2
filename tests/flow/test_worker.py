"""The worker in memory: what comes out is what an undisturbed run gives, whatever happens to it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tocsin.consumers.dead_letters import MemoryDeadLetters
from tocsin.consumers.pipeline import DeadLetter
from tocsin.consumers.records import Partition, PlainRecord, Poison, Records
from tocsin.consumers.settings import Settings
from tocsin.consumers.source import MemorySource
from tocsin.consumers.store import Claim, Commit, MemoryStore
from tocsin.consumers.worker import Worker
from tocsin.core.alert import Alert
from tocsin.core.cloudevents import LINES
from tocsin.core.errors import DecodeError, TransportError
from tocsin.core.events import Label, Prediction
from tocsin.core.wire import encode

START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = Settings(
    worker={"poll": 0.001, "commit": 0.001},
    redis={"patience": 0.4},
    defaults={
        "drift": {"warmup_values": 64},
        "incidents": {"merge_events": 100, "resolve_events": 300},
    },
)


def line_record(offset: int, lines: Sequence[bytes]) -> PlainRecord:
    time = START + timedelta(seconds=offset)
    headers = [("content-type", LINES.encode())]
    return PlainRecord(offset, int(time.timestamp() * 1e9), b"m", b"\n".join(lines), headers)


def stream(partition: Partition, seed: int, records: int = 60) -> list[Records | Poison]:
    """A model whose input jumps a third of the way in, and whose labels turn wrong after two thirds."""
    rng = np.random.default_rng([seed, partition.number])
    found: list[Records | Poison] = []
    model = f"m{partition.number}"
    for offset in range(records):
        shift = 4.0 if offset > records // 3 else 0.0
        lines = []
        for row in range(20):
            identity = f"{offset}-{row}"
            time = START + timedelta(seconds=offset, milliseconds=row)
            lines.append(
                encode(
                    Prediction(
                        prediction_id=identity, model=model, time=time, prediction="1",
                        features={"x": float(rng.normal() + shift), "y": float(rng.normal())},
                    )
                )
            )  # fmt: skip
            wrong = rng.random() < (0.9 if offset > 2 * records // 3 else 0.05)
            label = Label(
                prediction_id=identity, model=model, label="0" if wrong else "1",
                observed_at=time + timedelta(seconds=1),
            )  # fmt: skip
            lines.append(encode(label))
        if offset % 7 == 3:
            lines.insert(5, b'{"prediction_id":"bad","features":{"x":NaN}}')
        found.append(Records.of(partition, [line_record(offset, lines)]))
    return found


PARTITIONS = [Partition("t", number) for number in range(3)]


def logs(seed: int) -> dict[Partition, list[Records | Poison]]:
    return {partition: stream(partition, seed) for partition in PARTITIONS}


def drive(worker: Worker, source: MemorySource, steps: int = 10_000) -> None:
    """Let a worker work until everything is read and written, or for some steps."""
    for _ in range(steps):
        worker.step()
        if source.exhausted and not any(owned.is_dirty for owned in worker._owned.values()):
            return


def by_model(alerts: Sequence[Alert]) -> dict[str, list[Alert]]:
    found: dict[str, list[Alert]] = {}
    for alert in alerts:
        found.setdefault(alert.model, []).append(alert)
    return found


def places(letters: Sequence[DeadLetter]) -> set[tuple[Partition, int, int]]:
    return {(letter.partition, letter.offset, letter.row) for letter in letters}


def undisturbed(seed: int) -> tuple[MemoryStore, MemoryDeadLetters]:
    store, letters, source = MemoryStore(), MemoryDeadLetters(), MemorySource(logs(seed))
    drive(Worker(SETTINGS, source, store, letters), source)
    return store, letters


def test_a_drift_and_wrong_labels_become_alerts_of_their_model() -> None:
    store, letters = undisturbed(0)
    for model, alerts in by_model(store.alerts).items():
        firing = [alert.kind for alert in alerts if alert.state == "firing"]
        assert firing == ["data drift", "concept drift"], model
        assert [alert.state for alert in alerts].count("resolved") >= 1
    assert set(by_model(store.alerts)) == {"m0", "m1", "m2"}
    assert len(letters.letters) == 27
    assert store.metrics["m0"]["accuracy"] < 0.7
    assert store.metrics["m0"]["labels_joined"] == 1200


@pytest.mark.parametrize("seed", range(6))
def test_crashes_at_any_step_change_no_alert(seed: int) -> None:
    expected, refused = undisturbed(seed)
    rng = np.random.default_rng(seed)
    store, letters = MemoryStore(), MemoryDeadLetters()
    for _ in range(200):
        source = MemorySource(logs(seed))
        worker = Worker(SETTINGS, source, store, letters)
        drive(worker, source, steps=int(rng.integers(1, 30)))
        # The worker is dropped here as kill -9 would: without a last commit.
        if all(offset == 60 for offset in store._offsets.values()):
            break
    assert by_model(store.alerts) == by_model(expected.alerts)
    assert store.metrics == expected.metrics
    assert places(letters.letters) == places(refused.letters)


class LossyStore(MemoryStore):
    """Does not answer at times; half of these commits were written all the same."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._rng = np.random.default_rng(seed)

    def claim(self, partition: Partition, owner: str) -> Claim:
        self._fail(0.3)
        return super().claim(partition, owner)

    def commit(self, partition: Partition, commit: Commit) -> None:
        self._fail(0.2)
        super().commit(partition, commit)
        self._fail(0.2)

    def _fail(self, share: float) -> None:
        if self._rng.random() < share:
            raise TransportError("the store does not answer")


@pytest.mark.parametrize("seed", range(4))
def test_a_store_that_loses_replies_changes_no_alert(
    seed: int,
) -> None:
    expected, _ = undisturbed(seed)
    store, source = LossyStore(seed), MemorySource(logs(seed))
    worker = Worker(
        SETTINGS.model_copy(update={"redis": SETTINGS.redis.model_copy(update={"patience": 60})}),
        source, store, MemoryDeadLetters(),
    )  # fmt: skip
    worker._stop.wait = lambda timeout=None: False  # type: ignore[method-assign]  # no pauses
    drive(worker, source)
    assert by_model(store.alerts) == by_model(expected.alerts)
    assert store.metrics == expected.metrics


def test_a_rebalance_in_between_changes_no_alert() -> None:
    expected, _ = undisturbed(1)
    store, source = MemoryStore(), MemorySource(logs(1))
    worker = Worker(SETTINGS, source, store, MemoryDeadLetters())
    for _ in range(8):
        drive(worker, source, steps=9)
        source.revoke(PARTITIONS[:2])
    drive(worker, source)
    assert by_model(store.alerts) == by_model(expected.alerts)


def test_of_two_workers_that_hold_one_partition_only_the_later_one_writes() -> None:
    expected, _ = undisturbed(2)
    store = MemoryStore()
    zombie_source, source = MemorySource(logs(2)), MemorySource(logs(2))
    zombie = Worker(SETTINGS, zombie_source, store, MemoryDeadLetters())
    drive(zombie, zombie_source, steps=10)
    worker = Worker(SETTINGS, source, store, MemoryDeadLetters())
    drive(worker, source, steps=5)
    # The first one wakes up: it is refused, claims again, and goes on from what the second wrote.
    drive(zombie, zombie_source)
    drive(worker, source)
    assert by_model(store.alerts) == by_model(expected.alerts)


def test_gives_up_when_the_store_is_silent_for_too_long() -> None:
    class Silent(MemoryStore):
        def commit(self, partition: Partition, commit: Commit) -> None:
            raise TransportError("Redis does not answer: test")

    source = MemorySource(logs(0))
    worker = Worker(SETTINGS, source, Silent(), MemoryDeadLetters())
    with pytest.raises(TransportError, match="Redis does not answer"):
        worker.run()


class Journal(MemoryStore):
    """Notes what is written, with what the dead letters note, in their order."""

    def __init__(self, journal: list[tuple[str, Partition, int]]) -> None:
        super().__init__()
        self._journal = journal

    def commit(self, partition: Partition, commit: Commit) -> None:
        super().commit(partition, commit)
        self._journal.append(("offset", partition, commit.offset))


class FailingLetters(MemoryDeadLetters):
    def __init__(self, journal: list[tuple[str, Partition, int]], failures: int) -> None:
        super().__init__()
        self._journal = journal
        self._failures = failures

    def write(self, letters: Sequence[DeadLetter]) -> None:
        if letters and self._failures:
            self._failures -= 1
            raise TransportError("the dead letters cannot be written")
        super().write(letters)
        self._journal += [("letter", letter.partition, letter.offset) for letter in letters]


def test_what_is_refused_is_written_before_its_offset() -> None:
    journal: list[tuple[str, Partition, int]] = []
    source, letters = MemorySource(logs(0)), FailingLetters(journal, failures=2)
    drive(Worker(SETTINGS, source, Journal(journal), letters), source)
    seen: set[tuple[Partition, int]] = set()
    for what, partition, offset in journal:
        if what == "letter":
            seen.add((partition, offset))
        else:
            wanted = {(partition, at) for at in range(3, min(offset, 60), 7)}
            assert wanted <= seen, f"{partition} went to {offset} without its letters"
    assert len(seen) == 27


def test_a_dead_letter_has_the_original_bytes_place_and_reason() -> None:
    _, letters = undisturbed(0)
    letter = letters.letters[0]
    assert letter.value == b'{"prediction_id":"bad","features":{"x":NaN}}'
    assert (letter.partition.topic, letter.offset, letter.row) == ("t", 3, 5)
    assert letter.key == b"m"
    assert "features" in str(letter.error)


def test_a_broken_batch_is_passed_over_and_the_stream_goes_on() -> None:
    log = stream(PARTITIONS[0], 0)
    broken = Poison(PARTITIONS[0], 10, 13, 0, b"\0\1\2", DecodeError("the checksum is wrong"))
    log = [*log[:10], broken, *log[13:]]
    store, letters = MemoryStore(), MemoryDeadLetters()
    source = MemorySource({PARTITIONS[0]: log})
    drive(Worker(SETTINGS, source, store, letters), source)
    (letter,) = [letter for letter in letters.letters if letter.row < 0]
    assert (letter.offset, letter.next_offset, letter.value) == (10, 13, b"\0\1\2")
    assert [alert.kind for alert in store.alerts if alert.state == "firing"] == [
        "data drift", "concept drift",
    ]  # fmt: skip


def test_goes_on_from_the_start_when_the_log_was_replaced_by_a_shorter_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, source = MemoryStore(), MemorySource(logs(0))
    drive(Worker(SETTINGS, source, store, MemoryDeadLetters()), source)
    shorter = MemorySource({PARTITIONS[0]: stream(PARTITIONS[0], 5, records=20)})
    with caplog.at_level(logging.ERROR):
        drive(Worker(SETTINGS, shorter, store, MemoryDeadLetters()), shorter)
    assert "the log was replaced by a shorter one" in caplog.text
    assert store._offsets[PARTITIONS[0]] == 20


def test_damaged_state_of_one_model_is_reported_and_others_keep_theirs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, source = MemoryStore(), MemorySource(logs(0))
    drive(Worker(SETTINGS, source, store, MemoryDeadLetters()), source, steps=25)
    fields = store._fields[PARTITIONS[0]]
    name = next(name for name in fields if name.startswith("0/inputs|"))
    fields[name] = fields[name][:-1] + b"?"
    source = MemorySource(logs(0))
    with caplog.at_level(logging.ERROR):
        drive(Worker(SETTINGS, source, store, MemoryDeadLetters()), source)
    assert "state lost, starting clean: m0: inputs" in caplog.text
    expected, _ = undisturbed(0)
    for model in ("m1", "m2"):
        assert by_model(store.alerts)[model] == by_model(expected.alerts)[model]


@pytest.fixture(autouse=True)
def _retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.consumers.worker._RETRY_SECONDS", 0.0)


def test_a_record_of_very_many_refusals_is_one_dead_letter() -> None:
    partition = PARTITIONS[0]
    garbage = Records.of(partition, [line_record(0, [b"x"] * 5000)])
    few = Records.of(partition, [line_record(1, [b"x"] * 5)])
    store, letters = MemoryStore(), MemoryDeadLetters()
    source = MemorySource({partition: [garbage, few]})
    drive(Worker(SETTINGS, source, store, letters), source)
    (whole, *rows) = letters.letters
    assert (whole.offset, whole.row, whole.value) == (0, -1, b"\n".join([b"x"] * 5000))
    assert "5000 events of this record were refused" in str(whole.error)
    assert [letter.row for letter in rows] == [0, 1, 2, 3, 4]
