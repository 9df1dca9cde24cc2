"""Rows that a partition has in the series of Redis, whoever else has written there."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tocsin.consumers.records import Partition
from tocsin.consumers.redis_store import RedisStore, connect
from tocsin.consumers.series import Fields
from tocsin.consumers.store import Commit
from tocsin.core.keys import Keys
from tocsin.embedded import EmbeddedRedis


@pytest.fixture
def written(store: EmbeddedRedis) -> Iterator[tuple[RedisStore, Any, Keys]]:
    """A store in which partitions 1 and 11 have 3,000 rows each, its client and its keys."""
    client, keys = connect(store.url), Keys(uuid.uuid4().hex)
    found = RedisStore(client, keys)
    for number in (1, 11):
        partition = Partition("t", number)
        found.claim(partition, "x")
        found.commit(partition, Commit("x", None, 5, {}, {}, [], {"m": rows(number)}))
    yield found, client, keys
    found.close()


def rows(number: int) -> Fields:
    return {f"production|{k}|sex={number}": b"row" for k in range(3_000)}


def test_rows_of_a_series_are_told_by_the_partition_that_wrote_them(
    written: tuple[RedisStore, Any, Keys],
) -> None:
    found, client, keys = written
    for number in (1, 11):
        assert found.written(Partition("t", number), "m") == set(rows(number))
    one = Partition("t", 1)
    assert found.written(one, "n") == set()
    gone: Fields = dict.fromkeys(found.written(one, "m"))
    found.commit(one, Commit("x", 5, 5, {}, {}, [], {"m": gone}))
    assert found.written(one, "m") == set()
    assert client.hlen(keys.series("m")) == 3_000


def test_what_nobody_wrote_so_stops_no_worker(written: tuple[RedisStore, Any, Keys]) -> None:
    found, client, keys = written
    client.hset(keys.series("m"), b"1|\xff", b"row")
    client.set(keys.series("other"), b"no hash")
    assert found.written(Partition("t", 1), "m") == set(rows(1)) | {"\ufffd"}
    assert found.written(Partition("t", 11), "m") == set(rows(11))
    assert found.written(Partition("t", 1), "other") == set()
