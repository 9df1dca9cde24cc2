"""The e-detector: changes of any stream, with a bound on false alarms over all streams together."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np

from ..core.columns import Floats, Ints
from ..core.snapshot import pack, unpack
from ..core.verdict import Verdict
from . import bets
from . import e_detector_kernel as kernel
from .base import Observations
from .budget import Budget, shares
from .e_detector_kernel import BITS, CATEGORIES, NUMBERS, Rules, Streams
from .reference import Reference
from .stream_history import StreamHistory
from .streams import StreamTable
from .tie_break import key

_EDGES: Final = bets.CELLS - 1
_INNER: Final = (
    10  # windows between two false absorptions, so that one costs a tenth of the closings
)
_PATIENCE: Final = 10  # windows after which an open stream is closed as unsettled
_GATE: Final = (
    3  # windows: a change within the tolerance wins so much by chance once in so many values
)
_BIT_STAKE: Final = 0.85
"""Of a number's stake, that a bit makes: its bound is a measured one, which this keeps at a distance."""
_ERRORS: Final = 1.25  # standard errors by which the halves of a window at rest may differ (chosen)
_PAUSE: Final = (
    0.3  # windows after a change within which another one's beginning is the same one's (chosen)
)
_FALLING: Final = 0.05  # of the stakes of a stream of which a rise matters most
_ALIKE: Final = 0.1  # largest distance of two distribution functions that count as the same regime
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
    reference
        What streams looked like when they were new; its first values set the cells.
    policy
        `adapt`: a stream that has settled at something else has a new reference. `keep`: it stays open
        until it returns.
    fixed
        Whether the reference is never added to ("versus training"): the bound is kept by smaller bets,
        which costs delay.
    window
        Values over which a stream must be at rest to have settled, an even number up to 1024.
    warm
        Values of a reference before the first bet.
    waits
        Whether bets on a stream wait for `bet_on`.
    reserved
        Share of the budget of the streams begun by `begin_zeros`, in [0, 1).

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
    bound: see `guard`. Ties are broken by a hash of (stream, offset, row), so a replay says the same.

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
        if fixed and policy != "keep":
            raise ValueError("a fixed reference is never left: it needs policy='keep'")
        self.budget = budget if isinstance(budget, Budget) else Budget(budget)
        self.reference = reference or Reference()
        self.policy = policy
        self.rising = rising
        self._waits = waits
        self._reserved = reserved
        self.fixed = fixed
        self._rules = _rules(tolerance, rate_tolerance, fixed, window, warm, self.reference)
        self._table = StreamTable(_NEW)
        self._history = StreamHistory(self._table, self._rules)
        self._evidence = np.zeros((0, bets.MOST_BETS))
        self._beyond = np.zeros((0, bets.MOST_BETS))

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
            if (self._table["kind"][streams] == 0).any():
                end = self._start(batch, values, streams, begin, end)
            found += self._run(batch, values, streams, begin, end)
            times = None if batch.times is None else batch.times[begin:end]
            if self.budget.take(end - begin, times):
                self._turn()
            begin = end
        return found

    def _start(
        self, batch: Observations, values: Floats, streams: Ints, begin: int, end: int
    ) -> int:
        """Start the streams whose reference is ready at row `begin`; return the row at which the next is."""
        started = False
        # By number, not by column: the order of columns is the batch's.
        for column in np.argsort(streams).tolist():
            name = batch.names[column]
            if self._table["kind"][streams[column]] or not self.reference.is_ready(name):
                continue
            present = np.flatnonzero(~np.isnan(values[begin:end, column]))
            if not len(present):
                continue
            first = begin + int(present[0])
            if first > begin:
                end = min(end, first)
                continue
            self._begin(name, int(streams[column]), name in batch.categories)
            started = True
        if started:
            self._share()
        return end

    def _begin(self, name: str, k: int, is_category: bool) -> None:
        s, sample = self._table.arrays, self.reference.sample(name)
        self._add_lane(name, k)
        s["bets"][k] = not self._waits
        if is_category:
            s["kind"][k] = CATEGORIES
            s["edges"][k] = _known(sample)
            cells = _cells_of(sample, s["edges"][k])
            s["counts"][k] = np.bincount(cells, minlength=bets.CELLS)
            s["size"][k] = len(sample)
        elif self.reference.is_binary(name):
            s["kind"][k] = BITS
            s["down"][k] = _FALLING if name in self.rising else 0.5
            s["counts"][k, :2] = np.bincount(sample.astype(np.int64), minlength=2)
            s["size"][k] = len(sample)
            s["center"][k], s["sigma"][k] = self.reference.mean_and_deviation(name)
        else:
            s["kind"][k] = NUMBERS
            s["edges"][k] = edges(sample)
            s["center"][k], s["sigma"][k] = self.reference.mean_and_deviation(name)
            if self.fixed:
                self._count(k, np.searchsorted(s["edges"][k], sample))

    def _add_lane(self, name: str, k: int) -> None:
        s = self._table.arrays
        s["key"][k] = key(name)
        s["lane"][k] = len(self._evidence)
        self._evidence = np.vstack([self._evidence, np.zeros((1, bets.MOST_BETS))])
        self._beyond = np.vstack([self._beyond, np.zeros((1, bets.MOST_BETS))])

    def _count(self, k: int, cells: Ints) -> None:
        """Make the reference of a stream of numbers the (n,) cells."""
        s = self._table.arrays
        s["counts"][k] = np.bincount(cells, minlength=bets.CELLS)
        s["groups"][k] = s["counts"][k].reshape(8, 8).sum(axis=1)
        s["size"][k] = len(cells)

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

    def _turn(self) -> None:
        """Look at the end of an epoch which streams still come, and share anew."""
        count = len(self._table)
        s = self._table.arrays
        came = s["seen"][:count] > s["seen_before"][:count]
        s["idle"][:count] = np.where(came, 0, s["idle"][:count] + 1)
        s["seen_before"][:count] = s["seen"][:count]
        self._share()

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
                arrays, self._rules, self._evidence, self._beyond, event,
            )  # fmt: skip
            if what == kernel.NOTHING:
                return found
            row, column = int(event[0]), int(event[1])
            k, place = int(streams[column]), (int(batch.offsets[row]), int(batch.rows[row]))
            if what == kernel.ALARM:
                found.append(self._alarm(batch.names[column], k, int(event[2]), place))
            else:
                verdict = self._rest(batch.names[column], k, what == kernel.SETTLED, place)
                if verdict is not None:
                    found.append(verdict)
            column += 1

    def _alarm(self, name: str, k: int, lane: int, place: tuple[int, int]) -> Verdict:
        """Claim that a stream has changed, or still does, and begin its reference anew."""
        s = self._table.arrays
        is_new = s["phase"][k] == 0
        won = self._evidence[lane]
        best = int(won.argmax())
        bet = _BETS[int(s["kind"][k])][best]
        began = self._history.onset(k, best)
        # What began at the end of a change or soon after it is more of it, slow or with a pause.
        rested = s["rested"][k]
        opens = is_new and not (
            rested >= 0 and s["seen"][k] - began.alone - rested <= _PAUSE * self._rules.window
        )
        before, after = self._history.split(k, began.delay)
        reference, current = (
            self._history.summary(k, before),
            self._history.summary(k, after, self._history.latest(k, began.delay)),
        )
        size = None
        if current.mean is not None and reference.mean is not None:
            size = current.mean - reference.mean
        change = bet.change
        if s["kind"][k] == CATEGORIES:
            share, usual = after[-1] / max(after.sum(), 1.0), before[-1] / max(before.sum(), 1.0)
            change = "new category" if after[-1] > 1 and share > 5 * usual else "shares"
        sigma = float(s["sigma"][k])
        stake = float(s["stake"][k])
        strength = float(won.sum())
        chance = strength * self.budget.events
        if opens:
            self.budget.alarms += 1
        if is_new:
            s["phase"][k], s["opened"][k] = 1, s["seen"][k]
            s["before"][k] = before / max(before.sum(), 1.0)
            s["before_size"][k] = before.sum()
        self._restart(k)
        s["still"][k] = s["seen"][k] - (0 if is_new else began.delay)
        return Verdict(
            detector="e_detector",
            subject=name,
            offset=place[0],
            row=place[1],
            statistic=strength / stake,
            threshold=1 / stake if is_new else min(1 / stake, self._rules.inner),
            unit="Shiryaev-Roberts sum of bets",
            phase="opened" if opens else "moved",
            lasts=True,
            change=change,
            size=size,
            size_sigmas=None if size is None or not sigma > 0 else size / sigma,
            delay_events=began.delay,
            delay_low=began.low,
            delay_high=began.high,
            chance_events=chance if opens else None,
            evidence=f"would happen by chance once in {chance:.1g} events" if opens else "",
            reference=reference,
            current=current,
        )

    def _rest(self, name: str, k: int, settled: bool, place: tuple[int, int]) -> Verdict | None:
        """Claim that a stream has come to rest; None while it must stay open."""
        s = self._table.arrays
        counts, before = s["counts"][k], s["before"][k]
        after = counts / max(counts.sum(), 1.0)
        if s["kind"][k] == BITS:
            error = 2 * np.sqrt(max(after[1] * after[0], 1e-12) / max(counts.sum(), 1.0))
            returned = abs(after[1] - before[1]) <= max(self._rules.rate_tolerance, error)
        elif s["kind"][k] == CATEGORIES:
            returned = np.abs(after - before).sum() / 2 <= _ALIKE
        else:
            returned = np.abs(np.cumsum(after - before)).max() <= _ALIKE
        outcome: Literal["returned", "new regime", "unsettled"]
        outcome = "unsettled" if not settled else "returned" if returned else "new regime"
        if self.policy == "keep" and outcome != "returned":
            return None
        reference = self._history.summary(k, before * s["before_size"][k])
        current = self._history.summary(k, counts, self._history.latest(k, kernel.RECENT))
        rested = int(s["seen"][k] - s["still"][k])
        s["phase"][k], s["rested"][k] = 0, s["seen"][k]
        self._drop(k)
        if self.policy == "keep":
            self._restore_reference(k)
        elif s["kind"][k] == NUMBERS and 1 / (after**2).sum() < _FEWEST_CELLS and not self.fixed:
            self._remake(k)
        count = len(self._table)
        if not (s["apart"][k] or ((s["phase"][:count] == 1) & ~s["apart"][:count]).any()):
            self._begin_others(k)
        return Verdict(
            detector="e_detector",
            subject=name,
            offset=place[0],
            row=place[1],
            statistic=float(rested),
            threshold=float(self._rules.window),
            unit="values at rest",
            phase="settled",
            lasts=True,
            outcome=outcome,
            evidence=f"at rest for {rested} values" if settled else "restless",
            reference=reference,
            current=current,
        )

    def _drop(self, k: int) -> None:
        """Drop what a stream's bets have won."""
        first = int(self._table["lane"][k])
        lanes = slice(first, first + int(self._table["lanes"][k]))
        self._evidence[lanes] = 0.0
        self._beyond[lanes] = 0.0
        self._table["learnt"][k] = _LEARNT

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

    def _remake(self, k: int) -> None:
        """Make the cells of a stream of numbers from its latest values: the old ones tell them badly apart."""
        s = self._table.arrays
        latest = self._history.latest(k, kernel.RECENT)
        s["edges"][k] = edges(latest)
        s["center"][k], s["sigma"][k] = latest.mean(), latest.std() or s["sigma"][k]
        s["blocks"][k], s["block"][k] = np.nan, np.nan
        s["ring"][k] = 0
        self._restart(k)

    def _begin_others(self, last: int) -> None:
        """Begin all streams anew but those that have settled since: the regime is a new one for all."""
        s, count = self._table.arrays, len(self._table)
        for k in range(count):
            if k != last and s["kind"][k] and not s["apart"][k] and s["opened"][k] < 0:
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
        first, old, new = int(s["lane"][k]), int(s["lanes"][k]), max(lanes, 1)
        copies = np.zeros((new, bets.MOST_BETS))
        self._evidence = np.concatenate(
            [self._evidence[:first], copies, self._evidence[first + old :]]
        )
        self._beyond = np.concatenate([self._beyond[:first], copies, self._beyond[first + old :]])
        s["lane"][: len(self._table)] += (new - old) * (s["lane"][: len(self._table)] > first)
        s["lanes"][k] = new
        self._share()

    def begin_zeros(self, name: str, zeros: int) -> None:
        """Begin a stream of which `zeros` values are known to have been 0: whether something is missing.

        Its changes are no reason to begin others anew, nor theirs to begin it.
        """
        k = int(self._table.numbers((name,))[0])
        if self._table["kind"][k]:
            return
        s = self._table.arrays
        self._add_lane(name, k)
        s["kind"][k], s["bets"][k], s["down"][k], s["apart"][k] = BITS, 1, _FALLING, True
        s["counts"][k, 0] = s["size"][k] = zeros
        s["sigma"][k] = np.sqrt(2 * (zeros + 2)) / (
            zeros + 4
        )  # Agresti and Coull's, as in `reference`
        self._share()

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
        arrays |= {"evidence": self._evidence, "beyond": self._beyond}
        return pack("e_detector", 1, {"names": names, "budget": self.budget.state()}, arrays)

    def restore_volatile(self, state: bytes) -> None:
        """Go on from `volatile`; the reference is restored beside it."""
        meta, arrays = unpack("e_detector", 1, state)
        self._evidence, self._beyond = arrays.pop("evidence"), arrays.pop("beyond")
        self._table.load(meta["names"], arrays)
        self.budget.load(meta["budget"])
        self._share()


