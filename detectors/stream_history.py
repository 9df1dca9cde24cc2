"""What an e-detector's streams have been like: when a change began, what was before and after it."""

from __future__ import annotations

from typing import Final

import numpy as np

from ..core.columns import Floats, Ints
from ..core.verdict import Summary
from . import bets
from . import e_detector_kernel as kernel
from .e_detector_kernel import BITS, CATEGORIES, Rules
from .onset import Onset, onset
from .streams import StreamTable

_ALIKE: Final = 0.1  # largest distance of two distribution functions that count as the same regime
_ERRORS: Final = 2.5  # standard errors within which a stream is what it was
_LOG_ODDS: Final = np.arange(-4.95, 5, 0.1)
"""Logarithms of the factors by which a rate's odds may have changed, finer and farther than anybody bets on."""
_ODDS_WEIGHTS: Final = np.maximum(np.exp(-0.5 * (np.abs(_LOG_ODDS) / 0.6 - 1.5) ** 2), 3e-3)
"""How likely each is held to be: mostly 1.5 to 8, seldom more (chosen on seeds 100 to 111 of `bench incidents`)."""
_ENOUGH: Final = 300  # values that tell what a stream never was
_NEWCOMERS: Final = 5
_PRIOR: Final = 10.0  # values of prior on the reference's shares
_COARSE: Final = 4  # cells in one bin of a picture, and in one cell of the bet that learns


