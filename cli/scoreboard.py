"""What `tocsin backtest` prints for people: the table of scores, and each detector's alarms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.table import Table

from ..detectors.evaluation import Score
from ..detectors.matching import Change
from .blocks import Blocks
from .console import plain_console, printable, table_of
from .contestant import Alarm, Result

_SHOWN: Final = 10  # alarms of one detector, unless all are asked for
_WIDTH: Final = 120  # characters that the table of scores needs


class Scoreboard:
    """Prints to a console; a narrow one is left to fold lines itself."""

    def __init__(self) -> None:
        self._console = plain_console()
        self._console.width = max(self._console.width, _WIDTH)

    def file(self, file: Path, blocks: Blocks) -> None:
        """Say what was read."""
        self._print(f"{file.name}: {blocks.rows:,} rows, {', '.join(blocks.streams)}")
        for reason in sorted(set(blocks.left_out.values())):
            names = [name for name, why in blocks.left_out.items() if why == reason]
            self._print(f"left out, {reason}: {', '.join(names)}")
        for name, count in blocks.odd.items():
            what = "no text" if f"category:{name}" in blocks.streams else "text"
            self._print(f"{name}: {count:,} cells of {what} count as missing")

    def unwatched_gaps(self) -> None:
        """Say that values are missing and none of the detectors minds."""
        self._print("missing values: only stream_monitor watches them")

    def rule(self, changes: Sequence[Change] | None, tolerance: int, merge: int) -> None:
        """Say what counts as found, and what as one alarm."""
        said = []
        if changes is not None:
            where = ", ".join(
                f"{change.start:,}-{change.end:,}" if change.width else f"{change.start:,}"
                for change in changes
            )
            said += [f"drifts: {where or 'none'}", f"found within {tolerance:,} rows"]
        if merge:
            said.append(f"alarms less than {merge:,} rows apart are one")
        if said:
            self._print("; ".join(said))

    def results(self, results: Sequence[Result]) -> None:
        """Print the table, one detector a row."""
        is_scored = any(result.score.changes is not None for result in results)
        self._console.print()
        self._console.print(_scores(results) if is_scored else _counts(results))

    def alarms(self, result: Result, *, show_all: bool) -> None:
        """Print the alarms of one detector."""
        if not result.episodes:
            return
        most = len(result.episodes) if show_all else _SHOWN
        self._console.print()
        self._print(result.name)
        self._console.print(_alarms(result, most))
        if len(result.episodes) > most:
            self._print(f"and {len(result.episodes) - most:,} more; --all shows them")

    def _print(self, line: str) -> None:
        self._console.print(printable(line), soft_wrap=True)


def _scores(results: Sequence[Result]) -> Table:
    table = table_of(
        "detector", "alarms", "hits", "false", "late", "precision", "recall", "F1", "delay", "p90",
        "NDT", "MTD", "MTFA", "MTR", left=["detector"],
    )  # fmt: skip
    for result in results:
        s = result.score
        table.add_row(
            result.name, f"{s.alarms:,}", f"{s.hits}/{s.changes}", f"{s.false:,}", f"{s.late:,}",
            _share(s.precision), _share(s.recall), _share(s.f1), _count(s.delay_median),
            _count(s.delay_p90), _share(s.normalised_detection_time), _count(s.mtd), *_ratios(s),
        )  # fmt: skip
    return table


def _ratios(s: Score) -> tuple[str, str]:
    """Return MTFA and MTR; without a false alarm what they are above."""
    if s.false:
        return _count(s.mtfa), _count(s.mtr)
    is_known = s.mtd is not None and s.mtd > 0 and s.mdr is not None
    above = f">{s.rows / s.mtd * (1 - s.mdr):,.0f}" if is_known else "-"  # type: ignore[operator]
    return f">{s.rows:,}", above


def _counts(results: Sequence[Result]) -> Table:
    table = table_of("detector", "alarms", "rows an alarm", left=["detector"])
    for result in results:
        s = result.score
        between = _count(s.rows_per_alarm) if s.alarms else f">{s.rows:,}"
        table.add_row(result.name, f"{s.alarms:,}", between)
    return table


def _alarms(result: Result, most: int) -> Table:
    is_judged = result.score.changes is not None
    are_merged = any(episode.members > 1 for episode in result.episodes)
    titles = [
        "row", "stream", "change", "evidence", *(["merged"] if are_merged else []),
        *(["outcome", "delay"] if is_judged else []),
    ]  # fmt: skip
    table = table_of(*titles, left=["stream", "change", "evidence", "outcome"])
    for alarm, members, judged in result.episodes[:most]:
        cells = [f"{alarm.row:,}", printable(alarm.stream), _change(alarm), alarm.evidence]
        if are_merged:
            cells.append(f"{members} alarms" if members > 1 else "-")
        if judged is not None:
            cells += [judged.outcome, _count(judged.delay)]
        table.add_row(*cells)
    return table


def _change(alarm: Alarm) -> str:
    return printable(" ".join([alarm.change, ", ".join(alarm.newcomers)]).strip()) or "-"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
