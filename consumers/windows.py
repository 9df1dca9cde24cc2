"""The window that ends with the newest cohort: which groups' are to be written, and the sum of their cohorts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ..core.columns import Ints
from .cohort_table import Cohort, CohortTable

FIELD: Final = "window"
"""In place of a cohort's begin, in the name of the field that holds a row."""


class Windows:
    """The windows of one model in one partition, by environment and group. All follows from the cohorts: there is no state.

    Parameters
    ----------
    cohorts
        How many a window has.
    """

    def __init__(self, cohorts: int) -> None:
        self._cohorts = cohorts
        self._newest: dict[int, int] = {}  # by environment the span that windows end with
        self._changed: dict[tuple[int, int], None] = {}  # in the order in which they changed

    def __bool__(self) -> bool:
        """Whether any has changed since it was taken."""
        return bool(self._changed)

    def note(self, environment: int, table: CohortTable, changed: Iterable[Cohort]) -> None:
        """Note which cohorts have changed: a window does when one of its own did, and all do when a new one begins."""
        if table.newest != self._newest.get(environment):
            self.note_all(environment, table)
            return
        spans = self.spans(table)
        groups = (cohort.group for cohort in changed if cohort.span in spans)
        self._changed.update(((environment, group), None) for group in groups)

    def note_all(self, environment: int, table: CohortTable) -> None:
        """Note that all of an environment are to be written."""
        self._newest[environment] = table.newest
        self._changed.update(((environment, group), None) for group in table.groups)

    def take(self, most: int) -> list[tuple[int, int]]:
        """Return up to `most` environments and groups of which the window is to be written."""
        taken = list(self._changed)[:most]
        for key in taken:
            del self._changed[key]
        return taken

    def spans(self, table: CohortTable) -> range:
        """Return the spans of the window."""
        return range(table.newest - self._cohorts + 1, table.newest + 1)

    def rows(self, table: CohortTable, group: int) -> Iterator[tuple[Cohort, Ints]]:
        """Yield the cohorts of a group's window."""
        for span in self.spans(table):
            row = table.get(Cohort(span, group))
            if row is not None:
                yield Cohort(span, group), row