class StreamHistory:
    """Reads the state of an e-detector's streams, and changes nothing.

    Parameters
    ----------
    table
        The streams, with the columns of `e_detector_kernel.Streams` and more.
    rules
        How they are watched.
    """

    def __init__(self, table: StreamTable, rules: Rules) -> None:
        self._table = table
        self._rules = rules

    def onset(self, k: int, best: int) -> Onset:
        """Return how many values ago the change of a stream began that bet number `best` has won most by."""
        s = self._table.arrays
        seen, since = int(s["seen"][k]), int(s["seen"][k] - s["begin"][k])
        size = min(since, kernel.RING)
        cells = s["ring"][k][np.arange(seen - size, seen) % kernel.RING].astype(np.int64)
        kind = int(s["kind"][k])
        if kind == CATEGORIES:
            return self._since_new(k, cells, self._category_onset(k, cells, best))
        if kind == BITS:
            return self._rate_onset(k, cells, best)
        slopes, tolls = bets.LINES
        blocks = self._blocks_before(k, size)
        earlier = (blocks - kernel.BLOCK * self._mean_score(k, size))[:, None] * slopes
        gains = self._gains(k)[cells]
        found = self._told(k, gains, earlier - kernel.BLOCK * tolls, np.ones(len(slopes)), best)
        return self._since_new(k, cells, found)

    def _rate_onset(self, k: int, cells: Ints, best: int) -> Onset:
        """Return since when zeros and ones come at another rate than before the latest (n,) ones."""
        before, _ = self.split(k, len(cells))
        rate = (before[1] + 0.5) / (before.sum() + 1)
        slopes = np.append(np.log([bet.size for bet in bets.RATE_BETS]), _LOG_ODDS)
        tolls = np.log1p(rate * np.expm1(slopes))
        weights = np.append(np.zeros(len(bets.RATE_BETS)), _ODDS_WEIGHTS)
        earlier = self._blocks_before(k, len(cells))[:, None] * slopes - kernel.BLOCK * tolls
        return self._told(k, cells[:, None] * slopes - tolls, earlier, weights, best)

    def _told(self, k: int, gains: Floats, earlier: Floats, weights: Floats, best: int) -> Onset:
        """Return the onset by (n, bets) gains by the latest values, and by whole blocks before them."""
        size, blocks = len(gains), len(earlier)
        # The oldest values are in a block, if there is any.
        aligned = size - (-(int(self._table["seen"][k]) - size) % kernel.BLOCK if blocks else 0)
        counts = np.append(np.full(blocks, kernel.BLOCK), np.ones(aligned, np.int64))
        return onset(np.concatenate([earlier, gains[size - aligned :]]), counts, weights, best)

    def _since_new(self, k: int, cells: Ints, found: Onset) -> Onset:
        """Return an onset no earlier than the first value in a cell that had none before, where such are most since."""
        latest = cells[-found.high :]
        s = self._table.arrays
        grown = not (s["fixed"][k] and s["phase"][k] == 0)
        before = s["counts"][k] - grown * np.bincount(latest, minlength=bets.CELLS)
        new = before[latest] <= 0
        if before.sum() < _ENOUGH or not new.any():
            return found
        first = int(new.argmax())
        if new[first:].mean() < 0.5:
            return found
        delay = len(latest) - first
        return Onset(*(min(ago, delay) for ago in found))

    def _blocks_before(self, k: int, size: int) -> Floats:
        """Return the sums of a stream's blocks before its latest `size` values, as far as it is the same."""
        s = self._table.arrays
        seen = int(s["seen"][k])
        newest = -(-(seen - size) // kernel.BLOCK)
        kept = s["blocks"].shape[1] - kernel.RING // kernel.BLOCK
        oldest = max(-(-int(s["begin"][k]) // kernel.BLOCK), newest - kept)
        blocks = s["blocks"][k][np.arange(oldest, newest) % s["blocks"].shape[1]]
        return np.asarray(blocks[np.isfinite(blocks)])

    def _mean_score(self, k: int, size: int) -> float:
        """Return the mean score before the latest `size` values: 0 only if the cells held equal shares."""
        before, _ = self.split(k, size)
        total = before.sum()
        return float(before @ self._rules.scores / total) if total else 0.0

    def _gains(self, k: int) -> Floats:
        """Return (cells, bets) what each bet on numbers wins by a value in each cell, as its logarithm.

        On average over the p-values that values in the cell have.
        """
        s = self._table.arrays
        counts = s["counts"][k]
        upto = np.append(0.0, np.cumsum(counts)) / max(counts.sum(), 1.0)
        low, high = upto[:-1], np.maximum(upto[1:], upto[:-1] + 1e-6)
        shares = (s["learnt"][k][:16] + 0.01) / (s["learnt"][k][16] + 0.16)
        table = np.column_stack([self._rules.table[: bets.CELLS], 16 * np.repeat(shares, _COARSE)])
        grid = np.arange(bets.CELLS + 1) / bets.CELLS
        columns = [np.append(0.0, np.cumsum(column)) / bets.CELLS for column in table.T]
        won = [(np.interp(high, grid, c) - np.interp(low, grid, c)) / (high - low) for c in columns]
        return np.asarray(np.log(np.maximum(np.transpose(won), 1e-12)))

    def _category_onset(self, k: int, cells: Ints, best: int) -> Onset:
        """Return since when (n,) cells have other shares: those of the values since, as far as they are known."""
        window = int(bets.WINDOWS[best if best < len(bets.WINDOWS) else 0])
        while True:
            gains = self._category_gains(k, cells, window)[:, None]
            found = onset(gains, np.ones(len(cells), np.int64), np.ones(1), 0)
            if found.delay >= window:
                return found
            window = found.delay

    def _category_gains(self, k: int, cells: Ints, window: int) -> Floats:
        """Return (n,) logarithms of how much more frequent each value's category is in the latest ones."""
        counts = self._table["counts"][k]
        usual = (counts + 0.5 / bets.CELLS) / (counts.sum() + 0.5)
        # Half on the reference's shares and ten values of prior, as the bets have it.
        latest = np.bincount(cells[-window:], minlength=bets.CELLS)
        ratio = (latest / usual + _PRIOR) / (min(window, len(cells)) + _PRIOR)
        return np.asarray(np.log(0.5 + 0.5 * ratio)[cells])

    def split(self, k: int, delay: int) -> tuple[Floats, Floats]:
        """Return the cells' counts before and after the latest `delay` values."""
        s = self._table.arrays
        seen, size = int(s["seen"][k]), min(delay, kernel.RING)
        cells = s["ring"][k][np.arange(seen - size, seen) % kernel.RING]
        after = np.bincount(cells, minlength=bets.CELLS).astype(np.float64)
        grown = not (s["fixed"][k] and s["phase"][k] == 0)
        return np.maximum(s["counts"][k] - after * grown, 0.0), after

    def change(self, k: int, bet: bets.Bet, before: Floats, after: Floats) -> str:
        """Return the kind of change that a bet has won by, of which these are the cells before and after."""
        if self._table["apart"][k]:  # zeros and ones of whether a value is missing
            return "missing" if bet.change == "rate up" else "missing less"
        if self._table["kind"][k] != CATEGORIES:
            return bet.change
        share, usual = after[-1] / max(after.sum(), 1.0), before[-1] / max(before.sum(), 1.0)
        return "new category" if after[-1] > 1 and share > 5 * usual else "shares"

    def newcomers(self, k: int, delay: int) -> list[str]:
        """Return the most frequent of the latest `delay` values that are of no known category."""
        latest = self.latest(k, delay)
        codes, counts = np.unique(
            latest[~np.isin(latest, self._table["edges"][k])], return_counts=True
        )
        order = np.argsort(-counts, kind="stable")[:_NEWCOMERS]
        return [_text(code) for code in codes[order].tolist()]

    def has_returned(self, k: int) -> bool:
        """Whether a stream is again what it was before its change."""
        s = self._table.arrays
        counts, before = s["counts"][k], s["before"][k]
        if s["kind"][k] != BITS:
            counts = self.split(k, self._rules.window)[1]
        total = max(counts.sum(), 1.0)
        after = counts / total
        if s["kind"][k] == BITS:
            error = 2 * np.sqrt(max(after[1] * after[0], 1e-12) / total)
            return bool(abs(after[1] - before[1]) <= max(self._rules.rate_tolerance, error))
        error = _ERRORS * np.sqrt(s["lanes"][k] / total)
        if s["kind"][k] == CATEGORIES:
            # A little more, since there are many of them.
            errors = 1.5 * error * np.sqrt(np.maximum(before, after))
            return bool(
                (np.abs(after - before) <= np.maximum(self._rules.rate_tolerance, errors)).all()
            )
        scores, gap = self._rules.scores, after - before
        spread = np.sqrt(max(after @ scores**4 - (after @ scores**2) ** 2, 0.0))
        return bool(
            np.abs(np.cumsum(gap)).max() <= _ALIKE
            and abs(gap @ scores) <= max(self._rules.tolerance, error)
            and abs(gap @ scores**2) <= max(self._rules.tolerance, error * spread)
        )

    def latest(self, k: int, count: int) -> Floats:
        """Return at most `count` of a stream's latest values."""
        s, seen = self._table.arrays, int(self._table["seen"][k])
        size = min(count, seen, kernel.RECENT)
        return np.asarray(s["recent"][k][np.arange(seen - size, seen) % kernel.RECENT])

    def _mean_and_deviation(self, k: int, values: int) -> tuple[float, float] | None:
        """Return those of a stream's latest values, of 1,024 at most and from the beginning of a block of 128 on."""
        if values <= kernel.RECENT:
            latest = self.latest(k, values)
            return float(latest.mean()), float(latest.std())
        s = self._table.arrays
        seen = int(s["seen"][k])
        newest = seen // kernel.BLOCK
        oldest = max(-(-(seen - values) // kernel.BLOCK), newest - kernel.MOMENTS)
        of_blocks = s["moments"][k][np.arange(oldest, newest) % kernel.MOMENTS]
        first, second = (of_blocks.sum(axis=0) + s["moment"][k]) / (seen - oldest * kernel.BLOCK)
        if not np.isfinite(second):  # its cells were made anew since
            return None
        center, sigma = float(s["center"][k]), float(s["sigma"][k])
        return center + sigma * float(first), sigma * float(np.sqrt(max(second - first**2, 0.0)))

    def summary(self, k: int, counts: Floats, values: int = 0) -> Summary:
        """Return the picture of a stream's cells, its mean and deviation: those of so many latest values where given."""
        s = self._table.arrays
        total = float(counts.sum())
        if not total:
            return Summary(count=0)
        if s["kind"][k] == BITS:
            rate = float(counts[1] / total)
            return Summary(
                count=int(total), mean=rate, std=float(np.sqrt(rate * (1 - rate))),
                edges=[-0.5, 0.5, 1.5], counts=counts[:2].astype(np.int64).tolist(),
            )  # fmt: skip
        if s["kind"][k] == CATEGORIES:
            known = np.flatnonzero(np.isfinite(s["edges"][k])).tolist()
            shown = counts[[*known, -1]].astype(np.int64)
            places = (np.arange(len(shown) + 1) - 0.5).tolist()
            return Summary(
                count=int(total), edges=places, counts=shown.tolist(),
                categories=[_text(code) for code in s["edges"][k][known].tolist()],
            )  # fmt: skip
        inner, sigma = s["edges"][k], float(s["sigma"][k])
        middles = np.concatenate(
            [[inner[0] - sigma / 3], (inner[1:] + inner[:-1]) / 2, [inner[-1] + sigma / 3]]
        )
        mean = float(counts @ middles / total)
        std = float(np.sqrt(max(counts @ middles**2 / total - mean**2, 0.0)))
        mean, std = (values and self._mean_and_deviation(k, values)) or (mean, std)
        coarse = inner[_COARSE - 1 :: _COARSE]
        return Summary(
            count=int(total),
            mean=mean,
            std=std,
            edges=[float(inner[0] - sigma), *coarse.tolist(), float(inner[-1] + sigma)],
            counts=counts.reshape(-1, _COARSE).sum(axis=1).astype(np.int64).tolist(),
        )


def _text(code: float) -> str:
    return f"{code:.17g}"
