"""What streams looked like when they were new: a sample of each, and from it a robust scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from ..core.columns import Floats, Ints
from ..core.snapshot import pack, unpack
from ..core.verdict import Summary
from .base import HUGE, Observations, first_known, usable
from .bets import distance_bound
from .categories import counted_categories
from .compiled import compiled
from .streams import StreamTable

CLIP_SIGMAS: Final = 5.0
"""Values are cut at so many robust sigmas from the median; uncut, heavy tails make ADWIN raise over a
thousand false alarms in 4 million values (log-normal with sigma 1.5), cut none in 400,000."""
_ABSURD: Final = 100.0  # times the median; chosen: beyond what a log-normal of width 1.5 reaches
_MAD_TO_SIGMA: Final = 1.482602218505602  # 1 / Phi^-1(3/4)
_BINS: Final = 16
_ROUNDING: Final = 1e-9
_KEPT: Final = 2048
"""Values kept of a trained reference; the step between two adds 0.0002 to what its size of millions allows."""


class Scaled(NamedTuple):
    """Values of streams in units of their reference; NaN while a stream is still new.

    Parameters
    ----------
    deviation
        (n, k) cut, centred, divided by the reference's standard deviation: for Page-Hinkley.
    bounded
        (n, k) the same where values are dense; divided by the reference's range where most values
        are one and the same, such as 0 in a stream of errors: for ADWIN, whose bound is for values
        within 1 of one another.
    """

    deviation: Floats
    bounded: Floats


@compiled
def _collect(values: Floats, streams: Ints, sample: Floats, taken: Ints, last: Ints) -> None:
    """Fill samples; `last` (k,) becomes the row at which a stream's sample became full, or -1."""
    size = sample.shape[1]
    for j in range(streams.shape[0]):
        k = streams[j]
        last[j] = -1
        for i in range(values.shape[0]):
            if taken[k] == size:
                break
            if abs(values[i, j]) <= HUGE:
                sample[k, taken[k]] = values[i, j]
                taken[k] += 1
                if taken[k] == size:
                    last[j] = i


@compiled
def _scale(
    values: Floats, streams: Ints, low: Floats, high: Floats, center: Floats, deviation: Floats,
    width: Floats, scaled: Floats, bounded: Floats,
) -> None:  # fmt: skip
    """Fill (n, k) values cut, centred and divided by either unit; NaN where a value is not usable."""
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            k, x = streams[j], values[i, j]
            cut = min(max(x, low[k]), high[k]) if abs(x) <= HUGE else np.nan
            cut -= center[k]
            scaled[i, j] = cut / deviation[k]
            bounded[i, j] = cut / width[k]


