"""The loop of the gap tests: outcomes of two groups become pairs, and pairs are bet on."""

# numba decides what is a number and what an array's element:
# pyright: reportArgumentType=false, reportReturnType=false
# mypy: disable-error-code="arg-type,assignment,return-value"

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.columns import Floats, Ints
from .compiled import compiled, inlined

SLOTS: Final = 4
"""Means that wait for an event of the other group. Against pairing one to one, of groups of one size, 1 finds a gap
20 % later and 4 finds it 3 % later; with 64 a rate of both that jumps passes for a gap (see docs/bias.md)."""
GAPS: Final = np.array([0.02, 0.05, 0.12, 0.3])
"""Gaps beyond epsilon that are bet on, in equal stakes. Five to eight bets find none of seven gaps from 0.02 to 0.3
more than 3 % sooner; online Newton steps take 18 % more events to a gap of 0.05 (`bench bias`)."""
BETS: Final = 2 * len(GAPS)
"""Bets of a test: upwards, then downwards."""
SUM_A, COUNT_A, SUM_B, COUNT_B, ROWS = range(5)
"""Columns of totals: outcomes and events of either group that have been paired, and rows so far."""
PRIOR_PAIRS: Final = 4.0
"""Pairs of variance 1/4, the largest there is, that the spread of outcomes begins with."""
_BOLDEST: Final = 0.9  # of what a bet may stake: a pair that goes against it leaves it a tenth
_LARGEST_STAKE: Final = 1e-3  # of an alarm, on one pair, however many outcomes are in it


class Tests(NamedTuple):
    """State of the tests, one row each.

    Parameters
    ----------
    side
        Whose outcomes wait: 1 the first group's, -1 the second's.
    first, held
        The slot that waits longest, and how many are filled.
    waiting, waiting_count
        (tests, SLOTS) sum and number of the outcomes in each slot.
    pairs, squares
        Pairs so far and the sum of their squared differences, each in units of its own variance.
    evidence
        (tests, BETS) what each bet has won, in units of an alarm.
    rise
        (tests, BETS) the CUSUM of each bet: what it has won since it last had nothing.
    begun
        (tests, BETS, 5) totals as of then.
    totals
        (tests, 5) sums over what has been paired.
    stake
        What is staked on an outcome, over all bets; 0 where all was staked at the start.
    epsilon
        The gap that is nobody's concern, as a difference of outcomes.
    is_done
        Whether a test that only speaks once has spoken.
    """

    side: Ints
    first: Ints
    held: Ints
    waiting: Floats
    waiting_count: Ints
    pairs: Floats
    squares: Floats
    evidence: Floats
    rise: Floats
    begun: Floats
    totals: Floats
    stake: Floats
    epsilon: Floats
    is_done: NDArray[np.bool_]


@inlined
def _take(outcome: float, side: int, rows: int, t: int, tests: Tests) -> bool:
    """Take one outcome in: it waits, or is paired with the slot that waits longest; return whether that is an alarm."""
    waiting, count = tests.waiting[t], tests.waiting_count[t]
    if tests.held[t] == 0 or tests.side[t] == side:
        tests.side[t] = side
        place = tests.first[t]
        if tests.held[t] < SLOTS:
            place = (tests.first[t] + tests.held[t]) % SLOTS
            tests.held[t] += 1
        else:  # to the slot with the fewest, of these to the one that waits longest
            for k in range(1, SLOTS):
                other = (tests.first[t] + k) % SLOTS
                if count[other] < count[place]:
                    place = other
        waiting[place] += outcome
        count[place] += 1
        return False
    place = tests.first[t]
    total, of = waiting[place], count[place]
    waiting[place], count[place] = 0.0, 0
    tests.first[t] = (place + 1) % SLOTS
    tests.held[t] -= 1
    return _bet(
        side * (outcome - total / of), 1.0 + 1.0 / of, outcome, total, of, side, rows, t, tests
    )


@inlined
def _bet(
    difference: float, spread: float, outcome: float, total: float, of: int, side: int, rows: int,
    t: int, tests: Tests,
) -> bool:  # fmt: skip
    """Bet on the difference of a pair, the variance of which is `spread` times an outcome's."""
    variance = (0.25 * PRIOR_PAIRS + tests.squares[t]) / (PRIOR_PAIRS + tests.pairs[t])
    totals, rise = tests.totals[t], tests.rise[t]
    stake = min(tests.stake[t] * (1 + of), _LARGEST_STAKE) / BETS
    at = SUM_A if side > 0 else SUM_B
    totals[at] += outcome
    totals[at + 1] += 1
    totals[SUM_A + SUM_B - at] += total
    totals[SUM_A + SUM_B - at + 1] += of
    totals[ROWS] = rows
    epsilon = tests.epsilon[t]
    boldest, won = _BOLDEST / (1.0 + epsilon), 0.0
    for k in range(BETS):
        gap = GAPS[k % len(GAPS)]
        beyond = (difference if k < len(GAPS) else -difference) - epsilon
        factor = 1.0 + min(gap / (variance * spread + gap * gap), boldest) * beyond
        tests.evidence[t, k] = (tests.evidence[t, k] + stake) * factor
        won += tests.evidence[t, k]
        if stake > 0.0:
            rise[k] *= factor
            if rise[k] <= 1.0:
                rise[k] = 1.0
                for column in range(len(totals)):
                    tests.begun[t, k, column] = totals[column]
    tests.pairs[t] += 1.0
    tests.squares[t] += difference * difference / spread
    return won >= 1.0 and not tests.is_done[t]


@compiled
def run(
    values: Floats, columns: Ints, rows_before: int, row: int, test: int, tests: Tests, event: Ints
) -> bool:  # fmt: skip
    """Go on at a row and a test up to the next alarm; return whether there is one.

    Parameters
    ----------
    values
        (n, k) outcomes; what is not within [0, 1] is none. Those of both groups in one row are a pair.
    columns
        (tests, 2) the column of either group, below 0 for none.
    rows_before
        Rows before the first of these.
    row, test
        Where to go on.
    tests
        The state, which is changed.
    event
        (2,) becomes row and test of the alarm.
    """
    while row < values.shape[0]:
        while test < columns.shape[0]:
            is_alarm = False
            a, b = columns[test, 0], columns[test, 1]
            has_a = a >= 0 and 0.0 <= values[row, a] <= 1.0
            has_b = b >= 0 and 0.0 <= values[row, b] <= 1.0
            if has_a and has_b:  # of one request: a pair by itself, whoever waits
                one, other = values[row, a], values[row, b]
                is_alarm = _bet(
                    one - other, 2.0, one, other, 1, 1, rows_before + row + 1, test, tests
                )
            elif has_a or has_b:
                outcome = values[row, a] if has_a else values[row, b]
                side = 1 if has_a else -1
                is_alarm = _take(outcome, side, rows_before + row + 1, test, tests)
            if is_alarm:
                event[0], event[1] = row, test
                return True
            test += 1
        test = 0
        row += 1
    return False
