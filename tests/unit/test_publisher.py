"""The publisher without a broker, and with one that hangs: the inference never notices."""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import torch

from tocsin import Publisher
from tocsin.core.limits import Limits
from tocsin.core.wire import Kind, decode
from tocsin.embedded import free_port
from tocsin.producers.delivery import Table, _packed
from tocsin.producers.packing import _lines


@pytest.fixture(scope="module", autouse=True)
def no_threads_left() -> Iterator[None]:
    """Threads that still try to connect would draw random numbers in other modules' tests."""
    yield
    for thread in threading.enumerate():
        if thread.name == "tocsin":
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def missing() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def hanging() -> Iterator[str]:
    """Accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def queued(publisher: Publisher) -> list[Any]:
    """What waits, as events."""
    return [
        decode(item, Kind.BARE, Limits())
        for queue in list(publisher._queues.values())
        for item in list(queue)
        if isinstance(item, bytes)
    ]


def silent(publisher: Publisher) -> Publisher:
    """Keep what is queued: the thread never begins."""
    publisher._start = lambda: None  # type: ignore[method-assign]
    return publisher


def test_an_event_carries_what_the_publisher_knows(missing: str) -> None:
    events = silent(Publisher(missing, model="m", version="7", environment="shadow"))
    assert events.prediction("a", features={"x": 1.5, "country": "NL"}, prediction="ok", client="c")
    assert events.label("a", "fraud", revision=2)
    prediction, label = queued(events)
    assert (prediction.prediction_id, prediction.model, prediction.version) == ("a", "m", "7")
    assert (prediction.environment, prediction.client) == ("shadow", "c")
    assert prediction.features == {"x": 1.5, "country": "NL"}
    assert (label.prediction_id, label.label, label.revision) == ("a", "fraud", 2)
    assert abs((datetime.now(UTC) - prediction.time).total_seconds()) < 60


def test_an_event_may_say_otherwise(missing: str) -> None:
    events = silent(Publisher(missing, model="m", version="7"))
    time = datetime(2026, 1, 2, tzinfo=UTC)
    events.prediction("a", model="other", version="8", environment="reference", time=time)
    (event,) = queued(events)
    assert (event.model, event.version, event.environment) == ("other", "8", "reference")
    assert event.time == time


@pytest.mark.parametrize(
    ("given", "published"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (torch.tensor(2.5), 2.5),
        (math.nan, None),
        (-math.inf, None),
        (np.float64("nan"), None),
    ],
    ids=repr,
)
def test_numbers_of_numpy_and_torch_are_taken_and_what_is_not_finite_is_missing(
    missing: str, given: Any, published: Any
) -> None:
    events = silent(Publisher(missing))
    assert events.prediction("a", features={"x": given})
    (event,) = queued(events)
    assert event.features == {"x": published}
    assert type(event.features["x"]) is type(published)


def test_ids_that_are_numbers_and_times_without_a_zone_are_taken(missing: str) -> None:
    events = silent(Publisher(missing))
    local = datetime(2026, 1, 2, 3, 4)  # noqa: DTZ001
    assert events.prediction(17, time=local)
    assert events.prediction(18, time=1_767_225_600)
    assert events.label(17, True, observed_at=1_767_225_600.5)
    first, second, label = queued(events)
    assert (first.prediction_id, label.prediction_id) == ("17", "17")
    assert first.time == local.astimezone()
    assert second.time == datetime(2026, 1, 1, tzinfo=UTC)


def test_rows_of_several_models_go_under_their_own_keys(missing: str) -> None:
    """Else a label, whose key is its model's, would not meet its prediction."""
    events = silent(Publisher(missing, model="mine"))
    rows = {"prediction_id": list("abcd"), "model": ["x", "y", None, "x"], "label": [1, 2, 3, 4]}
    assert events.predictions(rows)
    assert {model: sum(t.events for t in queue) for model, queue in events._queues.items()} == {
        "x": 2, "y": 1, "mine": 1,
    }  # fmt: skip


