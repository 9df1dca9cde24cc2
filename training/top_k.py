"""Which checkpoints are kept: Lightning's rule, as numbers and names. No file is touched here."""

from __future__ import annotations

import math
from typing import Literal

Mode = Literal["min", "max"]


class TopK:
    """The `k` best scores and their names, in the order in which they were saved.

    Of equal scores the oldest is the best, and the oldest is given up. A score that is as good as the worst kept one is not
    taken. NaN counts as the worst score there is, and is taken only while there is room.

    Parameters
    ----------
    k
        How many; -1 for all, 0 for none.
    mode
        Whether small or large scores are good.
    """

    def __init__(self, k: int, mode: Mode) -> None:
        self.k = k
        self.mode: Mode = mode
        self.scores: dict[str, float] = {}

    def takes(self, score: float | None) -> bool:
        """Whether a score is among the best."""
        if score is None or self.k == 0:
            return False
        if self.k == -1 or len(self.scores) < self.k:
            return True
        worst = self.scores[self.worst]
        return score < worst if self.mode == "min" else score > worst

    @property
    def best(self) -> str:
        """Name of the best; empty where there is none."""
        if not self.scores:
            return ""
        return (min if self.mode == "min" else max)(self.scores, key=self.scores.__getitem__)

    @property
    def worst(self) -> str:
        """Name of the worst; empty where there is none."""
        if not self.scores:
            return ""
        return (max if self.mode == "min" else min)(self.scores, key=self.scores.__getitem__)

    @property
    def leaving(self) -> str:
        """Name of what goes when one more comes; empty where there is room."""
        return self.worst if 0 < self.k <= len(self.scores) else ""

    @property
    def reusable(self) -> str:
        """Name that the next file may have although it is taken."""
        return self.leaving

    def add(self, name: str, score: float | None) -> None:
        """Take a score that `takes` said is among the best, in place of what is leaving."""
        self.scores.pop(self.leaving, None)
        worst = math.inf if self.mode == "min" else -math.inf
        self.scores[name] = worst if score is None or math.isnan(score) else score


class Newest:
    """What is kept where nothing is monitored: the newest (`k` 1), all (-1), none (0). `scores` has NaN for each."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.scores: dict[str, float] = {}

    def takes(self, score: float | None) -> bool:  # noqa: ARG002 - as of `TopK`
        """Whether anything is kept."""
        return self.k != 0

    @property
    def best(self) -> str:
        """Name of the newest; empty where there is none."""
        return next(reversed(self.scores), "")

    @property
    def worst(self) -> str:
        """Name of the oldest; empty where there is none."""
        return next(iter(self.scores), "")

    @property
    def leaving(self) -> str:
        """Name of what goes when one more comes."""
        return self.worst if self.k == 1 else ""

    @property
    def reusable(self) -> str:
        """Name that the next file may have although it is taken."""
        return self.best

    def add(self, name: str, score: float | None) -> None:  # noqa: ARG002 - as of `TopK`
        """Keep one more, in place of what is leaving."""
        self.scores.pop(self.leaving, None)
        self.scores.pop(name, None)
        self.scores[name] = math.nan
