"""`tocsin config check`."""

from __future__ import annotations

from pathlib import Path

from ..consumers import (
    trained_estimates,
    trained_model,
    trained_performance,
    trained_vectors,
    training_reference,
    training_rows,
)
from ..consumers.attack import check_references
from ..consumers.settings import Settings, load


def load_checked(file: Path | None) -> Settings:
    """Read the settings and every file that they name."""
    settings = load(file)
    models = (settings.defaults, *settings.models.values())
    check_references(m.attack for m in models)
    training_reference.check(m.drift for m in models)
    training_rows.check(m.drift for m in models)
    for model in models:
        trained_estimates.given(model)
        if (reference := model.drift.reference) is not None:
            trained_model.read(reference)
            trained_performance.read(reference)
            trained_vectors.read(reference)
    return settings


def run(file: Path | None) -> int:
    """Check, and say how models are watched."""
    settings = load_checked(file)
    named = ", ".join(settings.models) or "none named; all that show up are watched with defaults"
    print(f"ok: {settings.kafka.topic} at {settings.kafka.bootstrap}; models: {named}")
    return 0
