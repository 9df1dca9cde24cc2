"""`tocsin status`: what the workers know of each model, one line each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..consumers import metric_series
from ..consumers.redis_store import connect
from ..consumers.settings import load
from ..core.keys import Keys

_FIRST = (
    "predictions", "labels_joined", "labels_unmatched", "accuracy", "f1:macro", "mae", "open_incidents",
    "unusable_values", "unusable_vectors", "suspicious_ratio",
)  # fmt: skip
_IF_ANY = "detectors_set_aside"


def run(config: Path | None, *, as_json: bool) -> int:
    """Print the figures of each model in each environment."""
    settings = load(config)
    client = connect(settings.redis.url)
    try:
        found = metric_series.figures(client, Keys(settings.tenant))
    finally:
        client.close()
    models = {name.rpartition("|")[0]: of_model for name, of_model in found.items()}
    if as_json:
        print(json.dumps(models, indent=2))
        return 0
    if not models:
        print("no model has been seen yet: publish to the topic, and start tocsin worker")
    width = max(map(len, models), default=0)
    for name, figures in models.items():
        keys = [
            *(key for key in _FIRST if key in figures),
            *([_IF_ANY] if figures.get(_IF_ANY) else []),
        ]
        shown = (f"{key} {figure(figures[key])}" for key in keys)
        print(f"{name:<{width}}  {'  '.join(shown)}")
    return 0


def figure(value: float) -> str:
    """Return a count as 12,000 and a ratio or error with four digits, none as 1.2e+04."""
    if abs(value) >= 1000 or float(value).is_integer():
        return f"{value:,.0f}"
    return np.format_float_positional(value, precision=4, fractional=False, trim="-")
