"""Of a change that lasts only its beginning is claimed, or only that it has lasted."""

from __future__ import annotations

from typing import Final

AGAIN: Final = 50
"""Steps after which a change of each batch that lasts is claimed again: an incident of training rests for 100 before it is over."""


class FirstClaims:
    """Remembers when each change was last there.

    Parameters
    ----------
    again
        A change that lasts is claimed again after so many steps; None for once.

    Examples
    --------
    >>> from tocsin.detectors.first_claims import FirstClaims
    >>> claims = FirstClaims()
    >>> [claims.is_first("spike", step, 20) for step in (0, 15, 30, 60)]
    [True, False, False, True]
    """

    def __init__(self, again: int | None = None) -> None:
        self._again = again
        self._last: dict[str, int] = {}
        self._claimed: dict[str, int] = {}

    def is_first(self, change: str, step: int, rest: int) -> bool:
        """Return whether `change`, which is there at `step`, was not there for more than `rest` steps."""
        last = self._last.get(change)
        self._last[change] = step
        is_first = last is None or step - last > rest
        if not is_first and (self._again is None or step - self._claimed[change] < self._again):
            return False
        self._claimed[change] = step
        return True


class LastingClaims:
    """Of a change that is looked for again and again only one that is there several times in a row is claimed, and once while it lasts.

    Parameters
    ----------
    looks
        In a row, that it must be there in.

    Examples
    --------
    >>> from tocsin.detectors.first_claims import LastingClaims
    >>> claims = LastingClaims(looks=2)
    >>> [claims.is_first("gap", there, k) for k, there in enumerate((True, False, True, True, True))]
    [False, False, False, True, False]
    """

    def __init__(self, looks: int) -> None:
        self._looks = looks
        self._in_a_row: dict[str, int] = {}
        self._claims = FirstClaims()

    def is_first(self, change: str, is_there: bool, step: int) -> bool:
        """Return whether `change` is claimed at `step`: it has lasted, and was not claimed at the one before."""
        count = self._in_a_row[change] = self._in_a_row.get(change, 0) + 1 if is_there else 0
        return count >= self._looks and self._claims.is_first(change, step, 1)
