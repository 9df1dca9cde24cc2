"""One detector's update, whose failure is its own: it is set aside, and the others go on."""

from __future__ import annotations

import logging
from typing import Any

from ..core.verdict import Verdict
from ..detectors.base import last_words

_log = logging.getLogger(__name__)


def updated(name: str, detector: Any, batch: Any, broken: dict[str, str]) -> list[Verdict]:
    """Update a detector, unless it is among the `broken`, by name why; one that fails joins them, and what it claims is that."""
    if name in broken:
        return []
    try:
        found: list[Verdict] = detector.update(batch)
    except Exception as error:  # whatever a detector raises is ours to mend, not the stream's
        _log.exception("detector set aside", extra={"detector": name})
        broken[name] = type(error).__name__
        return [last_words(name, error, int(batch.offsets[-1]), int(batch.rows[-1]))]
    return found
