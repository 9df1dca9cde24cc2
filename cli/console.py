"""What verbs print with: a plain console, its tables, and text that cannot steer a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to `main`, which ends all verbs alike when nobody reads on."""
        raise BrokenPipeError


def plain_console() -> Console:
    """Return a console that prints text as it is."""
    return _Console(highlight=False, markup=False, emoji=False)


def table_of(*titles: str, left: Sequence[str]) -> Table:
    """Return a table without rows; columns that are not `left` are numbers, which are never folded."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title in titles:
        table.add_column(
            title, justify="left" if title in left else "right", no_wrap=title not in left,
            overflow="fold",
        )  # fmt: skip
    return table


def printable(text: str) -> str:
    """Return text from a file without what would steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
