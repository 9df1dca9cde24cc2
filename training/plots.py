"""Plots of what monitors have seen, with what they claimed marked in it. Needs matplotlib, which nothing else here does."""

from __future__ import annotations

from math import ceil
from textwrap import wrap
from typing import Any, Final, NamedTuple

import numpy as np

from ..core.columns import Floats
from .alerts import TrainingClaim
from .monitor import BaseMonitor
from .series import (
    Panel,
    chosen,
    claims_of,
    history_of,
    is_by_epoch,
    leaves,
    places_of,
    series_of,
    shown_of,
)

_POINTS: Final = 1000  # of a line: as many parts, each with its least and its greatest value
_PARTS: Final = 60  # of a trend
_NAMED: Final = 8  # lines with a name; others are there, grey
_MARKED: Final = 12  # claims in a plot, the first
_FAR: Final = 20.0  # times the least value that the greatest is on a logarithmic axis
_COLUMN: Final = 6  # plots in one column; of more there are two columns
_SIZE: Final = (7.0, 2.4)  # of a plot, in inches
_NEAR: Final = 0.03  # of the width: claims so near have one text
_LETTER: Final = (
    0.012  # of the width, about; a text that would begin in another one is a row higher
)
_LONG: Final = 60  # letters of a text
_ROW: Final = 9.0  # points
_SAID: Final = 0.15  # of the width, that has room for what the grey is
_MARGIN: Final = 0.05
_RED: Final = "#c0392b"
_GREY: Final = "#b0b0b0"
_SHADE: Final = "#e8e8e8"
_COLOURS: Final = tuple(
    f"C{k}" for k in (0, 1, 2, 3, 4, 5, 6, 8, 9)
)  # matplotlib's; the eighth is grey


class _Plot(NamedTuple):
    """A panel of a monitor, the series in it, and the claims that belong there."""

    monitor: BaseMonitor
    panel: Panel
    series: dict[str, tuple[Floats, Floats]]
    claims: list[TrainingClaim]


