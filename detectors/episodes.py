"""Alarms of one statistic, block after block, to one course: it opens, goes on, and comes to rest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

from ..core.columns import Floats

NEVER: Final = 1 << 62
JOIN_BLOCKS: Final = 52
"""A stream that opens so soon after an incident's beginning belongs to it: on Elec2, 2,500 rows."""

Key = tuple[int, int]
"""A stream's number and which of its statistics."""


class Episode(NamedTuple):
    """An open change: blocks of its first and latest alarm, the level before, and the furthest since."""

    opened: int
    alarmed: int
    before: float
    furthest: float


class Step(NamedTuple):
    """What a block does to a change: `blocks` is for how long it has been open, or at rest if it settles."""

    key: Key
    phase: Literal["opened", "moved", "settled"]
    outcome: Literal["", "returned", "new regime", "unsettled"]
    blocks: int
    before: float


class Episodes:
    """The open changes.

    Parameters
    ----------
    gap
        A change has settled after so many blocks without an alarm. It has `returned` if the level is
        nearer to the one before than to the furthest of an alarm, else it is a `new regime`.
    longest
        A change that is open for so many blocks is given up as `unsettled`, or a stream that never comes
        to rest would be mute for ever.
    """

    def __init__(self, gap: int, longest: int) -> None:
        if not 1 <= gap <= longest:
            raise ValueError(
                "a change settles after 1 block or more, and after at most as many as it may last, got "
                f"{gap} and {longest}"
            )
        self.gap = gap
        self.longest = longest
        self.open: dict[Key, Episode] = {}
        self.due = NEVER
        """The first block at which a change may end."""

    def step(
        self, block: int, alarms: dict[Key, tuple[float, float]], levels: Floats
    ) -> list[Step]:
        """Take one block in; return what it does, in the order of streams.

        Parameters
        ----------
        block
            Its number.
        alarms
            Alarms of the block: the level now and the level before.
        levels
            (k, s) levels of all streams now, NaN where there is none.
        """
        done = []
        for key in sorted({*alarms, *self.open}):
            now, alarm = self.open.get(key), alarms.get(key)
            if now is None:
                assert alarm is not None
                self.open[key] = Episode(block, block, alarm[1], alarm[0])
                done.append(Step(key, "opened", "", 0, alarm[1]))
            elif block - now.opened >= self.longest:
                done.append(Step(key, "settled", "unsettled", block - now.opened, now.before))
                del self.open[key]
            elif alarm is not None:
                before = now.before
                furthest = max(now.furthest, alarm[0], key=lambda level: abs(level - before))
                self.open[key] = now._replace(alarmed=block, furthest=furthest)
                done.append(Step(key, "moved", "", block - now.opened, now.before))
            elif block - now.alarmed >= self.gap:
                outcome = _outcome(now, float(levels[key]))
                done.append(Step(key, "settled", outcome, block - now.alarmed, now.before))
                del self.open[key]
        self._look_ahead()
        return done

    def _look_ahead(self) -> None:
        ends = (min(e.opened + self.longest, e.alarmed + self.gap) for e in self.open.values())
        self.due = min(ends, default=NEVER)

    def state(self) -> list[list[float]]:
        """Return what `load` takes."""
        return [[*key, *episode] for key, episode in self.open.items()]

    def load(self, state: Sequence[Sequence[float]]) -> None:
        """Go on from `state`."""
        self.open = {
            (int(k), int(s)): Episode(int(opened), int(alarmed), before, furthest)
            for k, s, opened, alarmed, before, furthest in state
        }
        self._look_ahead()


def _outcome(episode: Episode, level: float) -> Literal["returned", "new regime", "unsettled"]:
    if math.isnan(level):
        return "unsettled"  # the stream has ended: nobody knows
    returned = abs(level - episode.before) < abs(level - episode.furthest)
    return "returned" if returned else "new regime"


def incidents(opened: Iterable[int], join: int = JOIN_BLOCKS) -> list[int]:
    """Return which of the blocks, rising, at which streams opened begin an incident; others join one."""
    begun: list[int] = []
    for block in opened:
        if not begun or block - begun[-1] > join:
            begun.append(block)
    return begun
