"""`tocsin status`: what the workers know of each model, one line each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from ..consumers import metric_series
from ..consumers.redis_store import connect
from ..consumers.refusals import UNKNOWN
from ..consumers.settings import load
from ..core.keys import Keys

_FIRST = ("predictions", "labels_joined", "labels_unmatched")
_OF_LATEST = ("accuracy", "f1:macro", "mae")
"""Of the latest pairs of prediction and label only, see `performance_window`."""
_LAST = (
    "open_incidents", "unusable_values", "unusable_vectors", "unusable_segments", "suspicious_ratio",
)  # fmt: skip
REFUSED: Final = "events_refused"
_IF_ANY = ("detectors_set_aside", REFUSED)


def run(config: Path | None, *, as_json: bool) -> int:
    """Print the figures of each model in each environment."""
    settings = load(config)
    client = connect(settings.redis.url)
    try:
        found, refused = metric_series.figures(client, Keys(settings.tenant))
    finally:
        client.close()
    models = {name.rpartition("|")[0]: of_model for name, of_model in found.items()}
    for model, count in refused.items():
        models.setdefault(model, {})[REFUSED] = count
    if as_json:
        print(json.dumps(models, indent=2))
        return 0
    if not found:
        print("no model has been seen yet: publish to the topic, and start tocsin worker")
    width = max(map(len, models), default=0)
    for name, figures in models.items():
        if name != UNKNOWN:
            print(f"{name:<{width}}  {line(figures)}")
    if refused:
        print(of_refused(sum(refused.values()), settings.kafka.dead_letters))
    return 0


def of_refused(events: int, topic: str) -> str:
    """Return in words that events were refused, and where they are.

    Examples
    --------
    >>> of_refused(3, "tocsin.dead-letters")
    '3 events were refused and count for nothing: each is in the topic tocsin.dead-letters, its header tocsin_error says why'
    """
    were, each = ("event was", "it") if events == 1 else ("events were", "each")
    counts = "counts" if events == 1 else "count"
    return (
        f"{events:,} {were} refused and {counts} for nothing: {each} is in the topic {topic}, its header tocsin_error "
        "says why"
    )


def line(figures: Mapping[str, float]) -> str:
    """Return the figures of a model that people look at first.

    Examples
    --------
    >>> line({"predictions": 12000, "labels_joined": 1500, "accuracy": 0.92, "pairs": 1000, "open_incidents": 1})
    'predictions 12,000  labels_joined 1,500  accuracy 0.92 (latest 1,000 pairs)  open_incidents 1'
    """
    parts = _shown(_FIRST, figures)
    if of_latest := _shown(_OF_LATEST, figures):
        pairs = figures["pairs"]
        latest = f"latest {figure(pairs)} pair{'' if pairs == 1 else 's'}"
        parts.append(f"{', '.join(of_latest)} ({latest})")
    parts += _shown(_LAST, figures)
    parts += _shown([name for name in _IF_ANY if figures.get(name)], figures)
    return "  ".join(parts)


def _shown(names: Iterable[str], figures: Mapping[str, float]) -> list[str]:
    return [f"{name} {figure(figures[name])}" for name in names if name in figures]


def figure(value: float) -> str:
    """Return a count as 12,000 and a ratio or error with four digits, none as 1.2e+04."""
    if abs(value) >= 1000 or float(value).is_integer():
        return f"{value:,.0f}"
    return np.format_float_positional(value, precision=4, fractional=False, trim="-")