class Reference:
    """The first values of each stream, and the scale that they give.

    Parameters
    ----------
    warmup_values
        How many usable values of a stream make its reference, 30 or more.

    Notes
    -----
    The scale is a standard deviation of values cut at five robust sigmas. Robust sigma is the median
    absolute deviation times 1.4826 (Hampel 1974, doi:10.1080/01621459.1974.10482962). For a stream of
    zeros and ones the share p of ones is taken as (ones + 2) / (n + 4) (Agresti and Coull 1998,
    doi:10.1080/00031305.1998.10480550), so that a stream without any errors yet has a scale too.
    """

    def __init__(self, warmup_values: int = 256) -> None:
        if warmup_values < 30:
            raise ValueError(f"warmup_values must be 30 or more, got {warmup_values}")
        self.warmup_values = warmup_values
        self.changes = 0
        """Goes up whenever the state does; a store need not write it again in between."""
        self.population: int | None = None
        """How many values trained references were drawn from, at least."""
        self._streams = _table(warmup_values)
        self._known: Ints | None = None  # streams that all have their scale
        self._trained: dict[str, Floats] = {}
        self._categories: dict[str, Floats] = {}
        self._of = 0
        self.missing: dict[str, float] = {}
        """Trained stream to the share of rows in which it had no value."""

    def is_ready(self, name: str) -> bool:
        """Whether a stream has its scale."""
        number = self._streams.number(name)
        return number is not None and bool(np.isfinite(self._streams["center"][number]))

    def learn(self, batch: Observations) -> Floats:
        """Learn from the rows where streams are new; return the (n, k) values with NaN in those rows."""
        streams = self._streams.numbers(batch.names)
        if streams is self._known:
            return batch.values
        new = (~np.isfinite(self._streams["center"][streams])).nonzero()[0].tolist()
        if not new:
            self._known = streams
        if all(first_known(batch.values, j, 0) == len(batch) for j in new):
            return batch.values
        return self._learn(batch.values, streams)

    def scale(self, names: tuple[str, ...], values: Floats) -> Scaled:
        """Return (n, k) values in units of the reference, NaN in streams that are still new."""
        s, found = self._streams.arrays, Scaled(np.empty_like(values), np.empty_like(values))
        _scale(
            values, self._streams.numbers(names), s["low"], s["high"], s["center"],
            s["deviation"], s["range"], found.deviation, found.bounded,
        )  # fmt: skip
        return found

    def _learn(self, values: Floats, streams: Ints) -> Floats:
        """Take rows into samples; return the values with those rows blanked."""
        last = np.empty(len(streams), np.int64)
        sample, taken = self._streams["sample"], self._streams["taken"]
        before = taken[streams].sum()
        _collect(values, streams, sample, taken, last)
        self.changes += int(taken[streams].sum() > before)
        blank = values.copy()
        for j in np.flatnonzero(~np.isfinite(self._streams["center"][streams])).tolist():
            if last[j] < 0:
                blank[:, j] = np.nan
            else:
                blank[: last[j] + 1, j] = np.nan
                self._fit(int(streams[j]), self._streams["sample"][streams[j]])
        return blank

    def _fit(self, k: int, sample: Floats) -> None:
        s = self._streams.arrays
        if np.isin(sample, (0.0, 1.0)).all():
            ones = float(sample.sum())
            share = (ones + 2) / (len(sample) + 4)
            s["center"][k] = ones / len(sample)
            s["deviation"][k] = np.sqrt(share * (1 - share))
            s["range"][k] = 1.0
            # A flag is 0 or 1 for ever; anything else in such a stream is far outside.
            s["low"][k], s["high"][k] = -CLIP_SIGMAS, 1 + CLIP_SIGMAS
            return
        median = float(np.median(sample))
        spread = float(np.median(np.abs(sample - median)))
        sigma = _MAD_TO_SIGMA * spread or _deviation(sample, median)
        if sigma == 0:
            # Always the same value so far: any unit is a guess, a hundredth of it is ours.
            sigma = abs(median) / 100 or 1.0
        low, high = median - CLIP_SIGMAS * sigma, median + CLIP_SIGMAS * sigma
        cut = np.clip(sample, low, high)
        deviation = float(cut.std())
        if deviation <= _ROUNDING * max(
            abs(median), sigma
        ):  # all the same, but for how a mean is rounded
            deviation = sigma
        s["center"][k], s["low"][k], s["high"][k] = float(cut.mean()), low, high
        s["deviation"][k] = deviation
        s["range"][k] = deviation if spread else float(np.ptp(cut)) or sigma

    def is_binary(self, name: str) -> bool:
        """Whether a ready stream took only zeros and ones."""
        return bool(np.isin(self.sample(name), (0.0, 1.0)).all())

    def sample(self, name: str) -> Floats:
        """Return the (n,) values that a ready stream's reference is made of: its first ones, or those it was trained on."""
        trained = self._trained.get(name)
        if trained is not None:
            return trained
        return np.asarray(self._streams["sample"][self._number(name)])

    def train(
        self,
        samples: Mapping[str, Floats],
        population: int,
        missing: Mapping[str, float] | None = None,
        categories: Mapping[str, Floats] | None = None,
        of: int = 0,
    ) -> None:
        """Make references of what streams were in training.

        Parameters
        ----------
        samples
            Stream to (n,) usable values, 30 or more; of more than 2,048 so many order statistics are kept.
        population
            How many values each of them was drawn from, at least.
        missing
            Stream to the share of rows in which it had no value; of others nothing is known.
        categories
            Stream of categories to what `categories.counted_categories` has returned for it.
        of
            How many streams share the probability that what is said of one of them is wrong, if more than these.

        Raises
        ------
        ValueError
            A stream has too few values, or has its reference already.
        """
        for name, values in samples.items():
            if len(values) < 30 or not usable(values).all():
                raise ValueError(
                    f"{name}: a reference is 30 usable values or more, got {len(values)}"
                )
            if self.is_ready(name):
                raise ValueError(f"{name} has its reference already: train before the first values")
        self.population = min(population, self.population or population)
        self.missing |= {name: share for name, share in (missing or {}).items() if name in samples}
        self._of = max(self._of, of)
        self._categories |= {n: c for n, c in (categories or {}).items() if n in samples}
        self.changes += 1
        for name, values in samples.items():
            self._trained[name] = order_statistics(values)
            (number,) = self._streams.numbers((name,)).tolist()
            self._streams["taken"][number] = self.warmup_values
            self._fit(number, self._trained[name])

    def is_trained(self, name: str) -> bool:
        """Whether a stream's reference is what it was in training."""
        return name in self._trained

    def categories(self, name: str) -> Floats:
        """Return (2, 64) of a ready stream of categories the known ones and their counts, as `counted_categories` does."""
        counted = self._categories.get(name)
        return counted_categories(self.sample(name)) if counted is None else counted

    @property
    def confidence(self) -> float:
        """Probability with which what is said of one reference may be wrong: 0.05 for all trained ones together."""
        return 0.05 / max(1, self._of, len(self._trained))

    def distance(self, *, trained_only: bool = True) -> float:
        """Return how far the distribution functions of references may be from the true ones.

        Exceeded by one of the trained ones with probability 0.05, or of others by each; see `bets.distance_bound`.
        Half a step of the order statistics more.
        """
        size, step = self.drawn(trained_only=trained_only)
        return distance_bound(size, self.confidence) + step

    def drawn(self, *, trained_only: bool = True) -> tuple[int, float]:
        """Return how many values references were drawn from, at least, and half a step of the order statistics that are kept of them."""
        size = self.population or self.warmup_values
        if not trained_only:
            size = min(size, self.warmup_values)
        return size, 0.5 / _KEPT if size > _KEPT else 0.0

    def cut(self, name: str, values: Floats) -> Floats:
        """Return (n,) values of a ready stream, cut as the detectors see them."""
        k = self._number(name)
        return np.clip(values, self._streams["low"][k], self._streams["high"][k])

    def mean_and_deviation(self, name: str) -> tuple[float, float]:
        """Return a ready stream's centre and standard deviation, in its own unit."""
        k = self._number(name)
        return float(self._streams["center"][k]), float(self._streams["deviation"][k])

    def edges(self, name: str) -> Floats:
        """Return the (bins + 1,) edges of a ready stream's histogram.

        Sixteen bins of one width from its 1 % to its 99 % point; one bin a value where it took four
        values or fewer.
        """
        sample = self.sample(name)
        distinct = np.unique(sample)
        if len(distinct) <= 4:
            middle = (distinct[:-1] + distinct[1:]) / 2
            step = float(np.diff(distinct).min(initial=1.0))
            return np.array([distinct[0] - step / 2, *middle, distinct[-1] + step / 2])
        low, high = np.quantile(sample, (0.01, 0.99))
        if not low < high:
            low, high = distinct[0], distinct[-1]
        return np.linspace(low, high, _BINS + 1)

    def summary(self, name: str) -> Summary:
        """Return the reference of a ready stream."""
        return summarise(self.sample(name), self.edges(name))

    def _number(self, name: str) -> int:
        number = self._streams.number(name)
        if number is None:
            raise KeyError(name)
        return number

    def snapshot(self) -> bytes:
        """Return the whole state."""
        names, arrays = self._streams.state()
        meta = {
            "names": names, "warmup": self.warmup_values, "population": self.population, "of": self._of,
            "trained": list(self._trained), "categories": list(self._categories),
            "missing": self.missing,
        }  # fmt: skip
        kept = {
            f"{what}:{i}": array
            for what, of in (("trained", self._trained), ("categories", self._categories))
            for i, array in enumerate(of.values())
        }
        return pack("reference", 4, meta, arrays | kept)

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot; all references keep the size that they were begun with."""
        meta, arrays = unpack("reference", 4, state)
        self._trained, self._categories = (
            {name: arrays.pop(f"{what}:{i}") for i, name in enumerate(meta[what])}
            for what in ("trained", "categories")
        )
        self.population, self.missing = meta["population"], meta["missing"]
        self._of = int(meta["of"])
        self.warmup_values = int(meta["warmup"])
        self._streams = _table(self.warmup_values)
        loaded: dict[str, Any] = arrays
        self._streams.load(meta["names"], loaded)


def _deviation(sample: Floats, median: float) -> float:
    """Return the standard deviation of a sample most of which is one value.

    Without what lies absurdly far from that value, which would hide every later change.
    """
    distance = np.abs(sample - median)
    usual = distance[distance > 0]
    if not len(usual):
        return 0.0
    return float(sample[distance <= _ABSURD * np.median(usual)].std())


def order_statistics(values: Floats) -> Floats:
    """Return (n,) values in their order; of more than 2,048, the middles of as many equal shares."""
    ordered = np.sort(values)
    if len(ordered) <= _KEPT:
        return ordered
    return ordered[((np.arange(_KEPT) + 0.5) * len(ordered) / _KEPT).astype(np.int64)]


def _table(warmup_values: int) -> StreamTable:
    return StreamTable(
        {
            "sample": np.full(warmup_values, np.nan), "taken": 0, "center": np.nan,
            "low": np.nan, "high": np.nan, "deviation": np.nan, "range": np.nan,
        }
    )  # fmt: skip


def summarise(values: Floats, edges: Floats) -> Summary:
    """Return a summary of (n,) values over a reference's edges."""
    if not len(values):
        return Summary(count=0)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return Summary(
        count=len(values),
        mean=float(values.mean()),
        std=float(values.std()),
        edges=edges.tolist(),
        counts=counts.tolist(),
    )
