"""`tocsin metrics`: performance by cohort and by group, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..consumers import metric_series
from ..consumers.redis_store import connect
from ..consumers.refusals import UNKNOWN
from ..consumers.settings import load
from ..core.errors import ConfigError
from ..core.events import ENVIRONMENTS
from ..core.keys import Keys
from ..core.metric_row import MetricRow, Value
from .console import printable
from .status import of_refused

_FIRST = (
    "accuracy", "precision", "recall", "f1", "roc_auc", "f1:macro", "roc_auc:macro", "log_loss", "mae", "rmse", "r2",
    "gap:positive_rate", "gap:recall", "gap:false_positive_rate", "gap:precision", "gap:accuracy", "gap:four_fifths",
    "gap:mae", "gap:rmse", "gap:mean_error",
)  # fmt: skip
_SHOWN = 5
_NAMED = 20  # of the metrics that are not shown
_PIPE, _BESIDE, _COLUMN = (
    160,
    48,
    20,
)  # characters: of a line, of what stands before the metrics, of a metric
_HEIGHT = 8
_WIDEST = 1000
_LARGE = 1e7


class Column(NamedTuple):
    """A metric as it is, corrected for labels that are to come, estimated without labels, or as it was in training."""

    name: str
    kind: str

    @property
    def title(self) -> str:
        """What stands above it."""
        return self.name if self.kind == "metrics" else self.kind

    @property
    def alone(self) -> str:
        """What stands above it where the metric itself is not beside it."""
        return self.name if self.kind == "metrics" else f"{self.name}, {self.kind}"

    def of(self, row: MetricRow) -> Value | None:
        """Return what a row says; None where it is not known."""
        found: Value | None = getattr(row, self.kind).get(self.name)
        return found


def run(
    config: Path | None,
    model: str,
    *,
    environment: str,
    group: str | None,
    metrics: list[str],
    last: int,
    window: bool,
    as_json: bool,
) -> int:
    """Print the rows of a model, of cohorts or of the window; 1 if there is none."""
    if last < 1:
        raise ConfigError(f"--last must be 1 or more, got {last}")
    if environment not in ENVIRONMENTS:
        raise ConfigError(f"--environment must be {', '.join(ENVIRONMENTS)}; got {environment!r}")
    settings = load(config)
    topic = settings.kafka.dead_letters
    client = connect(settings.redis.url)
    try:
        rows = metric_series.read(
            client,
            Keys(settings.tenant),
            model,
            environment=environment,
            group=None if group == "all" else group or "",
            window=window,
        )
        groups: list[str] = []
        if not rows and group and group != "all":
            of_all = metric_series.read(
                client, Keys(settings.tenant), model, environment=environment, window=window
            )
            groups = sorted({row.group for row in of_all if row.group})
        latest = metric_series.figures(client, Keys(settings.tenant))
        lost = latest.refused
    finally:
        client.close()
    by_group = {
        of: [row for row in rows if row.group == of][-last:]
        for of in dict.fromkeys(row.group for row in rows)
    }
    if as_json:
        figures = [msgspec.structs.asdict(row) for of in by_group.values() for row in of]
        for one in figures:
            del one["counts"]  # of no use to people
        print(msgspec.json.format(msgspec.json.encode(figures)).decode())
        return 0 if rows else 1
    if not rows:
        where = f" of {group}" if group and group != "all" else ""
        print(printable(f"no predictions{where} of {model} in {environment} have been counted yet"))
        if groups:
            print(f"groups that have been: {printable(', '.join(groups))}")
        if model not in latest.models:
            print(f"models that have been seen: {printable(', '.join(latest.models)) or 'none'}")
        lost[model] = lost.get(model, 0) + lost.get(UNKNOWN, 0)
        if lost[model]:
            print(f"perhaps they are among these: {of_refused(lost[model], topic)}")
        return 1
    console = Console()
    if not console.is_terminal:
        console.width = _PIPE  # nobody looks at where a file's lines end
    room = max(console.width - _BESIDE, _COLUMN) // _COLUMN
    _check(rows, metrics)
    tables = _windows(rows) if window else by_group
    kinds = {
        is_gap: _columns([row for row in rows if row.is_gap == is_gap], metrics)
        for is_gap in (False, True)
    }
    for of, found in tables.items():
        columns = kinds[found[0].is_gap]
        columns = columns if metrics else columns[: _shown(columns, room)]
        if metrics and not columns:
            continue  # what is asked for is of groups, or of gaps between them
        for some in _that_fit(console.width, found, columns) if columns else [columns]:
            _print(console, found, some, of or "all", draws=len(tables) == 1 and not window)
    shown = {
        column.name for of_kind in kinds.values() for column in of_kind[: _shown(of_kind, room)]
    }
    if shown:
        console.print(Text("beside each value: its interval at 95 %", style="dim"))
    if (others := _known(rows) - shown) and not metrics:
        console.print(Text(_not_shown(sorted(others)), style="dim"), soft_wrap=True)
    if lost.get(model):
        console.print(Text(of_refused(lost[model], topic)), soft_wrap=True)
    return 0


def _shown(columns: list[Column], room: int) -> int:
    """Return how many columns are shown: as many as fit, but the first metric with what is expected of it."""
    first = sum(column.name == columns[0].name for column in columns) if columns else 0
    return max(room, first)


def _windows(rows: list[MetricRow]) -> dict[str, list[MetricRow]]:
    """Return the rows of windows by what stands above them: groups, and what is between two of them, apart."""
    span = _span(rows[0])
    found = {
        span: [row for row in rows if not row.is_gap],
        f"{span}, between groups": [row for row in rows if row.is_gap],
    }
    return {title: of for title, of in found.items() if of}


def _not_shown(names: list[str]) -> str:
    """Return in words which metrics there are besides, and how to see them."""
    more = len(names) - _NAMED
    listed = ", ".join(printable(name) for name in names[:_NAMED])
    return f"not shown: {listed}{f' and {more} more' if more > 0 else ''}; --metric NAME shows one, --json all"


def _that_fit(width: int, rows: list[MetricRow], columns: list[Column]) -> Iterator[list[Column]]:
    """Yield the columns in parts that a line has room for: a table each, so that no number is cut."""
    part: list[Column] = []
    left = room = width - _BESIDE - (max(len(row.group) for row in rows) if rows[0].window else 0)
    for column in columns:
        wide = (
            max(
                len(column.title if part else column.alone),
                *(_cell(column.of(row)).cell_len for row in rows),
            )
            + 2
        )
        if part and wide > left:
            yield part
            part, left = [], room
        part.append(column)
        left -= wide
    yield part


def _span(row: MetricRow) -> str:
    """Return from when to when a row is about: whole days with the last one, else with the end."""
    begin, end = (datetime.fromisoformat(of) for of in (row.begin, row.end))
    if (begin - end) % timedelta(days=1) or begin.time() != time():
        return f"{begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"
    return f"{begin:%Y-%m-%d} to {end - timedelta(days=1):%Y-%m-%d}"


def _known(rows: list[MetricRow]) -> set[str]:
    return {
        name
        for row in rows
        for name in (*row.metrics, *row.corrected, *row.estimated, *row.training)
    }


def _check(rows: list[MetricRow], wanted: list[str]) -> None:
    """Raise ConfigError for a metric that none of the rows has."""
    known = _known(rows)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        there = ", ".join(sorted(known)) or "none yet"
        raise ConfigError(f"no row has {unknown[0]!r}; there are: {there}")


def _columns(rows: list[MetricRow], wanted: list[str]) -> list[Column]:
    """Return what to show: metrics, and beside each what it is expected to be, where some row knows."""
    known = _known(rows)
    found: list[Column] = []
    for name in [name for name in wanted or _FIRST if name in known]:
        found += [
            Column(name, kind)
            for kind in ("metrics", "corrected", "estimated", "training")
            if any(name in getattr(row, kind) for row in rows)
        ]
        if not wanted and len(found) >= _SHOWN:
            break
    return found


def _print(
    console: Console, rows: list[MetricRow], columns: list[Column], title: str, *, draws: bool
) -> None:
    table = Table(
        title=Text(printable(title)),
        title_justify="left",
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    first = "group" if rows[0].window else "begin"
    for name in (first, "predictions", "labels", ""):
        table.add_column(name, justify="left" if name in (first, "") else "right", no_wrap=True)
    for k, column in enumerate(columns):
        alone = k == 0 or columns[k - 1].name != column.name
        title = column.alone if alone else column.title
        table.add_column(Text(printable(title)), justify="right", no_wrap=True)
    is_daily = all("T00:00:00" in row.begin for row in rows)
    for row in rows:
        state = "closed" if row.closed else "open"
        begin = row.begin[:10] if is_daily else row.begin[:16].replace("T", " ")
        table.add_row(
            Text(printable(row.group or "all")) if row.window else begin, f"{row.predictions:,}",
            f"{row.labels:,} {row.label_coverage_ratio:4.0%}",
            f"{state}, {row.revised:,} later" if row.revised else state,
            *(_cell(column.of(row)) for column in columns),
        )  # fmt: skip
    _print_whole(console, table)
    if small := _too_small(rows, columns):
        console.print(Text(small, style="dim"))
    if positive := rows[-1].positive:
        console.print(
            Text(
                f"precision, recall, f1 and the score are about the class {printable(positive)}",
                style="dim",
            )
        )
    for column in columns if draws else ():
        found = [column.of(row) for row in rows]
        if column.kind == "metrics" and sum(one is not None for one in found) > 1:
            span = f"{rows[0].begin[:10]} to {rows[-1].begin[:10]}"
            console.print(_picture(found, printable(column.title), span))


def _print_whole(console: Console, table: Table) -> None:
    """Print a table whose lines go on in the next where the terminal is too narrow, so that nothing is cut."""
    width = console.width
    needed = console.measure(table, options=console.options.update_width(_WIDEST)).maximum
    console.width = max(width, needed)
    console.print(table)
    console.width = width


def _too_small(rows: list[MetricRow], columns: list[Column]) -> str:
    """Return of which of the metrics shown a group has too few events, and in how many rows; empty for none."""
    counted = "pairs of groups" if rows[0].window else "cohorts"
    found = []
    for name in dict.fromkeys(column.name for column in columns):
        of = sum(name in row.too_small for row in rows)
        if of:
            found.append(
                printable(name) + (f" ({of} of {len(rows)} {counted})" if of < len(rows) else "")
            )
    return f"too few to judge: {', '.join(found)}" if found else ""


def _cell(found: Value | None) -> Text:
    if found is None:
        return Text("unknown", style="dim")
    value, low, high, _ = found
    if low is None or high is None:
        return Text.assemble(_number(value), (" unknown", "dim"))
    upto = "-" if low >= 0 else " to "
    return Text.assemble(_number(value), (f" {_number(low)}{upto}{_number(high)}", "dim"))


def _number(value: float) -> str:
    """Return a number with four digits or three decimals, whole from 1,000 on.

    Examples
    --------
    >>> [_number(value) for value in (0.8, 1, 1.79, 25_312.4, 3.2e9)]
    ['0.800', '1.000', '1.790', '25,312', '3.2e+09']
    """
    if abs(value) >= _LARGE:
        return f"{value:.4g}"
    if abs(value) >= 999.95:
        return f"{value:,.0f}"
    return f"{value:#.4g}" if abs(value) >= 1 else f"{value:.3f}"


def _picture(found: list[Value | None], title: str, span: str) -> Text:
    """Return a metric by cohort: its interval as a column, a dot at its value; a gap where it is not known."""
    ends = [_ends(one) for one in found if one]
    low, high = min(one[0] for one in ends), max(one[1] for one in ends)
    step = (high - low) / _HEIGHT or 1.0
    picture = Text(f"\n{title}\n", style="bold")
    for line in range(_HEIGHT - 1, -1, -1):
        bottom, top = low + line * step, low + (line + 1) * step
        picture.append(f"{_number((bottom + top) / 2):>9} ", style="dim")
        for one in found:
            picture.append(*_mark(one, bottom, top, is_top=line == _HEIGHT - 1))
        picture.append("\n")
    picture.append(f"{'':>10}{span}", style="dim")
    return picture


def _ends(one: Value) -> tuple[float, float]:
    """Return an interval, or the value itself twice where it is not known."""
    value, low, high, _ = one
    return (value, value) if low is None or high is None else (low, high)


def _mark(one: Value | None, bottom: float, top: float, *, is_top: bool) -> tuple[str, str]:
    if one is None:
        return "  ", ""
    value, (low, high) = one[0], _ends(one)
    if bottom <= value < top or (is_top and value == top):
        return "● ", "not bold cyan"
    return ("│ ", "not bold dim") if low < top and high >= bottom else ("  ", "")
