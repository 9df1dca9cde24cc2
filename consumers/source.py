"""Where records come from: what the worker needs of a source, and one in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from .records import Partition, Poison, Records


class Changes(NamedTuple):
    """What a rebalance changed since the last look: partitions given and partitions taken away."""

    assigned: set[Partition]
    revoked: set[Partition]


class Bounds(NamedTuple):
    """The first offset that a partition still has, and the one after its last."""

    first: int
    end: int


class Source(Protocol):
    """Records of the partitions that this worker has.

    A partition yields nothing between its assignment and the first `seek` to it.
    """

    def poll(self, seconds: float) -> Iterator[Records | Poison]:
        """Wait for records and yield them; a partition's come in the order of the log.

        Raises
        ------
        TransportError
            The source is gone for good, or credentials are refused.
        """
        ...

    def changes(self) -> Changes:
        """Return what changed since the last call; none is told twice."""
        ...

    def bounds(self, partition: Partition, at: int | None) -> Bounds:
        """Return what a partition holds, for one who means to go on from offset `at`.

        Raises
        ------
        TransportError
            The source does not say; ask again.
        """
        ...

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on from `offset`, and let the partition yield."""
        ...

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Let partitions yield nothing until the next `seek`."""
        ...

    def mark(self, offsets: Mapping[Partition, int]) -> None:
        """Tell the source how far partitions are, for tools that show lag; may come to nothing."""
        ...

    def close(self, seconds: float) -> None:
        """Leave within `seconds`."""
        ...


class MemorySource:
    """A source in memory: for tests and replays.

    Parameters
    ----------
    logs
        Each partition's records, in order.
    """

    def __init__(self, logs: Mapping[Partition, Sequence[Records | Poison]]) -> None:
        self._logs = {partition: list(log) for partition, log in logs.items()}
        self._at: dict[Partition, int] = {}
        self._paused: set[Partition] = set()
        self._changes = Changes(set(self._logs), set())

    def poll(self, seconds: float) -> Iterator[Records | Poison]:
        """Yield the next records of each partition."""
        del seconds
        for partition, log in self._logs.items():
            if partition in self._paused or partition not in self._at:
                continue
            following = [r for r in log if r.next_offset > self._at[partition]]
            if following:
                self._at[partition] = following[0].next_offset
                yield following[0]

    @property
    def exhausted(self) -> bool:
        """Whether everything was yielded."""
        return all(
            not log or self._at.get(partition, 0) >= log[-1].next_offset
            for partition, log in self._logs.items()
        )

    def revoke(self, partitions: Iterable[Partition]) -> None:
        """Take partitions away, as a rebalance does, and give them back."""
        taken = set(partitions)
        for partition in taken:
            self._at.pop(partition, None)
        self._changes = Changes(self._changes.assigned | taken, self._changes.revoked | taken)

    def changes(self) -> Changes:
        """Return what changed since the last call."""
        found, self._changes = self._changes, Changes(set(), set())
        return found

    def bounds(self, partition: Partition, at: int | None) -> Bounds:
        """Return what a partition holds."""
        del at
        log = self._logs[partition]
        return Bounds(0, log[-1].next_offset if log else 0)

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on from `offset`, and let the partition yield."""
        self._at[partition] = offset
        self._paused.discard(partition)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Let partitions yield nothing."""
        self._paused |= set(partitions)

    def mark(self, offsets: Mapping[Partition, int]) -> None:
        """Nobody looks at lag here."""

    def close(self, seconds: float) -> None:
        """Nothing to leave."""
