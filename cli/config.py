"""`tocsin config check`."""

from __future__ import annotations

from pathlib import Path

from ..consumers.attack import check_references
from ..consumers.settings import load


def run(file: Path | None) -> int:
    """Check, and say how models are watched."""
    settings = load(file)
    check_references(m.attack for m in (settings.defaults, *settings.models.values()))
    named = ", ".join(settings.models) or "none named; all that show up are watched with defaults"
    print(f"ok: {settings.kafka.topic} at {settings.kafka.bootstrap}; models: {named}")
    return 0
