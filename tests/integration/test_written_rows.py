"""Rows that a partition has in the series of Redis, whoever else has written there."""

from __future__ import annotations

from tocsin.consumers.records import Partition
from tocsin.consumers.redis_store import RedisStore, connect
from tocsin.consumers.store import Commit
from tocsin.core.keys import Keys
from tocsin.embedded import EmbeddedRedis


def test_what_nobody_wrote_so_stops_no_worker(store: EmbeddedRedis) -> None:
    client, keys = connect(store.url), Keys("written")
    redis = RedisStore(client, keys)
    for number in (1, 11):
        partition = Partition("t", number)
        redis.claim(partition, "me")
        redis.commit(partition, Commit("me", None, 1, {}, {}, [], {"m": {f"of {number}": b"row"}}))
    client.hset(keys.series("m"), b"1|\xff", b"row")
    client.set(keys.series("other"), b"no hash")
    assert redis.written(Partition("t", 1), "m") == {"of 1", "\ufffd"}
    assert redis.written(Partition("t", 11), "m") == {"of 11"}
    assert redis.written(Partition("t", 1), "other") == set()
    redis.close()
