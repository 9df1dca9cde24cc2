"""What a subscriber is given: each alert once, in order, whatever pub/sub loses, repeats or brings early."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

import msgspec
import pytest

from tocsin.consumers import replay as replay_module
from tocsin.consumers.replay import BEGINNING, Entry, Replay, order
from tocsin.core import alert as alerts
from tocsin.core.alert import Alert
from tocsin.core.lifecycle import State


def alert(number: int, model: str = "m") -> Alert:
    return Alert(
        id=f"{model}:{number}", incident="i", fingerprint="f", state=State.FIRING, severity="info",
        kind="data drift", model=model, subject="s", detector="d", summary="it moved",
        detected_at=datetime(2026, 1, 1, tzinfo=UTC), partition=0, offset=number,
    )  # fmt: skip


def place(number: int) -> str:
    """Stream ids as Redis makes them: of one millisecond several, and not all of one length."""
    return BEGINNING if number == 0 else f"{98 + number // 3}-{number % 3}"


def entries(count: int, model: str = "m") -> list[Entry]:
    return [
        Entry(place(n), place(n - 1), alerts.encode(alert(n, model))) for n in range(1, count + 1)
    ]


def message(entry: Entry) -> bytes:
    head = f'{{"stream_id":"{entry.id}","previous_id":"{entry.previous}",'
    return head.encode() + entry.text[1:]


def numbers(found: list[Alert]) -> list[int]:
    return [one.offset for one in found]


def after(stream: list[Entry], last: str) -> list[Entry]:
    return [entry for entry in stream if order(entry.id) > order(last)]


@pytest.mark.parametrize("seed", range(50))
def test_each_alert_comes_once_and_in_order_whatever_the_channel_does(seed: int) -> None:
    """A reader that asks the stream when told to, and once more at the end, as the idle one does."""
    rng = Random(seed)
    stream, reader, got = entries(60), Replay(), []
    channel: list[int] = []
    for number in range(len(stream)):
        if rng.random() < 0.7:
            channel.append(number)
        while rng.random() < 0.2:
            channel.append(rng.randint(0, number))
    for number in channel:
        found, must_read = reader.message(message(stream[number]))
        got += found
        assert not (found and must_read)
        if must_read:
            written = stream[: rng.randint(number, len(stream) - 1) + 1]
            got += reader.entries(after(written, reader.last))
    got += reader.entries(after(stream, reader.last))
    assert numbers(got) == list(range(1, 61))
    assert {one.stream_id for one in got} == {entry.id for entry in stream}
    assert reader.missed == 0


def test_the_first_message_of_a_stream_that_is_longer_makes_the_reader_read_it() -> None:
    reader = Replay()
    assert reader.message(message(entries(3)[2])) == ([], True)
    assert reader.last == BEGINNING
    assert reader.message(message(entries(3)[0]))[1] is False


def test_a_reader_goes_on_after_what_it_handled() -> None:
    stream = entries(9)
    reader = Replay(place(4))
    assert reader.message(message(stream[3])) == ([], False)
    assert numbers(reader.message(message(stream[4]))[0]) == [5]
    assert numbers(reader.entries(after(stream, reader.last))) == [6, 7, 8, 9]


def test_what_the_stream_no_longer_has_is_counted_as_missed() -> None:
    reader = Replay(place(2))
    assert numbers(reader.entries(entries(9)[5:])) == [6, 7, 8, 9]
    assert reader.missed == 1
    fresh = Replay()  # who asks for all that is there has missed nothing
    fresh.entries(entries(9)[5:])
    assert fresh.missed == 0


def test_a_store_that_lost_its_last_writes_repeats_alerts_under_new_ids_and_they_come_once() -> (
    None
):
    stream, reader = entries(6), Replay()
    got = [one for entry in stream for one in reader.message(message(entry))[0]]
    again = [
        Entry(f"500-{n}", place(3) if n == 4 else f"500-{n - 1}", alerts.encode(alert(n)))
        for n in range(4, 9)
    ]
    for entry in again:
        found, must_read = reader.message(message(entry))
        assert not must_read
        got += found
    assert numbers(got) == list(range(1, 9))


def test_another_model_s_alerts_are_passed_over_and_leave_no_gap() -> None:
    stream = entries(8)
    for number in (1, 2, 5):
        stream[number] = stream[number]._replace(text=alerts.encode(alert(number + 1, "other")))
    reader, got = Replay(model="m"), []
    for entry in stream:
        found, must_read = reader.message(message(entry))
        assert not must_read
        got += found
    assert numbers(got) == [1, 4, 5, 7, 8]
    assert numbers(Replay(model="other").entries(stream)) == [2, 3, 6]


@pytest.mark.parametrize(
    "text",
    [b"", b"hello", b"[]", b"{}", b'{"stream_id":"1-1"}', b"\xff", alerts.encode(alert(1)),
     b'{"stream_id":"1-1",' + alerts.encode(alert(1))[1:]],
)  # fmt: skip
def test_a_message_that_is_not_from_the_store_is_left_alone(text: bytes) -> None:
    reader = Replay()
    assert reader.message(text) == ([], False)
    assert reader.last == BEGINNING


@pytest.mark.parametrize("name", ["stream_id", "previous_id"])
@pytest.mark.parametrize("value", ["", "x", "1-x", "-", "1-2-3", "१-1", "-5-1"])
def test_a_message_with_a_place_that_no_stream_has_is_left_alone(name: str, value: str) -> None:
    """Anyone may publish on a channel."""
    odd = msgspec.structs.replace(
        alert(1), **{"stream_id": "5-1", "previous_id": "0-0", name: value}
    )
    reader = Replay()
    assert reader.message(alerts.encode(odd)) == ([], False)
    assert reader.last == BEGINNING


def test_an_entry_that_cannot_be_read_does_not_stop_the_others() -> None:
    stream = entries(5)
    stream[2] = stream[2]._replace(text=b'{"id":"from another version"}')
    reader = Replay()
    assert numbers(reader.entries(stream)) == [1, 2, 4, 5]
    assert reader.last == place(5)


def test_ids_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "_REMEMBERED", 10)
    reader = Replay()
    assert len(reader.entries(entries(100))) == 100
    assert len(reader._known) == 10


def test_stream_ids_are_ordered_as_numbers() -> None:
    ids = ["0-0", "5-0", "9-2", "9-10", "10-0", "100-0"]
    assert sorted(ids, key=order) == ids
    assert order("7") == order("7-0")
