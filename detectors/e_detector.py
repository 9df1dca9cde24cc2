"""The e-detector: changes of any stream, with a bound on false alarms over all streams together."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from ..core.columns import Floats, Ints
from ..core.snapshot import pack, unpack
from ..core.verdict import Summary, Verdict
from . import bets
from . import e_detector_kernel as kernel
from .base import Observations, first_known
from .budget import Budget, shares
from .categories import known_categories
from .e_detector_kernel import BITS, CATEGORIES, NUMBERS, Streams
from .e_detector_start import (
    LEARNT,
    NEW,
    begin,
    edges,
    packed,
    rules,
    unpacked,
)
from .e_detector_verdicts import Change, Outcome, at_rest, changed
from .lanes import Lanes
from .reference import Reference
from .stream_history import StreamHistory
from .streams import StreamTable
from .tie_break import key

_BIT_STAKE: Final = 0.85
"""Of a number's stake, that a bit makes: its bound is a measured one, which this keeps at a distance."""
_PAUSE: Final = 0.3  # windows after a change; what begins within them is more of it (chosen)
_FALLING: Final = 0.05  # of the stakes of a stream of which a rise matters most
_MEMORY: Final = 5000.0
"""Values to which the reference of a model that learns is cut after each epoch (chosen on `bench kdd --seeds 1`)."""
_RELEARNS: Final = 20_000
"""Values after any change within which fewer errors are what such a model has learnt (chosen as above)."""
_GONE: Final = 16  # epochs without a value after which an open stream is no longer waited for
_OTHERS: Final = (
    0.1  # of a regime's categories that are none of the known ones, above which it has new ones
)
_FEWEST_CELLS: Final = 20.0  # effective cells of a regime below which its cells are made anew


