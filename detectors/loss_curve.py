"""What is wrong with a loss as it comes, batch by batch: spikes, divergence, a plateau, numbers that are none."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import numpy as np

from ..core.verdict import Summary, Verdict
from .early_rise import EarlyRise
from .first_claims import AGAIN, FirstClaims
from .surges import Surges

NAME: Final = "loss_curve"
_LEARNT: Final = 0.5
"""A loss that has come below this share of what it began with has learnt something: then rest is not a plateau."""
_STILL: Final = 0.01
"""A fall of less than this share of the beginning is none."""
_LEVEL: Final = 32  # losses whose median is the level
_RECORD: Final = 3.0
"""Times the largest loss so far, of a loss that had learnt, that are a spike; chosen: in 160 healthy trainings of four kinds of nets (96,000 batches of 16 to
64 samples) the largest record was 1.2 times, and in 120 with batches of 1 to 8 that did not diverge 2.5 times."""
_FAR: Final = 2.0  # robust scales above the usual loss, that a record must be
_BACK: Final = 1.5
"""Of such scales, the mean of five losses and their median, that one which is back where it began must be as well: with batches of 4 some come there by
chance, of heavy-tailed targets one alone makes the mean."""
_SHARE: Final = 0.1
"""Of the losses since it had learnt, so many where it began and more are chance: of heavy-tailed targets, a quarter; chosen."""
_LASTING_RECORD: Final = 1.5
"""A record of so many times among the last five losses, whose mean is `_FAR` scales above the usual one, is a divergence."""


class LossCurve:
    """Watches one loss.

    Parameters
    ----------
    plateau_steps
        A plateau is so many batches without a fall of the mean, against as many before, of a loss that is still above half of what it began
        with. A loss that has learnt and rests is no plateau, as it is how training ends.

    Raises
    ------
    ValueError
        `plateau_steps` is below 20.

    Notes
    -----
    Of a change that lasts its beginning is claimed, and again every 50 batches, until 20 were without it.

    Examples
    --------
    >>> from tocsin.detectors.loss_curve import LossCurve
    >>> curve = LossCurve()
    >>> [v.change for step in range(100) for v in curve.update(step, 2.3 * 0.97**step)]
    []
    >>> [v.change for v in curve.update(100, float("nan"))]
    ['non-finite']
    """

    def __init__(self, plateau_steps: int = 300) -> None:
        if plateau_steps < 20:
            raise ValueError(f"plateau_steps must be 20 batches or more, got {plateau_steps}")
        self.plateau_steps = plateau_steps
        self._surges = Surges(settled=_LEARNT, mean=True)
        self._early = EarlyRise()
        self._recent: list[float] = []
        self._first = FirstClaims(AGAIN)
        self._latest: deque[float] = deque(maxlen=_LEVEL)
        self._has_learnt = False
        # Losses since it had learnt that were not lost again, and those of them that are where it began.
        self._since = self._above = 0
        self._largest = 0.0
        self._records: deque[float] = deque(maxlen=5)

    def update(self, step: int, loss: float) -> list[Verdict]:
        """Take the loss of batch number `step` in; return what is wrong with it."""
        if not math.isfinite(loss):
            return self._once(step, "non-finite", loss, math.inf, "a loss", f"the loss is {loss}")
        found: list[Verdict] = []
        surge = self._surges.update(loss)
        if surge is not None:
            change = "spike" if surge.kind == "spike" else "divergence"
            evidence = f"{loss:.4g}, {surge.statistic:.1f} scales above {surge.usual:.4g}"
            found += self._once(
                step, change, surge.statistic, surge.threshold, "robust scales of log loss", evidence,
                Summary(count=self._surges.count, mean=surge.usual), Summary(count=1, mean=loss),
            )  # fmt: skip
        rise = self._early.update(loss)
        if rise is not None:
            found += self._once(
                step, "divergence", rise.statistic, rise.threshold, "robust scales of log loss, of a run that begins",
                f"{loss:.4g}, {rise.statistic:.1f} scales above {rise.usual:.4g}", None, Summary(count=1, mean=loss),
            )  # fmt: skip
        return (
            found + self._undone(step, loss) + self._record(step, loss) + self._plateau(step, loss)
        )

    def _undone(self, step: int, loss: float) -> list[Verdict]:
        """Return whether a loss that had learnt is where it began: where single batches differ by factors, its own scale is too wide to tell that."""
        start = self._surges.start or 0.0
        self._latest.append(loss)
        if start > 0.0 and not self._has_learnt and len(self._latest) == _LEVEL:
            self._has_learnt = bool(np.median(self._latest) < _LEARNT * start)
        if not self._has_learnt:
            return []
        if not self._is_back(loss, start):
            self._since += 1
            self._above += loss >= start
            return []
        return self._once(
            step, "divergence", loss / start, 1.0, "times the first losses",
            f"{loss:.4g}, began at {start:.4g} and had come below half of that",
            Summary(count=5, mean=start), Summary(count=1, mean=loss),
        )  # fmt: skip

    def _is_back(self, loss: float, start: float) -> bool:
        """Return whether the latest losses are where it began, and that is no chance."""
        latest = list(self._latest)
        if loss < start or sum(value >= start for value in latest[-5:]) < 4:
            return False
        far = self._surges.far
        if min(np.mean(far), np.median(far)) >= _BACK:
            latest = latest[-5:]
        elif np.median(latest) < start:
            # Of losses that differ much, a few; 32 whose median is there are no chance.
            return False
        usually = self._above - sum(value >= start for value in latest)
        return usually <= _SHARE * max(self._since - len(latest), 0)

    def _record(self, step: int, loss: float) -> list[Verdict]:
        """Return whether a loss that had learnt is larger than any before: where batches differ much, only that tells."""
        largest, self._largest = self._largest, max(self._largest, loss)
        self._records.append(loss / largest if largest > 0.0 else 1.0)
        if not self._has_learnt:
            return []
        record, far = self._records[-1], self._surges.far
        mean = float(np.mean(far))
        if record >= _RECORD and far[-1] >= _FAR:
            said = ("spike", record, _RECORD, "times the largest loss so far")
        elif max(self._records) >= _LASTING_RECORD and mean >= _FAR:
            said = ("divergence", mean, _FAR, "robust scales of log loss, mean of five")
        else:
            return []
        evidence = f"{loss:.4g} now, up to {max(self._records):.1f} times the largest loss before in the last five batches"
        return self._once(step, *said, evidence, None, Summary(count=1, mean=loss))

    def _plateau(self, step: int, loss: float) -> list[Verdict]:
        self._recent.append(loss)
        if len(self._recent) < 2 * self.plateau_steps:
            return []
        before = np.array(self._recent[: self.plateau_steps])
        now = np.array(self._recent[self.plateau_steps :])
        del self._recent[: self.plateau_steps // 4]  # looked at four times in `plateau_steps`
        start = self._surges.start or 0.0
        fall = float(before.mean() - now.mean())
        error = math.sqrt((before.var() + now.var()) / self.plateau_steps)
        level = float(np.median(now))
        if start <= 0.0 or level < _LEARNT * start or fall > max(2 * error, _STILL * start):
            return []
        return self._once(
            step, "plateau", fall, max(2 * error, _STILL * start), "fall of the mean loss",
            f"{level:.4g}, began at {start:.4g}, no fall in {self.plateau_steps} batches",
            Summary(count=len(before), mean=float(before.mean()), std=float(before.std())),
            Summary(count=len(now), mean=float(now.mean()), std=float(now.std())),
        )  # fmt: skip

    def _once(
        self, step: int, change: str, statistic: float, threshold: float, unit: str, evidence: str,
        reference: Summary | None = None, current: Summary | None = None,
    ) -> list[Verdict]:  # fmt: skip
        """Return a claim, unless it is more of the last one."""
        rest = self.plateau_steps if change == "plateau" else 20
        if not self._first.is_first(change, step, rest):
            return []
        return [
            Verdict(
                detector=NAME, subject="loss", offset=step, row=0, statistic=statistic,
                threshold=threshold, unit=unit, change=change, evidence=evidence,
                reference=reference, current=current,
            )
        ]  # fmt: skip
