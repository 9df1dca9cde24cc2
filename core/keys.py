"""The names in Redis, in one place: what the worker writes and what subscribers read."""

from __future__ import annotations

from typing import Final

DEFAULT_TENANT: Final = "default"


class Keys:
    """The keys and channels of one tenant.

    All keys share one hash tag, so that a commit's script stays inside one slot of a Redis Cluster.

    Parameters
    ----------
    tenant
        Letters, digits, dots, dashes and underscores.
    """

    def __init__(self, tenant: str = DEFAULT_TENANT) -> None:
        self.prefix = f"tocsin:{{{tenant}}}"
        self.alerts = f"{self.prefix}:alerts"
        """Stream of all alerts."""
        self.tail = f"{self.prefix}:alerts:tail"
        """Id of the stream's newest entry."""
        self.metrics = f"{self.prefix}:metrics"
        """Hash: `model|partition` to the latest figures as JSON, `|partition` to refused events by model; of no known one by `""`."""
        self.channel = "tocsin:alerts" if tenant == DEFAULT_TENANT else f"tocsin:{tenant}:alerts"
        """Channel of all alerts; a model's own is this, a colon and the model."""

    def state(self, topic: str, partition: int) -> str:
        """Return the hash with a partition's state."""
        return f"{self.prefix}:state:{topic}:{partition}"

    def series(self, model: str) -> str:
        """Return the hash with a model's series: `partition|environment|begin of a cohort, or window|group` to a row as JSON."""
        return f"{self.prefix}:series:{model}"

    def cursor(self, subscriber: str) -> str:
        """Return the key that holds where a named subscriber has got to."""
        return f"{self.prefix}:cursor:{subscriber}"