class EDetector:
    """Conformal e-detector: bets on ranks, summed up as Shiryaev and Roberts do, over all streams.

    Each value's conformal p-value among the stream's earlier values is uniform and independent of the ones
    before as long as the stream is exchangeable, whatever its law. Bets on p-values (a shift, another
    scale, any other shape; for zeros and ones another rate; for categories other shares, unseen ones)
    multiply what was staked on them; evidence of 1 is an alarm.

    Parameters
    ----------
    budget
        The false-alarm budget, in events or as a `Budget`.
    tolerance
        Shift of numbers that is nobody's concern, in reference sigmas. An alarm then needs some evidence
        against all shifts up to this one as well.
    rate_tolerance
        The same for streams of zeros and ones, as a difference of rates.
    rising
        Streams of zeros and ones of which a rise matters most, such as `error`: 19 in 20 of their stakes
        are on it, of others a half.
    learning
        Streams of errors of a model that goes on learning: staked on as `rising` ones, and the reference is of the
        latest 5,000 values and up to an epoch more. A fall within 20,000 values of the stream's first one
        or of any stream's change is what the model has learnt: an advisory `moved`.
    reference
        What streams looked like when they were new; its first values set the cells.
    policy
        `adapt`: a stream that has settled at something else has a new reference. `keep`: it stays open
        until it returns, or has had no value in 65,536 events.
    fixed
        Whether references are never added to ("versus training"); that of a stream that `reference` was trained on never
        is. The bound is kept by smaller bets, which costs delay, most where first values are the reference, and the stream is
        open until it returns.
    window
        Values over which a stream must be at rest to have settled, an even number up to 1024.
    warm
        Values of a reference before the first bet.
    waits
        Whether bets on a stream wait for `bet_on`.
    reserved
        Share of the budget of the streams begun by `begin_bits`, in [0, 1).

    Raises
    ------
    ValueError
        A parameter is out of range.

    Notes
    -----
    Guarantees: over streams that are exchangeable, the expected number of verdicts `opened` in n events is
    at most n / A, whatever their laws, ties and mutual dependence (see `Budget`). For zeros and ones and for
    categories the cell of a p-value is looked up among the shares so far, which are not quite a function of the p-values
    before; there the bound is a measured one (benchmark `false-alarms`). A stream that depends on its own past voids the
    bound: see `guard`. So does a model that learns, whose errors change by themselves: on `learning` streams the bound is a
    measured one even where nothing is learnt (about half of the budget was spent, at rates of 0.01 to 0.5), and
    falls are kept out of the alarms instead. Ties are broken by a hash of (stream, offset, row), so a replay says the same.

    After `opened` the stream's reference starts anew and is absorbed (`moved`) as long as evidence goes on;
    it is `settled` when the halves of the latest window are alike. When the last open stream has settled,
    the others start anew too: what changed with them, but less, is no change to come. None of this can add
    false alarms: evidence is only ever dropped.

    References
    ----------
    Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world", section 2.2; Shin, Ramdas and
    Rinaldo 2023, "E-detectors: a nonparametric framework for sequential change detection" (arXiv 2203.03532).

    Examples
    --------
    >>> import numpy as np
    >>> from tocsin.detectors.base import Observations
    >>> from tocsin.detectors.e_detector import EDetector
    >>> rng = np.random.default_rng(0)
    >>> stream = np.concatenate([rng.normal(0, 1, 2000), rng.normal(1, 1, 2000)])
    >>> first = EDetector(1e6).update(Observations.of(stream))[0]
    >>> first.phase, first.change, 2000 <= first.offset < 2060
    ('opened', 'location up', True)
    """

    def __init__(
        self,
        budget: float | Budget = 1e6,
        *,
        tolerance: float = 0.0,
        rate_tolerance: float = 0.0,
        rising: frozenset[str] = frozenset(),
        learning: frozenset[str] = frozenset(),
        reference: Reference | None = None,
        policy: Literal["adapt", "keep"] = "adapt",
        fixed: bool = False,
        window: int = 1000,
        warm: int = 300,
        waits: bool = False,
        reserved: float = 0.0,
    ) -> None:
        if min(tolerance, rate_tolerance) < 0 or rate_tolerance >= 1:
            raise ValueError(
                "tolerance must be 0 or more and rate_tolerance in [0, 1), got "
                f"{tolerance} and {rate_tolerance}"
            )
        if not 20 <= window <= kernel.RING or window % 2:
            raise ValueError(f"window must be even and 20 to {kernel.RING}, got {window}")
        if policy not in ("adapt", "keep"):
            raise ValueError(f"policy must be adapt or keep, got {policy!r}")
        if fixed and learning:
            raise ValueError(
                f"{sorted(learning)} would need a reference that forgets, and a fixed one never changes: "
                "leave out fixed or learning"
            )
        self.budget = budget if isinstance(budget, Budget) else Budget(budget)
        self.reference = reference or Reference()
        self.policy = policy
        self.rising = rising
        self.learning = learning
        self._waits = waits
        self._reserved = reserved
        self.fixed = fixed
        self._rules = rules(tolerance, rate_tolerance, window, warm, self.reference, fixed=fixed)
        self._table = StreamTable(NEW)
        self._history = StreamHistory(self._table, self._rules)
        self._lanes = Lanes(self._table)
        self._begun: Ints | None = None  # streams that all have begun

    def update(self, batch: Observations) -> list[Verdict]:
        """Take the rows in; return what has opened, moved and settled, in the order of the rows."""
        return self.judge(batch, self.reference.learn(batch))

    def judge(self, batch: Observations, values: Floats) -> list[Verdict]:
        """Do the same with the (n, k) values that `Reference.learn` has left of the batch."""
        if not len(batch) or not batch.names:
            return []
        streams = self._table.numbers(batch.names)
        found: list[Verdict] = []
        begin = 0
        while begin < len(batch):
            end = min(len(batch), begin + self.budget.room())
            if streams is not self._begun:
                end = self._start(batch, values, streams, begin, end)
            found += self._run(batch, values, streams, begin, end)
            times = None if batch.times is None else batch.times[begin:end]
            if self.budget.take(end - begin, times):
                found += self._turn((int(batch.offsets[end - 1]), int(batch.rows[end - 1])))
            begin = end
        return found

    def _start(
        self, batch: Observations, values: Floats, streams: Ints, begin: int, end: int
    ) -> int:
        """Start the streams whose reference is ready at row `begin`; return the row at which the next is."""
        new = (self._table["kind"][streams] == 0).nonzero()[0].tolist()
        if not new:
            self._begun = streams
        started = False
        # By number, not by column: the order of columns is the batch's. Of a stream whose reference is not ready no value is left.
        for column in sorted(new, key=streams.__getitem__):
            first = first_known(values, column, begin)
            if first > begin:
                end = min(end, first)
                continue
            name = batch.names[column]
            self._begin(name, int(streams[column]), name in batch.categories)
            started = True
        if started:
            self._share()
        return end

    def _begin(self, name: str, k: int, is_category: bool) -> None:
        s = self._table.arrays
        s["key"][k] = key(name)
        self._lanes.add(k)
        s["bets"][k], s["since"][k] = not self._waits, self.budget.seen
        s["fixed"][k] = self.fixed or self.reference.is_trained(name)
        s["down"][k] = _FALLING if name in self.rising | self.learning else 0.5
        begin(s, k, self.reference, name, is_category=is_category)

    def _share(self) -> None:
        """Give each stream its share of the budget."""
        count = len(self._table)
        s = self._table.arrays
        v = shares(
            s["kind"][:count],
            s["bets"][:count],
            s["idle"][:count],
            s["apart"][:count],
            self._reserved,
        )
        part = np.where(s["kind"][:count] == BITS, _BIT_STAKE, 1.0)
        s["stake"][:count] = v * part / self.budget.events

    def _turn(self, place: tuple[int, int]) -> list[Verdict]:
        """Look at the end of an epoch which streams still come, and share anew; return what has gone while it moved."""
        count = len(self._table)
        s = self._table.arrays
        came = s["seen"][:count] > s["seen_before"][:count]
        s["idle"][:count] = np.where(came, 0, s["idle"][:count] + 1)
        s["seen_before"][:count] = s["seen"][:count]
        self._forget()
        self._share()
        gone = np.flatnonzero((s["phase"][:count] == 1) & (s["idle"][:count] >= _GONE)).tolist()
        rests = [self._rest(self._table.names[k], k, "gone", place) for k in gone]
        return [verdict for verdict in rests if verdict is not None]

    def _forget(self) -> None:
        """Cut the references of models that learn; the values in the ring count fully."""
        s = self._table.arrays
        for k in self._learning():
            if s["kind"][k] == BITS and s["size"][k] > _MEMORY:
                before, after = self._history.split(k, kernel.RING)
                s["counts"][k] = before * ((_MEMORY - after.sum()) / before.sum()) + after
                s["size"][k] = _MEMORY

    def _learning(self) -> list[int]:
        found = [self._table.number(name) for name in sorted(self.learning)]
        return [k for k in found if k is not None]

    def _run(
        self, batch: Observations, values: Floats, streams: Ints, begin: int, end: int
    ) -> list[Verdict]:
        """Run the kernel over rows `begin` to `end`, and do what its events ask for."""
        found: list[Verdict] = []
        arrays = self._table.as_tuple(Streams)
        event = np.zeros(3, np.int64)
        row, column = begin, 0
        part = values[:end]
        while True:
            what = kernel.run(
                part, streams, batch.offsets, batch.rows, row, column,
                arrays, self._rules, self._lanes.won, self._lanes.beyond, event,
            )  # fmt: skip
            if what == kernel.NOTHING:
                return found
            row, column = int(event[0]), int(event[1])
            k, place = int(streams[column]), (int(batch.offsets[row]), int(batch.rows[row]))
            if what == kernel.ALARM:
                events = self.budget.seen + row - begin + 1
                found.append(self._alarm(batch.names[column], k, int(event[2]), place, events))
            else:
                outcome: Outcome = "new regime" if what == kernel.SETTLED else "unsettled"
                verdict = self._rest(batch.names[column], k, outcome, place)
                if verdict is not None:
                    found.append(verdict)
            column += 1

    def _alarm(self, name: str, k: int, lane: int, place: tuple[int, int], events: int) -> Verdict:
        """Claim that a stream has changed, or still does, and begin its reference anew; `events` have come so far."""
        s = self._table.arrays
        is_new = bool(s["phase"][k] == 0)
        won = self._lanes.won[lane]
        best = int(won.argmax())
        bet = _BETS[int(s["kind"][k])][best]
        began = self._history.onset(k, best)
        # What began at the end of a change or soon after it is more of it, slow or with a pause.
        rested = s["rested"][k]
        goes_on = rested >= 0 and s["seen"][k] - began.alone - rested <= _PAUSE * self._rules.window
        is_learnt = is_new and self._is_learnt(name, k, bet)
        opens = is_new and not (goes_on or is_learnt)
        learning = self._learning()
        s["changed"][learning] = s["seen"][learning]
        before, after = self._history.split(k, began.delay)
        kind = self._history.change(k, bet, before, after)
        what = Change(
            name, place, kind, began,
            self._history.summary(k, before),
            self._history.summary(k, after, began.delay),
            float(s["sigma"][k]),
            self._history.newcomers(k, began.delay) if kind == "new category" else [],
        )  # fmt: skip
        stake, evidence = float(s["stake"][k]), float(won.sum())
        if opens:
            self.budget.alarms += 1
        if is_new and not is_learnt:
            s["phase"][k], s["opened"][k] = 1, s["seen"][k]
            s["before"][k] = before / max(before.sum(), 1.0)
            s["before_size"][k] = before.sum()
        self._restart(k)
        s["still"][k] = s["seen"][k] - (0 if is_new else began.delay)
        return changed(
            what,
            opens=opens,
            is_learnt=is_learnt,
            evidence=evidence,
            stake=stake,
            threshold=1 / stake if is_new else min(1 / stake, self._rules.inner),
            budget_events=self.budget.events,
            rarity=(events - s["since"][k]) / max(int(s["seen"][k]), 1),
        )

    def _is_learnt(self, name: str, k: int, bet: bets.Bet) -> bool:
        """Whether it is the model that a change is owed to: it makes fewer errors, and nothing is said of others."""
        s = self._table.arrays
        recently = s["seen"][k] - s["changed"][k] <= _RELEARNS
        return name in self.learning and bet.change == "rate down" and bool(recently)

    def _rest(self, name: str, k: int, outcome: Outcome, place: tuple[int, int]) -> Verdict | None:
        """Claim that a stream has come to rest; None while it must stay open."""
        s = self._table.arrays
        counts, before = s["counts"][k], s["before"][k]
        if outcome == "new regime" and self._history.has_returned(k):
            outcome = "returned"
        keeps = self.policy == "keep" or bool(s["fixed"][k])
        if keeps and outcome not in ("returned", "gone"):
            return None
        reference = self._history.summary(k, before * s["before_size"][k])
        current = self._history.summary(k, counts, int(s["seen"][k] - s["begin"][k]))
        rested = int(s["seen"][k] - s["still"][k])
        s["phase"][k], s["rested"][k] = 0, -1 if outcome == "gone" else s["seen"][k]
        self._drop(k)
        if keeps:
            self._restore_reference(k)
        elif self._is_told_badly(k):
            self._remake(k)
        count = len(self._table)
        alone = keeps or s["apart"][k] or outcome == "gone"
        if not (alone or ((s["phase"][:count] == 1) & ~s["apart"][:count]).any()):
            self._begin_others(k)
        return at_rest(name, place, rested, self._rules.window, outcome, reference, current)

    def _drop(self, k: int) -> None:
        """Drop what a stream's bets have won."""
        self._lanes.drop(k)
        self._table["learnt"][k] = LEARNT

    def _restart(self, k: int) -> None:
        """Begin a stream's reference anew, with its next value."""
        s = self._table.arrays
        self._drop(k)
        s["counts"][k], s["groups"][k], s["size"][k] = 0.0, 0.0, 0.0
        s["latest"][k] = 0
        s["begin"][k] = s["seen"][k]

    def _restore_reference(self, k: int) -> None:
        """Go back to the reference from before the change."""
        s = self._table.arrays
        s["counts"][k] = s["before"][k] * s["before_size"][k]
        s["groups"][k] = s["counts"][k].reshape(8, 8).sum(axis=1)
        s["size"][k] = s["before_size"][k]

    def _is_told_badly(self, k: int) -> bool:
        """Whether a stream's cells tell its new regime badly apart."""
        counts = self._table["counts"][k]
        if self._table["kind"][k] == CATEGORIES:
            return bool(counts[-1] > _OTHERS * counts.sum())
        is_number = self._table["kind"][k] == NUMBERS
        return bool(is_number and 0 < counts.sum() ** 2 < _FEWEST_CELLS * (counts**2).sum())

    def _remake(self, k: int) -> None:
        """Make a stream's cells from its latest values: the old ones tell them badly apart."""
        s = self._table.arrays
        latest = self._history.latest(k, kernel.RECENT)
        if s["kind"][k] == CATEGORIES:
            s["edges"][k] = known_categories(latest)
        else:
            s["edges"][k] = edges(latest)
            s["center"][k], s["sigma"][k] = latest.mean(), latest.std() or s["sigma"][k]
        s["blocks"][k], s["block"][k] = np.nan, np.nan
        s["moments"][k], s["moment"][k] = np.nan, np.nan
        s["ring"][k] = 0
        self._restart(k)

    def _begin_others(self, last: int) -> None:
        """Begin all streams anew but those that have settled since: the regime is a new one for all."""
        s, count = self._table.arrays, len(self._table)
        for k in range(count):
            is_other = k != last and s["bets"][k] and not (s["apart"][k] or s["fixed"][k])
            if is_other and s["opened"][k] < 0:
                self._restart(k)
                s["rested"][k] = s["seen"][k]
        s["opened"][:count][~s["apart"][:count]] = -1

    def streams(self) -> list[str]:
        """Return the streams that have their reference."""
        started = self._table["kind"][: len(self._table)] != 0
        return [
            name for name, is_started in zip(self._table.names, started, strict=True) if is_started
        ]

    def bet_on(self, name: str, lanes: int) -> None:
        """Bet on a stream in `lanes` interleaved copies, to which its values are dealt in turn; 0 for not at all.

        More than one is for values that depend on the last ones: where that has died down after `lanes` values,
        each copy sees nearly exchangeable ones, and the bound is a measured one. What was won is dropped.
        """
        k = self._table.number(name)
        s = self._table.arrays
        if k is None or not s["kind"][k] or s["lanes"][k] * s["bets"][k] == lanes:
            return
        s["bets"][k] = lanes > 0
        self._lanes.resize(k, max(lanes, 1))
        self._share()

    def begin_anew(self, name: str) -> None:
        """Begin a stream's reference with its next value, unless it is from training; what was won is dropped."""
        k = self._table.number(name)
        if k is not None and self._table["kind"][k] and not self._table["fixed"][k]:
            self._restart(k)

    def begin_bits(self, name: str, zeros: int, ones: int = 0, *, fixed: bool = False) -> None:
        """Begin a stream of which so many values are known: whether something is missing.

        Its changes are no reason to begin others anew, nor theirs to begin it. Where the reference is fixed, from
        training, bets wait for `bet_on`.
        """
        k = int(self._table.numbers((name,))[0])
        if self._table["kind"][k]:
            return
        s, count = self._table.arrays, zeros + ones
        s["key"][k], s["since"][k] = key(name), self.budget.seen
        self._lanes.add(k)
        s["kind"][k], s["bets"][k], s["down"][k], s["apart"][k] = BITS, not fixed, _FALLING, True
        s["counts"][k, :2], s["size"][k], s["fixed"][k] = (zeros, ones), count, fixed
        share = (ones + 2) / (count + 4)  # Agresti and Coull's, as in `reference`
        s["sigma"][k] = np.sqrt(share * (1 - share))
        self._share()

    def pictures(self, name: str, values: int) -> tuple[Summary, Summary]:
        """Return what a stream that has begun was like before its latest values, and in these, of 1,024 at most."""
        k = int(self._table.numbers((name,))[0])
        before, after = self._history.split(k, values)
        return self._history.summary(k, before), self._history.summary(k, after, values)

    def figures(self) -> dict[str, float]:
        """Return what is published of the budget."""
        return self.budget.figures(int((self._table["stake"][: len(self._table)] > 0).sum()))

    def snapshot(self) -> bytes:
        """Return the whole state."""
        parts = {"reference": self.reference.snapshot(), "volatile": self.volatile()}
        return pack("e_detector_whole", 1, parts, {})

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot."""
        parts, _ = unpack("e_detector_whole", 1, state)
        self.restore_volatile(parts["volatile"])
        self.reference.restore(parts["reference"])

    def volatile(self) -> bytes:
        """Return the state without the reference, which is stored by itself."""
        names, arrays = self._table.state()
        arrays = packed(arrays) | {"evidence": self._lanes.won, "beyond": self._lanes.beyond}
        return pack("e_detector", 6, {"names": names, "budget": self.budget.state()}, arrays)

    def restore_volatile(self, state: bytes) -> None:
        """Go on from `volatile`; the reference is restored beside it."""
        meta, arrays = unpack("e_detector", 6, state)
        won, beyond = arrays.pop("evidence"), arrays.pop("beyond")
        self._table.load(meta["names"], unpacked(arrays))
        self._lanes.load(won, beyond)
        self.budget.load(meta["budget"])
        self._share()


_BETS: Final = {NUMBERS: bets.BETS, BITS: bets.RATE_BETS, CATEGORIES: bets.CATEGORY_BETS}
