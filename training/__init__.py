"""The training loop: monitors, checkpoints and watched data loaders."""

from .batch import BatchInfo
from .loader import WatchedLoader
from .monitor import BaseMonitor, Monitor

__all__ = ["BaseMonitor", "BatchInfo", "Monitor", "WatchedLoader"]