def figure_of(monitor: BaseMonitor) -> Any:
    """Return a matplotlib figure of all that a monitor has seen; where that is nothing, it says so.

    Raises
    ------
    ImportError
        matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("plot() found no matplotlib: pip install 'tocsin[plot]'") from error
    of = list(leaves([monitor]))
    plots = [plot for one in of for plot in _plots(one)]
    columns = 1 if len(plots) <= _COLUMN else 2
    rows = max(1, ceil(len(plots) / columns))
    figure = Figure(figsize=(_SIZE[0] * columns, _SIZE[1] * rows), layout="constrained")
    if not plots:
        figure.text(0.5, 0.5, _nothing(monitor), ha="center", va="center", color="#555555")
        return figure
    grid = list(figure.subplots(rows, columns, squeeze=False).T.flat)  # one column, then the other
    for axes in grid[len(plots) :]:
        axes.remove()
    ends = {by: _ends([one for one in of if is_by_epoch(one) == by]) for by in (False, True)}
    for axes, plot in zip(grid, plots, strict=False):
        rows = _draw(axes, plot, *ends[is_by_epoch(plot.monitor)])
        if len(of) > 1:
            title = type(plot.monitor).__name__
            axes.set_title(title, loc="left", fontsize=9, fontweight="bold", pad=4 + _ROW * rows)
    return figure


def _nothing(monitor: BaseMonitor) -> str:
    if shown_of(monitor).panels[0].counts and len(history_of(monitor)):
        return "nothing was found"
    has_any = any(hasattr(one, "history") for one in leaves([monitor]))
    return "nothing to show yet" if has_any else "nothing to show: there is no history"


def _plots(monitor: BaseMonitor) -> list[_Plot]:
    """Return the plots of a monitor that have numbers, or claims that no other has."""
    series = series_of(monitor)
    panels = [(panel, chosen(panel, series)) for panel in shown_of(monitor).panels]
    panels = [(panel, names) for panel, names in panels if names]
    known = [one for one in panels if any(np.isfinite(series[n][1]).any() for n in one[1])]
    claims = claims_of(monitor)
    plots = [
        _Plot(monitor, panel, {name: series[name] for name in names}, [])
        for panel, names in known or (panels[:1] if claims else [])
    ]
    for claim in claims if plots else ():
        # Of drift the subject is a tag, as `loss/batch`.
        subject = claim.verdict.subject.removeprefix(f"{shown_of(monitor).name}/")
        change = claim.verdict.change
        its = [one for one in plots if change in one.panel.changes or subject in one.series]
        (its or plots)[0].claims.append(claim)
    return plots


def _ends(monitors: list[BaseMonitor]) -> tuple[float, float]:
    """Return the first and the last batch or epoch that there is anything of, and a little beside them."""
    found = [
        x for one in monitors for x in (places_of(one), *(x for x, _ in series_of(one).values()))
    ]
    places = np.concatenate([np.empty(0), *found])
    if not len(places):
        return 0.0, 1.0
    low, high = float(places.min()), float(places.max())
    beside = _MARGIN * (high - low) or 0.5
    return low - beside, high + beside


def _draw(axes: Any, plot: _Plot, low: float, high: float) -> int:
    """Draw a plot from `low` to `high`; return how many rows of text are above it."""
    panel, series = plot.panel, plot.series
    names = list(series)
    by_epoch = is_by_epoch(plot.monitor)
    axes.set_xlim(low, high)
    # Of many lines those that are highest at the end are named.
    last = sorted(names, key=lambda name: -np.nan_to_num(np.abs(series[name][1][-1])))
    named = set(names if len(names) <= _NAMED else last[:_NAMED])
    colours = dict(zip([name for name in names if name in named], _COLOURS, strict=False))
    for name in sorted(names, key=lambda one: one in named):
        x, y = series[name]
        style: dict[str, Any] = {"color": _GREY, "zorder": 1}
        if name in named:
            style = {"label": name, "color": colours[name]}
        if by_epoch or len(x) == 1:
            axes.plot(x, y, marker="o", markersize=3, linewidth=1.2, **style)
        elif len(x) < 2 * _PARTS:
            axes.plot(x, y, linewidth=1.2, **style)
        else:
            axes.plot(*_thinned(x, y), linewidth=0.7, alpha=0.5, **style)
            axes.plot(*_trend(x, y), linewidth=1.8, color=axes.lines[-1].get_color())
    _shade(axes, plot)
    claims = [(c.place.epoch if by_epoch else c.place.step, c.verdict.change) for c in plot.claims]
    rows = _mark(axes, claims, low, high)
    axes.set_xlabel("epoch" if by_epoch else "batch")
    axes.set_ylabel(panel.unit)
    axes.xaxis.get_major_locator().set_params(integer=True)
    values = np.concatenate([y for _, y in series.values()])
    known = values[np.isfinite(values)]
    above = known[known > 0]  # a norm of zero is where its line ends
    if not len(known):
        axes.set_yticks([])
    elif panel.log and (known >= 0).all() and len(above) and above.min() < above.max() / _FAR:
        axes.set_yscale("log")
    elif not known.any():
        axes.set_ylim(-_MARGIN, 1 + _MARGIN)
    if panel.counts:
        axes.yaxis.get_major_locator().set_params(integer=True)
    if names != [panel.names[0]]:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return rows


def _mark(axes: Any, claims: list[tuple[int, str]], low: float, high: float) -> int:
    """Draw a line for each claim, and above the plot what changed, once of the same in a row; return how many rows of text that takes."""
    for at in {at for at, _ in claims[:_MARKED]}:
        axes.axvline(at, color=_RED, linewidth=0.8, linestyle="--")
    taken: list[float] = []  # of each row, up to where
    for at, said in _texts(claims[:_MARKED], _NEAR * (high - low)):
        begin = (at - low) / (high - low)
        width = _LETTER * len(said)
        is_left = begin + width <= 1
        begin = begin if is_left else begin - width
        row = next((k for k, end in enumerate(taken) if end <= begin), len(taken))
        taken[row : row + 1] = [begin + width + _LETTER]
        axes.annotate(
            said, (at, 1.0), (0, 2 + _ROW * row), xycoords=axes.get_xaxis_transform(), textcoords="offset points",
            ha="left" if is_left else "right", va="bottom", fontsize=7, color=_RED,
        )  # fmt: skip
    return len(taken)


def _texts(claims: list[tuple[int, str]], near: float) -> list[tuple[int, str]]:
    """Return what changed and where: changes near each other in one text, or in several where that is long."""
    groups: list[tuple[int, list[str]]] = []
    for at, change in claims:
        if groups and at - groups[-1][0] <= near:
            if change not in groups[-1][1]:
                groups[-1][1].append(change)
        elif not groups or groups[-1][1] != [change]:
            groups.append((at, [change]))
    return [(at, line) for at, changes in groups for line in reversed(_lines(changes))]


def _lines(changes: list[str]) -> list[str]:
    """Return changes in lines, none of them broken."""
    whole = "; ".join(change.replace(" ", "\N{NO-BREAK SPACE}") for change in changes)
    lines = wrap(whole, _LONG, break_on_hyphens=False)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _shade(axes: Any, plot: _Plot) -> None:
    """Shade where a plot has no finite value; epochs in which nothing was found lack none."""
    places = np.unique(places_of(plot.monitor))
    if plot.panel.counts or not len(places):
        return
    known = np.concatenate([x[np.isfinite(y)] for x, y in plot.series.values()])
    if is_by_epoch(plot.monitor):  # what is compared with an epoch before begins later
        told = places[places < known.min()] if len(known) else known
    else:  # what is looked at in one step of ten lacks nothing between
        told = [step for step, value in history_of(plot.monitor) if np.isfinite(value)]
    gone = ~np.isin(places, told) & ~np.isin(places, known)
    half = np.median(np.diff(places)) / 2 if len(places) > 1 else 0.5
    edges = np.concatenate(
        [[places[0] - half], (places[1:] + places[:-1]) / 2, [places[-1] + half]]
    )
    first = np.flatnonzero(gone & ~np.concatenate([[False], gone[:-1]]))
    last = np.flatnonzero(gone & ~np.concatenate([gone[1:], [False]]))
    parts = [(edges[i], edges[k + 1] - edges[i]) for i, k in zip(first, last, strict=True)]
    axes.broken_barh(parts, (0, 1), transform=axes.get_xaxis_transform(), color=_SHADE, zorder=0)
    low, high = axes.get_xlim()
    for begin, width in parts:
        if width > _SAID * (high - low):
            axes.text(
                begin + width / 2, 0.5, "no finite value", transform=axes.get_xaxis_transform(), ha="center", fontsize=7, color="#555555",
            )  # fmt: skip


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return a line that looks the same: of each of 1,000 parts the least and the greatest value, so that no spike is lost."""
    if len(x) <= 2 * _POINTS:
        return x, y
    kept: list[int] = []
    for rows in np.array_split(np.arange(len(x)), _POINTS):
        part = y[rows]
        if np.isnan(part).all():
            kept.append(int(rows[0]))
        else:
            kept += sorted({int(rows[np.nanargmin(part)]), int(rows[np.nanargmax(part)])})
    return x[kept], y[kept]


def _trend(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return the medians of parts of a line, NaN of those without a finite value."""
    parts = [
        (a.mean(), np.median(b[np.isfinite(b)]) if np.isfinite(b).any() else np.nan)
        for a, b in zip(np.array_split(x, _PARTS), np.array_split(y, _PARTS), strict=True)
    ]
    middle, level = np.array(parts).T
    return middle, level
