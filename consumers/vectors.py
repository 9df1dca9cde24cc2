"""The embeddings or logits of one model as streams, each version's by themselves, and what watches those."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..core.batch import EventBatch
from ..core.columns import Floats, Ints, Strings
from ..core.errors import StateError
from ..core.snapshot import pack, reading, unpack
from ..core.verdict import Verdict
from ..detectors.base import Observations
from ..detectors.budget import Budget
from ..detectors.e_detector import EDetector
from ..detectors.embedding import EmbeddingStreams, check_learnt
from ..detectors.kernel_test import BLOCK
from ..detectors.logit_streams import LogitStreams
from ..detectors.reference import Reference
from ..detectors.stream_monitor import StreamMonitor
from ..detectors.vector_warm_up import WIDEST
from .incidents import Timeline
from .model_settings import DriftSettings
from .trained_vectors import TrainedVectors
from .versions import Versions, check_known, escaped, parts

_OF_BLOCKS: Final = 0.2
"""Of the share of embeddings, what is for `embedding:mmd`: chosen, three times what each of the other 11 has."""
_BLOCK_VALUES: Final = 30
"""Blocks that make a reference, the fewest that it takes, and as many again before the first bet."""
_BLOCK_WINDOW: Final = 40  # blocks at rest: 2,000 vectors, where other streams take 1,000 values
_NARROWEST: Final = {"embedding": 1, "logits": 2}
_PARTS: Final = ("", "_steady", "_reference")
"""Ends of fields' names: what changes with every row; what the map to streams is; what streams were when new."""
_SPENT: Final = (
    "false_alarms_allowed", "drift_alarms", "drift_alarms_without_budget", "false_alarm_budget_remaining",
    "unusable_vectors",
)  # fmt: skip
"""Figures that a version leaves behind when it makes room."""

Fields: TypeAlias = dict[str, bytes | None]
Transform: TypeAlias = EmbeddingStreams | LogitStreams


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Vectors:
    """Some vectors of one width, in the order of the log.

    Parameters
    ----------
    vectors
        (n, d) float64.
    versions
        (n,) versions of the model.
    classes
        (n,) numbers of the predicted classes, NaN where there is none; None for none at all.
    offsets, rows, times
        (n,) which event each is of, and when that was.
    numbers
        (n,) how many events of the series came before each.
    """

    vectors: Floats
    versions: Strings
    classes: Floats | None
    offsets: Ints
    rows: Ints
    times: Ints
    numbers: Ints

    def __len__(self) -> int:
        return len(self.offsets)

    @classmethod
    def of(cls, batch: EventBatch, vectors: Floats, classes: Floats | None, before: int) -> Vectors:
        """Take vectors of a batch, before which so many events of the series came."""
        return cls(
            vectors=vectors,
            versions=batch.version,
            classes=classes,
            offsets=batch.offsets,
            rows=batch.rows,
            times=batch.times,
            numbers=before + np.arange(len(batch)),
        )

    def take(self, rows: Ints | slice) -> Vectors:
        """Return the vectors of `rows` only."""
        return Vectors(
            vectors=self.vectors[rows],
            versions=self.versions.take(rows),
            classes=None if self.classes is None else self.classes[rows],
            offsets=self.offsets[rows],
            rows=self.rows[rows],
            times=self.times[rows],
            numbers=self.numbers[rows],
        )


