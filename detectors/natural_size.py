"""The natural-size test: has a seasonal, dependent stream changed by more than it usually does by itself?"""

from __future__ import annotations

import math
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit

from ..core.columns import Floats, Ints
from ..core.errors import StateError
from ..core.snapshot import check, pack, unpack
from ..core.verdict import Verdict
from . import natural_kernel as kernel
from .base import Observations, usable
from .block_clock import BlockClock, BlockRows
from .episodes import Episodes, Key, Step
from .first_values import FirstValues, Notice, Sample, center_and_scale
from .label_surprise import LabelSurprise
from .natural_kernel import BITS, NUMBERS, SHARES, History
from .natural_verdicts import DAY_SECONDS, WEEK_SECONDS, Alarm, Watched, alarm, rest, varies
from .season import HOUR_SECONDS, SeasonFinder
from .streams import StreamTable

SURPRISE: Final = "label given features"
"""The stream of `label_surprise.LabelSurprise`."""
_FEATURE: Final = "feature:"
_PAUSE: Final = 7  # blocks that a pause lasts after which the next one opens at once
_REFERENCES: Final = np.array([120, 180])
"""L: blocks that the latest ones are compared with, by horizon (chosen on Elec2, seed 1)."""
_SHORTEST: Final = 7  # blocks of the shorter horizon, at least
_LONGEST_SEASON: Final = 60  # blocks
_QUIET_BLOCKS: Final = 20.0
"""However many rows a block has, the budget is taken for one false alarm in so many blocks at least."""
_GROUP: Final = 16  # blocks that are judged together; fewer than the finder of seasons takes
_MOST_CHANCE: Final = 1e30
_NOTHING: Final = np.zeros(0)


class _Hit(NamedTuple):
    """An alarm, and by which factor it is beyond its threshold."""

    alarm: Alarm
    clearness: float


class _Closed(NamedTuple):
    """Blocks that rows completed; b is one of them.

    Parameters
    ----------
    first
        Number of the first.
    rows
        (b,) the row after each, which completed it.
    sums
        Rows in the blocks of the ring and in these, summed up to the end of each, 0 first.
    rates
        (b,) rows per block, as known at its end.
    tests
        (b,) how many changes are looked at in each.
    alphas
        (b,) significance of one of them.
    claims
        (b, k, s, q, 5) see `natural_kernel`.
    """

    first: int
    rows: Ints
    sums: Floats
    rates: Floats
    tests: Floats
    alphas: Floats
    claims: Floats


