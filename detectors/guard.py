"""Whether streams are what a false-alarm guarantee assumes: exchangeable, or dependent in time, and how.

No verdicts: it tells which detectors can keep their promise on a stream, not that anything is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from ..core.snapshot import pack, unpack
from . import guard_kernel as kernel
from .autocorrelation import BLOCKS, LAGS, LARGEST_LAG, WINDOW
from .base import Observations
from .guard_kernel import SAMPLE, SPREADS, Room, State
from .streams import StreamTable

Kind = Literal["unknown", "exchangeable", "autocorrelated", "ordered"]
_KINDS: Final[tuple[Kind, ...]] = ("unknown", "exchangeable", "autocorrelated", "ordered")
_SHARE: Final = 0.25  # of the streams that vary: so many are ordered, and the model is (chosen)


class Regime(NamedTuple):
    """What a stream, or a model, is.

    Parameters
    ----------
    kind
        `exchangeable`: the order of values tells nothing. `autocorrelated`: that of every `lag`-th does
        not. `ordered`: a season, a trend or a long memory, which no lag up to 64 takes out. `unknown`:
        too few values yet.
    lag
        m, the number of interleaved sub-streams of which each is exchangeable: 1, 2, 4, ..., 64; 64 where
        none will do. Counted in usable values of the stream.
    correlation
        The clearest correlation, in [-1, 1]; 0 where none is above noise, or where it is the mean or the
        spread that moves.
    evidence
        The reason in words.
    """

    kind: Kind
    lag: int
    correlation: float
    evidence: str


class Changed(NamedTuple):
    """The row of a batch at which a stream's regime became another one, and which."""

    row: int
    name: str
    kind: Kind
    lag: int


_NOT_YET: Final = Regime("unknown", 1, 0.0, "too few values yet")


