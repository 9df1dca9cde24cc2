"""Scalar streams from raw values to verdicts: which detector speaks for which stream, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, Literal

import msgspec
import numpy as np

from ..core.columns import Floats, Ints
from ..core.snapshot import pack, unpack
from ..core.verdict import Verdict
from .adwin import Adwin
from .base import Detector, Observations, all_usable, usable
from .budget import Budget
from .e_detector import EDetector
from .extra_detectors import ExtraDetectors
from .guard import Kind
from .guarded import GuardedEDetector, holds_value
from .latest_values import MISSING_FOLLOWED, LatestValues
from .natural_size import NaturalSize
from .page_hinkley import PageHinkley
from .reference import Reference

_PICTURED: Final = 300  # values that make a picture of what an ordered stream was
_FOR_MISSING: Final = 0.1  # of the budget; the others' delay grows by 0.1 nats


class StreamMonitor:
    """All that watches scalar streams: the guarded e-detector, the natural-size test, ADWIN and Page-Hinkley.

    The e-detector keeps the false-alarm budget on streams that are exchangeable or weakly dependent, the
    natural-size test watches those that are ordered in time. ADWIN and Page-Hinkley speak while a stream is new,
    and then join what others have claimed.

    Parameters
    ----------
    reference
        What streams looked like when they were new; shared with whoever stores it.
    budget
        The false-alarm budget.
    tolerance, rate_tolerance, policy, learning
        See `e_detector.EDetector`.
    season_seconds
        See `natural_size.NaturalSize`.
    only_budget
        Whether verdicts of ADWIN and Page-Hinkley are advisory once a stream's regime is known.
    adwin_delta
        ADWIN's significance of one check. River's default is 0.002; 1e-4 raised no false alarm in
        800,000 stationary values of eight laws and finds a shift of 0.5 sigma after 150 values
        instead of 120.
    ph_delta, ph_threshold
        Page-Hinkley's tolerated change and height, in reference sigmas.
    extra
        Further detectors by name, see `extra_detectors.ExtraDetectors`; of each stream of numbers they get the values as
        they are, once it has its reference. With `only_budget` their verdicts are always advisory.
    sparse
        Streams that most rows are not about: that they have no value there is nothing to watch. ADWIN and Page-Hinkley leave
        them to the e-detector.
    rising
        Streams of errors: see `e_detector.EDetector`.
    river
        Run River's own objects instead of the compiled ones: the same flags, ten to a hundred times
        slower.

    Notes
    -----
    Not usable values (missing, NaN, infinite, beyond 1e100) are counted and touch nothing else; of the first
    256 streams, whether a value is missing is a stream of its own, `missing:...`, from the first one on, or, where the
    reference knows from training how many were, from the first event on.
    After a detection ADWIN and Page-Hinkley start anew, as River's do, and so adapt to the new regime.
    """

    def __init__(
        self,
        reference: Reference | None = None,
        *,
        budget: Budget | None = None,
        tolerance: float = 0.1,
        rate_tolerance: float = 0.02,
        policy: Literal["adapt", "keep"] = "adapt",
        learning: frozenset[str] = frozenset(),
        season_seconds: float | Literal["auto"] = "auto",
        only_budget: bool = True,
        adwin_delta: float = 1e-4,
        ph_delta: float = 0.15,
        ph_threshold: float = 60.0,
        extra: Sequence[str] = (),
        sparse: frozenset[str] = frozenset(),
        rising: frozenset[str] = frozenset(["error"]),
        river: bool = False,
    ) -> None:
        self.reference = reference or Reference()
        self.guarded = GuardedEDetector(
            EDetector(
                budget or Budget(1e6),
                tolerance=tolerance,
                rate_tolerance=rate_tolerance,
                rising=rising,
                learning=learning,
                reference=self.reference,
                policy=policy,
                waits=True,
                reserved=_FOR_MISSING,
            )
        )
        self._natural: NaturalSize | None = None
        self._season_seconds: float | Literal["auto"] = season_seconds
        self._only_budget = only_budget
        self._page_hinkley: Detector = PageHinkley(
            delta=ph_delta, threshold=ph_threshold, alpha=1.0
        )
        self._adwin: Detector = Adwin(adwin_delta)
        if river:
            from .river_bank import river_detector

            self._page_hinkley = river_detector(
                "page_hinkley", delta=ph_delta, threshold=ph_threshold, alpha=1.0
            )
            self._adwin = river_detector("adwin", delta=adwin_delta)
        self._extra = ExtraDetectors(extra)
        self.changes = 0
        """Goes up whenever the state does; a store need not write it again in between."""
        self._sparse = sparse
        self._dense_of: tuple[str, ...] = ()
        self._dense_at = np.empty(0, np.int64)
        self._missing: dict[str, str] = {}  # stream to the stream of its missing values
        # Those that had missing values in training: having none is a change too.
        self._awaited = {name for name, share in self.reference.missing.items() if share > 0}
        self._without_budget = 0  # alarms of ADWIN and Page-Hinkley that were more than advice
        self._asked: tuple[tuple[str, ...], frozenset[str]] | None = None
        self._kept = self._categories = np.empty(0, np.int64)  # columns, of what was asked last
        self._kept_names: tuple[str, ...] = ()
        self._category_names: tuple[str, ...] = ()
        self._latest = LatestValues(self.reference)
        self._streams = self._latest.streams
        # Also of those that never come it is watched that they are missing.
        self._streams.numbers(tuple(sorted(self.reference.missing)))

    def update(self, batch: Observations) -> list[Verdict]:
        """Take the rows in; return what is claimed in their order."""
        if not len(batch) or not batch.names:
            return []
        self.changes += 1
        self._streams.numbers(batch.names)
        found: list[Verdict] = []
        is_clean = all_usable(batch.values, self._dense(batch.names))
        begin = 0
        while begin < len(batch):
            is_known = is_clean and not self._awaited
            end = len(batch) if is_known else self._follow_missing(batch, begin)
            part = batch if end - begin == len(batch) else batch.take(slice(begin, end))
            found += self._piece(part, is_clean=is_clean)
            begin = end
        return found

    def _dense(self, names: tuple[str, ...]) -> Ints:
        """Return the columns of streams that every row is about."""
        if names != self._dense_of:
            self._dense_of = names
            dense = [j for j, name in enumerate(names) if name not in self._sparse]
            self._dense_at = np.array(dense, np.int64)
        return self._dense_at

    def _piece(self, batch: Observations, *, is_clean: bool) -> list[Verdict]:
        """Take rows in within which no stream of missing values begins."""
        values = self.reference.learn(batch)
        counted = None if is_clean else holds_value(batch)
        guarded, guarded_values = self._with_missing(batch, values)
        found: list[Verdict] = []
        for span in self.guarded.spans(guarded, counted):
            for rows in self._epochs(span):
                if rows == slice(0, len(batch)):
                    found += self._span(batch, values, guarded, guarded_values, is_clean=is_clean)
                else:
                    found += self._span(
                        batch.take(rows), values[rows], guarded.take(rows), guarded_values[rows],
                        is_clean=is_clean,
                    )  # fmt: skip
        return found

    def _epochs(self, rows: slice) -> Iterator[slice]:
        """Yield the rows in parts after which a budget in days may become another one in events."""
        budget, begin = self.guarded.detector.budget, rows.start
        while begin < rows.stop:
            room = rows.stop - begin if budget.days is None else budget.room()
            end = min(rows.stop, begin + room)
            yield slice(begin, end)
            begin = end

    def _span(
        self, batch: Observations, values: Floats, guarded: Observations, guarded_values: Floats, *,
        is_clean: bool,
    ) -> list[Verdict]:  # fmt: skip
        """Take rows in within which no regime takes effect; the guarded ones hold whether values are missing too."""
        kinds = self.guarded.kinds()
        ordered = self._ordered(batch, kinds)
        if batch.categories or self._sparse:
            batch, values = self._without_categories(batch, values, is_clean=is_clean)
        advised = self._advised(batch, values, kinds) if batch.names else []
        new = [v for v in advised if not (v.advisory or v.subject in kinds)]
        found = advised + self._judged(guarded, guarded_values, ordered, new) + self._extra.failed()
        if not found:
            return found
        found.sort(
            key=lambda verdict: (verdict.offset, verdict.row, verdict.subject, verdict.detector)
        )
        return found

    def _without_categories(
        self, batch: Observations, values: Floats, *, is_clean: bool
    ) -> tuple[Observations, Floats]:
        """Count the values of categories; return what is left of the streams, without sparse ones."""
        asked = (batch.names, batch.categories)
        if asked != self._asked:
            self._asked = asked
            is_category = np.array([name in batch.categories for name in batch.names])
            is_sparse = np.array([name in self._sparse for name in batch.names])
            self._kept = np.flatnonzero(~is_category & ~is_sparse)
            self._categories = np.flatnonzero(is_category)
            self._kept_names, self._category_names = (
                tuple(batch.names[j] for j in columns.tolist())
                for columns in (self._kept, self._categories)
            )
        count = len(batch) if is_clean else usable(batch.values[:, self._categories]).sum(axis=0)
        self._latest.count(self._category_names, count, len(batch))
        left = np.take(batch.values, self._kept, axis=1)
        numbers_only = Observations(
            names=self._kept_names, values=left, offsets=batch.offsets, rows=batch.rows,
            times=batch.times,
        )  # fmt: skip
        is_same = values is batch.values
        return numbers_only, left if is_same else np.take(values, self._kept, axis=1)

    def _judged(
        self, batch: Observations, values: Floats, ordered: list[Verdict], new: list[Verdict]
    ) -> list[Verdict]:
        """Run the e-detector; return its claims and those about ordered streams, which it has pictures of.

        Its references of streams that have changed while they were `new` begin there anew, so that it does not claim
        the same change once more when it begins to bet.
        """
        detector, begin = self.guarded.detector, 0
        found = [verdict for verdict in ordered if verdict.phase != "opened"]
        stops = [verdict for verdict in ordered if verdict.phase == "opened"] + new
        stops.sort(key=lambda verdict: (verdict.offset, verdict.row, verdict.subject))
        for verdict in stops:
            place = (batch.offsets == verdict.offset) & (batch.rows == verdict.row)
            end = int(place.argmax()) + 1
            found += detector.judge(batch.take(slice(begin, end)), values[begin:end])
            begin = end
            if verdict.detector == "natural_size":
                found.append(self._pictured(verdict))
            else:
                detector.begin_anew(verdict.subject)
        if begin:
            batch, values = batch.take(slice(begin, len(batch))), values[begin:]
        return found + detector.judge(batch, values)

    def _with_missing(self, batch: Observations, values: Floats) -> tuple[Observations, Floats]:
        """Return the streams, and beside them those of their missing values."""
        if not self._missing:
            return batch, values
        numbers = self._streams.numbers(batch.names)
        followed = [j for j in np.argsort(numbers).tolist() if batch.names[j] in self._missing]
        if not followed:
            return batch, values
        bits = (~usable(batch.values[:, followed])).astype(np.float64)
        names = (*batch.names, *(self._missing[batch.names[j]] for j in followed))
        more = replace(batch, names=names, values=np.column_stack([batch.values, bits]))
        return more, np.column_stack([values, bits])

    def _ordered(self, batch: Observations, kinds: dict[str, Kind]) -> list[Verdict]:
        """Run the natural-size test over the streams that are ordered in time."""
        if batch.times is None or "ordered" not in kinds.values():
            return []
        ordered = [j for j, n in enumerate(batch.names) if kinds.get(n) == "ordered"]
        if not ordered:
            return []
        # Of all streams: which of them a batch brings depends on how rows are cut.
        of_all = sum(
            kind == "ordered" and not name.startswith("missing:") for name, kind in kinds.items()
        )
        share = (1 - _FOR_MISSING) * of_all / len(self._streams)
        events = self.guarded.detector.budget.events / share
        if self._natural is None:
            self._natural = NaturalSize(events, season_seconds=self._season_seconds)
        self._natural.budget_events = events
        names = tuple(batch.names[j] for j in ordered)
        values = np.ascontiguousarray(batch.values[:, ordered])
        found = self._natural.update(replace(batch, names=names, values=values))
        self.guarded.detector.budget.alarms += sum(v.phase == "opened" for v in found)
        return found

    def _pictured(self, verdict: Verdict) -> Verdict:
        """Return a claim of the natural-size test with the stream before and since, of which it knows means of weeks."""
        if not verdict.delay_events or verdict.subject not in self.guarded.detector.streams():
            return verdict
        before, after = self.guarded.detector.pictures(verdict.subject, verdict.delay_events)
        if before.count < _PICTURED:  # it has begun anew not long ago
            return verdict
        size, old, new = verdict.size, before.mean, after.mean
        if verdict.change.startswith("location") and old is not None and new is not None:
            size = new - old
        return msgspec.structs.replace(verdict, reference=before, current=after, size=size)

    def _advised(
        self, batch: Observations, values: Floats, kinds: dict[str, Kind]
    ) -> list[Verdict]:
        """Run ADWIN and Page-Hinkley, advisory where a stream's regime is known, and what there is besides."""
        scaled = self.reference.scale(batch.names, values)
        found = self._page_hinkley.update(_with(batch, scaled.deviation))
        found += self._adwin.update(_with(batch, scaled.bounded))
        if len(self._extra):
            extra = self._extra.update(_with(batch, values))
            found += [msgspec.structs.replace(v, advisory=self._only_budget) for v in extra]
        if not found:
            self._latest.add(batch.values, scaled.deviation, batch.names)
            return []
        found.sort(key=lambda verdict: (verdict.offset, verdict.row, verdict.subject))
        done = self._latest.completed(batch, scaled.deviation, found)
        if self._only_budget:
            done = [
                msgspec.structs.replace(v, advisory=v.advisory or v.subject in kinds) for v in done
            ]
        self._without_budget += sum(not v.advisory for v in done)
        return done

    def _follow_missing(self, batch: Observations, begin: int) -> int:
        """Begin the streams of missing values at row `begin`; return the row at which the next one begins."""
        end = len(batch)
        missing = ~usable(batch.values[begin:])
        awaited = np.array([name in self._awaited for name in batch.names])
        if self._sparse:
            missing[:, [name in self._sparse for name in batch.names]] = False
        columns = np.flatnonzero(missing.any(axis=0) | awaited)
        if not len(columns):
            return end
        numbers = self._streams.numbers(batch.names)[columns]
        # By number, not by column: the order of columns is the batch's.
        for at in np.argsort(numbers).tolist():
            name, number = batch.names[columns[at]], int(numbers[at])
            self._awaited.discard(name)
            if name in self._missing or number >= MISSING_FOLLOWED:
                continue
            first = 0 if awaited[columns[at]] else int(missing[:, columns[at]].argmax())
            if first:
                end = min(end, begin + first)
                continue
            self._missing[name] = f"missing:{name}"
            self._begin_missing(name, int(self._streams["seen"][number]))
        return end

    def _begin_missing(self, name: str, seen: int) -> None:
        """Begin the stream of whether a stream's values are missing: none of those seen was, or as in training."""
        share, of = self.reference.missing.get(name), self.reference.population
        if share is None or of is None:
            self.guarded.detector.begin_bits(self._missing[name], seen)
        else:
            ones = round(share * of)
            self.guarded.detector.begin_bits(self._missing[name], of - ones, ones, fixed=True)

    def figures(self) -> dict[str, float]:
        """Return what is published: the budget, and how many streams are in which regime."""
        kinds = list(self.guarded.kinds().values())
        found = self.guarded.detector.figures()
        found["detectors_set_aside"] = float(self._extra.set_aside)
        found["drift_alarms_without_budget"] = float(self._without_budget)
        for kind in ("exchangeable", "autocorrelated", "ordered"):
            found[f"streams_{kind}"] = float(kinds.count(kind))
        found["streams_unknown"] = float(len(self.guarded.detector.streams()) - len(kinds))
        return found

    def miss(self, names: Sequence[str], rows: int) -> None:
        """Count streams as missing in rows that have no column for them."""
        if len(names):
            self.changes += 1
            self._latest.count(tuple(names), 0, rows)

    def unusable(self) -> dict[str, int]:
        """Return how many values of each stream could not be used, missing ones included."""
        return self._latest.unusable()

    def volatile(self) -> bytes:
        """Return the state without the reference, which changes rarely and is stored by itself."""
        names, arrays = self._streams.state()
        meta = {
            "names": names,
            "missing": list(self._missing),
            "without_budget": self._without_budget,
            "page_hinkley": self._page_hinkley.snapshot(),
            "adwin": self._adwin.snapshot(),
            "extra": self._extra.state(),
            "e_detector": self.guarded.detector.volatile(),
            "guard": self.guarded.guard_state(),
            "natural_size": self._natural
            and (self._natural.budget_events, self._natural.snapshot()),
        }
        return pack("stream_monitor", 3, meta, arrays)

    def restore_volatile(self, state: bytes) -> None:
        """Go on from `volatile`; the reference is restored beside it."""
        meta, arrays = unpack("stream_monitor", 3, state)
        natural = meta["natural_size"]
        extra = msgspec.convert(meta.get("extra", {}), dict[str, bytes])
        members: list[tuple[Detector, bytes]] = [
            (self._page_hinkley, meta["page_hinkley"]),
            (self._adwin, meta["adwin"]),
        ]
        for member, part in members:
            member.restore(part)
        self.guarded.detector.restore_volatile(meta["e_detector"])
        self.guarded.restore_guard(meta["guard"])
        self._natural = None
        if natural:
            self._natural = NaturalSize(natural[0], season_seconds=self._season_seconds)
            self._natural.restore(natural[1])
        self._missing = {name: f"missing:{name}" for name in meta["missing"]}
        self._awaited -= self._missing.keys()
        self._without_budget = int(meta["without_budget"])
        self._extra.restore(extra)
        self._streams.load(meta["names"], arrays)

    def snapshot(self) -> bytes:
        """Return the whole state."""
        parts = {"reference": self.reference.snapshot(), "volatile": self.volatile()}
        return pack("stream_monitor_whole", 1, parts, {})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot."""
        parts, _ = unpack("stream_monitor_whole", 1, state)
        # First the part that another engine's snapshot fails at, so that nothing is changed then.
        self.restore_volatile(parts["volatile"])
        self.reference.restore(parts["reference"])


def _with(batch: Observations, values: Floats) -> Observations:
    return Observations(
        names=batch.names, values=values, offsets=batch.offsets, rows=batch.rows, times=batch.times
    )
