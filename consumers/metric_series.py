"""The series of metrics of a model as workers have written them: for the command line, a page, Prometheus."""

from __future__ import annotations

from typing import Any

import redis

from ..core.errors import TransportError
from ..core.keys import Keys
from ..core.metric_row import MetricRow, decode
from .redis_store import TRANSIENT


def read(client: redis.Redis, keys: Keys, model: str) -> list[MetricRow]:
    """Return all rows of a model, by environment, group and time; empty for a model that has none.

    A model whose events come in several partitions has rows of each.

    Raises
    ------
    TransportError
        Redis does not answer.
    """
    try:
        found: Any = client.hgetall(keys.series(model))
    except (*TRANSIENT, redis.ResponseError) as error:
        raise TransportError(f"Redis does not answer, is it running? {error}") from None
    rows = [decode(row) for _, row in sorted(found.items())]
    return sorted(rows, key=lambda row: (row.environment, row.group, row.begin))
