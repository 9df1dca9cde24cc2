"""How sure each look of many has to be, so that all together raise a false alarm as seldom as is wanted."""

from __future__ import annotations

from scipy.special import ndtri


class Looks:
    """Shares a level among looks of which nobody knows how many there will be.

    The j-th look has `alpha` / (j (j + 1)), and these add up to `alpha`: whatever depends on whatever, the chance of a false claim in any of
    them is at most that (Bonferroni).

    Parameters
    ----------
    alpha
        The chance of a false claim, of all looks together.

    Raises
    ------
    ValueError
        `alpha` is not within (0, 1).

    Examples
    --------
    >>> from tocsin.detectors.looks import Looks
    >>> looks = Looks(0.01)
    >>> [round(looks.next(), 5) for _ in range(3)]
    [0.005, 0.00167, 0.00083]
    """

    def __init__(self, alpha: float) -> None:
        if not 0 < alpha < 1:
            raise ValueError(
                f"alpha must be within (0, 1), got {alpha}; 0.001 is one false claim in a thousand runs"
            )
        self.alpha = alpha
        self._count = 0

    def next(self) -> float:
        """Return the level of the next look."""
        self._count += 1
        return self.alpha / (self._count * (self._count + 1))


def deviations(level: float, comparisons: int = 1) -> float:
    """Return how many standard errors from 0 a normal number comes on either side with a chance of `level` in any of `comparisons`.

    Examples
    --------
    >>> round(deviations(0.05), 2), round(deviations(0.05, 10), 2)
    (1.96, 2.81)
    """
    return float(-ndtri(level / max(comparisons, 1) / 2))
