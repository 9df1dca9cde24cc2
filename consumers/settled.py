"""Whether the labels that come are such as will always come, or only the quick ones so far."""

# numba decides what is a number and what an array's element:
# pyright: reportReturnType=false, reportArgumentType=false

from __future__ import annotations

from typing import Final

from ..core.columns import Ints
from ..detectors.compiled import compiled

_TIMES: Final = 2.5
"""Times its delay that a label's log must have lasted; of a log that has lasted less, slower ones cannot have come. Chosen, as in `label_watch`."""
_SHARE: Final = 0.05  # of labels that may still be slower than that
_LATEST: Final = 100  # labels over which that is an average


class Settled:
    """Tells from which pair on outcomes may be watched.

    A young log has the labels of the quick alone, and where what is quick depends on the label, as of a fraud that is reported after weeks, error rates move
    until the slow ones are there, although nothing has changed. So nothing is watched before 19 of 20 of the latest labels took less
    than 1 / 2.5 of the time since the first prediction that has one. Labels that come with their predictions are watched from the first on.

    Attributes
    ----------
    state
        Whether it is so, for good; the time of the first prediction with a label, ns, -1 for none; the average; labels so far.
    """

    def __init__(self) -> None:
        self.state: tuple[bool, int, float, int] = False, -1, 0.0, 0

    def first(self, times: Ints, lag: Ints) -> int:
        """Return the first of pairs (n,), in the order of the log, from which on outcomes may be watched; n if there is none.

        Parameters
        ----------
        times, lag
            When the label was observed, and how long after its prediction, in nanoseconds.
        """
        is_settled, since, slow, pairs = self.state
        if is_settled:
            return 0
        place, since, slow, pairs = _first(times, lag, since, slow, pairs)
        self.state = bool(place < len(times)), int(since), float(slow), int(pairs)
        return int(place)


@compiled
def _first(
    times: Ints, lag: Ints, since: int, slow: float, pairs: int
) -> tuple[int, int, float, int]:
    for i in range(len(times)):
        made = times[i] - lag[i]
        since = made if pairs == 0 else min(since, made)
        pairs += 1
        is_slow = 1.0 if _TIMES * lag[i] > times[i] - since else 0.0
        slow += (is_slow - slow) / min(pairs, _LATEST)
        if slow <= _SHARE:
            return i, since, slow, pairs
    return len(times), since, slow, pairs
