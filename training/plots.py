"""Plots of what monitors have seen, with what they claimed marked in it. Needs matplotlib, which nothing else here does."""

from __future__ import annotations

from typing import Any, Final

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
    series_of,
    shown_of,
)

_POINTS: Final = 1000  # of a line: as many parts, each with its least and its greatest value
_PARTS: Final = 60  # of a trend
_NAMED: Final = 8  # lines with a name; others are there, grey
_MARKED: Final = 12  # claims in a plot, the first
_FAR: Final = 20.0  # times the least value that the greatest is on a logarithmic axis
_BESIDE: Final = 0.03  # of the width, which a text takes
_RED: Final = "#c0392b"
_GREY: Final = "#b0b0b0"
_COLOURS: Final = tuple(
    f"C{k}" for k in (0, 1, 2, 3, 4, 5, 6, 8, 9)
)  # matplotlib's; the eighth is grey


def figure_of(monitor: BaseMonitor) -> Any:
    """Return a matplotlib figure of all that a monitor has seen, one plot above the other.

    Raises
    ------
    ImportError
        matplotlib is missing.
    ValueError
        There is nothing to plot.
    """
    try:
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("plot() found no matplotlib: pip install 'tocsin[plot]'") from error
    plots = [
        (one, panel, names)
        for one in leaves([monitor])
        for panel in shown_of(one).panels
        if (names := chosen(panel, series_of(one)))
    ]
    if not plots:
        if any(len(history_of(one)) for one in leaves([monitor])):
            raise ValueError(
                f"found no numbers in the history of {type(monitor).__name__}, so there is nothing to plot"
            )
        raise ValueError(
            f"found no history in {type(monitor).__name__}, expected one of batches or epochs: plot it after it was told of some"
        )
    figure = Figure(figsize=(7.0, 2.4 * len(plots)), layout="constrained")
    for axes, plot in zip(figure.subplots(len(plots), squeeze=False)[:, 0], plots, strict=True):
        _draw(axes, *plot)
    return figure


def _draw(axes: Any, monitor: BaseMonitor, panel: Panel, names: list[str]) -> None:
    series = series_of(monitor)
    by_epoch = is_by_epoch(monitor)
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
        else:
            axes.plot(*_thinned(x, y), linewidth=0.7, alpha=0.5, **style)
            if len(x) >= 2 * _PARTS:
                axes.plot(*_trend(x, y), linewidth=1.8, color=axes.lines[-1].get_color())
    _mark(axes, [(c.place.epoch if by_epoch else c.place.step, c) for c in claims_of(monitor)])
    axes.set_xlabel("epoch" if by_epoch else "batch")
    axes.set_ylabel(panel.unit)
    axes.xaxis.get_major_locator().set_params(integer=True)
    values = np.concatenate([series[name][1] for name in names])
    known = values[np.isfinite(values)]
    above = known[known > 0]  # a norm of zero is where its line ends
    if panel.log and (known >= 0).all() and len(above) and above.min() < above.max() / _FAR:
        axes.set_yscale("log")
    if names != [panel.names[0]]:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _mark(axes: Any, claims: list[tuple[int, TrainingClaim]]) -> None:
    """Draw a line for each claim, and its change on the left of it, or on the right where that is taken; once of the same in a row."""
    low, high = axes.get_xlim()
    before, side, said = -np.inf, "right", ""
    for at, claim in claims[:_MARKED]:
        axes.axvline(at, color=_RED, linewidth=0.8, linestyle="--")
        if claim.verdict.change == said:
            continue
        is_near = at - before < _BESIDE * (high - low)
        side = "left" if is_near and side == "right" else "right"
        before, said = at, claim.verdict.change
        axes.annotate(
            said, (at, 0.97), xycoords=axes.get_xaxis_transform(), rotation=90, va="top", ha=side, fontsize=7, color=_RED,
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
    """Return the medians of parts of a line."""
    parts = [
        (a.mean(), np.median(b[np.isfinite(b)]))
        for a, b in zip(np.array_split(x, _PARTS), np.array_split(y, _PARTS), strict=True)
        if np.isfinite(b).any()
    ]
    middle, level = np.array(parts).reshape(-1, 2).T
    return middle, level
