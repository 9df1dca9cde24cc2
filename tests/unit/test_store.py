"""The promise of every store, kept by the one in memory: whole or not at all, by the owner, from where it stood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tocsin.consumers.records import Partition
from tocsin.consumers.series import Fields
from tocsin.consumers.store import Claim, Commit, MemoryStore
from tocsin.core.errors import FencedError
from tocsin.core.keys import Keys

ONE, TWO = Partition("t", 1), Partition("t", 2)


def commit(
    owner: str, expected: int | None, offset: int, fields: Fields | None = None,
    alerts: Sequence[Any] = (), **metrics: dict[str, float],
) -> Commit:  # fmt: skip
    return Commit(owner, expected, offset, fields or {}, metrics, alerts)


def content(store: MemoryStore) -> tuple[Any, ...]:
    parts = (store._offsets, store._fields, store.metrics, store.alerts)
    return tuple(repr(part) for part in parts)


def test_what_was_committed_is_what_the_next_owner_finds() -> None:
    store = MemoryStore()
    assert store.claim(ONE, "a") == Claim(None, {})
    store.commit(ONE, commit("a", None, 0))
    store.commit(ONE, commit("a", 0, 5, {"x": b"1", "y": b"2"}, ["first"], m={"accuracy": 0.5}))
    store.commit(ONE, commit("a", 5, 9, {"x": None, "z": b"3", "never": None}, ["second"]))
    assert store.claim(ONE, "b") == Claim(9, {"y": b"2", "z": b"3"})
    assert store.claim(TWO, "b") == Claim(None, {})
    assert store.alerts == ["first", "second"]
    assert store.metrics == {"m": {"accuracy": 0.5}}


def test_rows_of_a_series_are_those_of_the_partition_that_wrote_them() -> None:
    store = MemoryStore()
    for partition, rows in ((ONE, {"a": b"1", "b": b"2"}), (TWO, {"c": b"3"})):
        store.claim(partition, "x")
        store.commit(partition, Commit("x", None, 5, {}, {}, [], {"m": rows}))
    store.commit(ONE, Commit("x", 5, 6, {}, {}, [], {"m": {"a": None}}))
    assert store.written(ONE, "m") == {"b"}
    assert store.written(TWO, "m") == {"c"}
    assert store.written(ONE, "other") == set()


@pytest.mark.parametrize(
    "refused",
    [
        commit("a", 5, 9, {"x": b"new"}, ["new"], m={"accuracy": 0.1}),  # of who was before
        commit("nobody", 5, 9, {"x": b"new"}, ["new"]),
        commit("b", 4, 9, {"x": b"new"}, ["new"]),  # the store has gone on
        commit("b", 6, 9, {"x": None}, ["new"]),  # the store has gone back
        commit("b", None, 9, {"x": None}, ["new"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_commit_that_does_not_follow_is_refused_and_changes_nothing(refused: Commit) -> None:
    store = MemoryStore()
    store.claim(ONE, "a")
    store.commit(ONE, commit("a", None, 5, {"x": b"old"}, ["old"], m={"accuracy": 0.9}))
    store.claim(ONE, "b")
    before = content(store)
    with pytest.raises(FencedError):
        store.commit(ONE, refused)
    assert content(store) == before
    store.commit(ONE, commit("b", 5, 6))


def test_a_commit_sent_again_because_its_reply_was_lost_does_nothing() -> None:
    store = MemoryStore()
    store.claim(ONE, "a")
    first = commit("a", None, 5, {"x": b"1"}, ["alert"])
    store.commit(ONE, first)
    before = content(store)
    store.commit(ONE, first)
    assert content(store) == before
    store.claim(ONE, "b")
    with pytest.raises(FencedError):  # but not of an owner that is none any more
        store.commit(ONE, first)


def test_nobody_commits_without_a_claim() -> None:
    with pytest.raises(FencedError):
        MemoryStore().commit(ONE, commit("a", None, 1))


def test_partitions_do_not_touch_one_another() -> None:
    store = MemoryStore()
    for partition, owner in ((ONE, "a"), (TWO, "b")):
        store.claim(partition, owner)
        store.commit(partition, commit(owner, None, 7, {"x": owner.encode()}))
    with pytest.raises(FencedError):
        store.commit(TWO, commit("a", 7, 8))
    assert store.claim(ONE, "c").fields == {"x": b"a"}
    store.commit(TWO, commit("b", 7, 8))


def test_a_claim_is_a_copy() -> None:
    store = MemoryStore()
    store.claim(ONE, "a")
    store.commit(ONE, commit("a", None, 5, {"x": b"1"}))
    claim = store.claim(ONE, "a")
    claim.fields["x"] = b"changed"
    store.commit(ONE, commit("a", 5, 6, {"y": b"2"}))
    assert claim.fields == {"x": b"changed"}
    assert store.claim(ONE, "a").fields == {"x": b"1", "y": b"2"}


def test_all_keys_of_a_tenant_lie_in_one_slot_of_a_cluster_and_tenants_do_not_meet() -> None:
    """Redis hashes what stands in the first pair of braces; a script may touch one slot only."""
    found: set[str] = set()
    for tenant in ("default", "acme", "a-b.c_d"):
        keys = Keys(tenant)
        names = {
            keys.alerts, keys.tail, keys.metrics, keys.state("t", 0), keys.state("t", 1),
            keys.cursor("me"),
        }  # fmt: skip
        assert len(names) == 6
        assert {name[name.index("{") + 1 : name.index("}")] for name in names} == {tenant}
        names.add(keys.channel)
        assert not names & found
        found |= names
    assert Keys().channel == "tocsin:alerts"
    assert Keys("acme").channel == "tocsin:acme:alerts"
