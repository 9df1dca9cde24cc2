"""Whether a gap between two groups has opened: bets on pairs of their outcomes, many tests at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from ..core.columns import Ints
from ..core.errors import StateError
from ..core.snapshot import pack, reading, unpack
from ..core.verdict import Verdict
from . import gap_kernel as kernel
from . import gap_progress as progress
from .base import Observations
from .gap_kernel import BETS, COUNT_A, COUNT_B, GAPS, PRIOR_PAIRS, ROWS, SLOTS, SUM_A, SUM_B, Tests
from .gap_progress import Progress
from .streams import StreamTable

_Z: Final = 1.959963984540054  # standard errors on either side of an interval of 95 %
_ROUNDING: Final = 1e-9  # by which shares may add up to more than 1
_NEW: Final[dict[str, Any]] = {
    "side": 0, "first": 0, "held": 0,
    "waiting": np.zeros(SLOTS), "waiting_count": np.zeros(SLOTS, np.int64),
    "pairs": 0.0, "squares": 0.0, "evidence": np.zeros(BETS), "rise": np.ones(BETS),
    "begun": np.zeros((BETS, 5)), "totals": np.zeros(5), "stake": 0.0, "epsilon": 0.0,
    "is_done": False, "share": 0.0, "scale": 1.0, "claimed": 0,
}  # fmt: skip


class Pair(NamedTuple):
    """Two groups that are compared in one outcome.

    Parameters
    ----------
    subject
        What verdicts name: `gap:recall:sex=1|2`.
    a, b
        The streams that hold the outcomes, within [0, 1], of the first and of the second group; a row that has both is of
        one thing that was done twice, as a request that two models answer.
    share
        The part of the level or of the budget that is the test's, in (0, 1].
    scale
        The gap for a difference of outcomes of 1: 2 where an outcome is (1 + label - score) / 2.
    """

    subject: str
    a: str
    b: str
    share: float
    scale: float = 1.0


class GapTests:
    """Tests for gaps between groups, valid whenever one looks at them.

    Parameters
    ----------
    alpha
        The level of all tests together: the probability that a group pair without a gap beyond epsilon is ever claimed
        to have one. Each test speaks once.
    budget_events
        Or the budget: at most one false alarm in so many events, over all tests together. A test begins anew after each
        alarm, and finds a gap that opens late. Set one of both.
    epsilon
        The gap that is nobody's concern, in the unit of the metric; at least 0, below 1.

    Raises
    ------
    ValueError
        Both or neither are given, or one is out of range.

    Notes
    -----
    A row with outcomes of both groups is a pair: d = a - b. Other outcomes of the group that is ahead wait as up to four means, and each outcome of the other group is paired with the
    mean that has waited longest: d = mean of a - mean of b. For gaps g of 0.02 to 0.3, upwards and downwards, a bet is
    multiplied by 1 + lambda (+-d - epsilon), lambda = g / (v + g^2), v the variance of d as earlier pairs show it (the
    stake of most growth at a gap g, to second order: Waudby-Smith and Ramdas 2023, aGRAPA).

    Null: given which group each row is of, or both, rows are independent of one another, and a's mean less b's is within
    epsilon of 0 for the events of each pair. Means may move, from pair to pair.
    Outcomes of one row may depend on each other in any way: only their difference is bet on.
    Proof: the order of groups alone decides which outcomes meet, none is in two pairs, and lambda comes from earlier
    pairs: so each factor has, given these, a mean of 1 + lambda (E[+-d] - epsilon) <= 1, and is positive.

    With `alpha` the bets of a test share alpha * share at the start, and the sum of a supermartingale that begins there
    ever reaches 1 with at most that probability (Ville 1939; the union over tests). With
    `budget_events` each pair stakes share / A for each outcome in it, and the evidence less the stakes is a
    supermartingale: false alarms, which take 1 from it, are at most n / A on average in n events (Shin, Ramdas and
    Rinaldo 2023, Theorem 2.4, arXiv 2203.03532). Shares are at most 1 together. An outcome that is NaN, or not within
    [0, 1], changes nothing. State: 640 bytes a test.

    References
    ----------
    Chugg, Cortes-Gomez, Wilder and Ramdas 2023, "Auditing fairness by betting", section 3 (arXiv 2305.17570).
    Waudby-Smith and Ramdas 2023, "Estimating means of bounded random variables by betting", section B.3
    (doi:10.1093/jrsssb/qkad009).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> is_a = rng.random(20_000) < 0.5
    >>> right = (rng.random(20_000) < np.where(is_a, 0.7, 0.8)) * 1.0
    >>> outcomes = np.stack([np.where(is_a, right, np.nan), np.where(is_a, np.nan, right)], axis=1)
    >>> tests = GapTests(alpha=0.01)
    >>> tests.watch([Pair("gap:recall:sex=1|2", "recall:sex=1", "recall:sex=2", share=1.0)])
    >>> (verdict,) = tests.update(Observations.of(outcomes, ("recall:sex=1", "recall:sex=2")))
    >>> verdict.subject, verdict.change
    ('gap:recall:sex=1|2', 'gap down')
    """

    def __init__(
        self,
        *,
        alpha: float | None = None,
        budget_events: float | None = None,
        epsilon: float = 0.0,
    ) -> None:
        if (alpha is None) == (budget_events is None):
            raise ValueError("tests have a level or a budget: give one of alpha and budget_events")
        if alpha is not None and not 0 < alpha < 1:
            raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
        if budget_events is not None and not 1 <= budget_events < math.inf:
            raise ValueError(f"budget_events must be 1 or more, got {budget_events}")
        if not 0 <= epsilon < 1:
            raise ValueError(f"epsilon must be at least 0 and below 1, got {epsilon}")
        self.alpha = alpha
        self.budget_events = budget_events
        self.epsilon = epsilon
        self.rows = 0
        """Rows so far."""
        self._streams: list[tuple[str, str]] = []
        self._table = StreamTable(_NEW)

    def watch(self, pairs: Sequence[Pair]) -> None:
        """Say what is tested from the next row on; a test that is known goes on.

        With a budget the shares may be others each time, and a test that is left out stops. With a level the share of
        a test is what it was when it was first named, whether it is left out later or not.

        Raises
        ------
        ValueError
            A share is not in (0, 1], shares are more than 1 together, or a subject comes twice or with other streams.
        """
        known = dict(zip(self._table.names, self._streams, strict=True))
        for pair in pairs:
            if not (0 < pair.share <= 1 and pair.scale > 0):
                raise ValueError(
                    f"{pair.subject}: expected a share in (0, 1] and a scale above 0, got "
                    f"{pair.share} and {pair.scale}"
                )
            if known.get(pair.subject, pair[1:3]) != pair[1:3]:
                raise ValueError(f"{pair.subject} has compared other streams: name it otherwise")
        subjects = tuple(pair.subject for pair in pairs)
        if len(set(subjects)) < len(subjects):
            raise ValueError(f"each subject may come once, got {', '.join(subjects)}")
        new = [pair for pair in pairs if pair.subject not in known]
        total = sum(pair.share for pair in (pairs if self.alpha is None else new))
        if self.alpha is not None:
            total += float(self._table["share"][: len(known)].sum())
        if total > 1 + _ROUNDING:
            raise ValueError(f"shares must be at most 1 together, got {total:.4g}: scale them down")
        at = self._table.numbers(subjects)
        self._streams += [(pair.a, pair.b) for pair in new]
        s = self._table.arrays
        if self.budget_events is not None:
            s["share"][:] = 0.0
            s["share"][at] = [pair.share for pair in pairs]
            s["stake"][:] = s["share"] / self.budget_events
            s["evidence"][s["share"] == 0.0] = 0.0
        for pair in new:
            k = self._table.number(pair.subject)
            s["scale"][k], s["epsilon"][k] = pair.scale, self.epsilon / pair.scale
            s["totals"][k, ROWS] = self.rows
            s["begun"][k, :, ROWS] = self.rows
            if self.alpha is not None:
                s["share"][k] = pair.share
                s["evidence"][k] = self.alpha * pair.share / BETS

    def update(self, batch: Observations) -> list[Verdict]:
        """Take the rows in; return the gaps that are claimed, in their order."""
        found: list[Verdict] = []
        columns = self._columns(batch.names)
        tests, event = self._table.as_tuple(Tests), np.zeros(2, np.int64)
        row = test = 0
        while kernel.run(batch.values, columns, self.rows, row, test, tests, event):
            row, test = int(event[0]), int(event[1])
            found.append(self._alarm(test, int(batch.offsets[row]), int(batch.rows[row])))
            test += 1
        self.rows += len(batch)
        return found

    def _columns(self, names: tuple[str, ...]) -> Ints:
        """Return (tests, 2) the columns of each test's groups; -1 for none."""
        place = {name: column for column, name in enumerate(names)}
        found = [[place.get(name, -1) for name in pair] for pair in self._streams]
        return np.array(found, np.int64).reshape(-1, 2)

    def gap(self, subject: str) -> tuple[float, float, float] | None:
        """Return the gap over all pairs so far, and its interval at 95 %; None before the first pair."""
        k = self._table.number(subject)
        return None if k is None else self._gap(k, self._table["totals"][k])

    def progress(self, subject: str) -> Progress | None:
        """Return what is known of a gap by now, and what it takes to decide; None before the first pair."""
        k = self._table.number(subject)
        s = self._table.arrays
        if k is None or not s["totals"][k, COUNT_A]:
            return None
        one = {name: s[name][k] for name in ("totals", "pairs", "squares", "evidence")}
        return progress.of(
            **one,
            epsilon=float(s["epsilon"][k]),
            scale=float(s["scale"][k]),
            claimed=int(s["claimed"][k]),
        )

    def _gap(self, k: int, sums: Any) -> tuple[float, float, float] | None:
        """Return a mean of a less a mean of b, and that less and more 1.96 standard errors."""
        if not sums[COUNT_A]:
            return None
        s = self._table.arrays
        scale = float(s["scale"][k])
        size = float(sums[SUM_A] / sums[COUNT_A] - sums[SUM_B] / sums[COUNT_B])
        variance = (0.25 * PRIOR_PAIRS + s["squares"][k]) / (PRIOR_PAIRS + s["pairs"][k])
        half = _Z * math.sqrt(variance * (1 / sums[COUNT_A] + 1 / sums[COUNT_B]))
        low, high = max(size - half, -1.0), min(size + half, 1.0)
        return scale * size, scale * low, scale * high

    def _alarm(self, k: int, offset: int, row: int) -> Verdict:
        """Claim that a gap has opened; with a budget begin anew."""
        s = self._table.arrays
        evidence, share = float(s["evidence"][k].sum()), float(s["share"][k])
        best = int(s["evidence"][k].argmax())
        sums = s["totals"][k] - s["begun"][k, best]
        if not sums[COUNT_A]:  # the bet that has won most has just lost: over all pairs
            sums = s["totals"][k]
        size, low, high = self._gap(k, sums) or (0.0, 0.0, 0.0)
        scale = float(
            s["scale"][k]
        )  # of an outcome (1 + label - score) / 2 the label less the score is told
        ours, theirs = (scale * sums[at] / sums[at + 1] - (scale - 1) for at in (SUM_A, SUM_B))
        direction: Literal["up", "down"] = "up" if best < len(GAPS) else "down"
        s["claimed"][k] = 1 if direction == "up" else -1
        if self.alpha is not None:
            s["is_done"][k] = True
            statistic, threshold = evidence / (self.alpha * share), 1 / (self.alpha * share)
            chance, unit = None, "e-value"
            words = f"in one of {evidence / self.alpha:.1g} audits, whenever one looks"
        else:
            assert self.budget_events is not None
            threshold = self.budget_events / share
            statistic, unit = evidence * threshold, "Shiryaev-Roberts sum of bets"
            chance = evidence * self.budget_events
            words = f"once in {chance:.1g} events"
            s["evidence"][k], s["rise"][k] = 0.0, 1.0
            s["begun"][k] = s["totals"][k]
        return Verdict(
            detector="gap_test",
            subject=self._table.names[k],
            offset=offset,
            row=row,
            statistic=statistic,
            threshold=threshold,
            unit=unit,
            change=f"gap {direction}",
            size=size,
            delay_events=int(sums[ROWS]),
            chance_events=chance,
            evidence=(
                f"gap {size:+.3f} ({low:+.3f} to {high:+.3f}), {ours:.3f} against {theirs:.3f} over "
                f"{sums[COUNT_A]:.0f} and {sums[COUNT_B]:.0f} events; would happen by chance {words}"
            ),
        )

    def snapshot(self) -> bytes:
        """Return the whole state."""
        names, arrays = self._table.state()
        streams = [list(pair) for pair in self._streams]
        meta = {"names": names, "streams": streams, "rows": self.rows, "level": self.alpha or 0.0}
        return pack("gap_test", 1, meta, arrays)

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot of tests with the same level, or with any budget.

        Raises
        ------
        StateError
            It is damaged, of another version, or of tests with another level.
        """
        meta, arrays = unpack("gap_test", 1, state)
        with reading("gap_test"):
            if meta["level"] != (self.alpha or 0.0):
                raise StateError(
                    f"the snapshot of gap_test has level {meta['level']}, expected "
                    f"{self.alpha or 0.0}"
                )
            streams, rows = [(str(a), str(b)) for a, b in meta["streams"]], int(meta["rows"])
            if len(streams) != len(meta["names"]):
                raise StateError("the snapshot of gap_test lacks the streams of a test")
            first, held = arrays["first"], arrays["held"]
            full = np.arange(SLOTS) < held[:, None]
            place = (first[:, None] + np.arange(SLOTS)) % SLOTS
            count = np.take_along_axis(arrays["waiting_count"], place, axis=1)
            inside = (first >= 0) & (first < SLOTS) & (held >= 0) & (held <= SLOTS)
            if not (inside.all() and (count[full] > 0).all()):
                raise StateError("the snapshot of gap_test holds a queue that cannot be")
            self._table.load(meta["names"], arrays)
        self._streams, self.rows = streams, rows