_LEARNT: Final = np.append(np.zeros(17), 1.0)  # nothing yet, and the weight of the next value
_NEW: Final[dict[str, Any]] = {
    "key": np.uint64(0), "kind": 0, "phase": 0, "edges": np.full(_EDGES, np.nan),
    "counts": np.zeros(bets.CELLS), "groups": np.zeros(bets.CELLS // 8), "size": 0.0,
    "ring": np.zeros(kernel.RING, np.uint8), "recent": np.full(kernel.RECENT, np.nan), "seen": 0,
    "begin": 0, "opened": -1, "still": 0, "rested": -1, "blocks": np.full(64, np.nan), "block": 0.0, "learnt": _LEARNT,
    "stake": 0.0, "down": 0.5, "lanes": 1, "bets": 0, "apart": False, "lane": 0, "center": 0.0, "sigma": 0.0,
    "before": np.zeros(bets.CELLS), "before_size": 0.0, "seen_before": 0, "latest": np.zeros((len(bets.WINDOWS), bets.CELLS), np.int16), "idle": 0,
}  # fmt: skip
_BETS: Final = {NUMBERS: bets.BETS, BITS: bets.RATE_BETS, CATEGORIES: bets.CATEGORY_BETS}


def _rules(
    tolerance: float,
    rate_tolerance: float,
    fixed: bool,
    window: int,
    warm: int,
    reference: Reference,
) -> Rules:
    weights, table = bets.weights().copy(), bets.table()
    slack = 0.0
    if fixed:
        fair = bets.fixed_reference(reference.warmup_values)
        table, weights[-1] = table * fair[:-1], 0.0
        slack = bets.distance_bound(reference.warmup_values)
    return Rules(
        table=table,
        scores=bets.scores(),
        weights=weights,
        deflation=bets.deflation(tolerance),
        odds=bets.ODDS,
        odds_stakes=bets.ODDS_STAKES,
        windows=bets.WINDOWS,
        unseen=bets.UNSEEN_RATES,
        fixed=fixed,
        slack=slack,
        gate=float(_GATE * window) if tolerance or rate_tolerance else 0.0,
        tolerance=tolerance,
        rate_tolerance=rate_tolerance,
        warm=0.0 if fixed else float(warm),
        window=window,
        errors=_ERRORS,
        inner=float(_INNER * window),
        patience=_PATIENCE * window,
    )


def edges(sample: Floats) -> Floats:
    """Return (63,) upper edges of cells that hold about equal shares of (n,) values.

    A value that fills a cell by itself gets one: what is less than it and what is more fall beside it.
    """
    found = np.quantile(sample, np.arange(1, bets.CELLS) / bets.CELLS, method="lower")
    repeated = np.append(found[1:] == found[:-1], False)
    first = repeated & ~np.append(False, repeated[:-1])
    found[first] = np.nextafter(found[first], -np.inf)
    return np.asarray(found)


def _known(sample: Floats) -> Floats:
    """Return (63,) the most frequent categories, sorted, NaN behind them."""
    values, counts = np.unique(sample, return_counts=True)
    kept = np.sort(values[np.argsort(-counts, kind="stable")[:_EDGES]])
    return np.append(kept, np.full(_EDGES - len(kept), np.nan))


def _cells_of(values: Floats, known: Floats) -> Ints:
    place = np.searchsorted(known[np.isfinite(known)], values)
    return np.where(known[np.minimum(place, _EDGES - 1)] == values, place, _EDGES)