class NaturalSize:
    """Compares the change of each stream with its own past changes, for streams that are never at rest.

    Of each block of event time, by default a day, a stream has the mean of its scaled values
    asinh((x - median) / (IQR / 1.35)), and the spread of the maxima of seven blocks, of which only a fall
    counts: something cuts off what is high. A stream of zeros and ones has its share of ones, and for the
    streams in `flips` how often one value differs from the one before. The label, where it is 0 or 1 and
    there are features, also has its distance from what the features say (`label_surprise`).

    A change D is the mean of the latest h blocks less that of the L blocks before, (h, L) = (7, 120) and
    (14, 180). Its natural size R is the root mean square of all changes that ended at least 60 blocks ago,
    30 or more of them. It is an alarm if |D / R| is beyond the two-sided quantile of Student's t, of as
    many degrees of freedom as there were changes that do not overlap, at the significance
    (rows per block) / (budget * statistics * horizons).

    Parameters
    ----------
    budget_events
        A: in n events, at most n / A blocks with a false alarm are expected, over all streams; see Notes.
        Never less than 20 blocks' rows.
    block_seconds
        Length of a block: the short season, at least.
    season_seconds
        The long season, 1 to 60 whole blocks: h is whole seasons, 7 blocks or more. A month and a year are
        2,629,800 and 31,557,600 s. `auto` begins with days and weeks, looks for cycles of an hour, a day
        and a week in the first three weeks, and goes over to blocks of an hour if it finds that of an hour
        only.
    flips
        Streams whose flips are watched, where they are zeros and ones.
    label
        The stream of labels; features are the streams named `feature:...`.
    first_values
        Usable values of a stream that set its scale.
    gap_blocks
        A change has settled after so many blocks without an alarm.
    longest_blocks
        A change that goes on for longer is given up as unsettled; a later alarm opens a new one.

    Raises
    ------
    ValueError
        A parameter is out of range, or observations have no times.

    Notes
    -----
    **What is guaranteed.** No theorem: the budget holds if changes are Gaussian and stationary, and is a
    measured rate beyond that. In 100 streams of 45,312 rows with half-hourly and weekly seasons and an
    autocorrelation of 0.9, alarm blocks stayed below the budget at A = 1e3, 1e4 and 1e5
    (`scripts/bench ordered`). Changes within what the stream does by itself are not seen.

    Everything is causal but the scale: a stream's first values are looked at again once it is known. The
    first alarm is possible some 130 blocks after a stream's first value. Events that come late, and some that are
    dated ahead, count into the open block, see `block_clock`. Streams of categories are not watched.

    A stream that was one and the same value 500 times or more and then varies is a verdict `schema`, and
    begins anew. Verdicts about one stream and one kind of change make one course: `opened` at the first alarm,
    `moved` at each later block with one, `settled` after `gap_blocks` without. A verdict stands at the
    first row of the next block, since then its block is complete. `size` is in the stream's own unit: the
    difference of two typical values for numbers, of two shares for zeros and ones.

    State is 5.5 kB a stream (7.4 kB with a season of 60 blocks), 8.7 kB until its scale is known, and 0.4 kB
    a feature for the model of the label.

    References
    ----------
    Moving means against those before are MOSUM's: Bauer and Hackl 1978, "The use of MOSUMS for quality
    control", Technometrics 20, 431-436. The thresholds are those of Student 1908, "The probable error of a
    mean", Biometrika 6, 1-25. That past changes take the place of a variance is ours.

    Examples
    --------
    >>> import numpy as np
    >>> from tocsin.detectors.base import Observations
    >>> from tocsin.detectors.natural_size import NaturalSize
    >>> rows = np.arange(24 * 400)
    >>> values = np.sin(rows * 2 * np.pi / 24) + np.random.default_rng(0).normal(size=len(rows))
    >>> values[24 * 300 :] += 2
    >>> stream = Observations(
    ...     names=("feature:load",), values=values[:, None], offsets=rows, rows=rows * 0,
    ...     times=rows * 3_600_000_000_000,
    ... )
    >>> first = NaturalSize().update(stream)[0]
    >>> first.offset // 24, first.change, first.evidence
    (302, 'location up', '+6.8 natural sizes over 7 days')
    """

    def __init__(
        self,
        budget_events: float = 1e5,
        *,
        block_seconds: float = DAY_SECONDS,
        season_seconds: float | Literal["auto"] = WEEK_SECONDS,
        flips: frozenset[str] = frozenset({"label", "prediction"}),
        label: str = "label",
        first_values: int = 2000,
        gap_blocks: int = 104,
        longest_blocks: int = 364,
    ) -> None:
        if not budget_events > 0:
            raise ValueError(f"budget_events must be positive, got {budget_events}")
        self.budget_events = budget_events
        self.flips = flips
        self.label = label
        self._first_values = first_values
        self._episode_blocks = (gap_blocks, longest_blocks)
        self._finder = SeasonFinder() if season_seconds == "auto" else None
        self._asked: list[Any] = [block_seconds, season_seconds, first_values]
        self._begin(block_seconds, WEEK_SECONDS if season_seconds == "auto" else season_seconds)

    def _begin(self, block_seconds: float, season_seconds: float) -> None:
        """Begin with nothing known."""
        self.block_seconds = block_seconds
        self._recent = horizons(block_seconds, season_seconds)
        self._ring = int((self._recent + _REFERENCES).max())
        self._clock = BlockClock(block_seconds, near=_PAUSE, fewest=kernel.FEWEST_ROWS)
        self._new = FirstValues(self._first_values)
        self._table = self._empty()
        self._surprise = LabelSurprise()
        self._episodes = Episodes(*self._episode_blocks)
        self._rows = BlockRows(self._ring)

    def _empty(self) -> StreamTable:
        shape = (2, len(self._recent))
        return StreamTable(
            {
                "kind": NUMBERS, "center": 0.0, "scale": 1.0, "at": 0,
                "filled": 0, "total": 0.0, "highest": -np.inf, "flips": 0, "latest": 0.0,
                "maxima": np.full(kernel.MAXIMA, np.nan), "rings": np.full((2, self._ring), np.nan),
                "past": np.full((*shape, kernel.PAST), np.nan), "squares": np.zeros(shape),
                "changes": np.zeros(shape, np.int64), "born": 0,
            }
        )  # fmt: skip

    def update(self, batch: Observations) -> list[Verdict]:
        """Take the rows in; return what the blocks that they complete tell, in the order of the rows."""
        if not len(batch) or not batch.names:
            return []
        if batch.times is None:
            raise ValueError(
                "NaturalSize needs the events' times, found none: give Observations(times=...), "
                "int64 nanoseconds since 1970"
            )
        counted = np.asarray(usable(batch.values).any(axis=1))
        blocks = self._clock.place(batch.times, counted)
        found: list[Verdict] = []
        begin = 0
        while begin < len(batch):
            block = int(blocks[begin])
            end = int(np.searchsorted(blocks, (block // _GROUP + 1) * _GROUP))
            if self._finder is not None and block >= self._finder.decides_at:
                length = self._finder.block_seconds()
                self._finder = None
                if length is not None:
                    self._begin(length, length)
                    return found + self.update(batch.take(slice(begin, None)))
            if self._finder is not None:
                end = min(end, int(np.searchsorted(blocks, self._finder.decides_at)))
            part = slice(begin, end)
            found += self._take(batch.take(part), blocks[part], counted[part])
            begin = end
        return found

    def _take(self, batch: Observations, blocks: Ints, counted: NDArray[np.bool_]) -> list[Verdict]:
        """Take rows in that lie in one group of blocks."""
        first, last = self._rows.block, int(blocks[-1])
        sums, rates = self._rows.count(blocks, counted)
        watched = {n: j for j, n in enumerate(batch.names) if n not in batch.categories}
        begins, notices = self._start(batch.values, blocks, watched)
        values = self._with_surprise(batch.values, blocks, first, watched, rates)
        names = self._table.names
        columns = np.array([watched.get(name, -1) for name in names], np.int64)
        begin = np.zeros(len(names), np.int64)
        if begins:
            begin[:] = [begins.get(name, 0) for name in names]
        closed, limits = None, _NOTHING
        claims: Floats = np.empty((0, 0, 2, len(self._recent), kernel.CLAIM))
        if last > first:
            tests = self._tests(np.arange(first, last))
            alphas = np.minimum(rates[1:] / self.budget_events, 1 / _QUIET_BLOCKS) / tests
            limits = _normal(alphas)
            claims = np.full((last - first, len(names), 2, len(self._recent), kernel.CLAIM), np.nan)
            rows = np.searchsorted(blocks, np.arange(first, last), side="right")
            closed = _Closed(first, rows, sums, rates[1:], tests, alphas, claims)
        streams = self._history()
        kernel.run(
            values, blocks, columns, begin, last, streams, self._recent, _REFERENCES,
            first, limits, claims,
        )  # fmt: skip
        if self._finder is not None and batch.times is not None:
            self._finder.add(values, batch.times, counted, names, columns, begin, streams)
        found = [(n.row, varies(batch.names[n.column], n)) for n in notices]
        if closed is not None:
            found += self._judge(closed)
            found.sort(key=lambda pair: pair[0])
        return [
            msgspec.structs.replace(
                verdict, offset=int(batch.offsets[row]), row=int(batch.rows[row])
            )
            for row, verdict in found
        ]

    def _history(self, streams: slice = slice(None)) -> History:
        return History(**{name: self._table[name][streams] for name in History._fields})

    def _start(
        self, values: Floats, blocks: Ints, watched: dict[str, int]
    ) -> tuple[dict[str, int], list[Notice]]:
        """Collect the first values of new streams, and begin those that have enough.

        Returns the rows from which they are known, and notices.
        """
        new = {name: j for name, j in watched.items() if self._table.number(name) is None}
        if not new:
            return {}, []
        begins, notices, samples = self._new.collect(values, blocks, new)
        for name, sample in samples.items():
            self._grow(name, sample)
        return begins, notices

    def _grow(self, name: str, sample: Sample) -> None:
        """Begin a stream with its first values, looked at again in its own scale."""
        k = int(self._table.numbers((name,))[0])
        t = self._table
        t["at"][k], t["born"][k] = sample.blocks[0], sample.born
        if np.isin(sample.values, (0.0, 1.0)).all():
            t["kind"][k] = BITS if name in self.flips else SHARES
        else:
            t["center"][k], t["scale"][k] = center_and_scale(sample.values)
        none = np.zeros(1, np.int64)
        kernel.run(
            sample.values[:, None], sample.blocks, none, none, int(sample.blocks[-1]),
            self._history(slice(k, k + 1)), self._recent, _REFERENCES,
            0, np.zeros(0), np.zeros((0, 1, 2, len(self._recent), kernel.CLAIM)),
        )  # fmt: skip
        if self._finder is not None:
            self._finder.start(sample.grown)

    def _with_surprise(
        self, values: Floats, blocks: Ints, first: int, watched: dict[str, int], rates: Floats
    ) -> Floats:
        """Return the values with a column more, where there are a label and features; watch it."""
        features = {name: j for name, j in watched.items() if name.startswith(_FEATURE)}
        if self.label not in watched or not features:
            return values
        # Before the first block ends, an average is over all rows so far.
        sizes = np.where(rates > 0, rates, np.inf)
        residuals = self._surprise.residuals(
            values, watched[self.label], features, blocks, first, sizes
        )
        if self._table.number(SURPRISE) is None:
            known = np.flatnonzero(~np.isnan(residuals))
            if not len(known):
                return values
            k = int(self._table.numbers((SURPRISE,))[0])
            self._table["kind"][k] = SHARES
            self._table["at"][k] = self._table["born"][k] = blocks[known[0]]
        watched[SURPRISE] = values.shape[1]
        return np.column_stack([values, residuals])

    def _tests(self, blocks: Ints) -> Floats:
        """Return how many changes are looked at in each of (b,) blocks: those of streams that had begun."""
        born = self._table["born"][: len(self._table)]
        weight = np.where([name == SURPRISE for name in self._table.names], 1, 2)
        new = self._new.born
        born = np.concatenate([born, new[new >= 0]])
        weight = np.concatenate([weight, np.full(len(born) - len(weight), 2)])
        tests = ((born <= blocks[:, None]) * weight).sum(axis=1) * len(self._recent)
        return np.asarray(np.maximum(tests, 1), np.float64)

    def _judge(self, closed: _Closed) -> list[tuple[int, Verdict]]:
        """Return the verdicts on complete blocks, each with its row."""
        hits = self._hits(closed)
        found: list[tuple[int, Verdict]] = []
        for b in range(len(closed.rows)):
            alarms = {key: hit.alarm for key, hit in hits.get(b, {}).items()}
            if not alarms and closed.first + b < self._episodes.due:
                continue
            levels = closed.claims[b, :, :, 0, kernel.LEVEL]
            moves = {key: (a.level, a.before) for key, a in alarms.items()}
            steps = self._episodes.step(closed.first + b, moves, levels)
            row = int(closed.rows[b])
            found += [(row, self._verdict(step, alarms, levels)) for step in steps]
        return found

    def _verdict(self, step: Step, alarms: dict[Key, Alarm], levels: Floats) -> Verdict:
        k, s = step.key
        t = self._table
        stream = Watched(t.names[k], int(t["kind"][k]), float(t["scale"][k]), s)
        if step.phase == "settled":
            e = self._episodes
            limit = e.longest if step.blocks >= e.longest else e.gap
            return rest(stream, step, float(levels[k, s]), limit, self.block_seconds)
        return alarm(stream, step, alarms[step.key], self.block_seconds)

    def _hits(self, closed: _Closed) -> dict[int, dict[Key, _Hit]]:
        """Return block to statistic to the clearest of its alarms over all horizons."""
        z = closed.claims[..., kernel.Z]
        strength = np.abs(z)
        numbers = self._table["kind"][: len(self._table)] == NUMBERS
        strength[:, numbers, 1] = -z[:, numbers, 1]  # of a spread only a fall counts
        # Student's quantiles are beyond the normal ones, so most changes are settled without them.
        at = np.nonzero(strength > _normal(closed.alphas)[:, None, None, None])
        degrees = np.floor(closed.claims[..., kernel.CHANGES][at])
        thresholds = -stdtrit(degrees, closed.alphas[at[0]] / 2)
        chances = 2 * stdtr(degrees, -strength[at]) * closed.tests[at[0]]
        hits: dict[int, dict[Key, _Hit]] = {}
        for i in np.flatnonzero(strength[at] > thresholds).tolist():
            b, k, s, q = (int(where[i]) for where in at)
            threshold = float(thresholds[i])
            clearness = float(strength[b, k, s, q]) / threshold
            best = hits.setdefault(b, {}).get((k, s))
            if best is None or clearness > best.clearness:
                chance = min(closed.rates[b] / max(chances[i], 1 / _MOST_CHANCE), _MOST_CHANCE)
                found = self._alarm(closed, (b, k, s, q), threshold, float(chance))
                hits[b][k, s] = _Hit(found, clearness)
        return hits

    def _alarm(
        self, closed: _Closed, at: tuple[int, int, int, int], threshold: float, chance: float
    ) -> Alarm:
        claim = closed.claims[at]
        q = at[3]
        h = int(self._recent[q])
        end = len(closed.sums) - len(closed.rows) + at[0]  # where the sum up to this block stands
        since, latest, earliest = claim[kernel.SINCE :].astype(np.int64).tolist()
        sums = closed.sums[
            np.maximum([end, end - since, end - h, end - h - int(_REFERENCES[q])], 0)
        ]
        low, high = closed.sums[np.maximum([end - latest + 1, end - earliest], 0)].tolist()
        level = float(claim[kernel.LEVEL])
        return Alarm(
            z=float(claim[kernel.Z]),
            threshold=threshold,
            blocks=h,
            level=level,
            before=level - float(claim[kernel.CHANGE]),
            rows=int(sums[0] - sums[2]),
            rows_before=int(sums[2] - sums[3]),
            delay_events=int(sums[0] - sums[1]) + 1,
            delay_low=int(sums[0] - low) + 1,
            delay_high=int(sums[0] - high) + 1,
            chance_events=chance,
        )

    def snapshot(self) -> bytes:
        """Return the whole state."""
        names, arrays = self._table.state()
        new_names, new = self._new.state()
        features, surprise = self._surprise.state()
        finder = {} if self._finder is None else self._finder.state()
        meta = {
            "asked": self._asked, "block": self.block_seconds, "names": names, "new": new_names,
            "features": features, "finds": self._finder is not None,
            "episodes": self._episodes.state(),
        }  # fmt: skip
        parts = {"stream": arrays, "new": new, "surprise": surprise, "finder": finder}
        flat = {f"{part}.{name}": a for part, found in parts.items() for name, a in found.items()}
        flat |= {"clock": self._clock.state(), "rows": self._rows.state()}
        return pack("natural_size", 2, meta, flat)

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot."""
        meta, arrays = unpack("natural_size", 2, state)
        if meta["asked"] != self._asked:
            raise StateError(
                "a snapshot of natural_size was taken with block, season and first values "
                f"{meta['asked']}, not {self._asked}: begin anew, or set them so"
            )
        parts: dict[str, dict[str, NDArray[Any]]] = {}
        for key, array in arrays.items():
            part, _, name = key.partition(".")
            parts.setdefault(part, {})[name] = array
        block = float(meta["block"])
        if block not in (self._asked[0], HOUR_SECONDS):
            raise StateError(f"natural_size: expected blocks of {self._asked[0]} s, found {block}")
        found = WEEK_SECONDS if block == self._asked[0] else block
        self._begin(block, found if self._asked[1] == "auto" else float(self._asked[1]))
        for name, new in self._surprise.state()[1].items():
            if name.startswith("own."):
                check(parts["surprise"][name], name, new.shape, new.dtype)
        self._clock.load(arrays["clock"])
        self._rows.load(arrays["rows"])
        self._table.load(meta["names"], parts["stream"])
        self._new.load(meta["new"], parts["new"])
        self._surprise.load(meta["features"], parts["surprise"])
        self._episodes.load(meta["episodes"])
        self._finder = SeasonFinder() if meta["finds"] else None
        if self._finder is not None:
            self._finder.load(meta["names"], parts["finder"])


def horizons(block_seconds: float, season_seconds: float) -> Ints:
    """Return (2,) blocks of the recent means: whole seasons, 7 blocks or more, and twice as many.

    Raises
    ------
    ValueError
        The season is not 1 to 60 whole blocks.

    Examples
    --------
    >>> from tocsin.detectors.natural_size import horizons
    >>> horizons(86_400, 604_800), horizons(2_629_800, 31_557_600), horizons(3600, 3600)
    (array([ 7, 14]), array([12, 24]), array([ 7, 14]))
    """
    season = round(season_seconds / block_seconds) if block_seconds > 0 else 0
    if not 1 <= season <= _LONGEST_SEASON or not math.isclose(
        season * block_seconds, season_seconds, rel_tol=1e-6
    ):
        raise ValueError(
            f"a season must be 1 to {_LONGEST_SEASON} whole blocks, got {season_seconds} s and blocks of "
            f"{block_seconds} s; a week has 7 days of 86400 s, a year 12 months of 2629800 s"
        )
    recent = season * -(-_SHORTEST // season)
    return np.array([recent, 2 * recent])


def _normal(alphas: Floats) -> Floats:
    """Return what a normal variable passes, either way, with such probabilities."""
    return np.asarray(-ndtri(alphas / 2))
