"""How refused events are counted: by event, under the model that the key names, at any cut, over restarts."""

from __future__ import annotations

import pytest

from tocsin.consumers.decode import Decoder
from tocsin.consumers.model_settings import ModelSettings
from tocsin.consumers.pipeline import PartitionPipeline
from tocsin.consumers.records import Partition, PlainRecord, Poison, Records
from tocsin.core.errors import DecodeError
from tocsin.core.limits import Limits

PARTITION = Partition("events", 0)
GOOD = b'{"prediction_id":"p","model":"m"}'
BAD = b'{"prediction_id":""}'
LINES = [("content-type", b"application/x-ndjson")]


def record(offset: int, key: bytes | None, *lines: bytes) -> PlainRecord:
    return PlainRecord(offset, 0, key, b"\n".join(lines), LINES)


RECORDS = [
    record(0, b"m", BAD),  # the model is not known yet
    record(1, b"m", GOOD, BAD, BAD),
    record(2, b"m", *[BAD] * 1_001),  # so many that they are one letter
    record(3, b"made up", BAD),
    record(4, None, BAD),
    record(5, b"n", *[GOOD.replace(b'"m"', b'"n"')] * 3),  # a model too many
]
COUNTED = {"m": 1_003, "": 6}


def pipeline() -> PartitionPipeline:
    return PartitionPipeline(PARTITION, lambda _: ModelSettings(), Limits(models=1), Decoder())


@pytest.mark.parametrize("size", [1, 2, 6])
def test_events_are_counted_each_at_any_cut_and_over_restarts(size: int) -> None:
    stored: dict[str, bytes] = {}
    figures: dict[str, dict[str, float]] = {}
    letters = []
    for begin in range(0, len(RECORDS), size):
        run = pipeline()
        assert run.restore(begin, stored) == []
        out = run.process(Records.of(PARTITION, RECORDS[begin : begin + size]))
        letters += out.dead_letters
        figures |= run.metrics()
        stored |= {name: state for name, state in run.dirty().items() if state is not None}
        assert run.dirty() == {}
    assert figures[""] == COUNTED
    assert sum(letter.events for letter in letters) == sum(COUNTED.values())
    assert [letter.events for letter in letters if letter.offset in (2, 5)] == [1_001, 3]


def test_a_broken_batch_counts_as_its_offsets() -> None:
    run = pipeline()
    run.process(Poison(PARTITION, 3, 10, 0, b"?", DecodeError("broken")))
    assert run.metrics() == {"": {"": 7}}
    assert run.metrics() == {}


@pytest.mark.parametrize("state", [b"", b"garbage"])
def test_damaged_counts_start_clean_and_nothing_else_does(state: bytes) -> None:
    run = pipeline()
    (lost,) = run.restore(5, {"refused|": state})
    assert "refused" in lost
    run.process(Records.of(PARTITION, [record(5, None, BAD)]))
    assert run.metrics() == {"": {"": 1}}
