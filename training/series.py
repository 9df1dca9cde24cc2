"""What monitors have seen, as series by name: one table says what of it plots, writers of scalars and the progress bar show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from math import isnan, nan
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from ..core.columns import Floats
from .finding import KINDS, detector_of
from .monitor import BaseMonitor

if TYPE_CHECKING:
    from .alerts import TrainingClaim

_LASTS: Final = 100
"""Batches after its latest claim for which a monitor's state is that claim: as long as an incident lasts (`resolve_steps`)."""


class Panel(NamedTuple):
    """One plot of series that have a unit in common.

    Parameters
    ----------
    unit
        What the numbers are.
    names
        Of the series, as patterns; what the first one names is told in a progress bar, of several the largest.
    log
        Whether they change by factors: the axis is logarithmic where they are positive and far from each other.
    share
        Whether they are shares, told in percent.
    counts
        Whether they are counts: an epoch that has none lacks nothing.
    changes
        What a claim may say that belongs here, whatever its subject is; else it belongs where the series of its subject is.
    """

    unit: str
    names: tuple[str, ...] = ("*",)
    log: bool = False
    share: bool = False
    counts: bool = False
    changes: tuple[str, ...] = ()


class Shown(NamedTuple):
    """What there is to be shown of a monitor.

    Parameters
    ----------
    name
        In tags and in the progress bar.
    panels
        Its plots. The series of a history of pairs has the first name of the first.
    detectors
        Whose claims are its own.
    """

    name: str
    panels: tuple[Panel, ...]
    detectors: tuple[str, ...] = ()


_RATES: Final = ("accuracy", "recall", "precision", "positive_rate")
_SHOWN: Final[Mapping[str, Shown]] = {
    "LossMonitor": Shown("loss", (Panel("loss", ("batch",), log=True),), ("loss_curve",)),
    "GradientMonitor": Shown(
        "gradients",
        (
            Panel("norm of all gradients", ("norm",), log=True),
            Panel("norm by layer", ("norm:*",), log=True, changes=("vanishing", "dead")),
            Panel("update by weights", ("update:*",), log=True, changes=("update",)),
        ),
        ("gradient_flow",),
    ),
    "PerformanceMonitor": Shown(
        "performance",
        (
            Panel("accuracy", ("accuracy", "*_accuracy")),
            Panel("F1, mean over classes", ("f1:macro", "*_f1:macro")),
            Panel("loss", ("loss", "*_loss"), log=True),
        ),
        ("epoch_accuracy",),
    ),
    "ActivationMonitor": Shown(
        "activations",
        (
            Panel("dead units", ("dead:*",), share=True, changes=("dead units",)),
            Panel("values at a bound", ("saturated:*",), share=True, changes=("saturation",)),
            Panel("shift from the reference", ("shift:*",), changes=("shift",)),
        ),
        ("activations", "activation_shift", "activation_mode"),
    ),
    "BiasMonitor": Shown(
        "bias",
        (
            Panel("gap of rates", tuple(f"gap:*{rate}:*" for rate in _RATES)),
            Panel("gap of losses", ("gap:loss:*", "gap:*_loss:*"), changes=("overfitting",)),
        ),
        ("group_gaps", "overfitting"),
    ),
    "CalibrationMonitor": Shown(
        "calibration",
        (
            Panel("expected calibration error", ("calibration_error", "*_calibration_error")),
            Panel("confidence less accuracy", ("overconfidence", "*_overconfidence")),
        ),
        ("calibration",),
    ),
    "DriftMonitor": Shown("drift", (Panel("value"),)),
    "FindingsMonitor": Shown(
        "data", (Panel("samples named", counts=True),), tuple(map(detector_of, KINDS))
    ),
}  # fmt: skip
"""By the name of the class: what a history has, as each monitor's page of docs says it."""


def shown_of(monitor: BaseMonitor) -> Shown:
    """Return what is shown of a monitor: of one of one's own, all of its `history` in one plot."""
    for kind in type(monitor).__mro__:
        if kind.__name__ in _SHOWN:
            return _SHOWN[kind.__name__]
    name = type(monitor).__name__.removesuffix("Monitor") or "monitor"
    return Shown(name[0].lower() + name[1:], (Panel("value", ("value", "*")),))


def leaves(monitors: Iterable[BaseMonitor]) -> Iterator[BaseMonitor]:
    """Yield monitors, and those within a `Monitors` in its place."""
    for monitor in monitors:
        inner = getattr(monitor, "monitors", None)
        if isinstance(inner, list):
            yield from leaves(inner)
        else:
            yield monitor


def history_of(monitor: BaseMonitor) -> Sequence[Any]:
    """Return (step, value) pairs, or a dictionary of each epoch; empty where a monitor has none."""
    return getattr(monitor, "history", ())


