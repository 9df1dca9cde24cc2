"""What watches the streams of one model, as its settings say."""

from __future__ import annotations

from ..detectors.budget import Budget
from ..detectors.reference import Reference
from ..detectors.stream_monitor import StreamMonitor
from .bias import BUDGET_EVENTS
from .estimates import ESTIMATE
from .label_watch import LAG
from .model_settings import DriftSettings
from .rates import RATES


def stream_monitor(
    settings: DriftSettings,
    share: float,
    reference: Reference | None = None,
    sparse: frozenset[str] = frozenset(),
) -> StreamMonitor:
    """Return what watches streams with a share of the model's budget."""
    if settings.budget_days is not None:
        budget = Budget(days=settings.budget_days / share)
    else:
        budget = Budget((settings.budget_events or BUDGET_EVENTS) / share)
    return StreamMonitor(
        reference or Reference(settings.warmup_values),
        budget=budget,
        tolerance=settings.tolerance,
        rate_tolerance=settings.rate_tolerance,
        policy=settings.policy,
        learning=frozenset(["error"]) if settings.learning else frozenset(),
        season_seconds=settings.season_seconds,
        only_budget=settings.alarms == "budget",
        adwin_delta=settings.adwin_delta,
        ph_delta=settings.page_hinkley_delta,
        ph_threshold=settings.page_hinkley_threshold,
        extra=settings.extra_detectors,
        sparse=sparse,
        rising=frozenset(["error", *RATES, *sparse]) - {ESTIMATE, LAG},
        river=settings.engine == "river",
    )