class VectorMonitor:
    """Watches the embeddings, or the logits, of a model as streams: `embedding:pc1@VERSION`, without `@` where none is.

    Each version and width has a map of its own to streams, and what watches them; at most 8, see `Versions`.
    Streams are named by the version, so that incidents take two widths of one version for one.

    Parameters
    ----------
    name
        Which vectors: `embedding` or `logits`.
    settings
        How blocks of embeddings are watched.
    share
        Of the model's false-alarm budget, what is for these vectors.
    watch
        Makes what watches streams, for a share of the budget, and where there is one with a reference.
    trained
        What vectors of one version were like in training: those streams are compared with that for ever, but for blocks.
    of
        How many streams share the probability that what is said of one of them in training is wrong.

    Notes
    -----
    Each version has the whole share for its own rows. Rows of all versions together are at most the model's
    events, so what is staked on them keeps to the share of the budget for the model's events: see
    `detectors.budget.Budget`.

    A fifth of the share of embeddings is for `embedding:mmd`, which has a value once in a block of 50 vectors: a
    detector of its own begins with it after 60 blocks. Nothing looks whether blocks depend on earlier
    ones, so the bound on its false alarms holds for vectors that are exchangeable.

    Vectors that cannot be used are counted and touch nothing else. State depends on the rows in their order, not on
    how they were cut into batches.
    """

    def __init__(
        self,
        name: Literal["embedding", "logits"],
        settings: DriftSettings,
        share: float,
        watch: Callable[[float, Reference | None], StreamMonitor],
        trained: TrainedVectors | None = None,
        of: int = 0,
    ) -> None:
        self.name = name
        self._settings = settings
        self._share = share
        self._watch = watch
        self._trained = trained
        self._of = of
        self._versions: Versions[_Version] = Versions(self._make, self._forget)
        self._spent: dict[str, float] = dict.fromkeys(_SPENT, 0.0)
        self._stored: dict[str, int] = {}
        self._dropped: list[str] = []

    def update(self, batch: Vectors) -> list[Verdict]:
        """Take vectors in; return what is claimed about their streams."""
        width = batch.vectors.shape[1]
        if not _NARROWEST[self.name] <= width <= WIDEST:
            self._spent["unusable_vectors"] += len(batch)
            return []
        found: list[Verdict] = []
        for version, rows in self._versions.route(batch.versions, width):
            found += version.update(batch.take(rows))
        return found

    def _make(self, version: str, width: int) -> _Version:
        suffix = f"@{version}" if version else ""
        reference: Reference | None = None
        known = None if self._trained is None else self._trained.of(self.name, version, width)
        if known is not None:
            reference = Reference(self._settings.warmup_values)
            samples, categories = (
                {f"{name}{suffix}": values for name, values in of.items()}
                for of in (known.samples, known.categories)
            )
            reference.train(samples, known.population, None, categories, self._of)
        made: _Version
        if self.name == "logits":
            made = _Version(LogitStreams(), self._watch(self._share, reference), None, suffix)
        else:
            monitor = self._watch((1 - _OF_BLOCKS) * self._share, reference)
            blocks = _blocks(self._settings, monitor.guarded.detector.budget)
            made = _Version(EmbeddingStreams(block=BLOCK), monitor, blocks, suffix)
        if known is not None:
            made.transform.restore_steady(known.transform)
        return made

    def _forget(self, key: str, version: _Version) -> None:
        self._dropped.append(key)
        figures = version.figures()
        for name in _SPENT:
            self._spent[name] += figures[name]

    def figures(self) -> dict[str, float]:
        """Return sums over all versions: of the budget, of streams by regime, and `unusable_vectors`."""
        found = dict(self._spent)
        for version in self._versions.kept.values():
            for name, value in version.figures().items():
                found[name] = found.get(name, 0.0) + value
        return found

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes beside the fields: small, and changing with every batch."""
        return {"versions": self._versions.state(), "spent": self._spent}

    def dirty(self) -> Fields:
        """Return the fields that changed since the last call, None for those to delete."""
        fields: Fields = {}
        for key in self._dropped:
            for field in (self._field(part, key) for part in _PARTS):
                fields[field] = None
                self._stored.pop(field, None)
        self._dropped = []
        for key, version in self._versions.kept.items():
            for part, (changes, snapshot) in version.parts().items():
                field = self._field(part, key)
                if self._stored.get(field) != changes:
                    self._stored[field] = changes
                    fields[field] = snapshot()
        return fields

    def restore(
        self,
        state: dict[str, Any] | None,
        fields: dict[str, bytes],
        renewed: Container[str] = (),
    ) -> list[str]:
        """Go on from `state`, None if it is older than this monitor, and fields; `renewed` versions begin anew.

        Returns what could not be read and starts clean.
        """
        if state is None:
            return []

        def read(key: str) -> _Version:
            check_known(key, renewed)
            version = self._make(*parts(key))
            version.restore({part: fields[self._field(part, key)] for part in _PARTS})
            return version

        try:
            with reading("what versions spent"):
                self._spent = {name: float(state["spent"].get(name, 0)) for name in _SPENT}
                lost = self._versions.restore(state["versions"], read)
        except StateError as error:
            return [f"{self.name}: {error}"]
        for key, version in self._versions.kept.items():
            for part, (changes, _) in version.parts().items():
                self._stored[self._field(part, key)] = changes
        return [f"{self.name}/{problem}" for problem in lost]

    def _field(self, part: str, key: str) -> str:
        return f"{self.name}{part}/{escaped(key)}"


class _Version:
    """The vectors of one version and width: their map to streams, and what watches those."""

    def __init__(
        self, transform: Transform, monitor: StreamMonitor, blocks: EDetector | None, suffix: str
    ) -> None:
        self.transform = transform
        self.monitor = monitor
        self.blocks = blocks
        self._suffix = suffix
        self._names: tuple[str, ...] = ()
        self._categories: frozenset[str] = frozenset()
        self._of_blocks: int | None = None  # the column of `embedding:mmd`
        self._changes = 0
        # Of rows that became streams: their numbers among the series' events, and the first one's.
        self._own = Timeline()
        self._first = 0

    def update(self, batch: Vectors) -> list[Verdict]:
        self._changes += 1
        streams = self._streams(batch)
        # The first stream has a value in each row whose vector was mapped.
        mapped = np.flatnonzero(~np.isnan(streams.values[:, 0]))
        if not len(mapped):
            return []
        values = streams.values
        if len(mapped) < len(batch):
            batch, values = batch.take(mapped), values[mapped]
        found: list[Verdict] = []
        for rows, columns in _alike(values, self._of_blocks):
            found += self.monitor.update(self._part(batch, values, rows, columns))
        if self.blocks is not None and self._of_blocks is not None:
            ends = np.flatnonzero(~np.isnan(values[:, self._of_blocks]))
            if len(ends):
                part = self._part(batch, values, ends, np.array([self._of_blocks]))
                found += map(self._in_vectors, self.blocks.update(part))
        return self._counted(batch, found)

    def _streams(self, batch: Vectors) -> Observations:
        if isinstance(self.transform, EmbeddingStreams):
            found = self.transform.update(batch.vectors, batch.classes, batch.offsets, batch.rows)
        else:
            found = self.transform.update(batch.vectors, batch.offsets, batch.rows)
        if not self._names:
            self._names = tuple(f"{name}{self._suffix}" for name in found.names)
            self._categories = frozenset(f"{name}{self._suffix}" for name in found.categories)
            if self.blocks is not None:
                self._of_blocks = found.names.index("embedding:mmd")
        return found

    def _part(
        self, batch: Vectors, values: Floats, rows: Ints | slice, columns: Ints
    ) -> Observations:
        names = tuple(self._names[j] for j in columns.tolist())
        return Observations(
            names=names,
            values=np.ascontiguousarray(values[rows][:, columns]),
            offsets=batch.offsets[rows],
            rows=batch.rows[rows],
            times=batch.times[rows],
            categories=self._categories.intersection(names),
        )

    def _in_vectors(self, verdict: Verdict) -> Verdict:
        """Return what is claimed of blocks in numbers of vectors, as other streams count."""
        assert isinstance(self.transform, EmbeddingStreams)
        block = self.transform.block
        counts = ("delay_events", "delay_low", "delay_high", "chance_events")
        longer = {
            name: value * block for name in counts if (value := getattr(verdict, name)) is not None
        }
        if "chance_events" in longer:
            chance = longer["chance_events"]
            longer["evidence"] = f"would happen by chance once in {chance:.1g} events"
        return msgspec.structs.replace(verdict, **longer)

    def _counted(self, batch: Vectors, found: list[Verdict]) -> list[Verdict]:
        """Take mapped rows into the timeline; return verdicts whose delays count the series' events."""
        self._own.trim()
        before = self._own.count
        if not before:
            self._first = int(batch.numbers[0])
        self._own.add(batch.numbers, batch.offsets)
        counted: list[Verdict] = []
        for verdict in found:
            is_it = (batch.offsets == verdict.offset) & (batch.rows == verdict.row)
            row = int(is_it.argmax())
            counted.append(self._recounted(verdict, before + row + 1, int(batch.numbers[row]) + 1))
        return counted

    def _recounted(self, verdict: Verdict, own: int, event: int) -> Verdict:
        """Return a verdict with its delays, of rows of this version, as events of the series.

        It was decided by the version's row `own` and the series' event `event`, both counted from 1.
        """
        if event - own == self._first:  # no other event came in between
            return verdict
        delays = (verdict.delay_events, verdict.delay_low, verdict.delay_high)
        events, low, high = (self._events(delay, own, event) for delay in delays)
        return msgspec.structs.replace(verdict, delay_events=events, delay_low=low, delay_high=high)

    def _events(self, delay: int | None, own: int, event: int) -> int | None:
        """Return how many events of the series the last `delay` rows span; None if that is too long ago."""
        if delay is None:
            return None
        found = self._own.at(max(0, own - max(1, delay)), own, (event - 1, 0))
        return found and event - found[0]

    def figures(self) -> dict[str, float]:
        found = self.monitor.figures()
        if self.blocks is not None:
            for name, value in self.blocks.figures().items():
                found[name] += value
        del found["false_alarm_budget_events"]  # no sum: each part has its own
        warm_up = self.transform.warm_up
        found["unusable_vectors"] = float(warm_up.junk + warm_up.wrong_width)
        return found

    def parts(self) -> dict[str, tuple[int, Callable[[], bytes]]]:
        """Return how often each part of the state has changed, and what packs it."""
        references = self.monitor.reference.changes
        if self.blocks is not None:
            references += self.blocks.reference.changes
        counts = (self._changes, self.transform.warm_up.changes, references)
        packs = (self._volatile, self.transform.steady, self._references)
        return dict(zip(_PARTS, zip(counts, packs, strict=True), strict=True))

    def _volatile(self) -> bytes:
        meta = {
            "transform": self.transform.volatile(),
            "monitor": self.monitor.volatile(),
            "blocks": self.blocks and self.blocks.volatile(),
            "own": self._own.state(),
            "first": self._first,
        }
        return pack("vectors", 1, meta, {})

    def _references(self) -> bytes:
        meta = {
            "monitor": self.monitor.reference.snapshot(),
            "blocks": self.blocks and self.blocks.reference.snapshot(),
        }
        return pack("vectors_reference", 1, meta, {})

    def restore(self, fields: dict[str, bytes]) -> None:
        meta, _ = unpack("vectors", 1, fields[""])
        references, _ = unpack("vectors_reference", 1, fields["_reference"])
        self.transform.restore_steady(fields["_steady"])
        self.transform.restore_volatile(meta["transform"])
        check_learnt(self.transform.warm_up)
        self.monitor.reference.restore(references["monitor"])
        self.monitor.restore_volatile(meta["monitor"])
        if self.blocks is not None:
            self.blocks.reference.restore(references["blocks"])
            self.blocks.restore_volatile(meta["blocks"])
        self._own.load(meta["own"])
        self._first = int(meta["first"])
        warm_up = self.transform.warm_up
        if warm_up.reference is None and self._own.count > sum(map(len, warm_up.sample)):
            raise StateError(f"what was learnt from {self._own.count} vectors is gone")
        self.figures()  # no detector is set aside where these fail


def _blocks(settings: DriftSettings, beside: Budget) -> EDetector:
    """Return what watches the blocks of embeddings, with the budget beside which other streams have theirs."""
    rest = (1 - _OF_BLOCKS) / _OF_BLOCKS
    if beside.days is not None:
        budget = Budget(days=beside.days * rest)
    else:
        budget = Budget(beside.events * rest / BLOCK)  # its events are blocks
    return EDetector(
        budget,
        tolerance=settings.tolerance,
        reference=Reference(_BLOCK_VALUES),
        policy=settings.policy,
        window=_BLOCK_WINDOW,
        warm=_BLOCK_VALUES,
    )


def _alike(values: Floats, left_out: int | None) -> Iterator[tuple[slice, Ints]]:
    """Yield consecutive rows that have values of the same streams, and the columns of those.

    Streams begin once their map is learnt, and one along a direction without variance never does. One
    column may be left out.
    """
    present: NDArray[np.bool_] = ~np.isnan(values)
    if left_out is not None:
        present[:, left_out] = False
    changes = np.flatnonzero((present[1:] != present[:-1]).any(axis=1)) + 1
    for begin, end in pairwise([0, *changes.tolist(), len(values)]):
        yield slice(begin, end), np.flatnonzero(present[begin])
