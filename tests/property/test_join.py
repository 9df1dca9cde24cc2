"""The join against a plain reading of its rules, event by event: nothing lost, nothing twice, at any batch cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest

from tocsin.consumers.join import BLOCK, Join, Labels, Pairs, Predictions
from tocsin.consumers.pending import UNLABELLED
from tocsin.core.columns import Strings
from tocsin.core.errors import StateError
from tocsin.core.snapshot import pack, unpack

SECOND = 10**9
NAN = float("nan")


class Event(NamedTuple):
    """A prediction, or a label where `revision` is not None; `label` of a prediction came with it."""

    offset: int
    row: int
    id: str
    time: int
    environment: int = 0
    predicted: float = NAN
    label: float = NAN
    revision: int | None = None


class Oracle:
    """The rules in dicts, one event after another."""

    def __init__(
        self, max_pending: int, window_seconds: float, early_seconds: float, max_early: int
    ) -> None:
        self.max_pending, self.max_early = max_pending, max_early
        self.window, self.early = int(window_seconds * SECOND), int(early_seconds * SECOND)
        self.pending: dict[tuple[str, int], dict[str, Any]] = {}  # by id and environment
        self.waiting: dict[str, tuple[int, int, float] | None] = {}  # None: its prediction came
        self.counts: Counter[str] = Counter()
        self.pairs: list[tuple[Any, ...]] = []
        self.corrections: list[tuple[Any, ...]] = []
        self.places: Counter[int] = Counter()
        self.watermark = self.label_events = 0

    def take(self, event: Event) -> None:
        if event.revision is None:
            self.predict(event)
        else:
            self.label_events += 1
            self.counts["labels"] += 1
            reached = [key for key in self.of(event.id) if key in self.pending]
            for key in reached:
                self.label(event, key, event.revision, event.time, event.label)
            if not reached:
                self.wait(event)
            if self.label_events % BLOCK == 0:
                self.expire_waiting()

    def of(self, name: str) -> list[tuple[str, int]]:
        return [(name, environment) for environment in range(4)]

    def predict(self, event: Event) -> None:
        self.counts["predictions"] += 1
        key = event.id, event.environment
        is_new = key not in self.pending
        self.counts["predictions_repeated"] += not is_new
        if is_new:
            self.pending[key] = {
                "time": event.time, "environment": event.environment,
                "predicted": event.predicted, "best": None, "own": False, "place": -1,
                "segments": event.offset, "scores": scores(event),
            }  # fmt: skip
        self.watermark = max(self.watermark, event.time)
        if event.label == event.label:
            self.counts["labels"] += 1
            self.label(event, key, 0, event.time, event.label, own=True)
        if is_new and (early := self.waiting.get(event.id)) is not None:
            self.waiting[event.id] = None
            self.label(event, key, *early)
        if is_new:
            others = [self.pending[o] for o in self.of(event.id) if o != key and o in self.pending]
            known = [o["best"] for o in others if o["best"] is not None and not o["own"]]
            if known:
                self.label(event, key, *max(known, key=lambda best: best[:2]))
        if self.counts["predictions"] % BLOCK == 0:
            self.expire()
            self.expire_waiting()

    def wait(self, event: Event) -> None:
        self.counts["labels_early"] += 1
        new = (event.revision or 0, event.time, event.label)
        known = self.waiting.get(event.id)
        self.counts["labels_repeated"] += known is not None
        if known is None or new[:2] > known[:2]:
            self.waiting[event.id] = new

    def label(
        self, at: Event, key: tuple[str, int], revision: int, observed: int, label: float, *,
        own: bool = False,
    ) -> None:  # fmt: skip
        row = self.pending[key]
        lag = observed - row["time"]
        best = row["best"]
        if lag > self.window:
            self.counts["labels_late"] += 1
        elif best is None:
            self.counts["labels_joined"] += 1
            row["best"], row["place"] = (revision, observed, label), self.places[row["environment"]]
            row["own"] = own
            self.places[row["environment"]] += 1
            self.pairs.append(self.pair(at, row))
        else:
            is_greater, is_other = (revision, observed) > best[:2], label != best[2]
            before = self.pair(at, row)
            self.counts["labels_corrected" if is_greater and is_other else "labels_repeated"] += 1
            if is_greater:
                row["best"] = (revision, observed, label)
            if not is_other or is_greater:
                row["own"] = own and (is_other or row["own"])
            if is_greater and is_other:
                self.corrections.append((*before, label, lag))

    def pair(self, at: Event, row: dict[str, Any]) -> tuple[Any, ...]:
        _, observed, label = row["best"]
        return (
            row["place"], at.offset, at.row, row["environment"], row["predicted"], label, observed,
            observed - row["time"], row["segments"], row["scores"],
        )  # fmt: skip

    def expire(self) -> None:
        times = [row["time"] for row in self.pending.values()]
        young = (i for i, time in enumerate(times) if time + self.window >= self.watermark)
        for name in list(self.pending)[
            : max(len(times) - self.max_pending, next(young, len(times)))
        ]:
            self.counts["predictions_expired"] += self.pending.pop(name)["best"] is None

    def expire_waiting(self) -> None:
        while self.waiting:
            name, early = next(iter(self.waiting.items()))
            is_young = early is not None and early[1] + self.early >= self.watermark
            if is_young and len(self.waiting) <= self.max_early:
                break
            self.counts["labels_unmatched"] += self.waiting.pop(name) is not None


def events(rng: Random, count: int, ids: int) -> list[Event]:
    """Interleaved anyhow: repeated, early, late, corrected, out of order, and many never labelled."""
    found: list[Event] = []
    offset, row, now = 0, -1, 0.0
    share, own = rng.choice([0.2, 0.55, 0.9]), rng.choice([0.0, 0.3])
    kinds = rng.choice([[0], [1], [0, 0, 1], [0, 1, 3]])  # environments, which share ids
    for _ in range(count):
        now += rng.random() * 0.1
        row += 1
        if rng.random() < 0.6:
            offset, row = offset + rng.randint(1, 3), 0
        name = f"id{rng.randrange(ids)}"
        value = float(rng.randrange(3))
        if rng.random() < share:
            found.append(
                Event(
                    offset, row, name, int((now - rng.random() * 3) * SECOND), rng.choice(kinds),
                    rng.choice([0.0, 1.0, 2.0, NAN]), value if rng.random() < own else NAN,
                )
            )  # fmt: skip
        else:
            observed = int(now + rng.choice([-1, 1, 100]) * rng.random()) * SECOND  # often the same
            revision = rng.choice([0, 0, 0, 1, 2])
            found.append(Event(offset, row, name, observed, label=value, revision=revision))
    return found


def scores(event: Event) -> list[float]:
    return [event.offset / 8, NAN if event.row % 2 else 0.5]


def columns(part: Sequence[Event]) -> tuple[Predictions, Labels]:
    def of(name: str, rows: list[Event], dtype: str = "int64") -> np.ndarray:
        return np.array([getattr(row, name) for row in rows], dtype)

    made = [e for e in part if e.revision is None]
    truth = [e for e in part if e.revision is not None]
    predictions = Predictions(
        Strings.of(e.id for e in made), of("offset", made), of("row", made), of("time", made),
        of("environment", made, "uint8"), of("predicted", made, "float64"),
        of("label", made, "float64"), of("offset", made),
        np.array([scores(event) for event in made]).reshape(-1, 2), np.empty((len(made), 0), np.int64),
    )  # fmt: skip
    labels = Labels(
        Strings.of(e.id for e in truth), of("offset", truth), of("row", truth), of("time", truth),
        of("label", truth, "float64"), of("revision", truth),
    )  # fmt: skip
    return predictions, labels


class Run:
    """A join with what it gave, and a store that it can be restored from."""

    def __init__(self, **bounds: Any) -> None:
        self.bounds = bounds
        self.join = Join(**bounds)
        self.pairs: list[tuple[Any, ...]] = []
        self.corrections: list[tuple[Any, ...]] = []
        self.fresh = 0
        self.stored: dict[str, bytes] = {}

    def take(self, part: Sequence[Event]) -> None:
        pairs, corrections = self.join.update(*columns(part))
        self.fresh += int(self.join.fresh.sum())
        for pair in pairs:
            self.pairs += rows(pair)
        for correction in corrections:
            self.corrections += [
                (*r, correction.label, correction.lag) for r in rows(correction.pair)
            ]

    def store(self) -> bytes:
        for name, state in self.join.table.dirty().items():
            if state is None:
                self.stored.pop(name, None)
            else:
                self.stored[name] = state
        return self.join.volatile()

    def restart(self) -> None:
        volatile = self.store()
        self.join = Join(**self.bounds)
        self.join.restore(volatile, self.stored)

    def result(self) -> str:
        counts = {
            name: getattr(self.join.counts, name) for name in type(self.join.counts).__slots__
        }
        order = sorted(self.corrections, key=repr)
        return repr((self.pairs, order, counts, table(self.join)))


def rows(pairs: Pairs) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.tolist() for column in pairs), strict=True)


def table(join: Join) -> dict[tuple[str | None, int], Any]:
    kept = join.table
    keys = zip(
        kept.ids(kept.first, kept.count).to_list(), kept["environment"].tolist(), strict=True
    )
    return {key: (int(kept["time"][i]), float(kept["label"][i])) for i, key in enumerate(keys)}


def expected(log: Sequence[Event], **bounds: Any) -> str:
    oracle = Oracle(**bounds)
    for event in log:
        oracle.take(event)
    counts = {name: oracle.counts[name] for name in type(Join().counts).__slots__}
    kept = {
        n: (r["time"], NAN if r["best"] is None else r["best"][2])
        for n, r in oracle.pending.items()
    }
    return repr((oracle.pairs, sorted(oracle.corrections, key=repr), counts, kept))


def case(seed: int) -> tuple[Random, list[Event], dict[str, Any]]:
    rng = Random(seed)
    count = rng.choice([50, 800, 4000])
    log = events(rng, count, rng.choice([30, count, 20 * count]))
    bounds = {
        "max_pending": rng.choice([100, 1500, 10_000]), "window_seconds": rng.choice([50.0, 5000.0]),
        "early_seconds": rng.choice([5.0, 300.0]), "max_early": rng.choice([5, 300]),
    }  # fmt: skip
    return rng, log, bounds


@pytest.mark.parametrize("seed", range(24))
def test_every_cut_and_every_restart_gives_what_the_rules_give(seed: int) -> None:
    rng, log, bounds = case(seed)
    wanted = expected(log, **bounds)
    for cuts, restarts in ((0, 0.0), (len(log) - 1, 0.0), (7, 0.5), (30, 1.0), (200, 0.2)):
        at = sorted(rng.sample(range(1, len(log)), min(cuts, len(log) - 1)))
        run = Run(**bounds)
        for begin, end in zip([0, *at], [*at, len(log)], strict=True):
            run.take(log[begin:end])
            if rng.random() < restarts:
                run.restart()
            elif rng.random() < 0.3:
                run.store()
        assert run.result() == wanted, (cuts, restarts)
        counts = run.join.counts
        assert run.fresh == counts.predictions - counts.predictions_repeated


@pytest.mark.parametrize("first", ["production labelled before", "in one block"])
def test_a_third_environment_takes_a_label_that_came_with_the_second_ones_prediction(
    first: str,
) -> None:
    """Which had the same label from the first one, observed earlier."""
    bounds = {"max_pending": 50, "window_seconds": 50.0, "early_seconds": 50.0, "max_early": 5}
    log = [
        Event(0, 0, "a", 1 * SECOND, 0, 0.0),
        Event(1, 0, "a", 2 * SECOND, label=1.0, revision=0),
        Event(2, 0, "a", 5 * SECOND, 1, 0.0, label=1.0),
        Event(3, 0, "a", 6 * SECOND, 3, 0.0),
    ]
    run = Run(**bounds)
    begin = 2 if first == "production labelled before" else 0
    run.take(log[:begin])
    run.take(log[begin:])
    assert run.result() == expected(log, **bounds)


@pytest.mark.parametrize("labels", [BLOCK - 1, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("predictions", [BLOCK - 1, BLOCK])
def test_labels_in_front_of_all_their_predictions(labels: int, predictions: int) -> None:
    """Where a block of labels is full just before a block of predictions is."""
    bounds = {"max_pending": 50, "window_seconds": 50.0, "early_seconds": 50.0, "max_early": 5}
    early = [Event(i, 0, f"{i}", SECOND, label=1.0, revision=0) for i in range(labels)]
    late = [Event(labels + i, 0, f"{i}", SECOND) for i in range(predictions)]
    run = Run(**bounds)
    run.take(early + late)
    assert run.result() == expected(early + late, **bounds)


def test_the_cases_above_meet_everything_that_can_happen_to_an_event() -> None:
    met: Counter[str] = Counter()
    for seed in range(24):
        _, log, bounds = case(seed)
        oracle = Oracle(**bounds)
        for event in log:
            oracle.take(event)
        met += oracle.counts
    assert set(met) == set(type(Join().counts).__slots__)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_what_is_kept_is_bounded_whatever_comes(share: float) -> None:
    """Of labels without predictions, of predictions without labels, and of both that never meet."""
    rng = Random(0)
    run = Run(max_pending=500, window_seconds=1e6, early_seconds=1e6, max_early=200)
    for batch in range(60):
        part = [
            Event(batch * 700 + i, 0, f"{batch}-{i}", SECOND, label=1.0, revision=None)
            if rng.random() < share
            else Event(batch * 700 + i, 0, f"label-{batch}-{i}", SECOND, label=1.0, revision=0)
            for i in range(700)
        ]
        run.take(part)
        volatile = run.store()
        assert len(run.join.table) < 500 + BLOCK
        assert run.join._early.ids.live < 200 + BLOCK
        stored = len(volatile) + sum(map(len, run.stored.values()))
        assert stored < 200 * (500 + 200 + 2 * BLOCK)  # bytes of a row, and of a label that waits
    counts = run.join.counts
    assert counts.predictions == len(run.join.table) + counts.predictions_expired + joined_gone(run)
    assert counts.labels_early == counts.labels_unmatched + run.join._early.ids.live


def joined_gone(run: Run) -> int:
    kept = int((run.join.table["revision"] != UNLABELLED).sum())
    return run.join.counts.labels_joined - kept


def test_a_damaged_field_is_refused_before_anything_changes() -> None:
    _, log, _ = case(3)
    run = Run()
    run.take(log)
    volatile = run.store()
    other = Join()
    for name, state in run.stored.items():
        damaged = {**run.stored, name: state[:-1] + bytes([state[-1] ^ 1])}
        missing = {other: state for other, state in run.stored.items() if other != name}
        for fields in (damaged, missing):
            with pytest.raises(StateError):
                other.restore(volatile, fields)
            assert (len(other.table), other.counts) == (0, Join().counts)
    with pytest.raises(StateError):
        other.restore(volatile[:-1], run.stored)
    other.restore(volatile, {**run.stored, "rows:999": b"what an earlier life left behind"})
    assert repr(table(other)) == repr(table(run.join))


@pytest.mark.parametrize(
    ("column", "value"),
    [("environment", [0, 0, 0]), ("environment", [0, 1, 4]), ("environment", [0.0, 1.0, 2.0])],
    ids=["an id twice", "no such environment", "no codes"],
)
def test_pending_predictions_that_cannot_be_are_refused(column: str, value: list[float]) -> None:
    run = Run()
    run.take([Event(i, 0, "same", SECOND, environment=i) for i in range(3)])
    volatile = run.store()
    ((name, state),) = run.stored.items()
    meta, arrays = unpack("pending_rows", 3, state)
    dtype = np.uint8 if isinstance(value[0], int) else np.float64
    crafted = pack("pending_rows", 3, meta, arrays | {column: np.array(value, dtype)})
    with pytest.raises(StateError):
        Join().restore(volatile, {name: crafted})
    Join().restore(volatile, {name: state})


@pytest.mark.parametrize("environments", [[0], [2], [0, 1], [1, 0]])
def test_what_is_stored_is_what_was_before_environments_shared_ids(environments: list[int]) -> None:
    """Ids as they are, beside their environment: how they are looked up is not stored."""
    run = Run()
    run.take([Event(i, 0, f"id{i}", SECOND, environment=e) for i, e in enumerate(environments)])
    run.store()
    (state,) = run.stored.values()
    _, arrays = unpack("pending_rows", 3, state)
    assert arrays["id_text"].tobytes().decode() == "".join(f"id{i}" for i in range(len(environments)))  # fmt: skip
    assert set(arrays["environment"].tolist()) == set(environments)


def test_rows_of_several_environments_are_bounded_together() -> None:
    run = Run(max_pending=500, window_seconds=1e6, early_seconds=1e6, max_early=200)
    for batch in range(20):
        run.take(
            [
                Event(batch * 800 + i, 0, f"{batch}-{i // 4}", SECOND, environment=i % 4)
                for i in range(800)
            ]
        )
        assert len(run.join.table) < 500 + BLOCK
        run.store()
    assert run.join.counts.predictions_repeated == 0
    assert run.join.counts.predictions_expired == 16_000 - len(run.join.table)


@pytest.mark.parametrize("name", ["max_pending", "window_seconds", "early_seconds", "max_early"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_bound_of_nothing_is_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        Join(**{name: value})