def test_arrays_and_tensors_are_taken_as_vectors(missing: str) -> None:
    events = silent(Publisher(missing))
    assert events.prediction("a", logits=torch.tensor([1.0, -2.0]), embedding=np.arange(3))  # type: ignore[arg-type]
    (event,) = queued(events)
    assert event.logits == [1.0, -2.0]
    assert event.embedding == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "call",
    [
        lambda events: events.prediction("a", features={"x": object()}),
        lambda events: events.prediction("a", features=[1.0]),
        lambda events: events.prediction("a", scores=[0.1, 0.9]),
        lambda events: events.prediction("a", time="yesterday"),
        lambda events: events.label("a", None),
        lambda events: events.prediction("a\ud800"),
        lambda events: events.label("a", object()),
        lambda events: events.predictions({"features": {"x": [1.0]}}),
        lambda events: events.predictions({"prediction_id": ["a"], "features": {"x": [1.0, 2.0]}}),
        lambda events: events.predictions({"prediction_id": ["a"], "feature": [1.0]}),
        lambda events: events.predictions(object()),
        lambda events: events.prediction("x" * 257),
        lambda events: events.prediction("a", model="two words"),
        lambda events: events.prediction("a", version="7" * 201),
        lambda events: events.prediction("a", environment="prod"),
        lambda events: events.prediction("a", client="x" * 257),
        lambda events: events.prediction("a", segments={"sex*age": "F30"}),
        lambda events: events.prediction("a", segments={"age": 30}),
        lambda events: events.prediction("a", segments=["F"]),
        lambda events: events.label("a", 1, model="two words"),
        lambda events: events.label("", 1),
        lambda events: events.predictions({"prediction_id": ["a"], "segments": {"a*b": ["x"]}}),
        lambda events: events.predictions({"prediction_id": ["a"], "model": ["two words"]}),
    ],
)
def test_what_cannot_be_encoded_is_counted_and_never_raised(missing: str, call: Any) -> None:
    events = silent(Publisher(missing))
    assert call(events) is False
    assert events.counts.failed == 1
    assert queued(events) == []


def test_a_closed_publisher_counts_and_does_not_raise(missing: str) -> None:
    events = Publisher(missing)
    assert events.close(0)
    assert events.prediction("a") is False
    assert events.counts.failed == 1


@pytest.mark.parametrize("broker", ["missing", "hanging"])
def test_the_queue_is_bounded_and_what_finds_it_full_is_counted(
    request: pytest.FixtureRequest, broker: str, caplog: pytest.LogCaptureFixture
) -> None:
    address = request.getfixturevalue(broker)
    with Publisher(address, queue_events=500, linger=0) as events:
        taken = sum(events.prediction(str(k), features={"x": 1.0}) for k in range(2000))
        counts = events.counts
        assert taken == 500
        assert (counts.sent, counts.dropped, counts.queue_depth) == (0, 1500, 500)
        assert not events.flush(0.05)
        events.close(0)
    messages = [r.getMessage() for r in caplog.records if r.name.startswith("tocsin")]
    assert messages.count("the queue is full and events are dropped; is Kafka reachable?") == 1


def test_the_queue_is_bounded_in_bytes_too(missing: str) -> None:
    events = silent(Publisher(missing, queue_bytes=10_000))
    while events.prediction(None, features={"text": "x" * 900}):
        pass
    assert events.counts.dropped == 1
    assert events._bytes <= 10_000


def test_closing_does_not_wait_for_a_broker_that_hangs(hanging: str) -> None:
    events = Publisher(hanging, linger=0)
    events.prediction("a")
    assert events.close(0.1) is False
    assert events._thread is not None
    assert events.counts.sent == 0


