"""`tocsin metrics`: performance by cohort and by group, as a table and as a picture."""

from __future__ import annotations

from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..consumers.metric_series import read
from ..consumers.redis_store import connect
from ..consumers.settings import load
from ..core.errors import ConfigError
from ..core.keys import Keys
from ..core.metric_row import MetricRow

_FIRST = (
    "accuracy", "precision", "recall", "f1", "roc_auc", "f1:macro", "roc_auc:macro", "log_loss", "mae", "rmse", "r2",
)  # fmt: skip
_SHOWN = 5
_HEIGHT = 8


def run(
    config: Path | None,
    model: str,
    *,
    environment: str,
    group: str | None,
    metrics: list[str],
    last: int,
    as_json: bool,
) -> int:
    """Print the rows of a model; 1 if there is none."""
    settings = load(config)
    client = connect(settings.redis.url)
    try:
        rows = read(client, Keys(settings.tenant), model)
    finally:
        client.close()
    rows = [row for row in rows if row.environment == environment]
    if group != "all":
        rows = [row for row in rows if row.group == (group or "")]
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(rows)).decode())
        return 0 if rows else 1
    if not rows:
        where = f" of {group}" if group else ""
        print(f"no predictions{where} of {model} in {environment} have been counted yet")
        return 1
    console = Console()
    names = _names(rows, metrics)
    for of in dict.fromkeys(row.group for row in rows):
        _print(console, [row for row in rows if row.group == of][-last:], names, of or "all")
    return 0


def _names(rows: list[MetricRow], wanted: list[str]) -> list[str]:
    """Return the metrics to show.

    Raises
    ------
    ConfigError
        None of the rows has one that is asked for.
    """
    known = dict.fromkeys(name for row in rows for name in row.metrics)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(
            f"no row has {unknown[0]!r}; there are: {', '.join(sorted(known)) or 'none yet'}"
        )
    return wanted or [name for name in _FIRST if name in known][:_SHOWN]


def _print(console: Console, rows: list[MetricRow], names: list[str], title: str) -> None:
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for name in ("begin", "predictions", "labels", "", *names):
        table.add_column(name, justify="left" if name in ("begin", "") else "right", no_wrap=True)
    for row in rows:
        state = "closed" if row.closed else "open"
        cells = [_cell(row, name) for name in names]
        table.add_row(
            row.begin.removesuffix(":00+00:00").replace("T", " "), f"{row.predictions:,}",
            f"{row.labels:,} {row.label_coverage_ratio:4.0%}",
            f"{state}, {row.revised:,} later" if row.revised else state, *cells,
        )  # fmt: skip
    console.print(table)
    for name in names:
        if sum(name in row.metrics for row in rows) > 1:
            console.print(_picture(rows, name))


def _cell(row: MetricRow, name: str) -> Text:
    found = row.metrics.get(name)
    if found is None:
        return Text("unknown", style="dim")
    value, low, high, _ = found
    return Text.assemble(_number(value), (f" {_number(low)}-{_number(high)}", "dim"))


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3f}"


def _picture(rows: list[MetricRow], name: str) -> Text:
    """Return a metric by cohort: its interval as a column, a dot at its value; a gap where it is not known."""
    found = [row.metrics.get(name) for row in rows]
    low = min(one[1] for one in found if one)
    high = max(one[2] for one in found if one)
    step = (high - low) / _HEIGHT or 1.0
    picture = Text(f"\n{name}\n", style="bold")
    for line in range(_HEIGHT - 1, -1, -1):
        bottom, top = low + line * step, low + (line + 1) * step
        picture.append(f"{_number((bottom + top) / 2):>9} ", style="dim")
        for one in found:
            picture.append(*_mark(one, bottom, top, is_top=line == _HEIGHT - 1))
        picture.append("\n")
    picture.append(f"{'':>10}{rows[0].begin[:10]} to {rows[-1].begin[:10]}", style="dim")
    return picture


def _mark(
    one: tuple[float, float, float, float] | None, bottom: float, top: float, *, is_top: bool
) -> tuple[str, str]:
    if one is None:
        return "  ", ""
    value, low, high, _ = one
    if bottom <= value < top or (is_top and value == top):
        return "● ", "not bold cyan"
    return ("│ ", "not bold dim") if low < top and high >= bottom else ("  ", "")
