"""Where the state of partitions is kept, and the promise that every store makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..core.alert import Alert
from ..core.errors import FencedError
from .records import Partition
from .series import Fields


class Claim(NamedTuple):
    """A partition as it was found: the offset to go on from, None if nobody has begun; its fields."""

    offset: int | None
    fields: dict[str, bytes]


class Commit(NamedTuple):
    """What is written at once, or not at all.

    Parameters
    ----------
    owner
        The token of the claim that this follows.
    expected, offset
        The offset that the store must hold, None for none, and the one to put there.
    fields
        State, None for fields to delete.
    metrics
        Latest figures by model; by the empty one how many events were refused, by model.
    alerts
        New alerts, in order.
    series
        By model, rows of its series that changed, None for rows that are gone.
    """

    owner: str
    expected: int | None
    offset: int
    fields: Fields
    metrics: dict[str, dict[str, float]]
    alerts: Sequence[Alert]
    series: dict[str, Fields] = {}  # noqa: RUF012 - never changed


class Store(Protocol):
    """Keeps state, offsets and alerts.

    Guarantees of every store: a commit is written whole or not at all; it is refused when another
    owner has claimed the partition since, or when the stored offset is not the expected one; a commit
    that is sent again after its reply was lost is recognised and does nothing.
    """

    def claim(self, partition: Partition, owner: str) -> Claim:
        """Make `owner` the one who may commit, and return what is stored.

        Raises
        ------
        TransportError
            The store does not answer; ask again.
        """
        ...

    def commit(self, partition: Partition, commit: Commit) -> None:
        """Write.

        Raises
        ------
        FencedError
            Another owner claimed the partition, or the store was rolled back: claim again.
        TransportError
            The store does not answer; send the same commit again.
        """
        ...

    def written(self, partition: Partition, model: str) -> set[str]:
        """Return the names of the rows that a partition has in a model's series; its owner's alone to write.

        Raises
        ------
        TransportError
            The store does not answer; ask again.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class MemoryStore:
    """A store in memory: for tests, and for replays that nobody needs to survive."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        self.metrics: dict[str, dict[str, float]] = {}
        self.series: dict[str, dict[str, bytes]] = {}
        self._owners: dict[Partition, str] = {}
        self._offsets: dict[Partition, int] = {}
        self._fields: dict[Partition, dict[str, bytes]] = {}
        self._written: dict[tuple[Partition, str], dict[str, bytes]] = {}

    def claim(self, partition: Partition, owner: str) -> Claim:
        """Make `owner` the one who may commit, and return what is stored."""
        self._owners[partition] = owner
        fields = dict(self._fields.setdefault(partition, {}))
        return Claim(self._offsets.get(partition), fields)

    def commit(self, partition: Partition, commit: Commit) -> None:
        """Write, or raise FencedError."""
        if self._owners.get(partition) != commit.owner:
            raise FencedError(f"{partition} was claimed by another worker")
        if self._offsets.get(partition) != commit.expected:
            if self._offsets.get(partition) == commit.offset:
                return
            raise FencedError(f"{partition} is not at the expected offset {commit.expected}")
        _write(self._fields[partition], commit.fields)
        for model, rows in commit.series.items():
            _write(self.series.setdefault(model, {}), rows)
            of = self._written.setdefault((partition, model), {})
            _write(of, {name: row and b"" for name, row in rows.items()})
        self._offsets[partition] = commit.offset
        self.metrics.update(commit.metrics)
        self.alerts += commit.alerts

    def written(self, partition: Partition, model: str) -> set[str]:
        """Return the names of the rows that a partition has in a model's series."""
        return set(self._written.get((partition, model), ()))

    def close(self) -> None:
        """Nothing to let go of."""


def _write(fields: dict[str, bytes], changes: Fields) -> None:
    for name, state in changes.items():
        if state is None:
            fields.pop(name, None)
        else:
            fields[name] = state