def test_threads_lose_nothing_of_one_another(missing: str) -> None:
    events = silent(Publisher(missing, queue_events=10**6))

    def publish(thread: int) -> None:
        for k in range(2000):
            events.prediction(f"{thread}-{k}", model=f"m{k % 3}")

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({event.prediction_id for event in queued(events)}) == 8000


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_begins_anew_and_leaves_the_parents_events_to_the_parent(
    missing: str,
) -> None:
    events = Publisher(missing, linger=0)
    events.prediction("parents")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        before = events.counts
        events.prediction("childs")
        alive = events._thread is not None and events._thread.is_alive()
        seen = [before.queue_depth, events.counts.queue_depth, int(alive)]
        os.write(write, repr(seen).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"[0, 1, 1]"
    assert events.counts.queue_depth == 1
    events.close(0)


def test_sampling_keeps_a_prediction_and_its_label_together_and_says_its_rate(missing: str) -> None:
    events = silent(Publisher(missing, sample_rate=0.2))
    names = [f"p-{k}" for k in range(5000)]
    kept = {name for name in names if events.prediction(name)}
    assert {name for name in names if events.label(name, 1)} == kept
    assert 0.17 < len(kept) / len(names) < 0.23
    assert all(e.sample_rate == 0.2 for e in queued(events) if hasattr(e, "sample_rate"))
    assert events.counts.sampled_out == 2 * (5000 - len(kept))
    # A batch is sampled by the same ids.
    batch = silent(Publisher(missing, sample_rate=0.2))
    assert batch.predictions({"prediction_id": names})
    (table,) = batch._queues["default"]
    assert isinstance(table, Table)
    assert table.events == len(kept)


def test_names_that_workers_would_refuse_are_refused_with_what_is_right(
    missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="1 to 200 characters and no blanks, got 'two words'"):
        Publisher(missing, model="two words")
    with pytest.raises(ValueError, match="environment must be one of production, shadow"):
        Publisher(missing, environment="prod")  # type: ignore[arg-type]
    events = silent(Publisher(missing))
    assert events.prediction("a", segments={"age": 30}) is False  # type: ignore[dict-item]
    assert (
        "an event was not published: TypeError: segments['age'] must be text, got int"
        in caplog.text
    )
    assert events.prediction("a", segments={"age": "30"})
    assert events.counts.failed == 1


def test_without_pyarrow_a_batch_has_the_same_rules() -> None:
    defaults = {"model": "m", "version": None, "environment": "production"}
    for more in ({"segments": {"a*b": ["x"]}}, {"model": ["two words"]}):
        with pytest.raises(ValueError, match="must have 1 to"):
            list(_lines({"prediction_id": ["a"], **more}, defaults, 2**32))
    assert len(list(_lines({"prediction_id": ["a"], "model": ["n"]}, defaults, 2**32))) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"modle": "x"}, {"sample_rate": 0}, {"sample_rate": 1.5}, {"queue_events": 0}, {"linger": -1}],
)
def test_parameters_out_of_range_are_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Publisher("localhost:1", **wrong)


def test_records_stay_below_the_limit_and_keep_the_order() -> None:
    rng = np.random.default_rng(0)
    lines = [b"%d " % k + b"x" * int(n) for k, n in enumerate(rng.integers(1, 400, 500))]
    lines[250] = b"250 " + b"y" * 5000  # larger than a record: goes alone
    records = list(_packed(lines, 2000))
    found = [line for value, _, _ in records for line in value.split(b"\n")]
    assert found == lines
    assert [events for _, events, _ in records] == [v.count(b"\n") + 1 for v, _, _ in records]
    large = [value for value, _, _ in records if len(value) > 2000]
    assert large == [lines[250]]
    small = sum(len(value) < 1000 for value, _, _ in records)
    assert small <= 3  # records are filled, not sent one by one


def test_an_arrow_batch_is_cut_below_the_limit(missing: str) -> None:
    events = silent(Publisher(missing, record_bytes=50_000))
    rows = 3000
    rng = np.random.default_rng(1)
    columns = {
        "prediction_id": [f"p-{k}" for k in range(rows)],
        "features": {"x": rng.normal(size=rows), "y": rng.normal(size=rows)},
        "logits": rng.normal(size=(rows, 4)),
    }
    assert events.predictions(columns)
    tables = list(events._queues["default"])
    assert sum(table.events for table in tables) == rows
    assert max(len(table.data) for table in tables) <= 50_000
    assert len(tables) < 12


def test_a_model_that_is_no_text_is_counted_and_ends_no_thread(missing: str) -> None:
    events = silent(Publisher(missing))
    assert events.prediction("a", model=7) is False  # type: ignore[arg-type]
    assert events.label("a", 1, model=b"x") is False  # type: ignore[arg-type]
    assert events.prediction("b")
    assert (events.counts.failed, events.counts.queue_depth) == (2, 1)


def test_a_time_that_is_none_is_refused_with_what_is_right(
    missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    events = silent(Publisher(missing))
    assert events.prediction("a", time="yesterday") is False  # type: ignore[arg-type]
    said = "TypeError: a time must be a datetime or seconds since 1970, got 'yesterday'"
    assert said in caplog.text
    assert events.label("a", 1, observed_at=np.int64(1_700_000_000))
