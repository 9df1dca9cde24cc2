"""Of a change that lasts only its beginning is claimed."""

from __future__ import annotations


class FirstClaims:
    """Remembers when each change was last there.

    Examples
    --------
    >>> from tocsin.detectors.first_claims import FirstClaims
    >>> claims = FirstClaims()
    >>> [claims.is_first("spike", step, 20) for step in (0, 15, 30, 60)]
    [True, False, False, True]
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def is_first(self, change: str, step: int, rest: int) -> bool:
        """Return whether `change`, which is there at `step`, was not there for more than `rest` steps."""
        last = self._last.get(change)
        self._last[change] = step
        return last is None or step - last > rest