class DependenceGuard:
    """Tells of each stream whether the order of its values carries information, and keeps looking.

    Values are scored by a robust unit from the stream's first ones and cut at 3.5 sigmas. Of each window
    of 1,024 values an abrupt step is taken out, and then the autocorrelations at lags 1 to 128 are taken,
    of the values and of their distances from the mean (volatility that comes and goes deceives a bet on
    the scale). Their means over windows, and how often the level moved, make the regime.

    Parameters
    ----------
    warmup_values
        Usable values of a stream before its first regime: a multiple of 1,024, 2,048 or more.

    Raises
    ------
    ValueError
        `warmup_values` is not such a multiple.

    Notes
    -----
    Guarantees: the regimes depend on the streams' values in their order only, not on how rows were cut
    into batches. Values that are not `usable` are passed over. A stream costs 2 kB.

    A check of an exchangeable stream, whatever its law, finds something at most once in 10,000. A worse
    regime is believed at the first check that finds it: after 2, 4, 8, ... windows. A better one needs
    four times as much evidence as the worse one had, so that a drift that passed for a season is
    forgotten, and a weak correlation is not. Evidence grows up to 65,536 values, with which a
    correlation of 0.022 at one lag is seen (one of 0.12 with the first 2,048). After 16 windows every
    other 1,024 rows are looked at.

    Limits: a season much longer than 1,024 values is seen by the moves of the level alone, later; one
    drift that takes more than about 1,000 values during the warm-up passes for a trend until about
    10,000 values later; categories are taken as the numbers they are coded by.

    References
    ----------
    Box and Jenkins 1970, "Time series analysis", section 2.1, for what autocorrelations tell; Hampel
    1974, "The influence curve and its role in robust estimation" (doi:10.1080/01621459.1974.10482962),
    for the unit; the others stand at the formulas in `autocorrelation`.

    Examples
    --------
    >>> import numpy as np
    >>> from tocsin.detectors.base import Observations
    >>> from tocsin.detectors.guard import DependenceGuard
    >>> noise = np.random.default_rng(0).normal(size=2048)
    >>> daily = np.sin(2 * np.pi * np.arange(2048) / 24) + noise
    >>> guard = DependenceGuard()
    >>> guard.update(Observations.of(np.column_stack([noise, daily]), ("score", "load")))
    ['load', 'score']
    >>> guard.regime("score").kind, guard.regime("load").kind
    ('exchangeable', 'ordered')
    """

    def __init__(self, warmup_values: int = 2 * WINDOW) -> None:
        if warmup_values < 2 * WINDOW or warmup_values % WINDOW:
            near = max(2, round(warmup_values / WINDOW)) * WINDOW
            raise ValueError(
                f"warmup_values must be a multiple of {WINDOW}, {2 * WINDOW} or more, got "
                f"{warmup_values}; {near} would do"
            )
        self.warmup_values = warmup_values
        self.changes = 0
        """Goes up whenever the state does; a store need not write it again in between."""
        self._streams = self._table()
        self._room = Room(
            np.empty(WINDOW, np.int16), np.empty(WINDOW, np.int16), np.empty(BLOCKS),
            np.empty((2, SPREADS), np.int64), np.empty(LAGS),
        )  # fmt: skip

    def _table(self) -> StreamTable:
        new: dict[str, Any] = {
            "sample": np.zeros(SAMPLE), "fitted": False, "unit": np.zeros(3),
            "scores": np.zeros(WINDOW, np.int8), "filled": 0, "skipped": 0,
            "level": np.zeros(2), "level_error": np.full(2, np.nan),
            "rises": np.zeros(2, np.uint64), "falls": np.zeros(2, np.uint64),
            "seen": 0, "windows": 0, "used": np.zeros(2, np.int64),
            "correlations": np.zeros((2, LAGS), np.int16), "skews": np.zeros(2),
            "uneven": np.zeros(2), "varied": False,
            "target": self.warmup_values // WINDOW, "kind": kernel.UNKNOWN, "lag": 1,
            "reason": kernel.OF_VALUES, "clearest": np.zeros(4), "judged": 0,
        }  # fmt: skip
        return StreamTable({name: new[name] for name in State._fields})

    def update(self, batch: Observations) -> list[str]:
        """Take the rows in; return the streams whose regime became another one, in the order of rows."""
        return [change.name for change in self.changed(batch)]

    def changed(self, batch: Observations) -> list[Changed]:
        """Take the rows in; return where regimes became other ones, in the order of rows."""
        if not len(batch) or not batch.names:
            return []
        self.changes += 1
        streams = self._streams.numbers(batch.names)
        state = self._streams.as_tuple(State)
        room = np.empty(((len(batch) // WINDOW + 1) * len(batch.names), 4), np.int64)
        hits = kernel.update(batch.values, streams, state, self._room, room)
        return sorted(
            Changed(i, batch.names[j], _KINDS[kind], lag)
            for i, j, kind, lag in room[:hits].tolist()
        )

    def regime(self, name: str) -> Regime:
        """Return what a stream is; `unknown` before its first check, and if it was never seen."""
        k = self._streams.number(name)
        if k is None or self._streams["kind"][k] == kernel.UNKNOWN:
            return _NOT_YET
        s = self._streams
        _, first, last, value = s["clearest"][k].tolist()
        reason, looked_at = s["reason"][k], f"in {s['judged'][k] * WINDOW:,} values"
        if reason in (kernel.OF_LEVEL_MOVES, kernel.OF_SPREAD_MOVES):
            what = "level" if reason == kernel.OF_LEVEL_MOVES else "spread"
            words = (
                f"its {what} rose {first:.0f} and fell {last:.0f} times in {value:.0f} windows of "
                f"{WINDOW:,} values"
            )
            value = 0.0
        elif reason == kernel.OF_CONSTANT:
            words = f"always the same value {looked_at}"
        elif not first:
            words = f"no correlation above noise {looked_at}"
        else:
            of = "" if reason == kernel.OF_VALUES else " of the distances from the mean"
            where = f"at lag {first:.0f}" if first == last else f"at lags {first:.0f} to {last:.0f}"
            value = max(-1.0, min(1.0, value / (last + 1 - first)))
            words = f"correlation{of} {value:.2f} {where} {looked_at}"
        return Regime(_KINDS[s["kind"][k]], int(s["lag"][k]), value, words)

    def overall(self, names: Iterable[str] | None = None) -> Regime:
        """Return what the model is of which these are streams.

        It is ordered if a quarter of its streams are, of those that are known and vary. Else it is what the
        worst of the others is, with the largest lag; single ordered streams are left out, and named.

        Parameters
        ----------
        names
            Which streams count; all by default. Leave out the errors of a model that still learns: they
            decline, and that is neither a season nor a drift.
        """
        chosen = self._streams.names if names is None else list(names)
        known = {name: self.regime(name) for name in chosen}
        known = {name: regime for name, regime in known.items() if regime.kind != "unknown"}
        if not known:
            return _NOT_YET
        varying = {name: r for name, r in known.items() if not self._is_constant(name)}
        if not varying:
            return Regime("exchangeable", 1, 0.0, "all streams are constant")
        ordered = [name for name, r in varying.items() if r.kind == "ordered"]
        if len(ordered) >= _SHARE * len(varying):
            name = max(ordered, key=lambda name: abs(varying[name].correlation))
            return Regime(
                "ordered", LARGEST_LAG, varying[name].correlation,
                f"{len(ordered)} of {len(varying)} streams are ordered; {name}: {varying[name].evidence}",
            )  # fmt: skip
        but = f"; not counted: {', '.join(sorted(ordered))}, ordered" if ordered else ""
        others = {name: r for name, r in varying.items() if r.kind != "ordered"}
        name = max(others, key=lambda name: (others[name].lag, abs(others[name].correlation)))
        worst = others[name]
        return worst._replace(evidence=f"{name}: {worst.evidence}{but}")

    def _is_constant(self, name: str) -> bool:
        return bool(self._streams["reason"][self._streams.number(name)] == kernel.OF_CONSTANT)

    def snapshot(self) -> bytes:
        """Return the whole state."""
        names, arrays = self._streams.state()
        return pack("guard", 1, {"names": names, "warmup": self.warmup_values}, arrays)

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot; its streams keep the warm-up that they were begun with.

        Raises
        ------
        StateError
            The bytes are damaged or from another version; the guard is as before.
        """
        meta, arrays = unpack("guard", 1, state)
        self.warmup_values = int(meta["warmup"])
        self._streams = self._table()
        loaded: dict[str, Any] = arrays
        self._streams.load(meta["names"], loaded)
