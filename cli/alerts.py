"""`tocsin alerts tail`: print alerts as they come."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

from ..consumers.settings import load
from ..consumers.subscriber import AlertSubscriber
from ..core import alert as alerts
from ..core.alert import Alert
from ..core.errors import ConfigError


def run(
    config: Path | None,
    *,
    model: str | None,
    name: str | None,
    after: str | None,
    as_json: bool,
    count: int | None,
) -> int:
    """Print alerts until there were `count` of them, or Ctrl-C."""
    settings = load(config)
    if after is not None and not re.fullmatch(r"\d+(-\d+)?", after):
        raise ConfigError(f"--after must be a stream id such as 1767225600000-0, or 0, got {after}")
    begin = after if after is None or "-" in after else f"{after}-0"
    with AlertSubscriber(
        settings.redis.url, model=model, name=name, after=begin, tenant=settings.tenant
    ) as subscriber:
        signal.signal(signal.SIGTERM, lambda *_: subscriber.stop())
        for printed, alert in enumerate(subscriber, 1):
            print(alerts.encode(alert).decode() if as_json else line(alert), flush=True)
            if printed == count:
                break
        if subscriber.missed:
            print(f"{subscriber.missed} gaps: alerts were trimmed unread", file=sys.stderr)
    return 0


def line(alert: Alert) -> str:
    """Return an alert as one line."""
    when = f"{alert.resolved_at or alert.detected_at:%Y-%m-%d %H:%M:%S}"
    where = "" if alert.environment == "production" else f"@{alert.environment}"
    return f"{when}  {alert.state:<8}  {alert.severity:<8}  {alert.model}{where}  {alert.kind}: {alert.summary}"