def is_by_epoch(monitor: BaseMonitor) -> bool:
    """Return whether a monitor's history is of epochs, not of batches."""
    history = history_of(monitor)
    return len(history) > 0 and isinstance(history[0], Mapping)


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an epoch, by name."""
    return {n: float(v) for n, v in row.items() if n != "epoch" and isinstance(v, Real)}


def curves_of(monitor: BaseMonitor) -> dict[str, Sequence[tuple[float, float]]]:
    """Return (batch or epoch, value) pairs by name."""
    history = history_of(monitor)
    if not is_by_epoch(monitor):
        first = shown_of(monitor).panels[0].names[0]
        return {first: history, **getattr(monitor, "by_layer", {})} if len(history) else {}
    found: dict[str, list[tuple[float, float]]] = {}
    for place, row in enumerate(history):
        for name, value in numbers_of(row).items():
            found.setdefault(name, []).append((float(row.get("epoch", place)), value))
    return dict(found)


def places_of(monitor: BaseMonitor) -> Floats:
    """Return the (n,) batches or epochs that a history is of, those without a number too."""
    history = history_of(monitor)
    if is_by_epoch(monitor):
        return np.array([row.get("epoch", k) for k, row in enumerate(history)], np.float64)
    return np.array([step for step, _ in history], np.float64)


class News:
    """What is new in the histories of monitors, each number told once.

    Parameters
    ----------
    monitors
        Those within a `Monitors` are told in its place; of several of one name the second one's tags begin with `loss_2/`.
    """

    def __init__(self, monitors: Iterable[BaseMonitor]) -> None:
        self._told: dict[str, int] = {}  # by tag its latest batch, or by prefix how many epochs
        self._prefixes: list[tuple[str, BaseMonitor]] = []
        taken: dict[str, int] = {}
        for monitor in leaves(monitors):
            name = shown_of(monitor).name
            taken[name] = taken.get(name, 0) + 1
            more = f"_{taken[name]}" if taken[name] > 1 else ""
            self._prefixes.append((f"{name}{more}", monitor))

    def take(self, step: int) -> Iterator[tuple[str, int, float]]:
        """Yield tag, batch of the run and value of what has come since; of an epoch the batch is `step`."""
        for prefix, monitor in self._prefixes:
            if is_by_epoch(monitor):
                history = history_of(monitor)
                for row in history[self._told.get(prefix, 0) :]:
                    for name, value in numbers_of(row).items():
                        yield f"{prefix}/{name}", step, value
                self._told[prefix] = len(history)
                continue
            for name, curve in curves_of(monitor).items():
                yield from self._new_of(f"{prefix}/{name}", curve)

    def _new_of(
        self, tag: str, curve: Sequence[tuple[float, float]]
    ) -> Iterator[tuple[str, int, float]]:
        # By the batch, not by the count: a long curve is thinned, but for its latest points.
        latest, new = self._told.get(tag, -1), list[tuple[int, float]]()
        for step, value in reversed(getattr(curve, "latest", curve)):
            if step <= latest:
                break
            new.append((int(step), value))
        for step, value in reversed(new):
            self._told[tag] = step
            yield tag, step, value


def series_of(monitor: BaseMonitor) -> dict[str, tuple[Floats, Floats]]:
    """Return (n,) batches or epochs and (n,) values by name, NaN for values that are infinite."""
    found: dict[str, tuple[Floats, Floats]] = {}
    for name, pairs in curves_of(monitor).items():
        x, y = np.array(pairs, np.float64).T
        found[name] = x, np.where(np.isfinite(y), y, np.nan)
    return found


def chosen(panel: Panel, names: Iterable[str]) -> list[str]:
    """Return the names that belong in a panel, in the order of its patterns."""
    rest = list(names)
    found = [n for pattern in panel.names for n in rest if fnmatchcase(n, pattern)]
    return list(dict.fromkeys(found))


def headline(monitor: BaseMonitor, change: str | None = None) -> str | None:
    """Return the latest number in a few words, of what was claimed where that has one of its own; None if there is none."""
    history, shown = history_of(monitor), shown_of(monitor)
    if not len(history):
        return None
    if not is_by_epoch(monitor):
        return f"{shown.name} {history[-1][1]:.4g}"
    numbers = numbers_of(history[-1])
    for panel in shown.panels:
        pattern = panel.names[0]
        if change in numbers:  # a finding is called as what is claimed of it
            return f"{panel.unit} {numbers[change]:.4g}"
        if pattern in numbers:
            return f"{pattern} {numbers[pattern]:.4g}"
        values = [value for name, value in numbers.items() if fnmatchcase(name, pattern)]
        if values:
            most = max((abs(v) for v in values if not isnan(v)), default=nan)
            number = f"{100 * most:.3g} %" if panel.share else f"{most:.4g}"
            return f"{panel.unit} up to {number}"
    return None


def claims_of(monitor: BaseMonitor) -> list[TrainingClaim]:
    """Return what a monitor has claimed, or a `DriftMonitor` of its history; the latest 1,000 of its run's."""
    if monitor.alerts is None:
        return []
    shown = shown_of(monitor)
    return [
        claim
        for claim in monitor.alerts.claims
        if claim.verdict.detector in shown.detectors
        or (claim.group and claim.group == shown.name)
        or (claim.group and claim.verdict.subject.startswith(f"{shown.name}/"))
    ]


def state_of(monitor: BaseMonitor, step: int) -> str | None:
    """Return the change that a monitor claimed last, within 100 batches before `step`; None if it claimed nothing."""
    claims = claims_of(monitor)
    if not claims or step - claims[-1].place.step > _LASTS:
        return None
    return claims[-1].verdict.change
